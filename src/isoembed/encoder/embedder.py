"""A text embedding model as one value: opened, used, saved.

Shape legend: N texts, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from isoembed.core import InputError, checked, expanded, fingerprint
from isoembed.data.prompts import prompt_tokens
from isoembed.data.store import tokenizer_hash
from isoembed.encoder.computing import computing_hash
from isoembed.encoder.embed import Progress, embed_ids, tokenize
from isoembed.encoder.encoder import Encoder, base_of
from isoembed.encoder.export import MARKER, export
from isoembed.encoder.exported import MODULES, load_exported
from isoembed.encoder.load import load_model, weights_hash
from isoembed.encoder.precision import AskedPrecision, device_called, fastest
from isoembed.encoder.shapes import spec_of
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.recipe import Precision, Recipe
from isoembed.records import RunRecord

#: README.md of a model that is saved without another
CARD = "A sentence-transformers model, saved by isoembed.\n"
#: tokens of a text that are read by a base model that nobody has trained for embeddings
UNTRAINED_CONTEXT = 512


@dataclass(frozen=True, repr=False)
class Embedder:
    """An encoder with its pooling and prompts, its tokenizer, how many tokens of a text are read, and the precision in
    which its products run.

    `Embedder.load("out").embed(["a text"])` gives what sentence-transformers gives for the folder.
    """

    encoder: Encoder
    tokenizer: PreTrainedTokenizerBase
    context_tokens: int
    precision: Precision = "fp32"

    def __repr__(self) -> str:
        config: Any = base_of(self.encoder.model).config
        return f"Embedder({config.model_type}, {self.encoder.pooling} pooling, {self.context_tokens} tokens of a text)"

    @classmethod
    @checked
    def load(cls, model: str | Path, *, device: str | None = None) -> Embedder:
        """The embedding model in a sentence-transformers folder; of a base model (folder, hub id, `nano/NAME`) the mean
        of its last hidden states, untrained.

        device: where it runs; default: the GPU where there is one.

        Reads safetensors only and runs no code of the folder's.  Raises InputError where there is no such model.
        """
        folder = expanded(model)
        if device is not None:
            device_called(device)
        exported = any((folder / name).is_file() for name in (MODULES, MARKER))  # whole, or refused
        if exported or (folder.is_dir() and not (folder / "config.json").is_file()):
            return cls(*load_exported(folder, device=device))
        source = str(model)
        base, tokenizer = load_model(source), load_tokenizer(source)
        encoder = Encoder(base, "mean").to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        return cls(encoder, tokenizer, min(UNTRAINED_CONTEXT, spec_of(base, source, source).context))

    def in_precision(self, asked: AskedPrecision) -> Embedder:
        """The same with products in this precision; `auto`: the faster one where it lies."""
        config: Any = base_of(self.encoder.model).config
        device = next(self.encoder.parameters()).device
        return replace(self, precision=fastest(device, config.hidden_size) if asked == "auto" else asked)

    @cached_property
    def dimensions(self) -> int:
        """D; counted on a vector: where a model projects its output (OPT), its configuration says something else."""
        return embed_ids(self.encoder, [np.zeros(1, np.int64)]).shape[1]

    @property
    def identity(self) -> str:
        """16 hex digits over what its embeddings depend on, in fp32: parameters, configuration, projection, tokenizer,
        how much of a text is read, pooling, prompts."""
        encoder = self.encoder
        model: Any = base_of(encoder.model)
        return fingerprint(
            {
                "weights": weights_hash(model),
                "computing": computing_hash(model.config),
                "projection": None if encoder.dense is None else weights_hash(encoder.dense),
                "tokenizer": tokenizer_hash(self.tokenizer),
                "context_tokens": self.context_tokens,
                "pooling": encoder.pooling,
                "prompts": encoder.prompts.model_dump(),
            }
        )

    @checked
    def embed(
        self,
        texts: Sequence[str],
        side: Literal["query", "document"] = "document",
        *,
        batch_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Unit-length embeddings (N, D) of `texts`, float32, in their order, computed where the encoder is.

        side: `query` puts the prompt for queries in front, `document` that for all other texts; without prompts they
        are the same.
        batch_tokens: padded tokens at once; default: as suits the device.

        A text longer than `context_tokens` is cut; one without tokens gets the zero vector, similar to nothing.
        """
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"`batch_tokens` must be at least 1; got {batch_tokens}. Leave it out.")
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        prompts = self.encoder.prompts
        prompt = prompts.query if side == "query" else prompts.positive
        ids = tokenize(self.tokenizer, [prompt + text for text in texts], context_tokens=self.context_tokens)
        counted = prompt_tokens(self.tokenizer, prompt)
        embedding_ND = embed_ids(
            self.encoder,
            ids,
            prompt=counted,
            batch_tokens=batch_tokens,
            bf16=self.precision == "bf16",
            progress=progress,
        )
        return embedding_ND.numpy()

    @checked
    def save(
        self,
        folder: str | Path,
        *,
        card: str = CARD,
        record: RunRecord | None = None,
        recipe: Recipe | None = None,
        keep_adapter: bool = False,
        afresh: bool = False,
    ) -> None:
        """Make `folder` a sentence-transformers model; see `isoembed.encoder.export.export`.

        Raises InputError where files are in the way or there is no adapter to keep, ExportError where what was written
        is not the same model when it is read back.
        """
        export(
            self,
            expanded(folder),
            card=card,
            record=record,
            recipe=recipe,
            keep_adapter=keep_adapter,
            afresh=afresh,
        )

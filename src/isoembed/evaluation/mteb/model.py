"""An exported folder as the library sees a model: its prompts, and a revision that is its contents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mteb.models import ModelMeta, SentenceTransformerEncoderWrapper
from mteb.models.abs_encoder import AbsEncoder

from isoembed.core import InputError, fingerprint
from isoembed.encoder.computing import computing_hash
from isoembed.encoder.exported import open_sentence_transformer
from isoembed.encoder.load import weights_hash
from isoembed.evaluation.mteb.library import quiet
from isoembed.evaluation.systems import EmbeddingSystem


def open_model(folder: Path, prompts: Mapping[str, str] | None = None) -> SentenceTransformerEncoderWrapper:
    """The model in `folder` under the name `isoembed/FOLDER`.

    prompts: what is put before a text, by the library's keys: `query` or `document`, a task type, a task's name, or one
    of these two and `-query` or `-document`.  Default: the prompts saved with the model.

    Raises InputError where the folder is no sentence-transformers model, or a prompt's key is none of these.
    """
    prompts = dict(prompts or {})
    with quiet():
        try:
            AbsEncoder.validate_task_to_prompt_name(prompts, raise_for_invalid_keys=True)
        except KeyError:
            raise InputError(
                "`prompt` must name query, document, a task type or a task of the mteb library, as query='query: '; "
                f"got {', '.join(prompts)}. Rename it."
            ) from None
        model = open_sentence_transformer(folder)
        wrapped = SentenceTransformerEncoderWrapper(model, model_prompts=prompts or None)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", folder.resolve().name)
    meta = wrapped.mteb_model_meta.model_copy(
        update={"name": f"isoembed/{name}", "revision": revision_of(model, prompts), "open_weights": None}
    )
    wrapped.mteb_model_meta = meta
    return wrapped


def revision_of(model: Any, prompts: Mapping[str, str]) -> str:
    """16 hex digits over all that the embeddings depend on: weights, tokenizer, longest text, attention, pooling,
    prompts.

    Two checkpoints of one run differ in it, and so do two poolings of one checkpoint.
    """
    tokenizer = model.tokenizer.backend_tokenizer
    return fingerprint(
        {
            "weights": weights_hash(model),
            "tokenizer": fingerprint(tokenizer.to_str()),
            "context_tokens": model.max_seq_length,
            "modules": [type(module).__name__ for module in model],
            "pooling": model[1].pooling_mode,
            "prompt_pooled": model[1].include_prompt,
            "computing": computing_hash(model[0].auto_model.config),
            "prompts": dict(prompts or model.prompts),
        }
    )


class SystemEncoder(AbsEncoder):
    """One of our systems as the library sees an encoder.  It has no name: what it scores is not to be kept."""

    mteb_model_meta: ModelMeta

    def __init__(self, system: EmbeddingSystem) -> None:
        self.system = system
        self.mteb_model_meta = ModelMeta.create_empty()

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        """Unit-length embeddings (N, D) of the texts in the library's batches, without prompts."""
        return self.system.embed([text for batch in inputs for text in batch["text"]])

"""Compare a model that was written with the one in memory: tensors, token ids, vectors.

Shape legend: N texts, D embedding width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from isoembed.core import InputError
from isoembed.data.prompts import prompt_tokens
from isoembed.encoder.embed import tokenize

if TYPE_CHECKING:
    from isoembed.encoder.embedder import Embedder, Side

#: what is compared: short, of several scripts, with spaces at odd places; a long one is put beside them
TEXTS = ("", "a", "What is 12.5% of 80?", " Füße, 東京 und\n\tkein Ende… 🙂 ", "def f(x):\n    return x[-1]")
_LONG = "the quick brown fox jumps over the lazy dog, "
#: tokens of the longest text whose vector is compared; ids are compared up to the context
_VECTOR_TOKENS = 64
#: the longest difference of unit vectors between equal weights: in fp32 on the CPU, and in any other precision or place
_NEAR, _NEAR_ROUNDED = 1e-4, 0.1


class ExportError(InputError):
    """What was written differs from what was trained; a fault of the program or its libraries."""

    exit_code = 1


def digests(model: nn.Module) -> dict[str, str]:
    """The SHA-256 of each tensor of `model`'s state, by name."""
    return {
        name: hashlib.sha256(
            f"{tuple(value.shape)} {value.dtype}".encode()
            + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for name, value in model.state_dict().items()
    }


def check_written(written: Any, embedder: Embedder, *, weights: Mapping[str, str]) -> None:
    """Raise ExportError unless `written`, a SentenceTransformer read from a folder on the CPU, holds the tensors of
    `weights` (see `digests`), reads texts as the same token ids and gives them the vectors of `embedder`."""
    encoder, context_tokens = embedder.encoder, embedder.context_tokens
    found = digests(written[0].auto_model)
    other = [name for name in {**weights, **found} if weights.get(name) != found.get(name)]
    if other:
        raise _differs(f"{len(other)} of {len(weights)} tensors are others ({', '.join(other[:3])})")
    if written.max_seq_length != context_tokens:
        raise _differs(f"it cuts texts at {written.max_seq_length} tokens, not at {context_tokens}")
    texts = [*TEXTS, _LONG * (context_tokens // 8 + 1)]
    prompts: dict[Side, str] = {"query": encoder.prompts.query, "document": encoder.prompts.positive}
    for name, prompt in prompts.items():
        for text in (prompt + text for text in texts):
            ours, theirs = (
                tokenize(each, [text], context_tokens=context_tokens)[0]
                for each in (embedder.tokenizer, written.tokenizer)
            )
            if not np.array_equal(ours, theirs):
                raise _differs(f"{text[:40]!r} is read as tokens {_ends(theirs)}, not {_ends(ours)}")
        apart = _apart(written, replace(embedder, context_tokens=min(context_tokens, _VECTOR_TOKENS)), texts, name)
        exact = all(value.dtype == torch.float32 and value.device.type == "cpu" for value in encoder.parameters())
        if not apart < (_NEAR if exact else _NEAR_ROUNDED):
            raise _differs(f"vectors of the {name} side are {apart:.2g} apart")


def _apart(written: Any, embedder: Embedder, texts: list[str], side: Side) -> float:
    """The longest difference between vectors of `texts` in memory and as sentence-transformers gives them; of those
    with a token to pool, for no vector is right for others."""
    prompts, tokenizer = embedder.encoder.prompts, embedder.tokenizer
    prompt = prompts.query if side == "query" else prompts.positive
    passed = 0 if prompts.pooled else prompt_tokens(tokenizer, prompt)
    ids = tokenize(tokenizer, [prompt + text for text in texts], context_tokens=embedder.context_tokens)
    texts = [text for text, row in zip(texts, ids, strict=True) if len(row) > passed]
    ours_ND = embedder.embed(texts, side)
    whole, written.max_seq_length = written.max_seq_length, embedder.context_tokens
    try:
        theirs_ND = written.encode(texts, prompt_name=side, show_progress_bar=False)
    finally:
        written.max_seq_length = whole
    return float(np.linalg.norm(ours_ND - theirs_ND, axis=1).max())


def _ends(ids: np.ndarray) -> str:
    return str(ids.tolist()) if len(ids) < 8 else f"[{ids[0]}, {ids[1]}, ..., {ids[-2]}, {ids[-1]}]"


def _differs(what: str) -> ExportError:
    return ExportError(
        f"The model that is written must be the one that was trained, and is not: {what}. Nothing was replaced, and "
        "the training is kept where it has checkpoints; report this with the name of the base model."
    )

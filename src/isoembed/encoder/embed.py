"""Texts in, embeddings out: the same vectors that sentence-transformers gives for the exported folder.

Shape legend: N texts, T tokens of the longest text of a chunk, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from isoembed.data.prompts import prompt_tokens
from isoembed.encoder.chunks import chunks_of
from isoembed.encoder.encoder import Encoder, pad

#: told of (texts done, texts in all) after every chunk
Progress = Callable[[int, int], None]


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, context_tokens: int | None
) -> list[np.ndarray]:
    """Token ids of each text with the tokenizer's own special tokens, cut to `context_tokens` (None: not cut)."""
    if not texts:
        return []
    rows = tokenizer(
        list(texts),
        truncation=context_tokens is not None,
        max_length=context_tokens,
        padding=False,
        return_attention_mask=False,
        verbose=False,  # without a limit, transformers would warn of every text beyond the model's
    )["input_ids"]
    return [np.asarray(row, dtype=np.int64) for row in rows]


def embed_ids(
    encoder: Encoder,
    ids: Sequence[np.ndarray],
    *,
    prompt: int = 0,
    pad_id: int = 0,
    batch_tokens: int = 16384,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Embeddings (N, D) of tokenised texts, in their order, fp32 on the CPU, without dropout or gradient; the first
    `prompt` tokens of each are its prompt.

    Texts run sorted by length in chunks of at most `batch_tokens` padded tokens, so that little is padding.  A text
    without tokens gets the zero vector, as in sentence-transformers: it is similar to nothing.
    """
    if not ids:
        return torch.zeros(0, 0)
    device = next(encoder.parameters()).device
    is_empty = torch.tensor([len(row) == 0 for row in ids])
    stand_in = np.array([pad_id])
    chunks = chunks_of([len(row) for row in ids], batch_tokens)
    parts: list[torch.Tensor] = []
    done, training = 0, encoder.training
    encoder.eval()
    try:
        with torch.no_grad():  # inference mode would spoil gathered parameters for the training after it
            for chunk in chunks:
                ids_BT, mask_BT = pad([ids[index] if len(ids[index]) else stand_in for index in chunk], pad_id)
                prompt_B = torch.full((len(chunk),), prompt, device=device)
                parts.append(encoder(ids_BT.to(device), mask_BT.to(device), prompt_B).float().cpu())
                done += len(chunk)
                if progress is not None:
                    progress(done, len(ids))
    finally:
        encoder.train(training)
    embedding_ND = torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(chunks)))]
    return embedding_ND.masked_fill(is_empty[:, None], 0.0)


def embed(
    encoder: Encoder,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    context_tokens: int,
    as_queries: bool = False,
    batch_tokens: int = 16384,
    progress: Progress | None = None,
) -> np.ndarray:
    """Unit-length embeddings (N, D) of `texts`, float32, computed where the encoder is, behind the encoder's prompt for
    positives, or for queries where they are some."""
    prompt = encoder.prompts.query if as_queries else encoder.prompts.positive
    ids = tokenize(tokenizer, [prompt + text for text in texts], context_tokens=context_tokens)
    counted = prompt_tokens(tokenizer, prompt)
    return embed_ids(encoder, ids, prompt=counted, batch_tokens=batch_tokens, progress=progress).numpy()

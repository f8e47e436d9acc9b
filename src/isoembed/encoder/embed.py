"""Texts in, embeddings out: the same vectors that sentence-transformers gives for the exported folder.

Shape legend: N texts, T tokens of the longest text of a chunk, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from isoembed.core import no_panic
from isoembed.encoder.chunks import CPU_CHUNK_TOKENS, GPU_CHUNK_TOKENS, chunks_of, even_tokens
from isoembed.encoder.crew import Crew
from isoembed.encoder.encoder import Encoder, is_sharded, pad

#: told of (texts done, texts in all) after every chunk
Progress = Callable[[int, int], None]


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, context_tokens: int | None
) -> list[np.ndarray]:
    """Token ids of each text with the tokenizer's own special tokens, cut to `context_tokens` (None: not cut)."""
    if not texts:
        return []
    with no_panic("The tokenizer"):
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
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Embeddings (N, D) of tokenised texts, in their order, fp32 on the CPU, without dropout or gradient; the first
    `prompt` tokens of each are its prompt.

    Texts run sorted by length in chunks of at most `batch_tokens` padded tokens (None: as suits the device), so that
    little is padding.  A text without tokens gets the zero vector, as in sentence-transformers: it is similar to
    nothing.
    """
    if not ids:
        return torch.zeros(0, 0)
    device = next(encoder.parameters()).device
    is_empty = torch.tensor([len(row) == 0 for row in ids])
    stand_in = np.array([pad_id])
    lengths = [len(row) for row in ids]
    members = torch.get_num_threads() if device.type == "cpu" and not is_sharded(encoder) else 1
    batch_tokens = batch_tokens or (CPU_CHUNK_TOKENS if device.type == "cpu" else GPU_CHUNK_TOKENS)
    chunks = chunks_of(lengths, even_tokens(lengths, batch_tokens, members))
    crew = Crew(encoder, min(members, len(chunks)))
    done, training, lock = 0, encoder.training, Lock()

    def run(encoder: Encoder, number: int) -> torch.Tensor:
        nonlocal done
        chunk = chunks[number]
        ids_BT, mask_BT = pad([ids[index] if len(ids[index]) else stand_in for index in chunk], pad_id)
        prompt_B = torch.full((len(chunk),), prompt)
        with torch.no_grad():  # inference mode would spoil gathered parameters for the training after it
            embedding_BD: torch.Tensor = encoder(ids_BT, mask_BT, prompt_B).float().cpu()
        with lock:
            done += len(chunk)
            if progress is not None:
                progress(done, len(ids))
        return embedding_BD

    for each in crew.encoders:
        each.eval()
    try:
        parts = crew.map(run, range(len(chunks)))
    finally:
        encoder.train(training)
    embedding_ND = torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(chunks)))]
    return embedding_ND.masked_fill(is_empty[:, None], 0.0)

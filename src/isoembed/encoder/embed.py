"""Texts in, embeddings out: the same vectors that sentence-transformers gives for the exported folder.

Shape legend: N texts, T tokens of the longest text of a mini-batch, D embedding width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from isoembed.core import InputError, no_panic
from isoembed.encoder.encoder import Encoder, is_sharded, pad
from isoembed.encoder.mini_batches import even_tokens, mini_batch_tokens_for, mini_batches_of
from isoembed.encoder.precision import products
from isoembed.encoder.worker_pool import WorkerPool

#: told of (texts done, texts in all) after every mini-batch
Progress = Callable[[int, int], None]

#: half of a surrogate pair, which no encoding of a text has
_HALF = re.compile("[\ud800-\udfff]")


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, context_tokens: int | None
) -> list[np.ndarray]:
    """Token ids of each text with the tokenizer's own special tokens, cut to `context_tokens` (None: not cut)."""
    if not texts:
        return []
    if (bad := next((row for row, text in enumerate(texts, 1) if _HALF.search(text)), None)) is not None:
        raise InputError(f"A text must be valid Unicode; text {bad} has half of a surrogate pair. Take it out.")
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
    prompt: int | np.ndarray = 0,
    pad_id: int = 0,
    batch_tokens: int | None = None,
    bf16: bool = False,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Embeddings (N, D) of tokenised texts, in their order, fp32 on the CPU, without dropout or gradient; the first
    `prompt` tokens of each (or one number for all) are its prompt.  Products run in bf16 where that is asked.

    Texts run sorted by length in mini-batches of at most `batch_tokens` padded tokens (None: as suits the device), so
    that little is padding.  A text without tokens gets the zero vector, as in sentence-transformers: it is similar to
    nothing.
    """
    if not ids:
        return torch.zeros(0, 0)
    device = next(encoder.parameters()).device
    is_empty = torch.tensor([len(row) == 0 for row in ids])
    stand_in = np.array([pad_id])
    lengths, prompt_N = [len(row) for row in ids], np.broadcast_to(prompt, len(ids))
    workers = torch.get_num_threads() if device.type == "cpu" and not is_sharded(encoder) else 1
    batch_tokens = batch_tokens or mini_batch_tokens_for(device, bf16=bf16)
    mini_batches = mini_batches_of(lengths, even_tokens(lengths, batch_tokens, workers))
    pool = WorkerPool(encoder, min(workers, len(mini_batches)))
    done, training, lock = 0, encoder.training, Lock()

    def run(encoder: Encoder, number: int) -> torch.Tensor:
        nonlocal done
        mini_batch = mini_batches[number]
        ids_BT, mask_BT = pad([ids[index] if len(ids[index]) else stand_in for index in mini_batch], pad_id)
        prompt_B = torch.from_numpy(prompt_N[mini_batch])
        # inference mode would spoil gathered parameters for the training after it
        with torch.no_grad(), products(device, bf16=bf16):
            embedding_BD: torch.Tensor = encoder(ids_BT, mask_BT, prompt_B).float().cpu()
        with lock:
            done += len(mini_batch)
            if progress is not None:
                progress(done, len(ids))
        return embedding_BD

    for each in pool.encoders:
        each.eval()
    try:
        parts = pool.map(run, range(len(mini_batches)))
    finally:
        encoder.train(training)
    embedding_ND = torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(mini_batches)))]
    return embedding_ND.masked_fill(is_empty[:, None], 0.0)

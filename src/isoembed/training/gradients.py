"""The gradient of the contrastive loss of a large batch in bounded memory, exact.

The loss needs all embeddings of a batch at once, the model needs only a chunk of them at a time (gradient caching, Gao
et al. 2021, arXiv 2101.06983).  Here a chunk's graph is kept while memory allows and only the rest is run twice:

1. Embed every chunk.  The last chunks, as many as fit, keep their graph; the others run without one.
2. Loss and its gradient with respect to the embeddings, on detached copies (of all ranks' embeddings).
3. Backward through the kept graphs, which frees them; then run each other chunk again, with the random state of its
   first run, so that dropout is the same, and go backward through it.

Shape legend: B pairs of the global batch, T tokens of the longest text of a chunk, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

from isoembed.encoder.chunks import chunks_of, split_to
from isoembed.encoder.encoder import Encoder, pad
from isoembed.training.distributed import gather_rows, rank
from isoembed.training.sharding import in_step

#: embeddings of queries and positives of the global batch -> scalar loss
LossOf = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Memory:
    """How a batch is cut: `chunk_tokens` padded tokens a chunk, graphs kept for up to `kept_tokens` padded tokens."""

    chunk_tokens: int
    kept_tokens: int


@dataclass(frozen=True)
class Step:
    """What one gradient cost: loss in nats, padded tokens run forward and backward, padded tokens run forward twice."""

    loss: float
    processed_tokens: int
    recomputed_tokens: int


def accumulate_gradients(
    encoder: Encoder,
    query_ids: Sequence[np.ndarray],
    positive_ids: Sequence[np.ndarray],
    loss_of: LossOf,
    memory: Memory,
    *,
    pad_id: int = 0,
    bf16: bool = False,
) -> Step:
    """Add the gradient of `loss_of` to the parameters' `.grad`: equal to that of one plain backward.

    `query_ids` and `positive_ids` are this rank's share of the batch, equally many on every rank.
    """
    device = next(encoder.parameters()).device
    texts = [*query_ids, *positive_ids]
    chunks = chunks_of([len(text) for text in texts], memory.chunk_tokens)
    chunks = split_to(chunks, in_step(encoder, len(chunks)))
    padded = [len(chunk) * max(len(texts[index]) for index in chunk) for chunk in chunks]
    first_kept, room = len(chunks), memory.kept_tokens
    while first_kept > 0 and padded[first_kept - 1] <= room:
        first_kept -= 1
        room -= padded[first_kept]
    first_kept = in_step(encoder, first_kept)

    def run(chunk: np.ndarray) -> torch.Tensor:
        ids_BT, mask_BT = pad([texts[index] for index in chunk], pad_id)
        # a weight is used once: a cache would hold a second copy of all of them
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            embedding_BD: torch.Tensor = encoder(ids_BT.to(device), mask_BT.to(device))
        return embedding_BD

    # 1. embed
    rows, states, graphs = [], [], []
    for number, chunk in enumerate(chunks):
        kept = number >= first_kept
        states.append(None if kept else _random_state(device))
        with nullcontext() if kept else torch.no_grad():
            output = run(chunk)
        graphs.append(output if kept else None)
        rows.append(output.detach())
    place = torch.from_numpy(np.argsort(np.concatenate(chunks))).to(device)
    local_BD = torch.cat(rows)[place]

    # 2. loss and its gradient with respect to this rank's embeddings
    share = len(query_ids)
    leaves = [gather_rows(part).detach().requires_grad_() for part in (local_BD[:share], local_BD[share:])]
    loss = loss_of(*leaves)
    loss.backward()
    own = slice(rank() * share, (rank() + 1) * share)
    gradient_BD = torch.cat([leaf.grad[own] for leaf in leaves if leaf.grad is not None])

    # 3. backward, kept graphs first
    for number in [*range(first_kept, len(chunks)), *range(first_kept)]:
        output, graphs[number] = graphs[number], None
        if output is None:
            with _replayed(states[number], device):
                output = run(chunks[number])
        output.backward(gradient_BD[torch.from_numpy(chunks[number]).to(device)])
        del output
    return Step(loss.item(), sum(padded), sum(padded[:first_kept]))


def measure_bytes_per_token(encoder: Encoder, length: int, *, tokens: int = 1024, bf16: bool = False) -> float:
    """Bytes of graph that one padded token of a text of `length` keeps for the backward pass, measured by autograd."""
    device = next(encoder.parameters()).device
    ids_BT = torch.zeros(max(1, tokens // length), length, dtype=torch.long, device=device)
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # asked each time: a sharded parameter is elsewhere whenever its block runs
        if tensor.data_ptr() not in {parameter.data_ptr() for parameter in encoder.parameters()}:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        output = encoder(ids_BT, torch.ones_like(ids_BT))
    del output
    return sum(storages.values()) / ids_BT.numel()


def plan_memory(bytes_per_token: float, memory_bytes: float, *, chunk_tokens: int) -> Memory:
    """Keep the graphs of as many tokens as `memory_bytes` holds beside the chunk at work (which needs about as much
    again for its temporary values)."""
    fit = int(memory_bytes / bytes_per_token)
    chunk = max(1, min(chunk_tokens, fit // 2))
    return Memory(chunk_tokens=chunk, kept_tokens=max(0, fit - 2 * chunk))


def _random_state(device: torch.device) -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


@contextmanager
def _replayed(states: list[torch.Tensor] | None, device: torch.device) -> Iterator[None]:
    """Run the body with the random numbers of an earlier run, then go on where the generator was."""
    assert states is not None
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(states[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states[1], device)
        yield

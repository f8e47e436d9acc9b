"""The gradient of the contrastive loss of a large batch in bounded memory, exact.

The loss needs all embeddings of a batch at once, the model needs only a chunk of them at a time (gradient caching, Gao
et al. 2021, arXiv 2101.06983).  Here a chunk's graph is kept while memory allows and only the rest is run twice:

1. Embed every chunk.  The last chunks, as many as fit, keep their graph; the others run without one and keep, where
   blocks in front are frozen and memory allows, what the last of those gave.
2. Loss and its gradient with respect to the embeddings, on detached copies (of all ranks' embeddings).
3. Backward through the kept graphs, which frees them; then run each other chunk again, from the lowest trained block
   where its input was kept, with the random state of the first run, so that dropout is the same, and go backward.

On a CPU the members of a crew share the chunks of passes 1 and 3, and low-rank adapters run as dense weights where
that is faster (`isoembed.training.merged`).

Shape legend: B pairs of the global batch, T tokens of the longest text of a chunk, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from isoembed.encoder.chunks import chunks_of, even_tokens, split_to
from isoembed.encoder.crew import Crew
from isoembed.encoder.encoder import Encoder, base_of, pad, to_device
from isoembed.methods.parts import blocks_of
from isoembed.training.distributed import gather_rows, rank, world
from isoembed.training.merged import adapters_merged
from isoembed.training.replay import PrefixOutput, RandomState, recorded, replayed, resumed
from isoembed.training.resident import stay_below
from isoembed.training.sharding import in_step
from isoembed.training.table import rows_added

#: embeddings of queries, positives and, where there are any, hard negatives of the global batch -> scalar loss
LossOf = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Memory:
    """How a batch is cut: `chunk_tokens` padded tokens a chunk, graphs kept for up to `kept_tokens` padded tokens,
    `members` chunks at work at once; the process on a CPU is to stay below `limit_bytes`.

    The output of the first `frozen_blocks` is kept of chunks that keep no graph, at `prefix_share` of a graph's memory
    a token; nothing in these blocks or before them may require a gradient.  `merged`: there are low-rank adapters that
    run as the dense weights they amount to.
    """

    chunk_tokens: int
    kept_tokens: int
    frozen_blocks: int = 0
    prefix_share: float = 0.0
    members: int = 1
    limit_bytes: float | None = None
    merged: bool = False

    def smaller(self, least: int) -> Memory | None:
        """The next smaller cut, down to chunks of `least` tokens; None where this is the smallest."""
        if self.kept_tokens >= self.chunk_tokens:
            return replace(self, kept_tokens=self.kept_tokens // 2)
        if self.chunk_tokens > least or self.kept_tokens:
            return replace(self, kept_tokens=0, chunk_tokens=max(least, self.chunk_tokens // 2))
        return None

    def tiers(self, padded: Sequence[int]) -> tuple[int, int]:
        """(first chunk whose prefix output is kept, first chunk whose graph is), of chunks of `padded` tokens each.

        Prefix outputs come first: a byte of them saves more work than a byte of graph.
        """
        first_kept, room = len(padded), float(self.kept_tokens)
        if self.frozen_blocks:
            room -= self.prefix_share * sum(padded)
        while room >= 0 and first_kept > 0 and (1 - self.prefix_share) * padded[first_kept - 1] <= room:
            first_kept -= 1
            room -= (1 - self.prefix_share) * padded[first_kept]
        if not self.frozen_blocks:
            return first_kept, first_kept
        first_stored = 0
        while room < 0:
            room += self.prefix_share * padded[first_stored]
            first_stored += 1
        return first_stored, first_kept


@dataclass(frozen=True)
class Step:
    """What one gradient cost: loss in nats; padded tokens run forward and backward; of these, tokens run forward a
    second time from the start, and from the lowest trained block on."""

    loss: float
    processed_tokens: int
    recomputed_tokens: int
    resumed_tokens: int


def accumulate_gradients(
    crew: Crew,
    query_ids: Sequence[np.ndarray],
    positive_ids: Sequence[np.ndarray],
    loss_of: LossOf,
    memory: Memory,
    *,
    negative_ids: Sequence[np.ndarray] = (),
    prompt_tokens: tuple[int, int] = (0, 0),
    pad_id: int = 0,
    bf16: bool = False,
) -> Step:
    """Add the gradient of `loss_of` to the `.grad` of the parameters of the crew's encoder: equal to that of one plain
    backward.

    `query_ids`, `positive_ids` and `negative_ids` are this rank's share of the batch, each equally many on every rank.
    Without hard negatives in the whole batch `loss_of` gets two sides, else three.  `prompt_tokens` says how many of
    the first tokens are a prompt's: of each query, and of each other text.
    """
    encoder = crew.encoders[0]
    device = next(encoder.parameters()).device
    assert not any(value.requires_grad for block in _frozen(encoder, memory) for value in block.parameters())
    sides = [side for side in (query_ids, positive_ids, negative_ids) if len(side)]
    texts = [text for side in sides for text in side]
    before, behind = prompt_tokens
    prompts = torch.tensor([before] * len(query_ids) + [behind] * (len(texts) - len(query_ids)))
    lengths = [len(text) for text in texts]
    chunks = chunks_of(lengths, even_tokens(lengths, memory.chunk_tokens, len(crew.encoders)))
    chunks = split_to(chunks, in_step(encoder, len(chunks)))
    each = (np.array([len(texts[index]) for index in chunk]) for chunk in chunks)
    padded = [int(lengths_B.sum() if encoder.packed else len(lengths_B) * lengths_B.max()) for lengths_B in each]
    first_stored, first_kept = (in_step(encoder, first) for first in memory.tiers(padded))

    def run(encoder: Encoder, chunk: np.ndarray) -> torch.Tensor:
        ids_BT, mask_BT = pad([texts[index] for index in chunk], pad_id)
        # a weight is used once: a cache would hold a second copy of all of them
        with rows_added(encoder), torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            embedding_BD: torch.Tensor = encoder(ids_BT, mask_BT, prompts[chunk])
        return embedding_BD

    # 1. embed
    first_pass: list[torch.Tensor | PrefixOutput | RandomState | None] = [None] * len(chunks)

    def embed(encoder: Encoder, number: int) -> torch.Tensor:
        note: PrefixOutput | RandomState | None = None
        with ExitStack() as around:
            if number < first_kept:
                around.enter_context(torch.no_grad())
                if number >= first_stored:
                    note = around.enter_context(recorded(_frozen(encoder, memory), device))
                else:
                    note = RandomState.now(device)
            output = run(encoder, chunks[number])
        first_pass[number] = output if note is None else note
        stay_below(memory.limit_bytes)
        return output.detach()

    # 2. loss and its gradient with respect to this rank's embeddings
    def loss_and_gradient(local_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts = local_BD.split([len(side) for side in sides])
        leaves = [gather_rows(part).detach().requires_grad_() for part in parts]
        loss = loss_of(*leaves)
        loss.backward()
        own = [leaf.grad.chunk(world())[rank()] for leaf in leaves if leaf.grad is not None]
        return loss, torch.cat(own)

    # 3. backward, kept graphs first
    def backward(encoder: Encoder, number: int, gradient_BD: torch.Tensor) -> None:
        known, first_pass[number] = first_pass[number], None
        if isinstance(known, PrefixOutput):
            with resumed(_frozen(encoder, memory), known, device):
                output = run(encoder, chunks[number])
        elif isinstance(known, RandomState):
            with replayed(known, device):
                output = run(encoder, chunks[number])
        else:
            assert known is not None
            output = known
        output.backward(gradient_BD[to_device(torch.from_numpy(chunks[number]), device)])

    with adapters_merged(crew.encoders) if memory.merged else nullcontext():
        place = to_device(torch.from_numpy(np.argsort(np.concatenate(chunks))), device)
        loss, gradient_BD = loss_and_gradient(torch.cat(crew.map(embed, range(len(chunks))))[place])
        crew.map(partial(backward, gradient_BD=gradient_BD), [*range(first_kept, len(chunks)), *range(first_kept)])
    crew.collect_gradients()
    return Step(loss.item(), sum(padded), sum(padded[:first_stored]), sum(padded[first_stored:first_kept]))


def _frozen(encoder: Encoder, memory: Memory) -> list[nn.Module]:
    return [*blocks_of(base_of(encoder.model))][: memory.frozen_blocks]

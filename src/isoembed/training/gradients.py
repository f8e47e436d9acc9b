"""The gradient of the contrastive loss of a large batch in bounded memory, exact.

The loss needs all embeddings of a batch at once, the model needs only a mini-batch of them at a time (gradient caching,
Gao et al. 2021, arXiv 2101.06983).  Here a mini-batch's graph is kept while memory allows and only the rest is run
twice:

1. Embed every mini-batch.  The last mini-batches, as many as fit, keep their graph; the others run without one and
   keep, where blocks in front are frozen and memory allows, what the last of those gave.
2. Loss and its gradient with respect to the embeddings, on detached copies (of all ranks' embeddings).
3. Backward through the kept graphs, which frees them; then run each other mini-batch again, from the lowest trained
   block where its input was kept, with the random state of the first run, so that dropout is the same, and go backward.

On a CPU the workers of a pool share the mini-batches of passes 1 and 3, and low-rank adapters run as dense weights
where that is faster (`isoembed.training.merged`).

Shape legend: B pairs of the global batch, T tokens of the longest text of a mini-batch, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from isoembed.encoder.encoder import Encoder, base_of, pad, to_device
from isoembed.encoder.mini_batches import even_tokens, mini_batches_of, split_to
from isoembed.encoder.precision import products
from isoembed.encoder.worker_pool import WorkerPool
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
    """How a batch is cut: `mini_batch_tokens` padded tokens a mini-batch, graphs kept for up to `kept_tokens` padded
    tokens, `workers` mini-batches at work at once; the process on a CPU is to stay below `limit_bytes`.

    The output of the first `frozen_blocks` is kept of mini-batches that keep no graph, at `prefix_share` of a graph's
    memory a token; nothing in these blocks or before them may require a gradient.  `merged`: there are low-rank
    adapters that run as the dense weights they amount to.
    """

    mini_batch_tokens: int
    kept_tokens: int
    frozen_blocks: int = 0
    prefix_share: float = 0.0
    workers: int = 1
    limit_bytes: float | None = None
    merged: bool = False

    def smaller(self, least: int) -> Memory | None:
        """The next smaller cut, down to mini-batches of `least` tokens; None where this is the smallest."""
        if self.kept_tokens >= self.mini_batch_tokens:
            return replace(self, kept_tokens=self.kept_tokens // 2)
        if self.mini_batch_tokens > least or self.kept_tokens:
            return replace(self, kept_tokens=0, mini_batch_tokens=max(least, self.mini_batch_tokens // 2))
        return None

    def tiers(self, padded: Sequence[int]) -> tuple[int, int]:
        """(first mini-batch whose prefix output is kept, first mini-batch whose graph is), of mini-batches of `padded`
        tokens each.

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
        while room < 0 and first_stored < len(padded):  # of what is stored nothing may be left but a rounding error
            room += self.prefix_share * padded[first_stored]
            first_stored += 1
        return first_stored, first_kept


@dataclass(frozen=True)
class Gradient:
    """What one gradient cost: loss in nats; padded tokens run forward and backward; of these, tokens run forward a
    second time from the start, and from the lowest trained block on."""

    loss: float
    processed_tokens: int
    recomputed_tokens: int
    resumed_tokens: int


def accumulate_gradients(
    pool: WorkerPool,
    query_ids: Sequence[np.ndarray],
    positive_ids: Sequence[np.ndarray],
    loss_of: LossOf,
    memory: Memory,
    *,
    negative_ids: Sequence[np.ndarray] = (),
    prompt_tokens: np.ndarray | None = None,
    pad_id: int = 0,
    bf16: bool = False,
) -> Gradient:
    """Add the gradient of `loss_of` to the `.grad` of the parameters of the pool's encoder: equal to that of one plain
    backward.

    `query_ids`, `positive_ids` and `negative_ids` are this rank's share of the batch, each equally many on every rank.
    Without hard negatives in the whole batch `loss_of` gets two sides, else three.  `prompt_tokens` says how many first
    tokens of each text are a prompt's: of queries, positives, hard negatives, one behind the other; None: none.
    """
    sides = [side for side in (query_ids, positive_ids, negative_ids) if len(side)]
    texts = [text for side in sides for text in side]
    prompts = torch.zeros(len(texts), dtype=torch.int64) if prompt_tokens is None else torch.from_numpy(prompt_tokens)
    passes = _Passes.over(texts, prompts, pool, memory, pad_id, bf16)
    numbers = range(len(passes.mini_batches))
    pool.drop_gradients()
    with adapters_merged(pool.encoders) if memory.merged else nullcontext():
        place = to_device(torch.from_numpy(np.argsort(np.concatenate(passes.mini_batches))), passes.device)
        embedding_BD = torch.cat(pool.map(passes.embed, numbers))[place]
        loss, gradient_BD = _loss_and_gradient(embedding_BD, [len(side) for side in sides], loss_of)
        kept_first = [*numbers[passes.first_kept :], *numbers[: passes.first_kept]]
        pool.map(partial(passes.backward, gradient_BD=gradient_BD), kept_first)
    pool.collect_gradients()
    return passes.cost(loss.item())


def _loss_and_gradient(
    embedding_BD: torch.Tensor, sizes: list[int], loss_of: LossOf
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of all ranks' embeddings, cut into sides of these `sizes`, and its gradient with respect to this
    rank's."""
    leaves = [gather_rows(side).detach().requires_grad_() for side in embedding_BD.split(sizes)]
    loss = loss_of(*leaves)
    loss.backward()
    return loss, torch.cat([leaf.grad.chunk(world())[rank()] for leaf in leaves if leaf.grad is not None])


@dataclass
class _Passes:
    """Both passes over the mini-batches of a batch's texts, and what the first leaves to the second."""

    texts: Sequence[np.ndarray]
    prompts: torch.Tensor  #: by text, how many of its first tokens are a prompt's
    memory: Memory
    device: torch.device
    pad_id: int
    bf16: bool
    mini_batches: list[np.ndarray]
    padded: list[int]  #: tokens of each mini-batch as it runs
    first_stored: int  #: the first mini-batch whose prefix output is kept
    first_kept: int  #: the first mini-batch whose graph is kept

    def __post_init__(self) -> None:
        self.first_pass: list[torch.Tensor | PrefixOutput | RandomState | None] = [None] * len(self.mini_batches)

    @classmethod
    def over(
        cls,
        texts: Sequence[np.ndarray],
        prompts: torch.Tensor,
        pool: WorkerPool,
        memory: Memory,
        pad_id: int,
        bf16: bool,
    ) -> _Passes:
        """Cut the texts and decide what is kept of each mini-batch."""
        encoder = pool.encoders[0]
        assert not any(value.requires_grad for block in _frozen(encoder, memory) for value in block.parameters())
        lengths = [len(text) for text in texts]
        packed, workers = encoder.packed, len(pool.encoders)
        budget = even_tokens(lengths, memory.mini_batch_tokens, workers, packed=packed)
        mini_batches = mini_batches_of(lengths, budget, packed=packed)
        mini_batches = split_to(mini_batches, in_step(encoder, len(mini_batches)))
        each = (np.array([lengths[index] for index in mini_batch]) for mini_batch in mini_batches)
        padded = [int(lengths_B.sum() if packed else len(lengths_B) * lengths_B.max()) for lengths_B in each]
        first_stored, first_kept = (in_step(encoder, first) for first in memory.tiers(padded))
        device = next(encoder.parameters()).device
        return cls(texts, prompts, memory, device, pad_id, bf16, mini_batches, padded, first_stored, first_kept)

    def embed(self, encoder: Encoder, number: int) -> torch.Tensor:
        """The embeddings of a mini-batch, detached; its graph, its prefix output or its random state is kept."""
        note: PrefixOutput | RandomState | None = None
        with ExitStack() as around:
            if number < self.first_kept:
                around.enter_context(torch.no_grad())
                if number >= self.first_stored:
                    note = around.enter_context(recorded(_frozen(encoder, self.memory), self.device))
                else:
                    note = RandomState.now(self.device)
            output = self._run(encoder, number)
        self.first_pass[number] = output if note is None else note
        stay_below(self.memory.limit_bytes)
        return output.detach()

    def backward(self, encoder: Encoder, number: int, gradient_BD: torch.Tensor) -> None:
        """Add the gradient of a mini-batch's texts, run again where no graph was kept."""
        known, self.first_pass[number] = self.first_pass[number], None
        if isinstance(known, PrefixOutput):
            with resumed(_frozen(encoder, self.memory), known, self.device):
                output = self._run(encoder, number)
        elif isinstance(known, RandomState):
            with replayed(known, self.device):
                output = self._run(encoder, number)
        else:
            assert known is not None
            output = known
        output.backward(gradient_BD[to_device(torch.from_numpy(self.mini_batches[number]), self.device)])

    def cost(self, loss: float) -> Gradient:
        """What both passes ran."""
        stored, kept = self.first_stored, self.first_kept
        return Gradient(loss, sum(self.padded), sum(self.padded[:stored]), sum(self.padded[stored:kept]))

    def _run(self, encoder: Encoder, number: int) -> torch.Tensor:
        mini_batch = self.mini_batches[number]
        ids_BT, mask_BT = pad([self.texts[index] for index in mini_batch], self.pad_id)
        with rows_added(encoder), products(self.device, bf16=self.bf16):
            embedding_BD: torch.Tensor = encoder(ids_BT, mask_BT, self.prompts[mini_batch])
        return embedding_BD


def _frozen(encoder: Encoder, memory: Memory) -> list[nn.Module]:
    return [*blocks_of(base_of(encoder.model))][: memory.frozen_blocks]

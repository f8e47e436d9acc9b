"""The gradient of a token table, added row by row.

torch makes a gradient as large as the table for every mini-batch, nearly all of it zero, and adds that to the sum.
With a vocabulary of 50,304 this filling and adding takes a tenth of a small model's training time on a CPU.  Replicas
of a pool do not even make one: they keep their rows until these are added to the sum (`WorkerPool.collect_gradients`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from isoembed.encoder.encoder import Encoder, is_sharded
from isoembed.encoder.worker_pool import add_rows, kept_rows
from isoembed.training.forward import forwards_replaced


class _Rows(torch.autograd.Function):
    """`table.weight[ids]`, whose backward pass adds to `table.weight.grad` the rows that `ids` name.

    The weight is no input of it: torch would tell its hooks of a gradient that it does not get.  `trained` is the input
    that asks for a gradient in its place, and gets none.
    """

    @staticmethod
    def forward(ctx: Any, ids: torch.Tensor, table: nn.Embedding, trained: torch.Tensor) -> torch.Tensor:
        ctx.weight, ctx.padding = table.weight, table.padding_idx
        ctx.save_for_backward(ids)
        return table.weight[ids]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        weight = ctx.weight
        if ctx.padding is not None:  # torch's rule: that row never trains
            gradient = gradient.masked_fill((ids == ctx.padding)[..., None], 0.0)
        rows = (ids.flatten(), gradient.reshape(-1, gradient.shape[-1]).to(weight.dtype))
        kept = kept_rows(weight)
        if kept is None or sum(len(each) for each, _ in kept) + ids.numel() > len(weight) // 2:
            add_rows(weight, [rows])
        else:
            kept.append(rows)
        return None, None, None


@contextmanager
def rows_added(encoder: Encoder) -> Iterator[None]:
    """Backward passes of forward passes inside the body add to the gradients of trained token tables in place.

    Left as they are: tables with rules of their own (a norm, a subclass), sharded ones, and those on a GPU, where
    filling is cheap and the order in which rows are added is not fixed.
    """
    tables = [
        module
        for module in encoder.modules()
        if type(module) is nn.Embedding
        and module.weight.requires_grad
        and module.weight.device.type == "cpu"
        and (module.max_norm, module.scale_grad_by_freq, module.sparse) == (None, False, False)
        and not is_sharded(encoder)
    ]
    with forwards_replaced({table: partial(_looked_up, table) for table in tables}):
        yield


def _looked_up(table: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
    trained = torch.empty(0, requires_grad=True)
    rows: torch.Tensor = _Rows.apply(ids, table, trained)  # type: ignore[no-untyped-call]
    return rows

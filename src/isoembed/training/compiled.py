"""Blocks compiled by torch while a model trains: fewer, larger kernels for whatever is not a matrix product.

A graph serves every text length and mini-batch size, and blocks that train the same: with and without gradient, that is
a handful in the first step and none after it.  Meant for a GPU; on a CPU a pool brings more (docs/lab-notes/speed.md,
2026-11-26), and the two do not go together: torch's compiler is not safe where other threads run the same code.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from isoembed.core import InputError
from isoembed.encoder.encoder import Encoder, base_of
from isoembed.methods.parts import blocks_of
from isoembed.training.forward import forwards_replaced

_COMPILERS = ("g++", "clang++")
#: graphs of one block's code that torch keeps; beyond them it would run uncompiled
_GRAPHS = 32


@contextmanager
def compiled(encoder: Encoder, *, backend: str = "inductor") -> Iterator[None]:
    """The blocks of `encoder` run compiled inside the body.

    Only their `forward` is, so that hooks, checkpointing and the frozen prefix around it work as ever.
    """
    faster = {
        block: torch.compile(block.forward, backend=backend, dynamic=True)
        for block in blocks_of(base_of(encoder.model))
    }
    with forwards_replaced(faster), torch._dynamo.config.patch(recompile_limit=_GRAPHS):
        yield


def check_compiler(device: torch.device) -> None:
    """Raises InputError where a model on `device` cannot be compiled: on a CPU without a C++ compiler."""
    if device.type == "cpu" and not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *_COMPILERS)):
        raise InputError(
            f"`compile` needs a C++ compiler on a CPU; found none of {', '.join(_COMPILERS)}. Install one, or leave "
            "it out."
        )

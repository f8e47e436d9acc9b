"""A tiny seeded encoder, a batch of token ids, a file of pairs and a recipe for the training tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.spawn import ProcessExitedException, spawn
from transformers import GPTNeoXConfig, GPTNeoXModel

from isoembed.data.dataset import PairData, prepare
from isoembed.data.sources import open_source
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.families import NANO
from isoembed.methods import Bias, Freeze, Full, LoRA, Method
from isoembed.recipe import DataStats, Recipe, Setup, solve
from isoembed.training.callbacks import StepFacts
from isoembed.training.distributed import process_group
from isoembed.training.gradients import Memory
from isoembed.training.memory import fill, measure_footprint

VOCAB = 61
MODEL = NANO.models[0]
METHODS: list[Method] = [Full(), Freeze(fraction=0.5), Bias(), LoRA(rank=4, alpha=8.0)]
ADJECTIVES = ("red", "green", "blue", "small", "large", "old", "new", "warm", "cold", "round", "fast", "soft", "thin")


def small_encoder(method: Method | None = None, *, dropout: float = 0.0, seed: int = 0) -> Encoder:
    """Two GPT-NeoX blocks of width 16 under `method` (full by default)."""
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout=dropout,
        attention_dropout=dropout,
        use_cache=False,
    )
    model = GPTNeoXModel(config)
    with torch.no_grad():  # larger than the default initialisation, so that gradients are far from rounding error
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    encoder = Encoder((method or Full()).apply(model), "mean")
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide the gradient of A
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder


def batch_ids(pairs: int, *, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Ragged query (2 to 6 tokens) and positive (4 to 17 tokens) ids."""
    rng = np.random.default_rng(seed)
    sides = [
        [rng.integers(2, VOCAB, rng.integers(low, high), dtype=np.int64) for _ in range(pairs)]
        for low, high in ((2, 7), (4, 18))
    ]
    return sides[0], sides[1]


def negative_ids(count: int, *, seed: int = 5) -> list[np.ndarray]:
    """Ragged hard negatives, 3 to 12 tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, VOCAB, rng.integers(3, 13), dtype=np.int64) for _ in range(count)]


def gradients(encoder: Encoder) -> dict[str, torch.Tensor]:
    """The gradients there are, by name, copied."""
    return {name: value.grad.clone() for name, value in encoder.named_parameters() if value.grad is not None}


def assert_same_gradients(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], rtol: float = 1e-4) -> None:
    """The same parameters have gradients, equal to within `rtol` of each one's largest element."""
    assert left.keys() == right.keys()
    assert left
    for name, value in left.items():
        scale = float(value.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(right[name], value, rtol=rtol, atol=rtol * scale, msg=name)


def small_data(folder: Path, *, negatives: int = 0) -> PairData:
    """300 pairs: three adjectives and a number, asked and answered; with 0 to `negatives` hard negatives in turn."""
    file = folder / "pairs.jsonl"
    with file.open("w") as lines:
        for number in range(300):
            words = [ADJECTIVES[(number * step) % len(ADJECTIVES)] for step in (1, 3, 7)]
            row = {
                "query": f"which is {' '.join(words)} {number}?",
                "pos": f"number {number} is {' and '.join(words)}.",
                "neg": [f"no number is {words[0]} {step}." for step in range(number % (negatives + 1))],
            }
            lines.write(json.dumps(row) + "\n")
    return prepare(str(file), load_tokenizer(MODEL.source), context_tokens=32, folder=folder / "tokens")


def mixed_data(folder: Path) -> PairData:
    """300 and 80 pairs of two files, each whole."""
    for name, count in (("a", 300), ("b", 80)):
        rows = ({"query": f"what is {name} {n}?", "pos": f"{name} number {n} is {n % 7}."} for n in range(count))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(f"{folder}/a.jsonl,{folder}/b.jsonl", whole=True)
    return prepare(source, load_tokenizer(MODEL.source), context_tokens=32, folder=folder / "tokens", heldout_pairs=20)


def recipe(data: PairData, method: Method | None = None, steps: int = 6, rate: float = 3e-3) -> Recipe:
    """The smallest nano model on `data`, batches of 16 pairs."""
    method = method or Full()
    tokens = steps * 16 * data.stats.tokens_per_pair
    return solve(
        method.cost(MODEL).flop_per_token * tokens,
        family="nano",
        model=MODEL,
        method=method,
        data=data.stats,
        setup=Setup(batch_pairs=16, context_tokens=32),
        learning_rate=rate,
    )


def of_eight() -> Recipe:
    """Batches of 8 pairs of 16 tokens, of data that are not there."""
    data = DataStats(fingerprint="d", source="none", tokenizer="t", pairs=1000)
    setup = Setup(batch_pairs=8, context_tokens=16)
    return solve(1e9, family="nano", model=MODEL, method=Full(), data=data, setup=setup, learning_rate=1e-3)


def scarce(**changes: Any) -> Callable[..., Memory]:
    """In place of the loop's `plan_memory`: mini-batches of 64 tokens, no room, and `changes`; whatever this machine
    has."""

    def plan(encoder: Encoder, recipe: Recipe, **_: object) -> Memory:
        footprint = measure_footprint(encoder, recipe.context_tokens)
        memory = fill(footprint, 0.0, mini_batch_tokens=64, context_tokens=recipe.context_tokens)
        return replace(memory, **changes)

    return plan


class StopAfter:
    """Sends this process a signal after some steps, as ctrl-C would."""

    def __init__(self, step: int) -> None:
        self.last = step

    def start(self, recipe: Recipe, step: int, tokens: int) -> None: ...

    def step(self, facts: StepFacts) -> None:
        if facts.step == self.last:
            os.kill(os.getpid(), signal.SIGINT)

    def end(self) -> None: ...


def on_two_ranks(worker: Callable[[int, Path], None], folder: Path, *, seconds: float = 900.0) -> None:
    """Run `worker(rank, folder)` in a process each of one gloo group; ranks that wait for each other for ever fail.

    Twice in some hundred runs glibc found a rank's heap spoilt, with sharded weights on a CPU; by what is not known
    (docs/lab-notes/house.md, 2026-11-28). Such ranks are started once more, from the folder as it was, with a warning.
    """
    with TemporaryDirectory() as kept:
        before = shutil.copytree(folder, Path(kept) / "before")
        try:
            _two_ranks(worker, folder, seconds)
        except ProcessExitedException as crash:
            if crash.signal_name != "SIGABRT":
                raise
            warnings.warn(f"a rank died and the ranks were started again: {crash}", stacklevel=2)
            shutil.rmtree(folder)
            shutil.copytree(before, folder)
            _two_ranks(worker, folder, seconds)


def _two_ranks(worker: Callable[[int, Path], None], folder: Path, seconds: float) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = spawn(_rank, (port, worker, folder), nprocs=2, join=False)
    end = time.monotonic() + seconds
    while not ranks.join(timeout=1.0):
        if time.monotonic() > end:
            for process in ranks.processes:
                process.kill()
            raise TimeoutError(f"The ranks did not end within {seconds:.0f} s: they wait for each other.")


def _rank(rank: int, port: int, worker: Callable[[int, Path], None], folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    with process_group():
        worker(rank, folder)

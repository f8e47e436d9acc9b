"""One side of `train_speed.py`, in a process of its own: `python speed_sides.py CASE_FOLDER SIDE RESULT.json`."""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from isoembed.recipe import Recipe
from isoembed.training.callbacks import StepFacts
from isoembed.training.execution import Execution
from isoembed.training.loop import run
from isoembed.training.memory import forget_peak, peak_bytes
from speed_case import Case, clock, recipe_of, tokenized
from speed_peers import Trace, cached_loop, sentence_transformers_loop


class _Clock:
    """Notes when each step ended."""

    def __init__(self, trace: Trace, device: str) -> None:
        self.trace, self.device = trace, device

    def start(self, recipe: Recipe, step: int, tokens: int) -> None:
        self.trace.clock.append(clock(self.device))

    def step(self, facts: StepFacts) -> None:
        self.trace.clock.append(clock(self.device))
        self.trace.losses.append(facts.loss)

    def end(self) -> None: ...


def execution_of(case: Case, words: list[str]) -> Execution:
    """How isoembed runs the case, with the switches that a side's name asks for: packed, padded, compile, fp32,
    chunk8192."""
    chunk = next((int(word.removeprefix("chunk")) for word in words if word.startswith("chunk")), None)
    return Execution(
        device=case.device,
        precision="fp32" if "fp32" in words else case.precision,
        memory_bytes=case.memory_bytes,
        mini_batch_tokens=chunk,
        packed=True if "packed" in words else False if "padded" in words else None,
        compile="compile" in words,
        checkpoint_seconds=math.inf,
    )


def facts_of(case: Case, folder: Path, side: str) -> dict[str, Any]:
    """Run one side of the case, `isoembed` with its switches behind a plus each or a peer's name and size, or the
    limit, `gemm`."""
    kind, _, size = side.partition(":")
    if kind == "gemm":
        return {"side": side} | gemm(case, folder)
    device = torch.device(case.device)
    started = time.perf_counter()
    data = tokenized(case, folder, folder / f"tokens-{kind}")
    facts: dict[str, Any] = {"side": side, "resident_bytes": psutil.Process().memory_info().rss}
    tokenised = time.perf_counter() - started
    recipe = recipe_of(case, folder, data)
    forget_peak(device)
    own, *words = kind.split("+")
    match own:
        case "isoembed":
            trace = Trace()
            with tempfile.TemporaryDirectory(dir=folder) as place:
                _, record = run(
                    recipe,
                    data,
                    Path(place),
                    execution=execution_of(case, words),
                    callbacks=[_Clock(trace, case.device)],
                )
            assert record.recomputed_flop is not None
            once = record.executed_flop - record.recomputed_flop
            facts |= {
                "tokenise_seconds": tokenised,
                "padding": once / record.model_flop,
                "recomputation": record.executed_flop / once,
            }
        case "gradcache" | "gradcache-checkpointed":
            trace = cached_loop(case, folder, recipe, int(size), checkpointing=own != "gradcache")
        case _:
            trace = sentence_transformers_loop(case, folder, recipe, own.removeprefix("st-"), int(size or 0))
    return facts | {
        "peak_bytes": peak_bytes(device),
        "losses": trace.losses,
        "step_seconds": [later - earlier for earlier, later in zip(trace.clock, trace.clock[1:], strict=False)],
        "tokens": recipe.train_tokens,
        "model_flop_per_token": recipe.cost.flop_per_token,
    }


def main() -> None:
    folder, side, result = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    case = Case.load(folder)
    torch.set_num_threads(case.threads)
    result.write_text(json.dumps(facts_of(case, folder, side)))


def gemm(case: Case, folder: Path, *, seconds: float = 0.5) -> dict[str, Any]:
    """FLOP/s of the three products of each dense layer (forward, gradients of input and of weight) on 1,024 tokens (a
    GPU: 16,384), all layers taken together as a step does; each product timed for `seconds`, after one run that is not.
    """
    spec = recipe_of(case, folder, tokenized(case, folder, folder / "order")).model
    spent, done, shapes = 0.0, 0.0, {}
    place: dict[str, Any] = {
        "device": case.device,
        "dtype": torch.bfloat16 if case.precision == "bf16" else torch.float32,
    }
    tokens, at_once = (1024, 1) if case.device == "cpu" else (16384, 20)
    for layer in spec.dense:
        inputs, slopes = torch.randn(tokens, layer.inputs, **place), torch.randn(tokens, layer.outputs, **place)
        weight = torch.randn(layer.outputs, layer.inputs, **place)
        flop = 2.0 * tokens * layer.inputs * layer.outputs
        for name, (left, right) in {
            "forward": (inputs, weight.T),
            "input": (slopes, weight),
            "weight": (slopes.T, inputs),
        }.items():
            left @ right
            runs, started = 0, clock(case.device)
            while (passed := clock(case.device) - started) < seconds:
                for _ in range(at_once):  # between two waits for a GPU
                    left @ right
                runs += at_once
            shapes[f"{layer.inputs}x{layer.outputs} {name}"] = flop * runs / passed
            spent += layer.count * passed / runs
            done += layer.count * flop
    return {"gemm_flop_per_second": done / spent, "shapes": shapes}


if __name__ == "__main__":
    main()

"""One side of `train_speed.py`, in a process of its own: `python speed_sides.py CASE_FOLDER SIDE RESULT.json`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from isoembed.recipe import Recipe
from isoembed.training.loop import Execution, run
from isoembed.training.memory import peak_bytes
from isoembed.training.watchers import StepFacts
from speed_case import Case, recipe_of, tokenized
from speed_peers import Trace, cached_loop, sentence_transformers_loop

CPU = torch.device("cpu")


class _Clock:
    """Notes when each step ended."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def start(self, recipe: Recipe, step: int, tokens: int) -> None:
        self.trace.clock.append(time.perf_counter())

    def step(self, facts: StepFacts) -> None:
        self.trace.clock.append(time.perf_counter())
        self.trace.losses.append(facts.loss)

    def end(self) -> None: ...


def main() -> None:
    folder, side, result = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    case = Case.load(folder)
    torch.set_num_threads(case.threads)
    kind, _, size = side.partition(":")
    facts: dict[str, Any] = {"side": side}
    if kind == "gemm":
        facts |= gemm(case, folder)
    else:
        started = time.perf_counter()
        data = tokenized(case, folder, folder / f"tokens-{kind}")
        tokenised = time.perf_counter() - started
        recipe = recipe_of(case, folder, data)
        facts["resident_bytes"] = psutil.Process().memory_info().rss
        match kind:
            case "isoembed":
                trace = Trace()
                execution = Execution(device="cpu", memory_bytes=case.memory_bytes, checkpoint_seconds=1e9)
                _, record = run(recipe, data, folder / "run", execution=execution, watchers=[_Clock(trace)])
                assert record.recomputed_flop is not None
                once = record.executed_flop - record.recomputed_flop
                facts |= {
                    "tokenise_seconds": tokenised,
                    "padding": once / record.model_flop,
                    "recomputation": record.executed_flop / once,
                }
            case "gradcache" | "gradcache-checkpointed":
                trace = cached_loop(case, folder, recipe, int(size), checkpointing=kind != "gradcache")
            case _:
                trace = sentence_transformers_loop(case, folder, recipe, kind.removeprefix("st-"), int(size or 0))
        facts |= {
            "peak_bytes": peak_bytes(CPU),
            "losses": trace.losses,
            "step_seconds": [later - earlier for earlier, later in zip(trace.clock, trace.clock[1:], strict=False)],
            "tokens": recipe.train_tokens,
            "model_flop_per_token": recipe.cost.flop_per_token,
        }
    result.write_text(json.dumps(facts))


def gemm(case: Case, folder: Path, *, seconds: float = 0.5) -> dict[str, Any]:
    """FLOP/s of the three products of each dense layer (forward, gradients of input and of weight) on 1,024 tokens, all
    layers taken together as a step does; each product timed for `seconds`, after one run that is not."""
    spec = recipe_of(case, folder, tokenized(case, folder, folder / "order")).model
    tokens, spent, done, shapes = 1024, 0.0, 0.0, {}
    for layer in spec.dense:
        inputs, slopes = torch.randn(tokens, layer.inputs), torch.randn(tokens, layer.outputs)
        weight = torch.randn(layer.outputs, layer.inputs)
        flop = 2.0 * tokens * layer.inputs * layer.outputs
        for name, (left, right) in {
            "forward": (inputs, weight.T),
            "input": (slopes, weight),
            "weight": (slopes.T, inputs),
        }.items():
            left @ right
            runs, started = 0, time.perf_counter()
            while (passed := time.perf_counter() - started) < seconds:
                left @ right
                runs += 1
            shapes[f"{layer.inputs}x{layer.outputs} {name}"] = flop * runs / passed
            spent += layer.count * passed / runs
            done += layer.count * flop
    return {"gemm_flop_per_second": done / spent, "shapes": shapes}


if __name__ == "__main__":
    main()

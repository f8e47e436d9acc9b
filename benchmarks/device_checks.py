"""Is training right on this device?  Each check compares with the CPU in fp32, or with itself done another way.

    python benchmarks/device_checks.py methods --device cuda --out result.json
    python benchmarks/device_checks.py switches --device cuda --out result.json
    python benchmarks/device_checks.py memory --device cuda --out result.json
    python benchmarks/device_checks.py export --device cuda --out result.json

A result names what was measured, the bound it must keep, and whether it did.  The exit status is 0 either way: a figure
out of bounds is a finding, an exception is none.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from isoembed.core import InputError, StoppedError, write_atomically
from isoembed.data.batches import batches
from isoembed.data.dataset import PairData
from isoembed.encoder.attention import unmasked
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.encoder import Encoder
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.encoder.worker_pool import WorkerPool
from isoembed.methods import Full, Method, method_named, names
from isoembed.recipe import Recipe
from isoembed.training.callbacks import StepFacts
from isoembed.training.execution import Execution
from isoembed.training.gradients import Memory, accumulate_gradients
from isoembed.training.loop import run
from isoembed.training.objective import Objective
from speed_case import Case, build, recipe_of, surroundings, tokenized
from speed_peers import initial

#: as shares of the CPU's gradient, and nats of the CPU's loss: what rounding may do
FP32, BF16 = 2e-3, 6e-2
#: keep no graph, or all of them
NONE, ALL = Memory(2048, 0), Memory(2048, 10**9)


class Found:
    """Figures with their bounds."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, Any]] = {}

    def note(self, name: str, value: float, bound: float) -> None:
        self.figures[name] = {"value": value, "bound": bound, "ok": bool(value <= bound)}


def gradient(
    encoder: Encoder, batch: Any, memory: Memory, *, bf16: bool = False
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch, on the CPU."""
    device = next(encoder.parameters()).device
    encoder.zero_grad()
    encoder.train()
    objective = Objective(0.025).of(batch, device)
    step = accumulate_gradients(WorkerPool(encoder), batch.query_ids, batch.positive_ids, objective, memory, bf16=bf16)
    return step.loss, {n: p.grad.float().cpu() for n, p in encoder.named_parameters() if p.grad is not None}


def away(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Distance between gradients as a share of the wanted one's length; infinite where parameters differ."""
    if found.keys() != wanted.keys():
        return math.inf
    square = sum(float(((found[name] - wanted[name]) ** 2).sum()) for name in wanted)
    return math.sqrt(square / sum(float((value**2).sum()) for value in wanted.values()))


def check_methods(case: Case, folder: Path, device: str) -> Found:
    """Every method: gradients of a batch on the device against the CPU's, run twice against kept, packed against
    padded; then five steps in fp32 and bf16 against the CPU's losses."""
    found, data = Found(), tokenized(case, folder, folder / "tokens")
    for name in names():
        method: Method = method_named(name, **({"rank": 8} if "lora" in name else {}))
        try:
            _check_method(found, method, case.model_copy(update={"method": method}), folder, data, device)
        except InputError as error:  # a library that is not there
            found.figures[name] = {"skipped": str(error)}
    return found


def _check_method(found: Found, method: Method, case: Case, folder: Path, data: PairData, device: str) -> None:
    recipe, name = recipe_of(case, folder, data), method.label
    _, batch = next(batches(data, batch_pairs=case.batch_pairs, seed=0))
    encoder = initial(recipe)
    loss, wanted = gradient(encoder, batch, ALL)
    encoder.to(device)
    for precision, bound in (("fp32", FP32), ("bf16", BF16)):
        bf16 = precision == "bf16"
        with unmasked([encoder], context_tokens=case.context_tokens, bf16=bf16):
            kept_loss, kept = gradient(encoder, batch, ALL, bf16=bf16)
            again_loss, again = gradient(encoder, batch, NONE, bf16=bf16)
        found.note(f"{name} {precision}: loss away from the CPU's, nats", abs(kept_loss - loss), bound)
        found.note(
            f"{name} {precision}: gradient away from the CPU's", away(kept, wanted), 5 * bound if bf16 else bound
        )
        found.note(f"{name} {precision}: run twice away from kept", away(again, kept), 1e-4 if not bf16 else bound)
        found.note(f"{name} {precision}: its loss", abs(again_loss - kept_loss), 1e-4 if not bf16 else bound)
    on_cpu = losses(recipe, data, folder, Execution(device="cpu", precision="fp32"))
    for precision, bound in (("fp32", FP32), ("bf16", BF16)):
        own = losses(recipe, data, folder, execution(device, precision))
        found.note(f"{name} {precision}: {len(own)} steps away from the CPU's, nats", furthest(own, on_cpu), bound)


def check_switches(case: Case, folder: Path, device: str) -> Found:
    """Whatever may be switched on trains alike: twenty steps in bf16, packed, compiled, with blocks recomputed."""
    found, data = Found(), tokenized(case, folder, folder / "tokens")
    recipe = recipe_of(case, folder, data)
    plain = losses(recipe, data, folder, execution(device, "fp32"))
    half = losses(recipe, data, folder, execution(device, "bf16"))
    found.note(f"bf16 away from fp32 over {len(plain)} steps, nats", furthest(half, plain), 3e-2)
    how = execution(device, "bf16")
    variants = {
        "packed": replace(how, packed=True),
        "blocks recomputed": replace(how, checkpointing=True),
        "compiled": replace(how, compile=True),
    }
    for name, switched in variants.items():
        try:
            own = losses(recipe, data, folder, switched)
        except Exception as error:
            found.figures[name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}", "ok": False}
            continue
        found.note(f"{name} away from plain bf16, nats", furthest(own, half), 1e-2)
    return found


def check_memory(case: Case, folder: Path, device: str) -> Found:
    """The peak stays within the stated one; and where less is there than was planned for, the run goes on."""
    found, data = Found(), tokenized(case, folder, folder / "tokens")
    recipe, stated = recipe_of(case, folder, data), (case.memory_bytes or 2.0**31)
    _, record = run(recipe, data, folder / "a", execution=replace(execution(device, "bf16"), memory_bytes=stated))
    found.note("peak over the stated one", record.peak_memory_bytes / stated, 1.1)
    found.figures["executed over model FLOP"] = {"value": record.executed_flop / record.model_flop}
    if device.startswith("cuda"):
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(stated / whole)
        _, cut = run(recipe, data, folder / "b", execution=replace(execution(device, "bf16"), memory_bytes=4 * stated))
        torch.cuda.set_per_process_memory_fraction(1.0)
        both = ([point.loss for point in each.loss_curve] for each in (cut, record))
        found.note("out of memory and cut smaller: away in loss, nats", furthest(*both), 1e-2)
        found.figures["executed over model FLOP when cut smaller"] = {"value": cut.executed_flop / cut.model_flop}
    return found


def check_export(case: Case, folder: Path, device: str) -> Found:
    """Stopped and resumed is as not stopped; the exported folder gives the vectors that were trained."""
    found, data = Found(), tokenized(case, folder, folder / "tokens")
    recipe = recipe_of(case, folder, data)
    whole = losses(recipe, data, folder, execution(device, "fp32"))
    how = Execution(device=device, precision="fp32", checkpoint_seconds=0)
    try:
        run(recipe, data, folder / "part", execution=how, callbacks=[_StopAfter(2)])
    except StoppedError:
        encoder, record = run(recipe, data, folder / "part", execution=replace(how, resume=True))
        found.note("resumed away from not stopped, nats", furthest([p.loss for p in record.loss_curve], whole), 1e-3)
    tokenizer = load_tokenizer(str(folder / "model"))
    Embedder(encoder, tokenizer, case.context_tokens).save(folder / "export", card="# checked\n")
    texts = [*data.store.texts("query", data.train[:64]), *data.store.texts("positive", data.train[:64])]
    ours = torch.from_numpy(Embedder(encoder, tokenizer, case.context_tokens).embed(texts))
    theirs = SentenceTransformer(str(folder / "export"), device=device).encode(texts, convert_to_tensor=True).cpu()
    found.note("exported vectors away from the trained ones", float((ours - theirs).abs().max()), 1e-4)
    return found


class _StopAfter:
    """Asks the run to stop after so many steps, as ctrl-C would."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def start(self, recipe: Recipe, step: int, tokens: int) -> None: ...

    def step(self, facts: StepFacts) -> None:
        if facts.step == self.steps:
            signal.raise_signal(signal.SIGINT)

    def end(self) -> None: ...


def execution(device: str, precision: Any) -> Execution:
    return Execution(device=device, precision=precision, checkpoint_seconds=math.inf)


def losses(recipe: Recipe, data: PairData, folder: Path, how: Execution) -> list[float]:
    """Step by step."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        _, record = run(recipe, data, Path(place), execution=how)
    return [point.loss for point in record.loss_curve]


def furthest(one: list[float], other: list[float]) -> float:
    return max(abs(left - right) for left, right in zip(one, other, strict=True))


CHECKS: dict[str, Callable[[Case, Path, str], Found]] = {
    "methods": check_methods,
    "switches": check_switches,
    "memory": check_memory,
    "export": check_export,
}
#: model, pairs a batch, steps: on a GPU, and at the smallest
SIZES = {
    "methods": (("nano-1.6m", 64, 5), ("nano-28k", 8, 2)),
    "switches": (("pythia-160m", 256, 20), ("nano-28k", 8, 3)),
    "memory": (("pythia-160m", 1024, 3), ("nano-28k", 8, 2)),
    "export": (("nano-1.6m", 64, 5), ("nano-28k", 8, 4)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="at the smallest sizes")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    model, batch, steps = SIZES[given.check][given.tiny]
    case = Case(
        model=model,
        method=Full(),
        pairs="paper",
        batch_pairs=batch,
        steps=steps,
        warm_steps=0,
        threads=torch.get_num_threads(),
        learning_rate=1e-4,
        memory_bytes=6 * 2.0**30,
    )
    with tempfile.TemporaryDirectory() as scratch:
        build(case, Path(scratch))
        found = CHECKS[given.check](case, Path(scratch), given.device)
    bad = [name for name, figure in found.figures.items() if figure.get("ok") is False]
    result = {"check": given.check, "out_of_bounds": bad, "figures": found.figures, **surroundings()}
    write_atomically(given.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

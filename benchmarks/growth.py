"""Time and memory against batch, context, model size and data: does anything grow faster than its work?

    python benchmarks/growth.py --out growth.json --figure growth.svg

One thing grows at a time, the others stay at nano-200k, 512 pairs, the paper's lengths.  Training steps run in a
process each, under one stated memory; their work is FLOP with attention and token table, that of data is tokens.  A
slope of 1 in log-log is time in proportion to work.  The figure needs `pip install 'isoembed[report]'` and Chromium.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from data_speed import in_process, write_pairs
from isoembed.core import write_atomically
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.flops import all_in_flop
from isoembed.methods import Full
from isoembed.report.theme import template
from speed_case import TOKENIZER, Case, build, recipe_of, surroundings, tokenized
from train_speed import measure

SIZES = ("nano-28k", "nano-51k", "nano-113k", "nano-200k", "nano-389k", "nano-760k", "nano-1.6m", "nano-3.1m")
BATCHES = (64, 128, 256, 512, 1024, 2048, 4096)
CONTEXTS = (16, 32, 64, 128, 256, 512)
CONTEXT_TOKENS = 65536  # in a batch of the longer and longer texts
PAIRS = (10_000, 30_000, 100_000, 300_000)
UNITS = {"batch": "pairs", "context": "tokens a text", "size": "parameters of the blocks", "data": "pairs"}


def cases(folder: Path, memory_bytes: float) -> Iterator[tuple[str, float, Case]]:
    """(what grows, its value, the case)."""
    plain: dict[str, Any] = {
        "model": "nano-200k",
        "method": Full(),
        "pairs": "paper",
        "batch_pairs": 512,
        "steps": 3,
        "warm_steps": 1,
        "threads": os.cpu_count(),
        "memory_bytes": memory_bytes,
    }
    for batch in BATCHES:
        yield "batch", batch, Case(**plain | {"batch_pairs": batch})
    for context in CONTEXTS:
        batch = CONTEXT_TOKENS // (2 * context)
        file = folder / f"context{context}.jsonl"
        write_full(file, pairs=3 * batch, words=context)
        yield "context", context, Case(**plain | {"pairs": str(file), "batch_pairs": batch, "context_tokens": context})
    for name in SIZES:
        yield "size", 0, Case(**plain | {"model": name})


def write_full(file: Path, *, pairs: int, words: int) -> None:
    """Texts of `words` random words and more, so that every one fills a context of as many tokens."""
    rng = np.random.default_rng(0)
    known = sorted(
        token[1:] for token in load_tokenizer(TOKENIZER).get_vocab() if token[0] == "Ġ" and token[1:].isalpha()
    )
    with file.open("w", encoding="utf-8") as lines:
        for _ in range(pairs):
            query, positive = (" ".join(rng.choice(known, words)) for _ in range(2))
            lines.write(json.dumps({"query": query, "pos": positive}) + "\n")


def step_point(case: Case, folder: Path, timeout: float) -> dict[str, Any]:
    """Seconds, bytes and work of a step."""
    build(case, folder)
    data = tokenized(case, folder, folder / "order")
    recipe = recipe_of(case, folder, data)
    lengths = np.concatenate([data.store.kept_tokens(side)[data.train] for side in ("query", "positive")])
    work = all_in_flop(
        recipe.cost,
        tokens=int(lengths.sum()),
        squared_lengths=float((lengths.astype(float) ** 2).sum()),
        hidden=recipe.model.attention_width,
        blocks=recipe.model.blocks,
    )
    found = measure(folder, "isoembed", timeout)
    if "failed" in found:
        return found
    return {
        "work": work / case.steps,
        "seconds": min(found["step_seconds"][case.warm_steps :]),
        "peak_bytes": found["peak_bytes"],
        "resident_bytes": found["resident_bytes"],
        "parameters": recipe.model.params,
    }


def data_points(folder: Path) -> Iterator[dict[str, Any]]:
    """Tokenising more and more pairs."""
    for pairs in PAIRS:
        file = folder / f"pairs{pairs}.jsonl"
        write_pairs(file, pairs)
        found = in_process(file, folder / f"tokens{pairs}")
        yield {"value": pairs, "work": found["tokens"], **{key: found[key] for key in ("seconds", "peak_bytes")}}


def slope(points: list[dict[str, Any]]) -> float:
    """Of the logarithm of seconds over that of work."""
    work, seconds = (np.log([point[key] for point in points]) for key in ("work", "seconds"))
    return float(np.polyfit(work, seconds, 1)[0])


def figure(growth: dict[str, list[dict[str, Any]]]) -> go.Figure:
    """Seconds above, peak memory below, one column for each thing that grows."""
    drawn = make_subplots(2, len(growth), vertical_spacing=0.12, horizontal_spacing=0.06, shared_xaxes=True)
    for column, (name, points) in enumerate(growth.items(), start=1):
        values = [point["value"] for point in points]
        rows = {"seconds": [point["seconds"] for point in points]}
        rows["peak GiB"] = [point["peak_bytes"] / 2**30 for point in points]
        line = [points[-1]["seconds"] * point["work"] / points[-1]["work"] for point in points]
        for row, (label, seen) in enumerate(rows.items(), start=1):
            if row == 1:
                look = {"color": "#7A7F87", "dash": "dot"}
                drawn.add_scatter(x=values, y=line, mode="lines", line=look, showlegend=False, row=1, col=column)
            look = {"color": "#0072B2"}
            drawn.add_scatter(x=values, y=seen, mode="lines+markers", line=look, showlegend=False, row=row, col=column)
            drawn.update_yaxes(type="log", title=label if column == 1 else None, row=row, col=column)
            drawn.update_xaxes(type="log", dtick="D2", row=row, col=column)
        drawn.update_yaxes(dtick="D2", col=column)
        drawn.update_yaxes(range=[-1, 1], row=2, col=column)  # 0.1 to 10 GiB: flat is to look flat
        drawn.update_xaxes(title=f"{name}: {UNITS[name]}", row=2, col=column)
    drawn.update_layout(
        template=template(), width=1200, height=560, title="Time and memory as one thing grows (dotted: its work)"
    )
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-gib", type=float, default=2.0)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds a point")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    parser.add_argument("--figure", type=Path, help="file for the figure: .svg, .png or .html")
    given = parser.parse_args()
    growth: dict[str, list[dict[str, Any]]] = {name: [] for name in UNITS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for number, (name, value, case) in zip(itertools.count(), cases(folder, given.memory_gib * 2**30)):
            place = folder / f"case{number}"
            place.mkdir()
            point = step_point(case, place, given.timeout)
            if "failed" in point:
                raise SystemExit(f"{name} {value}: {point['failed']}")
            growth[name].append({"value": value or point["parameters"], **point})
            print(
                f"{name:8}{growth[name][-1]['value']:>12,}{point['seconds']:9.3f} s{point['work']:12.3g} FLOP",
                flush=True,
            )
        growth["data"] = list(data_points(folder))
    slopes = {name: slope(points) for name, points in growth.items()}
    for name, found in slopes.items():
        peaks = [point["peak_bytes"] / 2**30 for point in growth[name]]
        print(f"{name:8}seconds ~ work^{found:.2f}   peak {peaks[0]:.2f} to {peaks[-1]:.2f} GiB")
    if given.out is not None:
        result = {"memory_gib": given.memory_gib, "slopes": slopes, "growth": growth, **surroundings()}
        write_atomically(given.out, json.dumps(result, indent=1) + "\n")
    if given.figure is not None and given.figure.suffix == ".html":
        figure(growth).write_html(given.figure)
    elif given.figure is not None:
        figure(growth).write_image(given.figure)


if __name__ == "__main__":
    main()

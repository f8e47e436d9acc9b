"""What the sides of a speed comparison share: the model's weights, the pairs in their order, and the settings.

A case is a folder: `case.json`, `model/` (weights and tokenizer), `pairs.jsonl` (what isoembed reads) and
`ordered.jsonl` (the same pairs in the order in which isoembed's first epoch visits them, for the peers).  No text
occurs twice in it: peers would count the other pairs of such a batch as negatives, isoembed does not.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXModel, PreTrainedTokenizerBase

from isoembed.core import Frozen, InputError
from isoembed.data.dataset import PairData, prepare
from isoembed.data.normalize import normalized
from isoembed.data.order import permutation
from isoembed.data.sources import open_source
from isoembed.encoder.load import load_model
from isoembed.encoder.shapes import spec_from_config
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.families import PYTHIA
from isoembed.methods import Method
from isoembed.recipe import Precision, Recipe

#: attention heads of the Pythia sizes, from their published configurations
HEADS = {
    "pythia-14m": 4,
    "pythia-31m": 8,
    "pythia-70m": 8,
    "pythia-160m": 12,
    "pythia-410m": 16,
    "pythia-1b": 8,
    "pythia-1.4b": 16,
}
PACKAGES = ("isoembed", "torch", "transformers", "sentence-transformers")
TOKENIZER = "nano/nano-28k"


class Case(Frozen):
    """Settings of one comparison."""

    model: str
    method: Method
    pairs: str
    batch_pairs: int
    steps: int
    warm_steps: int
    context_tokens: int = 75
    temperature: float = 0.025
    learning_rate: float = 1e-3
    seed: int = 0
    threads: int = 1
    memory_bytes: float | None = None
    device: str = "cpu"
    precision: Precision = "fp32"

    @property
    def tolerance(self) -> float:
        """Nats that two loss curves may differ by at any step: rounding, which bf16 has more of."""
        return 3e-2 if self.precision == "bf16" else 1e-3

    @classmethod
    def load(cls, folder: Path) -> Case:
        return cls.model_validate_json((folder / "case.json").read_bytes())


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--model, --method and its hyperparameters, as the benchmarks of training take them."""
    parser.add_argument("--model", default="nano-1.6m", help="a nano model, or a Pythia's shape with random weights")
    parser.add_argument("--method", default="full", choices=("full", "freeze", "bias", "lora"))
    parser.add_argument("--fraction", type=float, help="freeze: active share of the blocks")
    parser.add_argument("--rank", type=int, help="lora: rank")


def build(case: Case, folder: Path, tokenizer_source: str = TOKENIZER) -> None:
    """Write the case into the empty `folder`."""
    (folder / "case.json").write_text(case.model_dump_json(indent=1))
    model = folder / "model"
    if case.model in HEADS:
        save_random(case.model, model)
    elif Path(case.model).is_dir():
        shutil.copytree(case.model, model)
    else:
        base: Any = load_model(f"nano/{case.model}")
        base.save_pretrained(model)
    tokenizer = load_tokenizer(tokenizer_source)
    tokenizer.save_pretrained(model)
    source = paper_pairs(tokenizer, case.seed) if case.pairs == "paper" else source_pairs(case.pairs)
    wanted = case.steps * case.batch_pairs
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as lines:
        texts = list(itertools.islice(unique(source), wanted))
        lines.writelines(json.dumps({"query": query, "pos": positive}) + "\n" for query, positive in texts)
    if len(texts) < wanted:
        raise InputError(
            f"`--pairs` must hold --steps x --batch pairs without a repeated text: {len(texts)} < {wanted} in "
            f"{case.pairs}; take fewer steps or a smaller batch."
        )
    data = tokenized(case, folder, folder / "order")
    rows = data.train[permutation(case.seed, 0, len(data.train))]
    with (folder / "ordered.jsonl").open("w", encoding="utf-8") as lines:
        for query, positive in zip(data.store.texts("query", rows), data.store.texts("positive", rows), strict=True):
            lines.write(json.dumps({"query": query, "positive": positive}) + "\n")


def clock(device: str) -> float:
    """Seconds, when what was asked of `device` is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def ordered(folder: Path) -> list[dict[str, str]]:
    """The case's pairs in isoembed's order."""
    return [json.loads(line) for line in (folder / "ordered.jsonl").read_text(encoding="utf-8").splitlines()]


def surroundings() -> dict[str, Any]:
    """Machine, versions and date, for a result."""
    return {
        "machine": {
            "processor": platform.processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        },
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def save_random(name: str, folder: Path) -> None:
    """A model of a Pythia's shape with random weights."""
    spec = PYTHIA.model(name)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=spec.vocab,
        hidden_size=spec.hidden,
        num_hidden_layers=spec.blocks,
        num_attention_heads=HEADS[name],
        intermediate_size=4 * spec.hidden,
        max_position_embeddings=spec.context,
        use_cache=False,
    )
    GPTNeoXModel(config).save_pretrained(folder)


def tokenized(case: Case, folder: Path, cache: Path) -> PairData:
    """The case's pairs, all of them for training, tokenised into `cache`."""
    return prepare(
        str(folder / "pairs.jsonl"),
        load_tokenizer(str(folder / "model")),
        context_tokens=case.context_tokens,
        folder=cache,
        heldout_pairs=0,
    )


def recipe_of(case: Case, folder: Path, data: PairData) -> Recipe:
    """One pass over the pairs at a constant learning rate."""
    tokens = sum(int(data.store.kept_tokens(side)[data.train].sum()) for side in ("query", "positive"))
    return Recipe(
        family="custom",
        model=spec_from_config(str(folder / "model")),
        method=case.method,
        data=data.stats,
        seed=case.seed,
        train_tokens=tokens,
        batch_pairs=case.batch_pairs,
        context_tokens=case.context_tokens,
        temperature=case.temperature,
        learning_rate=case.learning_rate,
        warmup=0.0,
        end_fraction=1.0,
    )


def paper_pairs(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[tuple[str, str]]:
    """Random words in the lengths of the paper's corpus: about 14 tokens a query, 64 of 75 a positive."""
    rng = np.random.default_rng(seed)
    words = sorted({token[1:] for token in tokenizer.get_vocab() if token[0] == "Ġ" and token[1:].isalpha()})
    while True:
        lengths = np.exp(rng.normal((np.log(13.0), np.log(72.0)), (0.35, 0.4))).astype(int).clip(2, 75)
        query, positive = (" ".join(rng.choice(words, length)) for length in lengths)
        yield query, positive


def source_pairs(spec: str) -> Iterator[tuple[str, str]]:
    """The pairs of any of isoembed's sources."""
    for pair in open_source(spec):
        yield pair.query, pair.positive


def unique(pairs: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Those of which neither text has been seen, stripped (sentence-transformers may strip what it reads)."""
    seen: set[str] = set()
    for query, positive in pairs:
        texts = {normalized(query), normalized(positive)}
        if len(texts) == 2 and "" not in texts and not texts & seen:
            seen |= texts
            yield query.strip(), positive.strip()

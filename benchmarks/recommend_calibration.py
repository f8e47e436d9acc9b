"""Are the probabilities, regrets and intervals that a recommendation states right?  Simulated: three methods with
planted laws on the nano sizes, runs at seven budgets with 1 % noise; asked inside the fitted range and at ten times its
top.

    python benchmarks/recommend_calibration.py                   about a minute and a half on one idle core
    python benchmarks/recommend_calibration.py --forms           laws of a form unknown to the fit: ten minutes
    python benchmarks/recommend_calibration.py --quick           a tenth of the worlds, printed, nothing written

The first plants Hoffmann's law and fits it, in 200 worlds.  `--forms` plants in each of 100 worlds one of three forms,
two of which are none of ours, and lets the laws of `isoembed fit` compete; judged are the recommendations by the winner
alone (`one form`) and by it with the forms that were not told from it (`forms`), which is what ships.

Results: benchmarks/results/recommend_calibration.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoembed.budget import Budget
from isoembed.core import write_atomically
from isoembed.families import NANO, ModelSpec
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.settings import Group, Settings, TestedSetting
from isoembed.fitting.study import HOLDOUTS, study
from isoembed.laws import COMPARED, Law, Points, law_named
from isoembed.laws.points import Floats
from isoembed.methods import Freeze, Full, LoRA
from isoembed.recipe import DataStats
from isoembed.recommendation.recommend import recommend

RESULTS = Path(__file__).parent / "results" / "recommend_calibration.json"
WORLDS, FORM_WORLDS, DRAWS, NOISE = 200, 100, 200, 0.01
BUDGETS = np.geomspace(3e9, 1e12, 7)
TARGETS = {"inside": 3e11, "beyond": 1e13}
#: tokens below which no run is made: 30 steps of 64 pairs of 78 tokens
LEAST_TOKENS = 30 * 64 * 78
TRIED = {
    "full": TestedSetting(method=Full()),
    "freeze": TestedSetting(method=Freeze(fraction=0.5)),
    "lora": TestedSetting(method=LoRA(rank=3, alpha=6.0), of_width="1/8"),
}
TRUTH = {"E": 1.0, "A": 60.0, "B": 900.0, "alpha": 0.35, "beta": 0.42}
LAW = law_named("hoffmann")
#: how the planted terms of size and of data make a loss above E: their sum; a norm of the two, as in Kaplan et al.
#: 2020, eq. 1.5; a sum in which more data make size matter less
FORMS = ("sum", "norm", "drift")
NORM, DRIFT = 2.4, 0.05
#: tokens at which the third form is the first one
MIDDLE = 1e7


@dataclass(frozen=True)
class Truth:
    """One method's planted law."""

    form: str
    params: dict[str, float]

    def loss(self, params: Floats, tokens: Floats) -> Floats:
        """Of runs, without noise."""
        known = self.params
        size, data = known["A"] / params ** known["alpha"], known["B"] / tokens ** known["beta"]
        if self.form == "norm":
            return np.asarray(known["E"] + (size**NORM + data**NORM) ** (1 / NORM))
        if self.form == "drift":
            size = size * (1 - DRIFT * np.log(tokens / MIDDLE))
        return np.asarray(known["E"] + size + data)


def tokens(name: str, model: ModelSpec, flop: float) -> float:
    """D that `flop` pays for."""
    return float(flop / TRIED[name].on(model).cost(model).flop_per_token)


def world(seed: int, fitted: Sequence[Law], forms: Sequence[str]) -> tuple[dict[str, Truth], LawSet]:
    """Planted laws of one of `forms` that differ by a few per cent between methods, and what comes of the laws `fitted`
    to noisy runs of them."""
    chance = np.random.default_rng(seed)
    form = forms[seed % len(forms)]
    truths, laws = {}, []
    for name, tried in TRIED.items():
        truth = Truth(form, {key: value * chance.uniform(0.97, 1.03) for key, value in TRUTH.items()})
        runs = [
            (model.params, tokens(name, model, flop), flop)
            for flop in BUDGETS
            for model in NANO.models
            if tokens(name, model, flop) >= LEAST_TOKENS
        ]
        params, seen, flop_R = (np.array(column) for column in zip(*runs, strict=True))
        losses = truth.loss(params, seen) * np.exp(chance.normal(0, NOISE, len(params)))
        points = Points.of(params, seen, losses, flop=flop_R)
        group = Group(name, points, tuple(range(len(params))), (tried,), Settings(family="nano"))
        truths[name] = truth
        by = HOLDOUTS["largest"] if len(fitted) > 1 else ()
        laws.append(study(fitted, group, source="planted", draws=DRAWS, by=by))
    return truths, LawSet(laws=tuple(laws))


def judge(truths: dict[str, Truth], laws: LawSet, flop: float, chance: np.random.Generator) -> dict[str, float]:
    """One recommendation against the truth."""
    data = DataStats(pairs=10**12, fingerprint="planted")
    found = recommend(Budget(stated="", flop=flop), NANO, law=laws, data=data)
    assert found.certainty is not None
    assert found.loss is not None
    true = {
        (name, model.name): float(truths[name].loss(np.array(float(model.params)), np.array(tokens(name, model, flop))))
        for name in TRIED
        for model in NANO.models
        if tokens(name, model, flop) >= LEAST_TOKENS
    }
    best = min(true, key=lambda key: true[key])
    chosen = (found.recipe.method.name, found.recipe.model.name)
    run = true[chosen] * np.exp(chance.normal(0, NOISE))
    low, high = found.loss.ends
    return {
        "method_stated": found.certainty.method,
        "method_right": chosen[0] == best[0],
        "recipe_stated": found.certainty.recipe,
        "recipe_right": chosen == best,
        "regret_stated": found.certainty.regret,
        "regret_true": true[chosen] - true[best],
        "run_inside_interval": low <= run <= high,
        "interval_width": (high - low) / true[chosen],
        "next_run_removes": 0.0 if found.next_run is None else found.next_run.removes,
    }


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means over worlds, and those of the method by how sure the recommendation said it was."""
    result: dict[str, Any] = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}
    for what in ("method", "recipe"):
        stated = np.array([row[f"{what}_stated"] for row in rows])
        right = np.array([row[f"{what}_right"] for row in rows])
        for label, low, high in (("<.6", 0, 0.6), (".6-.8", 0.6, 0.8), (".8-.95", 0.8, 0.95), (">.95", 0.95, 1.01)):
            if (inside := (stated >= low) & (stated < high)).any():
                result[f"{what} {label}"] = {
                    "worlds": int(inside.sum()),
                    "stated": round(float(stated[inside].mean()), 3),
                    "right": round(float(right[inside].mean()), 3),
                }
    return result


def one_form(laws: LawSet) -> LawSet:
    """The laws without the forms beside them."""
    return LawSet(laws=tuple(law.model_copy(update={"alternatives": ()}) for law in laws.laws))


def known_form(worlds: int) -> dict[str, Any]:
    """The law that is planted is the law that is fitted."""
    judged: dict[str, list[dict[str, float]]] = {where: [] for where in TARGETS}
    for seed in range(worlds):
        truths, laws = world(seed, [LAW], ("sum",))
        for where, flop in TARGETS.items():
            judged[where].append(judge(truths, laws, flop, np.random.default_rng([7, seed])))
    return {"worlds": worlds, **{where: summary(rows) for where, rows in judged.items()}}


def unknown_form(worlds: int) -> dict[str, Any]:
    """One of three planted forms, and the laws of `isoembed fit`."""
    judged: dict[str, dict[str, list[dict[str, float]]]] = {where: {"one form": [], "forms": []} for where in TARGETS}
    kept = 0
    for seed in range(worlds):
        truths, laws = world(seed, COMPARED, FORMS)
        kept += sum(len(law.alternatives) for law in laws.laws)
        for where, flop in TARGETS.items():
            for name, used in (("one form", one_form(laws)), ("forms", laws)):
                judged[where][name].append(judge(truths, used, flop, np.random.default_rng([7, seed])))
    found = {where: {name: summary(rows) for name, rows in both.items()} for where, both in judged.items()}
    return {"worlds": worlds, "forms_beside_a_law": round(kept / worlds / len(TRIED), 2), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", action="store_true", help="plant laws of a form unknown to the fit")
    parser.add_argument("--quick", action="store_true", help="a tenth of the worlds, nothing written")
    given = parser.parse_args()
    begun = time.perf_counter()
    less = 10 if given.quick else 1
    found = unknown_form(FORM_WORLDS // less) if given.forms else known_form(WORLDS // less)
    found["seconds"] = round(time.perf_counter() - begun, 1)
    print(json.dumps(found, indent=1))
    if not given.quick:
        before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
        result = {
            "draws": DRAWS,
            "noise": NOISE,
            **{key: before[key] for key in ("known form", "unknown form") if key in before},
        }
        result["unknown form" if given.forms else "known form"] = found
        write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Are the probabilities, regrets and intervals that a recommendation states right?  Simulated: three methods with
planted laws on the nano sizes, runs at seven budgets with 1 % noise; asked inside the fitted range and at ten times its
top.

    python benchmarks/recommend_calibration.py                   about a minute and a half on one idle core
    python benchmarks/recommend_calibration.py --forms           laws of a form unknown to the fit: ten minutes
    python benchmarks/recommend_calibration.py --each 20     each form that competes, planted in turn, for 20 minutes
    python benchmarks/recommend_calibration.py --quick           a tenth of the worlds, printed, nothing written

The first plants Hoffmann's law and fits it, in 200 worlds.  `--forms` plants in each of 100 worlds one of three forms,
two of which are none of ours, and lets the laws of `isoembed fit` compete; judged are the recommendations by the winner
alone (`one form`) and by it with the forms that were not distinguishable from it (`forms`), which is what ships.

`--each` plants each law that competes in `best`, losses of 1,024 candidates, lets all of them compete, and asks inside
the range and at 4 and 10 times its top.

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
from isoembed.recommendation.frontier import OutOfReachError
from isoembed.recommendation.recommend import recommend

RESULTS = Path(__file__).parent / "results" / "recommend_calibration.json"
WORLDS, FORM_WORLDS, DRAWS, NOISE = 200, 100, 200, 0.01
BUDGETS = np.geomspace(3e9, 1e12, 7)
TARGETS = {"inside": 3e11, "beyond": 1e13}
EACH_TARGETS = {"inside": 3e11, "4x": 4e12, "10x": 1e13}
CANDIDATES = 1024
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
#: what is planted of each form that competes: losses from 2 to 6.5 at these budgets
PLANTED = {
    "hoffmann": {"E": 1.0, "A": 60.0, "B": 500.0, "alpha": 0.35, "beta": 0.42},
    "tied": {"E": 1.0, "A": 70.0, "B": 320.0, "alpha": 0.38},
    "embedding": {"C": 1.0, "a_d": 2.0, "b_d": 30.0, "a_s": 0.0, "c_s": 500.0, "alpha": 0.35, "beta": 0.42, "b_s": 1.0},
    "multiplicative": {"E": 1.0, "A": 60.0, "alpha": 0.07, "beta": 0.19},
    "interaction-odds": {
        "E": 0.001, "A": 2000.0, "B": 3600.0, "a": 1.08, "b": 0.57, "g": 0.24, "s": 0.0, "t": 0.0, "K": 1024.0,
    },
}  # fmt: skip
#: parameters that differ by up to 3 % between methods, and exponents by as much
_FIXED = ("K", "b_s", "s", "t")
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
        if self.form in PLANTED:
            return law_named(self.form).predict(known, Points.of(params, tokens, np.ones_like(params)))
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
        truth = Truth(
            form,
            {
                key: value if key in _FIXED else value * chance.uniform(0.97, 1.03)
                for key, value in PLANTED.get(form, TRUTH).items()
            },
        )
        runs = [
            (model.params, tokens(name, model, flop), flop)
            for flop in BUDGETS
            for model in NANO.models
            if tokens(name, model, flop) >= LEAST_TOKENS
        ]
        params, seen, flop_R = (np.array(column) for column in zip(*runs, strict=True))
        losses = truth.loss(params, seen) * np.exp(chance.normal(0, NOISE, len(params)))
        points = Points.of(params, seen, losses, flop=flop_R, candidates=CANDIDATES if form in PLANTED else None)
        group = Group(name, points, tuple(range(len(params))), (tried,), Settings(family="nano", data="planted"))
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
        (name, model.name): truths[name]
        .loss(np.array([float(model.params)]), np.array([tokens(name, model, flop)]))
        .item()
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


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure, over worlds."""
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Means over worlds, and those of the method by how sure the recommendation said it was."""
    result: dict[str, Any] = means(rows)
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


def each_form(minutes: float) -> dict[str, Any]:
    """Each law that competes planted in turn, as many rounds as end in `minutes`; at 10x too by the form planted."""
    judged: dict[str, dict[str, list[dict[str, float]]]] = {where: {} for where in EACH_TARGETS}
    named, signs, ended, worlds = 0, 0, time.perf_counter() + 60 * minutes, 0
    while time.perf_counter() < ended:
        form = list(PLANTED)[worlds % len(PLANTED)]
        truths, laws = world(worlds, COMPARED, tuple(PLANTED))
        named += sum(law.law == form for law in laws.laws)
        signs += sum(law.drift.shift != 0 for law in laws.laws)
        for where, flop in EACH_TARGETS.items():
            try:
                row = judge(truths, laws, flop, np.random.default_rng([7, worlds]))
            except OutOfReachError:
                continue
            judged[where].setdefault(form, []).append(row)
        worlds += 1
        print(worlds, form, [law.law for law in laws.laws], round(ended - time.perf_counter()), flush=True)
    found = {
        where: {
            "all": summary([row for rows in by_form.values() for row in rows]),
            **{form: {"worlds": len(rows), **means(rows)} for form, rows in by_form.items()},
        }
        for where, by_form in judged.items()
    }
    laws_fitted = worlds * len(TRIED)
    return {
        "worlds": worlds, "planted_form_named": round(named / laws_fitted, 2),
        "shifted_by_back_tests": round(signs / laws_fitted, 2), **found,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", action="store_true", help="plant laws of a form unknown to the fit")
    parser.add_argument("--quick", action="store_true", help="a tenth of the worlds, nothing written")
    parser.add_argument("--each", type=float, metavar="MINUTES", help="plant each form that competes, for so long")
    given = parser.parse_args()
    begun = time.perf_counter()
    less = 10 if given.quick else 1
    if given.each:
        what, found = "each form", each_form(given.each / less)
    elif given.forms:
        what, found = "unknown form", unknown_form(FORM_WORLDS // less)
    else:
        what, found = "known form", known_form(WORLDS // less)
    found["seconds"] = round(time.perf_counter() - begun, 1)
    print(json.dumps(found, indent=1))
    if not given.quick:
        before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
        result = {
            "draws": DRAWS,
            "noise": NOISE,
            **{key: before[key] for key in ("known form", "unknown form", "each form") if key in before},
        }
        result[what] = found
        write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""`isoembed fit` and `isoembed recipe --law` as a user meets them: planted tables in, laws and recipes out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoembed.fitting.io.law_file import LawFile, LawSet
from isoembed.laws import LAWS, Points, law_named
from isoembed.records import Ledger
from tests.commands import mistake, ok
from tests.fitting.ledgers import TRUTH as METHODS
from tests.fitting.ledgers import runs, scarce, true_loss
from tests.fitting.test_transfer import elsewhere, in_steps, in_tokens
from tests.laws.planted import TRUTH, planted

KEYS = {"law", "params", "objective", "n_points", "starts_agreeing", "status", "range", "holdout"}


def written(file: Path, points: Points) -> Path:
    names = ("params", "tokens", "flop", "fraction", "loss")
    rows = zip(*(points.column(name).tolist() for name in names), strict=True)
    file.write_text("N,D,C,S,loss\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("name", ["hoffmann", "tied", "embedding", "power", "multiplicative", "frantar", "rectified"])
def test_planted_laws_come_back_through_the_command(name: str, tmp_path: Path) -> None:
    table = written(tmp_path / "runs.csv", planted(name, rows=80, noise=0.003))
    out = tmp_path / "law.json"
    found = json.loads(
        ok("fit", str(table), "--law", name, "--bootstrap", "100", "--holdout", "none", "--out", str(out), "--json")
    )
    assert set(found) >= KEYS
    assert "draws" not in found
    assert (found["law"], found["n_points"], found["holdout"]) == (name, 80, {})
    for key, value in TRUTH[name].items():
        interval = found["params"][key]
        assert set(interval) == {"value", "low", "high"}
        slack = 0.5 * (interval["high"] - interval["low"])
        assert interval["low"] - slack <= value <= interval["high"] + slack
    assert found["range"]["loss"][0] < found["range"]["loss"][1]
    saved = LawFile.load(out)
    assert saved.draws is not None
    assert len(saved.draws.values) == 100
    assert law_named(saved.law).names == saved.draws.names


def test_columns_delta_and_holdouts_are_as_asked(tmp_path: Path) -> None:
    points = planted("hoffmann", rows=40, noise=0.003)
    table = tmp_path / "runs.csv"
    rows = zip(points.params.tolist(), points.tokens.tolist(), points.loss.tolist(), strict=True)
    table.write_text("size,seen,val,job\n" + "".join(f"{n},{d},{x},{i // 2}\n" for i, (n, d, x) in enumerate(rows)))
    arguments = ["fit", str(table), "--params-col", "size", "--tokens-col", "seen", "--loss-col", "val"]
    arguments += ["--run-col", "job", "--delta", "1e-3", "--bootstrap", "60", "--out", str(tmp_path / "law.json")]
    found = json.loads(ok(*arguments, "--holdout", "largest", "--json"))
    assert found["fit"]["delta"] == 1e-3
    assert set(found["holdout"]) == {"largest-size", "largest-budget"}
    result = found["holdout"]["largest-size"]
    assert result["verdict"] in ("good", "biased")
    assert result["in_range_error"] > 0
    assert result["held_error"] > 0
    assert LawFile.load(tmp_path / "law.json").draws.runs == 20  # type: ignore[union-attr]
    printed = ok(*arguments, "--holdout", "largest-budget")
    for words in ("objective", "delta 0.001", "95% from", "alpha", "largest budget", "in-range error", "status"):
        assert words in printed


def test_outliers_are_printed_beside_a_second_fit(tmp_path: Path) -> None:
    points = planted("hoffmann", rows=40, noise=0.003)
    loss = points.loss.copy()
    loss[6] *= 2
    table = written(tmp_path / "runs.csv", Points.of(points.params, points.tokens, loss))
    printed = ok("fit", str(table), "--bootstrap", "40", "--holdout", "none", "--out", str(tmp_path / "law.json"))
    assert "rows 7 lie beyond five times the noise; none was dropped" in printed
    assert "without outliers" in printed


def test_laws_are_compared_by_what_is_held_out(tmp_path: Path) -> None:
    table = written(tmp_path / "runs.csv", planted("hoffmann", rows=60, noise=0.003))
    arguments = ["fit", str(table), "--bootstrap", "40", "--out", str(tmp_path / "law.json"), "--json"]
    found = json.loads(ok(*arguments, "--law", "multiplicative,hoffmann"))
    assert found["law"] == "hoffmann"
    assert {rival["law"] for rival in found["rivals"]} == {"multiplicative"}
    assert json.loads(ok(*arguments, "--law", "best"))["law"] in ("hoffmann", "embedding")


def test_best_sizes_are_printed_with_their_exponents(tmp_path: Path) -> None:
    """Planted: a = beta / (alpha + beta).  A law without an optimum says so, one without N has none."""
    table = written(tmp_path / "runs.csv", planted("hoffmann", rows=60, noise=0.003))
    arguments = ["fit", str(table), "--bootstrap", "100", "--holdout", "none", "--out", str(tmp_path / "law.json")]
    optimum = json.loads(ok(*arguments, "--json"))["optimum"]
    true = TRUTH["hoffmann"]["beta"] / (TRUTH["hoffmann"]["alpha"] + TRUTH["hoffmann"]["beta"])
    for exponent, value in ((optimum["params_exponent"], true), (optimum["tokens_exponent"], 1 - true)):
        assert exponent["low"] < value < exponent["high"]
        assert exponent["value"] == pytest.approx(value, abs=0.1)
    assert [round(size["beyond"], 3) for size in optimum["sizes"]] == [0.1, 1.0, 10.0]
    assert "N* ~ C^a, a = " in ok(*arguments)
    assert "N*(C): none" in ok(*arguments, "--law", "multiplicative")
    assert json.loads(ok(*arguments, "--law", "power", "--json"))["optimum"] is None


def test_runs_on_other_pairs_set_the_level_of_a_law(tmp_path: Path) -> None:
    points = planted("interaction-odds", rows=60, noise=0.003)
    out, there = tmp_path / "law.json", tmp_path / "there.json"
    fit = ["--bootstrap", "50", "--law", "interaction-odds", "--candidates", "1024"]
    ok("fit", str(written(tmp_path / "runs.csv", points)), *fit, "--out", str(out))
    moved = Points.of(points.params, points.tokens, np.log1p(3 * np.expm1(points.loss)), fraction=points.fraction)
    table = written(tmp_path / "moved.csv", moved[np.arange(3)])
    arguments = ["fit", str(table), "--level-from", str(out), "--candidates", "1024", "--out", str(there)]
    found = json.loads(ok(*arguments, "--json"))
    assert found["law"] == "interaction-odds-level"
    assert found["fit"]["params"]["c"] == pytest.approx(3.0, rel=0.05)
    assert len(found["optimum"]["sizes"]) == 3
    assert "at the level of 3 runs of moved.csv" in " ".join(ok(*arguments).split())
    assert LawFile.load(there).fit.law == "interaction-odds-level"


def test_notes_name_flags_and_the_help_every_law(tmp_path: Path) -> None:
    rows = [f"{n}e7,{k}e9,{2 + 1 / n + 1 / k},{n}" for n in (1, 2, 4) for k in (1, 2, 4)]
    (tmp_path / "runs.csv").write_text("N,D,loss,run\n" + "\n".join(rows))
    asked = ["fit", str(tmp_path / "runs.csv"), "--bootstrap", "0", "--holdout", "none", "--law", "power"]
    said = ok(*asked, "--out", str(tmp_path / "law.json"))
    assert "`--run-col`" in said
    assert "run_col" not in said
    help_text = " ".join(ok("fit", "--help").split())
    assert [law.name for law in LAWS if not re.search(rf"\b{law.name}\b", help_text)] == []


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit") / "ledger"
    ledger = Ledger(folder)
    for run in runs():
        ledger.add(run)
    return folder


@pytest.fixture(scope="module")
def law(ledger: Path) -> Path:
    out = ledger.parent / "law.json"
    found = json.loads(ok("fit", str(ledger), "--bootstrap", "200", "--out", str(out), "--json"))
    assert [each["method"] for each in found["laws"]] == ["full", "lora r=d/8"]
    assert all(set(each) >= KEYS and "draws" not in each for each in found["laws"])
    return out


def recipe(law: Path, *arguments: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(
        ok("recipe", "--budget", "1e13", "--family", "nano", "--law", str(law), *arguments, "--json")
    )
    return value


def test_a_ledgers_laws_choose_the_recipe(law: Path) -> None:
    found = recipe(law)
    assert found["recipe"]["flop"] == pytest.approx(1e13, rel=1e-6)
    assert found["recipe"]["method"]["name"] in METHODS
    assert found["recipe"]["batch_pairs"] == 64
    assert sum(found["certainty"]["methods"].values()) == pytest.approx(1.0)
    assert found["reach"]["flop"] > 5
    assert found["next_run"]["recipe"]["flop"] <= 1.01e12
    model = found["recipe"]["model"]
    params = sum(model["block_params"]) + model["other_params"]
    method = LawSet.load(law).laws[0 if found["recipe"]["method"]["name"] == "full" else 1].tested_settings[0].method
    true = true_loss(method, params, found["recipe"]["train_tokens"])
    assert found["loss"]["low"] < true < found["loss"]["high"]
    assert found["runners_up"][0]["behind"]["value"] >= 0


def test_the_recipe_is_printed_with_how_sure_and_how_far(law: Path) -> None:
    printed = ok("recipe", "--budget", "1e13", "--family", "nano", "--law", str(law))
    for words in (
        "predicted loss",
        "how sure",
        "beyond the largest fitted budget",
        "next run",
        "crossover",
        "behind by",
    ):
        assert words in printed


def test_limits_reach_the_recipe(law: Path) -> None:
    free = recipe(law)["recipe"]
    assert recipe(law, "--methods", "full")["recipe"]["method"]["name"] == "full"
    assert recipe(law, "--max-params", "6e4")["recipe"]["model"]["name"] in ("nano-28k", "nano-51k")
    assert recipe(law, "--serving-tokens", "3e7")["recipe"]["forward_params"] < free["forward_params"]
    assert recipe(law, "--pairs", "5000")["recipe"]["epochs"] <= 1
    assert recipe(law, "--pairs", "5000", "--repeats", "muennighoff")["recipe"]["epochs"] > 1
    assert recipe(law, "--device-memory", "t4")["recipe"]["key"] == free["key"]
    assert recipe(law, "--batch-pairs", "32", "--other-settings")["recipe"]["batch_pairs"] == 32


def test_the_worth_of_repeats_is_fitted_printed_and_used(law: Path, tmp_path: Path) -> None:
    ledger, out = Ledger(tmp_path / "ledger"), tmp_path / "law.json"
    fresh = runs()
    for run in [*fresh, *scarce(fresh, 4.0)]:
        ledger.add(run)
    arguments = ("fit", str(ledger.path), "--bootstrap", "200", "--holdout", "none", "--out", str(out))
    printed = " ".join(ok(*arguments).split())
    assert "repetition R* = " in printed
    assert "24 runs with repeated data kept apart" in printed
    for each in json.loads(ok(*arguments, "--json"))["laws"]:
        assert each["repetition"]["worth"]["low"] < 4.0 < each["repetition"]["worth"]["high"]
    repeated = recipe(out, "--pairs", "5000", "--repeats", "measured")
    assert repeated["recipe"]["epochs"] > 1
    assert any("R* = " in line for line in repeated["known"])
    assert "needs a law whose runs repeated their data" in mistake(
        *("recipe", "--budget", "1e13", "--family", "nano", "--law", str(law), "--pairs", "5000"),
        *("--repeats", "measured"),
    )


def test_a_job_takes_the_law(law: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"anchor": f"what is item {n}?", "positive": f"item {n} costs {n * 7} coins"} for n in range(2000)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["train", "--budget", "1e10", "--data", str(pairs), "--law", str(law), "--methods", "lora"]
    found = json.loads(ok(*arguments, "--out", str(tmp_path / "out"), "--dry-run", "--json"))
    assert found["recipe"]["method"]["name"] == "lora"
    assert found["certainty"]["methods"] == {"lora": 1.0}
    assert any("other training data" in line for line in found["warnings"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "LEDGER", "--level-from", "LAW", "--law", "hoffmann"], "got --law too"),
        (["fit", "nowhere.csv", "--level-from", "LAW"], "is not there"),
        (["fit", "nowhere.csv"], "is not there"),
        (["fit", "TABLE", "--law", "chinchilla"], "`--law` must be one of hoffmann"),
        (["fit", "TABLE", "--law", "hoffmann,chinchilla"], "`--law` must be one of hoffmann"),
        (["fit", "TABLE", "--loss-col", "nothing"], "Say which one it is: `--loss-col`"),
        (["fit", "TABLE", "--delta", "0"], "`--delta` must be positive"),
        (["fit", "TABLE", "--holdout", "some"], "`--holdout` must be one of"),
        (["fit", "TABLE", "--target", "some"], "`--target` must be heldout or training"),
        (["fit", "TABLE", "--method-col", "how"], "needs a method column named how"),
        (["fit", "TABLE", "--law", "best", "--holdout", "none"], "compared on what is held out"),
        (["fit", "LEDGER", "--method-col", "method"], "leave it out"),
        (["fit", "LEDGER", "--params-col", "N"], "may be params or total_params"),
        (["fit", "FOLDER"], "A ledger must be"),
        (["recipe", "--budget", "1e13", "--law", "nowhere.json"], "cannot be read"),
        (["recipe", "--budget", "1e13", "--law", "TABLE"], "is not a law"),
        (["recipe", "--budget", "1e17", "--family", "pythia", "--law", "LAW"], "measured on nano; got pythia"),
        (["recipe", "--budget", "1e13", "--law", "LAW", "--batch-pairs", "128"], "--other-settings"),
        (["recipe", "--budget", "1e13", "--law", "LAW", "--method", "bias"], "got bias"),
        (
            ["recipe", "--budget", "1e13", "--law", "LAW", "--methods", "magic"],
            "must be one of full, freeze, bias, lora",
        ),
        (["recipe", "--budget", "1e13", "--law", "LAW", "--repeats", "often"], "`--repeats`"),
        (["recipe", "--budget", "1e13", "--law", "LAW", "--device-memory", "much"], "`--device-memory` must be a size"),
        (["recipe", "--budget", "1e13", "--law", "LAW", "--device-memory", "1kB"], "must fit the device"),
        (["recipe", "--budget", "1e13", "--law", "LAW", "--serving-tokens", "1e12"], "must pay for serving too"),
        (["recipe", "--budget", "1e13", "--law", "LAW", "--max-params", "5"], "must leave a model"),
        (["recipe", "--budget", "1e13", "--law", "LAW", "--pairs", "0"], "`--pairs`"),
    ],
    ids=lambda value: " ".join(value[2:] or value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(arguments: list[str], words: str, ledger: Path, law: Path) -> None:
    table = ledger.parent / "runs.csv"
    if not table.exists():
        written(table, planted("hoffmann", rows=20))
    places = {"TABLE": table, "LEDGER": ledger, "LAW": law, "FOLDER": ledger / "curves"}
    error = mistake(*(str(places.get(argument, argument)) for argument in arguments))
    assert words in error
    assert error.startswith("isoembed: ")
    assert error.count("\n") == 1


# ---- other batches and contexts ---------------------------------------------------------------------------------


def test_a_law_that_holds_at_another_batch_may_be_used_there(law: Path, tmp_path: Path) -> None:
    for run in elsewhere(in_steps):
        Ledger(tmp_path / "elsewhere").add(run)
    there = str(tmp_path / "elsewhere")
    printed = " ".join(ok("validate", str(law), there).split())
    for words in ("law of 64 pairs per batch, context 75", "steps", "tokens", "allowed", "holds", "100%"):
        assert words in printed
    asked = ["recipe", "--budget", "1e12", "--family", "nano", "--batch-pairs", "256", "--law"]
    assert "isoembed validate" in mistake(*asked, str(law))
    proven = tmp_path / "law.json"
    found = json.loads(ok("validate", str(law), there, "--out", str(proven), "--json"))
    assert found["out"] == str(proven)
    assert [each["seen"]["verdict"] for each in found["results"]] == ["holds"]
    assert found["results"][0]["seen"]["n_runs"] == 6
    recipe = json.loads(ok(*asked, str(proven), "--json"))
    assert recipe["recipe"]["batch_pairs"] == 256
    assert any("D counts steps" in known for known in recipe["known"])


def test_a_law_that_fails_at_another_batch_stays_refused(law: Path, tmp_path: Path) -> None:
    for run in elsewhere(in_tokens):
        Ledger(tmp_path / "elsewhere").add(run)
    proven = tmp_path / "law.json"
    printed = " ".join(ok("validate", str(law), str(tmp_path / "elsewhere"), "--out", str(proven)).split())
    assert "below the forecast in steps" in printed
    why = mistake("recipe", "--budget", "1e12", "--family", "nano", "--batch-pairs", "256", "--law", str(proven))
    assert "checked there, full: biased" in why

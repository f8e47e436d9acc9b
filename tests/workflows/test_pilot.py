"""`run --pilot` from end to end on tiny runs: explained, run, fitted, trained with the rest, gone on with."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from isoembed.records import Ledger, RunRecord
from tests.commands import command, mistake, ok
from tests.models import tiny, tiny_tokenizer

BUDGET = 4e10


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs that share two words: enough of them for one pass of whatever is recommended."""
    rng = random.Random(0)
    words = ["".join(pair) for pair in itertools.product(("ba", "ko", "li", "mu", "ne", "ro"), ("da", "fe", "gi"))]
    asked = [rng.sample(words, 3) for _ in range(9000)]
    rows = [(" ".join(own), f"{own[1]} {own[0]} {rng.choice(words)}") for own in asked]
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("".join(json.dumps({"query": q, "positive": p}) + "\n" for q, p in rows))
    return file


def options(pairs: Path, out: Path) -> list[str]:
    return [
        *("run", "--family", "nano", "--data", str(pairs), "--query-key", "query", "--positive-key", "positive"),
        *("--budget", f"{BUDGET:g}", "--pilot", "80%", "--methods", "full", "--batch-pairs", "2"),
        *("--context-tokens", "16", "--cache", str(pairs.parent / "tokens"), "--out", str(out)),
    ]


def test_dry_run_explains_and_runs_nothing(pairs: Path, tmp_path: Path) -> None:
    printed = ok(*options(pairs, tmp_path / "out"), "--dry-run")
    for words in ("decides", "spends", "at most 3.2e+10 FLOP", "pilot 1", "full on nano-28k"):
        assert words in printed
    assert not (tmp_path / "out").exists()
    found = json.loads(ok(*options(pairs, tmp_path / "out"), "--dry-run", "--json"))
    assert found["new"] is None
    assert {run["recipe"]["method"]["name"] for run in found["plan"]["cells"]} == {"full"}


def test_a_pilot_runs_sizes_that_are_wide_enough_alone(pairs: Path, tmp_path: Path) -> None:
    """It said "no recipe at this budget", of runs whose embeddings are narrower than the dimensions asked for."""
    asked = [*options(pairs, tmp_path / "out"), "--budget=4e12", "--dry-run", "--json"]
    found = json.loads(ok(*asked, "--dimensions=40"))
    assert min(run["recipe"]["model"]["hidden"] for run in found["plan"]["cells"]) >= 40
    assert "`--dimensions` must be at most the model's" in mistake(*asked, "--dimensions=4000")


def test_pilots_then_trains_what_is_left(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = ok(*options(pairs, out))
    pilot = Ledger.open(out / "pilot.jsonl.gz").records()
    assert len(pilot) >= 12
    spent = sum(run.recipe.flop for run in pilot)
    assert spent <= 0.8 * BUDGET
    record = RunRecord.load(out / "record.json")
    assert record.recipe.flop <= BUDGET - spent
    assert f"{len(pilot)} pilot runs" in printed
    assert "held-out pairs" in printed.split("Loss")[1]
    assert (out / "law.json").is_file()
    assert not (out / "pilot").exists()
    assert "hoffmann law measured on nano" in (out / "README.md").read_text()
    assert "already holds a trained model" in mistake(*options(pairs, out))
    before = (out / "record.json").read_bytes()
    ok(*options(pairs, out), "--resume")
    assert (out / "record.json").read_bytes() == before


def test_a_branching_pilot_goes_on_from_its_runs(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = [*options(pairs, out), "--schedule", "wsd"]
    told[told.index("80%")] = "60%"
    ok(*told)
    pilot = Ledger.open(out / "pilot.jsonl.gz").records()
    spent = sum(run.own_flop for run in pilot)
    assert any(run.inherited is not None for run in pilot)
    assert spent <= 0.6 * BUDGET < sum(run.recipe.flop for run in pilot)
    record = RunRecord.load(out / "record.json")
    assert 0.9 * (BUDGET - spent) < record.recipe.flop <= 1.001 * (BUDGET - spent)
    assert record.recipe.options.schedule == "wsd"


def test_a_pilot_too_small_falls_back_and_says_so(pairs: Path, tmp_path: Path) -> None:
    told = [*options(pairs, tmp_path / "out")]
    told[told.index("80%")] = "1%"
    printed = ok(*told, "--dry-run")
    words = " ".join(printed.split())
    assert "no pilot was run" in words
    assert "needs 12 runs of 100 steps" in words
    assert "lower `--batch-pairs`" in words


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model", "nano-28k"], "leave --model out"),
        (["--serving-tokens", "1e9"], "leave --serving-tokens out"),
        (["--methods", "norms"], "allows none of them"),
        (["--pilot", "300%"], "must be a part of"),
    ],
)
def test_mistakes_are_one_line(pairs: Path, tmp_path: Path, more: list[str], words: str) -> None:
    assert words in " ".join(mistake(*options(pairs, tmp_path / "out"), *more).split())


@pytest.mark.parametrize(
    ("architecture", "suit"),
    [("gpt_neox", {"full", "freeze", "bias", "lora"}), ("llama", {"full", "freeze", "lora"}),
     ("qwen3_moe", {"full", "freeze"})],
)  # fmt: skip
def test_methods_nobody_named_are_those_that_suit_the_models(
    architecture: str, suit: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pilot, and a sweep of all methods, ended at a Llama's want of biases, which nobody had asked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    tiny(architecture).save_pretrained(tmp_path / "base")  # type: ignore[operator]
    words = [f"w{4 + n % 60} w{4 + n // 60} w{4 + n * 7 % 60}" for n in range(3000)]
    rows = [{"query": text, "pos": f"{text} w9"} for text in words]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = ["--family=base@1,2,3", "--data=pairs.jsonl", "--batch-pairs=2", "--context-tokens=16", "--dry-run",
              "--json", "--out=out"]  # fmt: skip
    piloted = command("run", *shared, "--budget=1e11", "--pilot=50%", inside=tmp_path)
    assert not piloted.status, piloted.err
    plan = json.loads(piloted.out)["plan"]
    tried = {run["recipe"]["method"]["name"] for run in plan["cells"]}
    tried |= {each["method_name"] for each in plan["skipped"]}
    assert tried <= suit
    assert "full" in tried
    swept = command("sweep", "plan", *shared, "--budgets=1e9,2e9", inside=tmp_path)
    assert not swept.status, swept.err
    assert set(json.loads(swept.out)["request"]["methods"]) == suit
    asked = command("sweep", "plan", *shared, "--budgets=1e9,2e9", "--methods=full,bias", inside=tmp_path)
    assert asked.status == (0 if "bias" in suit else 2)

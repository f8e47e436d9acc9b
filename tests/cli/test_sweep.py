"""Sweeps as a user meets them: planned, explained, run, looked at, exported, fitted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest

from isoembed.cli import parse
from isoembed.core import InputError
from isoembed.records import Ledger, RunRecord, ended
from isoembed.sweep.folder import End, failed_run
from isoembed.sweep.request import load_request
from tests.commands import command, mistake, ok


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    rows = [{"anchor": f"what is item {n}?", "positive": f"item {n} costs {n * 7} coins"} for n in range(900)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = folder / "sts" / "tiny"
    task.mkdir(parents=True)
    (task / "test.jsonl").write_text(
        "".join(
            json.dumps({"s1": f"item {n}", "s2": f"item {n + n % 3}", "score": float(n % 3)}) + "\n" for n in range(9)
        )
    )
    return folder


def options(place: Path, out: Path) -> list[str]:
    return [
        *("sweep", "plan", "--out", str(out), "--budgets", "6e8,2.4e9", "--models", "nano-28k,nano-51k"),
        *("--methods", "full,lora", "--data", str(place / "pairs.jsonl"), "--batch-pairs", "16", "--min-steps", "5"),
        *("--rate-steps", "none", "--task", str(place / "sts" / "tiny"), "--cache", str(place / "tokens")),
    ]


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    out = place / "ledger"
    ok(*options(place, out))
    ok("sweep", "run", str(out))
    return out


@pytest.mark.parametrize(
    ("wrong", "forms"),
    [
        (("--allowance=abc",), "1e15 (FLOP), 3h, 90min or 600s"),
        (("--allowance=1m",), "1e15 (FLOP), 3h, 90min or 600s"),
        (("--allowance=xh",), "got 'xh'. Write them as 1e15 (FLOP), 3h, 90min or 600s"),
        (("--adaptive", "--target=1e12", "--allowance=3h"), "5%, or 1e12 (FLOP)"),
        (("--rate-steps=few",), "`--rate-steps`"),
        (("--memory=much",), "`--memory`"),
    ],
)
def test_what_is_no_number_is_refused_before_any_work(
    wrong: tuple[str, ...], forms: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took the time that torch takes to load, and named one form of three."""
    monkeypatch.setattr("isoembed.cli.sweep_plan.suite", lambda *_: pytest.fail("work began"))
    assert forms in mistake(*options(place, place / "never"), *wrong)


def test_a_dry_run_explains_and_writes_nothing(place: Path) -> None:
    out = place / "dry"
    more = ("--vary", "matryoshka=8", "--vary", "bidirectional", "--pairs", "120,60", "--max-pair-epochs", "9")
    printed = " ".join(ok(*options(place, out), "--dry-run", *more).split())
    for words in ("at most", "speed here", "nano-28k", "nothing written (dry run)", "what it is for"):
        assert words in printed
    assert not out.exists()
    assert "2 other settings: 4 runs or fewer" in printed
    assert "on 60 or 120 unique pairs alone, at most 9 epochs: 8 runs or fewer" in printed
    assert "a sweep of their own" in mistake(*options(place, out), "--vary", "pooling=last")
    assert "`--mask-margin` is not trained with any more" in mistake(*options(place, out), "--mask-margin", "0")
    assert "numbers of unique pairs" in mistake(*options(place, out), "--pairs", "some")
    assert "`--max-pair-epochs` must be above 1" in mistake(*options(place, out), "--pairs", "60", "--max-passes", "1")
    assert "belong to a sweep of --budgets" in mistake(
        *("sweep", "plan", "--out", str(out), "--adaptive", "--target", "1e10", "--pairs", "60")
    )


def test_limits_on_serving_are_a_plans_too(place: Path, tmp_path: Path) -> None:
    """`recipe` had them and the plan of a sweep not: it spent on sizes that could not be served, and read their
    weights."""
    out = tmp_path / "limited"
    limited = options(place, out)
    printed = " ".join(ok(*limited, "--max-index-bytes", "100", "--dry-run").split())
    assert "models nano-28k (nano)" in printed
    where = "at 6e+08 to 2.4e+09 FLOP on nano-51k: raise `--max-index-bytes`"
    assert f"vectors wider than the limit for an index, {where}" in printed
    planned = json.loads(ok(*limited, "--max-query-flop", "1", "--json"))
    assert (planned["plan"]["cells"], planned["request"]["base_hashes"]) == ([], {})
    done = command("sweep", "run", str(out), inside=tmp_path)
    assert not done.status, done.err
    assert f"`isoembed sweep plan --out {out}` says why" in done.err


@pytest.mark.parametrize(
    ("more", "cache"),
    [
        (("--budgets=6e8",), ()),
        (("--adaptive", "--target=9e10", "--allowance=80%", "--batch-pairs=2"), ("--cache=own",)),
    ],
)
def test_a_dry_run_leaves_folder_and_cache_as_they_were(
    more: tuple[str, ...], cache: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It filled a token store, in the sweep's folder or in `--cache`; and it says where that will lie."""
    rows = [{"anchor": f"what is item {n}?", "positive": f"item {n} costs {n * 7} coins"} for n in range(6000)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("ISOEMBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("isoembed.workflows.sweep.subprocess.run", lambda *_, **__: None)  # how long a worker starts
    before = sorted(tmp_path.rglob("*"))
    asked = ["sweep", "plan", "--out=new", "--models=nano-28k", "--methods=full", "--data=pairs.jsonl", "--json"]
    done = command(
        *asked, "--batch-pairs=16", "--context-tokens=16", "--min-steps=1", "--dry-run", *cache, *more, inside=tmp_path
    )
    assert not done.status, done.err
    place = json.loads(done.out)["request"]["data_options"]["cache"]
    assert place == str(tmp_path / ("own" if cache else "new/tokens"))
    assert sorted(tmp_path.rglob("*")) == before


def test_every_planned_run_has_one_record_with_scores(finished: Path) -> None:
    status = json.loads(ok("sweep", "status", str(finished), "--json"))
    assert [(stage["failed"], stage["left"], stage["running"]) for stage in status["stages"]] == [(0, 0, 0)] * 2
    records = Ledger.open(finished).records()
    assert len(records) == sum(stage["done"] for stage in status["stages"]) >= 10
    assert all("tiny/spearman" in record.scores for record in records)
    for record in records:
        assert abs(record.model_flop - record.recipe.flop) < 0.2 * record.recipe.flop
    assert {record.recipe.model.name for record in records} == {"nano-28k", "nano-51k"}
    assert not list((finished / "work").iterdir())


def test_the_plan_measured_what_runs_take_beside_steps(finished: Path) -> None:
    request = load_request(finished)
    assert request.run_seconds.keys() == request.speeds.keys() == {"nano-28k", "nano-51k"}
    assert min(request.run_seconds.values()) > 0
    assert request.startup_seconds > 0
    assert all(record.overhead_seconds for record in Ledger.open(finished).records())


def test_a_failed_run_is_status_1_until_it_is_retried(finished: Path, tmp_path: Path) -> None:
    """It was status 0, and no command tried the run again."""
    shutil.copytree(finished, ledger := tmp_path / "ledger")
    lost = Ledger.open(ledger).records()[0]
    (ledger / "records" / f"{lost.key}.json").unlink()
    assert Ledger(ledger).add(failed_run(lost.recipe, [End(note=ended("error", "text", text="no"))] * 3))
    done = command("sweep", "run", str(ledger))
    assert done.status == 1
    (line,) = done.err.splitlines()
    assert "1 run failed" in line
    assert f"`isoembed sweep retry {ledger}`" in line
    assert "none begins with 'zz'" in mistake("sweep", "retry", str(ledger), "zz")
    assert json.loads(ok("sweep", "retry", str(ledger), lost.key[:8], "--json")) == {"retried": [lost.key]}
    ok("sweep", "run", str(ledger))
    again = Ledger.open(ledger).outcome(lost.key)
    assert isinstance(again, RunRecord)
    assert again.heldout == lost.heldout
    assert "0 runs" in ok("sweep", "retry", str(ledger))


def test_planning_a_finished_sweep_adds_nothing(finished: Path) -> None:
    assert "0 new runs, the sweep is complete" in ok("sweep", "plan", "--out", str(finished))


def test_a_finished_sweep_is_not_asked_for_something_new_in_silence(finished: Path) -> None:
    """Other methods, batch and family were passed over, and the old plan printed as if it were theirs."""
    said = mistake("sweep", "plan", "--out", str(finished), "--methods", "lora", "--batch-pairs", "8")
    assert "leave --methods and --batch-pairs out" in said


def test_the_same_command_again_is_the_same_sweep(place: Path, finished: Path) -> None:
    """The speeds that it measures anew are never those of the first time."""
    assert "0 new runs, the sweep is complete" in ok(*options(place, finished))


def test_another_sweep_does_not_go_into_the_same_folder(place: Path, finished: Path) -> None:
    assert "another sweep" in mistake(*options(place, finished), "--prune", "2")
    assert "another sweep" in mistake(*options(place, finished), "--thin", "2")  # its older name


def test_show_one_run(finished: Path) -> None:
    key = Ledger.open(finished).records()[0].key
    printed = ok("sweep", "show", str(finished), key[:10])
    assert key in printed
    assert "held-out loss" in printed
    assert "0 begin with" in mistake("sweep", "show", str(finished), "zz")


def test_export_as_a_table_that_fit_reads_and_as_records(finished: Path, tmp_path: Path) -> None:
    ok("ledger", "export", str(finished), str(tmp_path / "runs.parquet"))
    table = pyarrow.parquet.read_table(tmp_path / "runs.parquet")
    assert {"params", "tokens", "flop", "loss", "fraction", "method", "tiny/spearman"} <= set(table.column_names)
    ok("ledger", "export", str(finished), str(tmp_path / "runs.jsonl.gz"))
    assert Ledger.open(tmp_path / "runs.jsonl.gz").records() == Ledger.open(finished).records()
    assert "must end in" in mistake("ledger", "export", str(finished), str(tmp_path / "runs.xlsx"))


def test_repeated_pairs_are_run_shown_and_fitted(place: Path, tmp_path: Path) -> None:
    """The held-out set is that of the single-epoch runs; what is left out is said; the law has an R*."""
    out = tmp_path / "ledger"
    asked = [option for option in options(place, out) if option not in ("--task", str(place / "sts" / "tiny"))]
    asked[asked.index("full,lora")] = "full"
    asked[asked.index("6e8,2.4e9")] = "6e8,1.2e9,2.4e9"
    ok(*asked, "--pairs", "40,160,800", "--max-passes", "20")
    ok("sweep", "run", str(out))
    status = json.loads(ok("sweep", "status", str(out), "--json"))
    assert status["stages"][-1]["stage"] == "repetition"
    assert len(status["repetition"]) == status["stages"][-1]["done"] >= 2
    printed = ok("sweep", "status", str(out))
    for words in ("unique pairs", "epochs", "one epoch", "repetition"):
        assert words in printed
    assert "no fewer pairs than all" in ok("sweep", "plan", "--out", str(out), "--json")
    records = Ledger.open(out).records()
    repeated = [record for record in records if record.recipe.unique_pairs is not None]
    assert {record.unique_pairs for record in repeated} <= {40, 160}
    for record in repeated:
        assert record.epochs is not None
        assert record.recipe.unique is not None
        assert 1 < record.epochs == record.pairs / record.recipe.unique
    assert len({record.heldout.fingerprint for record in records if record.heldout}) == 1
    law = str(tmp_path / "law.json")
    fitted = json.loads(
        ok("fit", str(out), "--law", "tied", "--bootstrap", "50", "--holdout", "none", "--out", law, "--json")
    )
    assert fitted["n_points"] == len(records) - len(repeated)
    assert fitted["repetition"]["runs"] == len(repeated)
    assert "draws" not in fitted["repetition"]
    assert "R* " in ok("fit", str(out), "--law", "tied", "--bootstrap", "50", "--holdout", "none", "--out", law)


def test_budgets_and_allowances() -> None:
    assert parse.budgets("1e12:1.7e13:x4") == pytest.approx((1e12, 4e12, 1.6e13))
    assert parse.budgets("4e12,1e12") == (1e12, 4e12)
    assert (parse.allowance("1e15"), parse.allowance("3h"), parse.allowance("90min")) == (
        (1e15, None),
        (None, 10800.0),
        (None, 5400.0),
    )
    for wrong in ("1e12:1e11:x4", "1e12:1e13:x1", "lots", ""):
        with pytest.raises(InputError):
            parse.budgets(wrong)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "plan", "--out", "nowhere"], "`--budgets` must be given"),
        (["sweep", "plan", "--out", "nowhere", "--budgets", "1e12", "--methods", "magic"], "must be all or some of"),
        (["sweep", "run", "nowhere"], "holds no sweep"),
        (["sweep", "status", "nowhere"], "holds no sweep"),
        (["ledger", "export", "nowhere", "x.csv"], "neither"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(arguments: list[str], words: str) -> None:
    assert words in mistake(*arguments)
    assert not Path("nowhere").exists()

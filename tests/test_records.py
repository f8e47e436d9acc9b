"""The ledger: written once, merged by copying, read past damage."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from isoembed.core import InputError
from isoembed.fitting.io.columns import Table
from isoembed.fitting.io.tables import read_groups
from isoembed.laws import law_named
from isoembed.options import Options
from isoembed.recipe import Recipe
from isoembed.records import FailedRun, Ledger, LossPoint, ended
from isoembed.workflows.table import write_table
from tests.sweep.fake import recipe, record


def test_a_record_survives_the_ledger_and_keeps_its_curve(tmp_path: Path) -> None:
    curve = tuple(LossPoint(step=n, tokens=100 * n, loss=7.0 / n, rate=1e-3) for n in range(1, 50))
    made = record(recipe()).model_copy(update={"loss_curve": curve})
    ledger = Ledger(tmp_path)
    assert ledger.add(made)
    assert ledger.records() == [made.model_copy(update={"loss_curve": ()})]
    assert ledger.curve(made.key) == curve
    assert made.key in ledger
    assert ledger.keys() == {made.key}


def test_a_record_is_written_once_by_whoever_comes_first(tmp_path: Path) -> None:
    """Eight threads at once: one wins, and what it wrote stays."""
    ledger, won = Ledger(tmp_path), []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        if ledger.add(record(recipe(), loss=float(number + 1))):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (kept,) = ledger.records()
    assert kept.heldout is not None
    assert [kept.heldout.loss] == [number + 1.0 for number in won]
    assert [file.name for file in (tmp_path / "records").iterdir()] == [f"{kept.key}.json"]


def test_merging_is_copying(tmp_path: Path) -> None:
    for name, seeds in (("a", (0, 1)), ("b", (1, 2))):
        for seed in seeds:
            Ledger(tmp_path / name).add(record(recipe(seed=seed)))
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    assert sorted(made.recipe.seed for made in Ledger(tmp_path / "a").records()) == [0, 1, 2]


def test_damage_is_named_and_passed_over(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(record(recipe()))
    (tmp_path / "records" / "half.json").write_text('{"recipe": {"semant')
    changed = json.loads(record(recipe(seed=1)).model_dump_json())
    changed["recipe"]["learning_rate"] = 0.5
    (tmp_path / "records" / "changed.json").write_text(json.dumps(changed))
    assert len(ledger.records()) == 1
    assert {Path(file).name for file in ledger.damaged} == {"half.json", "changed.json"}
    assert "it was changed" in ledger.damaged[str(tmp_path / "records" / "changed.json")]


def test_a_shipped_ledger_is_the_same_runs_and_always_the_same_bytes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "a")
    ledger.add(record(recipe()))
    failed = recipe(seed=1)
    ledger.add(FailedRun(recipe=failed, key=failed.key, notes=(ended("diverged", "text", text="x"),), created="now"))
    ledger.export(tmp_path / "one.jsonl.gz", ledger.outcomes())
    ledger.export(tmp_path / "two.jsonl.gz", ledger.outcomes())
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()
    assert Ledger.open(tmp_path / "one.jsonl.gz").outcomes() == ledger.outcomes()
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes((tmp_path / "one.jsonl.gz").read_bytes()[:-20])
    found = Ledger.open(cut)
    found.outcomes()
    assert str(cut) in found.damaged


def test_little_that_unpacks_to_much_is_read_as_a_stream_and_not_to_its_end(tmp_path: Path) -> None:
    """100 kB of newlines were 4 GB of places to complain of; one endless line would be held whole."""
    line = record(recipe()).model_dump_json().encode() + b"\n"
    for name, rest, lines in (
        ("a", b"\n" * 3_000_000, 1002),
        ("b", b"x\n" * 2_000_000, 1002),
        ("c", b"x" * 40_000_000, 2),
    ):
        file = tmp_path / f"{name}.jsonl.gz"
        file.write_bytes(gzip.compress(line + rest, 1))
        tracemalloc.start()
        ledger = Ledger.open(file)
        assert len(ledger.records()) == 1
        assert tracemalloc.get_traced_memory()[1] < 64e6
        tracemalloc.stop()
        assert f"{file}, line {lines + (name == 'b')} and all after it" in ledger.damaged
    file.write_bytes(gzip.compress(line + b"\n \n" + line))
    assert len(ledger.records()) == 1  # two records of one run are one run
    assert ledger.damaged == {}
    folder = Ledger(tmp_path / "folder")
    folder.add(record(recipe()))
    (tmp_path / "folder" / "records" / "big.json").write_bytes(b"x" * (1 << 25))
    assert len(folder.records()) == 1
    assert len(folder.damaged) == 1


def test_a_table_keeps_the_loss_where_a_score_has_its_name_and_fit_reads_it_with_failed_runs(tmp_path: Path) -> None:
    runs = [
        record(recipe(seed=seed), loss=2.0 + seed).model_copy(
            update={"scores": {"loss": 0.5, "key": 1.0, "t/ndcg": 0.1}}
        )
        for seed in range(3)
    ]
    failed = recipe(seed=9)
    gone = FailedRun(recipe=failed, key=failed.key, notes=(ended("diverged", "text", text="x"),), created="now")
    for name in ("runs.csv", "runs.parquet"):
        write_table([gone, *runs], tmp_path / name)
        read = Table(tmp_path / name).read(["loss", "score loss", "t/ndcg"], ["key"])
        assert read.numbers["loss"].tolist()[1:] == [2.0, 3.0, 4.0]
        assert read.numbers["score loss"].tolist()[1:] == [0.5] * 3
        assert read.texts["key"][1:] == [run.key for run in runs]
        (group,) = read_groups(tmp_path / name, [law_named("hoffmann")])
        assert group.rows == (2, 3, 4)
        assert "1 row of failed runs or without a loss set aside" in group.notes


def test_a_ledger_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither"):
        Ledger.open(tmp_path)
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match=r"no run has ended yet; run it: `isoembed sweep run`"):
        Ledger.open(tmp_path)  # fit, report and figure said of a planned sweep that it was no ledger
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b""))
    assert Ledger.open(tmp_path / "x.jsonl.gz").records() == []


def test_many_records_load(tmp_path: Path) -> None:
    """1,000 records; 10,000 are timed in the benchmarks."""
    ledger = Ledger(tmp_path)
    for seed in range(1000):
        ledger.add(record(recipe(seed=seed)))
    started = time.perf_counter()
    assert len(ledger.records()) == 1000
    assert time.perf_counter() - started < 20  # a hang, not a speed


def test_the_key_is_what_a_run_depends_on(tmp_path: Path) -> None:
    made = recipe()
    moved = made.model_copy(update={"data": made.data.model_copy(update={"source": "elsewhere"})})
    other = made.model_copy(update={"data": made.data.model_copy(update={"fingerprint": "other"})})
    assert moved.key == made.key
    assert other.key != made.key
    assert made.model_copy(update={"method": made.method.model_copy()}).key == made.key


def test_options_and_hard_negatives_are_part_of_the_key() -> None:
    made = recipe()
    hard = made.data.model_copy(update={"negatives": 1.5, "negative_tokens": 20.0})
    others = [made.model_copy(update={"options": Options(mask_margin=margin)}) for margin in (0.0, 0.1)]
    keys = {each.key for each in (made, *others, made.model_copy(update={"data": hard}))}
    assert len(keys) == 4
    assert made.model_copy(update={"options": Options()}).key == made.key


def test_what_came_later_changes_no_key_of_the_study() -> None:
    with gzip.open(Path(__file__).parents[1] / "benchmarks" / "results" / "nano_study.jsonl.gz") as lines:
        kept = [(row["key"], Recipe.model_validate(row["recipe"]).key) for row in map(json.loads, lines)]
    assert len(kept) > 200
    assert [before for before, now in kept if before != now] == []


def test_the_norms_counted_later_change_no_key() -> None:
    made = recipe()
    assert made.model.norm_params
    earlier = made.model_copy(update={"model": made.model.model_copy(update={"norm_params": 0})})
    assert earlier.key == made.key

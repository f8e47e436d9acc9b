"""Spoilt recipes, laws, ledgers, sweeps and data: an answer or one line, never a traceback, a hang, a stray file."""

from __future__ import annotations

import gzip
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from isoembed.core import InputError
from isoembed.data.sources import open_source
from isoembed.fitting.io.law_file import LawSet
from isoembed.fitting.io.ledger import group_runs
from isoembed.fitting.study import study
from isoembed.laws import law_named
from isoembed.methods import LoRA
from isoembed.recipe import Recipe
from isoembed.records import FailedRun, Ledger, ended
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.folder import SweepFolder
from tests.commands import Outcome, command
from tests.fitting.ledgers import runs
from tests.reliability.fuzz import FUZZ, mangled, spoilt
from tests.sweep.fake import recipe, record, request

ROWS = [{"query": f"what is {n}?", "pos": [f"it is {n}", "é"], "neg": ["other"]} for n in range(4)]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TABLE = b"N,D,loss,C\n" + b"".join(b"%d,%d,%g,1e%d\n" % (n * 10, n * n * 99, 9 / n, n) for n in range(1, 9))


@pytest.fixture(scope="module")
def law() -> dict[str, Any]:
    """Two methods' laws with few draws, as a file has them."""
    hoffmann = law_named("hoffmann")
    groups = group_runs(runs(), [hoffmann])
    found = LawSet(laws=tuple(study([hoffmann], group, source="planted", draws=200, by=()) for group in groups))
    value: dict[str, Any] = json.loads(found.model_dump_json())
    for each in value["laws"]:
        each["format"] = 1  # of before there were digests, so that what is spoilt is looked at
    return value


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """The folder that a command may write to; beside it nothing may appear."""
    folder = tmp_path / "inside"
    folder.mkdir()
    return folder


def fine(outcome: Outcome) -> Outcome:
    """An answer, or one line that names the fault."""
    if outcome.status:
        assert outcome.status == (1 if "The system refused" in outcome.err else 2)
        assert outcome.err.startswith("isoembed: ")
        assert outcome.err.count("\n") < 4
    return outcome


@FUZZ
@given(data=st.data())
def test_recipes(data: st.DataObject) -> None:
    """What is accepted as a recipe can be counted and named."""
    base = json.loads(recipe(method=LoRA(rank=4)).model_dump_json())
    try:
        read = Recipe.model_validate_json(data.draw(spoilt(base)))
    except ValidationError:
        return
    try:
        numbers = (read.flop, read.pairs, read.steps, read.cost.flop_per_token)
    except InputError:
        return
    assert all(math.isfinite(number) and number > 0 for number in numbers)
    assert len(read.key) == 16
    assert Recipe.model_validate_json(read.model_dump_json()).key == read.key


def test_the_law_that_is_spoilt_below_is_good(law: dict[str, Any], inside: Path) -> None:
    (inside / "law.json").write_text(json.dumps(law))
    assert not command("recipe", "--budget", "1e12", "--law", "law.json", inside=inside).status


def test_notes_that_are_no_sentences_are_refused(law: dict[str, Any], inside: Path) -> None:
    """Found by the fuzz below on a day in November: a TypeError."""
    (inside / "law.json").write_text(json.dumps(law["laws"][0] | {"notes": True}))
    done = command("recipe", "--budget", "1e12", "--law", "law.json", inside=inside)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "`notes` holds sentences" in done.err


@FUZZ
@given(data=st.data())
def test_laws(data: st.DataObject, law: dict[str, Any], inside: Path) -> None:
    base = data.draw(st.sampled_from([law, law["laws"][0]]))
    (inside / "law.json").write_bytes(data.draw(spoilt(base)))
    asked = ["recipe", "--budget", "1e12", "--law", "law.json", "--other-settings"]
    answer = fine(command(*asked, "--json", inside=inside))
    if not answer.status:
        assert json.loads(answer.out)["recipe"]["train_tokens"] > 0
        fine(command(*asked, inside=inside))


@FUZZ
@given(data=st.data())
def test_ledgers(data: st.DataObject, inside: Path) -> None:
    """A damaged record is passed over or refused, and never takes the good ones with it."""
    shutil.rmtree(inside / "ledger", ignore_errors=True)
    ledger = Ledger(inside / "ledger")
    made = [record(recipe(flop=flop, seed=seed)) for seed in range(2) for flop in (1e11, 2e11, 4e11)]
    for each in made:
        ledger.add(each)
    failed = recipe(seed=9)
    gone = FailedRun(recipe=failed, key=failed.key, notes=(ended("diverged", "text", text="x"),), created="now")
    base = json.loads(data.draw(st.sampled_from([made[0], gone])).model_dump_json())
    (ledger.path / "records" / "spoilt.json").write_bytes(data.draw(spoilt(base)))
    (ledger.path / "curves" / f"{made[0].key}.json").write_bytes(data.draw(spoilt({"step": [1], "tokens": [2]})))
    fine(command("fit", "ledger", "--bootstrap", "0", "--holdout", "none", "--law", "power", inside=inside))
    for file in ("runs.csv", "runs.jsonl.gz"):
        assert not fine(command("ledger", "export", "ledger", file, inside=inside)).status
    assert len(Ledger(inside / "runs.jsonl.gz").records()) >= len(made)


@FUZZ
@given(data=st.data())
def test_shipped_ledgers(data: st.DataObject, inside: Path) -> None:
    lines = "".join(record(recipe(seed=seed)).model_dump_json() + "\n" for seed in range(2)).encode()
    packed = data.draw(mangled(gzip.compress(lines)) | mangled(lines).map(gzip.compress))
    (inside / "runs.jsonl.gz").write_bytes(packed)
    fine(command("ledger", "export", "runs.jsonl.gz", "runs.parquet", inside=inside))


@FUZZ
@given(data=st.data())
def test_sweeps(data: st.DataObject, inside: Path) -> None:
    """The request, a run, an attempt and how it ended."""
    shutil.rmtree(inside / "sweep", ignore_errors=True)
    plan_sweep(inside / "sweep", request(models=("nano-28k",), budgets=(1e11,)))
    folder = SweepFolder(inside / "sweep")
    run = folder.runs()[0]
    attempt = folder.claim(run.key, tries=3)
    assert attempt is not None
    (folder.path / "attempts" / f"{run.key}.1.end").write_text('{"reason": "error", "words": "x"}')
    parts = ("sweep.json", f"cells/{run.key}.json", f"attempts/{run.key}.1", f"attempts/{run.key}.1.end")
    file = data.draw(st.sampled_from(parts))
    spoil = folder.path / file
    spoil.write_bytes(data.draw(spoilt(json.loads(spoil.read_bytes()))))
    fine(command("sweep", "status", "sweep", inside=inside))
    fine(command("sweep", "show", "sweep", run.key, inside=inside))
    fine(command("sweep", "plan", "--out", "sweep", inside=inside))
    fresh = SweepFolder(folder.path)
    for planned in fresh.runs():
        fresh.claim(planned.key, tries=3)


@FUZZ
@given(data=st.data(), ending=st.sampled_from(["jsonl", "jsonl.gz", "jsonl.zst", "csv", "csv.gz", "parquet"]))
def test_data_files(data: st.DataObject, ending: str, tmp_path: Path) -> None:
    """Bytes changed in the text, or in the archive around it."""
    plain = b"query,pos\n" + b'"what, now?",this\nand,that\n' if ending.startswith("csv") else TEXT
    if ending == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(ROWS), sink)
        content = data.draw(mangled(sink.getvalue()))
    else:
        packers: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstandard.compress}
        pack = packers.get(ending.rpartition(".")[2], bytes)
        content = data.draw(mangled(plain).map(pack) | mangled(pack(plain)))
    (tmp_path / f"data.{ending}").write_bytes(content)
    for skip in (False, True):
        try:
            source = open_source(str(tmp_path / f"data.{ending}"), on_bad_rows="skip" if skip else "error")
            source.fingerprint()
            pairs = list(source)
        except InputError:
            continue
        assert pairs
        assert all(pair.query.strip() and pair.positive.strip() for pair in pairs)


@FUZZ
@given(row=st.binary(max_size=60) | st.from_regex(r'\{"query": ?.{0,20}, ?"pos": ?.{0,20}\}').map(str.encode))
def test_rows(row: bytes, tmp_path: Path) -> None:
    """One line among good ones takes none of them with it."""
    (tmp_path / "data.jsonl").write_bytes(TEXT + row.replace(b"\n", b" ") + b"\n" + TEXT)
    source = open_source(str(tmp_path / "data.jsonl"), on_bad_rows="skip")
    assert len(list(source)) >= 4 * len(ROWS)


@FUZZ
@given(table=mangled(TABLE))
@example(table=TABLE[:37])  # two runs, which a power law meets exactly
def test_tables(table: bytes, inside: Path) -> None:
    (inside / "runs.csv").write_bytes(table)
    fine(command("fit", "runs.csv", "--law", "power", "--bootstrap", "0", "--holdout", "none", inside=inside))


@FUZZ
@given(
    options=st.lists(
        st.tuples(
            st.sampled_from(["--budget", "--hours", "--count", "--utilisation", "--dollars", "--dollars-per-hour",
                             "--rank", "--fraction", "--alpha", "--batch-pairs", "--context-tokens", "--learning-rate",
                             "--max-params", "--pairs", "--serving-tokens", "--device-memory", "--methods", "--model",
                             "--family", "--method", "--seed", "--repeats", "--gpu"]),
            st.sampled_from(["0", "-1", "1", "1e12", "1e400", "nan", "inf", "1e-300", "32", "", "lora", "nano-28k",
                             "nano", "pythia", "99999999999999999999", "4GiB", "a/b/c", "~nobody/x", "..", "x" * 300]),
        ),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_options(options: list[tuple[str, str]], inside: Path) -> None:
    """Numbers out of range and names that lead nowhere, in any combination.

    Typer's own complaints about what is no number keep their form."""
    outcome = command("recipe", *(f"{name}={value}" for name, value in options), inside=inside)
    assert outcome.status in (0, 2)

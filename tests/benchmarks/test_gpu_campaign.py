"""The GPU campaign, rehearsed on a CPU at the smallest sizes; and what travels arrives as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from isoembed.data.dataset import prepare
from isoembed.encoder.load import load_model, weights_hash
from isoembed.encoder.tokenizer import load_tokenizer
from isoembed.fitting.io.ledger import group_runs
from isoembed.laws import law_named
from isoembed.records import Ledger
from isoembed.training.heldout import heldout_fingerprint

ROOT = Path(__file__).parents[2]
NANO = ROOT / "src" / "isoembed" / "assets" / "nano" / "nano-28k"


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def campaign(out: Path, *arguments: str) -> str:
    return python("scripts/gpu_campaign.py", "--tiny", "--device", "cpu", "--out", str(out), *arguments)


def test_the_whole_campaign_at_the_smallest_sizes(tmp_path: Path) -> None:
    """Every stage ends well, what it found lies within its bounds, and the study's runs are an ordinary ledger.  Run
    again, it does nothing twice."""
    out = tmp_path / "run"
    campaign(out)
    right, fast, study = (json.loads((out / f"{stage}.json").read_text()) for stage in ("right", "fast", "study"))
    for name, part in {**right, **fast, **study}.items():
        assert part["status"] == "done", (name, part)
    assert not [bad for part in right.values() for bad in part["result"]["out_of_bounds"]]
    rows = fast["nano-28k"]["result"]["rows"]
    assert {(row["method"], row["side"]) for row in rows} == {
        (method, side) for method in ("full", "lora") for side in ("isoembed", "isoembed+packed", "st-cached:16")
    }
    assert fast["nano-28k"]["result"]["profile"]
    records = Ledger.open(out / "study.jsonl.gz").records()
    assert len(records) == study["slice"]["runs"] >= 12
    assert {record.recipe.model.blocks for record in records} == {1, 2}
    assert {group.method for group in group_runs(records, [law_named("embedding")])} == {
        record.recipe.method.name for record in records
    }
    assert str(tmp_path) not in "".join(record.model_dump_json() for record in records)
    before = {file: file.stat().st_mtime_ns for file in out.glob("*.json*")}
    assert campaign(out) == ""
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path: Path) -> None:
    said = python("scripts/gpu_campaign.py", "--out", str(tmp_path / "run"), "--dry-run")
    for word in ("right", "fast", "study", "pythia-410m", "FLOP", "8 minutes in all"):
        assert word in said
    assert not (tmp_path / "run").exists()


def test_a_part_that_takes_too_long_or_fails_says_why_and_the_next_one_starts(tmp_path: Path) -> None:
    """No payload for the study; and no time for more than the first checks."""
    said = python(
        *("scripts/gpu_campaign.py", "--device", "cpu", "--out", str(tmp_path), "--minutes", "1"),
        *("--stages", "study,pretrain"),
    )
    assert "left out" in said
    assert "pack with scripts/gpu_pack.py" in json.loads((tmp_path / "study.json").read_text())["slice"]["why"]


def test_a_study_in_which_nothing_works_ends_soon_and_is_done_once_it_does(tmp_path: Path) -> None:
    """Failed runs counted as done would waste the stretch and stand for good: here the device is not there."""
    said = campaign(tmp_path, "--stages", "study", "--device", "cuda:99")
    broken = json.loads((tmp_path / "study.json").read_text())["slice"]
    assert (broken["status"], broken["runs"]) == ("failed", 0)
    assert 3 <= broken["failed"] <= 4
    assert "no run has ended well" in said
    said = campaign(tmp_path, "--stages", "study")
    mended = json.loads((tmp_path / "study.json").read_text())["slice"]
    assert (mended["status"], mended["failed"]) == ("done", 0)
    assert mended["runs"] >= 12  # how far a rate search goes on depends on the machine's arithmetic
    assert f"{mended['runs']} runs, 0 failed" in said


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    import gzip

    folder = tmp_path / "pairs"
    folder.mkdir()
    for name in ("a", "b"):
        rows = [{"query": f"what is {name} {n}?", "pos": f"{name} {n} costs {n * 7} coins"} for n in range(700)]
        with gzip.open(folder / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def test_what_is_packed_arrives_as_it_was(tmp_path: Path, pairs: Path) -> None:
    """Two trips; ids, lengths and the held-out set are those of the pairs, no text travels, and a part that was
    damaged on the way is named."""
    out = tmp_path / "out"
    size = sum(file.stat().st_size for file in NANO.iterdir())
    tree = json.loads(
        python("-c", "import sys; sys.path.insert(0, 'scripts'); import gpu_pack; print(gpu_pack.tree_bytes())")
    )
    room = (tree + 65536 + 0.6 * size) / 2**20
    said = python(
        *("scripts/gpu_pack.py", "--model", str(NANO), "--pairs", str(pairs), "--out", str(out)),
        *("--trip-mib", str(room), "--context-tokens", "32"),
    )
    assert "trip-2" in said
    sent = b"".join(file.read_bytes() for file in out.glob("trip-*/*") if file.is_file())
    assert b"costs 77 coins" not in sent
    join = next(out.glob("trip-*/join.py"))
    python(str(join), str(out))
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from travel import expand_model, expand_pairs
    finally:
        sys.path.pop(0)
    expand_model(out / "payload" / "model", tmp_path / "model")
    found = expand_pairs(out / "payload" / "pairs.npz.xz", tmp_path / "store")
    assert weights_hash(load_model(str(tmp_path / "model")).half().float()) == weights_hash(
        load_model(str(NANO)).half().float()
    )
    spec = ",".join(f"{pairs / name}.jsonl.gz:700" for name in ("a", "b"))
    wanted = prepare(spec, load_tokenizer(str(NANO)), context_tokens=32, folder=tmp_path / "tokens")
    assert found.stats.fingerprint == wanted.stats.fingerprint
    assert heldout_fingerprint(found, temperature=0.025) == heldout_fingerprint(wanted, temperature=0.025)
    for left, right in zip(found.store.ids("query", found.train), wanted.store.ids("query", wanted.train), strict=True):
        np.testing.assert_array_equal(left, right)
    part = next(out.glob("trip-1/part"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    done = subprocess.run([sys.executable, str(join), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "trip-1/part is not what was packed" in done.stderr

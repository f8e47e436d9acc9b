"""`isoembed eval --mteb` and `isoembed ledger correlate`, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isoembed.cli import app
from isoembed.core import InputError
from isoembed.records import Ledger
from tests.evaluation.mteb.small import exported, write_tasks
from tests.fitting.ledgers import runs


def ok(*arguments: str) -> str:
    """What the command prints on standard output; run in this process, which has the libraries loaded already."""
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_scores_in_print_file_and_record(tmp_path: Path) -> None:
    pytest.importorskip("mteb", reason="mteb is not installed; it comes with isoembed[mteb]")
    model, _ = exported(tmp_path)
    data = write_tasks(tmp_path / "tasks")
    asked = ["eval", str(model), "--mteb", "sts/s", "--mteb", "retrieval", "--data", str(data)]
    asked += ["--prompt", "query=find: ", "--prompt", "document="]
    printed = json.loads(ok(*asked, "--json", "--out", str(tmp_path / "scores.json")))
    assert [score["task"] for score in printed["tasks"]] == ["local-sts-s", "local-retrieval-t"]
    assert printed["prompts"] == {"query": "find: ", "document": ""}
    assert json.loads((tmp_path / "scores.json").read_text()) == printed
    record = json.loads((model / "record.json").read_text())
    expected = {f"{score['task']}/{score['metric']}": score["score"] for score in printed["tasks"]}
    assert record["scores"] == expected
    again = ok(*asked)
    assert printed["revision"] in again
    assert f"{100 * printed['tasks'][0]['score']:.2f}" in again


def test_correlate_prints_every_score(tmp_path: Path) -> None:
    book = Ledger(tmp_path)
    for number, record in enumerate(runs()[:12]):
        book.add(record.model_copy(update={"scores": {"a/ndcg@10": 0.1 * number, "b/accuracy": 0.5}}))
    found = json.loads(ok("ledger", "correlate", str(tmp_path), "--json"))
    assert [each["score"] for each in found] == ["a/ndcg@10", "b/accuracy", "mean of 2 tasks"]
    assert found[1]["rho"]["value"] is None
    assert "no correlation: one side never varies" in ok("ledger", "correlate", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "nowhere"], "needs --data FOLDER or --mteb NAME"),
        (["eval", "nowhere", "--mteb", "STS15", "--prompt", "query"], "must be NAME=TEXT"),
        (["ledger", "correlate", "nowhere"], "A ledger must be a folder"),
        (["ledger", "subset", "nowhere.csv"], "A table must be a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_named(arguments: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ok(*arguments)

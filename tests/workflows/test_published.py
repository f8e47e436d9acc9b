"""What a run leaves behind may be published: it names no place, no machine and nobody."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from isoembed.core import placeless
from isoembed.records import RunRecord
from tests.commands import command
from tests.data.helpers import write_jsonl
from tests.evaluation.tiny import write_model

MARK = "somebodys-private-folder"
#: a word of the training pairs: their texts are not to be published with the model
PRIVATE = "uncirculated"
#: all that a finished run leaves
MODEL_FOLDER = {
    *("1_Pooling", "2_Normalize", "README.md", "certificate.json", "config.json", "config_sentence_transformers.json"),
    *("isoembed.json", "model.safetensors", "modules.json", "recipe.json", "record.json", "scores.json"),
    *("sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"),
}


def _told(folder: Path, words: set[bytes]) -> dict[str, list[bytes]]:
    """File -> which of `words` its bytes or its name hold."""
    found = {
        str(file.relative_to(folder)): [word for word in words if word in file.read_bytes() + file.name.encode()]
        for file in folder.rglob("*")
        if file.is_file()
    }
    return {name: words for name, words in found.items() if words}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_runs_folder_names_no_place_and_nobody(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / MARK
    monkeypatch.setenv("XDG_CACHE_HOME", str(inside / "cache"))  # of the hub's library
    monkeypatch.setenv("ISOEMBED_CACHE", str(inside / "own"))
    base = write_model(inside / "mymodel")
    rows = [{"query": f"what is item {n}?", "pos": f"item {n} costs {n * 7} {PRIVATE}"} for n in range(60)]
    pairs = write_jsonl(inside / "pairs.jsonl", rows)
    out = inside / "out"
    asked = ["run", "--budget=3e8", f"--model={base}", f"--method={method}", f"--data={pairs},{pairs}:2",
             "--batch-pairs=8", "--context-tokens=16", "--tracker=tensorboard", f"--out={out}"]  # fmt: skip
    asked += ["--keep-adapter"] if method == "lora" else []
    done = command(*asked, inside=inside)
    assert not done.status, done.err
    documents = inside / "documents.jsonl"
    documents.write_text(json.dumps({"text": f"item 3 costs {PRIVATE}"}) + "\n")
    found = command("search", "out", "item 3", f"--documents={documents}", inside=inside)
    assert PRIVATE in found.out, found.err
    assert {each.name for each in out.iterdir()} - {"adapter"} == MODEL_FOLDER
    words = {MARK, PRIVATE, str(tmp_path), str(Path.home()), os.getcwd(), socket.gethostname(), getpass.getuser()}
    # a word of a few letters is found in tokens and weights by chance
    assert _told(out, {word.encode() for word in words if len(word) > 6}) == {}
    record = RunRecord.load(out / "record.json")
    assert record.key == record.recipe.key
    assert record.recipe.model.source == "./mymodel"
    assert record.recipe.data.source == "pairs.jsonl:1,pairs.jsonl:2"

    # what it needs of the place it still finds: the base beside the model, and a finished run by its key
    assert not command(*asked, "--resume", inside=inside).status
    task = inside / "task"
    task.mkdir()
    for name, lines in {
        "queries": [{"_id": "q", "text": "item 1"}],
        "corpus": [{"_id": "d", "text": "item one costs coins"}],
    }.items():
        (task / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (task / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\tc\t1\n")
    scored = command("eval", "out", "--data=task", "--task=retrieval", inside=inside)
    assert "base, untrained" in scored.out, scored.err
    shutil.rmtree(base)
    scored = command("eval", "out", "--data=task", "--task=retrieval", inside=inside)
    assert not scored.status
    assert "base, untrained" not in scored.out
    assert "trained" in scored.out


def test_data_are_named_without_their_place() -> None:
    kept = ["docstrings", "hub:org/name:train", "pairs.jsonl", "a.csv:3,hub:org/name:train:1"]
    assert [placeless(name) for name in kept] == kept
    assert placeless("/home/me/a.csv:3,../b.jsonl:1,hub:/home/me/set:train:2") == "a.csv:3,b.jsonl:1,set:train:2"

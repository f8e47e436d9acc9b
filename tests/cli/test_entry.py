"""The command line as a user meets it: the whole job in small, its files, its errors, its JSON."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import isoembed
from isoembed.encoder.embedder import Embedder
from isoembed.encoder.exported import load_exported
from isoembed.records import RunRecord
from tests.commands import mistake, ok


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("cli") / "pairs.jsonl"
    rows = [{"anchor": f"what is item {n}?", "positive": f"item {n} costs {n * 7} coins"} for n in range(1600)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def trained(pairs: Path) -> tuple[Path, dict[str, Any]]:
    out = pairs.parent / "out"
    printed = ok(
        *("run", "--budget", "3e9", "--model", "nano-28k", "--method", "lora", "--rank", "4", "--data", str(pairs)),
        *("--batch-pairs", "16", "--out", str(out), "--json", "--keep-adapter"),
    )
    return out, json.loads(printed)


def test_run_writes_a_sentence_transformers_model(trained: tuple[Path, dict[str, Any]]) -> None:
    out, printed = trained
    record = RunRecord.load(out / "record.json")
    assert abs(record.model_flop - 3e9) / 3e9 < 0.05
    assert record.recipe.base_hash is not None
    assert printed["record"]["key"] == record.key
    assert set(printed["scores"]) == {"base, untrained", "static table", "BM25", "trained"}
    assert {path.name for path in out.iterdir()} >= {
        "modules.json",
        "README.md",
        "recipe.json",
        "scores.json",
        "adapter",
    }
    assert not [path for path in out.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    texts = ["what is item 3?", "a longer text " * 40]
    encoder, tokenizer, context = load_exported(out)
    theirs = SentenceTransformer(str(out), device="cpu").encode(texts)
    np.testing.assert_allclose(theirs, Embedder(encoder, tokenizer, context).embed(texts), atol=1e-5)


def test_run_twice_is_refused_and_resume_does_nothing_again(trained: tuple[Path, dict[str, Any]], pairs: Path) -> None:
    out, _ = trained
    again = ["--budget", "3e9", "--model", "nano-28k", "--method", "lora", "--rank", "4", "--data", str(pairs)]
    again += ["--batch-pairs", "16", "--out", str(out)]
    before = (out / "record.json").read_bytes()
    assert "already holds a trained model" in mistake("run", *again)
    ok("train", *again, "--resume")
    assert (out / "record.json").read_bytes() == before
    said = mistake("train", *again, "--resume", "--seed", "1")
    assert "another recipe: seed 0 there, 1 here" in " ".join(said.split())


def test_search(trained: tuple[Path, dict[str, Any]]) -> None:
    out, _ = trained
    documents = out.parent / "documents.jsonl"
    documents.write_text('{"title": "A", "text": "item 3 costs 21 coins"}\n{"title": "B", "text": "rain tomorrow"}\n')
    hits = json.loads(ok("search", str(out), "what is item 3?", "--documents", str(documents), "--json"))
    assert [hit["title"] for hit in hits] == ["A", "B"]


def test_dry_run_writes_no_model(pairs: Path, tmp_path: Path) -> None:
    printed = ok("run", "--budget", "3e9", "--data", str(pairs), "--out", str(tmp_path / "x"), "--dry-run")
    assert "warm-up" in printed
    assert not (tmp_path / "x" / "modules.json").exists()


def test_another_pooling_is_trained_and_exported(pairs: Path, tmp_path: Path) -> None:
    asked = ["train", "--budget", "3e9", "--model", "nano-28k", "--method", "full", "--data", str(pairs)]
    asked += ["--batch-pairs", "16", "--pooling", "last", "--out", str(tmp_path / "x"), "--json"]
    recipe = json.loads(ok(*asked))["record"]["recipe"]
    assert recipe["pooling"] == "last"
    plain = json.loads(ok(*asked[:-5], "--out", str(tmp_path / "y"), "--dry-run", "--json"))["recipe"]
    assert plain["pooling"] == "mean"
    for side in ("query_tokens", "positive_tokens"):  # the end-of-text token is counted, and paid for
        assert recipe["data"][side] == pytest.approx(plain["data"][side] + 1)
    model = SentenceTransformer(str(tmp_path / "x"), device="cpu")
    assert model[1].pooling_mode == "lasttoken"
    assert model.tokenizer("item 3").input_ids[-1] == model.tokenizer.eos_token_id


def test_mined_negatives_and_every_option_travel_to_the_exported_model(
    trained: tuple[Path, dict[str, Any]], pairs: Path, tmp_path: Path
) -> None:
    mined, out = tmp_path / "mined.jsonl", tmp_path / "x"
    found = json.loads(ok("data", "mine", str(trained[0]), str(pairs), "--out", str(mined), "--margin", "0", "--json"))
    assert found["queries"] == 1600
    assert found["negatives"] > 1600
    asked = ["train", "--budget", "3e9", "--model", "nano-28k", "--method", "full", "--data", str(mined)]
    asked += ["--batch-pairs", "16", "--out", str(out), "--json", "--matryoshka", "8,16"]
    asked += ["--bidirectional", "--query-prompt", "question: ", "--positive-prompt", "answer: "]
    record = json.loads(ok(*asked, "--no-pool-prompt"))["record"]
    assert record["negatives"] > record["pairs"]
    assert record["recipe"]["options"] == {
        "mask_margin": None,
        "mask_by": "self",
        "batch_by": "mixed",
        "clusters": None,
        "source_alpha": None,
        "ema_decay": None,
        "hardness_strength": 0.0,
        "schedule": "cosine",
        "decay_fraction": 0.4,
        "teacher": None,
        "prompts": {"query": "question: ", "positive": "answer: ", "pooled": False},
        "matryoshka": [16, 8],
        "dimensions": None,
        "bidirectional": True,
        "resize_embeddings": False,
    }
    model = SentenceTransformer(str(out), device="cpu")
    encoder, tokenizer, context = load_exported(out)
    texts = ["what is item 3?", "item 3 costs 21 coins"]
    ours = Embedder(encoder, tokenizer, context).embed(texts, "query")
    np.testing.assert_allclose(model.encode(texts, prompt_name="query"), ours, atol=1e-5)
    sts = tmp_path / "sts.jsonl"
    sts.write_text("".join(f'{{"s1": "item {n}", "s2": "item {n * n} costs", "score": {-n}}}\n' for n in range(9)))
    scored = ["eval", str(out), "--data", str(sts), "--task", "sts", "--json"]
    whole, cut = (json.loads(ok(*each))["systems"]["trained"] for each in (scored, [*scored, "--truncate-dim", "8"]))
    assert whole["sts"]["metrics"] != cut["sts"]["metrics"]
    assert "--truncate-dim" in mistake(*scored, "--truncate-dim", "24")
    smaller = json.loads(ok(*scored, "--quantized"))["systems"]
    assert smaller.keys() >= {"trained", "trained, int8", "trained, binary"}
    assert smaller["trained"]["sts"]["metrics"] == whole["sts"]["metrics"]
    assert smaller["trained, binary"]["sts"]["metrics"] != whole["sts"]["metrics"]  # nothing was quantised


def test_inspect(pairs: Path) -> None:
    found = json.loads(ok("data", "inspect", str(pairs), "--json"))
    assert (found["pairs"], found["duplicates"]) == (1600, 0)
    assert found["epoch_flop"][0]["flop"] == pytest.approx(6 * 28944 * found["epoch_tokens"])


def test_notes_on_other_candidates_name_flags_too() -> None:
    said = ok("recipe", "--budget", "1e18", "--family", "pythia", "--pairs", "20000")
    assert said.count("lower `--batch-pairs`") > 1, "the chosen recipe and the runners-up"
    assert "`batch_pairs`" not in said
    assert "`epochs" not in said
    by_rule = " ".join(ok("recipe", "--budget", "1e12", "--batch-pairs", "64").split())
    assert "run a pilot first (`isoembed run` with `--pilot`)" in by_rule


def test_a_refusal_within_a_warning_names_the_options() -> None:
    """Fails where it is kept as a fact whose sentence still names fields."""
    printed = " ".join(ok("recipe", "--budget", "1e15", "--family", "nano").split())
    assert "leave `--law` out for a guess by rule" in printed


def test_recipe_json() -> None:
    found = json.loads(ok("recipe", "--budget", "1e17", "--family", "pythia", "--json"))["recipe"]
    assert (found["method"]["name"], found["batch_pairs"], found["context_tokens"]) == ("lora", 1024, 75)
    assert found["flop"] == pytest.approx(1e17, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipe"], "Exactly one of"),
        (["recipe", "--budget", "lots"], "positive number of FLOP"),
        (["recipe", "--budget", "1e12", "--method", "magic"], "must be one of full, freeze, bias, lora"),
        (["recipe", "--budget", "1e12", "--rank", "8"], "must come with --method"),
        (["recipe", "--budget", "1e12", "--method", "full", "--rank", "8"], "takes no rank"),
        (["recipe", "--budget", "1e12", "--method", "freeze", "--fraction", "1.5"], "less than or equal to 1"),
        (["recipe", "--budget", "1e12", "--batch-pairs", "1"], "at least 2"),
        (["recipe", "--budget", "1e12", "--batch-pairs", "0"], "at least 2"),
        (["recipe", "--budget", "1e12", "--learning-rate=-1"], "greater than 0"),
        (["recipe", "--budget", "1e12", "--pooling", "cls"], "must be one of mean, last, max; got 'cls'"),
        (["run", "--budget", "1e12", "--out", "x", "--pooling", "first"], "first is not trained any more"),
        (["recipe", "--budget", "1e12", "--mask-margin", "0.1"], "`--mask-margin` is not trained with any more"),
        (["recipe", "--budget", "1e12", "--method", "dora"], "level with lora at equal FLOP; use lora"),
        (["recipe", "--hours", "0", "--gpu", "h100"], "must be a positive number"),
        (["recipe", "--hours", "3", "--family", "pythia"], "must come with --gpu"),
        (["recipe", "--hours", "3", "--gpu", "H100", "--count", "8"], "needs a named family"),
        (["recipe", "--budget", "1e17"], "needs a named family"),
        (["recipe", "--budget", "1e12", "--count", "0"], "greater than or equal to 1"),
        (["data", "inspect", "nowhere.jsonl"], "nowhere.jsonl"),
        (["search", "nowhere", "query"], "modules.json"),
        (["run", "--budget", "1e12", "--out", "x", "--memory", "much"], "must be a size"),
        (["sweep", "run", "nowhere", "--ray", "local"], "holds no sweep"),
    ],
    ids=lambda value: " ".join(value[:6]) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(arguments: list[str], words: str) -> None:
    assert words in mistake(*arguments)


def test_every_public_name_is_there() -> None:
    for name in isoembed.__all__:
        assert getattr(isoembed, name) is not None


@pytest.mark.parametrize("closed", ["1", "2", "0", "1 2"])
def test_a_closed_output_is_no_fault(closed: str, tmp_path: Path) -> None:
    """A daemon starts commands without standard streams: Python then has None for them."""
    shut = " ".join(f"{number}>&-" if number != "0" else "0<&-" for number in closed.split())
    command = f"exec {shlex.quote(sys.executable)} -m isoembed models --family nano {shut}"
    done = subprocess.run(["/bin/sh", "-c", command], stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, b"")

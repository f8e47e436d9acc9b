"""`--resize-embeddings`: a tokenizer of more tokens than its model's table has rows, from the recipe to the export."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from isoembed.encoder.embedder import Embedder
from isoembed.encoder.exported import load_exported
from isoembed.encoder.load import grow_table, load_model
from isoembed.encoder.shapes import spec_from_config, spec_of
from isoembed.encoder.tokenizer import load_tokenizer, missing_rows
from isoembed.records import RunRecord
from isoembed.training.callbacks import MetricsFile, StepFacts
from tests.commands import Outcome, command
from tests.data.helpers import write_jsonl
from tests.models import VOCAB, configs, tiny, tiny_tokenizer

ADDED = ["<item>", "<price>"]
ROWS = VOCAB + len(ADDED)
FLAG = ("--resize-embeddings",)


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model whose tokenizer has two tokens more than its table, and pairs of texts with them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(ADDED)
    tokenizer.save_pretrained(tmp_path / "base")
    tiny("llama").save_pretrained(tmp_path / "base")  # type: ignore[operator]
    words = [f"w{4 + n % 60} w{4 + n // 60} w{4 + n * 7 % 60}" for n in range(120)]
    write_jsonl(tmp_path / "pairs.jsonl", [{"query": f"<item> {text}", "pos": f"{text} <price>"} for text in words])
    return tmp_path


def train(inside: Path, method: str, out: str, *more: str) -> Outcome:
    asked = ["train", "--budget=1e8", "--model=base", f"--method={method}", "--data=pairs.jsonl", "--batch-pairs=16"]
    return command(*asked, "--context-tokens=16", f"--out={out}", *more, inside=inside)


def test_without_it_the_refusal_names_it(inside: Path) -> None:
    done = train(inside, "full", "out")
    assert done.status == 2
    assert "'<item>' is 64, '<price>' is 65" in done.err
    assert "--resize-embeddings" in done.err


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_exported_model_is_the_grown_one(method: str, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a stop, from which the run goes on to the same weights: rows that are not trained are drawn again."""
    whole = train(inside, method, "whole", "--resize-embeddings", "--explain")
    assert not whole.status, whole.err
    assert f"token table grown to {ROWS} rows" in whole.out
    assert f"token table grown to {ROWS} rows" in (inside / "whole" / "README.md").read_text()
    record = RunRecord.load(inside / "whole" / "record.json")
    assert record.recipe.options.resize_embeddings
    assert (record.recipe.model.vocab, record.recipe.model.embedding_params) == (ROWS, ROWS * 32)

    with monkeypatch.context() as patch:
        step = MetricsFile.step

        def stop(self: MetricsFile, facts: StepFacts) -> None:
            step(self, facts)
            if facts.step == 2:
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(MetricsFile, "step", stop)
        assert train(inside, method, "part", "--resize-embeddings").status == 130
    torch.manual_seed(7)  # the caller's random state does not matter
    assert not train(inside, method, "part", "--resize-embeddings", "--resume").status
    weights = [(inside / out / "model.safetensors").read_bytes() for out in ("whole", "part")]
    assert weights[0] == weights[1]

    encoder, tokenizer, context_tokens = load_exported(inside / "whole", device="cpu")
    texts = ["<item> w5", "<price>", "w4 <item> <price>"]
    assert tokenizer(texts[2]).input_ids == [4, 64, 65]
    theirs = SentenceTransformer(str(inside / "whole"), device="cpu").encode(texts)
    assert theirs == pytest.approx(Embedder(encoder, tokenizer, context_tokens).embed(texts), abs=1e-5)


def test_the_base_beside_the_export_is_grown_too(inside: Path) -> None:
    assert not train(inside, "full", "out", "--resize-embeddings").status
    for named in ([], ["--base=base"]):  # the second was "FAILED reads texts"
        done = command("certify", "out", *named, inside=inside)
        assert not done.status, done.out
    task = inside / "task"
    for name, rows in (("corpus", [{"_id": "d", "text": "w4 <price>"}]), ("queries", [{"_id": "q", "text": "<item>"}])):
        task.mkdir(exist_ok=True)
        write_jsonl(task / f"{name}.jsonl", rows)
    (task / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    done = command("eval", "out", "--data=task", "--task=retrieval", "--json", inside=inside)
    assert not done.status, done.err
    assert "base, untrained" in done.out


def test_recipe_and_inspection_count_the_grown_table(inside: Path) -> None:
    asked = ["--model=base", "--context-tokens=32", "--resize-embeddings", "--json"]
    done = command("recipe", "--budget=1e10", "--method=full", "--batch-pairs=16", *asked, inside=inside)
    assert json.loads(done.out)["recipe"]["model"]["vocab"] == ROWS
    assert not command("data", "inspect", "pairs.jsonl", *asked, inside=inside).status
    assert command("data", "inspect", "pairs.jsonl", "--model=base", inside=inside).status == 2


def test_a_table_that_is_large_enough_stays_and_so_does_the_recipe(inside: Path) -> None:
    tiny_tokenizer().save_pretrained(inside / "base")
    asked = ["recipe", "--budget=1e10", "--method=full", "--batch-pairs=16", "--context-tokens=32", "--json"]
    asked += ["--model=base"]
    keys = {json.loads(command(*asked, *more, inside=inside).out)["recipe"]["key"] for more in ((), FLAG)}
    assert len(keys) == 1


@pytest.mark.parametrize("architecture", configs())
def test_every_architectures_table_grows_always_alike(architecture: str, tmp_path: Path) -> None:
    tiny(architecture).save_pretrained(tmp_path)  # type: ignore[operator]
    before = torch.get_rng_state()
    first, second = (grow_table(load_model(str(tmp_path)), ROWS) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert spec_of(first, tmp_path.name, str(tmp_path)) == spec_from_config(str(tmp_path), rows=ROWS)
    with torch.no_grad():
        assert first(input_ids=torch.tensor([[ROWS - 1, 4]])).last_hidden_state.isfinite().all()


def test_padding_beyond_the_table_gets_a_row(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(pad_token="[PAD]")
    tokenizer.save_pretrained(tmp_path)
    configs()["llama"].save_pretrained(tmp_path)
    assert missing_rows(str(tmp_path)) == 1
    assert load_tokenizer(str(tmp_path), rows=VOCAB + 1).pad_token_id == VOCAB

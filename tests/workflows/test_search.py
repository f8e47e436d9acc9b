import json
import shutil
from pathlib import Path

import pytest

from isoembed.cache import user_cache
from isoembed.core import InputError
from isoembed.encoder.embedder import Embedder
from isoembed.methods import LoRA
from isoembed.workflows.search import Index, read_documents
from tests.encoder.test_export import fine_tuned
from tests.evaluation.tiny import TEXTS, load, write_model


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOEMBED_CACHE", str(tmp_path / "cache"))


def index_of(folder: Path) -> Path:
    """Where the index of the model in `folder` lies."""
    (found,) = (user_cache() / "index").iterdir()
    assert not (folder / "index").exists()
    return found


DOCUMENTS = [(f"title {index}", text) for index, text in enumerate(TEXTS)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    encoder, tokenizer = load(write_model(tmp_path / "base"))
    Embedder(encoder, tokenizer, 24).save(tmp_path / "model", card="")
    return tmp_path / "model"


def test_finds_the_document_itself_now_and_after_loading(folder: Path) -> None:
    built = Index.build(folder, DOCUMENTS)
    for index in (built, Index.load(folder)):
        for title, text in DOCUMENTS:
            hits = index.search(text, k=3)
            assert (hits[0].title, hits[0].text) == (title, text)
            assert hits[0].score == pytest.approx(1, abs=1e-5)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            assert len(hits) == 3
    assert len(built.search("a", k=99)) == len(DOCUMENTS)


def test_reused_where_nothing_changed_and_only_there(folder: Path) -> None:
    embedded: list[int] = []
    for documents in (DOCUMENTS, DOCUMENTS, DOCUMENTS[1:], [("other title", DOCUMENTS[1][1]), *DOCUMENTS[2:]]):
        before = len(embedded)
        index = Index.build(folder, iter(documents), progress=lambda done, total: embedded.append(done))
        assert index.documents == tuple(documents)
        assert (len(embedded) > before) == (documents is not DOCUMENTS or before == 0)


def test_an_index_of_another_model_is_never_used(folder: Path, tmp_path: Path) -> None:
    Index.build(folder, DOCUMENTS)
    source = tmp_path / "base"
    other = fine_tuned(source, LoRA(rank=2), "mean")
    Embedder(other, load(source)[1], 24).save(tmp_path / "other", card="")
    shutil.copytree(index_of(folder), tmp_path / "other" / "index")  # as folders were laid out once
    with pytest.raises(InputError, match="build it first"):
        Index.load(tmp_path / "other")
    rebuilt = Index.build(tmp_path / "other", DOCUMENTS)
    assert rebuilt.search(TEXTS[0], k=1)[0].score == pytest.approx(1, abs=1e-5)
    shutil.rmtree(tmp_path / "other" / "index")
    Index.load(tmp_path / "other")  # a model trained with LoRA finds its own index again


def test_missing_damaged_and_empty(folder: Path) -> None:
    with pytest.raises(InputError, match="build it first"):
        Index.load(folder)
    with pytest.raises(InputError, match="at least one document"):
        Index.build(folder, [])
    Index.build(folder, DOCUMENTS)
    documents = index_of(folder) / "documents.jsonl"
    documents.write_text("\n".join(documents.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(InputError, match="damaged"):
        Index.load(folder)
    documents.write_text(json.dumps({"title": "t"}) + "\n")
    with pytest.raises(InputError, match="damaged"):
        Index.load(folder)


def test_reads_documents_of_the_users(tmp_path: Path) -> None:
    file = tmp_path / "documents.jsonl"
    file.write_text('{"title": "T", "text": "one"}\n\n{"text": "two"}\n')
    assert list(read_documents(file)) == [("T", "one"), ("", "two")]
    file.write_text('{"text": "one"}\n{"title": "no text"}\n')
    with pytest.raises(InputError, match=r"documents\.jsonl:2: .*'text' is missing"):
        list(read_documents(file))
    with pytest.raises(InputError, match=r"nothing\.jsonl"):
        list(read_documents(tmp_path / "nothing.jsonl"))


def test_only_safetensors_and_json(folder: Path) -> None:
    Index.build(folder, DOCUMENTS)
    assert {file.suffix for file in index_of(folder).iterdir()} == {".safetensors", ".jsonl", ".json"}
    assert not [path for path in index_of(folder).parent.iterdir() if path.name.startswith(".")]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_half_characters_are_refused_in_a_file_and_replaced_elsewhere(folder: Path, tmp_path: Path) -> None:
    """A lone surrogate in a text would end in a tokenizer's TypeError, in a title at every later search."""
    file = tmp_path / "documents.jsonl"
    for row in ('{"text": "one \\ud800 two"}', '{"title": "\\udc00", "text": "one"}'):
        file.write_text('{"text": "fine \\ud83d\\ude00"}\n' + row + "\n")
        with pytest.raises(InputError, match=r"documents\.jsonl:2: .*lone surrogate"):
            list(read_documents(file))
    index = Index.build(folder, [("title \ud800", "a file \udfff"), *DOCUMENTS])
    hits = [hit for index in (index, Index.load(folder)) for hit in index.search("a file \udce9", k=99)]
    assert {"title \ufffd"} == {hit.title for hit in hits if hit.text == "a file \ufffd"}
    "".join(hit.title + hit.text for hit in hits).encode()


def test_an_index_in_an_older_models_folder_is_still_found(folder: Path) -> None:
    """Indices were kept in the model's folder, beside what is published."""
    Index.build(folder, DOCUMENTS)
    index_of(folder).rename(folder / "index")
    assert Index.load(folder).documents == tuple(DOCUMENTS)

"""Our systems, and the agreement of our numbers with sentence-transformers' evaluators on the exported model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)

from isoembed.encoder.embedder import Embedder
from isoembed.evaluation.retrieval import RetrievalTask
from isoembed.evaluation.score import evaluate
from isoembed.evaluation.sts import StsTask
from isoembed.evaluation.systems import BM25, DenseSystem, EmbeddingSystem, Quantized, Static
from isoembed.evaluation.tasks import Task
from isoembed.recipe import PoolingName
from tests.evaluation.tiny import load, write_model

WORDS = ["file", "list", "array", "date", "server", "lines", "axis", "numbers", "second", "open", "sort", "mean", "fox"]


def texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(2, 30))) for _ in range(count)]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_agrees_with_sentence_transformers_evaluators(tmp_path: Path, pooling: PoolingName) -> None:
    encoder, tokenizer = load(write_model(tmp_path / "base"), pooling)
    Embedder(encoder, tokenizer, 24).save(tmp_path / "out", card="")
    theirs, ours = (
        SentenceTransformer(str(tmp_path / "out"), device="cpu"),
        DenseSystem(Embedder(encoder, tokenizer, 24)),
    )

    corpus = {f"d{index}": text for index, text in enumerate(texts(150, seed=0))}
    queries = {f"q{index}": text for index, text in enumerate(texts(40, seed=1))}
    rng = np.random.default_rng(2)
    relevant = {key: dict.fromkeys(rng.choice(list(corpus), size=rng.integers(1, 5)).tolist(), 1) for key in queries}
    evaluator: Any = InformationRetrievalEvaluator(
        dict(queries),
        dict(corpus),
        {key: set(found) for key, found in relevant.items()},
        precision_recall_at_k=[1, 10, 100],
    )
    expected = evaluator(theirs)
    scores = RetrievalTask("toy", queries, corpus, relevant).score(ours)
    assert scores == pytest.approx({key: expected[f"cosine_{key}"] for key in scores}, abs=1e-9)
    assert scores["recall@100"] > scores["recall@10"] > 0  # the comparison is not between zeros

    left, right, human = texts(60, seed=3), texts(60, seed=4), rng.uniform(size=60)
    similarity = EmbeddingSimilarityEvaluator(left, right, list(human))(theirs)
    task = StsTask("toy", tuple(left), tuple(right), tuple(human))
    assert task.score(ours)["spearman"] == pytest.approx(similarity["spearman_cosine"], abs=1e-6)


def test_dense_finds_the_text_itself(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path))
    documents = texts(20, seed=5)
    found = DenseSystem(Embedder(encoder, tokenizer, 64)).search(documents, documents, k=3)
    assert [hits[0][0] for hits in found] == list(range(20))
    assert [hits[0][1] for hits in found] == pytest.approx([1.0] * 20, abs=1e-5)
    assert all(len(hits) == 3 and hits[0][1] >= hits[1][1] >= hits[2][1] for hits in found)


def test_static_is_the_mean_of_the_token_table(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path))
    table = encoder.model.get_parameter("embed_in.weight")
    sample = ["open a file", "", "sort " * 40]
    vectors = Static(Embedder(encoder, tokenizer, 10)).embed(sample)
    for text, vector in zip(sample, vectors, strict=True):
        ids = tokenizer(text)["input_ids"][:10]
        mean = table[ids].mean(0).detach() if ids else torch.zeros(16)
        np.testing.assert_allclose(vector, torch.nn.functional.normalize(mean, dim=0).numpy(), atol=1e-6)


def test_bm25_ranks_by_rare_words_and_finds_nothing_without_a_common_word() -> None:
    documents = ["the cat sat", "the dog sat", "the dog barked at a heron", "unrelated"]
    found = BM25().search(["a heron and a dog", "sat", "zebra", ""], documents, k=10)
    assert found[0][0][0] == 2
    assert {index for index, _ in found[0]} == {1, 2}
    assert {index for index, _ in found[1]} == {0, 1}
    assert found[2] == []
    assert found[3] == []


@pytest.mark.parametrize(
    ("documents", "query"),
    [
        (["今天编程城市价格旅行电影。", "苹果电影公园机票我们退款。", "旅行苹果散步公园。"], "公园退款"),
        (["今日は天気がいい", "コーヒーを飲みました", "映画を見る"], "コーヒー"),
        (["ราคาเท่าไหร่", "ขอคืนเงินได้ไหม", "อากาศดีวันนี้"], "คืนเงิน"),
        (["한국의 날씨", "환불은 어떻게 하나요", "영화를 봤다"], "환불을"),
        (["आज मौसम अच्छा है", "क्या मुझे धनवापसी मिल सकती है", "फिल्म देखी"], "धनवापसी"),
        (["大猫", "犬と猿", "鳥"], "犬"),
    ],
)
def test_bm25_finds_words_of_scripts_without_spaces(documents: list[str], query: str) -> None:
    """Words cut at spaces alone, or at vowel signs, would find nothing, or another document."""
    (found,) = BM25().search([query], documents, k=3)
    assert found[0][0] == 1


def test_texts_without_words_have_no_bm25_score() -> None:
    texts = ["...", "\u200b\u200b", "\x01\x02", "!?"]
    task = RetrievalTask.from_pairs("signs", texts, texts[::-1])
    (score,) = evaluate({"BM25": BM25()}, [task]).systems["BM25"].values()
    assert score.metrics == {}
    assert score.notes == ("BM25 finds nothing for any query: it has no score",)
    assert [(each.code, each.fields) for each in score.facts] == [("nothing-found", {"system": "BM25"})]
    before = score.model_dump(exclude={"facts"})  # as files of before there were facts have it
    assert type(score).model_validate(before).notes == score.notes


def test_all_systems_stand_side_by_side(tmp_path: Path) -> None:
    encoder, tokenizer = load(write_model(tmp_path))
    documents = texts(30, seed=6)
    tasks: list[Task] = [
        RetrievalTask.from_pairs("same", documents, documents),
        StsTask("sts", tuple(documents), tuple(reversed(documents)), tuple(range(30))),
    ]
    told: list[tuple[str, str]] = []
    scores = evaluate(
        {
            "base": DenseSystem(Embedder(encoder, tokenizer, 64)),
            "static": Static(Embedder(encoder, tokenizer, 64)),
            "bm25": BM25(),
        },
        tasks,
        progress=lambda system, task: told.append((system, task)),
    )
    metrics = scores.metrics()
    assert list(metrics) == ["base", "static", "bm25"]
    assert metrics["base"]["same"]["recall@1"] == 1.0
    assert metrics["bm25"]["same"]["recall@10"] == pytest.approx(1.0, abs=0.2)
    assert metrics["bm25"]["sts"] == {}
    assert set(metrics["static"]["sts"]) == {"spearman"}
    assert scores.systems["base"]["same"].counts == {"queries": 30, "documents": 30}
    assert len(told) == 6
    assert type(scores).model_validate_json(scores.model_dump_json()) == scores


class Fixed(EmbeddingSystem):
    """Texts are numbers of rows."""

    def __init__(self, embedding_ND: np.ndarray) -> None:
        self.embedding_ND = embedding_ND

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self.embedding_ND[[int(text) for text in texts]]


def test_quantised_embeddings_are_near_and_by_hand() -> None:
    """A byte is within a step of the value; a bit is its sign; no tokens, no similarity; queries stay whole."""
    rng = np.random.default_rng(0)
    embedding_ND = rng.normal(size=(50, 12)).astype(np.float32)
    embedding_ND /= np.linalg.norm(embedding_ND, axis=1, keepdims=True)
    embedding_ND[7] = 0.0
    inner, names = Fixed(embedding_ND), [str(row) for row in range(50)]
    byte_ND, bit_ND = Quantized(inner, "int8").embed(names), Quantized(inner, "binary").embed(names)
    step = float(np.ptp(embedding_ND, axis=0).max()) / 255
    assert 0 < np.abs(byte_ND - embedding_ND).max() < 2 * step
    others = np.arange(50) != 7
    np.testing.assert_allclose(bit_ND[others], np.where(embedding_ND[others] > 0, 1, -1) / np.sqrt(12), atol=1e-6)
    assert not byte_ND[7].any()
    assert not bit_ND[7].any()
    np.testing.assert_array_equal(Quantized(inner, "binary").embed_queries(names), embedding_ND)
    found = Quantized(inner, "int8").search(["3"], names, 1)
    assert found[0][0][0] == 3

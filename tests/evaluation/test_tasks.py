import shutil
from pathlib import Path

import pytest

from isoembed.core import InputError
from isoembed.evaluation.tasks import open_task, open_tasks
from tests.evaluation.test_retrieval import task_folder


def test_opens_every_task_of_a_folder_and_passes_over_other_kinds(tmp_path: Path) -> None:
    for kind in ("retrieval", "sts", "clustering"):
        (tmp_path / kind).mkdir()
    task_folder(tmp_path / "retrieval" / "b")
    task_folder(tmp_path / "retrieval" / "a")
    (tmp_path / "retrieval" / "README.md").write_text("notes")
    (tmp_path / "sts" / "c").mkdir()
    (tmp_path / "sts" / "c" / "test.jsonl").write_text(
        '{"s1": "a", "s2": "b", "score": 1}\n{"s1": "a", "s2": "b", "score": 2}\n'
    )
    assert [(task.kind, task.name) for task in open_tasks(tmp_path)] == [
        ("retrieval", "a"),
        ("retrieval", "b"),
        ("sts", "c"),
    ]
    assert open_task("sts", tmp_path / "sts" / "c").counts == {"pairs": 2}
    shutil.rmtree(tmp_path / "sts")
    shutil.rmtree(tmp_path / "retrieval")
    with pytest.raises(InputError, match="retrieval/NAME"):
        open_tasks(tmp_path)


def test_unknown_kind_or_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"retrieval, sts, reranking, .*got 'poetry'"):
        open_task("poetry", tmp_path)
    with pytest.raises(InputError, match="nothing at"):
        open_task("sts", tmp_path / "missing")

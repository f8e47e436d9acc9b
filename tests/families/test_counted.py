"""Counts are kept between commands, by the bytes of the configuration they came from."""

import json
from pathlib import Path

import pytest

from isoembed.cache import user_cache
from isoembed.core import InputError
from isoembed.families import ModelSpec, family_named
from isoembed.families.counted import counted

SPEC = family_named("gpt2").models[0]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def model(tmp_path: Path, width: int = 32) -> str:
    (tmp_path / "mine").mkdir(exist_ok=True)
    (tmp_path / "mine" / "config.json").write_text(json.dumps({"n_embd": width}))
    return str(tmp_path / "mine")


class Counter:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, source: str, depth: int | None) -> ModelSpec:
        self.asked.append(source)
        return SPEC.model_copy(update={"source": source, "hidden": 100 + len(self.asked)})


def test_a_model_is_counted_once_until_its_configuration_changes(tmp_path: Path) -> None:
    count = Counter()
    first = counted(model(tmp_path), count)
    assert counted(model(tmp_path), count) == first
    assert len(count.asked) == 1
    assert counted(model(tmp_path, width=48), count).hidden == 102
    assert len(count.asked) == 2


def test_each_depth_is_counted_for_itself(tmp_path: Path) -> None:
    count = Counter()
    assert [counted(model(tmp_path), count, depth=depth).hidden for depth in (None, 1, 2, None, 1)] == [
        101, 102, 103, 101, 102,
    ]  # fmt: skip


def test_a_damaged_entry_is_counted_anew(tmp_path: Path) -> None:
    count = Counter()
    counted(model(tmp_path), count)
    (entry,) = (user_cache() / "models").iterdir()
    entry.write_text("{")
    assert counted(model(tmp_path), count).hidden == 102
    assert counted(model(tmp_path), count).hidden == 102


def test_without_a_place_to_write_it_is_counted_every_time(tmp_path: Path) -> None:
    count = Counter()
    (tmp_path / "cache").write_text("a file where the folder should be")
    for hidden in (101, 102):
        assert counted(model(tmp_path), count).hidden == hidden


@pytest.mark.parametrize("source", ["../../etc/passwd", "a/b/c", "nobody/nothing-here"])
def test_what_is_not_here_is_left_to_the_counter(tmp_path: Path, source: str) -> None:
    def refuses(_: str, depth: int | None) -> ModelSpec:
        raise InputError("no such model")

    with pytest.raises(InputError, match="no such model"):
        counted(source, refuses)
    assert not user_cache().exists()


def test_counts_lie_in_the_cache_that_the_user_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They, and unpacked GGUF files, had a rule of their own that `ISOEMBED_CACHE` did not reach."""
    monkeypatch.setenv("ISOEMBED_CACHE", str(tmp_path / "named"))
    counted(model(tmp_path), Counter())
    assert len(list((tmp_path / "named" / "models").iterdir())) == 1

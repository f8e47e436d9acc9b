"""The user's cache: where it is, what is kept there and for how long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isoembed.cache import (
    Places,
    begin_work,
    cache_folder,
    cached_place,
    clear,
    entries,
    prune,
    unwritten,
    user_cache,
    working_folder,
)
from isoembed.core import InputError, sole_writer


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """One entry of each kind."""
    for name in ("tokens-0123", "runs/out-4567", "index/89ab"):
        (tmp_path / "cache" / name).mkdir(parents=True)
        (tmp_path / "cache" / name / "file").write_text("x" * 1000)
    return tmp_path / "cache"


def test_the_place_is_the_variables_then_xdgs_then_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("ISOEMBED_CACHE", "~/own")
    assert user_cache() == tmp_path / "own"
    monkeypatch.delenv("ISOEMBED_CACHE")
    assert user_cache() == tmp_path / "xdg" / "isoembed"
    for none in ("", "relative"):  # the standard has relative ones passed over
        monkeypatch.setenv("XDG_CACHE_HOME", none)
        assert user_cache() == tmp_path / ".cache" / "isoembed"


def test_output_folders_of_one_name_have_working_folders_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "a").mkdir()
    cache = tmp_path / "cache"
    first, second = working_folder(tmp_path / "a" / "out", cache), working_folder(tmp_path / "b" / "out", cache)
    assert first != second
    assert first.name.startswith("out-")
    assert working_folder(tmp_path / "link" / "out", cache) == first


def test_an_older_output_folder_keeps_what_it_has_inside(tmp_path: Path) -> None:
    """Runs that an earlier version began are gone on with."""
    for name in ("tokens", "training", "pilot"):
        (tmp_path / "out" / name).mkdir(parents=True)
    with Places.of(tmp_path / "out", None) as places:
        assert (places.tokens, places.work, places.pilot) == tuple(
            tmp_path / "out" / name for name in ("tokens", "training", "pilot")
        )


def test_a_dry_run_finds_stores_and_leaves_none(cache: Path, tmp_path: Path) -> None:
    with Places.of(tmp_path / "out", cache, dry=True) as places:
        assert (places.tokens / "tokens-0123" / "file").is_file()
        (places.tokens / "tokens-new").mkdir()
    assert sorted(each.name for each in cache.iterdir()) == ["index", "runs", "tokens-0123"]
    assert (cache / "tokens-0123" / "file").is_file()
    assert not places.tokens.exists()


@pytest.mark.parametrize("resume", [False, True])
def test_work_for_an_output_folder_that_was_removed_is_forgotten(resume: bool, tmp_path: Path) -> None:
    """Else `rm -r out` and the same command again would be refused, or go on."""
    out = tmp_path / "out"
    work = working_folder(out, tmp_path / "cache")
    begin_work(out, work, resume=False)
    (work / "checkpoints" / "step-00000001").mkdir(parents=True)
    begin_work(out, work, resume=False)
    assert list(work.glob("checkpoints/*"))
    out.rmdir()
    begin_work(out, work, resume=resume)
    assert bool(list(work.glob("checkpoints/*"))) == resume
    assert [each.out for each in entries(tmp_path / "cache")] == [str(out.resolve())]


def test_the_users_cache_loses_what_nobody_has_used_for_long(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOEMBED_CACHE", str(cache))
    for file in (cache / "tokens-0123" / "file", cache / "tokens-0123", cache / "index" / "89ab"):
        os.utime(file, (1e9, 1e9))  # of the index only the folder: a file in it is new
    cache_folder(cache)  # a folder that the user named is the user's
    assert (cache / "tokens-0123").is_dir()
    cache_folder()
    assert {each.kind for each in entries(cache)} == {"runs", "index"}
    assert prune(cache) == []


def test_clearing_takes_what_is_asked_and_waits_for_runs(cache: Path) -> None:
    assert [each.kind for each in clear(cache, ["index"])] == ["index"]
    with sole_writer(cache / "runs" / "out-4567"), pytest.raises(InputError, match="when no run uses it"):
        clear(cache, ["tokens"])
    assert {each.bytes for each in clear(cache, ["tokens", "runs"])} == {1000}
    assert list(entries(cache)) == []


def test_a_dry_run_finds_what_the_cache_holds_and_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOEMBED_CACHE", str(tmp_path))
    (tmp_path / "gguf").mkdir()
    there, new = tmp_path / "gguf" / "there", tmp_path / "gguf" / "new"
    there.mkdir()
    with unwritten():
        assert cached_place("gguf/there") == there
        place = cached_place("gguf/new")
        place.mkdir(parents=True)
        assert cached_place("gguf/new") == place != new
    assert not place.exists()
    assert cached_place("gguf/new") == new

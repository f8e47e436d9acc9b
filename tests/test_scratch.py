"""Folders for a while: what a killed process left goes, what a living one works in stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isoembed.core import InputError
from isoembed.scratch import STATE, clear, own_folder, remove, scratch, shared, step_of

HOLDS = (
    "import sys; from pathlib import Path; from isoembed.scratch import scratch, shared\n"
    "place = Path(sys.argv[1])\n"
    "with scratch(place) as folder:\n"
    "    (folder / 'part').write_text('x'); shared(place, 'pairs-', 'theirs')\n"
    "    print('made', flush=True); sys.stdin.read()\n"
)


def test_a_checkpoint_says_itself_of_which_step_it_is(tmp_path: Path) -> None:
    """Its folder's name puts it in order and is not read: one that was renamed told of another step."""
    place = tmp_path / "step-00000099"
    place.mkdir()
    assert step_of(place) == 0
    for text, step in (('{"step": 7}', 7), ("{}", 0), ("[", 0), ('{"step": null}', 0)):
        (place / STATE).write_text(text)
        assert step_of(place) == step


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "made\n"
    theirs = set(tmp_path.iterdir())
    assert len(theirs) == 2
    with scratch(tmp_path) as mine:
        shared(tmp_path, "pairs-", "mine")
        assert theirs < set(tmp_path.iterdir())
    assert not mine.exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with scratch(tmp_path):
        clear(tmp_path, "pairs-", now=0.0)
        assert not [folder for folder in theirs if folder.exists()]


def test_a_scratch_folder_follows_the_umask_and_may_be_renamed(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        with scratch(tmp_path) as folder:
            assert folder.stat().st_mode & 0o777 == 0o775
            folder.rename(tmp_path / "kept")
    finally:
        os.umask(before)
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_leftovers_of_other_systems_go_when_they_are_old(tmp_path: Path) -> None:
    old, new, link = (tmp_path / f".partial-{name}" for name in ("old", "new", "link"))
    old.mkdir()
    new.mkdir()
    link.symlink_to(tmp_path)
    os.utime(old, (1.0, 1.0))
    with scratch(tmp_path):
        assert not old.exists()
        assert new.exists()
        assert link.is_symlink()


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    remove(tmp_path / "link")
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_a_link_for_the_users_own_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user may make it lead to this user's home."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / f"isoembed-{os.getuid()}").symlink_to(tmp_path / "home")
    with pytest.raises(InputError, match="be no link"):
        own_folder()

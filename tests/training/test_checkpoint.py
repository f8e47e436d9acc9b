"""Checkpoints: whole after a kill at any file operation, kept where they are whole, refused where they lie."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from isoembed.core import InputError
from isoembed.encoder.encoder import Encoder
from isoembed.records import LossPoint
from isoembed.training.checkpoint import LoopState, checkpoints, load_checkpoint, save_checkpoint
from tests.training.small import small_encoder

FRESH = LoopState(recipe_key="key", data_fingerprint="data")


class Killed(BaseException):
    """In place of a SIGKILL: no `except` and no clean-up of the code under test catches it."""


class _Fatal:
    """Kills at a file operation: opening, making, renaming, removing."""

    left: int | None = None

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.left is None or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            return
        if not self.left:
            raise Killed
        self.left -= 1


FATAL = _Fatal()
sys.addaudithook(FATAL.note)


@contextmanager
def killed_after(operations: int) -> Iterator[None]:
    FATAL.left = operations
    try:
        yield
    finally:
        FATAL.left = None


def at(step: int) -> LoopState:
    losses = tuple(LossPoint(step=n, tokens=n, loss=1.0, rate=1e-3) for n in range(1, step + 1))
    return FRESH.model_copy(update={"step": step, "losses": losses})


def trained(steps: int) -> tuple[Encoder, torch.optim.AdamW]:
    """An encoder whose every weight says how many steps it took."""
    encoder = small_encoder()
    optimizer = torch.optim.AdamW(encoder.parameters())
    for _ in range(steps):
        for parameter in encoder.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(float(steps))
    return encoder, optimizer


def save(folder: Path, step: int) -> None:
    save_checkpoint(folder, at(step), *trained(step), keep=2)


def restored(folder: Path) -> int:
    """The step gone on from, which the weights must be of."""
    encoder, optimizer = trained(0)
    state = load_checkpoint(folder, FRESH, encoder, optimizer)
    assert all(bool((parameter == state.step).all()) for parameter in encoder.parameters())
    return state.step


def test_a_kill_at_any_file_operation_leaves_the_last_checkpoint_or_the_new_one(tmp_path: Path) -> None:
    """Two are there, the third is being written, which also removes the first."""
    ends = []
    for operations in range(60):
        folder = tmp_path / str(operations)
        save(folder, 1)
        save(folder, 2)
        try:
            with killed_after(operations):
                save(folder, 3)
        except Killed:
            ends.append(restored(folder))
            save(folder, 4)  # and what was left behind stands in nobody's way
            assert restored(folder) == 4
            assert [place.name for place in checkpoints(folder)][-1] == "step-00000004"
            assert len(checkpoints(folder)) == 2
            assert not (folder / ".partial").exists()
        else:
            break
    else:
        raise AssertionError("it never ended: the loop above is too short")
    assert ends[0] == 2
    assert ends[-1] == 3
    assert ends == sorted(ends)
    assert len(ends) > 8


def test_a_kill_while_the_last_step_is_saved_again_loses_nothing(tmp_path: Path) -> None:
    """The end of a run saves the step that its interval has just saved, as does a resumed run that was done."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    for operations in range(20):
        try:
            with killed_after(operations):
                save(tmp_path, 2)
        except Killed:
            assert restored(tmp_path) == 2
        else:
            break
    assert restored(tmp_path) == 2


def _reshape(tensors: dict[str, torch.Tensor]) -> None:
    """A value that would be spread over its parameter in silence."""
    name = next(name for name, value in tensors.items() if value.ndim)
    tensors[name] = torch.zeros(1)


def _retype(tensors: dict[str, torch.Tensor]) -> None:
    name = next(iter(tensors))
    tensors[name] = tensors[name].to(torch.int32)


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    tensors.popitem()


@pytest.mark.parametrize("lie", [_reshape, _retype, _drop], ids=lambda lie: lie.__name__)
@pytest.mark.parametrize("file", ["model", "optimizer", "random"])
def test_tensors_that_lie_are_refused(
    tmp_path: Path, file: str, lie: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    save(tmp_path, 1)
    place = checkpoints(tmp_path)[0] / f"{file}.safetensors"
    tensors = load_file(place)
    lie(tensors)
    save_file(tensors, place)
    with pytest.raises(InputError, match=r"remove .*step-00000001"):
        restored(tmp_path)


@pytest.mark.parametrize("change", [{"step": 5}, {"epoch": -1}, {"losses": []}, {"batch": 10**30}])
def test_a_state_that_lies_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    save(tmp_path, 1)
    place = checkpoints(tmp_path)[0] / "state.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(InputError, match="damaged"):
        restored(tmp_path)


def test_a_link_for_the_folder_of_checkpoints_is_refused(tmp_path: Path) -> None:
    """Old ones are deleted there, and what lies where it leads may be somebody else's."""
    (tmp_path / "mine" / "step-00000001").mkdir(parents=True)
    (tmp_path / "checkpoints").symlink_to(tmp_path / "mine")
    model = torch.nn.Linear(2, 2)
    state = LoopState(recipe_key="r", data_fingerprint="d", step=2)
    with pytest.raises(InputError, match="is a link"):
        save_checkpoint(tmp_path / "checkpoints", state, model, torch.optim.AdamW(model.parameters()), keep=1)
    assert (tmp_path / "mine" / "step-00000001").is_dir()

"""Local workers under kills, signals and failing runs: real training, real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from isoembed.cli.boundary import status_of
from isoembed.core import InputError
from isoembed.encoder.encoder import Encoder
from isoembed.options import Options
from isoembed.recipe import Recipe
from isoembed.records import FailedRun, Ledger, RunRecord
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.folder import PlannedRun, SweepFolder
from isoembed.sweep.request import SweepRequest, load_request
from isoembed.sweep.stage import Stage
from isoembed.sweep.worker import Worker
from isoembed.training import loop
from isoembed.training.execution import Execution
from isoembed.training.speed import Speed
from isoembed.workflows import sweep
from isoembed.workflows.job import DataOptions
from isoembed.workflows.sweep import measure_pace, open_context, prepare_request, run_sweep, work_here
from tests.data.helpers import write_jsonl
from tests.sweep.fake import request
from tests.workflows.small import Losses, losses, reasons, undisturbed

#: two workers that save a checkpoint after every step
RUN = (
    "import sys; from pathlib import Path\n"
    "from isoembed.training.execution import Execution; from isoembed.workflows.sweep import run_sweep\n"
    "how = Execution(checkpoint_seconds=0.0, resume=True)\n"
    "run_sweep(Path(sys.argv[1]), workers=2, every_seconds=0.1, execution=how)\n"
)
#: what `run_sweep` gives each of two workers
THREADS = max(1, (os.cpu_count() or 1) // 2)
#: far more than anything here takes, however busy the machine
PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def expected(request_here: SweepRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Losses]:
    return undisturbed(tmp_path_factory.mktemp("undisturbed") / "ledger", request_here, threads=THREADS)


@pytest.fixture
def ledger(request_here: SweepRequest, tmp_path: Path) -> Path:
    plan_sweep(tmp_path / "ledger", request_here)
    return tmp_path / "ledger"


@pytest.fixture
def running(ledger: Path) -> Iterator[subprocess.Popen[str]]:
    """`run_sweep` with two workers, in a process group of its own."""
    command = [sys.executable, "-c", RUN, str(ledger)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    yield process
    for number in (signal.SIGKILL, signal.SIGCONT):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def under_way(ledger: Path) -> list[int]:
    """Workers that have taken steps at a run and not ended it."""
    folder = SweepFolder(ledger)
    places = {file.parent.name for file in (ledger / "work").glob("*/step-*")}
    claims = [ledger / "attempts" / place for place in sorted(places) if place.split(".")[0] not in folder.ledger]
    return [Worker.model_validate_json(claim.read_bytes()).process for claim in claims]


def freeze(ledger: Path, target: Callable[[], int | None], halt: Callable[[int, int], None]) -> int:
    """Halt `target`, a process or a group, at a moment when its runs are under way; returns it."""
    while True:
        wait_until(lambda: target() is not None)
        chosen = target()
        assert chosen is not None
        halt(chosen, signal.SIGSTOP)
        if target() == chosen:
            return chosen
        halt(chosen, signal.SIGCONT)


def test_a_worker_killed_mid_run_is_replaced(
    ledger: Path, running: subprocess.Popen[str], expected: dict[str, Losses]
) -> None:
    victim = freeze(ledger, lambda: next(iter(under_way(ledger)), None), os.kill)
    os.kill(victim, signal.SIGKILL)
    _, said = running.communicate(timeout=PATIENCE_SECONDS)
    assert running.returncode == 0, said
    assert losses(ledger) == expected
    assert reasons(ledger) == ["lost-worker"]


def test_a_sweep_killed_as_a_whole_goes_on_from_its_checkpoints(
    ledger: Path, running: subprocess.Popen[str], expected: dict[str, Losses], resumed_at: list[int]
) -> None:
    group = freeze(ledger, lambda: running.pid if len(under_way(ledger)) == 2 else None, os.killpg)
    os.killpg(group, signal.SIGKILL)
    running.wait()
    work_here(ledger, threads=THREADS)
    assert losses(ledger) == expected
    assert reasons(ledger) == ["lost-worker", "lost-worker"]
    assert sum(step > 0 for step in resumed_at) == 2


def test_ctrl_c_stops_with_checkpoints_to_go_on_from(
    ledger: Path, running: subprocess.Popen[str], expected: dict[str, Losses], resumed_at: list[int]
) -> None:
    group = freeze(ledger, lambda: running.pid if len(under_way(ledger)) == 2 else None, os.killpg)
    os.killpg(group, signal.SIGINT)
    os.killpg(group, signal.SIGCONT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "Traceback" not in said
    assert reasons(ledger) == ["stopped", "stopped"]
    work_here(ledger, threads=THREADS)
    assert losses(ledger) == expected
    assert sum(step > 0 for step in resumed_at) == 2


def test_a_second_ctrl_c_kills_and_costs_no_run_a_try(ledger: Path, running: subprocess.Popen[str]) -> None:
    group = freeze(ledger, lambda: running.pid if len(under_way(ledger)) == 2 else None, os.killpg)
    os.kill(group, signal.SIGCONT)  # the parent alone: its workers hear nothing, as one that hangs
    for _ in range(2):
        os.kill(group, signal.SIGINT)
        time.sleep(1.0)
    wait_until(lambda: len(reasons(ledger)) == 2)
    os.killpg(group, signal.SIGCONT)  # multiprocessing's own helper was halted too
    running.communicate(timeout=60)
    assert running.returncode == 0
    assert reasons(ledger) == ["stopped", "stopped"]


def test_data_that_no_worker_can_open_are_reported_once(
    request_here: SweepRequest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    moved = {**request_here.data_options, "spec": str(tmp_path / "moved.jsonl")}
    plan_sweep(tmp_path / "ledger", request_here.model_copy(update={"data_options": moved}))
    with pytest.raises(InputError, match=r"moved\.jsonl"):
        run_sweep(tmp_path / "ledger", workers=2, every_seconds=0.1)
    assert "Traceback" not in capfd.readouterr().err
    assert not SweepFolder(tmp_path / "ledger").attempts(SweepFolder(tmp_path / "ledger").runs()[0].key)


def test_a_sweep_names_its_data_from_the_root_and_says_how_many_are_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [{"query": f"q {n}", "pos": f"p {n}"} for n in range(50)])
    monkeypatch.chdir(tmp_path)
    draft = request(models=("nano-28k",), context_tokens=32)
    options = prepare_request(draft, DataOptions("pairs.jsonl"), cache=Path("tokens")).data_options
    assert options["spec"] == str(tmp_path / "pairs.jsonl")
    assert options["cache"] == str(tmp_path / "tokens")
    assert "heldout_pairs" not in options  # as in a request of before there was such an option
    fewer = prepare_request(draft, DataOptions("pairs.jsonl", heldout_pairs=3), cache=Path("tokens"))
    assert (fewer.data_options["heldout_pairs"], fewer.data.pairs) == (3, 47)
    assert len(open_context(fewer, Execution()).data.heldout) == 3


def test_a_sweep_keeps_the_precision_of_its_request(tmp_path: Path) -> None:
    """Fails where preparing a request puts fp32 in place of what it asks for."""
    write_jsonl(tmp_path / "pairs.jsonl", [{"query": f"q {n}", "pos": f"p {n}"} for n in range(50)])
    draft = request(models=("nano-28k",), context_tokens=32).model_copy(update={"precision": "bf16"})
    options = DataOptions(str(tmp_path / "pairs.jsonl"))
    assert prepare_request(draft, options, cache=tmp_path / "tokens").precision == "bf16"
    assert prepare_request(draft, options, cache=tmp_path / "tokens", precision="fp32").precision == "fp32"


def test_a_ledger_that_moves_takes_its_tokens_along(request_here: SweepRequest, tmp_path: Path) -> None:
    first, second, elsewhere = (tmp_path / name for name in ("first", "second", "elsewhere"))
    for cache, there in ((first / "tokens", second / "tokens"), (elsewhere, elsewhere)):
        asked = request_here.model_copy(update={"data_options": {**request_here.data_options, "cache": str(cache)}})
        plan_sweep(first, asked)
        assert load_request(first) == asked
        first.rename(second)
        assert load_request(second).data_options["cache"] == str(there)
        plan_sweep(second)  # still the sweep that was planned
        shutil.rmtree(second)


def test_a_full_disk_stops_the_sweep_and_costs_no_run_a_try(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("isoembed.training.checkpoint.save_file", full)
    with pytest.raises(SafetensorError):
        work_here(ledger, threads=THREADS)
    assert reasons(ledger) == ["stopped"]
    assert not list((ledger / "work").rglob(".partial"))


def test_sigterm_to_the_parent_alone_stops_the_workers_too(ledger: Path, running: subprocess.Popen[str]) -> None:
    wait_until(lambda: len(under_way(ledger)) > 0)
    running.terminate()
    running.communicate(timeout=60)  # returns when the last worker has closed the pipe
    assert running.returncode == 0
    assert set(reasons(ledger)) == {"stopped"}


def test_workers_whose_parent_is_killed_save_and_end(ledger: Path, running: subprocess.Popen[str]) -> None:
    """They went on, and the next `sweep run` had rivals on the same cores."""
    wait_until(lambda: len(under_way(ledger)) > 0)
    running.kill()
    running.communicate(timeout=PATIENCE_SECONDS)  # returns when the last worker has closed the pipe
    assert set(reasons(ledger)) == {"stopped"}
    assert list(ledger.glob("work/*/step-*"))


def test_a_disk_that_no_worker_can_write_to_is_the_machines_fault(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An OSError ends the command with status 1 and one line; it was an InputError, with status 2."""
    monkeypatch.setattr("isoembed.workflows.sweep._work_or_say", finds_no_room)
    with pytest.raises(OSError, match="No space left") as caught:
        run_sweep(ledger, every_seconds=0.1)
    assert status_of(caught.value) == 1


def finds_no_room(fatal_errors: Any, ledger: Path, **how: Any) -> None:
    """A worker process on a full disk."""

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    sweep.work_here = full  # type: ignore[assignment]
    sweep._work_or_say(fatal_errors, ledger, **how)


def test_a_signal_before_the_first_step_does_not_wait_for_the_last(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training loop has its own handlers, but not while a model is loaded or scored."""

    def load_for_long(*_: Any, **__: Any) -> tuple[Encoder, RunRecord]:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(PATIENCE_SECONDS)
        except Exception as error:  # as libraries word what goes wrong inside them
            raise InputError("unreadable") from error
        raise AssertionError

    monkeypatch.setattr("isoembed.workflows.execute.run", load_for_long)
    assert work_here(ledger, threads=THREADS) == 0
    assert reasons(ledger) == ["stopped"]


def test_runs_that_cannot_end_well_are_failed_records_and_block_nothing(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Losses]
) -> None:
    folder = SweepFolder(ledger)
    like = folder.runs()[0].recipe
    diverges = like.model_copy(update={"seed": 8})
    too_large = like.model_copy(update={"seed": 7})
    folder.add_runs(
        [PlannedRun(recipe=recipe, part=Stage(kind="other", name="bad"), order=-1) for recipe in (diverges, too_large)]
    )

    def run(recipe: Recipe, *arguments: Any, **options: Any) -> tuple[Encoder, RunRecord]:
        if recipe == too_large:
            raise MemoryError("no room")
        if recipe == diverges:  # at a rate that no recipe on disk may have
            recipe = recipe.model_copy(update={"learning_rate": 1e30})
        return loop.run(recipe, *arguments, **options)

    monkeypatch.setattr("isoembed.workflows.execute.run", run)
    assert work_here(ledger, threads=THREADS, tries=2) == len(expected)
    outcomes = {outcome.key: outcome for outcome in folder.ledger.outcomes()}
    assert outcomes.keys() == expected.keys() | {diverges.key, too_large.key}
    for recipe, reason, words in ((diverges, "diverged", "finite"), (too_large, "out-of-memory", "no room")):
        failed = outcomes[recipe.key]
        assert isinstance(failed, FailedRun)
        assert failed.reason == reason
        assert len(failed.failures) == 2
        assert words in failed.failures[0]


def test_pace_is_that_of_runs_as_the_sweep_makes_them(
    request_here: SweepRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where another temperature, pooling or base is timed, or a model of which no run can be planned ends it."""
    timed: list[Recipe] = []

    def measured(recipe: Recipe, *_: object, **__: object) -> Speed:
        timed.append(recipe)
        return Speed(flop_per_second=1e9, setup_seconds=2.0, heldout_seconds=3.0)

    monkeypatch.setattr(sweep, "measure_speed", measured)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: None)
    wide = request_here.model_copy(update={"temperature": 0.5, "options": Options(matryoshka=(64,))})
    found = measure_pace(wide.model_copy(update={"models": ("nano-28k", "nano-389k")}))
    assert [recipe.model.name for recipe in timed] == ["nano-389k"]
    assert (timed[0].temperature, timed[0].options) == (0.5, wide.options)
    assert (found["speeds"], found["run_seconds"]) == ({"nano-389k": 1e9}, {"nano-389k": 5.0})


def test_larger_budgets_go_on_from_the_trunks_of_smaller_ones(
    request_here: SweepRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses are those of a sweep that finds no trunk and begins each run anew."""
    wsd = {"options": Options(schedule="wsd"), "methods": ("full",), "budgets": (3e8, 6e8), "min_steps": 3}
    asked = request_here.model_copy(update=wsd)
    branched = undisturbed(tmp_path / "branched", asked, threads=1)
    short, longer = sorted(Ledger(tmp_path / "branched").records(), key=lambda record: record.tokens)
    assert short.inherited is None
    assert longer.inherited is not None
    assert longer.inherited.key == short.key
    plan = plan_sweep(tmp_path / "branched")[0]
    assert plan.complete
    assert plan.flop == pytest.approx(short.own_flop + longer.own_flop, rel=0.1)
    assert not (tmp_path / "branched" / "trunks").exists()
    monkeypatch.setattr(sweep, "extend", lambda *_: None)
    assert undisturbed(tmp_path / "whole", asked, threads=1) == branched
    assert [record.inherited for record in Ledger(tmp_path / "whole").records()] == [None, None]

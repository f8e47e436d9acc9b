"""Workers: every run ends exactly once, whatever its trainer does."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from isoembed.core import StoppedError
from isoembed.records import EndNote, FailedRun, RunRecord, ended
from isoembed.sweep.folder import LOST, Attempt, End, PlannedRun, SweepFolder, failed_run
from isoembed.sweep.plan import Planner
from isoembed.sweep.request import SweepRequest
from isoembed.sweep.work import Heartbeat, claim_next, work
from tests.sweep.fake import HANDICAP, SEARCH, best_rate, planned_run, record, request, train


def test_every_run_ends_in_one_record(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.add_runs([planned_run(seed=seed) for seed in range(5)])
    assert work(folder, train) == 5
    assert len(folder.ledger.records()) == 5
    assert work(folder, train) == 0


def test_named_runs_are_worked_off_in_their_order_and_the_others_stay_open(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    runs = [planned_run(seed=seed) for seed in range(4)]
    folder.add_runs(runs)
    trained: list[str] = []

    def noted(planned: PlannedRun, place: Path) -> RunRecord:
        trained.append(planned.key)
        return record(planned.recipe)

    asked, trunk = [runs[3].key, runs[1].key], tmp_path / "trunks" / "a"
    trunk.mkdir(parents=True)
    assert work(folder, noted, only=asked) == 2
    assert trained == asked
    assert set(folder.ledger.keys()) == set(asked)
    assert trunk.exists()  # an open run may go on from it
    assert work(folder, noted) == 2
    assert not trunk.exists()


def test_a_run_waits_for_the_trunk_of_the_one_that_it_extends(tmp_path: Path) -> None:
    """Two workers took both of one stage at once, and the longer one paid for its trunk a second time."""
    folder = SweepFolder(tmp_path)
    trunk = planned_run(seed=0)
    longer = planned_run(seed=1).model_copy(update={"extends": trunk.key})
    folder.add_runs([longer, trunk])
    of_rivals: list[object] = []

    def rival_looks(planned: PlannedRun, place: Path) -> RunRecord | EndNote:
        of_rivals.append((planned.key, claim_next(SweepFolder(tmp_path), 3)))
        return record(planned.recipe)

    assert work(folder, rival_looks) == 2
    assert of_rivals == [(trunk.key, (None, True)), (longer.key, (None, True))]


def test_what_a_rival_planned_and_worked_off_meanwhile_is_no_end(tmp_path: Path) -> None:
    """A worker whose planning took longer than the rival's, with the runs of that, saw nothing open and took the trunks
    away; those planned next were made whole, and a pilot spent more than it was allowed."""
    folder, trunk = SweepFolder(tmp_path), tmp_path / "trunks" / "a"
    trunk.mkdir(parents=True)
    folder.add_runs([planned_run(seed=0)])
    calls = 0

    def more() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            folder.add_runs([planned_run(seed=1)])
            assert folder.ledger.add(record(planned_run(seed=1).recipe))
            return 0
        assert trunk.exists()
        return folder.add_runs([planned_run(seed=2)]) if calls == 2 else 0

    assert work(folder, train, more=more) == 2
    assert (calls, trunk.exists()) == (3, False)


def test_a_run_whose_trunk_failed_is_made_whole(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    trunk = planned_run(seed=0)
    longer = planned_run(seed=1).model_copy(update={"extends": trunk.key})
    folder.add_runs([longer, trunk])

    def fails(planned: PlannedRun, place: Path) -> RunRecord | EndNote:
        return record(planned.recipe) if planned.key == longer.key else ended("out-of-memory", "text", text="too large")

    assert work(folder, fails, tries=2) == 1
    assert isinstance(folder.ledger.outcome(trunk.key), FailedRun)
    assert isinstance(folder.ledger.outcome(longer.key), RunRecord)


def test_a_failing_run_is_tried_again_and_never_blocks_the_rest(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    bad, flaky, *good = (planned_run(seed=seed) for seed in range(5))
    folder.add_runs([bad, flaky, *good])
    calls: list[str] = []

    def fails(planned: PlannedRun, place: Path) -> RunRecord | EndNote:
        calls.append(planned.key)
        if planned.key == bad.key:
            return ended("out-of-memory", "text", text="too large")
        if planned.key == flaky.key and calls.count(flaky.key) == 1:
            raise OSError("disk says no")
        return record(planned.recipe)

    assert work(folder, fails, tries=2) == 4
    outcomes = {outcome.key: outcome for outcome in folder.ledger.outcomes()}
    failed = outcomes[bad.key]
    assert isinstance(failed, FailedRun)
    assert failed.failures == ("out-of-memory: too large",) * 2
    assert isinstance(outcomes[flaky.key], RunRecord)
    assert calls.count(bad.key) == 2


def test_a_stop_leaves_the_run_open_and_its_checkpoint_to_the_next_attempt(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.add_runs([planned := planned_run()])

    def stops(planned: PlannedRun, place: Path) -> RunRecord:
        (place / "step-00000007").mkdir(parents=True)
        (place / "step-00000007" / "state.json").write_text("{}")
        raise StoppedError("Stopped by a signal.")

    assert work(folder, stops) == 0
    assert planned.key not in folder.ledger
    seen: list[list[str]] = []

    def resumes(planned: PlannedRun, place: Path) -> RunRecord:
        seen.append([str(file.relative_to(place)) for file in place.rglob("*.json")])
        return record(planned.recipe)

    assert work(folder, resumes, tries=1) == 1
    assert seen == [["step-00000007/state.json"]]
    assert not any((tmp_path / "work").iterdir())


def test_the_second_record_of_a_run_is_dropped(tmp_path: Path) -> None:
    """A worker thought lost wakes up and finishes after its successor."""
    folder = SweepFolder(tmp_path)
    folder.add_runs([planned_run()])

    def overtaken(planned: PlannedRun, place: Path) -> RunRecord:
        assert folder.ledger.add(record(planned.recipe, loss=1.0))
        return record(planned.recipe, loss=2.0)

    assert work(folder, overtaken) == 0
    (kept,) = folder.ledger.records()
    assert kept.heldout is not None
    assert kept.heldout.loss == 1.0


def test_a_run_that_ends_well_after_it_was_given_up_has_its_record(tmp_path: Path) -> None:
    """Others thought its worker lost, and failed; the next one to end well comes too late."""
    folder = SweepFolder(tmp_path)
    folder.add_runs([planned := planned_run()])

    def given_up(planned: PlannedRun, place: Path) -> RunRecord:
        assert folder.ledger.add(failed_run(planned.recipe, [End(note=ended("error", "text", text="no"))]))
        return record(planned.recipe, loss=1.0)

    assert work(folder, given_up) == 1
    assert not folder.ledger.add(record(planned.recipe, loss=2.0))
    assert not folder.ledger.add(failed_run(planned.recipe, [End(note=ended("error", "text", text="no"))]))
    (kept,) = folder.ledger.records()
    assert kept.heldout is not None
    assert kept.heldout.loss == 1.0
    assert [file.name for file in (tmp_path / "records").iterdir()] == [f"{planned.key}.json"]


def test_the_heart_survives_what_the_file_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SweepFolder(tmp_path)
    folder.add_runs([planned := planned_run()])
    attempt = folder.claim(planned.key, tries=3)
    assert attempt is not None
    clock, beats = iter([0.0, 10.0, 31.0, 45.0, 60.0]), 0

    def beat(_: Attempt) -> None:
        nonlocal beats
        beats += 1
        if beats < 5:
            raise OSError((errno.ESTALE, errno.ENOSPC, errno.EIO, errno.EACCES)[beats - 1], "no")

    monkeypatch.setattr(folder, "heartbeat", beat)
    monkeypatch.setattr("isoembed.sweep.work.time.monotonic", lambda: next(clock))
    heartbeat = Heartbeat(folder)
    for _ in range(5):
        heartbeat.send([attempt])
    assert beats == 5
    assert heartbeat.failing_since is None
    assert capsys.readouterr().err.count("\n") == 1  # said once, after a while


def test_a_worker_thought_lost_hears_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = SweepFolder(tmp_path)
    folder.add_runs([planned := planned_run()])
    attempt = folder.claim(planned.key, tries=3)
    assert attempt is not None
    heartbeat = Heartbeat(folder)
    heartbeat.send([attempt])
    assert not capsys.readouterr().err
    folder.end(attempt, LOST)
    heartbeat.send([attempt])
    heartbeat.send([attempt])
    assert capsys.readouterr().err.count("given to another worker") == 1


def test_an_error_that_passes_does_not_cost_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SweepFolder(tmp_path)
    folder.add_runs([planned_run()])
    monkeypatch.setattr("isoembed.sweep.work._PAUSES", (0.0, 0.0))
    add, tries = folder.ledger.add, 0

    def stale_once(outcome: RunRecord) -> bool:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError(errno.ESTALE, "Stale file handle")
        return add(outcome)

    monkeypatch.setattr(folder.ledger, "add", stale_once)
    assert work(folder, train) == 1


def test_a_copied_checkpoint_is_whole(tmp_path: Path) -> None:
    """The newest checkpoint of the attempt before, none of its half-written ones."""
    folder = SweepFolder(tmp_path)
    folder.add_runs([planned := planned_run()])
    old = folder.work(Attempt(key=planned.key, number=1))
    for name in ("step-00000002", "step-00000010", ".partial"):
        (old / name).mkdir(parents=True)
    attempt = folder.claim(planned.key, tries=3)
    assert attempt is not None
    file = tmp_path / "attempts" / f"{planned.key}.1"
    file.write_text(file.read_text().replace('"process":', '"process":9'))  # a worker that is no more
    seen: list[str] = []

    def look(planned: PlannedRun, place: Path) -> RunRecord:
        seen.extend(path.name for path in place.iterdir())
        return record(planned.recipe)

    work(folder, look)
    assert seen == ["step-00000010"]


def finish(folder: SweepFolder, asked: SweepRequest) -> None:
    """Plan and work until nothing is left."""

    def more() -> int:
        outcomes = {outcome.key: outcome for outcome in folder.ledger.outcomes()}
        done = [(planned, outcomes[planned.key]) for planned in folder.runs() if planned.key in outcomes]
        return folder.add_runs(list(Planner(asked, done).plan().runs))

    more()
    work(folder, train, more=more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepFolder, SweepRequest]:
    folder = SweepFolder(tmp_path_factory.mktemp("sweep"))
    asked = request(rates=SEARCH, seeds=(0, 1, 2), budgets=(2e11, 8e11, 3.2e12))
    finish(folder, asked)
    return folder, asked


def test_a_whole_sweep_finds_the_planted_rates(finished: tuple[SweepFolder, SweepRequest]) -> None:
    folder, asked = finished
    records = {record.key: record for record in folder.ledger.records()}
    plan = Planner(asked, [(planned, records[planned.key]) for planned in folder.runs()]).plan()
    assert plan.complete
    assert set(plan.rates) == set(HANDICAP)
    for fit in plan.rates.values():
        assert fit.law.params == pytest.approx(-0.3, abs=0.02)
        assert fit.law.steps == pytest.approx(-0.2, abs=0.02)
        assert fit.law.share == pytest.approx(0.0, abs=0.02)
        assert not any(optimum.edge for optimum in fit.optima)
    for planned in folder.runs():
        if planned.part.kind == "budget":
            assert planned.recipe.learning_rate == pytest.approx(best_rate(planned.recipe), rel=0.1)


def test_a_whole_sweep_has_replicates_of_the_best_runs(finished: tuple[SweepFolder, SweepRequest]) -> None:
    folder, asked = finished
    top = [record for record in folder.ledger.records() if record.recipe.flop > 0.9 * asked.budgets[-1]]
    best = min((record for record in top if record.heldout), key=lambda record: record.heldout.loss)  # type: ignore[union-attr]
    same = [r for r in top if (r.recipe.model, r.recipe.method) == (best.recipe.model, best.recipe.method)]
    assert sorted(record.recipe.seed for record in same) == [0, 1, 2]


def test_a_worker_stays_where_a_rival_has_just_planned_the_stage(tmp_path: Path) -> None:
    """Both find no open run and plan the next stage; the second one's plan adds nothing to the first one's."""
    folder = SweepFolder(tmp_path)
    stages = [[planned_run(seed=1)], [planned_run(seed=2)]]

    def more() -> int:
        if stages:
            folder.add_runs(stages.pop())
        return 0

    assert work(folder, train, more=more) == 2

"""A Ray cluster of two nodes on this machine, one of them killed mid-run: as if nothing had happened."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isoembed.core import InputError
from isoembed.options import Options
from isoembed.records import Ledger
from isoembed.sweep.advance import plan_sweep
from isoembed.sweep.folder import SweepFolder
from isoembed.sweep.request import SweepRequest
from isoembed.training.execution import Execution
from isoembed.workflows.cluster import run_on_ray
from isoembed.workflows.sweep import work_here
from tests.workflows.small import Losses, losses, reasons, undisturbed

#: a checkpoint after every step, so that a run under way can be seen from outside
EVERY_STEP = Execution(checkpoint_seconds=0.0, resume=True)


@pytest.fixture(scope="module")
def expected(request_here: SweepRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Losses]:
    return undisturbed(tmp_path_factory.mktemp("single") / "ledger", request_here, threads=1)


@pytest.fixture(scope="module")
def node_temp() -> Iterator[Path]:
    """Where the nodes keep what is theirs alone; pytest's own folders are too long for the sockets that Ray makes."""
    with tempfile.TemporaryDirectory(prefix="n", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def training(folder: Path) -> int:
    """How many runs have a checkpoint under `folder`, from which others disappear meanwhile."""
    return sum(any(name.startswith("step-") for name in names) for _, names, _ in os.walk(folder))


@pytest.fixture(scope="module")
def cluster(node_temp: Path) -> Iterator[Any]:
    """A head with one CPU, which notices within seconds that another node is gone."""
    pytest.importorskip("ray", reason="ray is not installed; it comes with isoembed[ray]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("TMPDIR", str(node_temp))
        from ray.cluster_utils import Cluster

        head = {
            "num_cpus": 1,
            "include_dashboard": False,
            "object_store_memory": 80_000_000,
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
        }
        cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        yield cluster
        cluster.shutdown()


@pytest.mark.parametrize("shared", [True, False], ids=["shared folder", "object store"])
def test_a_node_killed_mid_run_changes_nothing(
    shared: bool,
    request_here: SweepRequest,
    expected: dict[str, Losses],
    cluster: Any,
    node_temp: Path,
    tmp_path: Path,
) -> None:
    """Every run is there once, and its losses are bitwise those of the single process."""
    ledger = tmp_path / "ledger"
    plan_sweep(ledger, request_here)
    node = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    under_way = ledger / "work" if shared else node_temp
    killed = False

    def kill_once_both_nodes_train(folder: SweepFolder) -> None:
        nonlocal killed
        if not killed and training(under_way) == 2:
            cluster.remove_node(node, allow_graceful=False)
            killed = True

    written = run_on_ray(
        ledger,
        address=cluster.address,
        shared=shared,
        execution=EVERY_STEP,
        every_seconds=0.05,
        watch=kill_once_both_nodes_train,
    )
    assert killed
    assert written == len(expected) == 4
    assert losses(ledger) == expected
    assert reasons(ledger) == ["lost-worker"]
    assert not list(under_way.glob("**/step-*"))
    assert not list(node_temp.glob("isoembed-*/*"))  # neither unpacked pairs nor folders of the killed node


def test_ctrl_c_stops_the_runs_and_local_workers_go_on_from_their_checkpoints(
    request_here: SweepRequest, expected: dict[str, Losses], cluster: Any, tmp_path: Path, resumed_at: list[int]
) -> None:
    ledger = tmp_path / "ledger"
    plan_sweep(ledger, request_here)
    pressed = False

    def press_once_a_cell_is_under_way(folder: SweepFolder) -> None:
        nonlocal pressed
        if not pressed and any(ledger.glob("work/*/step-*")):
            os.kill(os.getpid(), signal.SIGINT)
            pressed = True

    run_on_ray(
        ledger,
        address=cluster.address,
        shared=True,
        execution=EVERY_STEP,
        every_seconds=0.05,
        watch=press_once_a_cell_is_under_way,
    )
    assert pressed
    assert set(reasons(ledger)) == {"stopped"}
    work_here(ledger, threads=1)
    assert losses(ledger) == expected
    assert max(resumed_at) > 0


def test_where_the_ledger_is_shared_larger_budgets_go_on_from_smaller_ones(
    request_here: SweepRequest, cluster: Any, tmp_path: Path
) -> None:
    """On Ray every run of a ladder began anew, at its full price, and the trunks stayed for good."""
    wsd = {"options": Options(schedule="wsd"), "methods": ("full",), "budgets": (3e8, 6e8), "min_steps": 3}
    asked = request_here.model_copy(update=wsd)
    ledger = tmp_path / "ledger"
    plan_sweep(ledger, asked)
    run_on_ray(ledger, address=cluster.address, shared=True, execution=EVERY_STEP, every_seconds=0.05)
    short, longer = sorted(Ledger(ledger).records(), key=lambda record: record.tokens)
    assert short.inherited is None
    assert longer.inherited is not None
    assert longer.inherited.key == short.key
    assert not (ledger / "trunks").exists()
    assert losses(ledger) == undisturbed(tmp_path / "here", asked, threads=1)


def test_a_run_larger_than_every_node_is_refused(request_here: SweepRequest, cluster: Any, tmp_path: Path) -> None:
    plan_sweep(tmp_path, request_here)
    with pytest.raises(InputError, match="room for one run"):
        run_on_ray(tmp_path, address=cluster.address, cpus_per_run=64)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_a_cluster_that_is_not_there_is_an_input_error(
    address: str, request_here: SweepRequest, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="ray is not installed; it comes with isoembed[ray]")
    plan_sweep(tmp_path, request_here)
    with pytest.raises(InputError, match="running Ray cluster"):
        run_on_ray(tmp_path, address=address)

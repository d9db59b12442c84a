"""Exactly one start per gate, through kills, restarts, other machines and two executors; counted by the sandbox."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from uuid import UUID

import pytest

from prefect_qatech.sandbox import Sandbox
from tests.e2e.conftest import Deployed
from tests.e2e.world import PATIENCE_SECONDS, World, eventually

SLOW_ANSWER = {"on": {"path": "start"}, "kind": "latency", "seconds": 6, "times": 1, "accepted": True}


def rows(world: World, flow_run_id: UUID) -> dict[str, str]:
    """The rows of a flow run's ledger."""
    found = world.post(f"/flow_runs/{flow_run_id}/input/filter", {"prefix": "qatech-", "limit": 200})
    return {row["key"]: row["value"] for row in found}


def recorded(world: World, flow_run_id: UUID, runs: int = 1) -> bool:
    return sum(key.endswith("-done") for key in rows(world, flow_run_id)) >= runs


def killed_and_retried(world: World, flow_run_id: UUID) -> None:
    world.kill(flow_run_id)
    world.wait_for_state(flow_run_id, "CRASHED")
    world.retry(flow_run_id)


def completed(world: World, flow_run_id: UUID) -> None:
    state = world.wait_for_state(flow_run_id, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    assert state["type"] == "COMPLETED", state["message"]


def test_a_killed_gate_is_taken_up(deployed: Deployed, sandbox: Sandbox) -> None:
    world = deployed.world
    flow_run_id = deployed.run("sync_gate", "pln_flaky")
    eventually(lambda: recorded(world, flow_run_id), "the record of the start")
    killed_and_retried(world, flow_run_id)
    eventually(lambda: recorded(world, flow_run_id, 2), "the record of the rerun")
    killed_and_retried(world, flow_run_id)
    completed(world, flow_run_id)
    counts = sandbox.counts()
    assert (counts["starts"], counts["reruns"], counts["reruns_failed_only"]) == (1, 1, 1)


def test_a_kill_during_the_post_is_never_guessed_and_a_person_settles_it(deployed: Deployed, sandbox: Sandbox) -> None:
    world = deployed.world
    sandbox.set_faults([{**SLOW_ANSWER, "seconds": 600}])
    flow_run_id = deployed.run("sync_gate", "pln_green")
    eventually(lambda: sandbox.counts()["starts"] == 1, "the accepted start")
    assert not recorded(world, flow_run_id)
    killed_and_retried(world, flow_run_id)
    state = world.wait_for_state(flow_run_id, "FAILED", "COMPLETED")
    assert state["type"] == "FAILED"
    assert "StartOutcomeUnknown" in state["message"]
    assert f"prefect-qatech ledger attach {flow_run_id}" in state["message"]
    assert sandbox.counts()["starts"] == 1

    listed = world.cli("prefect-qatech", "ledger", "list", str(flow_run_id)).stdout
    first_line = listed.splitlines()[0]
    assert first_line.startswith("OPEN ")
    slot = first_line.split()[-1]
    run_short_id = next(request["run_short_id"] for request in sandbox.requests() if request["method"] == "POST")
    world.cli("prefect-qatech", "ledger", "attach", str(flow_run_id), slot, run_short_id)
    world.retry(flow_run_id)
    completed(world, flow_run_id)
    assert sandbox.counts()["starts"] == 1
    refused = world.cli("prefect-qatech", "ledger", "clear", str(flow_run_id), slot, check=False)
    assert refused.returncode == 3, "an error; 2 is the inconclusive verdict"
    assert "is not open" in refused.stderr


@pytest.mark.parametrize("flow", ["sync_gate", "async_gate"])
def test_an_evicted_gate_goes_on_in_another_process(deployed: Deployed, sandbox: Sandbox, flow: str) -> None:
    world = deployed.world
    flow_run_id, pod = deployed.run_in_a_pod(flow, "pln_flaky")
    eventually(lambda: recorded(world, flow_run_id), "the record of the start")
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(PATIENCE_SECONDS) == 0
    # Scheduled anew, and taken up by the worker.
    completed(world, flow_run_id)
    assert world.get(f"/flow_runs/{flow_run_id}")["run_count"] == 2
    assert (sandbox.counts()["starts"], sandbox.counts()["reruns"]) == (1, 1)


def test_the_server_may_restart(deployed: Deployed, sandbox: Sandbox) -> None:
    world = deployed.world
    flow_run_id = deployed.run("async_gate", "pln_flaky")
    eventually(lambda: recorded(world, flow_run_id), "the record of the start")
    world.stop("server")
    world.start_server()
    completed(world, flow_run_id)
    assert (sandbox.counts()["starts"], sandbox.counts()["reruns"]) == (1, 1)


def test_a_worker_may_restart(deployed: Deployed, sandbox: Sandbox) -> None:
    world = deployed.world
    flow_run_id = deployed.run("sync_gate", "pln_green")
    eventually(lambda: recorded(world, flow_run_id), "the record of the start")
    world.stop("worker")
    eventually(lambda: not world.flow_run_pids(flow_run_id), "the end of the flow run's processes")
    world.start_worker()
    # Prefect's worker kills its flow runs when it is stopped, and leaves them RUNNING.
    world.retry(flow_run_id)
    completed(world, flow_run_id)
    assert sandbox.counts()["starts"] == 1


def test_another_machine_without_caches_takes_it_up(deployed: Deployed, sandbox: Sandbox, tmp_path: Path) -> None:
    world = deployed.world
    flow_run_id = deployed.run("sync_gate", "pln_green")
    eventually(lambda: recorded(world, flow_run_id), "the record of the start")
    world.stop("worker")
    try:
        world.spawn(
            "elsewhere",
            *(sys.executable, "-m", "prefect", "flow-run", "execute", str(flow_run_id)),
            env={
                "PREFECT_LOCAL_STORAGE_PATH": str(tmp_path / "elsewhere"),
                "PREFECT_TASKS_DISABLE_CACHING": "true",
                "PREFECT_TASKS_REFRESH_CACHE": "true",
                "QATECH_API_TOKEN": sandbox.token,
                "QATECH_API_URL": sandbox.url,
            },
        )
        completed(world, flow_run_id)
    finally:
        world.stop("elsewhere")
        world.start_worker()
    assert sandbox.counts()["starts"] == 1


def test_two_executors_of_one_flow_run_start_once(deployed: Deployed, sandbox: Sandbox) -> None:
    world = deployed.world
    sandbox.set_faults([SLOW_ANSWER])
    flow_run_id = deployed.run("sync_gate", "pln_green")
    eventually(lambda: sandbox.counts()["starts"] == 1, "the accepted start")
    world.spawn(
        "second",
        *(sys.executable, "-m", "prefect", "flow-run", "execute", str(flow_run_id)),
        env={"QATECH_API_TOKEN": sandbox.token, "QATECH_API_URL": sandbox.url},
    )
    eventually(lambda: world.get(f"/flow_runs/{flow_run_id}")["run_count"] == 2, "the second executor")
    completed(world, flow_run_id)
    eventually(lambda: not world.flow_run_pids(flow_run_id), "the end of both executors")
    world.stop("second")
    assert sandbox.counts()["starts"] == 1
    assert len([key for key in rows(world, flow_run_id) if key.endswith("-intent")]) == 1


def test_equal_gates_of_one_flow_run_are_told_apart(deployed: Deployed, sandbox: Sandbox) -> None:
    world = deployed.world
    flow_run_id = deployed.run("two_equal_gates", "pln_green")
    eventually(lambda: recorded(world, flow_run_id, 3), "the records of three starts")
    before = {json.loads(value)["run_short_id"] for key, value in rows(world, flow_run_id).items() if "-done" in key}
    killed_and_retried(world, flow_run_id)
    completed(world, flow_run_id)
    after = {json.loads(value)["run_short_id"] for key, value in rows(world, flow_run_id).items() if "-done" in key}
    assert sandbox.counts()["starts"] == len(before) == 3
    assert after == before

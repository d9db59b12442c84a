"""`deployments/automations.py --crashed-after`: a gate whose process is gone is marked as crashed, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from prefect_qatech import QATechCredentials
from prefect_qatech.sandbox import Sandbox
from tests.e2e.world import PATIENCE_SECONDS, POOL, ROOT, World, eventually

# The shortest heartbeats that Prefect allows.
HEARTBEAT_SECONDS, CRASHED_AFTER_SECONDS = 30, 75
SCENARIO = {
    "plans": [
        {"short_id": "pln_one", "name": "One", "test_cases": [{"name": "A"}]},
        {"short_id": "pln_odd", "name": "Odd", "test_cases": [{"name": "B", "outcomes": "platform_error"}]},
    ]
}


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[World]:
    """A world without a worker: one that sees its flow run's process die reports the crash itself."""
    world = World(tmp_path)
    try:
        world.start_server()
        world.post("/work_pools/", {"name": POOL, "type": "process", "base_job_template": {}})
        yield world
    finally:
        world.stop_everything()


def test_a_gate_without_a_process_is_marked_as_crashed_and_no_other(lonely: World) -> None:
    world = lonely
    with Sandbox(SCENARIO, speed=0) as sandbox:
        gate = world.deploy("flows/check.py:check_release", {}, "release-gate")
        world.deploy("flows/triage.py:triage", {}, "triage")
        env = world.environment() | {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}
        command = [sys.executable, "deployments/automations.py", "--crashed-after", str(CRASHED_AFTER_SECONDS)]
        done = subprocess.run(
            command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        world.save(QATechCredentials(api_token=sandbox.token, api_url=sandbox.url), "crashed")

        def execute(flow_run_id: UUID) -> int:
            command = (sys.executable, "-m", "prefect", "flow-run", "execute", str(flow_run_id))
            return world.spawn(f"pod-{flow_run_id}", *command, env=env).pid

        def run(plan: str, **parameters: object) -> tuple[UUID, int]:
            credentials = {"$ref": {"block_document_slug": "qatech-credentials/crashed"}}
            given = {"credentials": credentials, "test_plan_short_id": plan, "policy": {"max_reruns": 0}, **parameters}
            polling = {"first_seconds": 0.2, "max_seconds": 0.5}
            body = {"parameters": {"polling": polling, **given}, "state": {"type": "PENDING"}}
            flow_run_id = UUID(world.post(f"/deployments/{gate}/create_flow_run", body)["id"])
            return flow_run_id, execute(flow_run_id)

        def heartbeats(flow_run_id: UUID) -> list[object]:
            resource = {"id": [f"prefect.flow-run.{flow_run_id}"]}
            body = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": resource}}
            found: list[object] = world.post("/events/filter", body)["events"]
            return found

        asking, _ = run("pln_odd", on_inconclusive="ask")
        eventually(lambda: sandbox.counts()["starts"] == 1, "the start of the gate that asks")
        sandbox.advance(10_000)
        suspended, _ = run("pln_one", waiting="suspend")
        waiting, _ = run("pln_one")
        killed, pid = run("pln_one")
        eventually(lambda: sandbox.counts()["starts"] == 4, "the starts")
        eventually(lambda: world.state(suspended)["name"] == "Suspended", "the suspension")
        eventually(lambda: world.state(asking)["type"] == "PAUSED", "the pause")
        for flow_run_id in (asking, suspended, waiting, killed):
            eventually(lambda id=flow_run_id: heartbeats(id), f"the first heartbeat of {flow_run_id}")
        # First the one that would report it, as when a machine dies.
        os.kill(pid, signal.SIGKILL)
        world.kill(killed)
        assert world.state(killed)["type"] == "RUNNING"

        state = world.wait_for_state(killed, "CRASHED", seconds=CRASHED_AFTER_SECONDS + PATIENCE_SECONDS)
        assert "No sign of life" in state["message"]
        # Each of them has been silent or alive for longer than that.
        assert world.state(suspended)["name"] == "Suspended"
        assert world.state(waiting)["type"] == "RUNNING"
        assert world.state(asking)["type"] == "PAUSED"
        eventually(lambda: len(heartbeats(waiting)) >= 3, "its heartbeats")

        body = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
        world.post(f"/flow_runs/{killed}/set_state", body)
        execute(killed)
        eventually(lambda: world.get(f"/flow_runs/{killed}")["run_count"] == 2, "the retry")
        sandbox.advance(10_000)
        world.wait_for_state(killed, "COMPLETED")
        world.wait_for_state(waiting, "COMPLETED")
        assert (sandbox.counts()["starts"], sandbox.counts()["reruns"]) == (4, 0)

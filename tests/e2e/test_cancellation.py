"""A wait that is cancelled ends within seconds, in each colour, and says that the run goes on."""

from __future__ import annotations

import os
import signal
import sys
from uuid import UUID

import pytest

from prefect_qatech.sandbox import Sandbox
from tests.e2e.conftest import Deployed
from tests.e2e.world import ROOT, World, eventually

WAITS = ("sync_wait", "submitted_wait", "submitted_waits", "async_wait", "async_submitted_wait", "sync_gate")
RUNS = len(WAITS) + 1  # submitted_waits has two
TERMINATED = WAITS[::2]
"""What is ended by a signal; the others are cancelled in the UI. Our code gets a SIGTERM from both."""


def waiting(deployed: Deployed, sandbox: Sandbox) -> dict[str, UUID]:
    """One flow run of each colour, each at its wait."""
    flow_runs = {flow: deployed.run(flow, "pln_never") for flow in WAITS}
    for flow, flow_run_id in flow_runs.items():
        # Waits for several runs tell of their ends only.
        artifacts = {"artifacts": {"flow_run_id": {"any_": [str(flow_run_id)]}, "type": {"any_": ["progress"]}}}
        eventually(
            lambda id=flow_run_id, asked=artifacts: (
                logged(deployed.world, id, "RUNNING") or deployed.world.post("/artifacts/filter", asked)
            ),
            f"the wait of {flow}",
            120,
        )
    assert sandbox.counts()["starts"] == RUNS
    return flow_runs


def logged(world: World, flow_run_id: UUID, text: str) -> list[str]:
    """Log lines of a flow run, and of its sub-flow runs, that hold a text."""
    children = world.post("/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [str(flow_run_id)]}}})
    ids = [str(flow_run_id), *(child["id"] for child in children)]
    lines = world.post("/logs/filter", {"logs": {"flow_run_id": {"any_": ids}}, "limit": 200})
    return [line["message"] for line in lines if text in line["message"]]


def test_a_cancelled_wait_ends_and_says_that_the_run_goes_on(deployed: Deployed, sandbox: Sandbox) -> None:
    world = deployed.world
    flow_runs = waiting(deployed, sandbox)
    for flow, flow_run_id in flow_runs.items():
        if flow in TERMINATED:
            for pid in world.flow_run_pids(flow_run_id):
                os.kill(pid, signal.SIGTERM)
        else:
            world.post(f"/flow_runs/{flow_run_id}/set_state", {"state": {"type": "CANCELLING"}})
    for flow, flow_run_id in flow_runs.items():
        # Prefect's own grace, after which it kills, is 30 s.
        eventually(lambda id=flow_run_id: not world.flow_run_pids(id), f"the end of {flow}", 20)
        world.wait_for_state(flow_run_id, "CRASHED" if flow in TERMINATED else "CANCELLED")
        text = "2 runs go on at QA.tech" if flow == "submitted_waits" else "goes on at QA.tech"
        said = eventually(lambda id=flow_run_id, text=text: logged(world, id, text), f"the log of {flow}", 60)
        assert sandbox.url in said[0]
    runs = {request["run_short_id"] for request in sandbox.requests() if request["method"] == "POST"}

    def unattended() -> set[str]:
        body = {"filter": {"event": {"name": ["qatech.run.unattended"]}}}
        return {event["payload"]["run_short_id"] for event in world.post("/events/filter", body)["events"]}

    eventually(lambda: runs <= unattended(), "the events")
    artifacts = world.post("/artifacts/filter", {"limit": 200})
    links = {artifact["key"].removeprefix("qatech-unattended-") for artifact in artifacts if artifact["key"]}
    tables = [artifact["data"] for artifact in artifacts if artifact["key"] == "qatech-unattended-runs"]
    assert {run for run in runs if run in links or any(run in str(table) for table in tables)} == runs


@pytest.mark.parametrize("flow", ["submitted_wait", "async_wait"])
def test_ctrl_c_ends_a_local_flow_run(world: World, sandbox: Sandbox, flow: str) -> None:
    call = f"asyncio.run(flows.{flow}('pln_never'))" if flow.startswith("async") else f"flows.{flow}('pln_never')"
    name = f"ctrl-c-{flow}"
    process = world.spawn(
        name,
        *(sys.executable, "-c", f"import asyncio; from tests.e2e import flows; {call}"),
        env={"QATECH_API_TOKEN": sandbox.token, "QATECH_API_URL": sandbox.url, "PYTHONPATH": str(ROOT)},
    )
    eventually(lambda: "RUNNING" in world.log(name), "the wait")
    process.send_signal(signal.SIGINT)
    eventually(lambda: process.poll() is not None, "the end of the process", 60)
    assert process.returncode != 0
    assert "goes on at QA.tech" in world.log(name)

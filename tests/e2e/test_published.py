"""What a deployed gate tells automations, and what a command reads of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefect_qatech import TestVerdict
from prefect_qatech.sandbox import Sandbox
from tests.e2e.conftest import Deployed
from tests.e2e.world import World, eventually

EVENTS = {"pass": "qatech.gate.passed", "fail": "qatech.gate.failed", "inconclusive": "qatech.gate.inconclusive"}
EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 2}


def event_of(world: World, name: str, label: str) -> dict[str, Any]:
    """The event of a gate, by the gate's label."""

    def look() -> list[dict[str, Any]]:
        found = world.post("/events/filter", {"filter": {"event": {"name": [name]}}})["events"]
        return [event for event in found if event["payload"]["label"] == label]

    (event,) = eventually(look, f"the event {name} of {label}")
    return event


@pytest.mark.parametrize(
    ("plan", "verdict", "counts", "failed"),
    [
        ("pln_flaky", "pass", {"passed": 2, "flaky": 1}, []),
        ("pln_broken", "fail", {"passed": 1, "failed": 1, "skipped": 1}, ["Pay with a credit card"]),
        ("pln_never", "inconclusive", {}, []),
    ],
)
def test_the_event_of_a_gate(
    deployed: Deployed,
    sandbox: Sandbox,
    tmp_path: Path,
    plan: str,
    verdict: str,
    counts: dict[str, int],
    failed: list[str],
) -> None:
    world = deployed.world
    label = f"night of {plan}"
    flow_run_id = deployed.run(
        "sync_gate",
        plan,
        label=label,
        report_directory=str(tmp_path),
        deadline_seconds=2 if verdict == "inconclusive" else 120,
    )
    world.wait_for_state(flow_run_id, "COMPLETED" if verdict == "pass" else "FAILED")
    event = event_of(world, EVENTS[verdict], label)
    payload = event["payload"]
    starts = [request for request in sandbox.requests() if request["method"] == "POST"]
    assert payload["verdict"] == verdict
    assert payload["plan_short_id"] == plan
    assert payload["run_short_ids"] == [request["run_short_id"] for request in starts]
    assert payload["run_short_id"] == payload["run_short_ids"][-1]
    assert payload["run_url"].startswith(sandbox.url)
    assert payload["run_url"].endswith(payload["run_short_id"])
    assert set(payload["counts"]) == set(TestVerdict)
    if verdict != "inconclusive":
        assert {name: count for name, count in payload["counts"].items() if count} == counts
    assert payload["failed_tests"] == failed
    assert payload["reasons"]

    # By these an automation knows what to run again, to roll back, or to tell.
    gate = world.get(f"/flow_runs/{payload['flow_run_id']}")
    assert event["resource"]["prefect.resource.id"] == f"qatech.gate.{gate['id']}"
    related = {resource["prefect.resource.id"] for resource in event["related"]}
    assert f"prefect.flow-run.{gate['id']}" in related
    deployment = world.get(f"/flow_runs/{flow_run_id}")["deployment_id"]
    assert {f"prefect.flow-run.{flow_run_id}", f"prefect.deployment.{deployment}"} <= related

    told = world.cli("prefect-qatech", "explain", str(tmp_path / "verdict.json"), check=False)
    assert told.returncode == EXIT_CODES[verdict]
    assert verdict.upper() in told.stdout
    for sentence in payload["reasons"]:
        assert sentence in " ".join(told.stdout.split())

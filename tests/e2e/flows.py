"""Flows that the worker of the end-to-end tests runs; credentials come from the environment."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow

from prefect_qatech import (
    GatePolicy,
    GateReport,
    QATechCredentials,
    QATechPolling,
    arelease_gate,
    astart_test_run,
    await_for_test_run,
    release_gate,
    start_test_run,
    wait_for_test_run,
    wait_for_test_runs,
    wake_suspended_gates,
)

POLLING = QATechPolling(first_seconds=0.2, max_seconds=0.5)
# What is tested is the same on a retry: without a target, a gate that had passed would test again.
TARGET = "v1"


def credentials() -> QATechCredentials:
    """How to reach the sandbox; a short time limit, as an open intent may be somebody else's at work for that long."""
    return QATechCredentials.from_env().model_copy(update={"timeout_seconds": 10.0})


@flow
def sync_gate(
    plan: str, deadline_seconds: float = 120, label: str | None = None, report_directory: str | None = None
) -> dict[str, Any]:
    """A gate as a sub-flow of a user's flow."""
    return _slim(
        release_gate(
            credentials(),
            plan,
            target=TARGET,
            policy=GatePolicy(deadline_seconds=deadline_seconds),
            polling=POLLING,
            label=label,
            report_directory=report_directory,
        )
    )


@flow
async def async_gate(plan: str, deadline_seconds: float = 120) -> dict[str, Any]:
    """The same, async."""
    policy = GatePolicy(deadline_seconds=deadline_seconds)
    return _slim(await arelease_gate(credentials(), plan, target=TARGET, policy=policy, polling=POLLING))


@flow
async def two_equal_gates(plan: str) -> list[str | None]:
    """Two gates with equal inputs, one after the other, beside a third in parallel."""
    reach = credentials()
    first = await arelease_gate(reach, plan, target=TARGET, polling=POLLING)
    second, third = await asyncio.gather(
        arelease_gate(reach, plan, target=TARGET, polling=POLLING),
        arelease_gate(reach, plan, target=TARGET, polling=POLLING, label="third"),
    )
    return [report.run_short_id for report in (first, second, third)]


@flow
def promote(
    target: str | None,
    run_short_id: str,
    plan_short_id: str | None,
    applications: list[dict[str, Any]],
    policy: dict[str, Any],
    verdict: str,
    decision: dict[str, Any] | None,
    changed_parameters: list[str] | None,
    gate_flow_run_id: str,
) -> None:
    """What an automation runs when a gate has passed."""


@flow
def sync_wait(plan: str) -> None:
    """The sync task, called."""
    reach = credentials()
    run = start_test_run(reach, plan)
    wait_for_test_run(reach, run, 600, polling=POLLING)


@flow
def submitted_wait(plan: str) -> None:
    """The sync task, submitted to a thread."""
    reach = credentials()
    run = start_test_run.submit(reach, plan).result()
    wait_for_test_run.submit(reach, run, 600, polling=POLLING).result()


@flow
def submitted_waits(plan: str) -> None:
    """The sync task for several runs, submitted to a thread."""
    reach = credentials()
    runs = [start_test_run(reach, plan), start_test_run(reach, plan)]
    wait_for_test_runs.submit(reach, runs, 600, polling=POLLING).result()


@flow
async def async_wait(plan: str) -> None:
    """The async task, awaited."""
    reach = credentials()
    run = await astart_test_run(reach, plan)
    await await_for_test_run(reach, run, 600, polling=POLLING)


@flow
async def async_submitted_wait(plan: str) -> None:
    """The async task, submitted to a thread of an async flow."""
    reach = credentials()
    run = await astart_test_run(reach, plan)
    future = await_for_test_run.submit(reach, run, 600, polling=POLLING)
    future.result()


def _slim(report: GateReport) -> dict[str, Any]:
    return {"verdict": report.verdict.value, "runs": [attempt.run_short_id for attempt in report.attempts]}


@flow
def suspended_gate(plan: str, deadline_seconds: float = 600) -> dict[str, Any]:
    """The gate in this flow run itself, which suspends."""
    policy = GatePolicy(deadline_seconds=deadline_seconds)
    return _slim(release_gate.fn(credentials(), plan, target=TARGET, policy=policy, polling=POLLING, waiting="suspend"))


@flow
def watcher() -> list[str]:
    """One round of the watcher."""
    return [str(flow_run_id) for flow_run_id in wake_suspended_gates(credentials())]

"""Several gates at once: against the sandbox, on a real Prefect server."""

from __future__ import annotations

import asyncio
import pickle
from glob import glob
from pathlib import Path
from typing import Any

import anyio
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.utilities.urls import url_for

from prefect_qatech import (
    GateReport,
    GatesNotPassed,
    GatesReport,
    InvalidInputError,
    QATechCredentials,
    QATechPolling,
    QATechRunRequest,
    Verdict,
    agather_gates,
    arelease_gate,
    gather_gates,
)
from prefect_qatech.gate import many
from prefect_qatech.report import events
from prefect_qatech.sandbox import Sandbox
from tests.report.campaigns import attempt, report_of
from tests.support import POLLING, Failing, artifacts_of, counted, posts

pytestmark = pytest.mark.usefixtures("prefect_server")


def plans(*short_ids: str) -> dict[str, QATechRunRequest]:
    """A gate for each plan, named as people would."""
    return {short_id.removeprefix("pln_"): QATechRunRequest(test_plan_short_id=short_id) for short_id in short_ids}


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was emitted over several gates."""
    found: list[dict[str, Any]] = []

    def emit(**event: Any) -> None:
        if event["event"].startswith("qatech.gates."):
            found.append(event)

    monkeypatch.setattr(events, "emit_event", emit)
    return found


async def test_gates_that_pass(
    sandbox: Sandbox, credentials: QATechCredentials, emitted: list[dict[str, Any]], tmp_path: Path
) -> None:
    requests = plans("pln_green", "pln_flaky")
    state = gather_gates(credentials, requests, polling=POLLING, report_directory=str(tmp_path), return_state=True)
    report: GatesReport = await state.aresult()
    assert report.passed
    assert report.names == ("green", "flaky")
    assert [report.reports[name].plan_short_id for name in report.names] == ["pln_green", "pln_flaky"]
    assert counted(sandbox) == (2, 1)
    assert sorted(glob("*/junit.xml", root_dir=tmp_path)) == ["qatech-flaky/junit.xml", "qatech-green/junit.xml"]
    [summary] = await artifacts_of([state.state_details.flow_run_id])
    assert summary.key == "qatech-gates"
    assert "2 of 2 gates passed." in str(summary.data)
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[state.state_details.flow_run_id])
            )
        )
    assert {run.name: run.state_name for run in runs} == {"green": "Passed", "flaky": "Passed, 1 flaky"}
    [event] = emitted
    assert event["event"] == "qatech.gates.passed"
    assert event["resource"]["prefect.resource.id"] == f"qatech.gates.{state.state_details.flow_run_id}"
    assert event["payload"]["verdicts"] == {"green": "pass", "flaky": "pass"}


async def test_a_gate_that_fails_or_cannot_be_evaluated_hides_no_other(
    sandbox: Sandbox, credentials: QATechCredentials, emitted: list[dict[str, Any]]
) -> None:
    requests = plans("pln_nowhere", "pln_broken", "pln_green")
    state = await agather_gates(credentials, requests, gates_at_once=1, polling=POLLING, return_state=True)
    error = await state.aresult(raise_on_failure=False)
    assert isinstance(error, GatesNotPassed)
    report = pickle.loads(pickle.dumps(error)).report
    assert {name: report.verdict_of(name) for name in report.names} == {
        "nowhere": Verdict.INCONCLUSIVE,
        "broken": Verdict.FAIL,
        "green": Verdict.PASS,
    }
    assert report.verdict is Verdict.FAIL
    assert report.errors["nowhere"].startswith("NotFoundError: ")
    assert "1 of 3 gates passed. nowhere: could not be evaluated, NotFoundError" in str(error)
    assert f"({report.reports['broken'].run_url})" in str(error)
    [summary] = await artifacts_of([state.state_details.flow_run_id])
    page = url_for("flow-run", obj_id=report.reports["broken"].flow_run_id)
    assert "❌ **broken**: fail · One always fails · 3 tests: 1 passed, 1 failed, 1 skipped" in summary.data
    assert f" · [flow run]({page}) · " in summary.data
    assert "  - Failed: Pay with a credit card\n" in summary.data
    assert [event["event"] for event in emitted] == ["qatech.gates.failed"]


async def test_what_makes_no_sense_starts_nothing(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    bad: list[tuple[dict[str, QATechRunRequest], dict[str, Any], str]] = [
        ({}, {}, "nothing is tested"),
        ({" ": QATechRunRequest()}, {}, "name"),
        ({"x" * 201: QATechRunRequest()}, {}, "name"),
        (plans("pln_green"), {"gates_at_once": 0}, "gates_at_once"),
    ]

    @flow
    async def user() -> None:
        for requests, more, told in bad:
            with pytest.raises(InvalidInputError, match=told):
                await agather_gates.fn(credentials, requests, **more)

    await user()
    assert posts(sandbox) == []


async def test_gates_elsewhere_in_the_flow_are_runs_of_their_own_and_a_retry_starts_none_again(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    """What was tested before something else was deployed says nothing about that."""
    step = Failing()
    seen: list[str | None] = []
    options: dict[str, Any] = {"target": "v1", "polling": POLLING}

    async def gather(label: str | None = None) -> None:
        report = await agather_gates(credentials, plans("pln_green"), label=label, **options)
        seen.append(report.reports["green"].run_short_id)

    @flow
    async def inner() -> None:
        await gather()

    @task
    async def in_a_task() -> None:
        await gather("in a task")

    @flow(retries=1)
    async def user() -> None:
        both = await agather_gates(credentials, plans("pln_flaky", "pln_green"), gates_at_once=1, **options)
        again = await asyncio.to_thread(gather_gates, credentials, plans("pln_green"), **options)
        alone = await arelease_gate(credentials, "pln_green", label="green", **options)
        reports = [*both.reports.values(), again.reports["green"], alone]
        seen.extend(attempt.run_short_id for report in reports for attempt in report.attempts)
        await inner()
        await inner()
        await in_a_task()
        step()

    await user()
    assert counted(sandbox) == (7, 1)
    first, second = set(seen[:8]), set(seen[8:])
    assert len(first) == 8
    assert first == second


async def test_a_retry_that_asks_for_other_gates_finds_those_that_it_had_and_one_that_is_not_the_same_is_another(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    step, seen = Failing(2), list[dict[str, str | None]]()
    asked = [
        {"smoke": "pln_green", "checkout": "pln_green"},
        {"new": "pln_green", "checkout": "pln_green", "smoke": "pln_green"},
        {"smoke": "pln_flaky"},
    ]

    @flow(retries=2)
    async def user() -> None:
        report = await agather_gates(credentials, asked[step.calls], target="v1", polling=POLLING)
        seen.append({name: gate.run_short_id for name, gate in report.reports.items()})
        step()

    await user()
    first, second, third = seen
    assert {name: second[name] for name in first} == first
    assert third["smoke"] not in {*first.values(), *second.values()}
    assert counted(sandbox) == (4, 1)


async def test_a_retry_after_an_upgrade_starts_none_of_the_gates_again_that_0_1_0_has_started(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    """It named a gate by its name and the place of the call, in the form of a label, and by nothing else."""
    step, seen = Failing(), list[str | None]()

    @flow(retries=1)
    async def user() -> None:
        of_0_1_0 = "agather_gates:0/0" if step.calls == 0 else None
        report = await agather_gates(
            credentials, plans("pln_green", "pln_flaky"), target="v1", polling=POLLING, label=of_0_1_0
        )
        seen.extend(gate.run_short_id for gate in report.reports.values())
        step()
        other = await agather_gates(credentials, plans("pln_green"), target="v1", polling=POLLING)
        seen.append(other.reports["green"].run_short_id)

    await user()
    assert set(seen[2:4]) == set(seen[:2])
    assert seen[4] not in seen[:4]
    assert counted(sandbox) == (3, 1)


class Gates:
    """Stands in for the gates, and sees how many are at work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_work = self.most = self.ended = 0
        self.fails: BaseException | None = None
        self.three_at_work = asyncio.Event()
        self.for_ever = asyncio.Event()
        monkeypatch.setattr(many, "_one_gate", self.run)

    async def run(self, name: str, *_: Any) -> GateReport:
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        if self.at_work == 3:
            self.three_at_work.set()
        try:
            if name == "fails" and self.fails is not None:
                await self.three_at_work.wait()
                raise self.fails
            if self.fails is not None:
                await self.for_ever.wait()
            await self.three_at_work.wait()
            for __ in range(10):
                await asyncio.sleep(0)
            return report_of(attempt(0, {"A": "P"}))
        finally:
            self.at_work -= 1
            self.ended += 1


async def test_no_more_gates_are_at_work_than_asked_for(
    credentials: QATechCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = Gates(monkeypatch)
    requests = {str(number): QATechRunRequest() for number in range(7)}
    report = await agather_gates(credentials, requests, gates_at_once=3)
    assert report.passed
    assert (gates.most, gates.ended) == (3, 7)


class Stop(BaseException):
    """Something that no gate may keep to itself."""


async def test_what_ends_the_flow_ends_all_gates_first(
    credentials: QATechCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = Gates(monkeypatch)
    gates.fails = Stop()
    with pytest.raises(Stop), anyio.fail_after(30):
        await agather_gates(credentials, {name: QATechRunRequest() for name in ("a", "fails", "b")})
    assert (gates.at_work, gates.ended) == (0, 3)


def test_a_flow_of_a_users_own_is_tested_with_the_fixtures(
    qatech_sandbox: Sandbox, qatech_credentials: QATechCredentials, qatech_polling: QATechPolling
) -> None:
    @flow
    def own() -> GatesReport:
        return gather_gates(qatech_credentials, {"one": "pln_green", "two": "pln_broken"}, polling=qatech_polling)

    with pytest.raises(GatesNotPassed, match="two") as told:
        own()
    assert {name: told.value.report.verdict_of(name).value for name in ("one", "two")} == {"one": "pass", "two": "fail"}
    assert qatech_sandbox.counts()["starts"] == 2

"""The flows that `prefect.yaml` deploys, against the sandbox, on a real Prefect server."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_FLOWS_DEFAULT_RETRIES, temporary_settings

from flows.check import check_release
from flows.nightly import nightly
from flows.preview import preview_check
from flows.release import release
from flows.triage import triage
from prefect_qatech import GatesNotPassed, QATechCredentials, QATechRunRequest
from prefect_qatech.sandbox import Sandbox
from tests.report.reading import raw_references, render
from tests.support import POLLING, artifacts_of, credentials_for, one_plan, posts

pytestmark = pytest.mark.usefixtures("prefect_server")

ROOT = Path(__file__).parents[2]


async def sub_flow_runs_of(flow_run_id: UUID) -> list[FlowRun]:
    async with get_client() as client:
        below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]))
        return await client.read_flow_runs(flow_run_filter=below)


async def published(state: Any) -> str:
    """The Markdown that a flow run itself has published."""
    [text] = [found.data for found in await artifacts_of([state.state_details.flow_run_id])]
    return str(text)


async def test_a_plan_that_fails_or_is_not_there_hides_no_other(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    plans = ["pln_nowhere", "pln_broken", "pln_green"]
    with pytest.raises(GatesNotPassed, match=r"FAIL: do not release\. 1 of 3 gates passed\. pln_nowhere: could not"):
        await nightly(credentials, plans, gates_at_once=2, polling=POLLING)
    asked = [post["body"]["testPlanShortId"] for post in posts(sandbox) if post["path"] == "/v1/run"]
    assert sorted(asked) == sorted(plans)


@pytest.mark.parametrize("plans", [[], ["pln_green", "pln_green"]])
async def test_a_night_without_plans_or_with_one_twice_starts_nothing(
    sandbox: Sandbox, credentials: QATechCredentials, plans: list[str]
) -> None:
    with pytest.raises(ValueError, match="each once"):
        await nightly(credentials, plans, polling=POLLING)
    assert posts(sandbox) == []


def test_an_address_needs_its_application(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    with pytest.raises(ValueError, match="Give both"):
        check_release(credentials, "pln_green", environment_url="http://127.0.0.1:8410", polling=POLLING)
    assert posts(sandbox) == []


async def test_the_flow_run_that_people_open_is_the_gate(credentials: QATechCredentials) -> None:
    where = {"preview_url": "http://127.0.0.1:8410", "application_short_id": "app_shop", "polling": POLLING}
    command = [sys.executable, "-c", ""]
    runs = {
        "check": check_release(credentials, "pln_flaky", polling=POLLING, return_state=True),
        "preview": preview_check(credentials, test_plan_short_id="pln_flaky", return_state=True, **where),
        "release": release(
            command,
            "http://127.0.0.1:8410",
            "app_shop",
            "pln_flaky",
            credentials=credentials,
            polling=POLLING,
            return_state=True,
        ),
    }
    for name, state in runs.items():
        flow_run_id = state.state_details.flow_run_id
        keys = {found.key for found in await artifacts_of([flow_run_id])}
        kinds = {kind for kind in ("report", "run", "tests") if any(f"qatech-{kind}-" in str(key) for key in keys)}
        assert kinds == {"report", "run", "tests"}, name
        assert await sub_flow_runs_of(flow_run_id) == [], name


async def test_a_night_tells_the_verdict_of_each_plan_and_is_one_level_deep(credentials: QATechCredentials) -> None:
    state = await nightly(credentials, ["pln_green", "pln_flaky"], polling=POLLING, return_state=True)
    told = await state.aresult()
    assert {plan: told.verdict_of(plan).value for plan in told.names} == {"pln_green": "pass", "pln_flaky": "pass"}
    night = state.state_details.flow_run_id
    gates = await sub_flow_runs_of(night)
    assert sorted(gate.name for gate in gates) == ["pln_flaky", "pln_green"]
    assert [found.key for found in await artifacts_of([night])] == ["qatech-gates"]
    assert [await sub_flow_runs_of(gate.id) for gate in gates] == [[], []]


async def ended_run(sandbox: Sandbox) -> str:
    """A run that nobody has judged."""
    async with credentials_for(sandbox).get_client() as client:
        started = await client.start_run(QATechRunRequest(test_plan_short_id="pln_one"))
    sandbox.advance(10_000)
    return started.run_short_id


async def test_a_triage_shows_texts_of_the_service_as_text() -> None:
    evil = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) | # heading"
    case = {"name": evil, "outcomes": {"outcome": "failed", "title": evil, "thought": evil}}
    with Sandbox(one_plan([case, {"name": "Fine", "outcomes": "passed"}]), speed=0) as sandbox:
        reach = credentials_for(sandbox)
        runs = [await ended_run(sandbox)]
        qatech = sandbox.url
        ids = {"plan_short_id": evil, "gate_flow_run_id": evil, "run_url": f"{qatech}/latest"}
        state = await triage(reach, runs, return_state=True, **ids)
    assert await state.aresult() == 1
    text = await published(state)
    assert "## 1 of 2 tests have not passed" in text
    assert "TEST\\_FAILED" in text
    assert raw_references(text) == []
    page = render(text)
    assert page.images == []
    assert {urlsplit(link).netloc for link in page.links} == {urlsplit(qatech).netloc}
    assert f"{qatech}/latest" in page.links


async def test_a_triage_shows_what_the_agent_did_and_what_was_noticed() -> None:
    outcome = {
        "outcome": "failed",
        "steps": [{"reasoning": "I pay.", "tool_calls": [{"name": "click"}], "tool_result": "There is no button."}],
        "issues": [{"title": "The cart is empty", "severity": "high"}],
    }
    plan = one_plan([{"name": "Pay", "outcomes": outcome}, {"name": "Ship", "outcomes": "failed"}])
    with Sandbox(plan, speed=2000) as sandbox:
        reach = credentials_for(sandbox)
        check_release(reach, "pln_one", polling=POLLING, return_state=True)
        runs = [run["short_id"] for run in sandbox.runs()]
        state = await triage(reach, runs, return_state=True)
        assert await state.aresult() == 2
        sandbox.set_faults([{"on": {"method": "GET", "path": "trace"}, "kind": "status", "status": 403, "times": -1}])
        without = await triage(reach, runs, return_state=True)
        assert await without.aresult() == 2
        pictures = sandbox.url
    page = render(await published(state))
    assert "Step 1: I pay. Did: click() Result: There is no button. picture" in page.text
    assert page.text.count("The cart is empty") == 1
    assert "The cart is empty (high, functional)" in page.text
    assert any(link.startswith(pictures) and "step=1" in link for link in page.links)
    text = await published(without)
    assert text.count("could not be had") == 2
    assert "The cart is empty" in text
    assert "I pay." not in text


async def test_a_triage_does_without_issues_where_the_service_does_not_know_them() -> None:
    with Sandbox(one_plan([{"name": "Pay", "outcomes": "failed"}]), speed=0) as sandbox:
        runs = [await ended_run(sandbox)]
        sandbox.set_faults(
            [{"on": {"path": "status", "query": "issues"}, "kind": "status", "status": 400, "times": -1}]
        )
        state = await triage(credentials_for(sandbox), runs, return_state=True)
        assert await state.aresult() == 1
    assert "Pay" in await published(state)


async def test_a_triage_asks_for_some_tests_and_names_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.triage.MOST_TESTS", 2)
    monkeypatch.setattr("flows.triage.MOST_NAMES", 2)
    cases = [{"name": f"*Test* {n}", "outcomes": "failed"} for n in range(5)]
    with Sandbox(one_plan(cases), speed=0) as sandbox:
        runs = [await ended_run(sandbox)]
        before = len(sandbox.requests())
        state = await triage(credentials_for(sandbox), runs, return_state=True)
        asked = [request["path"] for request in sandbox.requests()[before:]]
    assert await state.aresult() == 5
    assert len([path for path in asked if "/run-test-case/" in path]) == 4
    page = render(await published(state))
    assert "3 more are not looked into" in page.text
    assert all(f"*Test* {n}" in page.text for n in range(4))
    assert page.text.rstrip().endswith("*Test* 2, *Test* 3, 1 more")


async def test_a_triage_without_runs_says_so(credentials: QATechCredentials) -> None:
    with pytest.raises(ValueError, match="nothing to look into"):
        await triage(credentials, [])


def test_no_default_of_an_installation_multiplies_deadlines_and_deployments() -> None:
    """The setting is read when a flow is made: the files are executed once more."""
    names = {"check": "check_release", "preview": "preview_check", "watcher": "watch"}
    with temporary_settings({PREFECT_FLOWS_DEFAULT_RETRIES: 2}):
        assert Flow(ended_run).retries == 2
        for file in ("check", "nightly", "preview", "release", "triage", "watcher"):
            made = runpy.run_path(str(ROOT / "flows" / f"{file}.py"))
            assert made[names.get(file, file)].retries == 0, file


async def test_a_retry_in_the_same_night_does_not_test_again_what_has_passed_and_a_plan_that_is_not_there_is_no_pass(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    with pytest.raises(GatesNotPassed, match="INCONCLUSIVE"):
        await nightly.with_options(retries=1)(credentials, ["pln_green", "pln_nowhere"], polling=POLLING)
    asked = [post["body"]["testPlanShortId"] for post in posts(sandbox) if post["path"] == "/v1/run"]
    assert sorted(asked) == ["pln_green", "pln_nowhere", "pln_nowhere"]


def test_what_is_checked_is_named(credentials: QATechCredentials) -> None:
    checked = check_release(credentials, "pln_green", target="v2", polling=POLLING)
    previewed = preview_check(
        credentials, "http://127.0.0.1:8410", "app_shop", "pln_green", commit_hash="c0ffee", polling=POLLING
    )
    assert [checked.target, previewed.target] == ["v2", "c0ffee"]

"""A person decides where the evidence alone does not let a release out; only an answer is an answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Running

from prefect_qatech import (
    GateFailed,
    GateInconclusive,
    GatePolicy,
    GateReport,
    InvalidInputError,
    QATechCredentials,
    QATechPolling,
    Verdict,
    aread_ledger,
    arelease_gate,
)
from prefect_qatech.gate import approval
from prefect_qatech.gate.approval import question
from prefect_qatech.report import events
from prefect_qatech.report.markdown import render_markdown
from prefect_qatech.report.subject import ReportedApplication
from prefect_qatech.sandbox import Sandbox
from tests.gate.conftest import set_clock
from tests.report.campaigns import attempt, report_of
from tests.report.reading import raw_references, render, words
from tests.support import (
    POLLING,
    Failing,
    artifacts_of,
    cases,
    counted,
    credentials_for,
    flow_run_id,
    one_plan,
    posts,
    verdict_in,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

FAILS = one_plan(cases("passed", "failed"))
SKIPS = one_plan(cases("passed", "skipped"))
POLICY = GatePolicy(max_reruns=0)
APPROVE = {"decision": "approve", "reason": "The [search](javascript:x) is not part of it.", "decided_by": "Ada"}

Answer = Callable[[PrefectClient, FlowRun], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "LOOK_SECONDS", 0.2)


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Mapping[str, Any]]]:
    """The events, as they are handed to Prefect."""
    seen: list[tuple[str, Mapping[str, Any]]] = []

    def emit(event: str, payload: Mapping[str, Any], **_: Any) -> None:
        seen.append((event, payload))

    monkeypatch.setattr(events, "emit_event", emit)
    return seen


def resume(answer: Mapping[str, Any] | None) -> Answer:
    """Answer as the UI does."""

    async def answer_it(client: PrefectClient, paused: FlowRun) -> None:
        await client.resume_flow_run(paused.id, run_input=None if answer is None else dict(answer))

    return answer_it


async def ended(sandbox: Sandbox, *answers: Answer, retries: int = 0, **arguments: Any) -> tuple[Any, UUID]:
    """Run a gate in a flow, answer its questions in turn, give how it ended and the flow run's id."""
    step = Failing(retries)
    ids: list[UUID] = []

    @flow(retries=retries)
    async def user() -> GateReport:
        ids.append(flow_run_id())
        report = await arelease_gate(
            credentials_for(sandbox),
            "pln_one",
            policy=POLICY,
            polling=POLLING,
            **{"on_failed": "ask", "on_inconclusive": "ask", **arguments},
        )
        step()
        return report

    questions: set[str] = set()
    work = asyncio.ensure_future(user())
    try:
        with anyio.fail_after(240):
            async with get_client() as client:
                for answer in answers:
                    await answer(client, await _next_question(client, ids, questions))
            return (await asyncio.gather(work, return_exceptions=True))[0], ids[-1]
    finally:
        work.cancel()


async def _next_question(client: PrefectClient, ids: list[UUID], answered: set[str]) -> FlowRun:
    while True:
        for paused in await _paused(client, ids):
            key = f"{paused.id} {paused.state.state_details.pause_key}"
            if key not in answered and await _has_form(client, paused):
                answered.add(key)
                return paused
        await anyio.sleep(0.1)


async def _paused(client: PrefectClient, ids: list[UUID]) -> list[FlowRun]:
    if not ids:
        return []
    children = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[ids[-1]]))
    )
    return [run for run in children if run.state is not None and run.state.is_paused()]


async def _has_form(client: PrefectClient, paused: FlowRun) -> bool:
    """The form is saved a moment after the pause has begun."""
    keyset = paused.state.state_details.run_input_keyset
    try:
        await client.read_flow_run_input(paused.id, keyset["description"])
    except PrefectHTTPStatusError:
        return False
    return True


def test_the_form_says_what_is_decided_where_and_until_when() -> None:
    where = ReportedApplication(application_short_id="app_shop", environment_url="https://staging.example.com")
    about = {"plan_name": "Checkout *all*", "target": "v2", "applications": (where,)}
    report = report_of(attempt(0, {"Login": "P", "Pay_by_card": "F"})).model_copy(update=about)
    asked = question(report, datetime(2026, 9, 1, 14, 5, tzinfo=timezone.utc))
    assert raw_references(asked) == []
    text = words(render(asked).text)
    for told in (
        "The gate's verdict is fail.",
        "Checkout *all* · on https://staging.example.com · target v2",
        "Failed: Pay_by_card",
        "until 2026-09-01 14:05 UTC; no answer is a no",
        "Approve: this flow run completes",
        "Reject: the flow run fails",
    ):
        assert told in text


@pytest.mark.parametrize(("scenario", "verdict"), [(FAILS, Verdict.FAIL), (SKIPS, Verdict.INCONCLUSIVE)])
async def test_an_approval_lets_the_release_out_and_is_no_pass(
    scenario: dict[str, Any], verdict: Verdict, emitted: list[tuple[str, Mapping[str, Any]]], tmp_path: Path
) -> None:
    with Sandbox(scenario, speed=2000) as sandbox:
        report, _ = await ended(sandbox, resume(APPROVE), report_directory=str(tmp_path))
        assert (report.verdict, report.passed, report.approved) == (verdict, False, True)
        assert (report.decision.decided_by, report.decision.reason) == ("Ada", APPROVE["reason"])
        assert report.decision.evidence_sha256 == report.evidence_sha256
        assert counted(sandbox) == (1, 0)
    assert verdict_in(tmp_path) == report
    names = [name for name, _ in emitted if name.startswith("qatech.gate.")]
    assert names == ["qatech.gate.asked", "qatech.gate.approved"], "nobody is told of what a person has settled"
    payload = emitted[-1][1]
    assert payload["evidence_sha256"] == payload["decision"]["evidence_sha256"] == report.evidence_sha256
    assert payload["decision"]["decided_by"] == "Ada"
    text = render_markdown(report)
    assert text.startswith(f"## ⚠️ APPROVED by Ada (the verdict is {verdict})\n")
    assert "Ada approved the release" in text
    assert "\\[search\\]" in text
    written = [found for found in await artifacts_of([UUID(report.flow_run_id)]) if "gate:" in str(found.description)]
    assert len([found for found in written if found.type == "markdown"]) == 2, "one to decide on, one that tells it"


async def test_a_rejection_stops_it(emitted: list[tuple[str, Mapping[str, Any]]]) -> None:
    with Sandbox(FAILS, speed=2000) as sandbox:
        error, _ = await ended(
            sandbox, resume({"decision": "reject", "reason": "Not on a Friday.", "decided_by": "Ada"})
        )
    assert isinstance(error, GateFailed)
    assert re.search(r"Ada rejected the release, .*: Not on a Friday\.", str(error))
    assert not error.report.approved
    assert emitted[-1][0] == "qatech.gate.rejected"


async def test_gates_in_the_body_of_one_flow_ask_one_after_the_other() -> None:
    """The flow run that would pause is the same for both."""
    two_plans = {
        "plans": [
            {"short_id": f"pln_{name}", "name": name, "test_cases": [{"name": name, "outcomes": "failed"}]}
            for name in ("one", "two")
        ]
    }
    ids: list[UUID] = []
    questions: dict[str, str] = {}

    @flow
    async def user(credentials: QATechCredentials) -> None:
        ids.append(flow_run_id())
        options: dict[str, Any] = {"policy": POLICY, "on_failed": "ask", "polling": QATechPolling(first_seconds=0.05)}
        gates = [arelease_gate.fn(credentials, plan, **options) for plan in ("pln_one", "pln_two")]
        for report in await asyncio.gather(*gates):
            assert report.decision.decided_by == questions[report.plan_short_id]

    with Sandbox(two_plans, speed=2000) as sandbox:
        work = asyncio.ensure_future(user(credentials_for(sandbox)))
        async with get_client() as client:
            while len(questions) < 2 and not work.done():
                await anyio.sleep(0.1)
                if not ids or not (paused := await client.read_flow_run(ids[0])).state.is_paused():
                    continue
                if await _has_form(client, paused):
                    keyset = paused.state.state_details.run_input_keyset
                    form = await client.read_flow_run_input(paused.id, keyset["description"])
                    plan = "pln_one" if "Failed: one" in form else "pln_two"
                    questions[plan] = f"Ada, of {plan}"
                    await client.resume_flow_run(paused.id, run_input={**APPROVE, "decided_by": questions[plan]})
        await work
    assert len(questions) == 2


async def test_no_answer_in_time_is_a_no() -> None:
    with Sandbox(SKIPS, speed=2000) as sandbox:
        error, _ = await ended(sandbox, decision_timeout_seconds=0.5)
    assert isinstance(error, GateInconclusive)
    assert "Nobody answered in time" in str(error)


async def test_prefect_takes_an_answer_in_time_where_the_clock_of_the_worker_is_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From that clock Prefect's client reckons until when its server takes one."""
    set_clock(monkeypatch, -3)
    now, ends = datetime.now(timezone.utc), list[datetime]()

    async def approve(client: PrefectClient, paused: FlowRun) -> None:
        ends.append(paused.state.state_details.pause_timeout)
        await resume(APPROVE)(client, paused)

    with Sandbox(FAILS, speed=2000) as sandbox:
        report, _ = await ended(sandbox, approve, decision_timeout_seconds=3600)
    assert report.approved
    assert ends[0] - timedelta(hours=3) >= now + timedelta(hours=1), "by the worker's clock it is three hours earlier"


async def test_a_flow_run_that_is_resumed_without_an_answer_is_a_no() -> None:
    async def let_go(client: PrefectClient, paused: FlowRun) -> None:
        await client.set_flow_run_state(paused.id, Running(), force=True)

    with Sandbox(FAILS, speed=2000) as sandbox:
        error, _ = await ended(sandbox, let_go)
    assert isinstance(error, GateFailed)
    assert "The release was not approved" in str(error)


async def test_prefect_takes_no_half_answer() -> None:
    half: list[dict[str, Any]] = [
        {"decision": "approve"},
        {"decision": "approve", "reason": "", "decided_by": "Ada"},
        {"decision": "approve", "reason": "x"},
        {"decision": "approve", "reason": "x", "decided_by": ""},
        {"decision": "yes", "reason": "x", "decided_by": "Ada"},
        {"reason": "x", "decided_by": "Ada"},
    ]

    async def try_them(client: PrefectClient, paused: FlowRun) -> None:
        for answer in half:
            assert (await client.resume_flow_run(paused.id, run_input=answer)).status.value == "REJECT", answer
        await client.resume_flow_run(paused.id, run_input={"decision": "reject", "reason": "no", "decided_by": "Ada"})

    with Sandbox(FAILS, speed=2000) as sandbox:
        error, _ = await ended(sandbox, try_them)
    assert isinstance(error, GateFailed)


async def test_an_approval_stands_for_the_same_evidence_on_a_retry_and_new_evidence_voids_it() -> None:
    with Sandbox(FAILS, speed=2000) as sandbox:
        report, _ = await ended(sandbox, resume(APPROVE), retries=1)
        assert report.approved
        assert counted(sandbox) == (1, 0)
    for change in (
        {"verdict": Verdict.INCONCLUSIVE},
        {"tests": report.tests[:1]},
        {"policy": GatePolicy(max_failed=1)},
    ):
        assert not report.model_copy(update=change).approved
    later = {"ended_at": None, "judged_on": None, "label": "again", "plan_name": "x"}
    assert report.model_copy(update=later).approved, "what is no evidence voids nothing"


async def test_a_no_is_asked_again_on_a_retry() -> None:
    with Sandbox(FAILS, speed=2000) as sandbox:
        no = resume({"decision": "reject", "reason": "Later.", "decided_by": "Ada"})
        report, run_id = await ended(sandbox, no, resume(APPROVE), retries=1, raise_unless_passed=False)
        assert report.approved
        assert len(await aread_ledger(run_id)) == 1


async def test_nobody_is_asked_about_a_pass_or_unless_told() -> None:
    with Sandbox(one_plan(cases("passed")), speed=2000) as sandbox:
        report, _ = await ended(sandbox)
        assert report.passed
        assert report.decision is None
    with Sandbox(FAILS, speed=2000) as sandbox:
        error, _ = await ended(sandbox, on_failed="stop")
    assert isinstance(error, GateFailed)
    assert error.report.decision is None


async def test_the_time_for_a_decision_makes_sense(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    for seconds in (0, -1, float("nan"), float("inf"), 1e9):
        with pytest.raises(InvalidInputError, match="decision_timeout_seconds"):
            await arelease_gate.fn(credentials, "pln_green", decision_timeout_seconds=seconds)
    assert posts(sandbox) == []

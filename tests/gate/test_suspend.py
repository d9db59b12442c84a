"""A gate that suspends frees its process, wakes when there is something to do, and starts nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Crashed, Scheduled

from flows.check import check_release
from flows.watcher import watch
from prefect_qatech import (
    GatePolicy,
    QATechCredentials,
    QATechPolling,
    QATechReleaseCheckRequest,
    QATechRun,
    arelease_gate,
    release_gate,
)
from prefect_qatech.exceptions import UnauthorizedError
from prefect_qatech.gate import suspend
from prefect_qatech.gate.suspend import Note
from prefect_qatech.gate.watcher import awake_suspended_gates, needs_poll, why_wake
from prefect_qatech.report.exceptions import GateInconclusive
from prefect_qatech.sandbox import Sandbox
from tests.gate.conftest import set_clock
from tests.support import cases, counted, credentials_for, one_plan, posts, rows_of

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
ENDED = QATechRun(run_short_id="abc123", status="COMPLETED", result="PASSED")
GOES_ON = QATechRun(run_short_id="abc123", status="RUNNING")
POLLING = QATechPolling(first_seconds=0.01, max_seconds=0.1)
APPROVE = {"decision": "approve", "reason": "Known.", "decided_by": "Ada"}


def note(**fields: Any) -> Note:
    return Note(**{"what": "run", "until": NOW + timedelta(hours=1), "api": "x", "run_short_id": "abc123", **fields})


@pytest.mark.parametrize(
    ("waits_for", "seconds", "run", "wakes"),
    [
        ("run", 1, None, False),
        ("run", 1, GOES_ON, False),
        ("run", 1, ENDED, True),
        ("run", 0, None, True),
        ("run", 0, GOES_ON, True),
        ("run", -1, None, True),
        ("release check", 1, GOES_ON, False),
        ("release check", 1, ENDED, True),
        ("release check", 0, None, True),
        ("decision", 1, None, False),
        ("decision", 1, ENDED, False),
        ("decision", 0, None, True),
    ],
)
def test_who_is_woken(waits_for: str, seconds: float, run: QATechRun | None, wakes: bool) -> None:
    waiting = note(what=waits_for, until=NOW + timedelta(seconds=seconds))
    assert (why_wake(waiting, NOW, run) is not None) == wakes


def test_who_is_looked_at() -> None:
    assert needs_poll(note(), NOW, "x")
    assert needs_poll(note(what="release check"), NOW, "x")
    assert not needs_poll(note(), NOW, "y"), "a run at another address"
    assert not needs_poll(note(what="decision"), NOW, "x")
    assert not needs_poll(note(until=NOW), NOW, "x"), "woken without a poll"


class Deployed:
    """A flow run of a deployment, whose processes are calls in this one."""

    def __init__(self, flow: Any, flow_run_id: UUID, parameters: Mapping[str, Any]) -> None:
        self.flow, self.id, self.parameters = flow, flow_run_id, dict(parameters)

    @classmethod
    async def of(cls, flow: Any, **parameters: Any) -> Deployed:
        async with get_client() as client:
            deployment = await client.create_deployment(await client.create_flow(flow), f"d-{uuid4().hex}")
            flow_run = await client.create_flow_run_from_deployment(deployment)
        return cls(flow, flow_run.id, parameters)

    async def read(self) -> FlowRun:
        async with get_client() as client:
            return await client.read_flow_run(self.id)

    async def state(self) -> str:
        state = (await self.read()).state
        assert state is not None
        return state.name or ""

    async def execute(self) -> Any:
        """What a worker's process does."""
        flow_run = await self.read()
        done = run_flow(self.flow, flow_run=flow_run, parameters=self.parameters)
        return await done if self.flow.isasync else done

    async def suspends(self) -> None:
        with pytest.raises(Pause):
            await self.execute()
        assert await self.state() == "Suspended"

    async def set_state(self, state: Any) -> None:
        async with get_client() as client:
            await client.set_flow_run_state(self.id, state, force=True)

    async def answer(self, answer: Mapping[str, Any]) -> None:
        async with get_client() as client:
            await client.resume_flow_run(self.id, run_input=dict(answer))


async def a_gate(sandbox: Sandbox, scenario: str = "pln_one", **more: Any) -> Deployed:
    arguments: dict[str, Any] = {"request": scenario, "polling": POLLING, "waiting": "suspend", **more}
    return await Deployed.of(arelease_gate, credentials=credentials_for(sandbox), **arguments)


async def woken(credentials: QATechCredentials, *gates: Deployed) -> list[Deployed]:
    """Which of these gates a round of the watcher wakes."""
    found = await awake_suspended_gates(credentials)
    return [gate for gate in gates if gate.id in found]


async def late_gate(sandbox: Sandbox) -> Deployed:
    """A suspended gate whose deadline passes soon; on a busy machine it takes longer until it is suspended."""
    for seconds in (1, 4, 16):
        gate = await a_gate(sandbox, policy=GatePolicy(deadline_seconds=seconds))
        with contextlib.suppress(GateInconclusive):
            await gate.suspends()
            return gate
    raise AssertionError("The deadline passed each time before the gate was suspended.")


pytestmark = pytest.mark.usefixtures("prefect_server")
PASSES = one_plan(cases("passed", "passed"))


async def test_a_gate_suspends_wakes_and_passes_with_one_start() -> None:
    with Sandbox(PASSES, speed=0) as sandbox:
        gate = await a_gate(sandbox)
        await gate.suspends()
        assert (await gate.read()).name == "pln_one · waits for QA.tech"
        assert await woken(credentials_for(sandbox), gate) == []
        assert "token" not in "".join((await rows_of(gate.id)).values())
        # It ends before the next look: no event tells of it.
        sandbox.advance(10_000)
        assert await woken(credentials_for(sandbox), gate) == [gate]
        assert await woken(credentials_for(sandbox), gate) == [], "a second watcher finds nothing to do"
        assert (await gate.read()).name == "pln_one"
        report = await gate.execute()
        assert report.verdict.value == "pass"
        assert report.attempts[0].duration_seconds is not None, "the watcher has seen it end"
        assert counted(sandbox) == (1, 0)


async def test_the_deployed_check_is_the_gate_itself() -> None:
    with Sandbox(PASSES, speed=0) as sandbox:
        reach = {"credentials": credentials_for(sandbox), "polling": POLLING, "waiting": "suspend"}
        gate = await Deployed.of(check_release, test_plan_short_id="pln_one", **reach)
        await gate.suspends()
        sandbox.advance(10_000)
        assert await watch(credentials_for(sandbox), for_seconds=0) >= 1
        assert (await gate.execute()).passed
        assert counted(sandbox) == (1, 0)


async def test_a_rerun_suspends_again_and_a_wake_up_too_many_does_no_harm() -> None:
    with Sandbox(one_plan(cases("passed", ["failed", "passed"])), speed=0) as sandbox:
        gate = await a_gate(sandbox)
        await gate.suspends()
        await gate.answer({})
        await gate.suspends()
        for _ in range(2):
            sandbox.advance(10_000)
            assert await woken(credentials_for(sandbox), gate) == [gate]
            if counted(sandbox) == (1, 0):
                await gate.suspends()
        assert (await gate.execute()).verdict.value == "pass"
        assert counted(sandbox) == (1, 1)


async def test_a_gate_sleeps_also_while_its_release_check_goes_on() -> None:
    review = {"duration_seconds": 50_000, "findings": [{"title": "Nobody can pay", "is_blocker": True}]}
    with Sandbox({**PASSES, "release_checks": [review]}, speed=0) as sandbox:
        request = QATechReleaseCheckRequest(pr_url="https://example.com/pr/7")
        gate = await a_gate(sandbox, release_check=request, raise_unless_passed=False)
        await gate.suspends()
        sandbox.advance(10_000)
        assert await woken(credentials_for(sandbox), gate) == [gate], "its run has ended"
        await gate.suspends()
        assert await woken(credentials_for(sandbox), gate) == [], "its release check goes on"
        looks = {"method": "GET", "path": "release_check"}
        sandbox.set_faults([{"on": looks, "kind": "status", "status": 503}])
        await gate.answer({})
        await gate.suspends()
        sandbox.advance(50_000)
        assert await woken(credentials_for(sandbox), gate) == [gate]
        report = await gate.execute()
        assert report.verdict.value == "inconclusive"
        assert report.release_check.blocker_count == 1
        ends = [key for key in await rows_of(gate.id) if "-finished-" in key]
        assert len(ends) == 1, "that of the run: a release check may have the same id"
        assert [post["path"] for post in posts(sandbox)] == ["/v1/run", "/v1/release-checks"]


async def test_the_deadline_comes_while_it_is_suspended() -> None:
    with Sandbox(PASSES, speed=0) as sandbox:
        gate = await late_gate(sandbox)
        elsewhere = QATechCredentials(api_token="x", api_url="http://127.0.0.1:9")
        while not await woken(elsewhere, gate):
            assert await gate.state() == "Suspended"
        with pytest.raises(GateInconclusive) as told:
            await gate.execute()
        report = told.value.report
        assert report.verdict.value == "inconclusive"
        assert "deadline" in " ".join(reason.sentence for reason in report.reasons)
        [after] = re.findall(r"(\d+) s after its start", " ".join(report.notes))
        assert int(after) >= 1, "as long as it was suspended, and not as the last process has waited"
        assert counted(sandbox) == (1, 0)


async def test_a_cancelled_gate_stays_cancelled_and_keeps_its_record() -> None:
    with Sandbox(PASSES, speed=0) as sandbox:
        gate = await a_gate(sandbox)
        await gate.suspends()
        await gate.set_state(Cancelled())
        sandbox.advance(10_000)
        assert await woken(credentials_for(sandbox), gate) == []
        assert await gate.state() == "Cancelled"
        assert [key for key in await rows_of(gate.id) if key.endswith(("-waiting", "-done"))]


async def test_a_kill_between_note_and_suspension_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    async def killed(**_: Any) -> None:
        raise Killed

    with Sandbox(PASSES, speed=0) as sandbox:
        gate = await a_gate(sandbox)
        with monkeypatch.context() as patch:
            patch.setattr(suspend, "asuspend_flow_run", killed)
            with pytest.raises(Killed):
                await gate.execute()
        await gate.set_state(Crashed())
        assert await woken(credentials_for(sandbox), gate) == []
        await gate.set_state(Scheduled())
        await gate.suspends()
        sandbox.advance(10_000)
        assert await woken(credentials_for(sandbox), gate) == [gate]
        assert (await gate.execute()).passed
        assert counted(sandbox) == (1, 0)


async def asked(sandbox: Sandbox, **more: Any) -> Deployed:
    gate = await a_gate(sandbox, policy=GatePolicy(max_reruns=0), on_failed="ask", raise_unless_passed=False, **more)
    await gate.suspends()
    sandbox.advance(10_000)
    assert await woken(credentials_for(sandbox), gate) == [gate]
    await gate.suspends()
    return gate


async def asked_too_long_ago(sandbox: Sandbox) -> Deployed:
    gate = await asked(sandbox, decision_timeout_seconds=0.1)
    await asyncio.sleep(0.2)
    return gate


FAILS = one_plan(cases("passed", "failed"))


async def test_an_approval_wakes_a_suspended_question() -> None:
    with Sandbox(FAILS, speed=0) as sandbox:
        gate = await asked(sandbox)
        assert (await gate.read()).name == "pln_one · waits for a person"
        assert await woken(credentials_for(sandbox), gate) == [], "there is time left"
        await gate.answer(APPROVE)
        report = await gate.execute()
        assert (report.verdict.value, report.approved, report.decision.decided_by) == ("fail", True, "Ada")
        assert counted(sandbox) == (1, 0)


async def test_a_question_that_nobody_answers_is_a_no() -> None:
    with Sandbox(FAILS, speed=0) as sandbox:
        gate = await asked_too_long_ago(sandbox)
        assert await woken(credentials_for(sandbox), gate) == [gate]
        report = await gate.execute()
        assert not report.approved
        assert report.decision.reason == "Nobody answered in time."


async def test_the_name_of_a_flow_run_says_what_it_waits_for_until_it_wakes() -> None:
    """Also a name that Prefect has made up, and where a person, not the watcher, has it go on."""
    policy = GatePolicy(max_reruns=0)
    how: dict[str, Any] = {"polling": POLLING, "waiting": "suspend", "on_failed": "ask", "policy": policy}
    with Sandbox(FAILS, speed=0) as sandbox:
        given = credentials_for(sandbox)

        @flow
        def own() -> bool:
            return release_gate.fn(given, "pln_one", **how).approved

        gate = await Deployed.of(own)
        name = (await gate.read()).name
        names = []
        for answer in ({}, APPROVE):
            await gate.suspends()
            names.append((await gate.read()).name)
            sandbox.advance(10_000)
            await gate.answer(answer)
        assert await gate.execute()
        assert [*names, (await gate.read()).name] == [
            f"{name} · waits for QA.tech",
            f"{name} · waits for a person",
            name,
        ]


async def test_a_gate_that_cannot_be_renamed_suspends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    update_anything_else = PrefectClient.update_flow_run

    async def update(*args: Any, **fields: Any) -> Any:
        if "name" not in fields:
            return await update_anything_else(*args, **fields)
        tried.append(fields["name"])
        if len(tried) > 1:
            await asyncio.Event().wait()
        raise RuntimeError("no")

    tried: list[str] = []
    monkeypatch.setattr(suspend, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(PrefectClient, "update_flow_run", update)
    with Sandbox(FAILS, speed=0) as sandbox:
        gate = await asked(sandbox)
        await gate.answer(APPROVE)
        assert (await gate.execute()).approved
    assert tried == ["pln_one · waits for QA.tech", "pln_one · waits for a person"], "one is refused, one hangs"


async def test_an_approval_that_comes_too_late_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_qatech.gate.approval.LOOK_SECONDS", 0)
    with Sandbox(FAILS, speed=0) as sandbox:
        gate = await asked_too_long_ago(sandbox)
        await gate.answer(APPROVE)
        report = await gate.execute()
        assert not report.approved
        assert report.decision.reason == "The approval came too late."


@pytest.mark.parametrize("hours", [-3, 3])
async def test_the_time_to_answer_is_that_of_prefects_server_whatever_the_clocks_of_workers_say(
    monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    monkeypatch.setattr("prefect_qatech.gate.approval.LOOK_SECONDS", 0)
    with Sandbox(FAILS, speed=0) as sandbox:
        with monkeypatch.context() as patch:
            set_clock(patch, hours)
            in_time, late = await asked(sandbox), await asked(sandbox, decision_timeout_seconds=0.1)
        with monkeypatch.context() as patch:
            set_clock(patch, -hours)
            assert await woken(credentials_for(sandbox), in_time) == [], "there is time left"
        await asyncio.sleep(1.2)
        for gate in (in_time, late):
            await gate.answer(APPROVE)
        assert (await in_time.execute()).approved
        assert not (await late.execute()).approved


async def test_a_question_without_its_form_wakes_as_a_no() -> None:
    with Sandbox(FAILS, speed=0) as sandbox:
        gate = await asked_too_long_ago(sandbox)
        [schema] = [key for key in await rows_of(gate.id) if key.endswith("-schema")]
        async with get_client() as client:
            await client.delete_flow_run_input(gate.id, schema)
        assert await woken(credentials_for(sandbox), gate) == [gate]
        assert not (await gate.execute()).approved


async def test_a_look_that_fails_keeps_no_other_gate_asleep() -> None:
    with Sandbox(PASSES, speed=0) as sandbox, Sandbox(PASSES, speed=0) as stranger:
        lost, gate = await a_gate(sandbox), await a_gate(sandbox)
        await lost.suspends()
        await gate.suspends()
        elsewhere = await a_gate(stranger)
        await elsewhere.suspends()
        sandbox.advance(10_000)
        stranger.advance(10_000)
        sandbox.set_faults([{"on": {"method": "GET", "path": "status"}, "kind": "status", "status": 500, "times": 1}])
        first = await woken(credentials_for(sandbox), lost, gate, elsewhere)
        assert len(first) == 1, "one look failed, and the other gate is woken"
        second = await woken(credentials_for(sandbox), lost, gate, elsewhere)
        assert {found.id for found in first + second} == {lost.id, gate.id}
        assert elsewhere not in first + second


async def test_a_refused_token_is_told_after_the_others_were_woken() -> None:
    with Sandbox(PASSES, speed=0) as sandbox:
        gate, late = await a_gate(sandbox), await late_gate(sandbox)
        await gate.suspends()
        wrong = credentials_for(sandbox, api_token="wrong")
        while await late.state() == "Suspended":
            with pytest.raises(UnauthorizedError):
                await woken(wrong)
        assert await gate.state() == "Suspended"


@pytest.mark.parametrize("where", ["sub-flow", "no deployment"])
async def test_what_cannot_suspend_is_refused_before_anything_is_sent(where: str) -> None:
    with Sandbox(PASSES, speed=2000) as sandbox:
        reach = credentials_for(sandbox)

        @flow
        async def user() -> None:
            await arelease_gate(reach, "pln_one", polling=POLLING, waiting="suspend")

        deployed = await Deployed.of(user)
        alone = arelease_gate.with_options(name="alone")
        call = deployed.execute() if where == "sub-flow" else alone(reach, "pln_one", waiting="suspend")
        with pytest.raises(ValueError, match="Nothing was sent"):
            await call
        assert posts(sandbox) == []

"""The verdict is the state of the gate's flow run; whoever calls the gate gets the report, or the error, as ever."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

import cloudpickle
import httpx
import pytest
from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.server.events.jinja_filters import all_filters
from prefect.server.events.schemas.automations import EventTrigger as ServersTrigger
from prefect.server.utilities.user_templates import register_user_template_filters, render_user_template_sync
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.utilities.hashing import file_hash

import flows.check
import prefect_qatech.gate.flow
from flows.check import check_release
from flows.nightly import nightly
from prefect_qatech import (
    GateFailed,
    GateNotPassed,
    GatePolicy,
    GateReport,
    GatesNotPassed,
    QATechCredentials,
    agather_gates,
    arelease_gate,
    release_gate,
    verdict_as_state,
)
from prefect_qatech.report.headline import state_name
from tests.gate.test_many import plans
from tests.report.campaigns import attempt, report_of
from tests.support import POLLING, Failing

pytestmark = pytest.mark.usefixtures("prefect_server")

NO_RERUN = GatePolicy(max_reruns=0)
FAILED = "1 of 3 tests failed: Pay with a credit card. The release may not go out."


async def stored(state: State[Any]) -> FlowRun:
    """A flow run as the server has it."""
    async with get_client() as client:
        return await client.read_flow_run(state.state_details.flow_run_id)


async def run(version: str, *arguments: Any, **options: Any) -> Any:
    if version == "async":
        return await arelease_gate(*arguments, polling=POLLING, **options)
    return release_gate(*arguments, polling=POLLING, **options)


@pytest.mark.parametrize(
    ("version", "plan", "name", "begins"),
    [
        ("sync", "pln_green", "Passed", "5 of 5 tests passed. Run: http"),
        ("async", "pln_flaky", "Passed, 1 flaky", "Flaky: Apply a voucher. "),
        ("sync", "pln_broken", "Gate failed", FAILED),
        ("async", "pln_error", "Inconclusive", "2 tests neither passed nor failed; this gate allows none. The release"),
    ],
)
async def test_lists_show_the_verdict_and_no_traceback(
    credentials: QATechCredentials,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    version: str,
    plan: str,
    name: str,
    begins: str,
) -> None:
    policy = GatePolicy(max_reruns=int(plan == "pln_flaky"))
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
        state = await run(version, credentials, plan, policy=policy, return_state=True)
        seen = (await stored(state)).state
        assert seen is not None
        if seen.is_failed():  # other processes read the error with its report
            error = await seen.aresult(raise_on_failure=False)
            assert isinstance(error, GateNotPassed)
            assert error.report.tests[0].name
    assert (seen.name, seen.type.value) == (name, "COMPLETED" if name.startswith("Passed") else "FAILED")
    assert seen.message is not None
    assert seen.message.startswith(begins)
    assert "exception" not in seen.message
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    red = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert [message for message in red if not message.startswith("Finished in state")] == [], "that line is Prefect's"


async def test_the_caller_gets_the_report_or_the_error(credentials: QATechCredentials) -> None:
    seen: list[str] = []

    @flow
    async def user() -> None:
        for version in ("sync", "async"):
            with pytest.raises(GateFailed) as caught:
                await run(version, credentials, "pln_broken", policy=NO_RERUN)
            assert caught.value.report.verdict == "fail"
            seen.append(caught.value.report.flow_run_id or "")
        assert isinstance(await run("sync", credentials, "pln_green"), GateReport)

    await user()
    async with get_client() as client:
        gates = [await client.read_flow_run(gate) for gate in seen]
    assert [(gate.state_name, gate.parent_task_run_id is None) for gate in gates] == [("Gate failed", False)] * 2


async def test_whatever_is_no_pass_is_told_where_nothing_is_raised(credentials: QATechCredentials) -> None:
    state = await run("async", credentials, "pln_broken", policy=NO_RERUN, raise_unless_passed=False, return_state=True)
    assert (state.type.value, state.name, state.message[: len(FAILED)]) == ("COMPLETED", "Gate failed", FAILED)
    assert isinstance(await state.aresult(), GateReport)


async def test_the_bare_function_gives_no_state_to_anybody_but_the_engine(credentials: QATechCredentials) -> None:
    """A failed state is no error: a flow that goes on after it would release."""
    arguments: dict[str, Any] = {"credentials": credentials, "policy": NO_RERUN, "polling": POLLING}

    @flow
    async def user() -> str:
        assert isinstance(await arelease_gate.fn(request="pln_green", **arguments), GateReport)
        assert isinstance(release_gate.fn(request="pln_green", **arguments), GateReport)
        with pytest.raises(GateFailed):
            await arelease_gate.fn(request="pln_broken", **arguments)
        with pytest.raises(GateFailed):
            release_gate.fn(request="pln_broken", **arguments)
        return "went on"

    @verdict_as_state
    @flow
    async def gate(again: bool) -> Any:
        if again:
            with pytest.raises(GateFailed):
                await gate.fn(False)
            return "went on"
        return await arelease_gate.fn(request="pln_broken", **arguments)

    @verdict_as_state
    @flow
    def sync_gate(again: bool) -> Any:
        if again:
            with pytest.raises(GateFailed):
                sync_gate.fn(False)
            return "went on"
        return release_gate.fn(request="pln_broken", **arguments)

    assert [await user(), await gate(True), sync_gate(True)] == ["went on"] * 3
    state: State[Any] = await gate(False, return_state=True)
    assert state.name == "Gate failed"


async def test_the_flow_runs_that_people_open_show_it(credentials: QATechCredentials) -> None:
    """In the shipped flows the gate is the flow run itself."""
    state = check_release(credentials, "pln_broken", policy=NO_RERUN, polling=POLLING, return_state=True)
    assert (state.name, state.type.value) == ("Gate failed", "FAILED")
    with pytest.raises(GateFailed):
        await state.aresult()
    night = await nightly(credentials, ["pln_green", "pln_flaky"], polling=POLLING, return_state=True)
    assert (night.name, night.message) == ("Passed, 1 flaky", "PASS: the release may go out. 2 of 2 gates passed.")
    night = await nightly(credentials, ["pln_green", "pln_broken"], policy=NO_RERUN, polling=POLLING, return_state=True)
    assert (night.name, night.type.value) == ("Gates failed", "FAILED")
    assert night.message.startswith("FAIL: do not release. 1 of 2 gates passed. pln_broken: fail")


async def test_many_gates(credentials: QATechCredentials) -> None:
    with pytest.raises(GatesNotPassed):
        await agather_gates(credentials, plans("pln_broken"), policy=NO_RERUN, polling=POLLING)
    state = await agather_gates(credentials, plans("pln_error"), policy=NO_RERUN, polling=POLLING, return_state=True)
    assert (state.name, state.type.value) == ("Inconclusive", "FAILED")


async def test_results_that_are_stored_are_read_back(credentials: QATechCredentials, tmp_path: Path) -> None:
    gate = arelease_gate.with_options(persist_result=True)
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
        state = await gate(credentials, "pln_flaky", polling=POLLING, return_state=True)
        seen = (await stored(state)).state
        assert seen is not None
        report = await seen.aresult()
    assert isinstance(report, GateReport)
    assert seen.name == "Passed, 1 flaky"


@pytest.fixture
def lost_answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prefect's clients send the end of each flow run again, as they do when the first answer was lost on its way."""
    sent: list[str] = []

    def is_end(request: httpx.Request) -> bool:
        if not re.search(r"/flow_runs/[^/]+/set_state$", request.url.path):
            return False
        state = json.loads(request.content)["state"]
        if state["type"] not in ("COMPLETED", "FAILED"):
            return False
        sent.append(state["name"])
        return True

    send, asend = httpx.Client.send, httpx.AsyncClient.send

    def twice(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        if is_end(request):
            send(self, request, **options)
        return send(self, request, **options)

    async def twice_async(self: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        if is_end(request):
            await asend(self, request, **options)
        return await asend(self, request, **options)

    monkeypatch.setattr(httpx.Client, "send", twice)
    monkeypatch.setattr(httpx.AsyncClient, "send", twice_async)
    return sent


async def test_a_lost_answer_of_prefects_loses_no_verdict(
    credentials: QATechCredentials, lost_answers: list[str]
) -> None:
    """Prefect's server refuses an end that it has already, and its own copy of the state has no report in it."""
    assert (await run("sync", credentials, "pln_green")).passed
    with pytest.raises(GateFailed) as caught:
        await run("sync", credentials, "pln_broken", policy=NO_RERUN)
    assert caught.value.report.verdict == "fail"
    both = await agather_gates(
        credentials, plans("pln_green", "pln_broken"), policy=NO_RERUN, polling=POLLING, raise_unless_passed=False
    )
    assert [both.reports[name].verdict for name in ("green", "broken")] == ["pass", "fail"]
    assert lost_answers[:2] == ["Passed", "Gate failed"]
    assert sorted(lost_answers[2:4]) == ["Gate failed", "Passed"], "these are async"


async def test_prefects_own_retries_go_on(credentials: QATechCredentials) -> None:
    gate = arelease_gate.with_options(retries=1, retry_delay_seconds=0)
    state = await gate(credentials, "pln_broken", policy=NO_RERUN, polling=POLLING, return_state=True)
    assert (await stored(state)).run_count == 2
    step = Failing()

    @verdict_as_state
    @flow(retries=1)
    async def user() -> GateReport:
        step()
        return await arelease_gate.fn(credentials, "pln_green", polling=POLLING)

    assert (await user()).passed, "not the error of the attempt before"


def test_the_decorator_stands_above_flow() -> None:
    with pytest.raises(TypeError, match="above @flow"):
        verdict_as_state(lambda: None)  # type: ignore[type-var]


def test_a_flow_that_is_pickled_by_value_works(credentials: QATechCredentials) -> None:
    """So does `.serve()` with the flows of the program that calls it."""
    cloudpickle.register_pickle_by_value(flows.check)
    try:
        read: Any = cloudpickle.loads(cloudpickle.dumps(check_release))
    finally:
        cloudpickle.unregister_pickle_by_value(flows.check)
    assert read.fn is not check_release.fn
    state = read(credentials, "pln_broken", policy=NO_RERUN, polling=POLLING, return_state=True)
    assert state.name == "Gate failed"
    with pytest.raises(GateFailed):
        read.fn(credentials, "pln_broken", policy=NO_RERUN, polling=POLLING)


def test_both_versions_of_a_gate_are_known_by_the_version_of_its_own_module() -> None:
    """Prefect shows it with each flow run: another version is another gate."""
    own = file_hash(prefect_qatech.gate.flow.__file__)
    assert [release_gate.version, arelease_gate.version] == [own, own]


@pytest.fixture
def automations() -> ModuleType:
    path = Path(__file__).parents[2] / "deployments" / "automations.py"
    spec = importlib.util.spec_from_file_location("automations", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_message_of_a_gate_calls_nobody_and_hides_no_link(automations: ModuleType) -> None:
    """Names of tests, and what a service answers, are text of others, and Slack takes `<!channel>` for a command."""
    hostile = "<!channel> <@U123> <https://evil.example.com|here> @everyone"
    payload = {"failed_tests": [hostile, "Pay"], "new_and_known": hostile, "error": hostile, "reasons": ["1 failed."]}
    register_user_template_filters(all_filters)
    message = render_user_template_sync(automations.BODY, {"event": SimpleNamespace(payload=payload), "flow_run": None})
    assert "Failed: ＜!channel＞ ＜＠U123＞ ＜https://evil.example.com|here＞ ＠everyone, Pay\n" in message
    assert not set("<>@") & set(message)


def test_a_gate_that_has_ended_needs_no_sign_of_life(automations: ModuleType) -> None:
    """Prefect's events have the names of states; of one that nobody expects, a gate would be marked as crashed."""
    wanted = automations.without_heartbeat(540, SimpleNamespace(id=uuid4()))
    trigger = ServersTrigger.model_validate(wanted.model_dump(mode="json"))
    flaky = attempt(0, {"Login": "F", "Pay": "P"}), attempt(1, {"Login": "P"})
    reports = [
        report_of(attempt(0, {"Login": "P"})),
        report_of(*flaky),
        report_of(flaky[0], policy=GatePolicy(max_failed=1)),
        report_of(flaky[0]),
        report_of(attempt(0, {"Login": "C"}, status="CANCELLED")),
    ]
    names = [state_name(report) for report in reports]
    assert names == ["Passed", "Passed, 1 flaky", "Passed under a relaxed policy", "Gate failed", "Inconclusive"]
    for name in (*names, "Gate failed, rejected", "Approved", "Completed"):
        assert trigger.expects(f"prefect.flow-run.{name}"), name
    assert not trigger.expects("prefect.flow-run.Pending")

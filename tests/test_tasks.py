"""The tasks in real flows, against the sandbox, which counts what it was asked."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from prefect import Task, flow, task, unmapped
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    PREFECT_TASKS_DEFAULT_RETRIES,
    PREFECT_TASKS_DEFAULT_RETRY_DELAY_SECONDS,
    PREFECT_TASKS_DISABLE_CACHING,
    PREFECT_TASKS_REFRESH_CACHE,
    temporary_settings,
)

from prefect_qatech import (
    BadRequestError,
    ForbiddenError,
    InvalidInputError,
    InvalidResponseError,
    LedgerConflict,
    NotFoundError,
    NothingToRerunError,
    QATechAPIError,
    QATechCredentials,
    QATechNotification,
    QATechParameters,
    QATechPolling,
    QATechRun,
    QATechRunRecord,
    QATechRunRequest,
    RateLimitedError,
    StartOutcomeUnknown,
    UnauthorizedError,
    UsageLimitError,
    WaitTimedOut,
    aattach_run,
    aget_test_run,
    apublish_gate_report,
    aread_ledger,
    arerun_test_run,
    astart_test_run,
    await_for_test_run,
    gather_gates,
    get_test_run,
    publish_gate_report,
    release_gate,
    rerun_test_run,
    start_test_run,
    task_options,
    tasks,
    wait_for_test_run,
    waits,
)
from prefect_qatech.report import artifacts
from prefect_qatech.report.plan_durations import PlanHistory
from prefect_qatech.sandbox import Sandbox
from tests.support import (
    UNKNOWN_FAULTS,
    Failing,
    StepFailed,
    a_report,
    artifacts_of,
    counted,
    credentials_for,
    fault,
    flow_run_id,
    looks,
    posts,
    rows_of,
    time_goes_on,
    when_it_is_over,
)
from tests.wire import accepted

pytestmark = pytest.mark.usefixtures("prefect_server")

PLANS = ["pln_broken", "pln_green"]
EVERYTHING_OFF: Mapping[Any, Any] = {
    PREFECT_TASKS_DISABLE_CACHING: True,
    PREFECT_TASKS_REFRESH_CACHE: True,
}


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the tasks would have slept between attempts; they sleep nothing."""
    sleeps: list[float] = []

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)

    monkeypatch.setattr(task_options, "RETRY_DELAYS_SECONDS", [0.0])
    monkeypatch.setattr(task_options, "sleep_unless_stopped", sleep)
    return sleeps


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The events: name and everything else."""
    events: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr("prefect_qatech.report.events.emit_event", lambda event, **more: events.append((event, more)))
    return events


# --- every task and version, everywhere


def _use_sync(how: str, work: Any, constant: Mapping[str, Any], each: Mapping[str, list[Any]]) -> list[Any]:
    """Call, submit or map a sync task, or submit or map an async one; from any flow."""
    if how == "mapped":
        return [*work.map(**each, **{name: unmapped(value) for name, value in constant.items()}).result()]
    calls = [dict(zip(each, values, strict=True)) for values in zip(*each.values(), strict=True)]
    if how == "submitted":
        futures = [work.submit(**constant, **arguments) for arguments in calls]
        return [future.result() for future in futures]
    return [work(**constant, **arguments) for arguments in calls]


async def _use(how: str, work: Any, constant: Mapping[str, Any], each: Mapping[str, list[Any]]) -> list[Any]:
    """Use a sync or an async task in an async flow."""
    found = _use_sync(how, work, constant, each)
    return [await one for one in found] if work in ASYNC_TASKS.values() and how == "called" else found


SYNC_TASKS: dict[str, Any] = {
    "start": start_test_run,
    "wait": wait_for_test_run,
    "get": get_test_run,
    "rerun": rerun_test_run,
    "publish": publish_gate_report,
}
ASYNC_TASKS: dict[str, Any] = {
    "start": astart_test_run,
    "wait": await_for_test_run,
    "get": aget_test_run,
    "rerun": arerun_test_run,
    "publish": apublish_gate_report,
}


Way = tuple[list[QATechRun], list[QATechRun], list[QATechRunRecord]]


def _check(sandbox: Sandbox, ways: list[Way]) -> None:
    assert ways
    for runs, looked, _ in ways:
        assert [run.result for run in runs] == ["FAILED", "PASSED"]
        assert [len(run.test_cases) for run in looked] == [2, 0]
    assert len({record.run_short_id for _, _, reruns in ways for record in reruns}) == 2 * len(ways)
    assert counted(sandbox) == (2 * len(ways), 2 * len(ways))
    starts = sandbox.counts()["starts_by_plan"]
    assert starts["pln_broken"] == starts["pln_green"] == len(ways)
    assert sandbox.counts()["reruns_everything"] == 2 * len(ways)


def test_every_task_works_from_a_sync_flow(
    sandbox: Sandbox, credentials: QATechCredentials, polling: QATechPolling
) -> None:
    creds = {"credentials": credentials}
    ways: list[Way] = []

    @flow
    def user() -> None:
        # Nobody can await in a sync flow.
        for use, how in ((SYNC_TASKS, "called"), (SYNC_TASKS, "submitted"), (ASYNC_TASKS, "mapped")):
            started = _use_sync(how, use["start"], creds, {"request": PLANS})
            ids = {"run": started}
            runs = _use_sync(how, use["wait"], {**creds, "timeout_seconds": 30.0, "polling": polling}, ids)
            looked = _use_sync(how, use["get"], {**creds, "test_cases": "failed"}, ids)
            reruns = _use_sync(how, use["rerun"], creds, ids)
            _use_sync(how, use["publish"], {"artifact_key": None}, {"report": [a_report()]})
            ways.append((runs, looked, reruns))

    user()
    _check(sandbox, ways)


async def test_every_task_works_from_an_async_flow(
    sandbox: Sandbox, credentials: QATechCredentials, polling: QATechPolling
) -> None:
    creds = {"credentials": credentials}
    ways: list[Way] = []

    @flow
    async def user() -> None:
        for use, how in (
            (SYNC_TASKS, "called"),
            (SYNC_TASKS, "mapped"),
            (ASYNC_TASKS, "called"),
            (ASYNC_TASKS, "submitted"),
        ):
            started = await _use(how, use["start"], creds, {"request": PLANS})
            ids = {"run": started}
            runs = await _use(how, use["wait"], {**creds, "timeout_seconds": 30.0, "polling": polling}, ids)
            looked = await _use(how, use["get"], {**creds, "test_cases": "failed"}, ids)
            reruns = await _use(how, use["rerun"], creds, ids)
            await _use(how, use["publish"], {"artifact_key": None}, {"report": [a_report()]})
            ways.append((runs, looked, reruns))

    await user()
    _check(sandbox, ways)


# --- a retry of the flow run


@pytest.mark.parametrize(
    ("settings", "version"),
    [
        pytest.param({}, "sync", id="as it comes"),
        pytest.param(EVERYTHING_OFF, "async", id="caching off, refreshed"),
        pytest.param({PREFECT_RESULTS_PERSIST_BY_DEFAULT: True}, "async", id="results persisted"),
    ],
)
async def test_a_retry_of_the_flow_starts_nothing_again(
    sandbox: Sandbox, credentials: QATechCredentials, settings: Mapping[Any, Any], version: str
) -> None:
    step = Failing()
    seen: list[tuple[str, str]] = []

    @flow(retries=1)
    def sync_user() -> None:
        started = start_test_run(credentials, "pln_broken")
        again = rerun_test_run(credentials, started, failed_only=False)
        seen.append((started.run_short_id, again.run_short_id))
        step()

    @flow(retries=1)
    async def async_user() -> None:
        started = await astart_test_run(credentials, "pln_broken")
        again = await arerun_test_run(credentials, started, failed_only=False)
        seen.append((started.run_short_id, again.run_short_id))
        step()

    with temporary_settings(settings):
        if version == "sync":
            sync_user()
        else:
            await async_user()
    assert step.calls == 2
    assert len({*seen}) == 1
    assert counted(sandbox) == (1, 1)


async def test_equal_calls_are_as_many_runs_after_each_other_or_side_by_side_and_stay_them(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    step = Failing()
    seen: list[list[QATechRunRecord]] = []

    @flow(retries=1)
    async def user() -> None:
        records = [await astart_test_run(credentials, "pln_green") for _ in range(2)]
        futures = [astart_test_run.submit(credentials, "pln_green") for _ in range(4)]
        seen.append([*records, *(future.result() for future in futures)])
        step()
        # The first attempt did not come so far.
        seen.append([await astart_test_run(credentials, "pln_green")])

    await user()
    first, again, new = ([record.run_short_id for record in records] for records in seen)
    assert first[:2] == again[:2]
    assert {*first} == {*again}
    assert len({*first, *new}) == 7
    assert [{record.is_resumed for record in records} for records in seen] == [{False}, {True}, {False}]
    assert counted(sandbox) == (7, 0)


async def test_a_label_is_one_run_wherever_it_is_used(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    step = Failing()
    seen: list[str] = []

    @flow
    async def sub() -> None:
        seen.append((await astart_test_run(credentials, "pln_green", label="smoke")).run_short_id)

    @flow(retries=1)
    async def user() -> None:
        if step.left:
            await sub()
        for _ in range(2):
            seen.append((await astart_test_run(credentials, "pln_green", label="smoke")).run_short_id)
        step()

    await user()
    assert len(seen) == 5
    assert len({*seen}) == 1
    assert counted(sandbox) == (1, 0)


async def test_a_label_with_other_inputs_or_of_a_rerun_of_another_run_is_a_conflict(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    @flow
    async def user() -> None:
        one = await astart_test_run(credentials, "pln_broken", label="smoke")
        with pytest.raises(LedgerConflict, match="smoke"):
            await astart_test_run(credentials, "pln_flaky", label="smoke")
        assert counted(sandbox) == (1, 0)
        two = await astart_test_run(credentials, "pln_flaky")
        await arerun_test_run(credentials, one, label="again")
        with pytest.raises(LedgerConflict, match="again"):
            await arerun_test_run(credentials, two, label="again")

    await user()
    assert len(posts(sandbox)) == 3


@pytest.mark.parametrize("retried", ["parent", "sub-flow"])
async def test_a_start_in_a_sub_flow_is_found_whoever_is_retried(
    sandbox: Sandbox, credentials: QATechCredentials, retried: str
) -> None:
    step = Failing()
    ids: set[UUID] = set()

    @flow(retries=1 if retried == "sub-flow" else 0)
    def sub() -> None:
        ids.add(flow_run_id())
        start_test_run(credentials, "pln_green")
        step()

    @flow(retries=1 if retried == "parent" else 0)
    def parent() -> None:
        sub()

    parent()
    assert len(ids) == (2 if retried == "parent" else 1)
    assert step.calls == 2
    assert counted(sandbox) == (1, 0)


async def test_starts_in_tasks_of_the_users_are_a_run_each_whatever_is_retried(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    """Tasks that are retried themselves, sync and async, and mapped ones; then the flow is retried."""
    steps = {"one": Failing(), "two": Failing(2)}
    step = Failing()
    seen: dict[str, list[str]] = {"one": [], "two": []}
    mapped: list[list[str]] = []

    @task(retries=1, retry_delay_seconds=0)
    async def one() -> None:
        for _ in range(2):
            seen["one"].append((await astart_test_run(credentials, "pln_green", label="one")).run_short_id)
        steps["one"]()

    @task(retries=2, retry_delay_seconds=0)
    def two() -> None:
        seen["two"].append(start_test_run(credentials, "pln_green", label="two").run_short_id)
        steps["two"]()

    @task
    def each(number: int) -> str:
        return start_test_run(credentials, "pln_green", label=f"call {number}").run_short_id

    @flow(retries=1)
    async def user() -> None:
        await one()
        two()
        mapped.append(each.map([1, 2, 3]).result())
        step()

    await user()
    assert counted(sandbox) == (5, 0), "one label is one run"
    assert [len(runs) for runs in seen.values()] == [6, 4]
    assert [len({*runs}) for runs in seen.values()] == [1, 1]
    assert mapped[0] == mapped[1]
    assert len({seen["one"][0], seen["two"][0], *mapped[0]}) == 5


async def test_a_task_of_the_users_that_comes_from_its_cache_lends_its_run_to_no_other(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    step = Failing()
    runs: dict[int, list[str]] = {1: [], 2: []}

    @task(persist_result=True)
    async def mine(number: int) -> None:
        run = await astart_test_run(credentials, "pln_green", label=f"call {number}")
        runs[number].append(run.run_short_id)
        if number == 2:
            step()

    @flow(retries=1)
    async def user() -> None:
        await mine(1)
        await mine(2)

    await user()
    assert [len(found) for found in runs.values()] == [1, 2]
    assert runs[2][0] == runs[2][1] != runs[1][0]
    assert counted(sandbox) == (2, 0)


UNNAMED: dict[str, Callable[[QATechCredentials], Any]] = {
    "called": lambda c: start_test_run(c, "pln_green"),
    "submitted": lambda c: start_test_run.submit(c, "pln_green").result(),
    "mapped": lambda c: start_test_run.map(unmapped(c), ["pln_green", "pln_broken"]).result(),
    "the bare function": lambda c: start_test_run.fn(c, "pln_green"),
    "with a name of its own": lambda c: start_test_run.with_options(name="mine")(c, "pln_green"),
    "a rerun": lambda c: rerun_test_run(c, "abc123"),
    "a gate": lambda c: release_gate(c, "pln_green"),
    "the bare function of a gate": lambda c: release_gate.fn(c, "pln_green"),
    "gates": lambda c: gather_gates(c, {"one": "pln_green"}),
    "in a sub-flow": lambda c: flow(lambda: start_test_run(c, "pln_green"), name="sub")(),
    "submitted in a sub-flow": lambda c: flow(lambda: start_test_run.submit(c, "pln_green").result(), name="sub")(),
}


def test_a_start_without_a_label_inside_a_task_sends_nothing_and_says_so(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    """One flow, with a task for each way to start something."""
    ids: list[UUID] = []

    @task
    def mine(how: str) -> None:
        UNNAMED[how](credentials)

    @flow
    def user() -> None:
        ids.append(flow_run_id())
        for how in UNNAMED:
            with pytest.raises(InvalidInputError, match=r"a task, name this (start|rerun): label=.* Nothing was sent"):
                mine(how)
            assert posts(sandbox) == [], how

    user()
    assert asyncio.run(rows_of(ids[0])) == {}


@pytest.mark.parametrize("label", [None, "one"])
def test_on_a_distributed_task_runner_a_label_is_required(
    sandbox: Sandbox, credentials: QATechCredentials, label: str | None
) -> None:
    @flow
    def user() -> None:
        context = FlowRunContext.get()
        assert context is not None
        with context.model_copy(update={"detached": True}):  # as the processes of Dask and Ray have it
            start_test_run(credentials, "pln_green", label=label)

    if label is None:
        with pytest.raises(InvalidInputError, match="on a distributed task runner, name this start: label="):
            user()
    else:
        user()
    assert counted(sandbox) == (0 if label is None else 1, 0)


def test_what_a_task_returned_is_started_in_the_flow_without_a_label(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    step = Failing()

    @task
    def plan() -> str:
        return "pln_green"

    @flow(retries=1)
    def user() -> None:
        start_test_run(credentials, plan())
        start_test_run.submit(credentials, plan.submit()).result()  # type: ignore[arg-type]
        start_test_run.map(unmapped(credentials), [plan(), plan()]).result()
        step()

    user()
    assert counted(sandbox) == (4, 0)


async def test_a_channel_to_notify_does_not_make_it_another_start(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    step = Failing()
    channels = iter(["C1", "C2"])

    @flow(retries=1)
    async def user() -> None:
        tell = [QATechNotification(channel=next(channels))]
        request = QATechRunRequest(test_plan_short_id="pln_green", notifications=tell)
        await astart_test_run(credentials, request, label="smoke")
        step()

    await user()
    assert counted(sandbox) == (1, 0)


@pytest.mark.parametrize("other", ["service", "project"])
async def test_credentials_that_were_edited_before_a_retry_start_nothing(
    sandbox: Sandbox, credentials: QATechCredentials, other: str
) -> None:
    fields = {"service": {"api_url": "https://api.qa.example"}, "project": {"project_short_id": "other"}}[other]
    step = Failing()

    @flow(retries=1)
    async def user() -> None:
        edited = credentials.model_copy(update=fields if step.calls else {})
        await astart_test_run(edited, "pln_green")
        step()

    with pytest.raises(LedgerConflict, match=f"{next(iter(fields.values()))}.*Nothing was sent") as caught:
        await user()
    assert caught.value.run_short_id == sandbox.runs()[0]["short_id"]
    assert len(posts(sandbox)) == 1


async def test_a_request_that_was_edited_before_a_retry_is_another_run_and_the_log_says_so(
    sandbox: Sandbox, credentials: QATechCredentials, caplog: pytest.LogCaptureFixture
) -> None:
    step = Failing()

    @flow(retries=1)
    async def user() -> None:
        await astart_test_run(credentials, "pln_flaky" if step.calls else "pln_green")
        step()

    await user()
    assert counted(sandbox) == (2, 0)
    [first, _] = sandbox.runs()
    assert any("left behind" in line and first["short_id"] in line for line in caplog.messages)


async def test_a_run_of_another_plan_is_on_record_and_no_retry_takes_it_or_starts_another(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    answer = accepted("other1", testPlan={"name": "Green", "shortId": "pln_green"})
    sandbox.set_faults(fault({"kind": "status", "status": 200, "body": json.dumps(answer), "accepted": True}, "start"))
    ids: set[UUID] = set()

    @flow(retries=1)
    async def user() -> None:
        ids.add(flow_run_id())
        await astart_test_run(credentials, "pln_broken")

    with pytest.raises(StartOutcomeUnknown, match=r"other1 .*pln_green") as caught:
        await user()
    [entry] = await aread_ledger(ids.pop())
    assert entry.run is not None
    assert entry.run.run_short_id == caught.value.run_short_id == "other1"
    assert len(posts(sandbox)) == 1


async def test_a_rerun_of_another_plan_is_on_record_and_no_retry_takes_it_or_starts_another(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    answer = accepted("other1", testPlan={"name": "Green", "shortId": "pln_green"})
    told: list[StartOutcomeUnknown] = []
    step = Failing()

    @flow(retries=1)
    async def user() -> None:
        first = await astart_test_run(credentials, "pln_broken")
        await await_for_test_run(credentials, first)
        sandbox.set_faults(
            fault({"kind": "status", "status": 200, "body": json.dumps(answer), "accepted": True}, "rerun")
        )
        with pytest.raises(StartOutcomeUnknown, match=r"other1 .*pln_green") as caught:
            await arerun_test_run(credentials, first)
        told.append(caught.value)
        step()

    await user()
    assert [error.run_short_id for error in told] == ["other1"] * 2
    assert told[0].flow_run_id is not None
    assert "other1" in [entry.run.run_short_id for entry in await aread_ledger(told[0].flow_run_id) if entry.run]
    assert len(posts(sandbox)) == 2


def test_outside_a_flow_run_each_call_starts_a_run(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    records = [start_test_run(credentials, "pln_green", label="smoke") for _ in range(2)]
    assert len({record.run_short_id for record in records}) == 2
    assert [(record.slot, record.flow_run_id, record.is_resumed) for record in records] == [(None, None, False)] * 2
    assert counted(sandbox) == (2, 0)


# --- what may be sent again, and what never


def _impatient(work: Any) -> Any:
    return work.with_options(retry_delay_seconds=0)


@pytest.mark.parametrize(("status", "version"), [(429, "sync"), (503, "async")])
async def test_a_service_that_asks_to_come_back_gets_one_start(
    sandbox: Sandbox, credentials: QATechCredentials, slept: list[float], status: int, version: str
) -> None:
    sandbox.set_faults(fault({"kind": "status", "status": status}, "start", retry_after=7, times=2))

    @flow
    async def user() -> QATechRunRecord:
        if version == "sync":
            return _impatient(start_test_run)(credentials, "pln_green")
        return await _impatient(astart_test_run)(credentials, "pln_green")

    record = await user()
    assert not record.is_resumed
    assert [request["status"] for request in posts(sandbox)] == [status, status, 200]
    assert counted(sandbox) == (1, 0)
    assert slept == [7, 7], "Retry-After is a floor"


async def test_what_prefects_delay_covers_of_a_retry_after_is_not_slept_twice(
    sandbox: Sandbox, credentials: QATechCredentials, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_options, "RETRY_DELAYS_SECONDS", [2.0, 10.0])
    sandbox.set_faults(fault({"kind": "status", "status": 429}, "start", retry_after=7, times=2))
    await _in_a_flow(lambda: _impatient(astart_test_run)(credentials, "pln_green"))
    assert slept == [5, 0]


async def test_a_retry_after_of_ten_minutes_fails_at_once(
    sandbox: Sandbox, credentials: QATechCredentials, slept: list[float]
) -> None:
    sandbox.set_faults(fault({"kind": "status", "status": 429}, "start", retry_after=600, times=-1))
    error = await _failing(RateLimitedError, lambda: _impatient(astart_test_run)(credentials, "pln_green"))
    assert error.retry_after_seconds == 600
    assert slept == []
    assert len(posts(sandbox)) == 1


async def test_a_service_that_never_takes_it_is_asked_four_times_and_leaves_no_trace(
    sandbox: Sandbox, credentials: QATechCredentials, slept: list[float]
) -> None:
    sandbox.set_faults(fault({"kind": "status", "status": 429}, "start", times=-1))
    await _failing(RateLimitedError, lambda: _impatient(astart_test_run)(credentials, "pln_green"))
    assert len(posts(sandbox)) == 4
    assert counted(sandbox) == (0, 0)


async def test_a_refused_connection_is_tried_again(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    # Bound until a sandbox listens on it: nobody else is given it meanwhile.
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port = held.getsockname()[1]
    credentials = QATechCredentials(api_token="sandbox-token", api_url=f"http://127.0.0.1:{port}")
    running: list[Sandbox] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            running.append(Sandbox(speed=2000, port=port).__enter__())

    monkeypatch.setattr(task_options, "sleep_unless_stopped", sleep)
    try:
        await _in_a_flow(lambda: _impatient(astart_test_run)(credentials, "pln_green"))
        assert counted(running[0]) == (1, 0)
    finally:
        for sandbox in running:
            sandbox.__exit__(None, None, None)
        held.close()
    assert len(slept) == 2


async def test_a_look_that_fails_is_tried_again(
    sandbox: Sandbox, credentials: QATechCredentials, slept: list[float]
) -> None:
    on = {"method": "GET", "path": "status"}
    kinds: list[dict[str, Any]] = [{"kind": "status", "status": 500}, {"kind": "drop_after"}, {"kind": "html"}]
    sandbox.set_faults([{"on": on, **kind} for kind in kinds])

    async def look() -> QATechRun:
        record = await astart_test_run(credentials, "pln_green")
        run: QATechRun = await _impatient(aget_test_run)(credentials, record)
        return run

    await _in_a_flow(look)
    assert looks(sandbox) == 4


@pytest.mark.parametrize("path", ["start", "rerun"])
async def test_a_post_of_unknown_outcome_is_sent_once_whatever_is_retried(sandbox: Sandbox, path: str) -> None:
    """One flow with a call for each way to lose an answer, each with a label; then all of it once more."""
    patient, impatient = credentials_for(sandbox), credentials_for(sandbox, timeout_seconds=3)
    sent: dict[str, int] = {}
    errors: dict[str, list[StartOutcomeUnknown]] = {name: [] for name in UNKNOWN_FAULTS}
    ids: list[UUID] = []
    step = Failing()

    async def ask(base: str, label: str) -> None:
        if path == "start":
            await astart_test_run(impatient, "pln_green", label=label)
        else:
            await arerun_test_run(impatient, base, label=label)

    @flow(retries=1)
    async def user() -> None:
        ids.append(flow_run_id())
        base = await astart_test_run(patient, "pln_broken", label="base")
        for name, kind in UNKNOWN_FAULTS.items():
            before = len(posts(sandbox))
            sandbox.set_faults(fault(kind, path))
            with pytest.raises(StartOutcomeUnknown) as caught:
                await ask(base.run_short_id, name)
            errors[name].append(caught.value)
            sent[name] = sent.get(name, 0) + len(posts(sandbox)) - before
        sandbox.clear_faults()
        step()

    await user()
    assert step.calls == 2
    assert sent == dict.fromkeys(UNKNOWN_FAULTS, 1)
    accepted = len(UNKNOWN_FAULTS)
    assert counted(sandbox) == ((1 + accepted, 0) if path == "start" else (1, accepted))
    for name, of_each_attempt in errors.items():
        for error in of_each_attempt:
            assert f"ledger attach {ids[0]} {error.slot}" in error.message, name
            assert f"ledger clear {ids[0]} {error.slot}" in error.message, name
    entries = await aread_ledger(ids[0])
    assert {found.label for found in entries if found.is_open} == {*UNKNOWN_FAULTS}


async def test_a_lost_answer_fails_the_flow_and_each_retry_of_it(sandbox: Sandbox) -> None:
    credentials = credentials_for(sandbox, timeout_seconds=1)
    sandbox.set_faults(fault({"kind": "drop_after"}, "start"))
    calls = 0

    @flow(retries=2)
    async def user() -> None:
        nonlocal calls
        calls += 1
        start_test_run(credentials, "pln_green")

    with pytest.raises(StartOutcomeUnknown):
        await user()
    assert calls == 3
    assert len(posts(sandbox)) == 1


async def test_a_run_that_was_found_and_attached_is_taken_up_by_the_retry(sandbox: Sandbox) -> None:
    credentials = credentials_for(sandbox, timeout_seconds=1)
    sandbox.set_faults(fault({"kind": "drop_after"}, "start"))
    ids: list[UUID] = []

    @flow(retries=1)
    async def user() -> QATechRunRecord:
        if ids:
            (found,) = sandbox.runs()
            (is_open,) = await aread_ledger(ids[0])
            await when_it_is_over(lambda: aattach_run(ids[0], is_open.slot, found["short_id"]))
        ids.append(flow_run_id())
        return await astart_test_run(credentials, "pln_green")

    record = await user()
    assert (record.kind, record.is_resumed) == ("attached", True)
    assert record.run_short_id == sandbox.runs()[0]["short_id"]
    assert len(posts(sandbox)) == 1


def test_a_default_of_prefects_retries_does_not_decide_about_a_post(sandbox: Sandbox) -> None:
    """The setting is read when a task is made: the modules are executed once more."""
    sandbox.set_faults(fault({"kind": "drop_after"}, "start"))
    made = {}
    with temporary_settings({PREFECT_TASKS_DEFAULT_RETRIES: 5, PREFECT_TASKS_DEFAULT_RETRY_DELAY_SECONDS: 0}):
        assert task(a_report).retries == 5
        for module in (tasks, waits):
            spec = importlib.util.find_spec(module.__name__)
            assert spec is not None
            assert spec.loader is not None
            again = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(again)
            made.update(vars(again))

        @flow(retries=1)
        def user() -> None:
            made["start_test_run"](credentials_for(sandbox, timeout_seconds=1), "pln_green")

        with pytest.raises(StartOutcomeUnknown):
            user()
    assert len(posts(sandbox)) == 1
    assert made["start_test_run"].retries == made["arerun_test_run"].retries == 3
    waiting = [work.retries for name, work in made.items() if "wait_for_test_run" in name and isinstance(work, Task)]
    assert waiting == [0] * 4


@contextmanager
def _refusing(sandbox: Sandbox, why: str) -> Iterator[QATechCredentials]:
    faults: dict[str, dict[str, Any]] = {
        "400": {"kind": "status", "status": 400},
        "301": {"kind": "redirect", "status": 301},
        "307": {"kind": "redirect", "status": 307},
        "308": {"kind": "redirect", "status": 308},
    }
    if why in faults:
        sandbox.set_faults(fault(faults[why], "any", times=-1))
    if why == "402":
        sandbox.set_usage_limit(0)
    tokens = {"401": "nobodys-token", "403": "sandbox-read-token", "403 suspended": "sandbox-suspended-token"}
    yield credentials_for(sandbox, api_token=tokens.get(why, sandbox.token))
    sandbox.clear_faults()
    sandbox.set_usage_limit(None)


REFUSALS: dict[str, type[QATechAPIError]] = {
    "400": BadRequestError,
    "401": UnauthorizedError,
    "402": UsageLimitError,
    "403": ForbiddenError,
    "403 suspended": ForbiddenError,
    "404": NotFoundError,
    "301": InvalidResponseError,
    "307": InvalidResponseError,
    "308": InvalidResponseError,
}


@pytest.mark.parametrize("path", ["start", "rerun"])
async def test_a_refusal_is_an_error_of_its_own_and_leaves_no_trace(sandbox: Sandbox, path: str) -> None:
    """One flow that goes on after each refusal."""
    existing = sandbox_run(sandbox, "pln_broken")

    async def ask(credentials: QATechCredentials, why: str) -> None:
        if path == "start":
            await astart_test_run(credentials, "pln_unknown" if why == "404" else "pln_green")
        else:
            await arerun_test_run(credentials, "nosuchrun" if why == "404" else existing)

    @flow
    async def user() -> None:
        for why, kind in REFUSALS.items():
            before = len(posts(sandbox))
            with _refusing(sandbox, why) as credentials, pytest.raises(kind) as caught:
                await ask(credentials, why)
            error = caught.value
            assert type(error) is kind, why
            assert (str(error.status), error.retryable) == (why[:3], False)
            assert len(posts(sandbox)) == before + 1, why
            assert await rows_of(flow_run_id()) == {}, why

    await user()


def sandbox_run(sandbox: Sandbox, plan: str) -> str:
    """A run that somebody else has started."""
    return start_test_run(credentials_for(sandbox), plan).run_short_id


async def test_a_run_without_failures_has_nothing_to_rerun(
    sandbox: Sandbox, credentials: QATechCredentials, polling: QATechPolling
) -> None:
    async def work() -> None:
        record = await astart_test_run(credentials, "pln_green")
        await await_for_test_run(credentials, record, 30, polling=polling)
        await arerun_test_run(credentials, record, failed_only=True)

    await _failing(NothingToRerunError, work)
    assert len(posts(sandbox)) == 2


def a_record() -> QATechRunRecord:
    return QATechRunRecord(kind="start", run_short_id="abc123", started_at=datetime.now(timezone.utc))


BAD_CALLS: dict[str, Callable[[QATechCredentials], Awaitable[Any]]] = {
    "a plan's name": lambda c: astart_test_run(c, "smoke tests"),
    "a run for a plan": lambda c: astart_test_run(c, a_record()),  # type: ignore[arg-type]
    "a list of plans": lambda c: astart_test_run(c, ["pln_green"]),  # type: ignore[arg-type]
    "a path for a run": lambda c: arerun_test_run(c, "../run"),
    "no run": lambda c: arerun_test_run(c, None),  # type: ignore[arg-type]
    "what a wait returns": lambda c: arerun_test_run(c, QATechRun(run_short_id="abc123")),  # type: ignore[arg-type]
    "both filters": lambda c: arerun_test_run(
        c, "abc123", failed_only=True, test_case_ids=["a1b2c3d4-e5f6-4789-a012-3456789abcde"]
    ),
    "an empty filter": lambda c: arerun_test_run(c, "abc123", test_case_ids=[]),
    "an address for a run": lambda c: aget_test_run(c, "https://app.qa.tech/abc123"),
    "encoded characters": lambda c: aget_test_run(c, "abc%2F123"),
    "a path for a wait": lambda c: await_for_test_run(c, "abc/123"),
    "no end to a wait": lambda c: await_for_test_run(c, "abc123", float("inf")),
    "a time before now": lambda c: await_for_test_run(c, "abc123", -1),
}


@pytest.mark.parametrize("what", BAD_CALLS)
async def test_bad_input_is_refused_before_anything_is_sent(
    sandbox: Sandbox, credentials: QATechCredentials, what: str
) -> None:
    with pytest.raises(InvalidInputError):
        await BAD_CALLS[what](credentials)
    assert sandbox.requests() == []


def test_the_sync_twins_refuse_bad_input_as_well(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    for bad in (
        lambda: start_test_run(credentials, "smoke tests"),
        lambda: rerun_test_run(credentials, "../run"),
        lambda: get_test_run(credentials, "../run"),
        lambda: wait_for_test_run(credentials, "../run"),
    ):
        with pytest.raises(InvalidInputError):
            bad()
    assert sandbox.requests() == []


async def test_a_masked_token_is_refused_with_the_way_out(sandbox: Sandbox) -> None:
    masked = credentials_for(sandbox, api_token="**********")
    ids: list[UUID] = []

    @flow
    async def user() -> None:
        ids.append(flow_run_id())
        for name in ("start", "rerun", "get", "wait"):
            with pytest.raises(ValueError, match=r"\$ref"):
                await ASYNC_TASKS[name](masked, "pln_green" if name == "start" else "abc123")

    await user()
    assert sandbox.requests() == []
    assert await rows_of(ids[0]) == {}


# --- what people and machines see of it


async def test_link_and_event_of_a_run_are_there_although_the_next_step_fails(
    sandbox: Sandbox, credentials: QATechCredentials, emitted: list[tuple[str, dict[str, Any]]]
) -> None:
    ids: list[UUID] = []
    records: list[QATechRunRecord] = []

    @flow
    async def user() -> None:
        ids.append(flow_run_id())
        records.append(await astart_test_run(credentials, "pln_broken"))
        records.append(rerun_test_run(credentials, records[0].run_short_id))
        raise StepFailed

    with pytest.raises(StepFailed):
        await user()
    links = {artifact.key: str(artifact.data) for artifact in await artifacts_of(ids)}
    started, rerun = records
    assert links.keys() == {"qatech-run-pln-broken", f"qatech-rerun-{started.run_short_id}"}
    assert started.run_url is not None
    assert rerun.run_url is not None
    assert started.run_url in links["qatech-run-pln-broken"]
    assert rerun.run_url in links[f"qatech-rerun-{started.run_short_id}"]
    assert [name for name, _ in emitted] == ["qatech.run.started", "qatech.rerun.started"]
    assert [more["payload"]["run_url"] for _, more in emitted] == [started.run_url, rerun.run_url]
    assert emitted[1][1]["payload"]["rerun_of"] == started.run_short_id
    assert emitted[0][1]["resource"]["prefect.resource.id"] == f"qatech.run.{started.run_short_id}"


async def test_a_run_that_is_taken_up_is_announced_once(
    sandbox: Sandbox, credentials: QATechCredentials, emitted: list[tuple[str, dict[str, Any]]]
) -> None:
    step = Failing()
    ids: list[UUID] = []

    @flow(retries=1)
    async def user() -> None:
        ids.append(flow_run_id())
        await astart_test_run(credentials, "pln_green")
        step()

    await user()
    assert [name for name, _ in emitted] == ["qatech.run.started"]
    assert len(await artifacts_of(ids)) == 1


async def test_the_progress_artifact_moves_with_the_test_cases(
    monkeypatch: pytest.MonkeyPatch, emitted: list[tuple[str, dict[str, Any]]]
) -> None:
    moved: list[float] = []
    update = artifacts.aupdate_progress_artifact
    ids: list[UUID] = []

    async def updated(artifact_id: UUID, progress: float) -> UUID:
        moved.append(progress)
        return await update(artifact_id=artifact_id, progress=progress)

    monkeypatch.setattr(artifacts, "aupdate_progress_artifact", updated)
    # Half a second between polls: the bar is drawn beside the wait.
    polling = QATechPolling(first_seconds=0.5, max_seconds=0.5)
    with Sandbox(speed=0) as sandbox, time_goes_on(sandbox):
        credentials = credentials_for(sandbox)

        @flow
        async def user() -> QATechRun:
            ids.append(flow_run_id())
            record = await astart_test_run(credentials, "pln_green")
            return wait_for_test_run(credentials, record, polling=polling)

        run = await user()
    assert (run.status, run.result) == ("COMPLETED", "PASSED")
    assert moved == sorted(moved)
    assert len({*moved}) >= 2
    assert moved[-1] == 100
    (progress,) = (artifact for artifact in await artifacts_of(ids) if artifact.type == "progress")
    assert progress.data == 100
    assert [name for name, _ in emitted] == ["qatech.run.started", "qatech.run.finished"]


async def test_a_wait_that_times_out_says_that_the_run_goes_on(
    sandbox: Sandbox,
    credentials: QATechCredentials,
    polling: QATechPolling,
    emitted: list[tuple[str, dict[str, Any]]],
) -> None:
    async def work() -> None:
        record = await astart_test_run(credentials, "pln_never")
        await await_for_test_run(credentials, record, 0.3, polling=polling)

    error = await _failing(WaitTimedOut, work)
    assert "goes on at QA.tech" in error.message
    assert error.run_url is not None
    assert error.run_url in error.message
    assert error.status == "RUNNING"
    assert emitted[-1][0] == "qatech.run.unattended"
    assert emitted[-1][1]["payload"]["why"] == "timed out"


async def test_a_final_error_of_a_wait_is_told_at_once(sandbox: Sandbox, polling: QATechPolling) -> None:
    run = sandbox_run(sandbox, "pln_never")
    stranger = credentials_for(sandbox, api_token="nobodys-token")
    error = await _failing(UnauthorizedError, lambda: await_for_test_run(stranger, run, 30, polling=polling))
    assert "goes on at QA.tech" in error.message
    assert looks(sandbox) == 1


SECRET = "tok-7f3a91c2-never-shown"


@pytest.fixture
async def leaky_world(
    caplog: pytest.LogCaptureFixture, emitted: list[tuple[str, dict[str, Any]]], slept: list[float]
) -> AsyncIterator[tuple[Sandbox, list[str]]]:
    """A sandbox whose token must not be seen anywhere, and a list of texts in which it is looked for."""
    texts: list[str] = []
    caplog.set_level(logging.DEBUG)
    closed = [logger for name in logging.root.manager.loggerDict if not (logger := logging.getLogger(name)).propagate]
    for logger in closed:
        logger.addHandler(caplog.handler)
    plans = [
        {"short_id": "pln_one", "name": "One", "test_cases": [{"name": "Fails", "outcomes": "failed"}]},
        {"short_id": "pln_never", "name": "Never", "run": {"never_ends": True}, "test_cases": ["Fails"]},
    ]
    with Sandbox({"tokens": [SECRET], "plans": plans}, speed=2000) as sandbox:
        yield sandbox, texts
    for logger in closed:
        logger.removeHandler(caplog.handler)


async def test_the_token_is_seen_nowhere(
    leaky_world: tuple[Sandbox, list[str]],
    caplog: pytest.LogCaptureFixture,
    emitted: list[tuple[str, dict[str, Any]]],
    polling: QATechPolling,
) -> None:
    sandbox, texts = leaky_world
    credentials, hasty = credentials_for(sandbox), credentials_for(sandbox, timeout_seconds=0.5)
    ids: list[UUID] = []
    echo = {"kind": "status", "body": f'{{"message": "Bearer {SECRET} is not welcome"}}'}

    async def attempt(work: Callable[[], Awaitable[Any]], *faults: Mapping[str, Any]) -> None:
        sandbox.set_faults(faults)
        try:
            texts.append(repr(await work()))
        except (QATechAPIError, StartOutcomeUnknown, WaitTimedOut, LedgerConflict, ValueError) as error:
            texts.extend([repr(error), str(error), repr(vars(error)), "".join(traceback.format_exception(error))])
        sandbox.clear_faults()

    @flow(persist_result=True)
    async def user(credentials: QATechCredentials) -> list[str]:
        ids.append(flow_run_id())
        start = _impatient(astart_test_run)
        parameters = QATechParameters(configs={"cfg_key": "payload-secret"})
        request = QATechRunRequest(test_plan_short_id="pln_one", parameters=parameters)
        record = await start(credentials, request)
        for status in (400, 401, 403, 404, 429, 500, 503, 302):
            await attempt(lambda: start(credentials, "pln_one"), {**echo, "status": status})
        for kind in UNKNOWN_FAULTS.values():
            await attempt(lambda: start(hasty, "pln_one"), kind)
        echoing_html = {"kind": "html", "body": f"<p>{SECRET}</p>", "content_type": f"text/{SECRET}"}
        await attempt(lambda: _impatient(aget_test_run)(credentials, record), echoing_html)
        elsewhere = {"kind": "redirect", "status": 308, "location": f"https://{SECRET}.invalid/"}
        await attempt(lambda: start(credentials, "pln_one"), elsewhere)
        await attempt(lambda: await_for_test_run(credentials, record, 5, polling=polling))
        wrong_id = {"kind": "status", "status": 200, "body": f'{{"run": {{"shortId": "../{SECRET}"}}}}'}
        await attempt(lambda: start(credentials, "pln_one"), wrong_id)
        await attempt(lambda: aget_test_run(credentials, f"../{record.run_short_id}"))
        never = await start(credentials, "pln_never")
        await attempt(lambda: await_for_test_run(credentials, never, 0.1, polling=polling))
        await attempt(lambda: arerun_test_run(credentials, record, failed_only=True))
        return [repr(credentials), str(credentials)]

    texts += await user(credentials)
    # httpcore tells at DEBUG which headers came; those in which the service repeats the token are the test's own doing.
    ours = [record for record in caplog.records if not record.name.startswith("httpcore")]
    assert {record.name for record in ours} > {"prefect.task_runs", "prefect.flow_runs"}
    texts += [f"{record.getMessage()} {record.exc_text}" for record in ours] + [repr(emitted)]
    texts += [repr(artifact) for artifact in await artifacts_of(ids)]
    texts += [repr(await rows_of(ids[0]))]
    async with get_client() as client:
        texts.append(repr(await client.read_flow_run(ids[0])))
        of_the_flow = FlowRunFilter(id=FlowRunFilterId(any_=ids))
        task_runs: list[TaskRun] = []
        with anyio.fail_after(120):
            # They reach the server as events, a moment after they have ended; the rerun's is the last one.
            while not any("rerun" in run.name and run.state and run.state.is_final() for run in task_runs):
                await anyio.sleep(0.1)
                task_runs = await client.read_task_runs(flow_run_filter=of_the_flow)
        texts += [repr(run) for run in task_runs]
    assert len(texts) > 100
    assert len(await artifacts_of(ids)) > 3
    assert emitted
    assert [text for text in texts if SECRET in text] == []
    assert "payload-secret" not in repr(await rows_of(ids[0]))
    assert _files_of_the_server_with(SECRET) == []


def _files_of_the_server_with(text: str) -> list[str]:
    database = Path((PREFECT_API_DATABASE_CONNECTION_URL.value() or "").partition(":///")[2])
    assert database.is_file()
    return [path.name for path in database.parent.iterdir() if path.is_file() and text.encode() in path.read_bytes()]


# ---


async def _in_a_flow(work: Callable[[], Awaitable[Any]]) -> Any:
    @flow
    async def user() -> Any:
        return await work()

    return await user()


async def _failing(kind: type[Exception], work: Callable[[], Awaitable[Any]]) -> Any:
    """Run something that fails in a flow, and give its error."""
    with pytest.raises(kind) as caught:
        await _in_a_flow(work)
    return caught.value


async def test_a_wait_with_its_record_remembers_the_duration_for_its_plan() -> None:
    polling = QATechPolling(first_seconds=0.01, growth=0.1)
    plan = f"pln_{uuid4().hex}"
    slow = {"plans": [{"short_id": plan, "name": "Slow", "test_cases": [{"name": "Test", "duration_seconds": 6000}]}]}

    @flow
    async def user(credentials: QATechCredentials, with_record: bool) -> None:
        record = await astart_test_run(credentials, plan)
        await await_for_test_run(credentials, record if with_record else record.run_short_id, polling=polling)

    with Sandbox(speed=2000, scenario=slow) as sandbox:
        await user(credentials_for(sandbox), with_record=False)
        assert await PlanHistory(plan).read(1) == []
        await user(credentials_for(sandbox), with_record=True)
    assert len(await PlanHistory(plan).read(1)) == 1

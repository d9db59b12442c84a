"""Many runs are waited for in one task run, and none that fails keeps another from being waited for."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from prefect import flow, unmapped
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import TerminationSignal

from prefect_qatech import (
    InvalidInputError,
    NotFoundError,
    QATechCredentials,
    QATechPolling,
    QATechRun,
    QATechRunRecord,
    QATechRunRequest,
    RunsNotEnded,
    UnauthorizedError,
    WaitTimedOut,
    _sync,
    astart_test_run,
    await_for_test_run,
    await_for_test_runs,
    start_test_run,
    wait_for_test_run,
    wait_for_test_runs,
)
from prefect_qatech._sync import run_sync
from prefect_qatech.polling.exceptions import runs_not_ended
from prefect_qatech.polling.task_run import all_unless_stopped, delays_of_first_polls
from prefect_qatech.report import artifacts, plan_durations
from prefect_qatech.report.plan_durations import PlanHistory
from prefect_qatech.sandbox import Sandbox
from tests.support import artifacts_of, credentials_for, flow_run_id, looks

pytestmark = pytest.mark.usefixtures("prefect_server")

PLANS = ("pln_green", "pln_broken", "pln_green")


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The events: name and payload."""
    events: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        "prefect_qatech.report.events.emit_event", lambda event, **more: events.append((event, more["payload"]))
    )
    return events


def started(sandbox: Sandbox, *plans: str) -> list[str]:
    """Runs that somebody has started elsewhere."""

    async def start() -> list[str]:
        async with credentials_for(sandbox).get_client() as client:
            return [(await client.start_run(QATechRunRequest(test_plan_short_id=plan))).run_short_id for plan in plans]

    return run_sync(start)


# --- What it gives


@pytest.mark.parametrize("how", ["called", "submitted", "mapped"])
def test_it_waits_for_all_from_a_sync_flow(
    sandbox: Sandbox, credentials: QATechCredentials, polling: QATechPolling, how: str
) -> None:
    @flow
    def user() -> tuple[list[QATechRunRecord], list[QATechRun]]:
        records = [start_test_run(credentials, plan) for plan in PLANS]
        if how == "called":
            return records, wait_for_test_runs(credentials, records, polling=polling)
        if how == "submitted":
            return records, wait_for_test_runs.submit(credentials, records, polling=polling).result()
        (runs,) = wait_for_test_runs.map(unmapped(credentials), [records], polling=unmapped(polling)).result()
        return records, runs

    records, runs = user()
    assert [run.run_short_id for run in runs] == [record.run_short_id for record in records]
    assert [run.result for run in runs] == ["PASSED", "FAILED", "PASSED"]
    assert all(run.test_cases for run in runs)


async def test_it_waits_for_all_from_an_async_flow_in_one_task_run(
    sandbox: Sandbox, credentials: QATechCredentials, polling: QATechPolling
) -> None:
    ids: list[UUID] = []

    @flow
    async def user(runs: list[str]) -> list[QATechRun]:
        ids.append(flow_run_id())
        return await await_for_test_runs(credentials, runs, polling=polling)

    names = started(sandbox, *PLANS)
    runs = await user([*names, names[0]])
    assert [run.run_short_id for run in runs] == [*names, names[0]], "named twice, waited for once, given twice"
    assert await task_runs_of(ids[0]) == ["wait for 4 runs"]


async def task_runs_of(flow_run: UUID) -> list[str]:
    of_the_flow = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    async with get_client() as client:
        with anyio.fail_after(240):
            # They reach the server as events, a moment after they have begun.
            while not (found := await client.read_task_runs(flow_run_filter=of_the_flow)):  # noqa: ASYNC110
                await anyio.sleep(0.1)
    return [run.name for run in found]


async def test_progress_moves_with_the_runs(
    polling: QATechPolling, monkeypatch: pytest.MonkeyPatch, emitted: list[tuple[str, dict[str, Any]]]
) -> None:
    moved: list[float] = []
    ids: list[UUID] = []
    create, update = artifacts.acreate_progress_artifact, artifacts.aupdate_progress_artifact

    async def created(progress: float, **about: Any) -> UUID:
        moved.append(progress)
        return await create(progress=progress, **about)

    async def updated(artifact_id: UUID, progress: float) -> UUID:
        moved.append(progress)
        return await update(artifact_id=artifact_id, progress=progress)

    monkeypatch.setattr(artifacts, "acreate_progress_artifact", created)
    monkeypatch.setattr(artifacts, "aupdate_progress_artifact", updated)
    plans = [
        {"short_id": f"pln_{n}", "name": f"{n}", "test_cases": [{"name": f"T{n}", "duration_seconds": 100 * n}]}
        for n in range(1, 5)
    ]
    with Sandbox({"plans": plans}, speed=0) as sandbox:

        @flow
        async def user(runs: list[str]) -> None:
            ids.append(flow_run_id())
            await await_for_test_runs(credentials_for(sandbox), runs, polling=polling)

        running = asyncio.ensure_future(user(started(sandbox, "pln_1", "pln_2", "pln_3", "pln_4")))
        for ended in range(4):
            seen = looks(sandbox)
            with anyio.fail_after(240):
                # Each of the others is looked at, and the one that has ended was reported.
                while looks(sandbox) < seen + 5 or len(emitted) < ended or len(moved) <= ended:  # noqa: ASYNC110
                    await anyio.sleep(0.02)
            sandbox.advance(120)
        await running
    assert moved == [0, 25, 50, 75, 100]
    (bar,) = [artifact for artifact in await artifacts_of(ids) if artifact.type == "progress"]
    assert (bar.key, bar.data) == ("qatech-progress-runs", 100)


@pytest.mark.parametrize("version", ["sync", "async"])
async def test_a_wait_has_one_bar_however_often_its_flow_run_is_tried(polling: QATechPolling, version: str) -> None:
    ids: list[UUID] = []
    plans = [
        {"short_id": f"pln_{n}", "name": f"{n}", "test_cases": [{"name": f"T{n}", "duration_seconds": 100}]}
        for n in (1, 2)
    ]
    with Sandbox({"plans": plans}, speed=0) as sandbox:
        one, two = started(sandbox, "pln_1", "pln_2")
        credentials, given = credentials_for(sandbox), {"timeout_seconds": 0.0, "polling": polling}

        def try_again(error: Exception) -> None:
            ids.append(flow_run_id())
            if len(ids) == 1:
                sandbox.advance(200)
                raise error

        @flow(retries=1)
        async def user_async() -> None:
            ended: list[Any] = [
                await await_for_test_run(credentials, one, return_state=True, **given),
                await await_for_test_run(credentials, two, return_state=True, **given),
            ]
            try_again(RuntimeError(f"{ended}"))

        @flow(retries=1)
        def user_sync() -> None:
            ended: list[Any] = [
                wait_for_test_run(credentials, one, return_state=True, **given),
                wait_for_test_run(credentials, two, return_state=True, **given),
            ]
            try_again(RuntimeError(f"{ended}"))

        if version == "sync":
            user_sync()
        else:
            await user_async()
    assert len(ids) == 2
    bars = [artifact for artifact in await artifacts_of(ids[:1]) if artifact.type == "progress"]
    keys = [f"qatech-progress-{one}", f"qatech-progress-{two}"]
    assert sorted((str(bar.key), bar.data) for bar in bars) == sorted((key, 100) for key in keys)


# --- What fails


@pytest.mark.parametrize("version", ["sync", "async"])
async def test_what_fails_keeps_no_other_from_being_waited_for(
    sandbox: Sandbox,
    credentials: QATechCredentials,
    polling: QATechPolling,
    emitted: list[tuple[str, dict[str, Any]]],
    version: str,
) -> None:
    (never,) = started(sandbox, "pln_never")

    @flow
    async def user() -> None:
        good = await astart_test_run(credentials, "pln_green")
        runs = ["nobodys", good, never]
        if version == "sync":
            wait_for_test_runs(credentials, runs, 1, polling=polling)
        else:
            await await_for_test_runs(credentials, runs, 1, polling=polling)

    with pytest.raises(
        RunsNotEnded, match=r"2 of 3 runs were not seen to end\. .*nobodys.*goes on at QA\.tech"
    ) as caught:
        await user()
    error = caught.value
    assert {run.result for run in error.runs.values()} == {"PASSED"}
    assert {short_id: type(why) for short_id, why in error.errors.items()} == {
        "nobodys": NotFoundError,
        never: WaitTimedOut,
    }
    told = [payload["run_short_id"] for name, payload in emitted if name == "qatech.run.unattended"]
    assert told == [never], "of a run that nobody knows nobody can say that it goes on"


async def test_a_token_that_is_refused_is_told_at_once(sandbox: Sandbox, polling: QATechPolling) -> None:
    stranger = credentials_for(sandbox, api_token="nobodys-token")
    names = started(sandbox, "pln_never", "pln_never")

    @flow
    async def user() -> None:
        await await_for_test_runs(stranger, names, 60, polling=polling)

    with pytest.raises(RunsNotEnded) as caught:
        await user()
    assert {type(why) for why in caught.value.errors.values()} == {UnauthorizedError}
    assert "nobodys-token" not in str(caught.value)
    assert looks(sandbox) == 2


def test_an_error_of_thousands_stays_readable() -> None:
    errors: dict[str, Any] = {str(number): NotFoundError(f"Run {number} is not there.") for number in range(5_000)}
    text = runs_not_ended(errors, 6_000)
    assert text.startswith("5000 of 6000 runs were not seen to end. Run 0 is not there. ")
    assert text.endswith(" And 4995 more.")


BAD_CALLS: dict[str, Callable[[QATechCredentials], Any]] = {
    "no run": lambda c: await_for_test_runs(c, []),
    "a path": lambda c: await_for_test_runs(c, ["abc123", "../abc123"]),
    "no end": lambda c: await_for_test_runs(c, ["abc123"], float("inf")),
    "no time": lambda c: await_for_test_runs(c, ["abc123"], -1),
}


@pytest.mark.parametrize("what", BAD_CALLS)
async def test_what_makes_no_sense_is_refused_before_anything_is_sent(
    sandbox: Sandbox, credentials: QATechCredentials, what: str
) -> None:
    @flow
    async def user() -> None:
        await BAD_CALLS[what](credentials)

    with pytest.raises(InvalidInputError):
        await user()
    assert sandbox.requests() == []


async def test_a_service_that_is_down_is_one_piece_of_news(
    sandbox: Sandbox, credentials: QATechCredentials, polling: QATechPolling, caplog: pytest.LogCaptureFixture
) -> None:
    names = started(sandbox, *["pln_green"] * 30)
    sandbox.set_faults([{"on": {"method": "GET"}, "kind": "status", "status": 503, "times": 60}])

    @flow
    async def user() -> list[QATechRun]:
        return await await_for_test_runs(credentials, names, 60, polling=polling)

    assert len(await user()) == 30
    told = [record.getMessage() for record in caplog.records if "polls have failed" in record.getMessage()]
    assert len(told) == 2, "the first and the tenth of sixty"


# --- How it ends before its time


async def test_a_cancelled_wait_says_which_runs_go_on(
    sandbox: Sandbox, credentials: QATechCredentials, polling: QATechPolling, emitted: list[tuple[str, dict[str, Any]]]
) -> None:
    ids: list[UUID] = []
    names = started(sandbox, "pln_green", "pln_never", "pln_never")

    @flow
    async def user() -> None:
        ids.append(flow_run_id())
        await await_for_test_runs(credentials, names, 600, polling=polling)

    running = asyncio.ensure_future(user())
    with anyio.fail_after(240):
        while "qatech.run.finished" not in [name for name, _ in emitted]:  # noqa: ASYNC110
            await anyio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    told = {payload["run_short_id"] for name, payload in emitted if name == "qatech.run.unattended"}
    assert told == {*names[1:]}, "the one that has ended does not go on"
    (table,) = [artifact for artifact in await artifacts_of(ids) if artifact.key == "qatech-unattended-runs"]
    assert all(name in str(table.data) for name in names[1:])
    assert names[0] not in str(table.data)


def test_a_stop_of_the_process_ends_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a thread of a task runner, which no signal reaches."""
    ended: list[str] = []

    async def wait() -> None:
        try:
            await anyio.sleep(600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    monkeypatch.setattr(_sync, "_exception_of_main_thread", lambda: TerminationSignal(signal.SIGTERM))
    with pytest.raises(TerminationSignal):
        run_sync(lambda: all_unless_stopped([wait() for _ in range(10)]))
    assert ended == ["cancelled"] * 10


def test_a_fault_that_nobody_expects_ends_them_all() -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await anyio.sleep(600)
        finally:
            ended.append("ended")

    async def fail() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_sync(lambda: all_unless_stopped([wait(), fail(), wait()]))
    assert ended == ["ended"] * 2


def test_more_than_are_polled_at_once_begin_one_after_the_other() -> None:
    polling = QATechPolling(first_seconds=3)
    assert delays_of_first_polls(32, polling, 60) == [0.0] * 32
    assert delays_of_first_polls(100, polling, 60) == pytest.approx([0.03 * place for place in range(100)])
    assert max(delays_of_first_polls(100, polling, 1)) < 1, "all begin before the deadline"


def test_one_looks_for_a_stop_on_behalf_of_all(polling: QATechPolling, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def look() -> None:
        nonlocal looked
        looked += 1

    monkeypatch.setattr(_sync, "_exception_of_main_thread", look)
    monkeypatch.setattr(_sync, "WATCH_SECONDS", 600)

    def end_after_two_looks_each(sandbox: Sandbox) -> None:
        while looks(sandbox) < 80:
            time.sleep(0.02)
        sandbox.advance(10_000)

    with Sandbox(speed=0) as sandbox, ThreadPoolExecutor() as pool:
        names = started(sandbox, *["pln_green"] * 40)

        @flow
        def user() -> int:
            return len(wait_for_test_runs(credentials_for(sandbox), names, 200, polling=polling))

        ender = pool.submit(end_after_two_looks_each, sandbox)
        assert user() == 40
        ender.result()
    assert looked == 1


# --- What it remembers


async def test_a_plans_durations_are_read_once_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    real = plan_durations.durations_in

    def counted(value: Any) -> dict[str, list[float]]:
        nonlocal reads
        reads += 1
        return real(value)

    plan = f"pln_{uuid4().hex}"
    slow = {"plans": [{"short_id": plan, "name": "Slow", "test_cases": [{"name": "Test", "duration_seconds": 6000}]}]}
    monkeypatch.setattr(plan_durations, "durations_in", counted)
    monkeypatch.setattr(
        plan_durations, "with_duration", lambda value, count, seconds: {"1": [*(value or {}).get("1", []), 1.0]}
    )

    @flow
    async def user(credentials: QATechCredentials) -> None:
        records = [await astart_test_run(credentials, plan, label=str(number)) for number in range(6)]
        await await_for_test_runs(credentials, records, polling=QATechPolling(first_seconds=0.01, growth=0.1))

    with Sandbox(speed=2000, scenario=slow) as sandbox:
        await user(credentials_for(sandbox))
    assert reads == 1
    assert await PlanHistory(plan).read(1) == [1.0] * 6

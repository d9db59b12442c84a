"""The facts about Prefect that its documentation does not promise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext, hydrated_context, serialize_context
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger
from prefect.settings import (
    PREFECT_LOGGING_TO_API_ENABLED,
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW,
    temporary_settings,
)

from prefect_qatech import (
    QATechCredentials,
    QATechPolling,
    aget_test_run,
    arelease_gate,
    arerun_test_run,
    astart_test_run,
    await_for_test_run,
    await_for_test_runs,
    get_test_run,
    release_gate,
    rerun_test_run,
    start_test_run,
    wait_for_test_run,
    wait_for_test_runs,
)
from prefect_qatech._prefect import (
    flow_run_of_this_process,
    flow_runs_at_work,
    is_called_in_a_task,
    name_of_task,
    own_task_run,
    run_logger,
    server_time,
    stands_in_users_task,
    stands_on_distributed_runner,
)
from prefect_qatech.sandbox import Sandbox
from tests.support import counted, flow_run_id, posts

T = TypeVar("T")

# --- a logger that cannot raise


@pytest.fixture
def raising() -> Iterator[None]:
    """Handlers that cannot take our lines, at the loggers of runs."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("line"):
                raise RuntimeError("this handler cannot take it")

    handler, loggers = Raising(), [get_logger("flow_runs"), get_logger("task_runs")]
    for logger in loggers:
        logger.addHandler(handler)
    yield
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.fixture
def console() -> Iterator[list[str]]:
    """What reaches the console."""
    lines: list[str] = []

    class Console(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, logger = Console(), get_logger("qatech")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def test_without_a_run_it_logs_to_the_console(console: list[str]) -> None:
    run_logger().info("run %s", "abc123")
    assert console == ["run abc123"]


@pytest.mark.usefixtures("prefect_server", "raising")
def test_a_handler_that_raises_costs_no_line(console: list[str]) -> None:
    @task
    def work() -> None:
        run_logger().info("line of a task")

    @flow
    def user() -> None:
        run_logger().info("line %d", 1)
        run_logger().warning("line %d", 2)
        run_logger().error("line %d", 3)
        work()

    user()
    assert console == ["line 1", "line 2", "line 3", "line of a task"]


# --- where a call stands


@pytest.mark.usefixtures("prefect_server")
def test_a_thread_without_context_knows_which_flow_runs_are_at_work() -> None:
    def known() -> set[UUID]:
        with ThreadPoolExecutor() as pool:
            return {flow_run.id for flow_run in pool.submit(flow_runs_at_work).result()}

    @flow
    def user() -> tuple[UUID, bool]:
        return flow_run_id(), flow_run_id() in known()

    own, is_known = user()
    assert is_known
    assert own not in known(), "it has ended"


def test_a_process_that_was_started_for_a_flow_run_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flow_run_of_this_process() is None
    own = str(uuid4())
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", own)
    assert flow_run_of_this_process() == own


@pytest.mark.usefixtures("prefect_server")
async def test_the_task_run_of_a_sub_flow_tells_its_name_and_whether_a_task_has_called_it() -> None:
    async def task_run_here() -> TaskRun:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        assert context.flow_run.parent_task_run_id is not None
        async with get_client() as client:
            return await client.read_task_run(context.flow_run.parent_task_run_id)

    @flow(name="the sub-flow", flow_run_name="another name")
    async def sub() -> TaskRun:
        return await task_run_here()

    @task
    async def in_a_task() -> TaskRun:
        return await sub()

    @flow
    async def user() -> list[TaskRun]:
        return [await sub(), await in_a_task()]

    direct, nested = await user()
    assert name_of_task(direct) == name_of_task(nested)
    assert name_of_task(direct) in direct.task_key
    assert [is_called_in_a_task(direct), is_called_in_a_task(nested)] == [False, True]


@pytest.mark.usefixtures("prefect_server")
def test_a_task_of_ours_is_told_from_one_of_the_users() -> None:
    def look() -> tuple[bool, bool]:
        return own_task_run() is not None, stands_in_users_task()

    def body() -> tuple[bool, bool]:
        return look()

    body.__module__ = "prefect_qatech.tasks"
    ours = task(body)

    @task
    def users() -> list[tuple[bool, bool]]:
        return [look(), ours()]

    @flow
    def user() -> list[tuple[bool, bool]]:
        return [look(), ours(), *users()]

    assert user() == [(False, False), (True, False), (False, True), (True, True)]


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_whose_context_was_sent_elsewhere_is_known_as_such() -> None:
    def elsewhere(context: dict[str, Any]) -> bool:
        with hydrated_context(context):
            return stands_on_distributed_runner()

    @flow
    def user() -> list[bool]:
        with ThreadPoolExecutor() as pool:
            return [stands_on_distributed_runner(), pool.submit(elsewhere, serialize_context()).result()]

    assert user() == [False, True]


@pytest.mark.usefixtures("prefect_server")
async def test_the_server_tells_its_time() -> None:
    async with get_client() as client:
        told = await server_time(client)
    assert told is not None
    assert abs((datetime.now(timezone.utc) - told).total_seconds()) < 60


# --- outside a flow run

Attempts = dict[str, Callable[[], Any]]


def tasks_outside(credentials: QATechCredentials, polling: QATechPolling) -> Attempts:
    def bare() -> tuple[str, str]:
        run = start_test_run.fn(credentials, "pln_broken")
        wait_for_test_run.fn(credentials, run, 60, polling=polling)
        wait_for_test_runs.fn(credentials, [run], 60, polling=polling)
        assert get_test_run.fn(credentials, run).result == "FAILED"
        return run.run_short_id, rerun_test_run.fn(credentials, run, failed_only=True).run_short_id

    async def bare_async() -> tuple[str, str]:
        run = await astart_test_run.fn(credentials, "pln_broken")
        await await_for_test_run.fn(credentials, run, 60, polling=polling)
        await await_for_test_runs.fn(credentials, [run], 60, polling=polling)
        assert (await aget_test_run.fn(credentials, run)).result == "FAILED"
        return run.run_short_id, (await arerun_test_run.fn(credentials, run, failed_only=True)).run_short_id

    return {
        "start": lambda: start_test_run(credentials, "pln_green"),
        "rerun": lambda: rerun_test_run(credentials, "abc123"),
        "start, async": lambda: asyncio.run(_awaited(astart_test_run(credentials, "pln_green"))),
        "rerun, async": lambda: asyncio.run(_awaited(arerun_test_run(credentials, "abc123"))),
        "bare tasks": bare,
        "bare tasks, async": lambda: asyncio.run(bare_async()),
    }


def gates_outside(credentials: QATechCredentials, polling: QATechPolling) -> Attempts:
    return {
        "bare gate": lambda: release_gate.fn(credentials, "pln_green", polling=polling),
        "bare gate, async": lambda: asyncio.run(_awaited(arelease_gate.fn(credentials, "pln_green", polling=polling))),
    }


async def _awaited(work: Awaitable[T]) -> T:
    return await work


def outcomes(attempts: Attempts, missing_flow: str) -> dict[str, Any]:
    """What comes of each; None is an error: Prefect puts the one of its log in place of ours."""
    found: dict[str, Any] = {}
    with temporary_settings({PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: missing_flow}):
        for name, attempt in attempts.items():
            try:
                found[name] = attempt()
            except Exception:
                found[name] = None
    return found


@pytest.mark.parametrize("missing_flow", ["error", "warn"])
@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.usefixtures("prefect_server")
def test_what_prefect_would_lose_sends_nothing_and_the_bare_functions_of_the_tasks_work(
    sandbox: Sandbox,
    credentials: QATechCredentials,
    polling: QATechPolling,
    missing_flow: str,
    console: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempts = tasks_outside(credentials, polling)
    if missing_flow == "error":
        attempts |= gates_outside(credentials, polling)
    found = outcomes(attempts, missing_flow)
    refused = {name for name, outcome in found.items() if outcome is None}
    assert refused == {*attempts} - {"bare tasks", "bare tasks, async"}
    assert caplog.text.count("Nothing was sent") >= len(refused), "the log tells"
    output = "\n".join(console)
    for name in ("bare tasks", "bare tasks, async"):
        assert f"QA.tech run {found[name][0]} started" in output
        assert f"QA.tech run {found[name][1]} started as a rerun (2 test cases)" in output
    assert (counted(sandbox), len(posts(sandbox))) == ((2, 2), 4)


@pytest.mark.usefixtures("prefect_server")
def test_the_bare_functions_of_the_gate_work_where_a_missing_flow_is_ignored(
    sandbox: Sandbox, credentials: QATechCredentials, polling: QATechPolling
) -> None:
    found = outcomes(gates_outside(credentials, polling), "ignore")
    assert [report.passed for report in found.values()] == [True, True]
    assert counted(sandbox) == (2, 0)


@pytest.mark.usefixtures("prefect_server")
def test_a_task_in_a_flow_run_and_one_that_only_prints_its_log_are_not_refused(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    @flow
    def user() -> Any:
        return start_test_run(credentials, "pln_green")

    with temporary_settings({PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "error"}):
        assert user().run_short_id
        with pytest.raises(MissingContextError):
            start_test_run(credentials, "pln_green")
        assert counted(sandbox) == (1, 0)
        with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
            start_test_run(credentials, "pln_green")
    assert counted(sandbox) == (2, 0)

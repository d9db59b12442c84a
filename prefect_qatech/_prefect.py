"""Every fact about Prefect that its documentation does not promise; `tests/test_prefect.py` holds each of them."""

from __future__ import annotations

import contextvars
import gc
import logging
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import partialmethod

from prefect import runtime
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.context import FlowRunContext, TaskRunContext, get_settings_context
from prefect.logging import get_logger, get_run_logger
from prefect.logging.handlers import APILogHandler

from prefect_qatech.exceptions import QATechError
from prefect_qatech.texts import http_date

_SAME_TIME = timedelta(seconds=5)

PATIENCE_SECONDS = 5.0
"""How long a wait or a gate is held up by a Prefect API that hangs, where it only shows or remembers something."""


class RunLogger:
    """The logger of a task or flow run, which never raises: no line of a log is worth the id of a run."""

    def _log(self, level: int, message: str, *args: object) -> None:
        try:
            get_run_logger().log(level, message, *args)
        except Exception:  # there is no run (`.fn`), or Prefect's handler or one of the user's raises
            with suppress(Exception):
                get_logger("qatech").log(level, message, *args)

    debug = partialmethod(_log, logging.DEBUG)
    info = partialmethod(_log, logging.INFO)
    warning = partialmethod(_log, logging.WARNING)
    error = partialmethod(_log, logging.ERROR)


def run_logger() -> RunLogger:
    """Return a logger for the current task or flow run; without one it logs to the console."""
    return RunLogger()


def own_flow_run() -> FlowRun | None:
    """Return the flow run that the caller stands in; None outside of any."""
    context = FlowRunContext.get()
    return context.flow_run if context is not None else None


def check_that_prefect_returns_results() -> None:
    """Raise `QATechError` where Prefect itself would fail a task run after its body: a run's record would be lost.

    The engine logs "Finished in state ..." after a task's body. Outside a flow run Prefect's log handler warns about
    that line (an error, where warnings are), or raises (PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW=error). So the handler
    is asked beforehand, in a context without runs.
    """
    context = TaskRunContext.get()
    if context is None or context.task_run.flow_run_id is not None or FlowRunContext.get() is not None:
        return
    settings = get_settings_context().model_copy()

    def ask() -> None:
        line = logging.LogRecord("prefect.task_runs", logging.INFO, __file__, 0, "A start outside a flow run", (), None)
        with settings:
            for handler in get_logger("prefect.task_runs").handlers:
                if isinstance(handler, APILogHandler):
                    handler.emit(line)

    try:
        contextvars.Context().run(ask)
    except Exception as error:
        message = (
            "Nothing was sent: outside a flow run Prefect would fail this task after its run was started, because of a "
            f"line in its own log ({type(error).__name__}). Call the task in a flow, or set "
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW=ignore."
        )
    else:
        return
    # Prefect is about to put the error of its log in place of this one.
    run_logger().error("%s", message)
    raise QATechError(message)


def flow_runs_at_work() -> list[FlowRun]:
    """Return the flow runs that this process executes, also to a thread that has none of their contexts.

    Prefect keeps no list of them, so Python's garbage collector is asked. What is left over from an earlier
    attempt of a flow run is among them: whoever asks must hold each against the server.
    """
    flow_runs = [item.flow_run for item in gc.get_objects() if type(item) is FlowRunContext]
    return [item for item in flow_runs if item is not None and item.state is not None and item.state.is_running()]


def flow_run_of_this_process() -> str | None:
    """Return the id of the flow run that a worker or a served deployment has started this process for, if any."""
    found = contextvars.Context().run(lambda: runtime.flow_run.id)
    return str(found) if found else None


def name_of_task(task_run: TaskRun) -> str:
    """Return the name of a task run's function: its task key without the hash, which differs between processes."""
    return task_run.task_key.rpartition("-")[0]


def is_called_in_a_task(task_run: TaskRun) -> bool:
    """Whether a task run, also one that stands for a sub-flow run, was called in a task of the same flow run.

    What a generator task yields makes Prefect call it so as well, as long as that task runs.
    """
    return bool(task_run.task_inputs.get("__parents__"))


def own_task_run() -> TaskRun | None:
    """Return the run of one of this package's tasks that the caller is in, if any."""
    context = TaskRunContext.get()
    return context.task_run if context is not None and _is_ours(context) else None


def rename_own_task_run(name: str) -> None:
    """Give the run of one of this package's tasks a name that its work has told; Prefect's next event of it has it."""
    if (task_run := own_task_run()) is not None:
        task_run.name = name


def stands_in_users_task() -> bool:
    """Whether the caller stands in a task of the user's, itself or in a task of ours."""
    context = TaskRunContext.get()
    return context is not None and (not _is_ours(context) or is_called_in_a_task(context.task_run))


def stands_on_distributed_runner() -> bool:
    """Whether the caller's flow is elsewhere: a task runner such as Dask has sent the task to another process."""
    context = FlowRunContext.get()
    return context is not None and context.detached


def _is_ours(context: TaskRunContext) -> bool:
    return context.task.fn.__module__.partition(".")[0] == __package__


async def shared_time(client: PrefectClient) -> datetime:
    """Return the time that all machines go by: that of the Prefect server where its clock and the own one differ."""
    # The server tells whole seconds only.
    told, own = await server_time(client), datetime.now(timezone.utc)
    return own if told is None or abs(told - own) < _SAME_TIME else told


async def server_time(client: PrefectClient) -> datetime | None:
    """Return the time by the Prefect server's clock, in whole seconds; None where a proxy took it out of the answer."""
    return http_date((await client.hello()).headers.get("date", ""))

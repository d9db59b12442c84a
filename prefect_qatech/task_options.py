"""How our tasks are made: sync and async versions of one function, how Prefect retries them, why it caches none."""

import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from prefect_qatech._sync import sleep_unless_stopped, sync_version
from prefect_qatech.api.resend import RETRY_DELAYS_SECONDS
from prefect_qatech.exceptions import QATechError

P = ParamSpec("P")
T = TypeVar("T")

MAX_RETRY_SLEEP_SECONDS = 120.0

_deadline: ContextVar[float] = ContextVar("qatech_deadline", default=float("inf"))


class SyncTask(Task[P, T]):
    """The sync version of a task, which knows the async one."""

    async_version: Task[P, Coroutine[Any, Any, T]]


def task_in_both_versions(**options: Any) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], SyncTask[P, T]]:
    """Make two tasks of an async function: the sync version, under its name, and its `async_version`."""

    def decorate(core: Callable[P, Coroutine[Any, Any, T]]) -> SyncTask[P, T]:
        name = core.__name__
        version = SyncTask(sync_version(core), name=name, **options)
        core.__name__ = core.__qualname__ = f"a{name}"
        version.async_version = Task(core, name=name, **options)
        return version

    return decorate


@contextmanager
def no_retry_after(seconds_left: float) -> Iterator[None]:
    """Within this context, retry no task once so many seconds have passed, nor sleep longer for a retry."""
    token = _deadline.set(time.monotonic() + seconds_left)
    try:
        yield
    finally:
        _deadline.reset(token)


async def retry_if_safe(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn` of the tasks: our own errors know whether they may be retried.

    Where the service asked for more time than the task's next delay (Retry-After), the rest is slept here; Prefect
    takes the delays from the decoration only. More than `MAX_RETRY_SLEEP_SECONDS` is not slept, and nothing past a
    deadline (`no_retry_after`): the task fails.
    """
    error = await state.aresult(raise_on_failure=False)
    if not isinstance(error, QATechError) or not error.retryable:
        return False
    wanted = error.retry_after_seconds or 0.0
    if wanted > MAX_RETRY_SLEEP_SECONDS:
        return False
    delay = RETRY_DELAYS_SECONDS[min(task_run.run_count, len(RETRY_DELAYS_SECONDS)) - 1]
    if time.monotonic() + max(wanted, delay) >= _deadline.get():
        return False
    await sleep_unless_stopped(max(0.0, wanted - delay))
    return True


# The ledger finds an earlier start, and survives what a cache does not; what a run is like must never come from a
# cache. A task worker keeps results, and puts Prefect's default, by which equal calls of a flow run share one, in place
# of NO_CACHE: there, each task run keeps its result under a key of its own.
NOT_CACHED: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "result_storage_key": "qatech-{task_run.id}",
}
RETRIED: dict[str, Any] = {
    # Stated on purpose: the setting PREFECT_TASKS_DEFAULT_RETRIES must not decide whether a POST is sent again.
    "retries": len(RETRY_DELAYS_SECONDS),
    "retry_delay_seconds": list(RETRY_DELAYS_SECONDS),
    "retry_condition_fn": retry_if_safe,
    **NOT_CACHED,
}

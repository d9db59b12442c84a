"""Prefect tasks that wait for QA.tech runs: for one, and for many in one task run; sync and async _sync.

What they keep to, in any combination of sync and async flows, called, `.submit`ted and `.map`ped:

- A wait is one task run, however often it looks, and however many runs it waits for.
- It lives through failing looks, ends at its deadline, and ends within seconds when the flow run is cancelled; log,
  event and artifact then say that the run goes on at QA.tech, which has no call to cancel it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from anyio import move_on_after, sleep
from prefect import task
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import rate_limit
from prefect.exceptions import TerminationSignal

from prefect_qatech._prefect import PATIENCE_SECONDS, run_logger
from prefect_qatech._sync import run_sync, sleep_unless_stopped
from prefect_qatech.api.connections import MOST_IN_FLIGHT
from prefect_qatech.api.ids import check_run_short_id
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.credentials import QATechCredentials, check_credentials
from prefect_qatech.exceptions import InvalidInputError, QATechAPIError, QATechError
from prefect_qatech.inputs import shown
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.polling.exceptions import RunsNotEnded, WaitTimedOut
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.polling.unfinished import they_go_on
from prefect_qatech.polling.wait import Surroundings, wait_for_run
from prefect_qatech.report import artifacts, events
from prefect_qatech.report.history import PlanHistory
from prefect_qatech.tasks import NOT_CACHED

_CLEAN_UP_SECONDS = 3.0
_MOST_ERRORS_TOLD = 5
_A_YEAR = 365 * 24 * 3600.0

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class _Wanted:
    """A run that is waited for, and what is known of it."""

    run_short_id: str
    run_url: str | None = None
    record: QATechRunRecord | None = None


@dataclass
class _Wait:
    """What the waits of one task run have in common."""

    credentials: QATechCredentials
    timeout_seconds: float
    polling: QATechPolling
    sleep: Sleep

    def __post_init__(self) -> None:
        check_credentials(self.credentials)
        is_number = isinstance(self.timeout_seconds, (int, float))
        if not is_number or not 0 <= self.timeout_seconds < float("inf"):
            raise InvalidInputError(
                f"timeout_seconds must be a number of seconds, 0 or more, not {shown(self.timeout_seconds)}"
            )
        self._deadline = time.monotonic() + self.timeout_seconds
        self._client = self.credentials.get_client()
        self._turn = turn_of(self.credentials, self.sleep)
        self._histories: dict[str, PlanHistory] = {}

    async def __aenter__(self) -> "_Wait":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *args: Any) -> None:
        await self._client.__aexit__(*args)

    async def until_ended(
        self,
        wanted: _Wanted,
        on_change: Callable[[QATechRun], None],
        on_error: Callable[[QATechAPIError], None],
    ) -> QATechRun:
        plan = wanted.record.plan_short_id if wanted.record is not None else None
        run = await wait_for_run(
            self._client,
            wanted.run_short_id,
            timeout_seconds=max(0.0, self._deadline - time.monotonic()),
            polling=self.polling,
            surroundings=Surroundings(sleep=self.sleep, before_look=self._turn),
            on_change=on_change,
            on_error=on_error,
            run_url=wanted.run_url,
            age_seconds=wanted.record.age_seconds if wanted.record is not None else None,
            history=self._histories.setdefault(plan, PlanHistory(plan)) if plan else None,
        )
        events.emit_run_finished(run, wanted.run_url)
        return run


def turn_of(credentials: QATechCredentials, sleep: Sleep = sleep_unless_stopped) -> Callable[[float], Awaitable[None]]:
    """Give a function that waits until these credentials may be used for one more look, up to so many seconds.

    Args:
        credentials: The credentials.
        sleep: Sleeps for so many seconds.
    """
    budget = credentials.get_request_budget()
    limit = _GlobalLimit(credentials.rate_limit_name) if credentials.rate_limit_name is not None else None

    async def wait(most_seconds: float) -> None:
        began = time.monotonic()
        if budget is not None:
            await budget.wait(sleep, most_seconds)
        left = most_seconds - (time.monotonic() - began)
        if limit is not None and left > 0:
            with move_on_after(left):
                await limit.wait()

    return wait


class _GlobalLimit:
    """A global concurrency limit of Prefect's. One that cannot be asked for limits nothing; the wait counts.

    Args:
        name: Its name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._health = asyncio.Lock()
        self._healthy_until = -float("inf")

    async def wait(self) -> None:
        """Wait for a place, as long as Prefect's API is there to give one."""
        asked = asyncio.ensure_future(rate_limit(self._name, strict=False))
        try:
            # Other polls may be before this one for a long time; of a server that hangs nothing is to be had.
            while not (await asyncio.wait([asked], timeout=PATIENCE_SECONDS))[0]:
                if not await self._is_there():
                    run_logger().debug("The limit %s could not be asked for: Prefect's API hangs.", self._name)
                    return
            asked.result()
        except Exception as error:
            run_logger().debug("The limit %s could not be asked for: %r", self._name, error)
        finally:
            asked.cancel()

    async def _is_there(self) -> bool:
        async with self._health:
            if time.monotonic() < self._healthy_until:
                return True
            with move_on_after(PATIENCE_SECONDS):
                async with get_client() as client:
                    if await client.api_healthcheck() is None:
                        self._healthy_until = time.monotonic() + PATIENCE_SECONDS
                        return True
            return False


@asynccontextmanager
async def telling_what_goes_on(going_on: Mapping[str, str | None], logger: Any) -> AsyncIterator[None]:
    """Say in log, event and artifact that runs go on, when the wait for them is ended from outside.

    Args:
        going_on: Short ids and addresses of the runs that are waited for; looked at when the wait is ended.
        logger: The run's logger.
    """
    try:
        yield
    except (asyncio.CancelledError, TerminationSignal, KeyboardInterrupt):
        logger.warning("The wait was cancelled. %s", they_go_on(going_on))
        for run_short_id, run_url in going_on.items():
            events.emit_run_unattended(run_short_id, run_url, "cancelled")
        with move_on_after(_CLEAN_UP_SECONDS, shield=True):
            await artifacts.publish_unattended(going_on)
            await events.deliver()
        raise


async def _wait(
    credentials: QATechCredentials,
    run: QATechRunRecord | str,
    timeout_seconds: float,
    polling: QATechPolling | None,
    key: str | None,
) -> QATechRun:
    wanted = _wanted(run)
    run_short_id, run_url = wanted.run_short_id, wanted.run_url
    waiting = _Wait(credentials, timeout_seconds, polling or QATechPolling(), sleep_unless_stopped)
    logger = run_logger()
    progress = artifacts.Progress(
        f"QA.tech run {run_short_id}: finished test cases", key or artifacts.artifact_key("progress", run_short_id)
    )

    def on_change(run: QATechRun) -> None:
        logger.info("%s", _seen_in(run, run_short_id))
        progress.show(run.finished_percent, is_over=run.is_final)

    def on_error(error: QATechAPIError) -> None:
        logger.warning("A look at run %s failed and will be repeated: %s", run_short_id, error)

    async with telling_what_goes_on({run_short_id: run_url}, logger), waiting, progress:
        try:
            return await waiting.until_ended(wanted, on_change, on_error)
        except WaitTimedOut:
            events.emit_run_unattended(run_short_id, run_url, "timed out")
            raise


def _seen_in(run: QATechRun, run_short_id: str) -> str:
    status, result = run.status or "no status", f" ({run.result})" if run.result else ""
    return (
        f"Run {run_short_id}: {status}{result}, {run.finished_test_count} of {len(run.test_cases)} test cases finished"
    )


async def _wait_for_all(
    credentials: QATechCredentials,
    runs: Sequence[QATechRunRecord | str],
    timeout_seconds: float,
    polling: QATechPolling | None,
    key: str | None,
) -> list[QATechRun]:
    if isinstance(runs, (str, QATechRunRecord)) or not isinstance(runs, Sequence):
        raise InvalidInputError(f"runs must be a list (put a single run into [...]), not {shown(runs)}")
    if not runs:
        raise InvalidInputError("runs must name at least one run: where nothing was tested, nothing has passed.")
    wanted = {one.run_short_id: one for one in map(_wanted, runs)}
    going_on = {one.run_short_id: one.run_url for one in wanted.values()}
    polling = polling or QATechPolling()
    waiting = _Wait(credentials, timeout_seconds, polling, sleep)
    # Thousands that begin together would look together, again and again.
    begin_within_seconds = min(polling.first_seconds, timeout_seconds) if len(wanted) > MOST_IN_FLIGHT else 0.0
    logger = run_logger()
    key = key or artifacts.artifact_key("progress", "runs")
    progress = artifacts.Progress(f"{len(wanted)} QA.tech runs: those that have ended", key)
    ended: dict[str, QATechRun] = {}
    errors: dict[str, QATechError] = {}
    failed_looks = 0

    def on_change(run: QATechRun) -> None:
        if not run.is_final:
            show()

    def show() -> None:
        over = len(ended) + len(errors)
        progress.show(100.0 * over / len(wanted), is_over=over == len(wanted))

    def on_error(error: QATechAPIError) -> None:
        nonlocal failed_looks
        failed_looks += 1
        # A service that is down is one piece of news, not one for each run and look.
        if str(failed_looks).rstrip("0") == "1":
            logger.warning("%d looks have failed so far, and are repeated. The last one: %s", failed_looks, error)

    async def wait_for(one: _Wanted, place: int) -> None:
        await sleep(begin_within_seconds * place / len(wanted))
        try:
            run = await waiting.until_ended(one, on_change, on_error)
        except QATechError as error:
            errors[one.run_short_id] = error
            logger.warning("%s", error)
            if isinstance(error, WaitTimedOut):
                events.emit_run_unattended(one.run_short_id, one.run_url, "timed out")
        else:
            ended[one.run_short_id] = run
            logger.info("%s", _seen_in(run, one.run_short_id))
        del going_on[one.run_short_id]
        show()

    async with telling_what_goes_on(going_on, logger), waiting, progress:
        await _all_unless_stopped([wait_for(one, place) for place, one in enumerate(wanted.values())])
    if errors:
        raise RunsNotEnded(_not_ended(errors, len(wanted)), runs=ended, errors=errors)
    return [ended[run_short_id] for run_short_id in (_wanted(run).run_short_id for run in runs)]


def _wanted(run: QATechRunRecord | str) -> _Wanted:
    if isinstance(run, QATechRunRecord):
        return _Wanted(run.run_short_id, run.run_url, run)
    return _Wanted(check_run_short_id(run))


def _not_ended(errors: Mapping[str, QATechError], number: int) -> str:
    told = " ".join(str(error) for error in list(errors.values())[:_MOST_ERRORS_TOLD])
    more = f" And {len(errors) - _MOST_ERRORS_TOLD} more." if len(errors) > _MOST_ERRORS_TOLD else ""
    return f"{len(errors)} of {number} runs were not seen to end. {told}{more}"


async def _all_unless_stopped(works: Sequence[Any]) -> None:
    """Do all of it side by side; a stop of the process, or what none of them expects, ends them all.

    One task looks for a stop on behalf of all: thousands that each look twice a second cost more than they wait.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    everything: asyncio.Future[Any] = asyncio.gather(*tasks)
    stop: asyncio.Future[Any] = asyncio.ensure_future(sleep_unless_stopped(_A_YEAR))
    try:
        await asyncio.wait([everything, stop], return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            stop.result()
        await everything
    finally:
        for each in (*tasks, stop):
            each.cancel()
        await asyncio.gather(*tasks, stop, return_exceptions=True)


@task(name="wait_for_test_run", description="Wait until a QA.tech run has ended.", retries=0, **NOT_CACHED)
async def await_for_test_run(
    credentials: QATechCredentials,
    run: QATechRunRecord | str,
    timeout_seconds: float = 3600.0,
    *,
    polling: QATechPolling | None = None,
    artifact_key: str | None = None,
) -> QATechRun:
    """Async version of `wait_for_test_run`: the same arguments, result and errors."""
    return await _wait(credentials, run, timeout_seconds, polling, artifact_key)


@task(name="wait_for_test_run", description="Wait until a QA.tech run has ended.", retries=0, **NOT_CACHED)
def wait_for_test_run(
    credentials: QATechCredentials,
    run: QATechRunRecord | str,
    timeout_seconds: float = 3600.0,
    *,
    polling: QATechPolling | None = None,
    artifact_key: str | None = None,
) -> QATechRun:
    """Wait until a run has ended, whoever started it; one task run, however many looks.

    - Polls that fail (no connection, 5xx, 429, broken answers) are repeated within a budget. Once the run was seen, or
      in the first minute after its start, so is every odd answer, and only a second 401 or 403 is final.
    - A COMPLETED run whose result is not written yet is waited for, for a minute.
    - The last look is at the deadline; a single request may last up to the credentials' time limit beyond it.
    - A progress artifact moves with the test cases; the log says only what changed.
    - It looks often when the run is about to end: by the test cases that have finished, and by past durations.

    Args:
        credentials: How to reach QA.tech.
        run: What its start or rerun returned, or its short id. What was returned tells address, plan and age; with it
            the wait goes by past durations of the plan's runs, and remembers this one's.
        timeout_seconds: How long to wait.
        polling: How often to look.
        artifact_key: Key of the progress artifact, instead of one made of the run's id.

    Returns:
        The run with all its test cases.

    Raises:
        InvalidInputError: That is not a run's short id, or not a time; nothing was sent.
        WaitTimedOut: It has not ended in time; it goes on.
        QATechAPIError: Looking makes no sense any more; the run may go on.

    Example:
        ```python
        run = wait_for_test_run(credentials, start_test_run(credentials, "pln_smoke"), timeout_seconds=1800)
        ```
    """
    return run_sync(lambda: _wait(credentials, run, timeout_seconds, polling, artifact_key))


@task(name="wait_for_test_runs", description="Wait until QA.tech runs have ended.", retries=0, **NOT_CACHED)
async def await_for_test_runs(
    credentials: QATechCredentials,
    runs: Sequence[QATechRunRecord | str],
    timeout_seconds: float = 3600.0,
    *,
    polling: QATechPolling | None = None,
    artifact_key: str | None = None,
) -> list[QATechRun]:
    """Async version of `wait_for_test_runs`: the same arguments, result and errors."""
    return await _wait_for_all(credentials, runs, timeout_seconds, polling, artifact_key)


@task(name="wait_for_test_runs", description="Wait until QA.tech runs have ended.", retries=0, **NOT_CACHED)
def wait_for_test_runs(
    credentials: QATechCredentials,
    runs: Sequence[QATechRunRecord | str],
    timeout_seconds: float = 3600.0,
    *,
    polling: QATechPolling | None = None,
    artifact_key: str | None = None,
) -> list[QATechRun]:
    """Wait until all of several runs have ended, in one task run: thousands of them, if need be.

    - Each run is looked at as `wait_for_test_run` does, by its own schedule; all of them share connections and the
      credentials' budget of looks.
    - A run that cannot be waited for any more (its time is over, nobody knows it) keeps no other from being waited for.
    - A progress artifact moves with the runs that have ended; the log has a line for each of them.

    Args:
        credentials: How to reach QA.tech.
        runs: What their starts or reruns returned, or their short ids. What was returned tells plan and age; with it
            the wait goes by past durations of the plan's runs, and remembers those of these.
        timeout_seconds: How long to wait for all of them.
        polling: How often to look.
        artifact_key: Key of the progress artifact.

    Returns:
        The runs with all their test cases, in the order in which they were named.

    Raises:
        InvalidInputError: No run is named, or one by what is no run's short id, or that is no time; nothing was sent.
        RunsNotEnded: Some were not seen to end; `error.runs` holds those that were, `error.errors` says why of the
            others.

    Example:
        ```python
        @flow
        def nightly():
            credentials = QATechCredentials.load("prod")
            started = [start_test_run(credentials, plan) for plan in ("pln_checkout", "pln_login")]
            for run in wait_for_test_runs(credentials, started):
                print(run.run_short_id, run.result)
        ```
    """
    return run_sync(lambda: _wait_for_all(credentials, runs, timeout_seconds, polling, artifact_key))

"""The waits of one task run: for one run, and for many side by side.

They share the client's connections, the throttle, the deadline and what is known of past durations. What goes on shows
in the log, in a progress artifact and in events; when the wait is ended from outside, these say that the runs go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from anyio import move_on_after, sleep
from prefect.exceptions import TerminationSignal

from prefect_qatech._prefect import RunLogger, run_logger
from prefect_qatech._sync import sleep_unless_stopped
from prefect_qatech.api.connections import MAX_IN_FLIGHT
from prefect_qatech.api.ids import check_run_short_id
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.credentials import QATechCredentials, check_credentials
from prefect_qatech.exceptions import InvalidInputError, QATechAPIError, QATechError
from prefect_qatech.inputs import short_repr
from prefect_qatech.ledger import QATechRunRecord, attached_run
from prefect_qatech.polling.exceptions import RunsNotEnded, WaitTimedOut, runs_not_ended, they_go_on
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.polling.throttle import Sleep, Throttle
from prefect_qatech.polling.wait import Surroundings, wait_for_run
from prefect_qatech.report import artifacts, events
from prefect_qatech.report.plan_durations import PlanHistory
from prefect_qatech.texts import listed

_CLEAN_UP_SECONDS = 3.0
_MAX_NAMED = 5
_A_YEAR = 365 * 24 * 3600.0


def check_timeout(timeout_seconds: float) -> None:
    """Raise `InvalidInputError` for a time-out that makes no sense."""
    if not isinstance(timeout_seconds, (int, float)) or not 0 <= timeout_seconds < float("inf"):
        raise InvalidInputError(
            f"timeout_seconds must be a number of seconds, 0 or more, not {short_repr(timeout_seconds)}"
        )


def _record_of(run: QATechRunRecord | str) -> QATechRunRecord:
    return run if isinstance(run, QATechRunRecord) else attached_run(check_run_short_id(run))


@dataclass
class _Waits:
    """What the waits of one task run have in common; its client is to be opened."""

    credentials: QATechCredentials
    timeout_seconds: float
    polling: QATechPolling
    sleep: Sleep

    def __post_init__(self) -> None:
        check_credentials(self.credentials)
        check_timeout(self.timeout_seconds)
        self._deadline = time.monotonic() + self.timeout_seconds
        self.client = self.credentials.get_client()
        self._throttle = Throttle(self.credentials, self.sleep)
        self._histories: dict[str, PlanHistory] = {}

    async def until_ended(
        self,
        record: QATechRunRecord,
        on_change: Callable[[QATechRun], None],
        on_error: Callable[[QATechAPIError], None],
    ) -> QATechRun:
        plan = record.plan_short_id
        try:
            run = await wait_for_run(
                self.client,
                record.run_short_id,
                timeout_seconds=max(0.0, self._deadline - time.monotonic()),
                polling=self.polling,
                surroundings=Surroundings(sleep=self.sleep, before_poll=self._throttle.wait),
                on_change=on_change,
                on_error=on_error,
                run_url=record.run_url,
                age_seconds=record.age_seconds,
                history=self._histories.setdefault(plan, PlanHistory(plan)) if plan else None,
            )
        except WaitTimedOut:
            events.emit_run_unattended(record.run_short_id, record.run_url, "timed out")
            raise
        events.emit_run_finished(run, record.run_url)
        return record.describe(run)


@asynccontextmanager
async def reporting_what_goes_on(runs: Mapping[str, str | None], logger: RunLogger) -> AsyncIterator[None]:
    """Report in log, event and artifact that runs go on, when the wait for them is ended from outside.

    The mapping holds the runs that are waited for just then: short ids to addresses.
    """
    try:
        yield
    except (asyncio.CancelledError, TerminationSignal, KeyboardInterrupt):
        logger.warning("The wait was cancelled. %s", they_go_on(runs))
        for run_short_id, run_url in runs.items():
            events.emit_run_unattended(run_short_id, run_url, "cancelled")
        with move_on_after(_CLEAN_UP_SECONDS, shield=True):
            await artifacts.publish_unattended(runs)
            await events.deliver()
        raise


async def wait_for_one(
    credentials: QATechCredentials,
    run: QATechRunRecord | str,
    timeout_seconds: float,
    *,
    polling: QATechPolling | None,
    artifact_key: str | None,
    has_only_one_bar: bool = False,
) -> QATechRun:
    """Wait for a run; `wait_for_test_run` describes it, and `Progress` the bar that a flow run may have only one of."""
    record = _record_of(run)
    run_short_id = record.run_short_id
    waits = _Waits(credentials, timeout_seconds, polling or QATechPolling(), sleep_unless_stopped)
    logger = run_logger()
    progress = artifacts.Progress(
        f"QA.tech run {run_short_id}: finished test cases",
        artifact_key or artifacts.artifact_key("progress", run_short_id),
        is_only_one=has_only_one_bar,
    )

    def on_change(run: QATechRun) -> None:
        logger.info("%s", _status_line(run, run_short_id))
        progress.show(run.finished_percent, is_over=run.is_final)

    def on_error(error: QATechAPIError) -> None:
        logger.warning("A poll of run %s failed and will be repeated: %s", run_short_id, error)

    async with reporting_what_goes_on({run_short_id: record.run_url}, logger), waits.client, progress:
        return await waits.until_ended(record, on_change, on_error)


def _status_line(run: QATechRun, run_short_id: str) -> str:
    status, result = run.status or "no status", f" ({run.result})" if run.result else ""
    return (
        f"Run {run_short_id}: {status}{result}, {run.finished_test_count} of {len(run.test_cases)} test cases finished"
    )


async def wait_for_many(
    credentials: QATechCredentials,
    runs: Sequence[QATechRunRecord | str],
    timeout_seconds: float,
    *,
    polling: QATechPolling | None,
    artifact_key: str | None,
) -> list[QATechRun]:
    """Wait for several runs; `wait_for_test_runs` describes it."""
    if isinstance(runs, (str, QATechRunRecord)) or not isinstance(runs, Sequence):
        raise InvalidInputError(f"runs must be a list (put a single run into [...]), not {short_repr(runs)}")
    if not runs:
        raise InvalidInputError("runs must name at least one run: where nothing was tested, nothing has passed.")
    given = [_record_of(run) for run in runs]
    records = {record.run_short_id: record for record in given}
    polling = polling or QATechPolling()
    # One looks for a stop of the process on behalf of all.
    waits = _Waits(credentials, timeout_seconds, polling, sleep)
    key = artifact_key or artifacts.artifact_key("progress", "runs")
    # By its description a retry of the flow run finds the bar again.
    named = listed(list(records), _MAX_NAMED, str)
    progress = artifacts.Progress(f"{len(records)} QA.tech runs: those that have ended ({named})", key)
    many = _Many(waits, progress, len(records), going_on={run_id: run.run_url for run_id, run in records.items()})
    delays = delays_of_first_polls(len(records), polling, timeout_seconds)
    async with reporting_what_goes_on(many.going_on, many.logger), waits.client, progress:
        await all_unless_stopped([many.follow(*each) for each in zip(records.values(), delays, strict=True)])
    if many.errors:
        raise RunsNotEnded(runs_not_ended(many.errors, len(records)), runs=many.ended, errors=many.errors)
    return [many.ended[record.run_short_id] for record in given]


def delays_of_first_polls(number: int, polling: QATechPolling, timeout_seconds: float) -> list[float]:
    """Return when each of many waits begins: thousands that begin together would poll together, again and again."""
    within_seconds = min(polling.first_seconds, timeout_seconds) if number > MAX_IN_FLIGHT else 0.0
    return [within_seconds * place / number for place in range(number)]


@dataclass
class _Many:
    """What came of the runs that one task run waits for."""

    waits: _Waits
    progress: artifacts.Progress
    number: int
    going_on: dict[str, str | None]
    logger: RunLogger = field(default_factory=run_logger)
    ended: dict[str, QATechRun] = field(default_factory=dict)
    errors: dict[str, QATechError] = field(default_factory=dict)
    failed_polls: int = 0

    async def follow(self, record: QATechRunRecord, delay_seconds: float) -> None:
        """Wait for one of them; an error of its own keeps no other from being waited for."""
        await sleep(delay_seconds)
        try:
            run = await self.waits.until_ended(record, self._on_change, self._on_error)
        except QATechError as error:
            self.errors[record.run_short_id] = error
            self.logger.warning("%s", error)
        else:
            self.ended[record.run_short_id] = run
            self.logger.info("%s", _status_line(run, record.run_short_id))
        del self.going_on[record.run_short_id]
        self._show()

    def _on_change(self, run: QATechRun) -> None:
        if not run.is_final:
            self._show()

    def _on_error(self, error: QATechAPIError) -> None:
        self.failed_polls += 1
        # A service that is down is logged once, not for each run and poll.
        if str(self.failed_polls).rstrip("0") == "1":
            self.logger.warning(
                "%d polls have failed so far, and are repeated. The last one: %s", self.failed_polls, error
            )

    def _show(self) -> None:
        over = len(self.ended) + len(self.errors)
        self.progress.show(100.0 * over / self.number, is_over=over == self.number)


async def all_unless_stopped(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all of them side by side; a stop of the process, or an unexpected error, ends them all.

    One task looks for a stop on behalf of all: thousands that each do so twice a second cost more than they wait.
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

"""A campaign's steps (`gate.campaign.Steps`) without Prefect: the client, a journal on disk, and a display."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, TypeVar

import anyio

from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.requests import QATechRerunRequest
from prefect_qatech.api.resend import RETRY_DELAYS_SECONDS
from prefect_qatech.api.responses import QATechRun, QATechStartedRun
from prefect_qatech.cli.disk import FIRST, RunJournal
from prefect_qatech.cli.display import Display
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.exceptions import (
    InvalidInputError,
    OtherPlanStarted,
    QATechAPIError,
    QATechError,
    StartOutcomeUnknown,
)
from prefect_qatech.gate.campaign import Beginning, NextRun, seconds_left
from prefect_qatech.gate.details import Details, details_of
from prefect_qatech.ledger import QATechRunRecord, record_of
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.polling.wait import Surroundings, wait_for_run
from prefect_qatech.report.model import GateDecision, GateReport
from prefect_qatech.report.subject import GateSubject

T = TypeVar("T")

Start = Callable[[QATechClient], Awaitable[QATechStartedRun]]
Prepare = Callable[[QATechClient], Awaitable[None]]
Mode = Literal["new", "resume", "anew"]


@dataclass
class TerminalSteps:
    """The steps of a gate at a terminal.

    `start` sends the POST of the first run, unless `attached`, a run that was started elsewhere, is judged. `prepare`
    comes before that POST and may fail, as it starts nothing: it finds out what the names mean. The notes are what the
    report should say of the first run. The mode `new` refuses a campaign that is on record without a verdict, `resume`
    goes on with it, and `anew` leaves it.
    """

    credentials: QATechCredentials
    journal: RunJournal
    display: Display
    deadline_seconds: float
    start: Start | None = None
    prepare: Prepare | None = None
    attached: QATechRunRecord | None = None
    subject: GateSubject = GateSubject()  # noqa: RUF009 - frozen
    notes: tuple[str, ...] = ()
    mode: Mode = "new"
    polling: QATechPolling = field(default_factory=QATechPolling)
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep

    @property
    def logger(self) -> Any:
        return _Told(self.display)

    async def begin(self) -> Beginning:
        if self.attached is not None:
            first, target = self._attach(self.attached), self.subject.target
            self.display.started(first)
            return Beginning(
                first,
                seconds_left(datetime.now(timezone.utc), self.deadline_seconds),
                self.subject,
                is_one_run_only=True,
                has_stale_pass=None not in (first.target, target) and first.target != target,
            )
        verdict = self.journal.verdict()
        is_good = verdict is None or verdict.verdict != "pass" or self.subject.target is not None
        if self.journal.has_begun() and self.mode == "new" and verdict is None:
            raise self._on_record()
        if self.journal.has_begun() and not (self.mode == "resume" and is_good):
            # A pass without a target was good for the version of that time.
            self.journal.set_aside(verdict)
        elif verdict is not None:
            self.journal.reopen()
        if self.mode == "resume" and not self.journal.has_begun():
            self.display.tell("Nothing is on record for this request and target: a run is started.")
        first = await self._once(FIRST, self._start, self.deadline_seconds, prepare=self.prepare)
        self.display.started(first)
        # After a crash the deadline stays; after a verdict, --resume begins a new one.
        left = seconds_left(datetime.now(timezone.utc) if verdict else first.started_at, self.deadline_seconds)
        return Beginning(first, left, self.subject, evidence_is_older=first.is_resumed, notes=self.notes)

    async def is_on_record(self, rerun: NextRun) -> bool:
        return self.journal.find(_slot(rerun)) is not None or self.journal.has_open_intent(_slot(rerun))

    async def rerun(self, rerun: NextRun, seconds_left: float) -> QATechRunRecord:
        request = QATechRerunRequest(failed_only=rerun.failed_only, test_case_ids=rerun.test_case_ids)
        plan = rerun.first.plan_short_id

        async def send(client: QATechClient) -> QATechRunRecord:
            base = rerun.base.run_short_id
            return record_of("rerun", await client.rerun(base, request, plan_short_id=plan), plan, base)

        record = await self._once(_slot(rerun), send, seconds_left)
        self.display.started(record)
        return record

    async def wait(self, record: QATechRunRecord, seconds_left: float) -> QATechRun:
        try:
            async with self.credentials.get_client() as client:
                return await wait_for_run(
                    client,
                    record.run_short_id,
                    timeout_seconds=seconds_left,
                    polling=self.polling,
                    surroundings=Surroundings(sleep=self.sleep),
                    on_change=self.display.changed,
                    on_error=lambda error: self.display.tell(f"A poll failed and is repeated: {error}"),
                    run_url=record.run_url,
                    age_seconds=record.age_seconds,
                )
        finally:
            self.display.close()

    async def end_of(self, record: QATechRunRecord, seen: datetime | None) -> datetime | None:
        return seen

    async def details_of(self, run: QATechRun, seconds_left: float) -> Details:
        async def no_turns(seconds: float) -> None:
            """One process at a terminal has nobody to take turns with."""

        return await details_of(
            self.credentials, run, seconds_left, wait_for_turn=no_turns, sleep=self.sleep, logger=self.logger
        )

    async def decide(self, first: QATechRunRecord, report: GateReport) -> GateDecision:
        raise InvalidInputError("Nobody can be asked at a terminal.")

    async def record_pass(self, first: QATechRunRecord) -> bool:
        # With a target, or for an attached run, nothing has to be remembered.
        return self.attached is not None or self._keep_verdict("pass") or self.subject.target is not None

    async def end(self, first: QATechRunRecord, report: GateReport) -> GateReport:
        if self.attached is None:
            self._keep_verdict(report.verdict.value)
        return report

    def _keep_verdict(self, verdict: str) -> bool:
        try:
            self.journal.end(verdict)
        except OSError as error:
            self.display.tell(f"The verdict could not be kept in the journal: {error}")
            return False
        return True

    def _attach(self, run: QATechRunRecord) -> QATechRunRecord:
        try:
            return self.journal.attach(run, self.subject.target)
        except OSError as error:
            self.display.tell(f"What run {run.run_short_id} is judged for could not be kept in the journal: {error}")
            return self.journal.attach(run, None)

    async def _start(self, client: QATechClient) -> QATechRunRecord:
        if self.start is None:
            raise QATechError("There is nothing to start.")
        record = record_of("start", await self.start(client), self.subject.plan_short_id)
        return record.model_copy(update={"target": self.subject.target})

    async def _once(
        self,
        slot: str,
        send: Callable[[QATechClient], Awaitable[QATechRunRecord]],
        seconds_left: float,
        *,
        prepare: Prepare | None = None,
    ) -> QATechRunRecord:
        """Send a POST once, or find what it has started; it is sent again only where it surely was not accepted."""
        if (record := self.journal.find(slot)) is not None:
            if record.not_as_asked is not None:
                raise _unknown_of(record, record.not_as_asked)
            return record
        deadline = time.monotonic() + seconds_left
        delays = iter(RETRY_DELAYS_SECONDS)
        async with self.credentials.get_client() as client:
            while True:
                try:
                    if prepare is not None and not self.journal.has_open_intent(slot):
                        await prepare(client)
                    if (nonce := self.journal.open_intent(slot)) is None:
                        raise self._unknown(slot)
                    return await self._to_the_end(self._send_and_keep(slot, nonce, send(client)))
                except QATechAPIError as error:
                    refused = error
                pause = max(next(delays, float("inf")), refused.retry_after_seconds or 0.0)
                if not refused.retryable or time.monotonic() + pause >= deadline:
                    raise refused
                self.display.tell(f"{refused} It is sent again in {pause:.0f} s.")
                await self.sleep(pause)

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something that only a second interruption cuts off; what went wrong after the first one is told."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                self.display.tell(str(error))
            raise

    async def _send_and_keep(self, slot: str, nonce: str, answer: Awaitable[QATechRunRecord]) -> QATechRunRecord:
        try:
            record = await answer
        except QATechAPIError:  # surely not accepted
            self.journal.clear_intent(slot, nonce)
            raise
        except OtherPlanStarted as error:
            if error.run_short_id is not None:
                other = QATechRunRecord(
                    kind="start",
                    run_short_id=error.run_short_id,
                    run_url=error.run_url,
                    started_at=datetime.now(timezone.utc),
                    not_as_asked=str(error),
                )
                self._keep(slot, nonce, other)
            raise
        if (known := self.journal.start_of(record.run_short_id)) is not None:
            told = (
                f"QA.tech answered with {record}, which is on record as the run of another start ({known[0]}): it is "
                "no evidence for this one. Nothing is started in its place: ask QA.tech why; --anew starts another run."
            )
            self._keep(slot, nonce, record.model_copy(update={"not_as_asked": told}))
            raise _unknown_of(record, told)
        self._keep(slot, nonce, record)
        return record

    def _keep(self, slot: str, nonce: str, record: QATechRunRecord) -> None:
        try:
            if not self.journal.record(slot, nonce, record):
                raise _unknown_of(
                    record,
                    f"Run {record.run_short_id} ({record.run_url or 'no address given'}) was started, and meanwhile "
                    "another command has settled this start in the journal: both may have started a run.",
                )
        except OSError as error:
            self.display.tell(
                f"Run {record.run_short_id} ({record.run_url or 'no address given'}) was started and could not be kept "
                f"in the journal: {error}. Give --started {record.run_short_id} where you resume."
            )

    def _on_record(self) -> QATechError:
        first = self.journal.find(FIRST)
        if first is None:
            return self._unknown(FIRST)
        return InvalidInputError(
            f"Run {first.run_short_id} ({first.run_url or 'no address given'}) was started for this very request and "
            "has no verdict yet. Give --resume to go on with it, or --anew to start another run."
        )

    def _unknown(self, slot: str) -> StartOutcomeUnknown:
        return StartOutcomeUnknown(
            f"A POST for {slot} was under way when an earlier command ended, so a run may have been started. Look for "
            "it at QA.tech; then give --resume with --started RUN or with --not-started.",
            request="POST",
            sent_at="unknown",
        )


def _unknown_of(record: QATechRunRecord, why: str) -> StartOutcomeUnknown:
    return StartOutcomeUnknown(why, run_short_id=record.run_short_id, run_url=record.run_url, request="POST")


@dataclass(frozen=True)
class _Told:
    display: Display

    def warning(self, message: str, *args: object) -> None:
        self.display.tell(message % args if args else message)

    info = error = warning


def _slot(rerun: NextRun) -> str:
    return f"rerun-{rerun.number}"

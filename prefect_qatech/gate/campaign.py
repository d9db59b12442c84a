"""One gate at work: its first run, its reruns, what was observed, and the report of it.

What a campaign does is here; where it does it (a Prefect flow run, a terminal) stands behind `Steps`.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

from prefect_qatech.addresses import safe_url
from prefect_qatech.api.catalogue import QATechReleaseCheck, QATechStartedReleaseCheck
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.exceptions import NothingToRerunError, QATechError, StartOutcomeUnknown, UsageLimitError
from prefect_qatech.gate.details import Details
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.polling.exceptions import WaitTimedOut
from prefect_qatech.report.build import build_report
from prefect_qatech.report.escape import plain_text
from prefect_qatech.report.model import GateDecision, GateReport, ReportedReleaseCheck
from prefect_qatech.report.release_check import report_release_check
from prefect_qatech.report.subject import GateSubject
from prefect_qatech.verdict.identity import Campaign, ObservedAttempt, recognise
from prefect_qatech.verdict.judge import Incident
from prefect_qatech.verdict.outcomes import Verdict
from prefect_qatech.verdict.policy import GatePolicy
from prefect_qatech.verdict.rerun import Rerun, next_rerun

MAX_SENTENCE = 1_500


@dataclass(frozen=True)
class Beginning:
    """The first run of a campaign, started or found.

    `seconds_left` returns the seconds until the deadline of the campaign, by a monotonic clock. `evidence_is_older`: it
    was started in an earlier attempt of the flow run. `is_one_run_only`: it was started elsewhere, so that nothing is
    known of the runs before it. `has_stale_pass`: it has passed, or was started, for something else than what is asked
    about now.
    """

    first: QATechRunRecord
    seconds_left: Callable[[], float]
    subject: GateSubject = GateSubject()  # noqa: RUF009 - frozen
    evidence_is_older: bool = False
    is_one_run_only: bool = False
    has_stale_pass: bool = False
    notes: tuple[str, ...] = ()


def seconds_left(began: datetime, deadline_seconds: float) -> Callable[[], float]:
    """Return a function that returns the seconds until a deadline, by a monotonic clock from now on."""
    passed = max(0.0, (datetime.now(timezone.utc) - began).total_seconds())
    deadline = time.monotonic() + deadline_seconds - passed
    return lambda: deadline - time.monotonic()


@dataclass(frozen=True)
class NextRun:
    """A rerun of the run `base` that is to be started; its number is that of the attempt that it makes.

    With `failed_only` the service chooses the test cases that did not pass; else they are given, or all are repeated.
    """

    first: QATechRunRecord
    number: int
    base: QATechRun
    failed_only: bool
    test_case_ids: list[str] | None


class Steps(Protocol):
    """What a campaign asks of the place that it runs in. A step that is taken again finds what it found before."""

    async def begin(self) -> Beginning:
        """Start the first run, or find it."""

    async def is_on_record(self, rerun: NextRun) -> bool:
        """Return whether a rerun was started before."""

    async def rerun(self, rerun: NextRun, seconds_left: float) -> QATechRunRecord:
        """Start a rerun, or find it; no request is repeated once the time is over."""

    async def wait(self, record: QATechRunRecord, seconds_left: float) -> QATechRun:
        """Wait until a run has ended; at the deadline that is `WaitTimedOut`."""

    async def end_of(self, record: QATechRunRecord, seen: datetime | None) -> datetime | None:
        """Return when a run was first seen to have ended: what is on record, else what was seen now, if anything."""

    async def details_of(self, run: QATechRun, seconds_left: float) -> Details:
        """Return the details of the tests that did not pass."""

    async def decide(self, first: QATechRunRecord, report: GateReport) -> GateDecision:
        """Ask a person."""

    async def record_pass(self, first: QATechRunRecord) -> bool:
        """Record what a campaign has passed for; return whether a later attempt will know."""

    async def end(self, first: QATechRunRecord, report: GateReport) -> GateReport:
        """Record and publish a report, and return it as it was published; whatever fails, the verdict stands."""


class CheckSteps(Protocol):
    """What a campaign with a release check asks of the place that it runs in, besides."""

    async def has_started_check(self, first: QATechRunRecord) -> bool:
        """Return whether the release check was started before."""

    async def start_check(self, first: QATechRunRecord, seconds_left: float) -> QATechStartedReleaseCheck:
        """Start the release check, or find it; no request is repeated once the time is over."""

    async def wait_for_check(self, check: QATechStartedReleaseCheck, seconds_left: float) -> QATechReleaseCheck:
        """Wait until the release check has ended; at the deadline that is `WaitTimedOut`."""


@dataclass
class GateCampaign:
    steps: Steps
    policy: GatePolicy
    logger: Any = field(default_factory=lambda: logging.getLogger(__name__))
    asks_on: frozenset[Verdict] = frozenset()
    first_poll_seconds: float = 0.0
    check: CheckSteps | None = None
    check_report: ReportedReleaseCheck | None = None
    attempts: list[ObservedAttempt] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _latest: datetime = field(default=datetime.min.replace(tzinfo=timezone.utc), init=False)

    @property
    def campaign(self) -> Campaign:
        return recognise(self.attempts)

    async def run(self) -> GateReport:
        """Go from the first run to the report.

        Raises:
            QATechError: The first run could not be started or followed; there is no evidence to report.
        """
        beginning = await self.steps.begin()
        first, seconds_left = beginning.first, beginning.seconds_left
        self._note_what_is_known_of(beginning)
        # It goes on beside the runs, and is waited for after them.
        started = await self._start_check(self.check, first, seconds_left) if self.check is not None else None
        await self._observe(first, seconds_left())
        while (rerun := self._next_rerun()) is not None:
            record = await self._rerun(first, rerun, seconds_left)
            if record is None:
                break
            await self._observe_rerun(record, seconds_left(), rerun)
        if self.check is not None:
            self.check_report = await self._end_check(self.check, started, seconds_left())
        report = self._report(beginning)
        if report.passed and not await self.steps.record_pass(first):
            where = first.run_url or "address unknown"
            self._note(
                Incident.PASS_NOT_RECORDED,
                f"Run {first.run_short_id} ({where}) passed, and that could not be recorded. Name what is tested with "
                "target=..., or retry: it is tested again.",
            )
            report = self._report(beginning)
        if report.verdict in self.asks_on:
            try:
                decision = await self.steps.decide(first, report)
                report = report.model_copy(update={"decision": decision})
            except Exception as error:  # nobody could be asked, so nobody has approved
                self.logger.error("Nobody could be asked: %s", error)
                self.notes.append(f"Nobody could be asked: {_text_of(error)}")
                report = self._report(beginning)
        return await self.steps.end(first, report)

    def _note_what_is_known_of(self, beginning: Beginning) -> None:
        first = beginning.first
        self.notes += beginning.notes
        where = first.run_url or "address unknown"
        if beginning.has_stale_pass:
            self._note(
                Incident.STALE_PASS,
                f"Run {first.run_short_id} was started, or has passed, for something else ({where}). Name what is "
                "tested with target=..., or start a new run.",
            )
        if first.test_count_is_unreadable:
            self._note(
                Incident.COUNT_UNREADABLE, f"The number of tests of run {first.run_short_id} cannot be read ({where})."
            )

    def _now(self) -> datetime:
        """Return the time, which never goes back: a quarantine that was over for a gate does not begin again."""
        self._latest = max(self._latest, datetime.now(timezone.utc))
        return self._latest

    def _next_rerun(self) -> Rerun | None:
        today = self.policy.quarantine_day(self._now())
        decision = next_rerun(self.campaign, self.policy, today=today, incidents=self.incidents)
        if isinstance(decision, Rerun):
            return decision
        if decision.reason not in ("nothing_open", "gate_passes"):
            self.logger.info("No rerun: %s", decision.sentence)
        return None

    async def _rerun(
        self, first: QATechRunRecord, rerun: Rerun, seconds_left: Callable[[], float]
    ) -> QATechRunRecord | None:
        """Start a rerun; None where none could be started, and then an incident says why."""
        ids = self.campaign.project_test_case_ids(rerun.test_ids) if rerun.kind == "test_cases" else None
        base = self.attempts[rerun.base]
        wanted = NextRun(first, len(self.attempts), base.run, rerun.kind == "failed_only", ids)
        try:
            # A rerun that was started in time counts, however late it is polled.
            if seconds_left() <= 0 and not await self.steps.is_on_record(wanted):
                self.logger.warning("No rerun: the deadline has passed.")
                self.incidents.append(Incident.DEADLINE_PASSED)
                return None
            if ids is not None and len(ids) < len(rerun.test_ids):
                self.logger.warning("No rerun: QA.tech did not give the ids of all open tests.")
                return None
            return await self.steps.rerun(wanted, seconds_left())
        except UsageLimitError as error:
            self._note(Incident.USAGE_LIMIT, str(error))
        except NothingToRerunError as error:
            self._note(Incident.NOTHING_TO_RERUN, str(error))
        except StartOutcomeUnknown as error:
            self._note(Incident.OUTCOME_UNKNOWN, str(error))
        except Exception as error:  # what was found out so far is judged and reported, whatever stops the rerun
            where = f"Run {base.run.run_short_id} ({base.run_url or 'address unknown'}) was not rerun."
            self._note(Incident.RERUN_REFUSED, f"{where} {_text_of(error)}")
        return None

    async def _start_check(
        self, check: CheckSteps, first: QATechRunRecord, seconds_left: Callable[[], float]
    ) -> QATechStartedReleaseCheck | None:
        """Start the release check; None where it could not be started, and then an incident says why."""
        try:
            if seconds_left() > 0 or await check.has_started_check(first):
                return await check.start_check(first, seconds_left())
            why = "The deadline has passed."
        except Exception as error:  # the tests are evidence, whatever becomes of the check
            why = _text_of(error)
        self._note(Incident.RELEASE_CHECK_INCOMPLETE, f"No release check could be waited for: {why}")
        return None

    async def _end_check(
        self, check: CheckSteps, started: QATechStartedReleaseCheck | None, seconds_left: float
    ) -> ReportedReleaseCheck:
        if started is None:
            return ReportedReleaseCheck()
        url = safe_url(started.url)
        where = f"Release check {started.short_id} ({url or 'address unknown'})"
        result, why = QATechReleaseCheck(short_id=started.short_id), None
        try:
            result = await check.wait_for_check(started, max(0.0, seconds_left))
        except WaitTimedOut as error:
            result, why = result.model_copy(update={"status": error.status or ""}), str(error)
        except Exception as error:
            why = f"{where} could not be followed. {_text_of(error)}"
        report = report_release_check(result, url)
        if not report.is_complete:
            if why is None and report.status == "COMPLETED":
                why = f"{where} has findings that cannot be read."
            self._note(Incident.RELEASE_CHECK_INCOMPLETE, why or f"{where} ended as {report.status}.")
        return report

    def _note(self, incident: Incident, sentence: str) -> None:
        # A run that takes longer than its gate is no error; the report says so.
        log = self.logger.warning if incident is Incident.DEADLINE_PASSED else self.logger.error
        log("%s", sentence)
        if incident not in self.incidents:
            self.incidents.append(incident)
        self.notes.append(plain_text(sentence, MAX_SENTENCE))

    async def _observe_rerun(self, record: QATechRunRecord, timeout_seconds: float, rerun: Rerun) -> None:
        try:
            await self._observe(record, timeout_seconds, rerun)
        except Exception as error:  # the attempts before it are evidence, and are reported
            where = f"Run {record.run_short_id} ({record.run_url or 'address unknown'}) could not be followed."
            self._note(Incident.WAIT_GAVE_UP, f"{where} {_text_of(error)}")
            unknown = QATechRun(run_short_id=record.run_short_id)
            self.attempts.append(self._attempt(record, unknown, rerun))

    async def _observe(self, record: QATechRunRecord, timeout_seconds: float, rerun: Rerun | None = None) -> None:
        watched_since = time.monotonic()
        finished_at: datetime | None = None
        try:
            run = await self.steps.wait(record, max(0.0, timeout_seconds))
        except WaitTimedOut as error:
            self._note(Incident.DEADLINE_PASSED, str(error))
            run = error.run or QATechRun(run_short_id=record.run_short_id)
        else:
            # Nobody knows when a run that is resumed after its end has ended, unless that is on record.
            is_seen = not record.is_resumed or time.monotonic() - watched_since > self.first_poll_seconds
            finished_at = await self.steps.end_of(record, datetime.now(timezone.utc) if is_seen else None)
        left = timeout_seconds - (time.monotonic() - watched_since)
        self.attempts.append(self._attempt(record, run, rerun, finished_at, await self.steps.details_of(run, left)))

    def _attempt(
        self,
        record: QATechRunRecord,
        run: QATechRun,
        rerun: Rerun | None,
        finished_at: datetime | None = None,
        details: Details = Details(),  # noqa: B008 - frozen
    ) -> ObservedAttempt:
        return ObservedAttempt(
            kind=record.kind,
            run=run.model_copy(update={"issues": [*details.issues]}) if details.issues else run,
            run_url=record.run_url or safe_url(run.url),
            test_count=record.test_count,
            started_at=record.started_at,
            finished_at=finished_at,
            details=dict(details.by_short_id),
            rerun_of=self.attempts[rerun.base].run.run_short_id if rerun else None,
            filter=rerun.kind if rerun else None,
            details_lost=details.lost,
            issues_lost=details.issues_lost,
        )

    def _report(self, beginning: Beginning) -> GateReport:
        first, asked = beginning.first, beginning.subject
        # QA.tech's answer tells the plan where the request left it to the project.
        plan = {"plan_short_id": first.plan_short_id or asked.plan_short_id, "plan_name": first.plan_name}
        subject = GateSubject(**{**dict(asked), **plan})
        return build_report(
            self.campaign,
            self.policy,
            subject,
            ended_at=self._now(),
            incidents=self.incidents,
            notes=self.notes,
            evidence_is_older=beginning.evidence_is_older,
            is_one_run_only=beginning.is_one_run_only,
            release_check=self.check_report,
        )


def _text_of(error: Exception) -> str:
    # Our own errors are sentences; others may be a single word.
    text = str(error) if isinstance(error, QATechError) else f"{type(error).__name__}: {error}"
    return plain_text(text, MAX_SENTENCE)

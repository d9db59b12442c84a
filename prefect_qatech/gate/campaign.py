"""One gate at work: its first run, its reruns, what was observed, and the report of it."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

import anyio
from prefect.context import FlowRunContext

from prefect_qatech import artifacts, events, ledger
from prefect_qatech._prefect import run_logger
from prefect_qatech.addresses import is_web_link
from prefect_qatech.artifacts import artifact_key
from prefect_qatech.client import QATechClient
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.exceptions import (
    InvalidInputError,
    NothingToRerunError,
    QATechAPIError,
    QATechError,
    StartOutcomeUnknown,
    UsageLimitError,
    WaitTimedOut,
)
from prefect_qatech.gate import journal, suspend
from prefect_qatech.gate.approval import ask, ask_suspended
from prefect_qatech.gate.settings import GateSettings
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.models import (
    FINAL_STATUSES,
    QATechRun,
    QATechRunRequest,
    QATechRunTestCaseDetails,
)
from prefect_qatech.report.build import build_report
from prefect_qatech.report.escape import plain_text
from prefect_qatech.report.model import GateDecision, GateReport
from prefect_qatech.tasks import address_of, apublish_gate_report, arerun_test_run, astart_test_run, no_retry_after
from prefect_qatech.twins import sleep_unless_stopped
from prefect_qatech.verdict import (
    GatePolicy,
    Incident,
    Rerun,
)
from prefect_qatech.verdict.identity import Campaign, ObservedAttempt, recognise
from prefect_qatech.verdict.rerun import next_rerun
from prefect_qatech.waits import await_for_test_run, turn_of

MAX_SENTENCE = 1_500
DETAILS_AT_ONCE = 8
DETAILS_SECONDS = 120.0
"""How long the details of an attempt's tests are asked for, all together, however the requests fail."""
DETAILS_FIRST_PAUSE_SECONDS = 1.0
DETAILS_MAX_PAUSE_SECONDS = 15.0
_RECORD_SECONDS = 30.0


@dataclass
class GateCampaign:
    """One gate at work: what was asked for, and what was observed so far."""

    credentials: QATechCredentials
    request: QATechRunRequest
    settings: GateSettings
    attempts: list[ObservedAttempt] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    evidence_is_older: bool = False
    is_one_run_only: bool = False

    @property
    def policy(self) -> GatePolicy:
        return self.settings.policy

    @property
    def campaign(self) -> Campaign:
        return recognise(self.attempts)

    async def run(self, run: QATechRunRecord | str | None) -> GateReport:
        deadline_seconds = self.policy.deadline_seconds
        with no_retry_after(deadline_seconds):
            first = await journal.through_outages(lambda: self._first(run), deadline_seconds)
        began = await journal.through_outages(lambda: journal.window_of(first), deadline_seconds, first)
        time_left = _time_left(began, deadline_seconds)
        await self._free_the_worker(first, time_left)
        await self._observe(first, time_left())
        while (rerun := self._next_rerun()) is not None:
            record = await self._rerun(first, rerun, time_left)
            if record is None:
                break
            await self._free_the_worker(record, time_left)
            await self._observe_rerun(record, time_left(), rerun)
        report = self.report(first)
        if report.verdict in self.settings.asks_on:
            report = await self._with_decision(first, report)
        if report.passed and (self.settings.target is None or run is not None):
            await self._keep(lambda: journal.record_pass(first, self.settings.target), "The pass")
        try:
            await apublish_gate_report(report, directory=self.settings.report_directory)
        except Exception as error:  # the verdict counts, not the files that tell it
            run_logger().error("The report could not be published as a whole: %s", error)
        # Whoever retries a pass waits for nothing and reruns nothing, so no new time begins for it.
        if not report.passed:
            await self._keep(lambda: journal.record_end(first, report.verdict.value), "The end of the campaign")
        return report

    async def _first(self, run: QATechRunRecord | str | None) -> QATechRunRecord:
        if run is None:
            first = await astart_campaign(
                self.credentials, self.request, target=self.settings.target, label=self.settings.slot_label
            )
        else:
            first = await self._attach(run)
            if await journal.has_stale_pass(first, self.settings.target):
                self._note(
                    Incident.STALE_PASS,
                    f"Run {first.run_short_id} has passed before ({first.run_url or 'address unknown'}). Name what is "
                    "tested with target=..., or start a new run.",
                )
            self.is_one_run_only = first.kind == "attached"
        self.evidence_is_older = await journal.is_older(first)
        if first.test_count_is_unreadable:
            self._note(
                Incident.COUNT_UNREADABLE,
                f"How many tests run {first.run_short_id} has cannot be read ({first.run_url or 'address unknown'}).",
            )
        return first

    async def _attach(self, run: QATechRunRecord | str) -> QATechRunRecord:
        """Take a run that was started elsewhere; recorded like a start, so that a restart keeps its deadline."""
        known = run if isinstance(run, QATechRunRecord) else None
        run_short_id = ledger.short_id_of(run)
        if (of := await ledger.first_run_of(run)) is not None:
            raise InvalidInputError(
                f"Run {run_short_id} is a rerun of {of}, and holds a part of that run's tests only. Nothing was sent. "
                f'Judge the first run of the campaign: run="{of.run_short_id}".'
            )
        call = ledger.Call(
            kind="attach",
            what=f"run {run_short_id}",
            fingerprint=ledger.fingerprint(run_short_id),
            address=address_of(self.credentials),
            # One run is one piece of evidence, wherever in the flow run it is asked for.
            label=self.settings.slot_label or f"run {run_short_id}",
        )
        attached = QATechRunRecord(kind="attached", run_short_id=run_short_id, started_at=datetime.now(timezone.utc))
        return await ledger.attach(call, known or attached)

    async def _free_the_worker(self, record: QATechRunRecord, time_left: Callable[[], float]) -> None:
        """Suspend the flow run while a run goes on; whoever is resumed comes here again, through the ledger."""
        if self.settings.waiting == "suspend" and time_left() > 0:
            await suspend.suspend_until_ended(self.credentials, record, time_left(), self.settings.polling)

    async def _with_decision(self, first: QATechRunRecord, report: GateReport) -> GateReport:
        try:
            return report.model_copy(update={"decision": await self._decide(first, report)})
        except Exception as error:  # nobody could be asked, so nobody has approved
            run_logger().error("Nobody could be asked: %s", error)
            self.notes.append(f"Nobody could be asked: {_told(error)}")
            return self.report(first)

    async def _decide(self, first: QATechRunRecord, report: GateReport) -> GateDecision:
        """Ask a person, unless this evidence has been approved before."""
        evidence = report.evidence_sha256
        if (approval := await journal.approval_of(first, evidence)) is not None:
            return approval
        context = FlowRunContext.get()
        run_count = context.flow_run.run_count if context is not None and context.flow_run is not None else 0
        key = f"qatech-{evidence[:16]}-{run_count}"
        is_suspending = self.settings.waiting == "suspend"
        note = await suspend.read_note(key) if is_suspending else None
        if note is None:
            # Who decides must see what on.
            await artifacts.publish_report(report)
            await events.emit_gate_asked(report)
        seconds = self.settings.decision_timeout_seconds
        if is_suspending:
            note = note or await suspend.write_note(key, "decision", seconds, self.credentials, first)
            decision = await ask_suspended(report, until=note.until, key=key)
        else:
            decision = await ask(report, timeout_seconds=seconds, key=key)
        if decision.approved:
            await journal.record_approval(first, decision)
        return decision

    def _next_rerun(self) -> Rerun | None:
        decision = next_rerun(self.campaign, self.policy, now=datetime.now(timezone.utc), incidents=self.incidents)
        if isinstance(decision, Rerun):
            return decision
        if decision.reason not in ("nothing_open", "gate_passes"):
            run_logger().info("No rerun: %s", decision.sentence)
        return None

    async def _rerun(
        self, first: QATechRunRecord, rerun: Rerun, time_left: Callable[[], float]
    ) -> QATechRunRecord | None:
        """Start a rerun; None where none could be started, and then an incident says why."""
        label = f"{first.slot}/rerun-{len(self.attempts)}"
        ids = self.campaign.project_test_case_ids(rerun.test_ids) if rerun.kind == "test_cases" else None
        base = self.attempts[rerun.base]
        try:
            # A rerun that was started in time counts, however late it is polled.
            if time_left() <= 0 and not await journal.through_outages(
                lambda: ledger.is_on_record(first, label), _RECORD_SECONDS, first
            ):
                run_logger().warning("No rerun: the deadline has passed.")
                self.incidents.append(Incident.DEADLINE_PASSED)
                return None
            if ids is not None and len(ids) < len(rerun.test_ids):
                run_logger().warning("No rerun: QA.tech has not told the ids of all tests that are open.")
                return None

            async def send() -> QATechRunRecord:
                return await arerun_test_run(
                    self.credentials,
                    base.run.run_short_id,
                    failed_only=rerun.kind == "failed_only",
                    test_case_ids=ids,
                    label=label,
                    artifact_key=artifact_key(
                        "rerun", self.settings.label or first.plan_short_id or first.run_short_id
                    ),
                )

            with no_retry_after(time_left()):
                return await journal.through_outages(send, max(0.0, time_left()), first)
        except UsageLimitError as error:
            self._note(Incident.USAGE_LIMIT, str(error))
        except NothingToRerunError as error:
            self._note(Incident.NOTHING_TO_RERUN, str(error))
        except StartOutcomeUnknown as error:
            self._note(Incident.OUTCOME_UNKNOWN, str(error))
        except Exception as error:  # what was found out so far is judged and reported, whatever stops the rerun
            where = f"Run {base.run.run_short_id} ({base.run_url or 'address unknown'}) was not rerun."
            self._note(Incident.RERUN_REFUSED, f"{where} {_told(error)}")
        return None

    def _note(self, incident: Incident, sentence: str) -> None:
        run_logger().error("%s", sentence)
        if incident not in self.incidents:
            self.incidents.append(incident)
        self.notes.append(plain_text(sentence, MAX_SENTENCE))

    async def _keep(self, write: Callable[[], Awaitable[None]], what: str) -> None:
        """Record something about a campaign that has a verdict; the verdict counts more than the record of it."""
        try:
            await journal.through_outages(write, _RECORD_SECONDS)
        except Exception as error:
            run_logger().error(
                "%s could not be recorded (%s): a retry of this flow run may judge the same evidence again.",
                what,
                error,
            )

    async def _observe_rerun(self, record: QATechRunRecord, timeout_seconds: float, rerun: Rerun) -> None:
        try:
            await self._observe(record, timeout_seconds, rerun)
        except Exception as error:  # the attempts before it are evidence, and are reported
            where = f"Run {record.run_short_id} ({record.run_url or 'address unknown'}) could not be followed."
            self._note(Incident.WAIT_GAVE_UP, f"{where} {_told(error)}")
            unknown = QATechRun(run_short_id=record.run_short_id)
            self.attempts.append(self._attempt(record, unknown, rerun))

    async def _observe(self, record: QATechRunRecord, timeout_seconds: float, rerun: Rerun | None = None) -> None:
        subject = self.settings.label or record.plan_short_id or self.request.test_plan_short_id or record.run_short_id
        watched_since = time.monotonic()
        finished_at: datetime | None = None
        try:
            run = await await_for_test_run(
                self.credentials,
                record,
                max(0.0, timeout_seconds),
                polling=self.settings.polling,
                artifact_key=artifact_key("progress", subject),
            )
        except WaitTimedOut as error:
            self._note(Incident.DEADLINE_PASSED, str(error))
            run = error.run or QATechRun(run_short_id=record.run_short_id)
        else:
            # A run that is resumed after its end ended nobody knows when.
            if not record.found or time.monotonic() - watched_since > self.settings.polling.first_seconds:
                finished_at = datetime.now(timezone.utc)
        left = timeout_seconds - (time.monotonic() - watched_since)
        details, lost = await _details_of(self.credentials, run, left)
        self.attempts.append(self._attempt(record, run, rerun, finished_at, details, lost))

    def _attempt(
        self,
        record: QATechRunRecord,
        run: QATechRun,
        rerun: Rerun | None,
        finished_at: datetime | None = None,
        details: dict[str, QATechRunTestCaseDetails] | None = None,
        details_lost: frozenset[str] = frozenset(),
    ) -> ObservedAttempt:
        return ObservedAttempt(
            kind=record.kind,
            run=run,
            run_url=record.run_url or (run.url if is_web_link(run.url) else None),
            test_count=record.test_count,
            started_at=record.started_at,
            finished_at=finished_at,
            details=details or {},
            rerun_of=self.attempts[rerun.base].run.run_short_id if rerun else None,
            filter=rerun.kind if rerun else None,
            details_lost=details_lost,
        )

    def report(self, first: QATechRunRecord) -> GateReport:
        context = FlowRunContext.get()
        return build_report(
            self.campaign,
            self.policy,
            ended_at=datetime.now(timezone.utc),
            incidents=self.incidents,
            plan_short_id=first.plan_short_id or self.request.test_plan_short_id,
            plan_name=first.plan_name,
            label=self.settings.label,
            flow_run_id=str(context.flow_run.id) if context is not None and context.flow_run is not None else None,
            target=self.settings.target,
            evidence_is_older=self.evidence_is_older,
            is_one_run_only=self.is_one_run_only,
            notes=self.notes,
        )


async def astart_campaign(
    credentials: QATechCredentials, request: QATechRunRequest, *, target: str | None, label: str | None
) -> QATechRunRecord:
    """Start the first run of a campaign, or find it: unless it has passed in an earlier attempt of the flow run.

    Args:
        credentials: How to reach QA.tech.
        request: What to run, where.
        target: What is tested, where it is named.
        label: Names this start within the flow run.

    Returns:
        The run.
    """
    record = first = await astart_test_run(credentials, request, target=target, label=label)
    again = 0
    while record.found and await journal.has_stale_pass(record, target):
        again += 1
        run_logger().warning(
            "Run %s passed in an earlier attempt of this flow run, and what runs now may be another version: it is "
            "tested again. Name what is tested (target=...) to keep its evidence on a retry.",
            record.run_short_id,
        )
        record = await astart_test_run(credentials, request, target=target, label=f"{first.slot}/again-{again}")
    return record


def _told(error: Exception) -> str:
    # Our own errors say what they are; others may say nothing but a word.
    text = str(error) if isinstance(error, QATechError) else f"{type(error).__name__}: {error}"
    return plain_text(text, MAX_SENTENCE)


def _time_left(began: datetime, deadline_seconds: float) -> Callable[[], float]:
    """Give a function that tells the seconds until a deadline, by a monotonic clock from now on."""
    passed = max(0.0, (datetime.now(timezone.utc) - began).total_seconds())
    deadline = time.monotonic() + deadline_seconds - passed
    return lambda: deadline - time.monotonic()


async def _details_of(
    credentials: QATechCredentials, run: QATechRun, seconds_left: float
) -> tuple[dict[str, QATechRunTestCaseDetails], frozenset[str]]:
    """Ask for the details of each test case that ended without a pass, for its error code.

    A request that fails and may be repeated is repeated like a poll, until the deadline.

    Returns:
        Run test case short id to its details, and those whose details could not be had.
    """
    wanted = [
        case.short_id
        for case in run.test_cases
        if case.short_id and case.status in FINAL_STATUSES and (case.status, case.result) != ("COMPLETED", "PASSED")
    ]
    found: dict[str, QATechRunTestCaseDetails] = {}
    if not wanted:
        return found, frozenset()
    limit, wait_for_turn = anyio.CapacityLimiter(DETAILS_AT_ONCE), turn_of(credentials)
    # At the deadline each is asked for once, as the run itself is polled once.
    deadline = time.monotonic() + min(DETAILS_SECONDS, seconds_left)

    async def ask_for(client: QATechClient, short_id: str) -> None:
        pause = DETAILS_FIRST_PAUSE_SECONDS
        while True:
            try:
                async with limit:
                    await wait_for_turn(max(0.0, deadline - time.monotonic()))
                    found[short_id] = await client.get_run_test_case(short_id)
                return
            except (QATechAPIError, ValueError) as error:
                retryable = isinstance(error, QATechAPIError) and error.retryable
                wait = max(pause, getattr(error, "retry_after_seconds", None) or 0.0)
                if not retryable or time.monotonic() + wait > deadline:
                    run_logger().warning("The details of test case %s could not be had: %s", short_id, error)
                    return
            await sleep_unless_stopped(wait)
            pause = min(2 * pause, DETAILS_MAX_PAUSE_SECONDS)

    with anyio.move_on_after(max(0.0, deadline - time.monotonic()) + credentials.timeout_seconds):
        async with credentials.get_client() as client, anyio.create_task_group() as group:
            for short_id in wanted:
                group.start_soon(ask_for, client, short_id)
    return found, frozenset(wanted) - set(found)

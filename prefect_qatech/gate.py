"""The flow `release_gate`: run -> wait -> rerun what failed -> verdict -> report. Its async version is `arelease_gate`.

What a retry means
    Evidence is about a target. `target=` names it: a commit, an image digest, a version of the data. The gate replays
    what its ledger holds: a flow retry, "Retry" in the UI and a restart after a crash find the runs that were started.

    - after a pass, for the same named target: the same evidence, judged again; for another target: another campaign;
    - after a pass without a target: the gate tests again, because the steps before it may have changed what runs. A
      pass is good for the attempt of the flow run in which it was found;
    - after a crash or a kill: the campaign goes on where it was, under the same deadline;
    - after a time-out: the run is polled again, with `deadline_seconds` anew, because somebody asked again;
    - after a verdict that was no pass: the same runs are polled and judged again, and reruns that the policy has left
      may be spent; nothing is started anew;
    - after a person's approval: the approval stands for the same evidence, and is void for any other; after a "no" the
      person is asked again, because somebody asked again;
    - for a fresh start: run the deployment (or the flow) again. A new flow run has a new ledger.

Once the first run has ended, whatever goes wrong (a rerun that is refused, a wait that gives up, a Prefect API that is
down) is an incident in a report with a verdict.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

import anyio
from prefect import flow
from prefect.context import FlowRunContext

from prefect_qatech import artifacts, events, journal, ledger, suspension
from prefect_qatech._prefect import run_logger
from prefect_qatech.artifacts import artifact_key, is_web_link
from prefect_qatech.asking import ask, ask_suspended
from prefect_qatech.campaign import GateDecision, GateReport, build_report
from prefect_qatech.client import QATechClient
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.exceptions import (
    GateFailed,
    GateInconclusive,
    GateNotPassed,
    InvalidInputError,
    NothingToRerunError,
    QATechAPIError,
    QATechError,
    StartOutcomeUnknown,
    UsageLimitError,
    WaitTimedOut,
)
from prefect_qatech.identity import Campaign, ObservedAttempt, next_rerun, recognise
from prefect_qatech.ids import check_run_short_id
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.models import (
    FINAL_STATUSES,
    QATechRun,
    QATechRunRequest,
    QATechRunTestCaseDetails,
    as_request,
)
from prefect_qatech.polling import QATechPolling
from prefect_qatech.report import check_report_directory, clear_report_files
from prefect_qatech.report.escape import cell_text
from prefect_qatech.tasks import apublish_gate_report, arerun_test_run, astart_test_run, no_retry_after
from prefect_qatech.twins import run_sync, sleep_unless_stopped
from prefect_qatech.verdict import (
    GatePolicy,
    Incident,
    Rerun,
    TestVerdict,
    Verdict,
)
from prefect_qatech.waits import await_for_test_run, turn_of

DETAILS_AT_ONCE = 8
DETAILS_SECONDS = 120.0
"""How long the details of an attempt's tests are asked for, all together, however the requests fail."""
DETAILS_FIRST_PAUSE_SECONDS = 1.0
DETAILS_MAX_PAUSE_SECONDS = 15.0
_RECORD_SECONDS = 30.0
_MOST_NAMES = 10
_LONGEST_DECISION_SECONDS = 30 * 24 * 3600
OnNoPass = Literal["stop", "ask"]
HowToWait = Literal["poll", "suspend"]
_DECIDED = (TestVerdict.PASSED, TestVerdict.RECOVERED, TestVerdict.FLAKY, TestVerdict.FAILED)


@dataclass(frozen=True)
class GateSettings:
    """How a gate goes about its work; `release_gate` tells of each."""

    policy: GatePolicy = field(default_factory=GatePolicy)
    target: str | None = None
    label: str | None = None
    slot_label: str | None = None
    polling: QATechPolling = field(default_factory=QATechPolling)
    report_directory: str | None = None
    raise_unless_passed: bool = True
    on_inconclusive: OnNoPass = "stop"
    on_failed: OnNoPass = "stop"
    decision_timeout_seconds: float = 3600.0
    waiting: HowToWait = "poll"

    def check(self) -> None:
        """Raise where something makes no sense.

        Raises:
            InvalidInputError: Nothing was sent.
        """
        if not 0 < self.decision_timeout_seconds <= _LONGEST_DECISION_SECONDS:
            raise InvalidInputError(
                f"decision_timeout_seconds must be more than 0 and at most {_LONGEST_DECISION_SECONDS:,}"
            )
        if self.target is not None and (not self.target.strip() or not self.target.isprintable()):
            raise InvalidInputError("target must name what is tested, in one line: a commit, say, or leave it out.")
        if self.waiting == "suspend":
            suspension.check_can_suspend()
        if self.report_directory is not None:
            check_report_directory(self.report_directory)

    @property
    def asks_on(self) -> frozenset[Verdict]:
        """The verdicts on which a person is asked."""
        on = {Verdict.INCONCLUSIVE: self.on_inconclusive, Verdict.FAIL: self.on_failed}
        return frozenset(verdict for verdict, what in on.items() if what == "ask")


@dataclass
class _Gate:
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
        run_short_id = known.run_short_id if known is not None else check_run_short_id(str(run))

        async def send() -> QATechRunRecord:
            now = datetime.now(timezone.utc)
            return known or QATechRunRecord(kind="attached", run_short_id=run_short_id, started_at=now)

        fingerprint = ledger.fingerprint(self.credentials.api_url, "attach", run_short_id)
        # One run is one piece of evidence, wherever in the flow run it is asked for.
        label = self.settings.slot_label or f"run {run_short_id}"
        return await ledger.once("start", f"run {run_short_id}", fingerprint, label, send, busy_seconds=0)

    async def _free_the_worker(self, record: QATechRunRecord, time_left: Callable[[], float]) -> None:
        """Suspend the flow run while a run goes on; whoever is resumed comes here again, through the ledger."""
        if self.settings.waiting == "suspend" and time_left() > 0:
            await suspension.suspend_until_ended(self.credentials, record, time_left(), self.settings.polling)

    async def _with_decision(self, first: QATechRunRecord, report: GateReport) -> GateReport:
        try:
            return report.model_copy(update={"decision": await self._decide(first, report)})
        except Exception as error:  # nobody could be asked, so nobody has approved
            run_logger().error("Nobody could be asked: %s", error)
            self.notes.append(f"Nobody could be asked: {_one_line(f'{type(error).__name__}: {error}')}")
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
        note = await suspension.read_note(key) if is_suspending else None
        if note is None:
            # Who decides must see what on.
            await artifacts.publish_report(report)
            await events.emit_gate_asked(report)
        seconds = self.settings.decision_timeout_seconds
        if is_suspending:
            note = note or await suspension.write_note(key, "decision", seconds, self.credentials, first)
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
                    base.run.short_id,
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
            what = str(error) if isinstance(error, QATechError) else f"{type(error).__name__}: {error}"
            where = f"Run {base.run.short_id} ({base.run_url or 'address unknown'}) was not rerun."
            self._note(Incident.RERUN_REFUSED, f"{where} {what}")
        return None

    def _note(self, incident: Incident, sentence: str) -> None:
        run_logger().error("%s", sentence)
        if incident not in self.incidents:
            self.incidents.append(incident)
        self.notes.append(_one_line(sentence))

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
            what = str(error) if isinstance(error, QATechError) else f"{type(error).__name__}: {error}"
            where = f"Run {record.run_short_id} ({record.run_url or 'address unknown'}) could not be followed."
            self._note(Incident.WAIT_GAVE_UP, f"{where} {what}")
            unknown = QATechRun(short_id=record.run_short_id)
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
            run = error.run or QATechRun(short_id=record.run_short_id)
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
            rerun_of=self.attempts[rerun.base].run.short_id if rerun else None,
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


def _not_passed(report: GateReport) -> GateNotPassed:
    """Put what a release manager needs into the message that the UI shows for the flow run."""
    kind = GateFailed if report.verdict is Verdict.FAIL else GateInconclusive
    blocking = [reason.sentence for reason in report.reasons if reason.verdict is not Verdict.PASS]
    names = [test.name for test in report.tests_with(TestVerdict.FAILED)] or [
        test.name for test in report.tests if test.verdict not in _DECIDED
    ]
    # A log makes links of addresses.
    shown = ", ".join(cell_text(name, 120) for name in names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    parts = [
        f"The gate {'failed' if kind is GateFailed else 'is inconclusive'}: the release may not go out.",
        *blocking,
        f"{'Failed' if kind is GateFailed else 'Undecided'}: {shown}{more}." if names else "",
        *map(_one_line, report.notes),
        f"A person was asked; the answer is no: {_one_line(report.decision.reason)}" if report.decision else "",
        f"Run: {report.run_url or report.run_short_id or 'none'}.",
        _what_a_retry_does(report),
    ]
    return kind(" ".join(part for part in parts if part), report=report)


def _what_a_retry_does(report: GateReport) -> str:
    reruns_left = max(0, report.policy.max_reruns - (len(report.attempts) - 1))
    has_ended = all(attempt.status in FINAL_STATUSES for attempt in report.attempts)
    if has_ended and reruns_left == 0:
        return "No reruns are left, so a retry finds the same evidence; for a fresh start run the flow anew."
    may = f" and may spend {reruns_left} more rerun{'s' if reruns_left > 1 else ''}" if reruns_left else ""
    return f"A retry resumes this campaign{may}; for a fresh start run the flow anew."


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:1_500]


async def run_gate(
    credentials: QATechCredentials,
    request: QATechRunRequest | str | None,
    run: QATechRunRecord | str | None,
    settings: GateSettings,
) -> GateReport:
    """Run one gate in the current flow run; `release_gate` tells of the arguments.

    Args:
        credentials: How to reach QA.tech.
        request: What to run, where.
        run: A run to judge instead of starting one.
        settings: The rest.

    Returns:
        The report.
    """
    settings.check()
    if run is not None and request is not None:
        raise InvalidInputError("run judges a run as it is: give run or a request, not both.")
    gate = _Gate(credentials, as_request(request), settings)
    if settings.report_directory is not None:
        # However this gate ends, its directory must not tell of an earlier one.
        clear_report_files(settings.report_directory)
    report = await gate.run(run)
    logger = run_logger()
    for reason in report.reasons:
        logger.info("%s: %s", reason.rule, reason.sentence)
    if report.passed:
        logger.info("The gate passed: %s", report.run_url or report.run_short_id)
        return report
    if report.approved and report.decision is not None:
        by = _one_line(report.decision.decided_by or "nobody who gave a name")
        logger.warning("Not passed, but approved by %s: %s", by, _one_line(report.decision.reason))
        return report
    error = _not_passed(report)
    if settings.raise_unless_passed:
        raise error
    logger.warning("%s", error)
    return report


@flow(name="release-gate", retries=0)
async def arelease_gate(
    credentials: QATechCredentials,
    request: QATechRunRequest | str | None = None,
    *,
    target: str | None = None,
    policy: GatePolicy = GatePolicy(),  # noqa: B008 - frozen, and the UI's form shows it
    run: QATechRunRecord | str | None = None,
    label: str | None = None,
    polling: QATechPolling | None = None,
    report_directory: str | None = None,
    raise_unless_passed: bool = True,
    on_inconclusive: OnNoPass = "stop",
    on_failed: OnNoPass = "stop",
    decision_timeout_seconds: float = 3600.0,
    waiting: HowToWait = "poll",
) -> GateReport:
    """Async version of `release_gate`: the same arguments, result and errors."""
    settings = GateSettings(
        policy=policy,
        target=target,
        label=label,
        slot_label=label,
        polling=polling or QATechPolling(),
        report_directory=report_directory,
        raise_unless_passed=raise_unless_passed,
        on_inconclusive=on_inconclusive,
        on_failed=on_failed,
        decision_timeout_seconds=decision_timeout_seconds,
        waiting=waiting,
    )
    return await run_gate(credentials, request, run, settings)


@flow(name="release-gate", retries=0)
def release_gate(
    credentials: QATechCredentials,
    request: QATechRunRequest | str | None = None,
    *,
    target: str | None = None,
    policy: GatePolicy = GatePolicy(),  # noqa: B008 - frozen, and the UI's form shows it
    run: QATechRunRecord | str | None = None,
    label: str | None = None,
    polling: QATechPolling | None = None,
    report_directory: str | None = None,
    raise_unless_passed: bool = True,
    on_inconclusive: OnNoPass = "stop",
    on_failed: OnNoPass = "stop",
    decision_timeout_seconds: float = 3600.0,
    waiting: HowToWait = "poll",
) -> GateReport:
    """Test a release with QA.tech, rerun only what failed, and decide whether it may go out.

    - Starts exactly one run per gate, and reruns within the policy's budget; see the module for what a retry means.
    - Only evidence of a pass is a pass: an empty, skipped, cancelled, unfinished or unknown outcome never is.
    - Evidence is about a target. Without one, a pass is good for the attempt of the flow run in which it was found.
    - One deadline, `policy.deadline_seconds`, for the campaign; on a time-out the run goes on at QA.tech.
    - An approval never makes a verdict a pass: the report holds both. It counts for the evidence that was shown.

    Args:
        credentials: How to reach QA.tech.
        request: What to run, where: a `QATechRunRequest` or, for short, a plan's id; the project's default plan when
            absent.
        target: What is tested: a commit, an image digest, a version of the data. On a retry, evidence for the same
            target is kept; another target is tested anew.
        policy: What is tolerated, how often is rerun, how long is waited.
        run: Judge this run, started elsewhere or before, instead of starting one: what a start returned or, for short,
            a run's short id.
        label: Names this gate within its flow run; needed where gates with equal requests run side by side.
        polling: How often to poll a run.
        report_directory: Where to write `verdict.json`, `junit.xml`, `ctrf.json` and `summary.md`.
        raise_unless_passed: Whether a verdict that is not a pass raises, so that the flow run fails.
        on_inconclusive: `stop`, or `ask`: the flow run pauses, and a person approves or rejects in the Prefect UI.
        on_failed: The same for a gate that failed.
        decision_timeout_seconds: How long that person has; no answer in time is a no.
        waiting: `poll`, or `suspend`: the process ends while a run goes on, or while a person is asked, and a watcher
            (`flows/watcher.py`) has the flow run go on. For the flow run of a deployment; a sub-flow run cannot.

    Returns:
        The report; of a gate that passed, or (`report.approved`) that a person has approved.

    Raises:
        GateFailed: Tests of the product failed.
        GateInconclusive: The evidence is not enough.
        StartOutcomeUnknown: The run may or may not have been started; nothing retries this.
        QATechAPIError: The gate could not be evaluated: bad ids, no access, no such plan, a service that is down.
        LedgerUnavailable: The Prefect API could not be asked for what was started before.
        InvalidInputError: Something that was passed in makes no sense; nothing was sent.

    Example:
        ```python
        @flow
        def release(version: str):
            report = release_gate(QATechCredentials.load("prod"), "pln_smoke", target=version)
            print(report.verdict)
        ```
    """
    settings = GateSettings(
        policy=policy,
        target=target,
        label=label,
        slot_label=label,
        polling=polling or QATechPolling(),
        report_directory=report_directory,
        raise_unless_passed=raise_unless_passed,
        on_inconclusive=on_inconclusive,
        on_failed=on_failed,
        decision_timeout_seconds=decision_timeout_seconds,
        waiting=waiting,
    )
    return run_sync(lambda: run_gate(credentials, request, run, settings))

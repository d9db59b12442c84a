"""The flow `release_gate`: run -> wait -> rerun what failed -> verdict -> report. Its async twin is `arelease_gate`.

What a retry means
    The gate replays what its ledger holds. A flow retry, "Retry" in the UI and a restart after a crash find the runs
    that were started and start none of them again; a rerun is spent only where the policy's `max_reruns`, counted over
    the whole campaign, leaves one.

    - after a crash or a kill: the campaign goes on where it was, under the same deadline;
    - after a time-out: the run is looked at again, with `deadline_seconds` anew, because somebody asked again;
    - after a verdict: the same evidence, judged again (with the policy's remaining reruns, if there are any);
    - after a person's approval: the approval stands for the same evidence, and is void for any other; after a "no" the
      person is asked again, because somebody asked again;
    - for a fresh start: run the deployment (or the flow) again. A new flow run has a new ledger.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

import anyio
from prefect import flow
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from prefect_qatech import artifacts, events, ledger, suspension
from prefect_qatech.artifacts import artifact_key, is_web_link
from prefect_qatech.asking import ask, ask_suspended
from prefect_qatech.campaign import (
    Campaign,
    GateDecision,
    GateReport,
    ObservedAttempt,
    build_report,
    next_rerun,
    recognise,
)
from prefect_qatech.client import QATechClient
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.exceptions import (
    GateFailed,
    GateInconclusive,
    GateNotPassed,
    NothingToRerunError,
    QATechAPIError,
    StartOutcomeUnknown,
    UsageLimitError,
    WaitTimedOut,
)
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.models import (
    FINAL_STATUSES,
    QATechApplication,
    QATechGitHubTrigger,
    QATechNotification,
    QATechParameters,
    QATechRun,
    QATechRunRequest,
    QATechRunTestCaseDetails,
    check_run_short_id,
)
from prefect_qatech.polling import QATechPolling
from prefect_qatech.report.escape import cell_text
from prefect_qatech.tasks import apublish_gate_report, arerun_test_run, astart_test_run
from prefect_qatech.twins import run_sync
from prefect_qatech.verdict import (
    GatePolicy,
    Incident,
    Rerun,
    TestVerdict,
    Verdict,
)
from prefect_qatech.waits import await_for_test_run

_DETAILS_AT_ONCE = 8
_DETAILS_SECONDS = 120.0
_MOST_NAMES = 10
_LONGEST_DECISION_SECONDS = 30 * 24 * 3600
OnNoPass = Literal["stop", "ask"]
HowToWait = Literal["poll", "suspend"]
_DECIDED = (TestVerdict.PASSED, TestVerdict.RECOVERED, TestVerdict.FLAKY, TestVerdict.FAILED)


@dataclass
class _Gate:
    """One gate at work: what was asked for, and what was observed so far."""

    credentials: QATechCredentials
    request: QATechRunRequest
    policy: GatePolicy
    polling: QATechPolling
    label: str | None
    slot_label: str | None
    report_directory: str | None
    asks_on: frozenset[Verdict]
    decision_timeout_seconds: float
    waiting: HowToWait
    attempts: list[ObservedAttempt] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def campaign(self) -> Campaign:
        return recognise(self.attempts)

    async def run(self, run_short_id: str | None) -> GateReport:
        first = await (self._attach(run_short_id) if run_short_id is not None else self._start())
        time_left = _time_left(await ledger.window_of(first), self.policy.deadline_seconds)
        await self._free_the_worker(first, time_left)
        await self._observe(first, time_left())
        while (rerun := self._next_rerun()) is not None:
            label = f"{first.slot}/rerun-{len(self.attempts)}"
            # A rerun that was started in time counts, however late it is looked at.
            if time_left() <= 0 and not await ledger.is_on_record(first, label):
                get_run_logger().warning("No rerun: the deadline has passed.")
                self.incidents.append(Incident.DEADLINE_PASSED)
                break
            record = await self._rerun(first, rerun, label)
            if record is None:
                break
            await self._free_the_worker(record, time_left)
            await self._observe(record, time_left(), rerun)
        report = self.report(first)
        if report.verdict in self.asks_on:
            report = report.model_copy(update={"decision": await self._decide(first, report)})
        try:
            await apublish_gate_report(report, directory=self.report_directory)
        except Exception as error:  # the verdict counts, not the files that tell it
            get_run_logger().error("The report could not be published as a whole: %s", error)
        # Whoever retries a pass waits for nothing and reruns nothing, so no new time begins for it.
        if not report.passed:
            await ledger.end_of(first, report.verdict.value)
        return report

    async def _free_the_worker(self, record: QATechRunRecord, time_left: Callable[[], float]) -> None:
        """Suspend the flow run while a run goes on; whoever is resumed comes here again, through the ledger."""
        if self.waiting == "suspend" and time_left() > 0:
            await suspension.suspend_until_ended(self.credentials, record, time_left(), self.polling)

    async def _start(self) -> QATechRunRecord:
        return await astart_test_run(self.credentials, self.request, label=self.slot_label)

    async def _decide(self, first: QATechRunRecord, report: GateReport) -> GateDecision:
        """Ask a person, unless this evidence has been approved before."""
        evidence = report.evidence_sha256
        if (approval := await ledger.approval_of(first, evidence)) is not None:
            return approval
        context = FlowRunContext.get()
        run_count = context.flow_run.run_count if context is not None and context.flow_run is not None else 0
        key = f"qatech-{evidence[:16]}-{run_count}"
        note = await suspension.read_note(key) if self.waiting == "suspend" else None
        if note is None:
            # Who decides must see what on.
            await artifacts.publish_report(report)
            await events.emit_gate_asked(report)
        if self.waiting == "suspend":
            seconds = self.decision_timeout_seconds
            note = note or await suspension.write_note(key, "decision", seconds, self.credentials, first)
            decision = await ask_suspended(report, until=note.until, key=key)
        else:
            decision = await ask(report, timeout_seconds=self.decision_timeout_seconds, key=key)
        if decision.approved:
            await ledger.record_approval(first, decision)
        return decision

    async def _attach(self, run_short_id: str) -> QATechRunRecord:
        """Take up a run that was started elsewhere; recorded like a start, so that a restart keeps its deadline."""

        async def send() -> QATechRunRecord:
            return QATechRunRecord(kind="attached", run_short_id=run_short_id, started_at=datetime.now(timezone.utc))

        fingerprint = ledger.fingerprint(self.credentials.api_url, "attach", run_short_id)
        return await ledger.once("start", f"run {run_short_id}", fingerprint, self.slot_label, send, busy_seconds=0)

    def _next_rerun(self) -> Rerun | None:
        decision = next_rerun(self.campaign, self.policy, now=datetime.now(timezone.utc), incidents=self.incidents)
        if isinstance(decision, Rerun):
            return decision
        if decision.reason not in ("nothing_open", "gate_passes"):
            get_run_logger().info("No rerun: %s", decision.sentence)
        return None

    async def _rerun(self, first: QATechRunRecord, rerun: Rerun, label: str) -> QATechRunRecord | None:
        logger = get_run_logger()
        ids = self.campaign.project_test_case_ids(rerun.test_ids) if rerun.kind == "test_cases" else None
        if ids is not None and len(ids) < len(rerun.test_ids):
            logger.warning("No rerun: QA.tech has not told the ids of all tests that are open.")
            return None
        try:
            return await arerun_test_run(
                self.credentials,
                self.attempts[rerun.base].run.short_id,
                failed_only=rerun.kind == "failed_only",
                test_case_ids=ids,
                label=label,
                artifact_key=artifact_key("rerun", self.label or first.plan_short_id or first.run_short_id),
            )
        except UsageLimitError as error:
            self._stopped_by(Incident.USAGE_LIMIT, error)
        except NothingToRerunError as error:
            self._stopped_by(Incident.NOTHING_TO_RERUN, error)
        except StartOutcomeUnknown as error:
            self._stopped_by(Incident.OUTCOME_UNKNOWN, error)
        return None

    def _stopped_by(self, incident: Incident, error: Exception) -> None:
        get_run_logger().error("Rerun stopped: %s", error)
        self.incidents.append(incident)
        self.notes.append(str(error))

    async def _observe(self, record: QATechRunRecord, timeout_seconds: float, rerun: Rerun | None = None) -> None:
        subject = self.label or record.plan_short_id or self.request.test_plan_short_id or record.run_short_id
        watched_since = time.monotonic()
        finished_at: datetime | None = None
        try:
            run = await await_for_test_run(
                self.credentials,
                record,
                max(0.0, timeout_seconds),
                polling=self.polling,
                artifact_key=artifact_key("progress", subject),
            )
        except WaitTimedOut as error:
            self.incidents.append(Incident.DEADLINE_PASSED)
            self.notes.append(str(error))
            run = error.run or QATechRun(short_id=record.run_short_id)
        else:
            # A run that is taken up after its end ended nobody knows when.
            if not record.found or time.monotonic() - watched_since > self.polling.first_seconds:
                finished_at = datetime.now(timezone.utc)
        async with self.credentials.get_client() as client:
            details = await _details_of(client, run)
        self.attempts.append(
            ObservedAttempt(
                kind=record.kind,
                run=run,
                run_url=record.run_url or (run.url if is_web_link(run.url) else None),
                test_count=record.test_count,
                started_at=record.started_at,
                finished_at=finished_at,
                details=details,
                rerun_of=self.attempts[rerun.base].run.short_id if rerun else None,
                filter=rerun.kind if rerun else None,
            )
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
            label=self.label,
            flow_run_id=str(context.flow_run.id) if context is not None and context.flow_run is not None else None,
        )


def _time_left(began: datetime, deadline_seconds: float) -> Callable[[], float]:
    """Give a function that tells the seconds until a deadline, by a monotonic clock from now on."""
    passed = max(0.0, (datetime.now(timezone.utc) - began).total_seconds())
    deadline = time.monotonic() + deadline_seconds - passed
    return lambda: deadline - time.monotonic()


async def _details_of(client: QATechClient, run: QATechRun) -> dict[str, QATechRunTestCaseDetails]:
    """Look at each test case that ended without a pass, for its error code; where a look fails, it stays without."""
    wanted = [
        case.short_id
        for case in run.test_cases
        if case.short_id and case.status in FINAL_STATUSES and (case.status, case.result) != ("COMPLETED", "PASSED")
    ]
    found: dict[str, QATechRunTestCaseDetails] = {}
    limit = anyio.CapacityLimiter(_DETAILS_AT_ONCE)

    async def look(short_id: str) -> None:
        async with limit:
            try:
                found[short_id] = await client.get_run_test_case(short_id)
            except (QATechAPIError, ValueError) as error:
                get_run_logger().warning("Test case %s could not be looked at: %s", short_id, error)

    with anyio.move_on_after(_DETAILS_SECONDS):
        async with anyio.create_task_group() as group:
            for short_id in wanted:
                group.start_soon(look, short_id)
    return found


def _not_passed(report: GateReport, notes: Iterable[str]) -> GateNotPassed:
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
        *map(_one_line, notes),
        f"A person was asked; the answer is no: {_one_line(report.decision.reason)}" if report.decision else "",
        f"Run: {report.run_url or report.run_short_id or 'none'}.",
        "A retry takes up this campaign; for a fresh start run the flow anew.",
    ]
    return kind(" ".join(part for part in parts if part), report=report)


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:1_500]


async def run_gate(
    credentials: QATechCredentials,
    request: QATechRunRequest,
    policy: GatePolicy,
    run_short_id: str | None,
    label: str | None,
    polling: QATechPolling | None,
    report_directory: str | None,
    raise_unless_passed: bool,
    on_inconclusive: OnNoPass,
    on_failed: OnNoPass,
    decision_timeout_seconds: float,
    slot_label: str | None = None,
    waiting: HowToWait = "poll",
) -> GateReport:
    """Run one gate in the current flow run; `release_gate` tells of the arguments.

    Args:
        credentials: See there.
        request: What to run, where.
        policy: See there.
        run_short_id: See there.
        label: The gate's name in reports and keys.
        polling: See there.
        report_directory: See there.
        raise_unless_passed: See there.
        on_inconclusive: See there.
        on_failed: See there.
        decision_timeout_seconds: See there.
        slot_label: The gate's name in the ledger; its label by default.
        waiting: See there.

    Returns:
        The report.
    """
    if not 0 < decision_timeout_seconds <= _LONGEST_DECISION_SECONDS:
        raise ValueError(f"decision_timeout_seconds must be more than 0 and at most {_LONGEST_DECISION_SECONDS:,}")
    if run_short_id is not None:
        check_run_short_id(run_short_id)
        if request != QATechRunRequest():
            raise ValueError(
                "run_short_id takes up a run as it is: a plan, test cases, applications and so on cannot go with it."
            )
    if waiting == "suspend":
        suspension.check_can_suspend()
    said = {Verdict.INCONCLUSIVE: on_inconclusive, Verdict.FAIL: on_failed}
    asks_on = frozenset(verdict for verdict, what in said.items() if what == "ask")
    gate = _Gate(
        credentials,
        request,
        policy,
        polling or QATechPolling(),
        label,
        slot_label or label,
        report_directory,
        asks_on,
        decision_timeout_seconds,
        waiting,
    )
    report = await gate.run(run_short_id)
    logger = get_run_logger()
    for reason in report.reasons:
        logger.info("%s: %s", reason.rule, reason.sentence)
    if report.passed:
        logger.info("The gate passed: %s", report.run_url or report.run_short_id)
        return report
    if report.approved and report.decision is not None:
        by = _one_line(report.decision.decided_by or "nobody who gave a name")
        logger.warning("Not passed, but approved by %s: %s", by, _one_line(report.decision.reason))
        return report
    error = _not_passed(report, gate.notes)
    if raise_unless_passed:
        raise error
    logger.warning("%s", error)
    return report


@flow(name="release-gate")
async def arelease_gate(
    credentials: QATechCredentials,
    test_plan_short_id: str | None = None,
    *,
    test_case_ids: list[str] | None = None,
    applications: list[QATechApplication] | None = None,
    notifications: list[QATechNotification] | None = None,
    github: QATechGitHubTrigger | None = None,
    parameters: QATechParameters | None = None,
    policy: GatePolicy = GatePolicy(),  # noqa: B008 - frozen, and the UI's form shows it
    run_short_id: str | None = None,
    label: str | None = None,
    polling: QATechPolling | None = None,
    report_directory: str | None = None,
    raise_unless_passed: bool = True,
    on_inconclusive: OnNoPass = "stop",
    on_failed: OnNoPass = "stop",
    decision_timeout_seconds: float = 3600.0,
    waiting: HowToWait = "poll",
) -> GateReport:
    """Async twin of `release_gate`: the same arguments, result and errors."""
    request = QATechRunRequest(
        test_plan_short_id=test_plan_short_id,
        test_case_ids=test_case_ids,
        applications=applications,
        notifications=notifications,
        github=github,
        parameters=parameters,
    )
    return await run_gate(
        credentials,
        request,
        policy,
        run_short_id,
        label,
        polling,
        report_directory,
        raise_unless_passed,
        on_inconclusive,
        on_failed,
        decision_timeout_seconds,
        waiting=waiting,
    )


@flow(name="release-gate")
def release_gate(
    credentials: QATechCredentials,
    test_plan_short_id: str | None = None,
    *,
    test_case_ids: list[str] | None = None,
    applications: list[QATechApplication] | None = None,
    notifications: list[QATechNotification] | None = None,
    github: QATechGitHubTrigger | None = None,
    parameters: QATechParameters | None = None,
    policy: GatePolicy = GatePolicy(),  # noqa: B008 - frozen, and the UI's form shows it
    run_short_id: str | None = None,
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
    - One deadline, `policy.deadline_seconds`, for the campaign; on a time-out the run goes on at QA.tech.
    - An approval never makes a verdict a pass: the report holds both. It counts for the evidence that was shown.

    Args:
        credentials: How to reach QA.tech.
        test_plan_short_id: The plan to run, `pln_...`. Without plan and test cases: the project's default plan.
        test_case_ids: UUIDs of the test cases to run; not together with a plan.
        applications: Applications to test elsewhere than their plan says: a preview deployment, say.
        notifications: Slack channels that QA.tech tells.
        github: The GitHub event behind the release.
        parameters: Values for the project's configs.
        policy: What is tolerated, how often is rerun, how long is waited.
        run_short_id: Take up this run, started elsewhere or before, instead of starting one.
        label: Names this gate within its flow run; needed where gates with equal inputs run side by side.
        polling: How often to look at a run.
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
        ValueError: Something that was passed in makes no sense; nothing was sent.

    Example:
        ```python
        @flow
        def release():
            report = release_gate(QATechCredentials.load("prod"), "pln_smoke")
            print(report.verdict)
        ```
    """
    request = QATechRunRequest(
        test_plan_short_id=test_plan_short_id,
        test_case_ids=test_case_ids,
        applications=applications,
        notifications=notifications,
        github=github,
        parameters=parameters,
    )
    return run_sync(
        lambda: run_gate(
            credentials,
            request,
            policy,
            run_short_id,
            label,
            polling,
            report_directory,
            raise_unless_passed,
            on_inconclusive,
            on_failed,
            decision_timeout_seconds,
            waiting=waiting,
        )
    )

"""A campaign's steps in a flow run: tasks, the ledger, the journal, suspension, and a person in Prefect's UI."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

import anyio

from prefect_qatech import ledger
from prefect_qatech._prefect import PATIENCE_SECONDS, own_flow_run, run_logger
from prefect_qatech._sync import sleep_unless_stopped
from prefect_qatech.addresses import safe_url
from prefect_qatech.api.catalogue import QATechReleaseCheck, QATechReleaseCheckRequest, QATechStartedReleaseCheck
from prefect_qatech.api.requests import QATechRerunRequest, QATechRunRequest, as_request
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.gate import journal, suspend
from prefect_qatech.gate.approval import ask, ask_suspended, turn_to_ask
from prefect_qatech.gate.campaign import Beginning, NextRun, seconds_left
from prefect_qatech.gate.details import Details, details_of
from prefect_qatech.gate.settings import GateSettings
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.polling.exceptions import WaitTimedOut
from prefect_qatech.polling.throttle import Throttle
from prefect_qatech.release_checks import MAKES_CHECK, astart_release_check, await_for_release_check
from prefect_qatech.report import artifacts, events
from prefect_qatech.report.artifacts import gate_key
from prefect_qatech.report.deployed import run_by
from prefect_qatech.report.model import GateDecision, GateReport
from prefect_qatech.report.plan_durations import PlanHistory
from prefect_qatech.report.subject import GateSubject, subject_of
from prefect_qatech.starts import address_of
from prefect_qatech.task_options import no_retry_after
from prefect_qatech.tasks import apublish_gate_report, arerun_in_campaign, astart_in_campaign
from prefect_qatech.waits import await_in_a_gate

_RECORD_SECONDS = 10.0
_PASS_SECONDS = 60.0
"""How long a pass may take to be recorded: without the record it is none."""


@dataclass
class FlowRunSteps:
    """The steps of a gate in the current flow run; `Steps` says what each does. A `run` is judged, and none started."""

    credentials: QATechCredentials
    request: QATechRunRequest
    settings: GateSettings
    run: QATechRunRecord | str | None = None
    _bar_key: str = field(default="", init=False)
    _link_key: str = field(default="", init=False)

    @property
    def _api(self) -> str:
        return ledger.fingerprint(self.credentials.api_url)

    async def begin(self) -> Beginning:
        seconds, run, target = self.settings.policy.deadline_seconds, self.run, self.settings.target
        has_stale_pass = is_of_another_target = False
        if self.settings.waiting == "suspend":
            await suspend.show_wait(None)
        if run is None:
            with no_retry_after(seconds):
                first = await ledger.through_outages(self._start, seconds)
        else:
            first = await ledger.through_outages(lambda: self._attach(run), seconds)
            has_stale_pass = await ledger.through_outages(
                lambda: journal.has_stale_pass(first, target, self._api), seconds, first
            )
            is_of_another_target = None not in (first.target, target) and first.target != target
        began = await ledger.through_outages(lambda: journal.window_of(first), seconds, first)
        usual = await self._usual_test_count(first)
        subject = await this_subject(self.credentials, self.request, self.settings)
        shown = subject.model_copy(update={"plan_short_id": first.plan_short_id or subject.plan_short_id})
        self._link_key = gate_key("run", shown)
        is_named = shown.label or shown.plan_short_id
        named = shown if is_named else shown.model_copy(update={"label": first.run_short_id})
        self._bar_key = gate_key("progress", named)
        if run is not None:
            await self._show_link(first, first.run_url)
        return Beginning(
            # Fail closed: where the answer to the POST was lost, tests that were there the last time are missed now.
            first if usual is None else first.model_copy(update={"test_count": usual}),
            seconds_left(began, seconds),
            subject,
            evidence_is_older=await ledger.through_outages(lambda: journal.is_older(first), seconds, first),
            is_one_run_only=run is not None and first.kind == "attached",
            has_stale_pass=has_stale_pass or is_of_another_target,
            notes=()
            if usual is None
            else (
                f"QA.tech's answer, which tells how many tests run {first.run_short_id} has, was lost. The plan's "
                f"latest run had {usual}, so {usual} are expected.",
            ),
        )

    async def _usual_test_count(self, first: QATechRunRecord) -> int | None:
        plan = first.plan_short_id or self.request.test_plan_short_id
        if plan is None or first.test_count is not None or first.test_count_is_unreadable:
            return None
        return await PlanHistory(plan).latest_test_count()

    async def _start(self) -> QATechRunRecord:
        return await astart_campaign(
            self.credentials,
            self.request,
            target=self.settings.target,
            label=self.settings.slot_label,
            release_check=self.settings.release_check,
            gate_label=self.settings.label,
        )

    async def _attach(self, run: QATechRunRecord | str) -> QATechRunRecord:
        """Attach a run that was started elsewhere; it is recorded like a start, so a restart keeps its deadline.

        On record is the first target that it was started or judged for.
        """
        run_short_id = ledger.short_id_of(run)
        address = address_of(self.credentials)
        service, label = ledger.service_of(address), f"run {run_short_id}"
        if (of := await ledger.first_run_of(run, service)) is not None:
            raise InvalidInputError(
                f"Run {run_short_id} is a rerun of {of.run_short_id}, and holds a part of that run's tests only. "
                f'Nothing was sent. Judge the first run of the campaign: run="{of.run_short_id}".'
            )
        # 0.1.0 did not name the service. The reruns of such a gate are not started again after an upgrade.
        if not await ledger.is_attached(label, service):
            label = f"{label} at {service}"
        call = ledger.Call(
            kind="attach",
            what=f"run {run_short_id}",
            fingerprint=ledger.fingerprint(run_short_id),
            address=address,
            # One run is one piece of evidence, wherever in the flow run it is asked for.
            label=self.settings.slot_label or label,
        )
        given = run if isinstance(run, QATechRunRecord) else ledger.attached_run(run_short_id)
        return await ledger.attach(call, given.model_copy(update={"target": given.target or self.settings.target}))

    async def _show_link(self, record: QATechRunRecord, url: str | None) -> None:
        """Publish the link to a run of which its start has published none; once, however often the gate is tried."""
        text = f"Run {record.run_short_id} on QA.tech"
        await artifacts.publish_link(url, text, key=self._link_key, description="QA.tech run", below_url=url)

    async def is_on_record(self, rerun: NextRun) -> bool:
        return await ledger.through_outages(
            lambda: ledger.is_rerun_on_record(rerun.first, rerun.number), _RECORD_SECONDS, rerun.first
        )

    async def rerun(self, rerun: NextRun, seconds_left: float) -> QATechRunRecord:
        first = rerun.first

        async def send() -> QATechRunRecord:
            return await arerun_in_campaign(
                self.credentials,
                rerun.base.run_short_id,
                QATechRerunRequest(failed_only=rerun.failed_only, test_case_ids=rerun.test_case_ids),
                campaign=(first.slot or "", rerun.number),
                artifact_key=self._link_key,
                plan_short_id=first.plan_short_id,
                first_url=first.run_url,
            )

        with no_retry_after(seconds_left):
            return await ledger.through_outages(send, max(0.0, seconds_left), first)

    async def wait(self, record: QATechRunRecord, seconds_left: float) -> QATechRun:
        if self.settings.waiting == "suspend" and seconds_left > 0:
            # The process may end here; whoever is resumed comes here again, through the ledger.
            began = time.monotonic()
            await suspend.suspend_until_ended(self.credentials, record, seconds_left, self.settings.polling)
            seconds_left = max(0.0, seconds_left - (time.monotonic() - began))
        seen = await await_in_a_gate(
            self.credentials, record, seconds_left, polling=self.settings.polling, artifact_key=self._bar_key
        )
        polled = seen.run if isinstance(seen, WaitTimedOut) else seen
        if record.run_url is None and polled is not None:
            await self._show_link(record, safe_url(polled.url))
        if isinstance(seen, WaitTimedOut):
            raise seen
        return seen

    async def end_of(self, record: QATechRunRecord, seen: datetime | None) -> datetime | None:
        try:
            with anyio.fail_after(PATIENCE_SECONDS):
                return await journal.end_of(record, seen, self._api)
        except Exception as error:  # the outcome counts, not the figure
            run_logger().debug("The end of run %s could not be kept on record: %r", record.run_short_id, error)
            return seen

    async def has_started_check(self, first: QATechRunRecord) -> bool:
        return await ledger.through_outages(
            lambda: ledger.is_label_on_record(first, _label_of_check(first), MAKES_CHECK), _RECORD_SECONDS, first
        )

    async def start_check(self, first: QATechRunRecord, seconds_left: float) -> QATechStartedReleaseCheck:
        request = self.settings.release_check
        if request is None:
            raise RuntimeError("No release check belongs to this gate.")

        async def send() -> QATechStartedReleaseCheck:
            return await astart_release_check(self.credentials, request, label=_label_of_check(first))

        with no_retry_after(seconds_left):
            return await ledger.through_outages(send, max(0.0, seconds_left), first)

    async def wait_for_check(self, check: QATechStartedReleaseCheck, seconds_left: float) -> QATechReleaseCheck:
        if self.settings.waiting == "suspend" and seconds_left > 0:
            began = time.monotonic()
            await suspend.suspend_until_checked(self.credentials, check, seconds_left)
            seconds_left = max(0.0, seconds_left - (time.monotonic() - began))
        return await await_for_release_check(self.credentials, check, seconds_left, polling=self.settings.polling)

    async def details_of(self, run: QATechRun, seconds_left: float) -> Details:
        return await details_of(
            self.credentials,
            run,
            seconds_left,
            wait_for_turn=Throttle(self.credentials).wait,
            sleep=sleep_unless_stopped,
            logger=run_logger(),
        )

    async def decide(self, first: QATechRunRecord, report: GateReport) -> GateDecision:
        """Ask a person, unless this evidence has been approved before."""
        evidence = report.evidence_sha256
        if (approval := await journal.approval_of(first, evidence)) is not None:
            return approval
        async with turn_to_ask():
            return await self._ask(first, report, evidence)

    async def _ask(self, first: QATechRunRecord, report: GateReport, evidence: str) -> GateDecision:
        flow_run = own_flow_run()
        key = f"qatech-{evidence[:16]}-{flow_run.run_count if flow_run is not None else 0}"
        is_suspending = self.settings.waiting == "suspend"
        note = await suspend.read_note(key) if is_suspending else None
        seconds = self.settings.decision_timeout_seconds
        if note is None:
            # A person must see what to decide on.
            report = await artifacts.publish_report(report)
            await events.emit_gate_asked(report, seconds=seconds)
            if is_suspending:
                await suspend.show_wait("decision")
        if is_suspending:
            note = note or await suspend.write_note(
                key, "decision", seconds, self.credentials, first.run_short_id, first.run_url
            )
            decision = await ask_suspended(report, until=note.until, key=key)
        else:
            decision = await ask(report, timeout_seconds=seconds, key=key)
        if decision.approved:
            await journal.record_approval(first, decision)
        return decision

    async def record_pass(self, first: QATechRunRecord) -> bool:
        # With a target the slot itself tells what the pass is good for.
        if self.settings.target is not None and self.run is None:
            return True
        return await _keep(
            lambda: journal.record_pass(first, self.settings.target, self._api), "The pass", _PASS_SECONDS
        )

    async def end(self, first: QATechRunRecord, report: GateReport) -> GateReport:
        try:
            report = await apublish_gate_report(report, directory=self.settings.report_directory)
        except Exception as error:  # the verdict counts, not the files that tell it
            run_logger().error("The report could not be published as a whole: %s", error)
        # A retry of a pass waits for nothing and reruns nothing, so it needs no new deadline.
        if not report.passed:
            await _keep(
                lambda: journal.record_end(first, report.verdict.value), "The end of the campaign", _RECORD_SECONDS
            )
        return report


def _label_of_check(first: QATechRunRecord) -> str:
    return f"release check of {first.slot}"


async def this_subject(
    credentials: QATechCredentials, request: QATechRunRequest | str | None, settings: GateSettings
) -> GateSubject:
    """Return what the gate of the current flow run tests; an empty subject where the input makes no sense."""
    try:
        asked = subject_of(
            as_request(request),
            target=settings.target,
            label=settings.label,
            credentials_block=credentials.saved_name,
            project_short_id=credentials.project_short_id,
        )
    except Exception:
        asked = GateSubject()
    known = {name: value for name, value in (await run_by()).items() if value is not None}
    return GateSubject(**{**dict(asked), **known})


async def astart_campaign(
    credentials: QATechCredentials,
    request: QATechRunRequest,
    *,
    target: str | None,
    label: str | None,
    release_check: QATechReleaseCheckRequest | None = None,
    gate_label: str | None = None,
) -> QATechRunRecord:
    """Start the first run of a campaign, or find it: unless it has passed in an earlier attempt of the flow run.

    The release check is started beside it; by `gate_label` the gate's artifacts are kept.
    """
    first = await astart_in_campaign(
        credentials, request, target=target, label=label, release_check=release_check, gate_label=gate_label
    )
    record, api = first, ledger.fingerprint(credentials.api_url)
    again = 0
    while record.is_resumed and await journal.has_stale_pass(record, target, api):
        again += 1
        run_logger().warning(
            "Run %s passed in an earlier attempt of this flow run, and what runs now may be another version: it is "
            "tested again. Name what is tested (target=...) to keep its evidence on a retry.",
            record.run_short_id,
        )
        record = await astart_in_campaign(
            credentials,
            request,
            target=target,
            campaign=(first.slot or "", again),
            first_url=first.run_url,
            gate_label=gate_label,
        )
    return record


async def _keep(write: Callable[[], Awaitable[None]], what: str, seconds: float) -> bool:
    """Record something about a campaign; return whether it is recorded."""
    try:
        with anyio.fail_after(seconds):
            await ledger.through_outages(write, seconds)
    except Exception as error:
        run_logger().error("%s could not be recorded: %s", what, error)
        return False
    return True

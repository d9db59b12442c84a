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

from prefect_qatech._prefect import run_logger
from prefect_qatech.api.catalogue import QATechReleaseCheckRequest
from prefect_qatech.api.requests import QATechRunRequest, as_request
from prefect_qatech.credentials import QATechCredentials, check_credentials
from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.gate.campaign import MAX_SENTENCE, GateCampaign
from prefect_qatech.gate.names import name_of_this_gate
from prefect_qatech.gate.settings import GateSettings, HowToWait, OnNoPass
from prefect_qatech.gate.state import check_that_each_retry_calls_it, gate_in_both_versions
from prefect_qatech.gate.steps import FlowRunSteps, this_subject
from prefect_qatech.ledger import QATechRunRecord, check_that_no_context_was_lost
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.report import events
from prefect_qatech.report.escape import plain_text
from prefect_qatech.report.exceptions import GateFailed, GateInconclusive, GateNotPassed
from prefect_qatech.report.files import clear_report_files
from prefect_qatech.report.message import gate_message
from prefect_qatech.report.model import GateReport
from prefect_qatech.verdict.outcomes import Verdict
from prefect_qatech.verdict.policy import GatePolicy


async def run_gate(
    credentials: QATechCredentials,
    request: QATechRunRequest | str | None,
    run: QATechRunRecord | str | None,
    settings: GateSettings,
) -> GateReport:
    """Run one gate in the current flow run; `release_gate` documents the arguments."""
    try:
        return await _run_gate(credentials, request, run, settings)
    except GateNotPassed:
        raise
    except Exception as error:
        # Nobody would hear of a gate without a verdict.
        await events.emit_gate_errored(error, await this_subject(credentials, request, settings))
        raise


async def _run_gate(
    credentials: QATechCredentials,
    request: QATechRunRequest | str | None,
    run: QATechRunRecord | str | None,
    settings: GateSettings,
) -> GateReport:
    if settings.report_directory is not None:
        # However this gate ends, also before anything is sent, its directory must not show an earlier one.
        clear_report_files(settings.report_directory)
    check_credentials(credentials)
    check_that_each_retry_calls_it()
    settings.check()
    if run is not None and request is not None:
        raise InvalidInputError("run= judges a run that is there already: give run or request, not both.")
    wanted = as_request(request)
    await check_that_no_context_was_lost()
    logger = run_logger()
    steps = FlowRunSteps(credentials, wanted, settings, run)
    gate = GateCampaign(
        steps,
        settings.policy,
        logger=logger,
        asks_on=settings.asks_on,
        first_poll_seconds=settings.polling.first_seconds,
        check=steps if settings.release_check is not None else None,
    )
    report = await gate.run()
    for reason in report.reasons:
        logger.info("%s: %s", reason.rule, reason.sentence)
    if report.passed:
        logger.info("The gate passed: %s", report.run_url or report.run_short_id)
        return report
    if report.approved and report.decision is not None:
        by = plain_text(report.decision.decided_by or "nobody who gave a name", MAX_SENTENCE)
        logger.warning("Not passed, but approved by %s: %s", by, plain_text(report.decision.reason, MAX_SENTENCE))
        return report
    message = gate_message(report)
    if settings.raise_unless_passed:
        raise (GateFailed if report.verdict is Verdict.FAIL else GateInconclusive)(message, report=report)
    logger.warning("%s", message)
    return report


@gate_in_both_versions(name="release-gate", flow_run_name=name_of_this_gate)
async def release_gate(
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
    release_check: QATechReleaseCheckRequest | None = None,
) -> GateReport:
    """Test a release with QA.tech, rerun only what failed, and decide whether it may go out.

    - Starts exactly one run per gate, and reruns within the policy's budget; the docstring of the module
      `prefect_qatech.gate.flow` tells what a retry means.
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
        label: Names this gate within its flow run; required inside a task, and needed where gates with equal
            requests run side by side.
        polling: How often to poll a run.
        report_directory: Where to write `verdict.json`, `junit.xml`, `ctrf.json` and `summary.md`.
        raise_unless_passed: Whether a verdict that is not a pass raises, so that the flow run fails.
        on_inconclusive: `stop`, or `ask`: the flow run pauses, and a person approves or rejects in the Prefect UI.
        on_failed: The same for a gate that failed.
        decision_timeout_seconds: How long that person has; no answer in time is a no.
        waiting: `poll`, or `suspend`: the process ends while a run goes on, or while a person is asked, and a watcher
            (`flows/watcher.py`) has the flow run go on. For the flow run of a deployment; a sub-flow run cannot.
        release_check: A release check that is started beside the first run, once per campaign, and waited for within
            the same deadline. One that found a blocker, or did not complete, is no pass; `policy.release_check` says
            what a blocker makes of the gate, and which score is needed.

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
        release_check=release_check,
    )
    return await run_gate(credentials, request, run, settings)


arelease_gate = release_gate.async_version

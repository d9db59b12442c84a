"""The flow `gather_gates`: many plans, many environments, one verdict. Its async version is `agather_gates`.

Each gate is a sub-flow run of its own, so that each shows its verdict in the Prefect UI, and none that fails keeps
another from being tested and told. A retry resumes all of their campaigns, as that of a single gate does.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from prefect import flow
from prefect.client.orchestration import get_client

from prefect_qatech import ledger
from prefect_qatech._prefect import run_logger
from prefect_qatech.api.requests import QATechRunRequest, as_request
from prefect_qatech.credentials import QATechCredentials, check_credentials
from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.gate.flow import run_gate
from prefect_qatech.gate.settings import GateSettings
from prefect_qatech.gate.state import check_that_each_retry_calls_it, gate_in_both_versions, verdict_as_state
from prefect_qatech.inputs import check_name
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.report import artifacts, events
from prefect_qatech.report.artifacts import artifact_key
from prefect_qatech.report.escape import plain_text
from prefect_qatech.report.exceptions import GateNotPassed, GatesNotPassed
from prefect_qatech.report.files import clear_report_files
from prefect_qatech.report.gates import gates_message
from prefect_qatech.report.model import GateReport, GatesReport
from prefect_qatech.verdict.policy import GatePolicy

_NAME_LENGTH = 200
_ERROR_LENGTH = 1_000


@verdict_as_state
@flow(name="release-gate", flow_run_name="{name}", retries=0)
async def _one_gate(
    name: str,
    credentials: QATechCredentials,
    request: QATechRunRequest,
    settings: GateSettings,
) -> GateReport:
    return await run_gate(credentials, request, None, settings)


def _directory_of(directory: str, name: str) -> str:
    return str(Path(directory) / artifact_key(str(name)))


def _checked(plans: Mapping[str, QATechRunRequest | str], gates_at_once: int) -> dict[str, QATechRunRequest]:
    requests = {name: as_request(plan) for name, plan in plans.items()}
    if not requests:
        raise InvalidInputError("requests must name at least one gate: where nothing is tested, nothing passes.")
    for name in requests:
        check_name(name, "A gate's name")
    if unusable := [name for name in requests if len(name) > _NAME_LENGTH]:
        raise InvalidInputError(f"A gate's name must have 1 to {_NAME_LENGTH} characters: {unusable[0][:50]!r}")
    if gates_at_once < 1:
        raise InvalidInputError("gates_at_once must be at least 1.")
    return requests


def _settings_of(name: str, settings: GateSettings, place: str | None) -> GateSettings:
    """Return the settings of one gate: its label is its name, and its slot also names the place in the flow."""
    directory = settings.report_directory
    return replace(
        settings,
        label=name,
        slot_label=f"{name} ({place})" if place else name,
        report_directory=_directory_of(directory, name) if directory is not None else None,
        raise_unless_passed=True,
    )


async def _places(requests: dict[str, QATechRunRequest]) -> dict[str, str | None]:
    """Return where in the flow each gate stands, so that names count for this call alone; a retry gives the same.

    That is what it asks for, and its number among the gates of the flow that have the same name and ask the same: the
    gates beside it, which may be others on a retry, change nothing.
    """
    what = f"{len(requests)} gates"
    calls = [
        ledger.Call(kind="start", what=what, fingerprint=ledger.fingerprint(name, request.to_json()))
        for name, request in requests.items()
    ]
    flow_run = await ledger.flow_run_of(calls[0])
    if flow_run is None:
        return dict.fromkeys(requests)
    async with get_client() as client:
        root_id, calls = await ledger.locate(client, flow_run, *calls)
        is_first = calls[0].is_first_attempt
        entries = [] if is_first else await ledger.Ledger(client, root_id).entries()
    labels = [entry.label for entry in entries if entry.label is not None]

    def place_of(name: str, call: ledger.Call) -> str:
        # 0.1.0 named no more than the place. What it has started is not started again after an upgrade.
        is_of_0_1_0 = any(label.startswith(f"{name} ({call.place})") for label in labels)
        return call.place if is_of_0_1_0 else f"{call.place} of {call.family}"

    return {name: place_of(name, call) for name, call in zip(requests, calls, strict=True)}


async def _evaluate_all(
    credentials: QATechCredentials,
    wanted: dict[str, QATechRunRequest],
    settings: GateSettings,
    places: Mapping[str, str | None],
    at_once: int,
) -> GatesReport:
    """Evaluate each gate, so many at once; one that cannot be evaluated keeps no other from it."""
    logger, limit = run_logger(), asyncio.Semaphore(at_once)
    reports: dict[str, GateReport] = {}
    errors: dict[str, str] = {}

    async def evaluate(name: str) -> None:
        async with limit:
            try:
                own = _settings_of(name, settings, places[name])
                reports[name] = await _one_gate(name, credentials, wanted[name], own)
            except GateNotPassed as error:
                reports[name] = error.report
            except Exception as error:
                errors[name] = plain_text(f"{type(error).__name__}: {error}", _ERROR_LENGTH)
                logger.error("The gate %s could not be evaluated: %s", plain_text(name, _NAME_LENGTH), error)

    gates = [asyncio.ensure_future(evaluate(name)) for name in wanted]
    try:
        await asyncio.gather(*gates)
    except BaseException:
        # Each of them has something to put down before it ends.
        for gate in gates:
            gate.cancel()
        await asyncio.gather(*gates, return_exceptions=True)
        raise
    return GatesReport(names=tuple(wanted), reports=reports, errors=errors)


@gate_in_both_versions(name="gather-gates")
async def gather_gates(
    credentials: QATechCredentials,
    requests: Mapping[str, QATechRunRequest | str],
    *,
    target: str | None = None,
    label: str | None = None,
    policy: GatePolicy = GatePolicy(),  # noqa: B008 - frozen, and the UI's form shows it
    gates_at_once: int = 8,
    polling: QATechPolling | None = None,
    report_directory: str | None = None,
    raise_unless_passed: bool = True,
) -> GatesReport:
    """Test many things with QA.tech, some at once, and decide on all of them together.

    - A gate for each: its own run, reruns, deadline, report and sub-flow run, which has its name.
    - The verdict is the worst one. A gate that could not be evaluated (no such plan, no access, a start of unknown
      outcome) leaves the whole inconclusive at best, and keeps no other from being tested.
    - One summary as the artifact `qatech-gates`, and one event `qatech.gates.passed`, `.failed` or `.inconclusive`
      over all.

    Args:
        credentials: How to reach QA.tech.
        requests: A name for each gate to what it runs, a `QATechRunRequest` or, for short, a plan's id; the name stands
            in reports and in the keys of artifacts.
        target: What is tested: a commit, an image digest, a version of the data; for each gate, as for `release_gate`.
        label: Names these gates within the flow run, in front of which each has its name; required inside a task.
        policy: What is tolerated, how often is rerun, how long is waited; for each gate.
        gates_at_once: How many gates are at work at the same time. The time of a gate begins with its start.
        polling: How often to look at a run.
        report_directory: Where to write each gate's files, in a directory of its name.
        raise_unless_passed: Whether a verdict that is not a pass raises, so that the flow run fails.

    Returns:
        The reports.

    Raises:
        GatesNotPassed: Not every gate has passed; `error.report` has each.
        InvalidInputError: Something that was passed in makes no sense; nothing was sent.

    Example:
        ```python
        environments = {"staging": "https://staging.example.com", "canary": "https://canary.example.com"}


        @flow
        def regression():
            gather_gates(
                QATechCredentials.load("prod"),
                {
                    f"{plan} on {name}": QATechRunRequest(
                        test_plan_short_id=plan,
                        applications=[
                            QATechApplication(
                                application_short_id="app_shop", environment=QATechEnvironment(url=url)
                            )
                        ],
                    )
                    for plan in ("pln_checkout", "pln_login")
                    for name, url in environments.items()
                },
            )
        ```
    """
    settings = GateSettings(
        policy=policy,
        target=target,
        label=label,
        polling=polling or QATechPolling(),
        report_directory=report_directory,
        raise_unless_passed=raise_unless_passed,
    )
    if settings.report_directory is not None:
        # However these gates end, also before anything is sent, their directories must not show earlier ones.
        for name in requests:
            clear_report_files(_directory_of(settings.report_directory, name))
    check_credentials(credentials)
    check_that_each_retry_calls_it()
    wanted = _checked(requests, gates_at_once)
    await ledger.check_that_no_context_was_lost()
    places = dict.fromkeys(wanted, settings.label) if settings.label is not None else await _places(wanted)
    report = await _evaluate_all(credentials, wanted, settings, places, gates_at_once)
    await artifacts.publish_gates(report)
    await events.emit_gates_verdict(report)
    logger = run_logger()
    if report.passed:
        logger.info("All %d gates passed.", len(wanted))
        return report
    message = gates_message(report)
    if settings.raise_unless_passed:
        raise GatesNotPassed(f"{message}. A retry resumes these campaigns.", report=report)
    logger.warning("%s", message)
    return report


agather_gates = gather_gates.async_version

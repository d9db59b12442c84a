"""Prefect tasks: start, get and rerun QA.tech runs, and publish a gate's report; sync and async versions.

What the tasks keep to, in any combination of sync and async flows, called, `.submit`ted and `.map`ped:

- A start or a rerun is sent once. Within a flow run the ledger (`prefect_qatech.ledger`) finds, on any retry or
  restart, the run that was started; Prefect retries a POST only where QA.tech surely did not accept it. Outside a flow
  run there is no ledger, and nothing is known of what was started before.
- A run's link is logged, and published as an artifact, right after its POST.
"""

from typing import Literal

from prefect import task

from prefect_qatech import ledger
from prefect_qatech._prefect import run_logger
from prefect_qatech.api.catalogue import QATechReleaseCheckRequest
from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.requests import QATechRerunRequest, QATechRunRequest, as_request
from prefect_qatech.api.responses import QATechRun, QATechStartedRun
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.ledger import QATechRunRecord, record_of, short_id_of
from prefect_qatech.report import artifacts, events
from prefect_qatech.report.files import append_job_summary, write_report_files
from prefect_qatech.report.model import GateReport
from prefect_qatech.report.subject import subject_of
from prefect_qatech.starts import address_of, announce, call_of_start, check_call, send_once
from prefect_qatech.task_names import name_of_report, named
from prefect_qatech.task_options import NOT_CACHED, RETRIED, task_in_both_versions
from prefect_qatech.texts import counted


async def _start(
    credentials: QATechCredentials,
    request: QATechRunRequest,
    target: str | None,
    *,
    label: str | None = None,
    campaign: tuple[str, int] | None = None,
    release_check: QATechReleaseCheckRequest | None = None,
    first_url: str | None = None,
    gate_label: str | None = None,
) -> QATechRunRecord:
    """Start a run: for a user, or as the first run of a gate's campaign.

    Of a first run that is started anew, `campaign` is the slot of the former one and how often it was started anew, and
    `first_url` the former one's address. A name that means nothing in `release_check`, which is sent later, is an error
    before the run is started. By `gate_label` the gate's artifacts are kept.
    """
    check_call(credentials, label, target)
    plan = request.test_plan_short_id
    what = plan or ("test cases" if request.test_case_ids or request.is_selection else "the default plan")
    call = call_of_start(credentials, request, f"POST /v1/run ({what})", target=target, label=label, campaign=campaign)

    async def send(client: QATechClient, wanted: QATechRunRequest) -> QATechRunRecord:
        return _accepted("start", await client.start_run(wanted), plan).model_copy(update={"target": target})

    record = await send_once(credentials, call, request, send, beside=release_check)
    subject = subject_of(request, label=gate_label)
    known = subject.model_copy(update={"plan_short_id": record.plan_short_id or plan})
    await _announce(record, artifacts.gate_key("run", known), first_url)
    return record


async def _rerun(
    credentials: QATechCredentials,
    run: QATechRunRecord | str,
    request: QATechRerunRequest,
    *,
    label: str | None = None,
    campaign: tuple[str, int] | None = None,
    artifact_key: str | None,
    plan_short_id: str | None,
    first_url: str | None = None,
) -> QATechRunRecord:
    """Start a rerun: for a user, or as one of a gate's campaign.

    `campaign` is the slot of the campaign's first run and the number of the rerun; `first_url` is that run's address.
    The plan is given where the run's record does not tell it.
    """
    check_call(credentials, label)
    run_short_id = short_id_of(run)
    plan = plan_short_id or (run.plan_short_id if isinstance(run, QATechRunRecord) else None)
    what = f"{len(request.test_case_ids)} test cases" if request.test_case_ids else "everything"
    call = ledger.Call(
        kind="rerun",
        what=f"POST /v1/run/{run_short_id} ({'failed only' if request.failed_only else what})",
        fingerprint=ledger.fingerprint(run_short_id, request.to_json()),
        address=address_of(credentials),
        label=label,
        campaign=campaign,
        rerun_of=run_short_id,
    )

    async def send(client: QATechClient, wanted: QATechRerunRequest) -> QATechRunRecord:
        started = await client.rerun(run_short_id, wanted, plan_short_id=plan)
        return _accepted("rerun", started, plan, rerun_of=run_short_id)

    # The test cases of a gate's rerun are those that QA.tech has told: they are never taken for names.
    record = await send_once(credentials, call, request, send, has_names=campaign is None)
    await _announce(record, artifact_key or artifacts.artifact_key("rerun", run_short_id), first_url)
    return record


def _accepted(
    kind: Literal["start", "rerun"],
    started: QATechStartedRun,
    plan_short_id: str | None,
    *,
    rerun_of: str | None = None,
) -> QATechRunRecord:
    """Name an accepted run in the log, before anything else can fail, and make a record of it."""
    record = record_of(kind, started, plan_short_id, rerun_of)
    run_logger().info(
        "QA.tech run %s %s (%s): %s",
        record.run_short_id,
        "started" if kind == "start" else "started as a rerun",
        "unknown number of test cases" if record.test_count is None else counted(record.test_count, "test case"),
        record.run_url or "no address given",
    )
    return record


async def _announce(record: QATechRunRecord, key: str, first_url: str | None) -> None:
    """Tell which run was started, or found; in a gate its link stands below that of the first run."""
    if first_url is not None:
        description = "QA.tech runs of this gate: the first one, and those after it"
    else:
        description = "QA.tech run" if record.rerun_of is None else f"QA.tech rerun of {record.rerun_of}"
    await announce(record, key=key, description=description, below_url=first_url)
    if not record.is_resumed:
        events.emit_run_started(record)


@task_in_both_versions(
    description="Start a QA.tech run, once per flow run.", task_run_name=named("start run of", "request"), **RETRIED
)
async def start_test_run(
    credentials: QATechCredentials,
    request: QATechRunRequest | str | None = None,
    *,
    target: str | None = None,
    label: str | None = None,
) -> QATechRunRecord:
    """Start a QA.tech run (`POST /run`); on a retry of the flow run, find the run that was started before.

    - Sent again by Prefect only where QA.tech surely did not accept it: no connection, 429, 503 with Retry-After.
    - Two calls with equal inputs in the body of a flow are two runs, in the order of the calls. Inside a task of the
      user's, and on a distributed task runner (Dask, Ray), there is no such order, and a label is required. One label
      is one run in a flow run.
    - Outside a flow run nothing is recorded: each call starts a run.

    Args:
        credentials: How to reach QA.tech.
        request: What to run, and where; or, for short, the id of a test plan (`pln_...`). None is the project's default
            plan. Names and labels in it are looked up before anything is sent, once in a flow run.
        target: What is tested: a commit, an image digest, a version of the data. A retry finds the run that was started
            for the same target, and starts one for another.
        label: Names this start within the flow run; required inside a task.

    Returns:
        The run: short id, address, number of test cases.

    Raises:
        InvalidInputError: Something that was passed in is not what the API takes, or a label is missing; nothing was
            sent.
        StartOutcomeUnknown: A run may or may not have been started; nothing retries this.
        LedgerConflict: What is on record does not fit this call; nothing was sent.
        QATechAPIError: QA.tech did not accept it.

    Example:
        ```python
        @flow
        def nightly():
            credentials = QATechCredentials.load("prod")
            run = start_test_run(credentials, "pln_smoke")
            wait_for_test_run(credentials, run)
        ```
    """
    return await _start(credentials, as_request(request), target, label=label)


astart_test_run = start_test_run.async_version


@task_in_both_versions(
    description="Rerun a QA.tech run: everything, failed only, or a list.",
    task_run_name=named("start rerun of", "run"),
    **RETRIED,
)
async def rerun_test_run(
    credentials: QATechCredentials,
    run: QATechRunRecord | str,
    failed_only: bool = False,
    test_case_ids: list[str] | None = None,
    *,
    label: str | None = None,
    artifact_key: str | None = None,
    plan_short_id: str | None = None,
) -> QATechRunRecord:
    """Run a run's test cases again (`POST /run/{shortId}`): everything, failed only, or a list of test cases.

    It gives a new run with a short id of its own, to be waited for or rerun in turn. What `start_test_run` says of
    retries, equal calls and labels holds here as well.

    Args:
        credentials: How to reach QA.tech.
        run: The run to repeat: what its start or rerun returned, or its short id.
        failed_only: Only its failed, skipped and errored test cases; not together with `test_case_ids`.
        test_case_ids: UUIDs or names of the test cases to repeat. With neither: everything.
        label: Names this rerun within the flow run; required inside a task.
        artifact_key: Key of the link artifact, instead of one made of the run's id.
        plan_short_id: The plan that the run is of, where the run's record does not tell it.

    Returns:
        The new run.

    Raises:
        InvalidInputError: Something that was passed in is not what the API takes, or a label is missing; nothing was
            sent.
        StartOutcomeUnknown: The rerun may or may not have been started, or is of another plan (`OtherPlanStarted`);
            nothing retries this.
        LedgerConflict: What is on record does not fit this call; nothing was sent.
        NothingToRerunError: QA.tech says that no test case is left to rerun.
        QATechAPIError: QA.tech did not accept it.

    Example:
        ```python
        rerun = rerun_test_run(credentials, run, failed_only=True)
        ```
    """
    request = QATechRerunRequest(failed_only=failed_only, test_case_ids=test_case_ids)
    return await _rerun(credentials, run, request, label=label, artifact_key=artifact_key, plan_short_id=plan_short_id)


arerun_test_run = rerun_test_run.async_version


# In a gate's campaign a run is known by its number, even if a retry sees other answers and asks for something else.


astart_in_campaign = task(
    name="start_test_run",
    description="Start a QA.tech run, once per flow run.",
    task_run_name=named("start run of", "request"),
    **RETRIED,
)(_start)
arerun_in_campaign = task(
    name="rerun_test_run",
    description="Rerun a QA.tech run: everything, failed only, or a list.",
    task_run_name=named("start rerun of", "run"),
    **RETRIED,
)(_rerun)


@task_in_both_versions(description="Get a QA.tech run as it is now.", task_run_name=named("get run", "run"), **RETRIED)
async def get_test_run(
    credentials: QATechCredentials,
    run: QATechRunRecord | str,
    test_cases: Literal["failed", "all"] | None = None,
    *,
    with_issues: bool = False,
) -> QATechRun:
    """Get a run as it is now (`GET /run/{shortId}`); Prefect retries a request that failed and may not fail again.

    Args:
        credentials: How to reach QA.tech.
        run: What its start or rerun returned, or its short id.
        test_cases: Which of its test cases to list: `failed` (failed, skipped and errored ones), `all`, or none.
        with_issues: Whether to list what QA.tech noticed in it beside the results; `evaluate` shows it.

    Returns:
        Its status and results.

    Raises:
        InvalidInputError: Something that was passed in is not what it must be; nothing was sent.
        QATechAPIError: The request failed.

    Example:
        ```python
        run = get_test_run(credentials, "abc123", test_cases="failed")
        ```
    """
    run_short_id = short_id_of(run)
    check_call(credentials)
    async with credentials.get_client() as client:
        seen = await client.get_run(run_short_id, test_cases=test_cases, with_issues=with_issues)
    return run.describe(seen) if isinstance(run, QATechRunRecord) else seen


aget_test_run = get_test_run.async_version


@task_in_both_versions(
    description="Publish the report of a QA.tech gate.", task_run_name=name_of_report, retries=0, **NOT_CACHED
)
async def publish_gate_report(
    report: GateReport, *, artifact_key: str | None = None, directory: str | None = None
) -> GateReport:
    """Publish a gate's report: artifacts in the Prefect UI, the event of its verdict, and files where asked for.

    `release_gate` does this by itself; it is for those who build their own flow.

    - A Markdown artifact (its versions are the plan's history), a table of the tests, pictures of failed tests. An
      artifact that cannot be written is logged, and changes nothing.
    - The event `qatech.gate.passed`, `.failed` or `.inconclusive`.
    - In GitHub Actions (`GITHUB_STEP_SUMMARY` is set): the summary of the job's step.

    Args:
        report: The report.
        artifact_key: Key of the Markdown artifact, instead of one made of the gate's label or plan.
        directory: Where to write `verdict.json`, `junit.xml`, `ctrf.json` and `summary.md`. It holds the last verdict;
            files of another campaign are moved to `older/` below it. JUnit needs the extra `junit`.

    Returns:
        The report as it was published: each failed or flaky test says whether that is new or known, by the campaigns
        of the same plan, environment, project and deployment that were published under this key before.

    Raises:
        OSError: A file could not be written; artifacts and event are out by then.
        InvalidInputError: The extra `junit` is not installed; all else is published.

    Example:
        ```python
        publish_gate_report(report, directory="qatech-report")
        ```
    """
    report = await artifacts.publish_report(report, key=artifact_key)
    await events.emit_gate_verdict(report)
    logger = run_logger()
    for entry in report.quarantine_unmatched:
        logger.warning("The quarantine entry %r matches no test, or more than one, and had no effect.", entry[:300])
    if directory is not None:
        paths = write_report_files(report, directory)
        logger.info("Report files: %s", ", ".join(str(path) for path in paths.values()))
    if (summary := append_job_summary(report)) is not None:
        logger.info("Job summary: %s", summary)
    return report


apublish_gate_report = publish_gate_report.async_version

"""Prefect tasks for release checks, QA.tech's own review of a release: start one, and wait for it.

A start is paid for like that of a run: the ledger sees to it that a flow run sends it once.
"""

import asyncio
import inspect
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

from prefect.exceptions import TerminationSignal

from prefect_qatech._prefect import run_logger
from prefect_qatech._sync import sleep_unless_stopped
from prefect_qatech.addresses import safe_url
from prefect_qatech.api.catalogue import QATechReleaseCheck, QATechReleaseCheckRequest, QATechStartedReleaseCheck
from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.ids import check_id
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.credentials import QATechCredentials, check_credentials
from prefect_qatech.exceptions import InvalidInputError, QATechAPIError
from prefect_qatech.inputs import short_repr
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.polling.exceptions import WaitTimedOut, goes_on
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.polling.task_run import check_timeout
from prefect_qatech.polling.throttle import Throttle
from prefect_qatech.polling.wait import Surroundings, wait_for_run
from prefect_qatech.report import artifacts
from prefect_qatech.report.release_check import report_release_check
from prefect_qatech.starts import announce, call_of_start, check_call, send_once
from prefect_qatech.task_names import named
from prefect_qatech.task_options import NOT_CACHED, RETRIED, task_in_both_versions

MAKES_CHECK = "release check"
"""What the ledger calls it."""


def _accepted(started: QATechStartedReleaseCheck) -> QATechRunRecord:
    """Name an accepted check in the log, before anything else can fail, and make a record of it."""
    url = safe_url(started.url)
    run_logger().info("QA.tech release check %s started: %s", started.short_id, url or "no address given")
    return QATechRunRecord(
        kind="start",
        makes=MAKES_CHECK,
        run_short_id=started.short_id,
        run_url=url,
        started_at=datetime.now(timezone.utc),
        answer=started.model_dump(mode="json", include=set(QATechStartedReleaseCheck.model_fields)),
    )


@dataclass
class _AsRun:
    """Shows a release check as a run, which is what a wait knows; a run that is COMPLETED with a result is over."""

    client: QATechClient
    check: QATechReleaseCheck | None = None

    async def get_run(self, run_short_id: str, *, test_cases: Literal["failed", "all"] | None = None) -> QATechRun:
        check = self.check = await self.client.get_release_check(run_short_id)
        if check.is_final:
            return QATechRun(run_short_id=run_short_id, status="COMPLETED", result=check.status)
        return QATechRun(run_short_id=run_short_id, status=check.status)


def _id_and_url(check: QATechStartedReleaseCheck | str) -> tuple[str, str | None]:
    if inspect.iscoroutine(check):
        check.close()
        raise InvalidInputError("the release check is a coroutine: `await` is missing before the call that returns it")
    if isinstance(check, QATechStartedReleaseCheck):
        return check.short_id, safe_url(check.url)
    return check_id(check), None


@task_in_both_versions(
    description="Start a QA.tech release check, once per flow run.",
    task_run_name=named("start release check of", "request"),
    **RETRIED,
)
async def start_release_check(
    credentials: QATechCredentials,
    request: QATechReleaseCheckRequest,
    *,
    target: str | None = None,
    label: str | None = None,
) -> QATechStartedReleaseCheck:
    """Start a release check (`POST /release-checks`); on a retry of the flow run, find the one that was started before.

    Retries, equal calls and labels work as in `start_test_run`.

    Args:
        credentials: How to reach QA.tech.
        request: What to check: changes, a regression, a pull request. Names in it are looked up before anything is
            sent, once in a flow run.
        target: What is checked: a commit, an image digest. A retry finds the check of the same target, and starts one
            for another.
        label: Names this start within the flow run; required inside a task.

    Returns:
        The check: short id and address.

    Raises:
        InvalidInputError: Something that was passed in is not what the API takes, or a label is missing; nothing was
            sent.
        StartOutcomeUnknown: A check may or may not have been started; nothing retries this.
        LedgerConflict: What is on record does not fit this call; nothing was sent.
        QATechAPIError: QA.tech did not accept it.

    Example:
        ```python
        @flow
        def review(pull_request: str):
            credentials = QATechCredentials.load("prod")
            check = start_release_check(credentials, QATechReleaseCheckRequest(pr_url=pull_request))
            for blocker in wait_for_release_check(credentials, check).blockers:
                print(blocker.title)
        ```
    """
    check_call(credentials, label, target)
    if not isinstance(request, QATechReleaseCheckRequest):
        raise InvalidInputError(f"request must be a QATechReleaseCheckRequest, not {short_repr(request)}")
    what = "POST /v1/release-checks"
    call = call_of_start(credentials, request, what, makes=MAKES_CHECK, target=target, label=label)

    async def send(client: QATechClient, wanted: QATechReleaseCheckRequest) -> QATechRunRecord:
        return _accepted(await client.start_release_check(wanted))

    record = await send_once(credentials, call, request, send)
    key = artifacts.artifact_key("release-check", record.run_short_id)
    await announce(record, key=key, description="QA.tech release check")
    answer = record.answer or {"short_id": record.run_short_id, "url": record.run_url}
    return QATechStartedReleaseCheck.model_validate(answer)


astart_release_check = start_release_check.async_version


@task_in_both_versions(
    description="Wait for a QA.tech release check.",
    task_run_name=named("wait for release check", "check"),
    retries=0,
    **NOT_CACHED,
)
async def wait_for_release_check(
    credentials: QATechCredentials,
    check: QATechStartedReleaseCheck | str,
    timeout_seconds: float = 3600.0,
    *,
    polling: QATechPolling | None = None,
    artifact_key: str | None = None,
) -> QATechReleaseCheck:
    """Wait until a release check has ended, and publish its report as an artifact.

    - Looks that fail are repeated, and the last one is at the deadline, as `wait_for_test_run` does it.
    - The artifact tells its score, the findings with the blockers first, the score per category, and what people should
      look at. A check informs: to go by it is up to you, or to `release_gate(release_check=...)`.

    Args:
        credentials: How to reach QA.tech.
        check: What its start returned, or its short id.
        timeout_seconds: How long to wait.
        polling: How often to look.
        artifact_key: Key of the artifact, instead of one made of the check's id.

    Returns:
        The check as it ended: only the status COMPLETED says that it was carried out.

    Raises:
        InvalidInputError: That is not a release check's short id, or not a time; nothing was sent.
        WaitTimedOut: It has not ended in time; it goes on.
        QATechAPIError: Looking makes no sense any more; the check may go on.

    Example:
        ```python
        check = wait_for_release_check(credentials, "chk123", timeout_seconds=1800)
        ```
    """
    check_credentials(credentials)
    check_timeout(timeout_seconds)
    short_id, url = _id_and_url(check)
    logger = run_logger()
    try:
        async with credentials.get_client() as client:
            looks = _AsRun(client)
            await wait_for_run(
                looks,
                short_id,
                timeout_seconds=timeout_seconds,
                polling=polling or QATechPolling(),
                surroundings=Surroundings(sleep=sleep_unless_stopped, before_poll=Throttle(credentials).wait),
                on_change=lambda run: logger.info("Release check %s: %s", short_id, run.result or run.status or "none"),
                on_error=lambda error: logger.warning(
                    "A poll of release check %s failed and will be repeated: %s", short_id, error
                ),
                run_url=url,
                # What a start has just returned is there, also where not every part of QA.tech knows it yet.
                age_seconds=0.0 if isinstance(check, QATechStartedReleaseCheck) else None,
                what="Release check",
            )
    except WaitTimedOut as error:
        error.run = None  # it is none
        raise
    except (asyncio.CancelledError, TerminationSignal, KeyboardInterrupt):
        logger.warning("The wait was cancelled. %s", goes_on(short_id, url, "Release check"))
        raise
    ended = looks.check
    if ended is None:
        raise QATechAPIError(f"Release check {short_id} was not seen ({url or 'address unknown'}).")
    await artifacts.publish_release_check(report_release_check(ended, url), key=artifact_key)
    return ended


await_for_release_check = wait_for_release_check.async_version

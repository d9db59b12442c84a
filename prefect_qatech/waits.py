"""Prefect tasks that wait for QA.tech runs: for one, and for many in one task run; sync and async versions.

What they keep to, in any combination of sync and async flows, called, `.submit`ted and `.map`ped:

- A wait is one task run, however often it polls, and however many runs it waits for.
- It lives through failing polls, ends at its deadline, and ends within seconds when the flow run is cancelled; log,
  event and artifact then say that the run goes on at QA.tech, which has no call to cancel it.
"""

from collections.abc import Sequence
from typing import Any

from prefect import task

from prefect_qatech.api.responses import QATechRun
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.polling.exceptions import WaitTimedOut
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.polling.task_run import wait_for_many, wait_for_one
from prefect_qatech.task_names import named
from prefect_qatech.task_options import NOT_CACHED, task_in_both_versions

_ONE: dict[str, Any] = {
    "description": "Wait until a QA.tech run has ended.",
    "task_run_name": named("wait for", "run"),
    "retries": 0,
    **NOT_CACHED,
}


@task_in_both_versions(**_ONE)
async def wait_for_test_run(
    credentials: QATechCredentials,
    run: QATechRunRecord | str,
    timeout_seconds: float = 3600.0,
    *,
    polling: QATechPolling | None = None,
    artifact_key: str | None = None,
) -> QATechRun:
    """Wait until a run has ended, whoever started it; one task run, however many polls.

    - Polls that fail (no connection, 5xx, 429, broken answers) are repeated within a budget. Once the run was seen, or
      in the first minute after its start, so is every odd answer, and only a second 401 or 403 is final.
    - A COMPLETED run whose result is not written yet is waited for, for a minute.
    - The last poll is at the deadline; a single request may last up to the credentials' time limit beyond it.
    - A progress artifact moves with the test cases; the log says only what changed.
    - It polls often when the run is about to end: by the test cases that have finished, and by past durations.

    Args:
        credentials: How to reach QA.tech.
        run: What its start or rerun returned, or its short id. What was returned tells address, plan and age; with it
            the wait goes by past durations of the plan's runs, and remembers this one's.
        timeout_seconds: How long to wait.
        polling: How often to poll.
        artifact_key: Key of the progress artifact, instead of one made of the run's id.

    Returns:
        The run with all its test cases.

    Raises:
        InvalidInputError: That is not a run's short id, or not a time; nothing was sent.
        WaitTimedOut: It has not ended in time; it goes on.
        QATechAPIError: Polling makes no sense any more; the run may go on.

    Example:
        ```python
        run = wait_for_test_run(credentials, start_test_run(credentials, "pln_smoke"), timeout_seconds=1800)
        ```
    """
    return await wait_for_one(credentials, run, timeout_seconds, polling=polling, artifact_key=artifact_key)


await_for_test_run = wait_for_test_run.async_version


@task(name="wait_for_test_run", **_ONE)
async def await_in_a_gate(
    credentials: QATechCredentials,
    run: QATechRunRecord,
    timeout_seconds: float,
    *,
    polling: QATechPolling,
    artifact_key: str,
) -> QATechRun | WaitTimedOut:
    """Wait as `await_for_test_run` does, and return what it raises at the deadline: to a gate that is no error.

    All waits of a gate move the same progress bar.
    """
    try:
        return await wait_for_one(
            credentials, run, timeout_seconds, polling=polling, artifact_key=artifact_key, has_only_one_bar=True
        )
    except WaitTimedOut as error:
        return error


@task_in_both_versions(
    description="Wait until QA.tech runs have ended.",
    task_run_name=named("wait for", "runs"),
    retries=0,
    **NOT_CACHED,
)
async def wait_for_test_runs(
    credentials: QATechCredentials,
    runs: Sequence[QATechRunRecord | str],
    timeout_seconds: float = 3600.0,
    *,
    polling: QATechPolling | None = None,
    artifact_key: str | None = None,
) -> list[QATechRun]:
    """Wait until all of several runs have ended, in one task run: thousands of them, if need be.

    - Each run is polled as `wait_for_test_run` does, by its own schedule; all of them share connections and the
      credentials' budget of polls.
    - A run that cannot be waited for any more (its time is over, nobody knows it) keeps no other from being waited for.
    - A progress artifact moves with the runs that have ended; the log has a line for each of them.

    Args:
        credentials: How to reach QA.tech.
        runs: What their starts or reruns returned, or their short ids. What was returned tells plan and age; with it
            the wait goes by past durations of the plan's runs, and remembers those of these.
        timeout_seconds: How long to wait for all of them.
        polling: How often to poll.
        artifact_key: Key of the progress artifact.

    Returns:
        The runs with all their test cases, in the order in which they were named.

    Raises:
        InvalidInputError: No run is named, or one by what is no run's short id, or that is no time; nothing was sent.
        RunsNotEnded: Some were not seen to end; `error.runs` holds those that were, `error.errors` says why of the
            others.

    Example:
        ```python
        @flow
        def nightly():
            credentials = QATechCredentials.load("prod")
            started = [start_test_run(credentials, plan) for plan in ("pln_checkout", "pln_login")]
            for run in wait_for_test_runs(credentials, started):
                print(run.run_short_id, run.result)
        ```
    """
    return await wait_for_many(credentials, runs, timeout_seconds, polling=polling, artifact_key=artifact_key)


await_for_test_runs = wait_for_test_runs.async_version

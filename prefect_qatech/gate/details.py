"""The details of an attempt's tests that did not pass, and what QA.tech noticed in the run.

The details belong to the evidence: they are asked for like a poll. What was noticed decides nothing, so that hardly
anything is waited for on its account.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.responses import (
    FINAL_STATUSES,
    QATechDetectedIssue,
    QATechRun,
    QATechRunTestCaseDetails,
)
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.exceptions import BadRequestError, ForbiddenError, QATechAPIError, UnauthorizedError

AT_ONCE = 8
MAX_SECONDS = 120.0
"""How long the details of an attempt's tests are asked for, all together, however the requests fail."""
MAX_ISSUES_SECONDS = 10.0
"""How long what QA.tech noticed is asked for, beside the details."""
FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 15.0
MAX_ODD_ANSWERS = 3
"""So often an answer that would be final of anything else (404, a redirect) is asked for again."""


@dataclass(frozen=True)
class Details:
    """What was found out about the tests of a run that did not pass.

    Attributes:
        by_short_id: Run test case short id to its details.
        lost: Short ids of those whose details could not be had.
        issues: What QA.tech noticed in the run; none where it does not tell such things.
        issues_lost: Whether that could not be had.
    """

    by_short_id: Mapping[str, QATechRunTestCaseDetails] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    issues: tuple[QATechDetectedIssue, ...] = ()
    issues_lost: bool = False


async def details_of(
    credentials: QATechCredentials,
    run: QATechRun,
    seconds_left: float,
    *,
    wait_for_turn: Callable[[float], Awaitable[None]],
    sleep: Callable[[float], Awaitable[None]],
    logger: Any,
) -> Details:
    """Ask for the details of each test case that ended without a pass, for its error code, and for the run's issues.

    A request for details that fails and may be repeated is repeated like a poll, until the deadline; one for issues,
    for a few seconds.

    Args:
        credentials: How to reach QA.tech.
        run: The run with its test cases.
        seconds_left: How long the campaign has; at its deadline each is asked for once, as the run itself is polled.
        wait_for_turn: Waits until a request may be sent, up to so many seconds.
        sleep: Sleeps for so many seconds.
        logger: Told of each that could not be had.

    Returns:
        What was found, and what was lost.
    """
    wanted = [
        case.short_id
        for case in run.test_cases
        if case.short_id and case.status in FINAL_STATUSES and (case.status, case.result) != ("COMPLETED", "PASSED")
    ]
    details: dict[str, QATechRunTestCaseDetails] = {}
    issues: list[QATechDetectedIssue] | None = None
    if not wanted:
        return Details()
    limit = anyio.CapacityLimiter(AT_ONCE)
    deadline = time.monotonic() + min(MAX_SECONDS, seconds_left)

    async def ask_for(client: QATechClient, short_id: str) -> None:
        pause, refusals, odd = FIRST_PAUSE_SECONDS, 0, 0
        while True:
            try:
                async with limit:
                    await wait_for_turn(max(0.0, deadline - time.monotonic()))
                    details[short_id] = await client.get_run_test_case(short_id)
                return
            except (QATechAPIError, ValueError) as error:
                # The test is known to be there, as its run is: one odd answer is no answer about it.
                refusals += isinstance(error, (UnauthorizedError, ForbiddenError))
                odd += not getattr(error, "retryable", False)
                hopeless = refusals > 1 or odd > MAX_ODD_ANSWERS or not isinstance(error, QATechAPIError)
                wait = max(pause, getattr(error, "retry_after_seconds", None) or 0.0)
                if hopeless or time.monotonic() + wait > deadline:
                    logger.warning("The details of test case %s could not be had: %s", short_id, error)
                    return
            await sleep(wait)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    async def ask_for_issues(client: QATechClient) -> None:
        nonlocal issues
        until = min(deadline, time.monotonic() + MAX_ISSUES_SECONDS)
        with anyio.move_on_after(until - time.monotonic()):
            while issues is None:
                try:
                    await wait_for_turn(max(0.0, until - time.monotonic()))
                    issues = (await client.get_run(run.run_short_id, with_issues=True)).issues
                except BadRequestError:
                    issues = []  # a service that does not know the parameter
                except (QATechAPIError, ValueError) as error:
                    logger.warning("What QA.tech noticed in run %s could not be had: %s", run.run_short_id, error)
                    if not getattr(error, "retryable", False):
                        return
                    await sleep(max(FIRST_PAUSE_SECONDS, getattr(error, "retry_after_seconds", None) or 0.0))

    with anyio.move_on_after(max(0.0, deadline - time.monotonic()) + credentials.timeout_seconds):
        async with credentials.get_client() as client, anyio.create_task_group() as group:
            group.start_soon(ask_for_issues, client)
            for short_id in wanted:
                group.start_soon(ask_for, client, short_id)
    return Details(details, frozenset(wanted) - set(details), tuple(issues or ()), issues_lost=issues is None)

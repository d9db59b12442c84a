"""The details of an attempt's tests that did not pass, and what QA.tech noticed in the run.

The details belong to the evidence: they are asked for like a poll. What was noticed decides nothing, so that hardly
anything is waited for on its account.
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.responses import FINAL_STATUSES, QATechDetectedIssue, QATechRun, QATechRunTestCaseDetails
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
    """What was found out about the tests of a run that did not pass, by their short ids in it, and what was lost.

    Besides, what QA.tech noticed in the run; none where it does not tell such things.
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

    A request for details that fails and may be repeated is repeated like a poll, until the deadline, at which each is
    asked for once, as the run itself is polled; one for issues, for a few seconds. `wait_for_turn` waits until a
    request may be sent, up to so many seconds.
    """
    wanted = [
        case.short_id
        for case in run.test_cases
        if case.short_id and case.status in FINAL_STATUSES and (case.status, case.result) != ("COMPLETED", "PASSED")
    ]
    if not wanted:
        return Details()
    deadline = time.monotonic() + min(MAX_SECONDS, seconds_left)
    asking = _Asking(deadline, wait_for_turn, sleep, logger)
    with anyio.move_on_after(max(0.0, deadline - time.monotonic()) + credentials.timeout_seconds):
        async with credentials.get_client() as client, anyio.create_task_group() as group:
            group.start_soon(asking.ask_for_issues, client, run.run_short_id)
            for short_id in wanted:
                group.start_soon(asking.ask_for_details, client, short_id)
    details, issues = asking.details, asking.issues
    return Details(details, frozenset(wanted) - set(details), tuple(issues or ()), issues_lost=issues is None)


@dataclass
class _Asking:
    """Asks until a deadline, and keeps the answers."""

    deadline: float
    wait_for_turn: Callable[[float], Awaitable[None]]
    sleep: Callable[[float], Awaitable[None]]
    logger: Any
    details: dict[str, QATechRunTestCaseDetails] = field(default_factory=dict)
    issues: list[QATechDetectedIssue] | None = None
    limit: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(AT_ONCE))

    async def ask_for_details(self, client: QATechClient, short_id: str) -> None:
        failures = _Failures()
        while True:
            try:
                async with self.limit:
                    await self.wait_for_turn(max(0.0, self.deadline - time.monotonic()))
                    self.details[short_id] = await client.get_run_test_case(short_id)
                return
            except (QATechAPIError, ValueError) as error:
                pause = failures.pause_after(error)
                if time.monotonic() + pause > self.deadline:
                    self.logger.warning("The details of test case %s could not be had: %s", short_id, error)
                    return
            await self.sleep(pause)

    async def ask_for_issues(self, client: QATechClient, run_short_id: str) -> None:
        until = min(self.deadline, time.monotonic() + MAX_ISSUES_SECONDS)
        with anyio.move_on_after(until - time.monotonic()):
            while self.issues is None:
                try:
                    await self.wait_for_turn(max(0.0, until - time.monotonic()))
                    self.issues = (await client.get_run(run_short_id, with_issues=True)).issues
                except BadRequestError:
                    self.issues = []  # a service that does not know the parameter
                except (QATechAPIError, ValueError) as error:
                    self.logger.warning("What QA.tech noticed in run %s could not be had: %s", run_short_id, error)
                    if not getattr(error, "retryable", False):
                        return
                    await self.sleep(max(FIRST_PAUSE_SECONDS, getattr(error, "retry_after_seconds", None) or 0.0))


@dataclass
class _Failures:
    """The failed requests for the details of one test. It is known to be there: one odd answer is none about it."""

    refusals: int = 0
    odd: int = 0
    pause: float = field(default_factory=lambda: FIRST_PAUSE_SECONDS)

    def pause_after(self, error: QATechAPIError | ValueError) -> float:
        """Return after how many seconds the request is repeated; infinitely many where it makes no sense."""
        self.refusals += isinstance(error, (UnauthorizedError, ForbiddenError))
        self.odd += not getattr(error, "retryable", False)
        if self.refusals > 1 or self.odd > MAX_ODD_ANSWERS or not isinstance(error, QATechAPIError):
            return math.inf
        seconds = max(self.pause, error.retry_after_seconds or 0.0)
        self.pause = min(2 * self.pause, MAX_PAUSE_SECONDS)
        return seconds

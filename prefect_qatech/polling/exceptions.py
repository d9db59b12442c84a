"""The errors of a wait, which carry the runs that were seen. `prefect_qatech.exceptions` draws the whole tree."""

from __future__ import annotations

from prefect_qatech.api.responses import QATechRun
from prefect_qatech.exceptions import QATechError


class WaitTimedOut(QATechError):
    """The deadline passed; the run goes on at QA.tech, which has no call to cancel it.

    Args:
        message: What happened and what can be done.
        status: The run's last known status.
        waited_seconds: How long this wait lasted.
        last_error: What the last failed poll said, where polls failed.
        run: The run as the last poll that succeeded saw it.
        run_short_id: Short id of the run.
        run_url: Address of the run.
    """

    def __init__(
        self,
        message: str,
        *,
        status: str | None = None,
        waited_seconds: float | None = None,
        last_error: str | None = None,
        run: QATechRun | None = None,
        run_short_id: str | None = None,
        run_url: str | None = None,
    ) -> None:
        super().__init__(message, run_short_id=run_short_id, run_url=run_url)
        self.status = status
        self.waited_seconds = waited_seconds
        self.last_error = last_error
        self.run = run


class RunsNotEnded(QATechError):
    """Not every one of several runs was seen to end.

    Args:
        message: How many, why, and what can be done.
        runs: Those that have ended, by their short ids; empty where only the message was stored.
        errors: Of each of the others: why it is waited for no more, `WaitTimedOut` or a `QATechAPIError`.
    """

    def __init__(
        self,
        message: str,
        *,
        runs: dict[str, QATechRun] | None = None,
        errors: dict[str, QATechError] | None = None,
    ) -> None:
        super().__init__(message)
        self.runs = runs or {}
        self.errors = errors or {}

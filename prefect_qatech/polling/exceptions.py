"""The errors of a wait, which carry the runs that were seen, and the sentences for runs whose end nobody saw.

`prefect_qatech.exceptions` draws the whole tree of errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect_qatech.api.responses import QATechRun
from prefect_qatech.exceptions import QATechError
from prefect_qatech.texts import listed

_MAX_NAMED = 20
_MAX_ERRORS_NAMED = 5


@dataclass(eq=False, repr=False, kw_only=True)
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

    status: str | None = None
    waited_seconds: float | None = None
    last_error: str | None = None
    run: QATechRun | None = None


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


def goes_on(run_short_id: str, run_url: str | None, what: str = "Run") -> str:
    return (
        f"{what} {run_short_id} goes on at QA.tech, which has no call to cancel it ({run_url or 'address unknown'}). "
        "A retry resumes it."
    )


def they_go_on(runs: Mapping[str, str | None]) -> str:
    if len(runs) == 1:
        return goes_on(*next(iter(runs.items())))
    named = listed([*runs.items()], _MAX_NAMED, lambda run: f"{run[0]} ({run[1] or 'address unknown'})")
    return f"{len(runs)} runs go on at QA.tech, which has no call to cancel them: {named}. A retry resumes them."


def runs_not_ended(errors: Mapping[str, QATechError], number: int) -> str:
    """Return the sentence that some of so many runs were not seen to end, with the first errors."""
    first = " ".join(str(error) for error in list(errors.values())[:_MAX_ERRORS_NAMED])
    more = f" And {len(errors) - _MAX_ERRORS_NAMED} more." if len(errors) > _MAX_ERRORS_NAMED else ""
    return f"{len(errors)} of {number} runs were not seen to end. {first}{more}"

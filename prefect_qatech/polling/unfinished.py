"""Pure: the errors and sentences for runs whose end nobody saw."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from prefect_qatech.api.responses import QATechRun
from prefect_qatech.exceptions import NotFoundError, QATechAPIError, QATechError
from prefect_qatech.polling.exceptions import WaitTimedOut
from prefect_qatech.texts import listed

_MAX_NAMED = 20
_MAX_ERRORS_NAMED = 5


def goes_on(run_short_id: str, run_url: str | None, what: str = "Run") -> str:
    """Return the sentence that a run goes on although nobody waits for it."""
    return (
        f"{what} {run_short_id} goes on at QA.tech, which has no call to cancel it ({run_url or 'address unknown'}). "
        "A retry resumes it."
    )


def they_go_on(runs: Mapping[str, str | None]) -> str:
    """Return the sentence that runs go on although nobody waits for them."""
    if len(runs) == 1:
        return goes_on(*next(iter(runs.items())))
    named = listed([*runs.items()], _MAX_NAMED, lambda run: f"{run[0]} ({run[1] or 'address unknown'})")
    return f"{len(runs)} runs go on at QA.tech, which has no call to cancel them: {named}. A retry resumes them."


def gave_up(
    error: QATechAPIError, failures: int, seconds: float, run_short_id: str, run_url: str | None, what: str = "Run"
) -> QATechAPIError:
    """Return the error of a wait that polls no more.

    Args:
        error: The error of the last poll; a copy of it is returned.
        failures: How many polls in a row failed.
        seconds: Over how long a time they failed.
        run_short_id: The run.
        run_url: Its address.
        what: What it is called.
    """
    tried = f" {failures} polls in a row failed, over {seconds:.0f} s." if failures > 1 else ""
    # Nobody can say that a run goes on that was not found.
    ending = (
        f" Its address: {run_url or 'unknown'}."
        if isinstance(error, NotFoundError)
        else f" {goes_on(run_short_id, run_url, what)}"
    )
    final = copy.copy(error)
    final.message = f"{error.message}{tried}{ending}"
    final.args = (final.message,)
    final.run_short_id, final.run_url = run_short_id, run_url
    return final


def timed_out(
    run_short_id: str,
    run_url: str | None,
    run: QATechRun | None,
    error: QATechAPIError | None,
    seconds: float,
    age_seconds: float | None = None,
    what: str = "Run",
) -> WaitTimedOut:
    """Return the error of a wait whose deadline passed.

    Args:
        run_short_id: The run.
        run_url: Its address.
        run: The run as it was last seen.
        error: The error of the last poll, if it failed.
        seconds: How long the wait lasted; it may be one of several, and the last of them a moment.
        age_seconds: How long ago the run was started; None where that is unknown.
        what: What it is called.
    """
    status = f"its last known status is {run.status or 'unknown'}" if run else "it could not be polled"
    if age_seconds is not None:
        when = f"{age_seconds:.0f} s after its start "
    else:
        when = f"after {seconds:.0f} s " if seconds >= 1 else ""
    because = f" The last poll failed: {error.message}" if error else ""
    return WaitTimedOut(
        f"{what} {run_short_id} did not end in time: {when}{status}.{because} {goes_on(run_short_id, run_url, what)}",
        status=run.status if run else None,
        waited_seconds=seconds,
        last_error=error.message if error else None,
        run=run,
        run_short_id=run_short_id,
        run_url=run_url,
    )


def runs_not_ended(errors: Mapping[str, QATechError], number: int) -> str:
    """Return the sentence that some of so many runs were not seen to end, with the first errors."""
    first = " ".join(str(error) for error in list(errors.values())[:_MAX_ERRORS_NAMED])
    more = f" And {len(errors) - _MAX_ERRORS_NAMED} more." if len(errors) > _MAX_ERRORS_NAMED else ""
    return f"{len(errors)} of {number} runs were not seen to end. {first}{more}"

"""Pure: the sentences for runs whose end nobody saw."""

from __future__ import annotations

from collections.abc import Mapping

from prefect_qatech.exceptions import QATechError
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


def runs_not_ended(errors: Mapping[str, QATechError], number: int) -> str:
    """Return the sentence that some of so many runs were not seen to end, with the first errors."""
    first = " ".join(str(error) for error in list(errors.values())[:_MAX_ERRORS_NAMED])
    more = f" And {len(errors) - _MAX_ERRORS_NAMED} more." if len(errors) > _MAX_ERRORS_NAMED else ""
    return f"{len(errors)} of {number} runs were not seen to end. {first}{more}"

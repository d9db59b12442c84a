"""What task runs are called: what they do, and with which object."""

from collections.abc import Callable, Sequence
from typing import Any

from prefect_qatech.report.escape import plain_text
from prefect_qatech.report.model import GateReport
from prefect_qatech.report.wording import campaign_name

_MAX_LENGTH = 100
_NAMES = ("run_short_id", "short_id", "test_plan_short_id", "name", "release_name", "pr_url")
"""What the objects that tasks are given are known by."""


def named(words: str, parameter: str) -> Callable[..., str]:
    """Return a `task_run_name` that names one parameter of the task; without a value there it is the words alone.

    It raises for no value: what is wrong with it is for the task to say.

    Example:
        >>> named("get run", "run")({"run": "abc"})
        'get run abc'
    """

    def name(parameters: dict[str, Any]) -> str:
        what = _text_of(parameters.get(parameter))
        return f"{words} {what}" if what else words.removesuffix(" of")

    return name


def name_of_report(parameters: dict[str, Any]) -> str:
    """Return the name of a task run that publishes a report: its plan and its first run."""
    report = parameters.get("report")
    if not isinstance(report, GateReport):
        return "publish report"
    run = f", run {plain_text(report.run_short_id, _MAX_LENGTH)}" if report.run_short_id else ""
    return f"publish report of {plain_text(campaign_name(report), _MAX_LENGTH)}{run}"


def _text_of(value: object) -> str:
    if not isinstance(value, str):
        if isinstance(value, Sequence):
            return f"{len(value)} runs"
        known = (getattr(value, name, None) for name in _NAMES)
        value = next((name for name in known if isinstance(name, str)), "")
    return plain_text(value, _MAX_LENGTH)

"""The errors of a gate, which carry its report. `prefect_qatech.exceptions` draws the whole tree."""

from __future__ import annotations

from typing import TypeVar

from prefect_qatech.exceptions import QATechError
from prefect_qatech.report.model import GateReport, GatesReport

ReportT = TypeVar("ReportT")


class GateNotPassed(QATechError):
    """The release may not go out.

    Args:
        message: The verdict, its reasons, the tests and the link.
        report: The whole report of the gate.
    """

    def __init__(self, message: str, *, report: GateReport | None = None) -> None:
        super().__init__(
            message, run_short_id=report.run_short_id if report else None, run_url=report.run_url if report else None
        )
        self._report = report

    @property
    def report(self) -> GateReport:
        """The whole report of the gate.

        Raises:
            AttributeError: The error was stored as JSON, which keeps its message alone.
        """
        return _stored(self._report)


class GateFailed(GateNotPassed):
    """The gate's verdict is fail: tests of the product failed."""


class GateInconclusive(GateNotPassed):
    """The evidence is not enough for a verdict: nothing, or too little, was really tested."""


class GatesNotPassed(QATechError):
    """Not every one of several gates has passed: the release may not go out.

    Args:
        message: The verdict, the gates that did not pass and their links.
        report: The reports of all of them.
    """

    def __init__(self, message: str, *, report: GatesReport | None = None) -> None:
        super().__init__(message)
        self._report = report

    @property
    def report(self) -> GatesReport:
        """The reports of all of them.

        Raises:
            AttributeError: The error was stored as JSON, which keeps its message alone.
        """
        return _stored(self._report)


def _stored(report: ReportT | None) -> ReportT:
    if report is None:
        raise AttributeError(
            "The report is not here: the result was stored as JSON, which keeps an error's message alone. Store "
            'results with result_serializer="pickle", or read the report\'s artifact or files.'
        )
    return report

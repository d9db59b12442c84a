"""Pure: whether a failure is new or known, by what the last campaigns of the same plan in the same place were like."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_qatech.report.history import HistoryEntry
from prefect_qatech.report.model import GateReport, ReportedTest
from prefect_qatech.report.quarantine import mark_of
from prefect_qatech.report.wording import campaign_id, time_text
from prefect_qatech.texts import counted
from prefect_qatech.verdict import TestVerdict


def earlier_campaigns(report: GateReport, history: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """Return the campaigns of a history that are others than that of the report, the oldest first."""
    own = campaign_id(report)
    return [entry for entry in history if entry.run_short_id != own]


def standing(test: ReportedTest, earlier: Sequence[HistoryEntry]) -> str:
    """Return how a failed or flaky test stands against the campaigns before this one.

    Args:
        test: The test.
        earlier: The campaigns before this one, the oldest first.

    Returns:
        "new", "known since 2026-11-20 21:43 UTC (run abc123)" or "failed or flaky in 2 of the last 5 campaigns";
        empty for any other test, and where the history tells nothing of it.
    """
    if not earlier or test.verdict not in (TestVerdict.FAILED, TestVerdict.FLAKY):
        return ""
    mark = mark_of(test)
    if test.verdict is TestVerdict.FAILED and (since := _since(mark, earlier)) is not None:
        run = f" (run {since.run_short_id})" if since.run_short_id else ""
        longer = " or earlier" if since is earlier[0] else ""
        return f"known since {time_text(since.started_at or since.ended_at)}{run}{longer}"
    seen = sum(mark in (*entry.failed_tests, *entry.flaky_tests) for entry in earlier)
    if seen:
        return f"failed or flaky in {seen + 1} of the last {len(earlier) + 1} campaigns, this one included"
    # An entry whose list of tests was cut does not prove that this test was not in it.
    return "" if any(entry.is_cut for entry in earlier) else "new"


def _since(mark: str, earlier: Sequence[HistoryEntry]) -> HistoryEntry | None:
    """Return the first of the campaigns in a row, up to the last one, in which a test failed."""
    first = None
    for entry in reversed(earlier):
        if mark not in entry.failed_tests:
            break
        first = entry
    return first


def new_and_known(report: GateReport, earlier: Sequence[HistoryEntry]) -> str:
    """Return in a sentence how many of the failed tests are new; empty where none failed, or nothing is known."""
    standings = [standing(test, earlier) for test in report.tests_with(TestVerdict.FAILED) if not test.quarantined]
    new = sum(told == "new" for told in standings)
    if not standings or not all(standings):
        return ""
    known = len(standings) - new
    before = f"the {len(earlier)} campaigns" if len(earlier) > 1 else "the campaign"
    failed = counted(len(standings), "test")
    return f"{failed} failed: {new} new, {known} that failed before, by {before} on record of the same plan here."

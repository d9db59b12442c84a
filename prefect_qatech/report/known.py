"""Pure: whether a failure is new or known, by what the last campaigns of the same plan in the same place were like.

`with_standings` decides it, once; every form of the report shows what stands in the report by then.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect_qatech.report.history import HistoryEntry
from prefect_qatech.report.model import GateReport, ReportedStanding, ReportedTest
from prefect_qatech.report.quarantine import mark_of
from prefect_qatech.report.wording import campaign_id, time_text
from prefect_qatech.texts import counted
from prefect_qatech.verdict.outcomes import TestVerdict


def earlier_campaigns(report: GateReport, history: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """Return the campaigns that began before that of the report, the oldest first; its own need not be among them."""
    ids, own = [entry.run_short_id for entry in history], campaign_id(report)
    return list(history[: ids.index(own)] if own in ids else history)


def with_standings(report: GateReport, history: Sequence[HistoryEntry]) -> GateReport:
    """Return a report in which each failed or flaky test says whether that is new or known.

    The history is that of the same plan in the same place, the oldest campaign first; where none began before that of
    the report, the report stays as it is.
    """
    earlier = earlier_campaigns(report, history)
    if not earlier:
        return report
    tests = tuple(test.model_copy(update={"standing": _standing(test, earlier)}) for test in report.tests)
    return report.model_copy(update={"tests": tests})


def _standing(test: ReportedTest, earlier: Sequence[HistoryEntry]) -> ReportedStanding | None:
    if test.verdict not in (TestVerdict.FAILED, TestVerdict.FLAKY):
        return None
    mark = mark_of(test)
    campaigns = len(earlier) + 1
    times = 1 + sum(mark in (*entry.failed_tests, *entry.flaky_tests) for entry in earlier)
    if test.verdict is TestVerdict.FAILED and (since := _since(mark, earlier)) is not None:
        return ReportedStanding(
            kind="known",
            campaigns=campaigns,
            times=times,
            since=since.started_at or since.ended_at,
            since_run_short_id=since.run_short_id,
            is_since_first=since is earlier[0],
        )
    if times > 1:
        return ReportedStanding(kind="recurring", campaigns=campaigns, times=times)
    # An entry whose list of tests was cut does not prove that this test was not in it.
    return None if any(entry.is_cut for entry in earlier) else ReportedStanding(kind="new", campaigns=campaigns)


def _since(mark: str, earlier: Sequence[HistoryEntry]) -> HistoryEntry | None:
    """Return the first of the campaigns in a row, up to the last one, in which a test failed."""
    first = None
    for entry in reversed(earlier):
        if mark not in entry.failed_tests:
            break
        first = entry
    return first


def standing_text(test: ReportedTest) -> str:
    """Return how a failed or flaky test stands against the campaigns before this one, in words.

    Returns:
        "new", "known since 2026-11-20 21:43 UTC (run abc123)" or "failed or flaky in 2 of the last 5 campaigns"; empty
        for any other test, and where the history tells nothing of it. Of the run's id nothing is escaped.
    """
    standing = test.standing
    if standing is None:
        return ""
    if standing.kind == "known":
        run = f" (run {standing.since_run_short_id})" if standing.since_run_short_id else ""
        return f"known since {time_text(standing.since)}{run}{' or earlier' if standing.is_since_first else ''}"
    if standing.kind == "recurring":
        return f"failed or flaky in {standing.times} of the last {standing.campaigns} campaigns, this one included"
    return "new"


def new_and_known(report: GateReport) -> str:
    """Return in a sentence how many of the failed tests are new; empty where none failed, or nothing is known."""
    failed = [test.standing for test in report.tests_with(TestVerdict.FAILED) if not test.quarantined]
    standings = [standing for standing in failed if standing is not None]
    if not standings or len(standings) < len(failed):
        return ""
    new, before = sum(standing.kind == "new" for standing in standings), standings[0].campaigns - 1
    if len(failed) == 1:
        told = "The failure is new" if new else "The failure is not new"
    elif new in (0, len(failed)):
        told = f"All {new} failures are new" if new else f"None of the {len(failed)} failures is new"
    else:
        told = f"Of {len(failed)} failures, {new} {'is' if new == 1 else 'are'} new"
    campaigns = counted(before, "campaign") if before > 1 else "campaign"
    return f"{told}, judging by the last {campaigns} of the same plan here."

"""What every form of the report says in the same words: groups, stories, sums, times. Nothing here is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import groupby
from typing import Literal, NamedTuple

from prefect_qatech.report.model import GateReport, ReportedReason, ReportedTest
from prefect_qatech.texts import counted, in_utc, short_hash
from prefect_qatech.verdict.judge import UNMATCHED, Incident, Reason
from prefect_qatech.verdict.outcomes import Outcome, TestVerdict, Verdict
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry

Group = Literal["failed", "undecided", "flaky", "quarantined", "recovered", "passed"]
CIStatus = Literal["passed", "failed", "error", "skipped"]

GATE_TEST = "release gate"
NOTE_SYMBOL, BLOCKER_SYMBOL, UNKNOWN_SYMBOL = "ℹ️", "⛔", "❔"
SYMBOLS = {Verdict.PASS: "✅", Verdict.INCONCLUSIVE: "⚠️", Verdict.FAIL: "❌"}
HEADLINES = {
    Verdict.PASS: "PASS: the release may go out",
    Verdict.INCONCLUSIVE: "INCONCLUSIVE: do not release yet",
    Verdict.FAIL: "FAIL: do not release",
}
_GROUPS: dict[TestVerdict, Group] = {
    TestVerdict.PASSED: "passed",
    TestVerdict.RECOVERED: "recovered",
    TestVerdict.FLAKY: "flaky",
    TestVerdict.FAILED: "failed",
}
_OUTCOMES = {Outcome.MISSED: "not carried out", Outcome.UNFINISHED: "not finished"}
_CI: dict[TestVerdict, CIStatus] = {
    TestVerdict.PASSED: "passed",
    TestVerdict.RECOVERED: "passed",
    TestVerdict.FLAKY: "passed",
    TestVerdict.FAILED: "failed",
    TestVerdict.SKIPPED: "skipped",
}


def group(test: ReportedTest) -> Group:
    """Return the section of the report in which a test stands."""
    return "quarantined" if test.quarantined else _GROUPS.get(test.verdict, "undecided")


def ci_status(test: ReportedTest) -> CIStatus:
    """Return the word that CI tools have for a test's verdict.

    A test in quarantine that did not pass is `skipped` to them, because it does not block. A skipped test is `skipped`
    as well, although it is undecided to the gate: `unseen_verdict` sees to it that the file does not read green.
    """
    status = _CI.get(test.verdict, "error")
    return "skipped" if test.quarantined and status != "passed" else status


def unseen_verdict(report: GateReport, red: bool) -> str | None:
    """Return the message of the testcase `GATE_TEST`, without which a file for CI tools would read green.

    None where the gate is a pass, and where some other testcase of the file makes it read `red`.
    """
    if report.passed or red:
        return None
    sentences = [reason.sentence for reason in report.reasons if reason.verdict is not Verdict.PASS]
    return f"The gate is {report.verdict}. {' '.join([*sentences, *report.notes])}"


def shown_attempt(test: ReportedTest) -> int | None:
    """Return the index of the attempt that a test's reason, explanation and links are of, unless that was a pass."""
    silent = (Outcome.PASSED, Outcome.ABSENT)
    return max((index for index, outcome in enumerate(test.outcomes) if outcome not in silent), default=None)


def story(test: ReportedTest, escape: Callable[[str], str] = str) -> str:
    """Return what became of a test: "failed on attempt 1: no such button; passed on attempt 2"."""
    parts: list[str] = []
    present = [(outcome, index) for index, outcome in enumerate(test.outcomes) if outcome is not Outcome.ABSENT]
    for outcome, members in groupby(present, key=lambda item: item[0]):
        indexes = [index for _, index in members]
        numbers = [str(index + 1) for index in indexes]
        attempts = f"attempts {', '.join(numbers[:-1])} and {numbers[-1]}" if numbers[1:] else f"attempt {numbers[0]}"
        code = f"({test.error_code})" if test.error_code and test.error_code != "TEST_FAILED" else None
        words = escape(" ".join(filter(None, [test.reason, code]))) if shown_attempt(test) in indexes else ""
        parts.append(f"{outcome_text(outcome)} on {attempts}" + (f": {words}" if words else ""))
    return "; ".join(parts) or "in no list of any attempt"


def outcome_text(outcome: Outcome) -> str:
    """Return an outcome as a sentence has it: "not carried out" on an attempt."""
    return _OUTCOMES.get(outcome, outcome.value)


def attempt_name(index: int) -> str:
    """Return an attempt's name, as the reasons have it: "first run", "rerun 1"."""
    return f"rerun {index}" if index else "first run"


class Spent(NamedTuple):
    """What a campaign cost; of runs that nobody saw end, no time."""

    executions: int
    reruns: int
    seconds: float | None

    def __str__(self) -> str:
        took = "" if self.seconds is None else f", {duration_text(self.seconds)} of runs"
        return f"{counted(self.executions, 'test execution')}, {counted(self.reruns, 'rerun')}{took}"


def spent(report: GateReport) -> Spent:
    """Sum up what a campaign cost; a test that was skipped was not executed."""
    durations = [attempt.duration_seconds for attempt in report.attempts]
    known = [finite(seconds) for seconds in durations if seconds is not None]
    return Spent(
        executions=sum(
            attempt.counts[o] for attempt in report.attempts for o in attempt.counts if o != Outcome.SKIPPED
        ),
        reruns=sum(attempt.kind == "rerun" for attempt in report.attempts),
        seconds=sum(known) if known and len(known) == len(durations) else None,
    )


def campaign_seconds(report: GateReport) -> float | None:
    """Return how long the runs took, from the start of the first to the end of the last; None if unknown."""
    ends = [attempt.finished_at for attempt in report.attempts]
    if report.started_at is None or not ends or None in ends:
        return None
    last = max(in_utc(end) for end in ends if end is not None)
    return max(0.0, (last - in_utc(report.started_at)).total_seconds())


def counts_text(report: GateReport) -> str:
    """Count the tests by verdict: "8 tests: 6 passed, 1 flaky, 1 failed"."""
    counts = ", ".join(f"{report.counts[verdict]} {verdict}" for verdict in TestVerdict if report.counts.get(verdict))
    total, apart = len(report.tests), sum(test.quarantined for test in report.tests)
    quarantine = f" ({apart} of them in quarantine)" if apart else ""
    return f"{counted(total, 'test')}{quarantine}" + (f": {counts}" if counts else "")


def finite(seconds: float | None) -> float:
    """Return a duration that can be added and printed; 0 for one that is unknown or none."""
    return seconds if seconds is not None and math.isfinite(seconds) and seconds > 0 else 0.0


def duration_text(seconds: float | None) -> str:
    """Return a duration as people say it.

    Example:
        >>> duration_text(42), duration_text(750), duration_text(7260), duration_text(None)
        ('42 s', '12 min 30 s', '2 h 1 min', 'unknown')
    """
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return " ".join(filter(None, [f"{minutes} min" if minutes else "", f"{rest} s" if rest or not minutes else ""]))


def time_text(moment: datetime | None, beside: datetime | None = None) -> str:
    """Return a moment as `2026-11-23 21:43 UTC`, without the date where another moment of that day stands beside it."""
    if moment is None:
        return "unknown"
    same_day = beside is not None and in_utc(beside).date() == in_utc(moment).date()
    return f"{in_utc(moment):{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}} UTC"


def caveats(report: GateReport) -> list[tuple[str, tuple[str, ...]]]:
    """Return what a reader must know of the evidence: a sentence each, and the ids of the tests that it is about."""
    sentences: list[tuple[str, tuple[str, ...]]] = []
    if not report.target:
        sentences.append(("No target was named: nobody can tell later what was tested, so a retry keeps no pass.", ()))
    if report.evidence_is_older:
        sentences.append(("This is evidence of an earlier attempt.", ()))
    if report.is_one_run_only:
        sentences.append(("Only this run was judged: a run that this gate did not start.", ()))
    # A count that is there and cannot be read is an incident, which says the same.
    if report.attempts and report.expected_count is None and Incident.COUNT_UNREADABLE not in report.incidents:
        sentences.append(("Nobody knows whether all tests are listed: QA.tech did not say how many there are.", ()))
    if unknown := report.causes_unknown:
        whose = counted(len(unknown), "test")
        sentences.append((f"The cause could not be found out for {whose}: QA.tech did not give the details.", unknown))
    if runs := report.issues_unknown:
        sentences.append(
            (f"What QA.tech noticed beside the results of run {', '.join(runs)} could not be fetched.", ())
        )
    return sentences


def tests_named(reason: ReportedReason | Reason, tests: Mapping[str, ReportedTest]) -> list[tuple[str, str | None]]:
    """Return what a reason is about: each test's name and id; of a quarantine that matched nothing, the keys alone."""
    if reason.rule == UNMATCHED:
        return [(key, None) for key in reason.test_ids]
    return [(tests[key].name, key) if key in tests else (key, None) for key in reason.test_ids]


def until_text(entry: QuarantineEntry, policy: GatePolicy) -> str:
    """Return how long a quarantine entry holds: "through 2026-09-01 (UTC)"."""
    return f"through {entry.expires} ({policy.quarantine_time_zone})"


def campaign_id(report: GateReport) -> str | None:
    """Return what tells a campaign from others: its first run's short id, or a hash of one that is no file's name."""
    run_short_id = report.attempts[0].run_short_id if report.attempts else ""
    if not run_short_id or re.fullmatch(r"[A-Za-z0-9_-]{1,64}", run_short_id):
        return run_short_id or None
    return f"run-{short_hash(run_short_id)}"


def campaign_name(report: GateReport) -> str:
    """Return the name of what was tested: the plan's name, else its short id, else the label."""
    return report.plan_name or report.plan_short_id or report.label or "default test plan"

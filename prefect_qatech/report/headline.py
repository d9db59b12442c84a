"""Pure: the heading of a report, what to do about it, and what a retry can change."""

from __future__ import annotations

from collections.abc import Callable

from prefect_qatech.api.catalogue import FINAL_CHECK_STATUSES
from prefect_qatech.api.responses import FINAL_STATUSES
from prefect_qatech.report.model import GateDecision, GateReport, GatesReport
from prefect_qatech.report.quarantine import entries_that_end_soon
from prefect_qatech.report.wording import HEADLINES, SYMBOLS, time_text
from prefect_qatech.texts import counted
from prefect_qatech.verdict.judge import UNMATCHED, Incident
from prefect_qatech.verdict.outcomes import UNDECIDED, TestVerdict, Verdict
from prefect_qatech.verdict.rerun import NoRerun, Rerun

Escape = Callable[[str], str]

# These incidents happen again on a retry; others may not.
_LASTING = frozenset({Incident.COUNT_UNREADABLE, Incident.STALE_PASS})


def headline(report: GateReport, escape: Escape = str) -> str:
    """Return the heading of a report: the verdict, and what keeps it from being a plain one.

    Returns:
        "PASS, 1 flaky: look at it this week", "APPROVED by Ada (the verdict is fail)", and so on.
    """
    if report.approved:
        return f"APPROVED by {_who(report, escape)} (the verdict is {report.verdict})"
    if report.passed:
        flaky = _flaky(report)
        what = f"look at {'it' if flaky == 1 else 'them'} this week" if flaky else "the release may go out"
        return f"{_pass('PASS', report)}: {what}"
    if report.decision is not None and report.decision.decided_by and not report.decision.approved:
        return f"{HEADLINES[report.verdict]}, rejected by {_who(report, escape)}"
    if retry_can_help(report):
        return HEADLINES[report.verdict]
    why = "no reruns are left; " if reruns_left(report) == 0 and report.policy.max_reruns else ""
    return f"{report.verdict.value.upper()}: {why}a retry cannot change this"


VERDICT_STATES = ("Passed", "Approved", "Gate failed", "Gates failed", "Inconclusive")
"""How the names of the states begin in which the flow runs of gates end."""


def state_name(report: GateReport | GatesReport) -> str:
    """Return a name for the state of the gate's flow run, in a few words for lists; one of `VERDICT_STATES` begins it.

    Returns:
        "Passed, 1 flaky", "Gate failed", and so on.
    """
    if isinstance(report, GatesReport):
        if not report.passed:
            return "Gates failed" if report.verdict is Verdict.FAIL else "Inconclusive"
        flaky = sum(_flaky(gate) for gate in report.reports.values())
        return f"Passed, {flaky} flaky" if flaky else "Passed"
    if report.approved:
        return "Approved"
    if report.passed:
        return _pass("Passed", report)
    rejected = ", rejected" if report.decision and report.decision.decided_by and not report.decision.approved else ""
    return f"{'Gate failed' if report.verdict is Verdict.FAIL else 'Inconclusive'}{rejected}"


def symbol(report: GateReport) -> str:
    """Return the symbol in front of the heading; an approval is no pass."""
    return SYMBOLS[Verdict.INCONCLUSIVE if report.approved else report.verdict]


def advice(report: GateReport, escape: Escape = str) -> str:
    """Return what there is to do about a report, in a sentence or two."""
    if report.decision is not None:
        return _decision(report, report.decision, escape)
    if report.verdict is Verdict.FAIL:
        return "Look at what failed below; repair the product, or the test."
    if report.verdict is Verdict.INCONCLUSIVE:
        return "It is not known whether the release is sound: see below what could not be found out."
    flaky, failing, tolerated = _flaky(report), _failing_in_quarantine(report), _tolerated(report)
    idle = any(reason.rule in (UNMATCHED, "quarantine_expired") for reason in report.reasons)
    parts = [
        "A test that failed first and passed in a rerun may hide a bug that shows only sometimes." if flaky else "",
        f"This policy tolerates {counted(tolerated, 'test')} that did not pass." if tolerated else "",
        "What is in quarantine fails without blocking: see who repairs it, and until when." if failing else "",
        "An entry of the quarantine has no effect: see below." if idle else "",
        "An entry of the quarantine ends soon: see below." if entries_that_end_soon(report) else "",
    ]
    return " ".join(filter(None, parts)) or "Nothing has to be done."


def retry_text(report: GateReport) -> str:
    """Return what a retry of the flow run does to a gate that did not pass, in two or three sentences."""
    anew = "For a fresh start run the flow, or its deployment, anew."
    rerun = _rerun(report)
    if not retry_can_help(report):
        return f"A retry cannot change this verdict. {rerun.sentence if isinstance(rerun, NoRerun) else ''} {anew}"
    count = reruns_left(report)
    spends = f"may spend {counted(count, 'more rerun')}" if isinstance(rerun, Rerun) else ""
    asks = "asks again" if report.decision is not None else ""
    return f"A retry {' and '.join(filter(None, ['goes on with this campaign', spends, asks]))}. {anew}"


def reruns_left(report: GateReport) -> int:
    return max(0, report.policy.max_reruns - max(0, len(report.attempts) - 1))


def retry_can_help(report: GateReport) -> bool:
    """Return whether a retry of the flow run may come to another verdict: it polls again, and reruns what is left."""
    # A person who said no is asked again.
    if report.decision is not None or any(attempt.status not in FINAL_STATUSES for attempt in report.attempts):
        return True
    # What could not be found out is asked for again, and what was refused may be accepted.
    if report.causes_unknown or not _lasting(report).issuperset(report.incidents):
        return True
    return isinstance(_rerun(report), Rerun)


def _rerun(report: GateReport) -> Rerun | NoRerun:
    return report.next_rerun(incidents=[incident for incident in report.incidents if incident in _lasting(report)])


def _lasting(report: GateReport) -> frozenset[Incident]:
    # A release check that has ended is found again, and says the same.
    check = report.release_check
    has_ended = check is not None and check.status in FINAL_CHECK_STATUSES
    return _LASTING | {Incident.RELEASE_CHECK_INCOMPLETE} if has_ended else _LASTING


def _pass(word: str, report: GateReport) -> str:
    flaky, failing = _flaky(report), _failing_in_quarantine(report)
    parts = [
        f"{word} under a relaxed policy" if _tolerated(report) else word,
        f"{flaky} flaky" if flaky else "",
        f"with {counted(failing, 'failing test')} in quarantine" if failing else "",
    ]
    return ", ".join(filter(None, parts))


def _flaky(report: GateReport) -> int:
    return sum(test.verdict is TestVerdict.FLAKY and not test.quarantined for test in report.tests)


def _failing_in_quarantine(report: GateReport) -> int:
    return sum(test.verdict is TestVerdict.FAILED and test.quarantined for test in report.tests)


def _tolerated(report: GateReport) -> int:
    """Return how many tests did not pass, and would have kept the gate from passing under the default policy."""
    listed = sum(
        test.verdict is TestVerdict.FAILED or (test.verdict in UNDECIDED and test.expected)
        for test in report.tests
        if not test.quarantined
    )
    unlisted = max(0, (report.expected_count or 0) - sum(test.expected for test in report.tests))
    return listed + unlisted


def _who(report: GateReport, escape: Escape) -> str:
    name = report.decision.decided_by if report.decision is not None else None
    return escape(name) if name else "somebody who gave no name"


def _decision(report: GateReport, decision: GateDecision, escape: Escape) -> str:
    reason = escape(decision.reason)
    when = time_text(decision.decided_at)
    if decision.approved and not report.approved:
        return f"The approval by {_who(report, escape)}, {when}, was of other evidence and does not count: {reason}"
    if not decision.approved and not decision.decided_by:
        return f"The release was not approved, {when}: {reason}"
    return f"{_who(report, escape)} {'approved' if report.approved else 'rejected'} the release, {when}: {reason}"

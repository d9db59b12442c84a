"""Pure: a gate's verdict in one line, for its error and the state of its flow run. The first words say what matters."""

from __future__ import annotations

from prefect_qatech.report.escape import cell_text, plain_text
from prefect_qatech.report.headline import advice, retry_text
from prefect_qatech.report.known import new_and_known
from prefect_qatech.report.model import GateReport
from prefect_qatech.texts import counted, listed
from prefect_qatech.verdict.outcomes import TestVerdict, Verdict

_MAX_SENTENCE = 1_500

_MAX_NAMES = 10
_NAME_LENGTH = 120
_DECIDED = (TestVerdict.PASSED, TestVerdict.RECOVERED, TestVerdict.FLAKY, TestVerdict.FAILED)


def gate_message(report: GateReport) -> str:
    """Return a gate's verdict, what it is about, and where to look, in one line of plain text."""
    return " ".join(filter(None, _passed(report) if report.passed else _not_passed(report)))


def _passed(report: GateReport) -> list[str]:
    flaky = _names([test.name for test in report.tests_with(TestVerdict.FLAKY)])
    return [f"Flaky: {flaky}." if flaky else "", *(reason.sentence for reason in report.reasons), *_where(report)]


def _not_passed(report: GateReport) -> list[str]:
    failed = [test.name for test in report.tests_with(TestVerdict.FAILED) if not test.quarantined]
    undecided = [test.name for test in report.tests if test.verdict not in _DECIDED]
    blocking = [reason.sentence for reason in report.reasons if reason.verdict is not Verdict.PASS]
    is_fail = report.verdict is Verdict.FAIL
    tests = counted(len(report.tests), "test")
    lead = f"{len(failed)} of {tests} failed: {_names(failed)}." if failed and is_fail else ""
    return [
        _decided(report),
        lead or next(iter(blocking), ""),
        "" if report.approved else "The release may not go out.",
        *(blocking if lead else blocking[1:]),
        new_and_known(report),
        f"Undecided: {_names(undecided)}." if undecided and not is_fail else "",
        *report.notes,
        advice(report, lambda words: plain_text(words, _MAX_SENTENCE)) if report.decision else "",
        *_where(report),
        "" if report.approved else retry_text(report),
    ]


def _decided(report: GateReport) -> str:
    if report.decision is None or not report.decision.decided_by or report.decision.approved is not report.approved:
        return ""
    return f"{'Approved' if report.approved else 'Rejected'} by {plain_text(report.decision.decided_by, _NAME_LENGTH)}."


def _where(report: GateReport) -> list[str]:
    check = report.release_check
    return [
        f"Run: {report.run_url or report.run_short_id or 'none'}.",
        f"Release check: {check.url}." if check and check.url else "",
    ]


def _names(names: list[str]) -> str:
    # A log makes links of addresses.
    return listed(names, _MAX_NAMES, lambda name: cell_text(name, _NAME_LENGTH) or "(no name)")

"""Pure: what there is to do about a quarantine: entries to write, entries that end soon, tests that can leave it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import date, timedelta

from prefect_qatech.report.escape import plain_text
from prefect_qatech.report.model import GateReport, ReportedTest
from prefect_qatech.texts import short_hash
from prefect_qatech.verdict.identity import NAME_LENGTH, resolve_quarantine
from prefect_qatech.verdict.outcomes import TestVerdict
from prefect_qatech.verdict.policy import QuarantineEntry

HOLDS_FOR = timedelta(days=14)
ENDS_SOON = timedelta(days=3)
CAMPAIGNS_TO_LEAVE = 5
MAX_ENTRIES = 20
_PASSED = (TestVerdict.PASSED, TestVerdict.RECOVERED)
_NAME = 60

Remark = tuple[str, list[tuple[str, str]]]
"""A sentence, and the tests that it is about: what is shown of each, and its id."""


def entries_to_paste(report: GateReport) -> list[str]:
    """Return an entry for each failing and each flaky test, to be pasted below `quarantine:` of a policy file.

    Each is YAML: a comment with the test's name, and the entry; for the first `MAX_ENTRIES` tests. Reason and owner are
    empty, which no policy takes: somebody has to fill them in.
    """
    if report.judged_on is None:
        return []
    fields = {"reason": "", "owner": "", "expires": str(report.judged_on + HOLDS_FOR)}
    tests = [test for test in report.tests_with(TestVerdict.FAILED, TestVerdict.FLAKY) if not test.quarantined]
    more = len(tests) - MAX_ENTRIES
    return [_entry(test, report, fields) for test in tests[:MAX_ENTRIES]] + (
        [f"# … and {more} more"] if more > 0 else []
    )


def _entry(test: ReportedTest, report: GateReport, fields: dict[str, str]) -> str:
    name, key = plain_text(test.name, _NAME) or "(no name)", _key(test, report)
    if key is None:
        return f"# {name}: neither its id nor its name can be written here and is its own, so no entry finds it"
    old = report.quarantine.get(test.test_id)
    note = f": take out its old entry, which expired on {old.expires}" if old else ""
    return f"# {name}{note}\n{json.dumps(key, ensure_ascii=False)}: {json.dumps(fields)}"


def _key(test: ReportedTest, report: GateReport) -> str | None:
    """Return the id or the name by which an entry finds the test; None where neither does, or can be shown as it is."""
    names = {one.test_id: one.name for one in report.tests}
    entry = QuarantineEntry(reason="-", owner="-", expires=date.max)
    for key in (test.test_id, test.name):
        if key and plain_text(key, NAME_LENGTH) == key:
            policy = report.policy.model_copy(update={"quarantine": {key: entry}})
            if test.test_id in resolve_quarantine(policy, names)[0].quarantine:
                return key
    return None


def remarks(report: GateReport, earlier: Sequence[Collection[str]] = ()) -> list[Remark]:
    """Return what people should know of the entries that are in force.

    `earlier` is what `marks_of_passed` gave for each campaign of the plan before this one, the oldest first.
    """
    ending, leaving = entries_that_end_soon(report), tests_that_can_leave(report, earlier)
    sentences: list[Remark] = []
    if ending:
        one = len(ending) == 1
        what = "1 quarantine entry ends" if one else f"{len(ending)} quarantine entries end"
        sentence = f"{what} within three days; {'its test counts' if one else 'their tests count'} again then."
        sentences.append((sentence, [(f"{day}: {test.name}", test.test_id) for test, day in ending]))
    if leaving:
        what = "1 test in quarantine has" if len(leaving) == 1 else f"{len(leaving)} tests in quarantine have"
        sentence = f"{what} passed in each of the last {CAMPAIGNS_TO_LEAVE} campaigns, and can leave quarantine."
        sentences.append((sentence, [(test.name, test.test_id) for test in leaving]))
    return sentences


def entries_that_end_soon(report: GateReport) -> list[tuple[ReportedTest, date]]:
    """Return the tests whose entry is in force for three more days at most, each with its last day."""
    entries, today = report.quarantine, report.judged_on
    tests = [test for test in report.tests if test.quarantined and test.test_id in entries]
    days = [(test, entries[test.test_id].expires) for test in tests]
    return [(test, day) for test, day in days if today is not None and day - today <= ENDS_SOON]


def tests_that_can_leave(report: GateReport, earlier: Sequence[Collection[str]]) -> list[ReportedTest]:
    """Return the tests in quarantine that have passed in each of the last campaigns, this one included."""
    last = earlier[1 - CAMPAIGNS_TO_LEAVE :]
    if len(last) < CAMPAIGNS_TO_LEAVE - 1:
        return []
    return [test for test in _passed(report) if all(mark_of(test) in marks for marks in last)]


def marks_of_passed(report: GateReport) -> tuple[str, ...]:
    """Return what a history remembers of the tests in quarantine that passed."""
    return tuple(map(mark_of, _passed(report)))


def _passed(report: GateReport) -> list[ReportedTest]:
    return [test for test in report.tests if test.quarantined and test.verdict in _PASSED]


def mark_of(test: ReportedTest) -> str:
    """Return the mark of a test in a history: a short hash of its id."""
    return short_hash(test.test_id, 8)

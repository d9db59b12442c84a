"""The report as JUnit XML in Maven Surefire's dialect, which CI tools read as flaky where a test was.

- passed, recovered: a testcase. flaky: a testcase with a `flakyFailure` per failed attempt (`flakyError` per attempt in
  which it was not carried out), which Jenkins, GitLab and the GitHub reporters count as passed.
- failed: `failure`, and a `rerunFailure` (`rerunError`) per further attempt. Also where the policy tolerates it: the
  file reports the tests, the exit code the gate.
- errored, cancelled, missing: `error`. skipped: `skipped`, which is what CI tools know. A test in quarantine that did
  not pass: `skipped`, because it does not block.
- A gate that is not a pass never reads green: where no testcase says so, one of the name `release gate` does.
- Whether a failure is new or known stands in the testcase's `system-out`: Surefire's testcases have no properties.
- A time that nobody knows is left out, although Surefire writes one for each testcase: 0 would be wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.report.about import facts
from prefect_qatech.report.escape import plain_text, xml_text
from prefect_qatech.report.known import new_and_known, standing_text
from prefect_qatech.report.model import GateReport, ReportedTest
from prefect_qatech.report.wording import (
    GATE_TEST,
    campaign_id,
    campaign_name,
    caveats,
    ci_status,
    finite,
    outcome_text,
    shown_attempt,
    spent,
    story,
    unseen_verdict,
)
from prefect_qatech.verdict.outcomes import Outcome, TestVerdict, Verdict

_NAME, _MESSAGE, _TEXT = 250, 500, 5_000


def check_junit() -> Any:
    """Return the module `junitparser`; without it, which the extra `junit` brings, raise `InvalidInputError`."""
    try:
        # Imported here because it is an extra; typed as Any because it has no types.
        import_module("junitparser.xunit2")
        return import_module("junitparser")
    except ImportError:
        raise InvalidInputError(
            'JUnit XML needs junitparser, which is not installed: pip install "prefect-qatech[junit]"'
        ) from None


def render_junit(report: GateReport) -> str:
    """Return the report as JUnit XML; without the extra `junit` that is an `InvalidInputError`."""
    parser = check_junit()
    suite = parser.xunit2.TestSuite(plain_text(f"QA.tech: {campaign_name(report)}", _NAME))
    for name, value in _properties(report):  # before the testcases, as Surefire's schema wants it
        suite.add_property(name, value)
    # Letters, digits and dashes: tools make packages, paths and anchors of it.
    plan = re.sub(r"[^A-Za-z0-9_]+", "-", report.plan_short_id or report.plan_name or "").strip("-")
    classname = f"qatech.{plan or 'default-plan'}"
    names = _unique_names(report.tests)
    unknown = frozenset(report.causes_unknown)
    cases = [_testcase(parser, test, names[test.test_id], classname, report) for test in report.tests]
    for case, test in zip(cases, report.tests, strict=True):
        cause = ["The cause could not be found out."] if test.test_id in unknown else []
        case.system_out = xml_text("\n".join([*_details(test, report), *cause]), _TEXT)
    message = unseen_verdict(report, red=any(case.is_failure or case.is_error for case in cases))
    if message:
        cases.append(parser.xunit2.TestCase(GATE_TEST, classname))
        element = parser.Failure if report.verdict is Verdict.FAIL else parser.Error
        _add(cases[-1], element, message, report.verdict.value)
    suite.add_testcases(cases)
    seconds = spent(report).seconds
    suite.time = round(seconds or 0.0, 3)  # the testcases know their last execution only
    xml = str(suite.tostring().decode())
    if seconds is None:
        # junitparser writes the sum of the testcases.
        xml = re.sub(r' time="[^"]*"', "", xml[: xml.index(">")]) + xml[xml.index(">") :]
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}\n'


def _properties(report: GateReport) -> list[tuple[str, str]]:
    properties = [
        ("qatech.verdict", report.verdict.value),
        ("qatech.verdict_without_reruns", report.verdict_without_reruns.value),
        ("qatech.campaign", campaign_id(report) or ""),
        ("qatech.plan", report.plan_short_id or ""),
        ("qatech.label", report.label or ""),
        *_facts(report),
        ("qatech.new_and_known", new_and_known(report)),
        ("qatech.caveats", " ".join(sentence for sentence, _ in caveats(report))),
        ("qatech.incidents", ", ".join(report.incidents)),
        *((f"qatech.note.{number}", note) for number, note in enumerate(report.notes, start=1)),
        ("qatech.quarantine_unmatched", ", ".join(report.quarantine_unmatched)),
        ("prefect.flow_run_id", report.flow_run_id or ""),
        ("prefect.flow_run_url", report.flow_run_url or ""),
        *((f"qatech.tests.{verdict}", str(report.counts.get(verdict, 0))) for verdict in TestVerdict),
    ]
    if (check := report.release_check) is not None:
        score = "" if check.score is None else f"{check.score:g}"
        facts = {"id": check.short_id, "url": check.url, "status": check.status, "score": score}
        properties += [(f"qatech.release_check.{name}", value or "") for name, value in facts.items()]
        properties.append(("qatech.release_check.blockers", str(check.blocker_count) if check.is_complete else ""))
    for attempt in report.attempts:
        properties.append((f"qatech.run.{attempt.number + 1}.id", attempt.run_short_id))
        properties.append((f"qatech.run.{attempt.number + 1}.url", attempt.run_url or ""))
    return [(name, plain_text(value, 2_000)) for name, value in properties if value]


def _facts(report: GateReport) -> Iterator[tuple[str, str]]:
    numbers: Counter[str] = Counter()
    for fact in facts(report):
        numbers[fact.name] += 1
        number = f".{numbers[fact.name]}" if numbers[fact.name] > 1 else ""
        yield f"qatech.{fact.name}{number}", fact.text


def _unique_names(tests: tuple[ReportedTest, ...]) -> dict[str, str]:
    # GitLab keeps one of several testcases with the same name, which may be the one that passed.
    names = {test.test_id: plain_text(test.name, _NAME) or "(no name)" for test in tests}
    uses = Counter(names.values())
    return {
        test_id: name if uses[name] == 1 else f"{name} [{plain_text(test_id, _NAME)}]"
        for test_id, name in names.items()
    }


def _testcase(parser: Any, test: ReportedTest, name: str, classname: str, report: GateReport) -> Any:
    xunit, status = parser.xunit2, ci_status(test)
    # The service is not asked how long a test that passed took, and 0 would be wrong.
    seconds = None if test.duration_seconds is None else round(finite(test.duration_seconds), 3)
    case = xunit.TestCase(name, classname, seconds)
    failures = [index for index, outcome in enumerate(test.outcomes) if outcome is Outcome.FAILED]
    missed = [index for index, outcome in enumerate(test.outcomes) if outcome in (Outcome.MISSED, Outcome.UNFINISHED)]
    if status == "failed":
        first = failures[0] if failures else None
        _add(case, parser.Failure, story(test) if first is None else _message(test, first), "failed", test.explanation)
        _add_attempts(case, xunit.RerunFailure, test, failures[1:])
        _add_attempts(case, xunit.RerunError, test, missed)
    elif test.verdict is TestVerdict.FLAKY:
        _add_attempts(case, xunit.FlakyFailure, test, failures)
        _add_attempts(case, xunit.FlakyError, test, missed)
    elif status == "skipped":
        _add(case, parser.Skipped, f"in quarantine: {story(test)}" if test.quarantined else story(test), None)
    elif status == "error":
        _add(case, parser.Error, story(test), test.verdict.value, test.explanation)
    return case


def _add_attempts(case: Any, element: Any, test: ReportedTest, indexes: list[int]) -> None:
    for index in indexes:
        text = test.explanation if index == shown_attempt(test) else None
        _add(case, element, _message(test, index), test.outcomes[index].value, text)


def _add(case: Any, element: Any, message: str, kind: str | None, text: str | None = None) -> None:
    result = element(plain_text(message, _MESSAGE), kind)
    text = xml_text(text or message, _TEXT)
    if hasattr(result, "stack_trace"):
        result.stack_trace = text  # the schema demands one of an attempt that was not the last word
    elif kind:
        result.text = text
    case.append(result)


def _message(test: ReportedTest, index: int) -> str:
    reason = f": {test.reason}" if test.reason and index == shown_attempt(test) else ""
    return f"{outcome_text(test.outcomes[index])} on attempt {index + 1}{reason}"


def _details(test: ReportedTest, report: GateReport) -> list[str]:
    links = [("test", test.url), ("screenshot", test.screenshot_url), ("recording", test.recording_url)]
    took_part = zip(report.attempts, test.outcomes, strict=False)
    links += [(f"run of attempt {a.number + 1}", a.run_url) for a, outcome in took_part if outcome != Outcome.ABSENT]
    summary = f"{test.verdict}{' (in quarantine)' if test.quarantined else ''}: {story(test)}"
    standing = plain_text(standing_text(test), _NAME)
    return [
        summary,
        *([f"history: {standing}"] if standing else []),
        f"id: {plain_text(test.test_id, _NAME)}",
        *(f"{name}: {url}" for name, url in links if url),
    ]

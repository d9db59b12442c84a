"""What QA.tech noticed beside the results: whose it is, how much of it is shown, and that all of it is text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from prefect_qatech import GatePolicy, GateReport, evaluate
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.report.issues import ISSUES_BYTES, MAX_ISSUES, MAX_ISSUES_OF_ONE
from prefect_qatech.report.markdown import render_markdown
from prefect_qatech.report.verdict_json import load_verdict_json, render_verdict_json
from tests.report.reading import HOSTILE, render


def issue(title: str, of: str | None = None, **more: Any) -> dict[str, Any]:
    return {"title": title, **({"runTestCaseShortId": of} if of else {}), **more}


def run(name: str, results: dict[str, str], *issues: dict[str, Any]) -> QATechRun:
    cases = [
        {"id": test, "shortId": f"{name}-{test}", "name": test, "status": "COMPLETED", "result": result}
        for test, result in results.items()
    ]
    result = "PASSED" if set(results.values()) == {"PASSED"} else "FAILED"
    return QATechRun.model_validate(
        {"shortId": name, "status": "COMPLETED", "result": result, "runTestCases": cases, "issues": list(issues)}
    )


def titles(report: GateReport) -> dict[str, list[str]]:
    return {test.test_id: [issue.title for issue in test.issues] for test in report.tests}


def test_an_issue_belongs_to_the_last_execution_that_did_not_pass() -> None:
    first = run(
        "r1",
        {"a": "FAILED", "b": "FAILED", "c": "PASSED"},
        issue("first a", "r1-a"),
        issue("first b", "r1-b"),
        issue("c passed", "r1-c"),
    )
    second = run("r2", {"a": "FAILED", "b": "PASSED"}, issue("second a", "r2-a"), issue("b passed", "r2-b"))
    report = evaluate([first, second])
    assert titles(report) == {"a": ["second a"], "b": ["first b"], "c": []}
    assert (report.issues, report.issue_count) == ((), 0)


def test_what_names_no_test_of_the_campaign_is_told_once() -> None:
    slow, elsewhere = issue("Slow"), issue("Elsewhere", "another-run")
    report = evaluate([run("r1", {"a": "FAILED"}, slow, elsewhere), run("r2", {"a": "FAILED"}, slow, issue("Ugly"))])
    assert [issue.title for issue in report.issues] == ["Slow", "Elsewhere", "Ugly"]
    assert report.issue_count == 3
    page = render(render_markdown(report)).text
    assert "QA.tech noticed besides (3)" in page
    assert "Elsewhere" in page


def test_what_is_left_out_is_counted() -> None:
    report = evaluate(
        [run("r1", {"a": "FAILED"}, *(issue(f"issue {n}", "r1-a") for n in range(MAX_ISSUES_OF_ONE + 3)))]
    )
    [test] = report.tests
    assert (len(test.issues), test.issue_count) == (MAX_ISSUES_OF_ONE, MAX_ISSUES_OF_ONE + 3)
    assert "… and 3 more at QA.tech." in render(render_markdown(report)).text


@pytest.mark.parametrize("count", [1, 30, MAX_ISSUES + 50])
def test_issues_of_any_size_leave_the_report_small(count: int) -> None:
    names = [f"t{n}" for n in range(count)]
    many = [
        issue("\U0001f600" * 900, f"r1-{name}", description='"' * 9_000, category="\x01" * 90, severity="ä" * 90)
        for name in names
        for _ in range(20)
    ]
    report = evaluate([run("r1", dict.fromkeys(names, "FAILED"), *many)])
    held = [issue for test in report.tests for issue in test.issues]
    assert len(held) <= MAX_ISSUES
    assert sum(test.issue_count for test in report.tests) == 20 * count
    texts = [text for issue in held for text in issue.model_dump().values()]
    assert sum(len(text.encode()) for text in texts) <= ISSUES_BYTES


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_issues_show_as_text(kind: str) -> None:
    evil = HOSTILE[kind]
    texts = {"category": evil, "severity": evil, "description": evil}
    plain = render(render_markdown(evaluate([run("r1", {"a": "FAILED"}, issue("x", "r1-a"), issue("x"))])))
    page = render(
        render_markdown(evaluate([run("r1", {"a": "FAILED"}, issue(evil, "r1-a", **texts), issue(evil, **texts))]))
    )
    assert page.tags <= plain.tags | {"wbr"}
    assert page.links == plain.links
    assert page.images == plain.images


@given(st.lists(st.text(max_size=40), max_size=5))
def test_issues_decide_nothing_and_are_kept(found: list[str]) -> None:
    runs = [run("r1", {"a": "FAILED", "b": "PASSED"}, *(issue(title, "r1-a") for title in found))]
    report, without = evaluate(runs), evaluate([runs[0].model_copy(update={"issues": []})])
    assert report.evidence_sha256 == without.evidence_sha256
    assert report.reasons == without.reasons
    assert load_verdict_json(render_verdict_json(report)) == report
    assert report.judge_again(GatePolicy()).verdict is report.verdict

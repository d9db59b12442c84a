"""Why a test failed: what is shown of it, what is left out, and that all of it is text."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given, strategies as st

from prefect_qatech import (
    QATechDetectedIssue,
    QATechRunTestCase,
    QATechRunTestCaseDetails,
    QATechToolCall,
    QATechTraceStep,
    describe_failure,
)
from tests.report.reading import HOSTILE, invisible, raw_references, render, words

PICTURE = "https://app.qa.tech/pictures/1.png"
# Half of the characters mean something to Markdown or HTML, or hide something.
TEXTS = st.text(
    st.one_of(st.sampled_from("*_`[](){}<>&#!|\\~:/.@-+=1w \n\t\u200b\u202e\"'ahtps"), st.characters()), max_size=80
)
STEPS = st.builds(
    QATechTraceStep,
    reasoning=TEXTS,
    tool_calls=st.lists(st.builds(QATechToolCall, name=TEXTS, arguments=st.dictionaries(TEXTS, TEXTS, max_size=2))),
    tool_result=TEXTS,
    screenshot_url=st.one_of(st.none(), st.just(PICTURE), TEXTS),
)
ISSUES = st.builds(
    QATechDetectedIssue,
    title=TEXTS,
    category=TEXTS,
    severity=TEXTS,
    description=TEXTS,
    run_test_case_short_id=st.just("rtc_1"),
)


def a_test(text: str) -> QATechRunTestCaseDetails:
    return QATechRunTestCaseDetails(
        short_id="rtc_1",
        name=text,
        status=text,
        result=text,
        result_title=text,
        evaluation_thought=text,
        error_code=text,
        url=text,
        screenshot_url=PICTURE,
        duration_ms=90_000,
    )


def steps(count: int, text: str = "I click.") -> list[QATechTraceStep]:
    return [QATechTraceStep(index=place, reasoning=f"{text} {place + 1}") for place in range(count)]


PAY = QATechRunTestCase(short_id="rtc_1", name="Pay", status="COMPLETED", result="FAILED", result_title="No button")


def test_the_last_steps_tell_why_what_and_what_came_of_it() -> None:
    click = QATechTraceStep(
        reasoning="I pay.",
        tool_calls=[QATechToolCall(name="click", arguments={"on": "Pay now"}), QATechToolCall(name="wait")],
        tool_result="There is no such button.",
        screenshot_url=PICTURE,
    )
    page = render(describe_failure(PAY, [*steps(8), click]))
    assert words(page.text) == words(
        "Pay FAILED No button The agent's last steps (5 of 9) "
        "Step 5: I click. 5 Step 6: I click. 6 Step 7: I click. 7 Step 8: I click. 8 "
        'Step 9: I pay. Did: click({"on": "Pay now"}), wait() Result: There is no such button. picture'
    )
    assert page.links == [PICTURE]


def test_the_issues_of_this_test_are_shown_and_no_others() -> None:
    issues = [
        QATechDetectedIssue(title="Slow", severity="low", category="performance", run_test_case_short_id="rtc_1"),
        QATechDetectedIssue(title="Elsewhere", run_test_case_short_id="rtc_2"),
        QATechDetectedIssue(title="Nowhere"),
    ]
    text = render(describe_failure(PAY, issues=issues)).text
    assert words(text) == "Pay FAILED No button QA.tech noticed (1 of 1) Slow (low, performance)"
    unknown = PAY.model_copy(update={"short_id": None})
    assert "Nowhere" not in describe_failure(unknown, issues=issues)


def test_where_there_is_little_room_the_last_steps_stay() -> None:
    text = render(describe_failure(PAY, steps(9, "x" * 100), max_length=350)).text
    assert "(2 of 9)" in text
    assert "Step 7" not in text
    assert text.index("Step 8") < text.index("Step 9")


def test_many_issues_leave_room_for_a_step() -> None:
    issues = [QATechDetectedIssue(title="I" * 100, run_test_case_short_id="rtc_1")] * 50
    text = describe_failure(PAY, steps(3), issues, max_length=1_000)
    assert "(4 of 50)" in text
    assert "(3 of 3)" in text


@given(TEXTS, st.lists(STEPS, max_size=7), st.lists(ISSUES, max_size=3), st.integers(0, 3_000))
def test_nothing_is_longer_than_it_may_be(
    text: str, trace: list[QATechTraceStep], issues: list[QATechDetectedIssue], size: int
) -> None:
    assert len(describe_failure(a_test(text), trace, issues, max_length=size)) <= size


def check_that_it_is_text(markdown: str) -> None:
    page = render(markdown)
    assert page.images == []
    assert page.tags <= {"h3", "p", "strong", "a", "wbr"}
    assert {urlsplit(link).netloc for link in page.links} <= {urlsplit(PICTURE).netloc}
    assert raw_references(markdown) == []
    assert invisible(markdown.replace("\n", "")) == []


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_stays_text(kind: str) -> None:
    evil = HOSTILE[kind]
    issue = QATechDetectedIssue(
        title=evil, category=evil, severity=evil, description=evil, run_test_case_short_id="rtc_1"
    )
    step = QATechTraceStep(
        reasoning=evil,
        tool_calls=[QATechToolCall(name=evil, arguments={evil: evil})],
        tool_result=evil,
        screenshot_url=PICTURE,
    )
    markdown = describe_failure(a_test(evil), [step], [issue], max_length=50_000)
    assert "Step 1" in markdown
    assert "QA.tech noticed" in markdown
    check_that_it_is_text(markdown)


@given(st.lists(STEPS, min_size=1, max_size=3), st.lists(ISSUES, max_size=2), st.integers(200, 3_000))
def test_any_text_stays_text_wherever_it_is_cut(
    trace: list[QATechTraceStep], issues: list[QATechDetectedIssue], size: int
) -> None:
    # An address of the service's own may lead anywhere.
    trace = [step.model_copy(update={"screenshot_url": PICTURE}) for step in trace]
    check_that_it_is_text(describe_failure(PAY, trace, issues, max_length=size))

"""What the report says, read aloud: no phrase that nobody would say."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from prefect_qatech.report.ctrf import render_ctrf
from prefect_qatech.report.explain import explain
from prefect_qatech.report.headline import advice
from prefect_qatech.report.junit import render_junit
from prefect_qatech.report.markdown import render_markdown
from prefect_qatech.report.model import GateReport
from prefect_qatech.verdict.policy import GatePolicy
from tests.report import campaigns
from tests.report.campaigns import attempt, report_of
from tests.report.reading import render, words

NOBODY_SAYS = re.compile(
    r"at most 0|missed on attempt|unfinished on attempt|\blast run\b|\b1 (?:tests|reruns|test executions|entries)\b"
    r"|\b0 tests passed|, (?:may|asks) ",
    re.IGNORECASE,
)


def tolerated() -> GateReport:
    return report_of(attempt(0, {"Login": "F", "Browse": "P"}), policy=GatePolicy(max_failed=1, max_reruns=0))


def nothing_decided() -> GateReport:
    return report_of(attempt(0, {"Login": "M"}), attempt(1, {"Login": "M"}))


MAKERS = [
    *(campaigns.everything, campaigns.passing, campaigns.flaky_pass, campaigns.inconclusive, campaigns.no_run),
    *(campaigns.of_somebody_elses_run, tolerated, nothing_decided),
]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_no_form_of_the_report_says_what_nobody_says(make: Callable[[], GateReport]) -> None:
    report = make()
    told = {
        "artifact": render(render_markdown(report)).text,
        "terminal": " ".join(explain(report, GatePolicy(max_flaky=0))),
        "JUnit": render_junit(report),
        "CTRF": render_ctrf(report),
    }
    assert {
        form: NOBODY_SAYS.findall(words(text)) for form, text in told.items() if NOBODY_SAYS.search(words(text))
    } == {}


def test_what_people_say_instead() -> None:
    text = words(render(render_markdown(campaigns.everything())).text)
    assert "Invoice: not carried out on attempts 1, 2 and 3" in text
    assert "Export: not finished on attempts 1 and 2" in text
    assert "open the latest run" in text
    assert "1 test execution, 0 reruns" in words(render(render_markdown(campaigns.inconclusive())).text)
    assert "No test passed or failed; at least 1 must." in render_markdown(campaigns.no_run())
    assert advice(tolerated()) == "This policy tolerates 1 test that did not pass."

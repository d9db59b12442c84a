"""What an attempt says about a test, and what all attempts together say, row by row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prefect_qatech.verdict.judge import Incident
from prefect_qatech.verdict.outcomes import Outcome, TestVerdict, Verdict, classify, merge
from tests.verdict.runs import (
    CANCELLED,
    FAIL,
    FAILED,
    INCONCLUSIVE,
    LETTERS,
    MISSED,
    PASS,
    PASSED,
    SKIPPED,
    UNFINISHED,
)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (Outcome, "passed failed missed skipped cancelled unfinished absent"),
        (TestVerdict, "passed recovered flaky failed errored skipped cancelled missing"),
        (Verdict, "pass inconclusive fail"),
        (
            Incident,
            "deadline_passed usage_limit outcome_unknown nothing_to_rerun rerun_refused wait_gave_up count_unreadable "
            "stale_pass pass_not_recorded release_check_incomplete",
        ),
    ],
)
def test_words_print_as_themselves(words: Any, values: str) -> None:
    assert " ".join(str(word) for word in words) == values
    assert " ".join(f"{word}" for word in words) == values
    assert json.loads(json.dumps(list(words))) == values.split()
    assert [words(value) for value in values.split()] == list(words)


def test_the_worst_verdict_is_not_the_last_in_the_alphabet() -> None:
    assert Verdict.worst([PASS]) is PASS
    assert Verdict.worst([INCONCLUSIVE, PASS]) is INCONCLUSIVE
    assert Verdict.worst([PASS, FAIL, INCONCLUSIVE]) is FAIL
    with pytest.raises(ValueError, match="empty"):
        Verdict.worst([])


# --- Outcome of a test in an attempt


@pytest.mark.parametrize(
    ("status", "result", "error_code", "outcome"),
    [
        ("CANCELLED", None, None, CANCELLED),
        ("CANCELLED", "PASSED", None, CANCELLED),
        ("CANCELLED", "FAILED", "AGENT_STUCK", CANCELLED),
        ("INITIATED", None, None, UNFINISHED),
        ("RUNNING", "PASSED", None, UNFINISHED),
        ("RUNNING", "FAILED", "PLATFORM_DOWN", UNFINISHED),
        ("COMPLETED", None, None, UNFINISHED),
        ("COMPLETED", None, "AGENT_STUCK", UNFINISHED),
        ("ERROR", None, None, MISSED),
        ("ERROR", "PASSED", None, MISSED),
        ("ERROR", "FAILED", "TEST_FAILED", MISSED),
        ("PAUSED", "PASSED", None, MISSED),
        ("PAUSED", None, None, MISSED),
        ("", "PASSED", None, MISSED),
        ("completed", "PASSED", None, MISSED),
        ("cancelled", None, None, MISSED),
        (" COMPLETED", "PASSED", None, MISSED),
        ("COMPLETED", "PASSED", "AGENT_STUCK", MISSED),
        ("COMPLETED", "FAILED", "AGENT_STUCK", MISSED),
        ("COMPLETED", "FAILED", "PLATFORM_DOWN", MISSED),
        ("COMPLETED", "SKIPPED", "PLATFORM_DOWN", MISSED),
        ("COMPLETED", "SKIPPED", "AGENT_STUCK", MISSED),
        ("COMPLETED", "PASSED", None, PASSED),
        ("COMPLETED", "PASSED", "TEST_FAILED", MISSED),
        ("COMPLETED", "PASSED", "SOMETHING", MISSED),
        ("COMPLETED", "PASSED", "", MISSED),
        ("COMPLETED", "FAILED", None, FAILED),
        ("COMPLETED", "FAILED", "TEST_FAILED", FAILED),
        ("COMPLETED", "FAILED", "", FAILED),
        ("COMPLETED", "FAILED", "SOMETHING", MISSED),
        ("COMPLETED", "FAILED", "test_failed", MISSED),
        ("COMPLETED", "FAILED", "TEST_FAILED_TWICE", MISSED),
        ("COMPLETED", "SKIPPED", None, SKIPPED),
        ("COMPLETED", "SKIPPED", "SOMETHING", SKIPPED),
        ("COMPLETED", "", None, MISSED),
        ("COMPLETED", "passed", None, MISSED),
        ("COMPLETED", "WARNING", None, MISSED),
    ],
)
def test_outcome(status: str, result: str | None, error_code: str | None, outcome: Outcome) -> None:
    assert classify(status, result, error_code) is outcome


# --- Verdict of a test over all attempts


@pytest.mark.parametrize(
    ("letters", "passes_required", "verdict"),
    [
        ("", 1, TestVerdict.MISSING),
        ("a", 1, TestVerdict.MISSING),
        ("aa", 1, TestVerdict.MISSING),
        ("m", 1, TestVerdict.ERRORED),
        ("u", 1, TestVerdict.ERRORED),
        ("sca", 1, TestVerdict.CANCELLED),
        ("csm", 1, TestVerdict.ERRORED),
        ("csu", 1, TestVerdict.ERRORED),
        ("c", 1, TestVerdict.CANCELLED),
        ("s", 1, TestVerdict.SKIPPED),
        ("as", 1, TestVerdict.SKIPPED),
        ("f", 1, TestVerdict.FAILED),
        ("pf", 1, TestVerdict.FAILED),
        ("fs", 1, TestVerdict.FAILED),
        ("fm", 1, TestVerdict.FAILED),
        ("fpf", 1, TestVerdict.FAILED),
        ("pfa", 1, TestVerdict.FAILED),
        ("p", 1, TestVerdict.PASSED),
        ("pm", 1, TestVerdict.PASSED),
        ("pa", 1, TestVerdict.PASSED),
        ("p", 2, TestVerdict.PASSED),
        ("mp", 1, TestVerdict.RECOVERED),
        ("sp", 1, TestVerdict.RECOVERED),
        ("ap", 1, TestVerdict.RECOVERED),
        ("cup", 3, TestVerdict.RECOVERED),
        ("fp", 1, TestVerdict.FLAKY),
        ("pfp", 1, TestVerdict.FLAKY),
        ("mfp", 1, TestVerdict.FLAKY),
        ("fpm", 1, TestVerdict.FLAKY),
        ("fp", 2, TestVerdict.FAILED),
        ("pfp", 2, TestVerdict.FAILED),
        ("fpp", 2, TestVerdict.FLAKY),
        ("fpmp", 2, TestVerdict.FLAKY),
        ("fpfp", 2, TestVerdict.FAILED),
        ("fppp", 2, TestVerdict.FLAKY),
    ],
)
def test_merge(letters: str, passes_required: int, verdict: TestVerdict) -> None:
    outcomes = [LETTERS[letter] for letter in letters]
    assert merge(outcomes, passes_required) is verdict
    plain: Any = [outcome.value for outcome in outcomes]
    assert merge(plain, passes_required) is verdict


def test_one_pass_after_a_failure_is_enough_unless_told_otherwise() -> None:
    assert merge([FAILED, PASSED]) is TestVerdict.FLAKY


def test_merge_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(ValueError, match="passes_required is 0"):
        merge([PASSED], 0)
    unknown: Any = ["fine"]
    with pytest.raises(ValueError, match="'fine' is not a valid Outcome"):
        merge(unknown)

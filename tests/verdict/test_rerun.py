"""What is rerun, and what is not."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from prefect_qatech.verdict.judge import Incident, judge
from prefect_qatech.verdict.outcomes import Attempt
from prefect_qatech.verdict.policy import GatePolicy
from prefect_qatech.verdict.rerun import NoRerun, Rerun, plan_rerun, rerun_base
from tests.verdict.runs import (
    TODAY,
    quarantine,
    run,
    suite,
)


@pytest.mark.parametrize(
    ("attempts", "plan"),
    [
        ([run("a:p b:f c:p")], Rerun("failed_only", ("b",))),
        ([run("a:f b:s c:m")], Rerun("failed_only", ("a", "b", "c"))),
        ([run("a:f b:s c:m", result="FAILED")], Rerun("failed_only", ("a", "b", "c"))),
        ([run("a:p b:f c:c")], Rerun("test_cases", ("b", "c"))),
        ([run("a:p b:f c:u")], Rerun("test_cases", ("b", "c"))),
        ([run("a:p b:f")], Rerun("test_cases", ("b", "c"))),
        ([run("a:p b:p c:a")], Rerun("test_cases", ("c",))),
        ([run("c:f b:f a:p")], Rerun("failed_only", ("b", "c"))),
        ([run("a:p b:f c:f"), run("b:p c:f")], Rerun("test_cases", ("c",), 1)),
        ([run("a:p b:f c:f"), run("b:f c:f")], Rerun("test_cases", ("b", "c"), 1)),
        ([run("a:p b:f c:f"), run("b:f")], Rerun("test_cases", ("b", "c"), 0)),
        ([run("a:p b:f c:p"), run("a:f b:p")], Rerun("test_cases", ("a",), 1)),
        ([run("a:p b:f c:p"), run("b:p x:f")], Rerun("test_cases", ("x",), 1)),
        ([run("a:p b:f c:p"), run("b:f x:s")], Rerun("test_cases", ("b",), 1)),
        ([run("a:m b:m c:m", "ERROR")], Rerun("everything", ("a", "b", "c"))),
        ([run("", "ERROR")], Rerun("everything", ("a", "b", "c"))),
        ([run("a:p b:p c:p", "ERROR")], Rerun("everything", ())),
        ([run("a:p b:f c:p"), run("b:m", "ERROR")], Rerun("everything", ("b",), 1)),
        ([run("a:p b:f c:p"), run("b:m", "CANCELLED"), run("b:f")], "budget_spent"),
        ([run("a:f b:f c:f"), run("a:f b:f c:f"), run("a:f b:f c:f")], "budget_spent"),
        ([run("", "ERROR"), run("", "ERROR"), run("", "ERROR")], "budget_spent"),
        ([], "no_attempt"),
        ([run("a:p b:p c:p")], "nothing_open"),
        ([run("a:p b:f c:p"), run("b:p")], "nothing_open"),
        ([run("a:p b:p c:p", result="FAILED")], "nothing_open"),
        ([run("a:p b:p c:p"), run("", "ERROR")], "nothing_open"),
        ([run("a:p b:f c:c", "CANCELLED")], "cancelled"),
        ([run("a:p b:f c:u", "RUNNING")], "not_final"),
        ([run("a:p b:f c:u", "PAUSED")], "not_final"),
    ],
)
def test_plan(attempts: list[Attempt], plan: Rerun | str) -> None:
    made = plan_rerun("abc", attempts)
    assert (made.reason if isinstance(made, NoRerun) else made) == plan


@pytest.mark.parametrize("max_reruns", [0, 1, 3, 10])
def test_budget(max_reruns: int) -> None:
    policy = GatePolicy(max_reruns=max_reruns)
    for reruns in range(max_reruns):
        assert isinstance(plan_rerun("a", [run("a:f")] * (reruns + 1), policy), Rerun)
    spent = plan_rerun("a", [run("a:f")] * (max_reruns + 1), policy)
    assert spent == NoRerun("budget_spent", f"The limit of reruns, {max_reruns}, is reached.")


@pytest.mark.parametrize(
    ("fuse", "holds", "blows"),
    [
        (None, suite(p=2, f=10), suite(p=2, f=11)),
        (None, suite(p=70, f=20, m=10), suite(p=70, f=20, m=11)),
        (None, suite(p=2, f=5, s=30), suite(p=2, f=8, m=3, s=10)),
        (0, suite(p=2, s=2), suite(p=2, f=1)),
        (3, suite(p=2, f=2, m=1), suite(p=90, f=2, m=2)),
        (0.5, suite(p=2, f=2), suite(p=2, f=3)),
        (0.29, suite(p=71, f=29), suite(p=70, f=30)),
        (0.07, suite(p=93, f=7), suite(p=92, f=8)),
    ],
)
def test_fuse(fuse: float | None, holds: Attempt, blows: Attempt) -> None:
    policy = GatePolicy(fuse_failures=fuse)
    assert isinstance(plan_rerun(holds.outcomes, [holds], policy), Rerun)
    blown = plan_rerun(blows.outcomes, [blows], policy)
    assert isinstance(blown, NoRerun)
    assert blown.reason == "fuse"


def test_misses_of_an_error_run_do_not_blow_the_fuse_but_failures_do() -> None:
    missed = suite(p=1, m=40)
    error = Attempt("ERROR", missed.outcomes)
    assert plan_rerun(missed.outcomes, [error]) == Rerun("everything", tuple(missed.outcomes)[1:])
    again = plan_rerun(missed.outcomes, [error, missed])
    assert isinstance(again, NoRerun)
    assert again.reason == "fuse"
    failed = suite(p=1, f=40)
    broken = plan_rerun(failed.outcomes, [Attempt("ERROR", failed.outcomes)])
    assert isinstance(broken, NoRerun)
    assert broken.reason == "fuse"


def test_fuse_counts_neither_quarantined_tests_nor_unlisted_ones_as_failed() -> None:
    policy = GatePolicy(fuse_failures=0.5, quarantine=quarantine("q", "r"), max_undecided=5)
    attempt = run("a:f b:p q:f r:f")
    assert plan_rerun("abqr", [attempt], policy, today=TODAY) == Rerun("test_cases", ("a",))
    assert plan_rerun("a", [run("a:f")], policy, expected_count=2, today=TODAY) == Rerun("test_cases", ("a",))


def test_quarantined_tests_are_not_rerun() -> None:
    policy = GatePolicy(quarantine=quarantine("q"))
    alone = plan_rerun("aq", [run("a:p q:f")], policy, today=TODAY)
    assert isinstance(alone, NoRerun)
    assert alone.reason == "nothing_open"
    assert plan_rerun("aq", [run("a:f q:f")], policy, today=TODAY) == Rerun("test_cases", ("a",))
    assert plan_rerun("aq", [run("a:f q:p")], policy, today=TODAY) == Rerun("failed_only", ("a",))
    expired = plan_rerun("aq", [run("a:p q:f")], policy, today=date(2027, 1, 1))
    assert expired == Rerun("failed_only", ("q",))


@pytest.mark.parametrize(
    ("policy", "attempts", "plan"),
    [
        ({"max_failed": 1}, [run("a:p b:f")], "gate_passes"),
        ({"max_undecided": 1}, [run("a:p b:m")], "gate_passes"),
        ({"max_flaky": 0}, [run("a:p b:f")], "cannot_help"),
        ({"max_flaky": 0}, [run("a:p b:m")], Rerun("failed_only", ("b",))),
        ({"max_flaky": 1}, [run("a:f b:f")], "cannot_help"),
        ({"max_flaky": 1, "max_failed": 1}, [run("a:f b:f")], Rerun("failed_only", ("a", "b"))),
        ({"max_flaky": 2}, [run("a:f b:f")], Rerun("failed_only", ("a", "b"))),
        ({"max_flaky": 0}, [run("a:f b:m"), run("a:p b:m")], "cannot_help"),
        ({"min_decided": 3}, [run("a:p b:f")], "cannot_help"),
        ({"passes_required": 2}, [run("a:p b:f")], Rerun("failed_only", ("b",))),
        ({"passes_required": 2}, [run("a:p b:f"), run("b:p")], Rerun("test_cases", ("b",), 1)),
        ({"passes_required": 2}, [run("a:p b:f"), run("b:f")], "cannot_help"),
        ({"passes_required": 3}, [run("a:p b:f")], "cannot_help"),
        ({"passes_required": 2, "max_failed": 1}, [run("a:f b:f"), run("a:p b:f")], Rerun("test_cases", ("a", "b"), 1)),
        ({"passes_required": 2, "max_failed": 1}, [run("a:f b:f"), run("a:f b:p")], Rerun("test_cases", ("a", "b"), 1)),
        ({}, [run("a:p b:f", result="FAILED"), run("a:f b:p", result="FAILED")], Rerun("test_cases", ("a",), 1)),
        ({}, [run("a:p b:f", result="FAILED"), run("b:c", result="FAILED"), run("b:f")], "budget_spent"),
    ],
)
def test_a_rerun_is_asked_for_only_where_it_could_help(
    policy: dict[str, Any], attempts: list[Attempt], plan: Rerun | str
) -> None:
    made = plan_rerun("ab", attempts, GatePolicy(**policy))
    assert (made.reason if isinstance(made, NoRerun) else made) == plan


@pytest.mark.parametrize("incident", list(Incident))
def test_no_rerun_after_an_incident(incident: Incident) -> None:
    made = plan_rerun("a", [run("a:f")], incidents=iter([incident]))
    assert isinstance(made, NoRerun)
    assert made.reason == "cannot_help"
    assert judge("a", [run("a:p")], incidents=[incident]).reasons[0].sentence in made.sentence


def test_no_rerun_can_make_up_for_tests_that_were_never_listed() -> None:
    made = plan_rerun("ab", [run("a:p b:f")], expected_count=3)
    assert isinstance(made, NoRerun)
    assert made.reason == "cannot_help"
    assert "never listed" in made.sentence
    tolerated = plan_rerun("ab", [run("a:p b:f")], GatePolicy(max_undecided=1), expected_count=3)
    assert tolerated == Rerun("test_cases", ("b",))  # failedOnly might take more along than we know of


@pytest.mark.parametrize(
    ("tests", "attempts", "base"),
    [
        ("a", [], 0),
        ("a", [run("b:p")], 0),
        ("a", [run("a:f"), run("a:f")], 1),
        ("ab", [run("a:f b:f"), run("a:f b:f"), run("a:f")], 1),
        ("ab", [run("a:f b:f"), run("b:f"), run("a:f b:a")], 0),
        ("ab", [run("a:f"), run("b:f")], 0),
        ("", [run("a:f"), run("b:f")], 1),
    ],
)
def test_rerun_base(tests: str, attempts: list[Attempt], base: int) -> None:
    assert rerun_base(iter(tests), attempts) == base

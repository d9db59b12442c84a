"""Several gates in one summary."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_qatech.report.escape import plain_text
from prefect_qatech.report.gates import gates_message, render_gates
from prefect_qatech.report.model import GateReport, GatesReport
from prefect_qatech.verdict.outcomes import Verdict
from tests.report.campaigns import attempt, report_of
from tests.report.reading import HOSTILE, raw_references, render, words


def gates(*targets: str | None) -> GatesReport:
    reports = {f"gate {n}": report_of(attempt(0, {"Login": "P"}), target=target) for n, target in enumerate(targets)}
    return GatesReport(names=tuple(reports), reports=reports)


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (("v1", "v1"), "2 of 2 gates passed. Target: v1."),
        (("v2", "v1"), "2 of 2 gates passed. Target: v1, v2."),
        (("v1", None), "2 of 2 gates passed. Target: v1."),
        ((None, None), "2 of 2 gates passed. 17 min of runs."),
    ],
)
def test_the_summary_names_what_was_tested(targets: tuple[str | None, ...], told: str) -> None:
    assert told in words(render(render_gates(gates(*targets))).text)


def a_gate(outcome: str, **more: Any) -> GateReport:
    return report_of(attempt(0, {"A": outcome}, **more))


def test_a_gate_without_a_report_is_no_pass() -> None:
    report = GatesReport(names=("a", "b"), reports={"a": a_gate("P")})
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "could not be evaluated" in render_gates(report)


def test_no_gates_are_no_report() -> None:
    with pytest.raises(ValueError, match="names"):
        GatesReport(names=(), reports={})


def test_the_worst_stands_first() -> None:
    reports = {"good": a_gate("P"), "unknown": a_gate("S"), "bad": a_gate("F")}
    text = render_gates(GatesReport(names=(*reports, "gone"), reports=reports, errors={"gone": "no such plan"}))
    shown = [line.split("**")[1] for line in text.splitlines() if line.startswith("- ")]
    assert shown == ["bad", "unknown", "gone", "good"]
    assert text.startswith("## ❌ FAIL: do not release\n\n1 of 4 gates passed.")
    assert "**gone**: could not be evaluated\n  - no such plan" in text


def test_each_gate_that_did_not_pass_is_told_with_how_many_tests_failed() -> None:
    reports = {"good": a_gate("P"), "bad": report_of(attempt(0, {"Login": "P", "Pay": "F", "Search": "F"}))}
    report = GatesReport(names=(*reports, "gone"), reports=reports, errors={"gone": "no such plan"})
    assert "3 tests: 1 passed, 2 failed" in render_gates(report)
    assert gates_message(report) == (
        "FAIL: do not release. 1 of 3 gates passed. bad: fail, 2 tests failed; this gate allows none. "
        "(https://app.qa.tech/results/run1); gone: could not be evaluated, no such plan"
    )


def test_a_test_that_is_flaky_is_named_also_where_the_gate_passed() -> None:
    gate = report_of(attempt(0, {"Login": "P", "Pay": "F"}), attempt(1, {"Pay": "P"}))
    assert "  - Flaky: Pay" in render_gates(GatesReport(names=("a",), reports={"a": gate}))


def test_many_gates_stay_readable() -> None:
    names = tuple(f"gate {number}" for number in range(500))
    report = GatesReport(names=names, reports={}, errors=dict.fromkeys(names, "x" * 1_000))
    assert len(render_gates(report).encode()) < 256 * 1024
    shown = render_gates(report).splitlines()
    assert len([line for line in shown if line.startswith("- ")]) == 500, "each is there"
    assert len([line for line in shown if line.startswith("  - ")]) == 100, "and some of them in full"
    message = gates_message(report)
    assert message.endswith("; and 490 more")
    assert len(message) < 8_000


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_stays_text(kind: str) -> None:
    evil = HOSTILE[kind]
    gate = a_gate("F", texts={"name": evil, "title": evil, "url": "javascript:alert(1)"})
    target = evil.encode(errors="replace").decode() or "x"
    gate = gate.model_copy(update={"plan_name": evil, "target": target})
    report = GatesReport(names=(evil, "b"), reports={evil: gate}, errors={"b": evil})
    assert raw_references(render_gates(report)) == []
    shown = render(render_gates(report))
    assert shown.links == []
    assert shown.images == []
    assert shown.tags <= {"h2", "p", "ul", "li", "strong", "wbr"}
    assert shown.items == 4 + bool(plain_text(evil, 20))
    assert plain_text(evil, 20).rstrip("…").strip() in " ".join(shown.text.split())
    message = gates_message(GatesReport(names=("a", "b"), reports={"a": gate}, errors={"b": evil}))
    assert "\n" not in message
    assert "://" not in message

"""Several gates in one summary."""

from __future__ import annotations

import pytest

from prefect_qatech.report import render_gates
from prefect_qatech.report.model import GatesReport
from tests.report.campaigns import attempt, report_of
from tests.report.reading import HOSTILE, render, words


def gates(*targets: str | None) -> GatesReport:
    reports = {f"gate {n}": report_of(attempt(0, {"Login": "P"}), target=target) for n, target in enumerate(targets)}
    return GatesReport(names=tuple(reports), reports=reports)


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (("v1", "v1"), "2 of 2 gates passed. Target: v1."),
        (("v2", "v1"), "2 of 2 gates passed. Target: v1, v2."),
        (("v1", None), "2 of 2 gates passed. Target: v1."),
        ((None, None), "2 of 2 gates passed. Gate"),
    ],
)
def test_the_summary_names_what_was_tested(targets: tuple[str | None, ...], told: str) -> None:
    assert told in words(render(render_gates(gates(*targets))).text)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_target_is_shown_as_text(kind: str) -> None:
    target = HOSTILE[kind].encode(errors="replace").decode() or "x"
    page = render(render_gates(gates(target)))
    assert page.tags <= {"h2", "p", "table", "thead", "tbody", "tr", "th", "td", "a", "wbr"}
    assert page.links == ["https://app.qa.tech/results/run1"]

"""The files of a gate, read by what others have written to read such files: `make test-readers`."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from prefect_qatech.report.ctrf import render_ctrf
from prefect_qatech.report.junit import render_junit
from prefect_qatech.report.model import GateReport
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry
from tests.report import campaigns
from tests.report.campaigns import attempt, report_of
from tests.report.reading import HOSTILE

HERE = Path(__file__).parent
GATE = "release gate"


def failed() -> GateReport:
    return report_of(attempt(0, {"Login": "F", "Browse": "P"}))


def quarantined() -> GateReport:
    entry = QuarantineEntry(reason="known", owner="ana", expires=date(2026, 12, 1))
    return report_of(attempt(0, {"Login": "P", "Pay": "F"}), policy=GatePolicy(quarantine={"Pay": entry}))


Expected = dict[str, str]
GATES: dict[str, tuple[Callable[[], GateReport], Expected, list[str]]] = {
    "pass": (campaigns.passing, {"Login": "passed", "Browse": "passed"}, []),
    "fail": (failed, {"Login": "failed", "Browse": "passed"}, []),
    "flaky": (campaigns.flaky_pass, {"Login": "passed", "Browse": "passed"}, ["Login"]),
    "quarantined": (quarantined, {"Login": "passed", "Pay": "skipped"}, []),
    "inconclusive": (campaigns.inconclusive, {GATE: "error", "Browse": "passed", "Login": "skipped"}, []),
    "without a run": (campaigns.no_run, {GATE: "error"}, []),
}


def written(report: GateReport, folder: Path) -> Path:
    (folder / "junit.xml").write_text(render_junit(report), encoding="utf-8")
    (folder / "ctrf.json").write_text(render_ctrf(report), encoding="utf-8")
    return folder


def node(script: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["node", str(script), *arguments], cwd=HERE, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def understood(folder: Path) -> dict[str, Any]:
    """What `ctrf` and `junit2json` make of the files."""
    told: dict[str, Any] = json.loads(node(HERE / "read.mjs", str(folder)))
    return told


def page(folder: Path) -> tuple[str, str]:
    """What `xunit-viewer` prints, and the page that it makes."""
    made = folder / "page.html"
    viewer = HERE / "node_modules/xunit-viewer/bin/xunit-viewer.js"
    printed = node(viewer, "-r", str(folder / "junit.xml"), "-o", str(made), "-c", "-C", "false", "-n")
    return printed, made.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", GATES)
def test_readers_understand_what_became_of_each_test(name: str, tmp_path: Path) -> None:
    make, tests, flaky = GATES[name]
    told = understood(written(make(), tmp_path))
    assert told["junit"]["tests"] == tests
    # CTRF has no word for an error that would read red.
    assert told["ctrf"]["tests"] == {test: status.replace("error", "failed") for test, status in tests.items()}
    assert told["ctrf"]["flaky"] == flaky


@pytest.mark.parametrize(
    "make", [*(make for make, *_ in GATES.values()), campaigns.everything], ids=lambda make: make.__name__
)
def test_the_sums_are_those_that_readers_come_to(make: Callable[[], GateReport], tmp_path: Path) -> None:
    told = understood(written(make(), tmp_path))
    for name in ("tests", "passed", "failed", "skipped", "pending", "other", "flaky"):
        assert told["ctrf"]["summary"].get(name, 0) == told["ctrf"]["counted"].get(name, 0), name
    states = list(told["junit"]["tests"].values())
    counted = [len(states), *(states.count(state) for state in ("failed", "error", "skipped"))]
    assert told["junit"]["counts"] == counted


@pytest.mark.parametrize(
    ("name", "sum_of_it"),
    [
        ("pass", "2 passed"),
        ("fail", "1 failure, 1 passed"),
        ("flaky", "1 flakyFailure, 1 passed"),
        ("quarantined", "1 skipped, 1 passed"),
        ("inconclusive", "1 skipped, 1 passed, 1 error"),
        ("without a run", "1 error"),
    ],
)
def test_a_viewer_shows_each_test_and_their_sum(name: str, sum_of_it: str, tmp_path: Path) -> None:
    make, tests, _ = GATES[name]
    printed, html = page(written(make(), tmp_path))
    assert sum_of_it in printed
    line = r"^ *\S {}( time=| ?$)"
    assert [test for test in tests if not re.search(line.format(re.escape(test)), printed, re.MULTILINE)] == []
    assert "qatech.verdict=" in printed
    assert "<html" in html
    assert "NaN" not in printed, "a time that nobody knows is absent"


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if not kind.startswith("long")])
def test_texts_of_any_kind_can_be_read(kind: str, tmp_path: Path) -> None:
    report = campaigns.hostile(HOSTILE[kind])
    told = understood(written(report, tmp_path))
    assert "failed" in told["junit"]["tests"].values()
    assert "failed" in told["ctrf"]["tests"].values()

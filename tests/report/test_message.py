"""The line of a verdict, which lists cut after some seventy characters, and its name in them."""

from __future__ import annotations

from datetime import date

import pytest

from prefect_qatech.report.headline import VERDICT_STATES, state_name
from prefect_qatech.report.message import gate_message
from prefect_qatech.report.model import GateReport
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry
from tests.report.campaigns import attempt, passing, project_id, report_of
from tests.report.test_headline import FAILED, FLAKY, decided

QUARANTINE = {project_id("Pay"): QuarantineEntry(reason="known", owner="Ana", expires=date(2026, 12, 1))}
FAILS = report_of(*FAILED)


@pytest.mark.parametrize(
    ("report", "name", "begins"),
    [
        (passing(), "Passed", "2 of 2 tests passed. Run: "),
        (report_of(*FLAKY), "Passed, 2 flaky", "Flaky: Login, Pay. 3 of 3 tests passed."),
        (
            report_of(*FAILED, policy=GatePolicy(max_failed=99)),
            "Passed under a relaxed policy",
            "1 of 2 tests passed. 1 test failed",
        ),
        (
            report_of(attempt(0, {"Login": "P", "Pay": "F"}), policy=GatePolicy(quarantine=QUARANTINE)),
            "Passed, with 1 failing test in quarantine",
            "1 of 1 test passed.",
        ),
        (FAILS, "Gate failed", "1 of 2 tests failed: Login. The release may not go out."),
        (
            report_of(attempt(0, {"Login": "F", "Pay": "F"}), policy=GatePolicy(quarantine=QUARANTINE, max_reruns=0)),
            "Gate failed",
            "1 of 2 tests failed: Login. The release may not go out.",
        ),
        (
            report_of(attempt(0, {"Login": "C"}, status="CANCELLED")),
            "Inconclusive",
            "1 test neither passed nor failed; this gate allows none. The release may not go out.",
        ),
        (decided(FAILS, True, "Ada"), "Approved", "Approved by Ada. 1 of 2 tests failed: Login. "),
        (decided(FAILS, False, "Ada"), "Gate failed, rejected", "Rejected by Ada. 1 of 2 tests failed: Login. "),
        (decided(FAILS, False, None), "Gate failed", "1 of 2 tests failed: Login. "),
        (decided(FAILS, True, "Ada", evidence="of another run"), "Gate failed", "1 of 2 tests failed: Login. "),
    ],
)
def test_lists_show_what_matters(report: GateReport, name: str, begins: str) -> None:
    assert state_name(report) == name
    assert name.startswith(VERDICT_STATES)
    assert gate_message(report).startswith(begins)


def test_the_message_says_where_to_look_and_what_a_retry_does() -> None:
    message = gate_message(FAILS)
    assert FAILS.run_url is not None
    assert f"Run: {FAILS.run_url}." in message
    assert "A retry cannot change this verdict." in message
    assert "may not go out" not in gate_message(decided(FAILS, True, "Ada"))
    assert "retry" not in gate_message(decided(FAILS, True, "Ada"))


def test_an_undecided_test_is_named() -> None:
    message = gate_message(report_of(attempt(0, {"Login": "C", "Pay": "P"}, status="CANCELLED")))
    assert "Undecided: Login." in message


def test_a_service_that_would_forge_a_line_cannot() -> None:
    name = "Login\n\x00The gate passed. http://evil.example"
    message = gate_message(report_of(attempt(0, {name: "F"}), policy=GatePolicy(max_reruns=0)))
    assert not set("\n\x00") & set(message)
    assert "http://evil.example" not in message

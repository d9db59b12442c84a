"""The heading says what the verdict means, and nothing that is not so: no retry where a retry can do nothing."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from prefect_qatech.report.headline import advice, headline, retry_text
from prefect_qatech.report.model import GateDecision, GateReport
from prefect_qatech.verdict.judge import Incident
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry
from tests.report.campaigns import BEGAN, attempt, passing, project_id, report_of

FLAKY = (attempt(0, {"Login": "F", "Pay": "F", "Browse": "P"}), attempt(1, {"Login": "P", "Pay": "P"}))
FAILED = (attempt(0, {"Login": "F", "Browse": "P"}), attempt(1, {"Login": "F"}), attempt(2, {"Login": "F"}))
QUARANTINE = {project_id("Pay"): QuarantineEntry(reason="known", owner="Ana", expires=date(2026, 12, 1))}


def decided(report: GateReport, approved: bool, by: str | None, evidence: str | None = None) -> GateReport:
    decision = GateDecision(
        approved=approved,
        reason="Not on a Friday.",
        decided_by=by,
        decided_at=BEGAN + timedelta(hours=1),
        evidence_sha256=evidence or report.evidence_sha256,
    )
    return report.model_copy(update={"decision": decision})


@pytest.mark.parametrize(
    ("report", "heading"),
    [
        (passing(), "PASS: the release may go out"),
        (
            report_of(attempt(0, {"Login": "F", "Pay": "P"}), attempt(1, {"Login": "P"})),
            "PASS, 1 flaky: look at it this week",
        ),
        (report_of(*FLAKY), "PASS, 2 flaky: look at them this week"),
        (
            report_of(*FAILED, policy=GatePolicy(max_failed=99)),
            "PASS under a relaxed policy: the release may go out",
        ),
        (
            report_of(attempt(0, {"Login": "P"}, test_count=3), policy=GatePolicy(max_undecided=2)),
            "PASS under a relaxed policy: the release may go out",
        ),
        (report_of(attempt(0, {"Login": "P"}), policy=GatePolicy(max_failed=99)), "PASS: the release may go out"),
        (
            report_of(attempt(0, {"Login": "P", "Pay": "F"}), policy=GatePolicy(quarantine=QUARANTINE)),
            "PASS, with 1 failing test in quarantine: the release may go out",
        ),
        (report_of(*FAILED), "FAIL: no reruns are left; a retry cannot change this"),
        (report_of(FAILED[0]), "FAIL: do not release"),
        (report_of(FAILED[0], policy=GatePolicy(max_reruns=0)), "FAIL: a retry cannot change this"),
        (report_of(FAILED[0], policy=GatePolicy(fuse_failures=0)), "FAIL: a retry cannot change this"),
        (report_of(*FAILED, incidents=[Incident.RERUN_REFUSED]), "FAIL: do not release"),
        (report_of(attempt(0, {"Login": "U"}, status="RUNNING")), "INCONCLUSIVE: do not release yet"),
        (report_of(attempt(0, {"Login": "C"}, status="CANCELLED")), "INCONCLUSIVE: a retry cannot change this"),
        (report_of(incidents=[Incident.OUTCOME_UNKNOWN]), "INCONCLUSIVE: do not release yet"),
        (decided(report_of(*FAILED), True, "Ada Lovelace"), "APPROVED by Ada Lovelace (the verdict is fail)"),
        (decided(report_of(*FAILED), True, None), "APPROVED by somebody who gave no name (the verdict is fail)"),
        (decided(report_of(*FAILED), False, "Ada"), "FAIL: do not release, rejected by Ada"),
        (decided(report_of(*FAILED), False, None), "FAIL: do not release"),
        (decided(report_of(*FAILED), True, "Ada", evidence="of another run"), "FAIL: do not release"),
    ],
)
def test_the_heading_is_honest(report: GateReport, heading: str) -> None:
    assert headline(report) == heading


def test_an_approval_of_other_evidence_is_nobodys_approval() -> None:
    text = advice(decided(report_of(*FAILED), True, "Ada", evidence="of another run"))
    assert text.startswith("The approval by Ada, 2026-11-23 22:30 UTC, was of other evidence and does not count")


@pytest.mark.parametrize(
    ("report", "is_all"),
    [
        (passing(), True),
        (report_of(*FLAKY), False),
        (report_of(*FAILED, policy=GatePolicy(max_failed=1)), False),
        (report_of(attempt(0, {"Login": "P", "Pay": "F"}), policy=GatePolicy(quarantine=QUARANTINE)), False),
        (report_of(attempt(0, {"Login": "P"}), policy=GatePolicy(quarantine=QUARANTINE)), False),
        (report_of(attempt(0, {"Login": "P", "Pay": "P"}), policy=GatePolicy(quarantine=QUARANTINE)), True),
        (report_of(*FAILED), False),
    ],
)
def test_nothing_has_to_be_done_only_where_that_is_so(report: GateReport, is_all: bool) -> None:
    assert (advice(report) == "Nothing has to be done.") is is_all


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        (report_of(*FAILED), "A retry cannot change this verdict. The limit of reruns, 2, is reached."),
        (report_of(FAILED[0]), "A retry goes on with this campaign and may spend 2 more reruns."),
        (report_of(*FAILED[:2]), "A retry goes on with this campaign and may spend 1 more rerun."),
        (
            report_of(attempt(0, {"Login": "C"}, status="CANCELLED")),
            "A retry cannot change this verdict. The latest run was cancelled: somebody meant it.",
        ),
        (report_of(*FAILED, incidents=[Incident.DEADLINE_PASSED]), "A retry goes on with this campaign."),
        (decided(report_of(*FAILED), False, "Ada"), "A retry goes on with this campaign and asks again."),
    ],
)
def test_a_retry_is_advised_only_where_it_can_do_something(report: GateReport, sentence: str) -> None:
    assert retry_text(report) == f"{sentence} For a fresh start run the flow, or its deployment, anew."

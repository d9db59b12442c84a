"""Campaigns to be reported: built with the same functions as the gate builds them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from prefect_qatech.api.catalogue import QATechFinding, QATechReleaseCheck, QATechScore
from prefect_qatech.api.responses import QATechRun, QATechRunTestCaseDetails
from prefect_qatech.report.build import build_report
from prefect_qatech.report.history import HistoryEntry
from prefect_qatech.report.known import with_standings
from prefect_qatech.report.model import GateReport, ReportedFinding, ReportedReleaseCheck, ReportedScore
from prefect_qatech.report.quarantine import mark_of
from prefect_qatech.report.release_check import report_release_check
from prefect_qatech.report.subject import GateSubject, ReportedApplication
from prefect_qatech.verdict.identity import ObservedAttempt, recognise
from prefect_qatech.verdict.judge import Incident
from prefect_qatech.verdict.outcomes import Verdict
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry

BEGAN = datetime(2026, 11, 23, 21, 30, tzinfo=timezone.utc)
_SERVICE = {
    "P": ("COMPLETED", "PASSED", None),
    "F": ("COMPLETED", "FAILED", "TEST_FAILED"),
    "M": ("ERROR", None, "PLATFORM_BROWSER_CRASHED"),
    "S": ("COMPLETED", "SKIPPED", None),
    "C": ("CANCELLED", None, None),
    "U": ("RUNNING", None, None),
}


def project_id(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, name))


def attempt(
    number: int,
    outcomes: dict[str, str],
    *,
    run: str | None = None,
    status: str = "COMPLETED",
    weak: tuple[str, ...] = (),
    test_count: int | None = None,
    texts: dict[str, str] | None = None,
    lost: tuple[str, ...] = (),
    issues: dict[str, str] | None = None,
    issues_lost: bool = False,
) -> ObservedAttempt:
    """One attempt: test name to one of P, F, M, S, C, U; `issues` tells what was noticed in which test."""
    run = run or f"run{number + 1}"
    cases: list[dict[str, Any]] = []
    details: dict[str, QATechRunTestCaseDetails] = {}
    details_lost: set[str] = set()
    texts = texts or {}
    for place, (name, letter) in enumerate(outcomes.items()):
        case_status, result, error_code = _SERVICE[letter]
        short_id = f"{run}-{place}"
        case = {
            "id": None if name in weak else project_id(name),
            "shortId": short_id,
            "name": texts.get("name", "") + name,
            "status": case_status,
            "result": result,
            "resultTitle": texts.get("title", f"{name}: the button is missing") if letter != "P" else "All well",
            "evaluationThought": texts.get("thought", f"On attempt {number + 1} I looked for the button of {name}."),
        }
        cases.append(case)
        if name in lost:
            details_lost.add(short_id)
        elif letter != "P":
            details[short_id] = QATechRunTestCaseDetails.model_validate(
                {
                    **case,
                    "errorCode": texts.get("code", error_code) if letter == "M" else error_code,
                    "durationMs": 1500 + place,
                    "url": texts.get("url", f"https://app.qa.tech/results/{run}/{short_id}"),
                    "screenshotUrl": texts.get("url", f"https://cdn.qa.tech/{short_id}.png?a=1&copy=2"),
                    "recordingUrl": texts.get("url", f"https://cdn.qa.tech/{short_id}.webm"),
                }
            )
    results = {"F", "M", "S"} & set(outcomes.values())
    return ObservedAttempt(
        kind="rerun" if number else "start",
        run=QATechRun.model_validate(
            {
                "shortId": run,
                "status": status,
                "result": ("FAILED" if results else "PASSED") if status == "COMPLETED" else None,
                "runTestCases": cases,
                "issues": [
                    {
                        **dict.fromkeys(("title", "category", "severity", "description"), text),
                        "runTestCaseShortId": next((c["shortId"] for c in cases if c["name"] == name), None),
                    }
                    for name, text in (issues or {}).items()
                ],
            }
        ),
        run_url=texts.get("url", f"https://app.qa.tech/results/{run}"),
        test_count=len(outcomes) if test_count is None else test_count,
        started_at=BEGAN + timedelta(minutes=10 * number),
        finished_at=BEGAN + timedelta(minutes=10 * number + 8, seconds=30),
        details=details,
        rerun_of=f"run{number}" if number else None,
        filter="test_cases" if number else None,
        details_lost=frozenset(details_lost),
        issues_lost=issues_lost,
    )


def report_of(*attempts: ObservedAttempt, policy: GatePolicy | None = None, **more: Any) -> GateReport:
    settings: dict[str, Any] = {
        "plan_short_id": "pln_smoke",
        "plan_name": "Smoke tests",
        "flow_run_id": "flow-1",
        **more,
    }
    about = {name: settings.pop(name) for name in GateSubject.model_fields if name in settings}
    return build_report(
        recognise(attempts),
        policy or GatePolicy(),
        GateSubject(**about),
        ended_at=BEGAN + timedelta(minutes=31),
        **settings,
    )


STAGING = ReportedApplication(
    application_short_id="app_shop", environment_url="https://staging.example.com/shop", environment_name="Staging"
)


def everything() -> GateReport:
    """A gate that failed, with every outcome, every verdict of a test, and every standing that a report can have."""
    report = _everything()
    known, recurring = (
        tuple(mark_of(test) for test in report.tests if test.name in names)
        for names in (("Checkout",), ("Login", "Wishlist"))
    )
    earlier = [
        HistoryEntry(
            run_short_id=f"earlier-{number}",
            verdict=Verdict.FAIL,
            started_at=BEGAN - timedelta(days=3 - number),
            failed_tests=failed,
        )
        for number, failed in enumerate([(), (*known, *recurring), known])
    ]
    return with_standings(report, earlier)


def _everything() -> GateReport:
    first = {
        "Browse": "P",
        "Login": "F",
        "Search": "M",
        "Checkout": "F",
        "Invoice": "M",
        "Refund": "S",
        "Newsletter": "C",
        "Export": "U",
        "Wishlist": "F",
        "Beta banner": "F",
        "Old banner": "F",
        "Unnamed case": "F",
        "Slow login": "F",
    }
    second = dict.fromkeys(("Checkout", "Beta banner", "Old banner"), "F") | {
        "Login": "P",
        "Search": "P",
        "Invoice": "M",
        "Refund": "S",
        "Newsletter": "C",
        "Export": "U",
        "Unnamed case": "P",
        "Slow login": "M",
        "Setup of checkout": "F",
        "Cleanup": "P",
    }
    third = {"Checkout": "F", "Invoice": "M", "Slow login": "P", "Old banner": "F", "Setup of checkout": "F"}
    weak = ("Unnamed case",)
    return report_of(
        attempt(0, first, weak=weak, test_count=14, lost=("Wishlist",), issues={"": "The page is <slow>"}),
        attempt(1, second, weak=weak, issues_lost=True),
        attempt(2, third, issues={"Checkout": "The *total* is wrong"}),
        policy=GatePolicy(
            quarantine={
                project_id("Beta banner"): QuarantineEntry(
                    reason="Redesign is under way", owner="web team", expires=date(2026, 12, 1)
                ),
                "Old banner": QuarantineEntry(reason="Known", owner="web team", expires=date(2026, 11, 1)),
                "Gone banner": QuarantineEntry(reason="Known", owner="web team", expires=date(2026, 12, 1)),
            }
        ),
        label="release 4.2",
        incidents=[Incident.DEADLINE_PASSED, Incident.RERUN_REFUSED],
        target="v4.2.0-rc1",
        applications=(STAGING,),
        branch="release/4.2",
        commit="4f2c9e1",
        deployment="release/staging",
        started_by="automation Release train",
        flow_run_url="https://prefect.example.com/runs/flow-run/flow-1",
        notes=["The rerun of run run3 (https://app.qa.tech/results/run3) was refused: 403 <Forbidden>."],
        evidence_is_older=True,
        release_check=ReportedReleaseCheck(
            short_id="chk1",
            url="https://app.qa.tech/p/shop/release-checks/chk1",
            status="COMPLETED",
            is_complete=True,
            score=41.5,
            summary="Paying is broken.",
            scores=(ReportedScore(category="payment", score=5, summary="Nobody can pay."),),
            findings=(
                ReportedFinding(
                    title="The button does nothing",
                    category="payment",
                    severity="critical",
                    is_blocker=True,
                    description="It has no <form>.",
                    recommendation="Give it one.",
                ),
                ReportedFinding(title="A typo", severity="low", is_blocker=False),
            ),
            finding_count=2,
            blocker_count=1,
            manual_follow_ups=("Pay once by hand.",),
        ),
    )


def of_somebody_elses_run() -> GateReport:
    """A gate that judged a run which it did not start, of which nobody told how many tests it has."""
    return report_of(replace(attempt(0, {"Login": "P"}), kind="attached", test_count=None), is_one_run_only=True)


def passing() -> GateReport:
    return report_of(attempt(0, {"Login": "P", "Browse": "P"}))


def flaky_pass() -> GateReport:
    return report_of(attempt(0, {"Login": "F", "Browse": "P"}), attempt(1, {"Login": "P"}))


def inconclusive() -> GateReport:
    return report_of(attempt(0, {"Login": "S", "Browse": "P"}))


def no_run() -> GateReport:
    return report_of(incidents=[Incident.OUTCOME_UNKNOWN])


def hostile(text: str, url: str = "javascript:alert(1)") -> GateReport:
    """Every text of the service is the same one, and that of the people who wrote the policy."""
    written = text.encode(errors="replace").decode() or "x"
    entry = QuarantineEntry(reason=written, owner=written, expires=date(2026, 12, 1))
    texts = {"name": text, "title": text, "thought": text, "url": url, "code": text}
    first = {"": "F", " flaky": "F", " missed": "M", " skipped": "S", " weak": "F", " quarantined": "F"}
    return report_of(
        attempt(
            0,
            first,
            texts=texts,
            weak=(" weak",),
            test_count=9,
            lost=("", " missed"),
            issues={"nowhere": text, text + " quarantined": text},
        ),
        attempt(1, {"": "F", " flaky": "P", " missed": "M", " weak": "F"}, texts=texts, weak=(" weak",), status=text),
        policy=GatePolicy(quarantine={project_id(" quarantined"): entry, written + " key": entry}),
        target=written,
        applications=(
            ReportedApplication(application_short_id=written, environment_url=written, environment_name=written),
        ),
        branch=written,
        commit=written,
        deployment=written,
        started_by=written,
        flow_run_url=url,
        notes=[text],
        plan_name=text,
        plan_short_id=text,
        label=text + " label",
        release_check=report_release_check(
            QATechReleaseCheck(
                short_id=text,
                url=url,
                status="COMPLETED",
                summary=text,
                categories=[QATechScore(name=text, score=1, summary=text)],
                findings=[QATechFinding(**dict.fromkeys(("title", "category", "severity", "recommendation"), text))],
                manual_follow_ups=[text],
            )
        ),
    )

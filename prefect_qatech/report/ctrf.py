"""The report as CTRF (https://ctrf.io), the JSON that many CI reporters read.

A flaky test is `passed` with `flaky: true`; one that was not carried out, was cancelled or is missing is `other`; one
in quarantine that did not pass is `skipped`. As in the JUnit file, a gate that is not a pass never reads green: where
no test is `failed`, one of the name `release gate` is.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from mimetypes import guess_type
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prefect_qatech.report.about import facts, policy_text
from prefect_qatech.report.escape import plain_text, xml_text
from prefect_qatech.report.known import new_and_known, standing_text
from prefect_qatech.report.model import GateReport, ReportedReleaseCheck, ReportedTest
from prefect_qatech.report.wording import (
    GATE_TEST,
    campaign_id,
    campaign_name,
    campaign_seconds,
    caveats,
    ci_status,
    finite,
    spent,
    story,
    unseen_verdict,
)
from prefect_qatech.texts import in_utc
from prefect_qatech.verdict.outcomes import Outcome, TestVerdict

SPEC_VERSION = "0.1.0"
_NAME, _MESSAGE, _TEXT = 250, 500, 5_000
_STATUS = {"passed": "passed", "failed": "failed", "error": "other", "skipped": "skipped"}
_ATTEMPT_STATUS = {Outcome.PASSED: "passed", Outcome.FAILED: "failed", Outcome.SKIPPED: "skipped"}


def render_ctrf(report: GateReport) -> str:
    start, stop = (
        int(in_utc(moment).timestamp() * 1000) if moment else 0
        for moment in (report.started_at or report.ended_at, report.ended_at or report.started_at)
    )
    suite, unknown = plain_text(campaign_name(report), _NAME), frozenset(report.causes_unknown)
    tests = [_test(test, suite, test.test_id in unknown) for test in report.tests]
    message = unseen_verdict(report, red=any(test["status"] == "failed" for test in tests))
    if message:
        tests.append({"name": GATE_TEST, "status": "failed", "duration": 0, "suite": [suite]})
        tests[-1]["message"] = plain_text(message, _MESSAGE)
    statuses = Counter(test["status"] for test in tests)
    total, seconds = spent(report), campaign_seconds(report)
    if seconds is not None:
        stop = start + round(seconds * 1000)
    document = {
        "reportFormat": "CTRF",
        "specVersion": SPEC_VERSION,
        "generatedBy": "prefect-qatech",
        "results": {
            "tool": {"name": "QA.tech"},
            "summary": {
                "tests": len(tests),
                **{word: statuses[word] for word in ("passed", "failed", "skipped", "pending", "other")},
                "flaky": sum(test.verdict is TestVerdict.FLAKY for test in report.tests),
                "start": start,
                "stop": max(start, stop),
                **({} if seconds is None else {"duration": round(seconds * 1000)}),
            },
            "tests": tests,
            "environment": _environment(report, suite),
            "extra": {
                "verdict": report.verdict.value,
                "verdictWithoutReruns": report.verdict_without_reruns.value,
                "reasons": [plain_text(reason.sentence, _MESSAGE) for reason in report.reasons],
                "newAndKnown": new_and_known(report) or None,
                "counts": {verdict.value: report.counts.get(verdict, 0) for verdict in TestVerdict},
                "campaign": campaign_id(report),
                "plan": report.plan_short_id,
                "label": report.label,
                "flowRunId": report.flow_run_id,
                "executions": total.executions,
                "reruns": total.reruns,
                "runs": [{"id": plain_text(a.run_short_id, _NAME), "url": a.run_url} for a in report.attempts],
                "releaseCheck": _release_check(report.release_check),
            },
        },
    }
    if report.ended_at:
        document["timestamp"] = in_utc(report.ended_at).isoformat()
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _release_check(check: ReportedReleaseCheck | None) -> dict[str, Any] | None:
    if check is None:
        return None
    return {
        "id": plain_text(check.short_id or "", _NAME) or None,
        "url": check.url,
        "status": plain_text(check.status, _NAME) or None,
        "score": check.score,
        "blockers": check.blocker_count if check.is_complete else None,
    }


def _environment(report: GateReport, suite: str) -> dict[str, Any]:
    told = facts(report)
    applications = [fact.text for fact in told if fact.name == "application"]
    known = {
        "appName": ", ".join(applications),
        "appVersion": report.target,
        "buildUrl": report.flow_run_url,
        "commit": report.commit,
        "branchName": report.branch,
        "testEnvironment": ", ".join(fact.text for fact in told if fact.name == "environment"),
    }
    return {
        "reportName": suite,
        **{name: plain_text(text, _MESSAGE) for name, text in known.items() if text},
        "healthy": report.passed,
        "extra": {
            "target": plain_text(report.target, _MESSAGE) if report.target else None,
            "deployment": plain_text(report.deployment, _NAME) if report.deployment else None,
            "startedBy": plain_text(report.started_by, _NAME) if report.started_by else None,
            "policy": plain_text(policy_text(report.policy), _TEXT) or None,
            "evidenceIsOlder": report.evidence_is_older,
            "isOneRunOnly": report.is_one_run_only,
            "expectedCount": report.expected_count,
            "caveats": [sentence for sentence, _ in caveats(report)],
            "incidents": [incident.value for incident in report.incidents],
            "notes": [plain_text(note, _TEXT) for note in report.notes],
            "quarantineUnmatched": [plain_text(key, _NAME) for key in report.quarantine_unmatched],
        },
    }


def _test(test: ReportedTest, suite: str, cause_is_unknown: bool) -> dict[str, Any]:
    executed = [index for index, outcome in enumerate(test.outcomes) if outcome is not Outcome.ABSENT]
    entry: dict[str, Any] = {
        "name": plain_text(test.name, _NAME) or "(no name)",
        "status": _STATUS[ci_status(test)],
        "duration": round(finite(test.duration_seconds) * 1000),
        "suite": [suite],
        "type": "e2e",
        "rawStatus": test.verdict.value,
        "flaky": test.verdict is TestVerdict.FLAKY,
        "retries": max(0, len(executed) - 1),
        "extra": {
            "testId": plain_text(test.test_id, _NAME),
            "url": test.url,
            # CTRF requires a figure, and the service is not asked for that of a test that passed.
            "durationIsKnown": test.duration_seconds is not None,
        },
    }
    if (standing := test.standing) is not None:
        entry["extra"]["standing"] = {
            "kind": standing.kind,
            "text": plain_text(standing_text(test), _NAME),
            "campaigns": standing.campaigns,
            "times": standing.times,
            "since": in_utc(standing.since).isoformat() if standing.since else None,
            "sinceRun": plain_text(standing.since_run_short_id, _NAME) if standing.since_run_short_id else None,
        }
    if test.verdict is not TestVerdict.PASSED:
        entry["message"] = plain_text(story(test), _MESSAGE)
    if test.explanation:
        entry["ai"] = xml_text(test.explanation, _TEXT)
    tags = [*(["quarantined"] if test.quarantined else []), *(["cause unknown"] if cause_is_unknown else [])]
    if tags:
        entry["tags"] = tags
    if len(executed) > 1:
        entry["retryAttempts"] = [
            {"attempt": index + 1, "status": _ATTEMPT_STATUS.get(test.outcomes[index], "other")} for index in executed
        ]
    attachments = [
        {"name": name, "contentType": guess_type(urlsplit(url).path)[0] or "application/octet-stream", "path": url}
        for name, url in (
            ("screenshot", test.screenshot_url),
            ("recording", test.recording_url),
        )
        if url
    ]
    if attachments:
        entry["attachments"] = attachments
    with suppress(ValueError):
        entry["id"] = str(UUID(test.test_id))  # CTRF takes nothing else for one
    return entry

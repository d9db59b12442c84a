"""The tests of a campaign are recognised across its attempts, and the report is what the judge saw."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import product
from typing import Any

import pytest

from prefect_qatech.addresses import MAX_URL_LENGTH
from prefect_qatech.api.responses import QATechRun, QATechRunTestCaseDetails
from prefect_qatech.report.build import EXPLANATION_LENGTH, TITLE_LENGTH, build_report
from prefect_qatech.report.model import SCHEMA_VERSION, GateReport
from prefect_qatech.report.subject import GateSubject
from prefect_qatech.report.verdict_json import render_verdict_json
from prefect_qatech.verdict.identity import NAME_LENGTH, Campaign, ObservedAttempt, recognise
from prefect_qatech.verdict.judge import Incident
from prefect_qatech.verdict.outcomes import Outcome, TestVerdict, Verdict
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry
from tests.observed import FAILED, NOW, attempt, case


def test_no_attempt() -> None:
    campaign = recognise([])
    assert campaign == Campaign({}, (), None, (), (), {})
    report = build_report(campaign, GatePolicy(), ended_at=NOW)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert (report.run_short_id, report.run_url, report.started_at) == (None, None, None)
    assert report.judge_again(GatePolicy()).verdict is Verdict.INCONCLUSIVE


# --- The report

POLICIES = [
    GatePolicy(),
    GatePolicy(max_failed=1),
    GatePolicy(max_flaky=0),
    GatePolicy(max_undecided=3, max_failed=3),
    GatePolicy(min_decided=9),
    GatePolicy(passes_required=2),
    GatePolicy(fuse_failures=0.25),
    GatePolicy(quarantine={"2": QuarantineEntry(reason="known", owner="ana", expires=date(2026, 9, 1))}),
    GatePolicy(quarantine={"2": QuarantineEntry(reason="known", owner="ana", expires=date(2026, 8, 31))}),
]


def campaigns() -> dict[str, Sequence[ObservedAttempt]]:
    green = attempt(case("a", id="1"), case("b", id="2"), result="PASSED", test_count=2)
    red = attempt(case("a", id="1"), case("b", id="2", **FAILED), result="FAILED", test_count=2)
    return {
        "green": [green],
        "too few": [attempt(case("a", id="1"), result="PASSED", test_count=2)],
        "failed": [red],
        "flaky": [red, attempt(case("b", id="2"), result="PASSED", kind="rerun")],
        "stays failed": [red, attempt(case("b", id="2", **FAILED), result="FAILED", kind="rerun")],
        "vanished": [red, attempt(case("c", id="3"), result="PASSED", kind="rerun")],
        "appeared": [green, attempt(case("c", id="3", **FAILED), result="FAILED", kind="rerun")],
        "error": [attempt(case("a", id="1"), status="ERROR")],
        "goes on": [attempt(case("a", id="1"), case("b", id="2", status="RUNNING"), status="RUNNING")],
        "contradiction": [attempt(case("a", id="1"), result="FAILED")],
        "unknown words": [attempt(case("a", id="1", status="NEW"), status="NEWER", result="NEWEST")],
        "empty": [attempt(result="PASSED")],
    }


@pytest.mark.parametrize("name", campaigns())
def test_judging_again_gives_the_same(name: str) -> None:
    for policy, incidents in product(POLICIES, ((), (Incident.DEADLINE_PASSED,))):
        report = build_report(recognise(campaigns()[name]), policy, ended_at=NOW, incidents=incidents)
        for kept in (report, GateReport.model_validate_json(report.model_dump_json())):
            again = kept.judge_again(policy)
            assert again.verdict is report.verdict
            assert dict(again.tests) == {test.test_id: test.verdict for test in report.tests}
            assert [(r.rule, r.verdict, r.sentence, r.test_ids) for r in again.reasons] == [
                (r.rule, r.verdict, r.sentence, r.test_ids) for r in report.reasons
            ]


def test_judging_again_under_another_policy() -> None:
    report = build_report(recognise(campaigns()["flaky"]), GatePolicy(), ended_at=NOW)
    assert (report.verdict, report.verdict_without_reruns) == (Verdict.PASS, Verdict.FAIL)
    assert report.judge_again(GatePolicy(max_flaky=0)).verdict is Verdict.FAIL


def test_judging_again_on_another_day() -> None:
    entry = QuarantineEntry(reason="known", owner="ana", expires=date(2026, 9, 1))
    policy = GatePolicy(quarantine={"2": entry})
    report = build_report(recognise(campaigns()["failed"]), policy, ended_at=NOW)
    assert report.judged_on == date(2026, 9, 1)
    assert report.tests[1].quarantined
    assert report.verdict is report.judge_again(policy).verdict is Verdict.PASS
    assert report.judge_again(policy, today=date(2026, 9, 2)).verdict is Verdict.FAIL
    late = build_report(recognise(campaigns()["failed"]), policy, ended_at=NOW + timedelta(days=1))
    assert not late.tests[1].quarantined
    assert late.verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("promised", "verdict"), [(None, Verdict.PASS), (2, Verdict.PASS), (3, Verdict.INCONCLUSIVE), (1, Verdict.PASS)]
)
def test_tests_that_were_promised_and_never_listed(promised: int | None, verdict: Verdict) -> None:
    observed = attempt(case("a", id="1"), case("b", id="2"), result="PASSED", test_count=promised)
    report = build_report(recognise([observed]), GatePolicy(), ended_at=NOW)
    assert report.verdict is verdict
    assert report.expected_count == promised
    assert GateReport.model_validate_json(report.model_dump_json()).judge_again(GatePolicy()).verdict is verdict


def test_what_a_rerun_promises_is_not_expected() -> None:
    observed = [*campaigns()["flaky"]]
    observed[1] = attempt(case("b", id="2"), result="PASSED", kind="rerun", test_count=9)
    report = build_report(recognise(observed), GatePolicy(), ended_at=NOW)
    assert report.verdict is Verdict.PASS
    assert report.attempts[1].test_count == 9


def test_what_a_test_shows_is_its_last_execution_that_was_no_pass() -> None:
    def failing(number: int) -> ObservedAttempt:
        details = {"errorCode": f"E{number}", "url": f"https://q/t{number}", "durationMs": number * 1500}
        texts = {"resultTitle": f"title {number}", "evaluationThought": f"thought {number}"}
        return attempt(case("a", id="1", shortId=f"t{number}", **FAILED, **texts), details={f"t{number}": details})

    passing = attempt(case("a", id="1", shortId="t3", resultTitle="fine"), result="PASSED", kind="rerun")
    report = build_report(recognise([failing(1), failing(2), passing]), GatePolicy(), ended_at=NOW)
    test = report.tests[0]
    assert (test.reason, test.explanation, test.error_code) == ("title 2", "thought 2", "E2")
    assert (test.url, test.duration_seconds) == ("https://q/t2", 3.0)
    assert test.outcomes == (Outcome.MISSED, Outcome.MISSED, Outcome.PASSED)
    assert test.verdict is TestVerdict.RECOVERED


def test_a_test_that_passed_shows_no_reason() -> None:
    observed = attempt(case("a", id="1", resultTitle="all good", evaluationThought="long"), result="PASSED")
    test = build_report(recognise([observed]), GatePolicy(), ended_at=NOW).tests[0]
    assert (test.reason, test.explanation) == (None, None)


def test_texts_are_cut() -> None:
    long = "x" * 100_000
    texts = {"resultTitle": long, "evaluationThought": long, "shortId": "t1"}
    details = {"errorCode": long, "url": long, "screenshotUrl": long, "recordingUrl": long}
    observed = attempt(case(long, **texts, **FAILED), status=long, result=long, details={"t1": details}, run_url=long)
    report = build_report(recognise([observed]), GatePolicy(), ended_at=NOW, subject=GateSubject(plan_name=long))
    test = report.tests[0]
    assert len(test.reason or "") == TITLE_LENGTH
    assert len(test.explanation or "") == EXPLANATION_LENGTH
    assert (test.reason or "").endswith("…")
    assert len(test.name) == len(report.plan_name or "") == NAME_LENGTH
    assert len(report.model_dump_json()) < 12_000


@pytest.mark.parametrize("length", [MAX_URL_LENGTH, MAX_URL_LENGTH + 1])
def test_an_address_is_whole_or_left_out(length: int) -> None:
    url = "https://q/".ljust(length, "x")
    details = {"url": url, "screenshotUrl": url, "recordingUrl": url}
    observed = attempt(case("Pay", shortId="t1", **FAILED), details={"t1": details}, run_url=url)
    report = build_report(recognise([observed]), GatePolicy(), ended_at=NOW)
    test, kept = report.tests[0], url if length == MAX_URL_LENGTH else None
    assert [report.run_url, test.url, test.screenshot_url, test.recording_url] == [kept] * 4


SIZES = {"words": "I looked for the button. ", "umlauts": "ä", "emoji": "🙂", "quotes": '"', "nulls": "\x00"}


@pytest.mark.parametrize("sort", SIZES)
def test_a_report_of_500_failures_with_long_thoughts_is_small(sort: str) -> None:
    text = SIZES[sort] * (20_000 // len(SIZES[sort]))
    cases = [
        case(f"Test {i}", id=f"5e4d3c2b-0000-4000-8000-{i:012}", resultTitle="Failed", evaluationThought=text, **FAILED)
        for i in range(500)
    ]
    report = build_report(recognise([attempt(*cases, result="FAILED", test_count=500)]), GatePolicy(), ended_at=NOW)
    assert len(report.tests) == 500
    assert all(test.explanation for test in report.tests[:10])
    assert len(report.model_dump_json().encode()) < 512 * 1024


def test_a_report_of_500_failures_with_long_addresses_is_small() -> None:
    signed = "https://files.example/" + "x" * 900
    names = ("url", "screenshotUrl", "recordingUrl")
    cases = [
        case(
            f"Test {i}", id=f"5e4d3c2b-0000-4000-8000-{i:012}", shortId=f"t{i}", evaluationThought="x" * 5000, **FAILED
        )
        for i in range(500)
    ]
    details = {f"t{i}": {name: f"{signed}{name}{i}" for name in names} for i in range(500)}
    observed = attempt(*cases, result="FAILED", test_count=500, details=details)
    report = build_report(recognise([observed]), GatePolicy(), ended_at=NOW)
    assert len(report.model_dump_json().encode()) < 512 * 1024
    assert report.tests[0].url == f"{signed}url0", "an address is whole or not there"
    assert {test.url for test in report.tests[-10:]} == {None}
    few = attempt(*cases[:5], result="FAILED", details=details)
    small = build_report(recognise([few]), GatePolicy(), ended_at=NOW)
    assert all(test.url and test.screenshot_url and test.recording_url for test in small.tests)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_number_that_json_lacks_leaves_the_report(number: str) -> None:
    body = f'{{"shortId": "t1", "status": "COMPLETED", "result": "FAILED", "durationMs": {number}}}'
    details = QATechRunTestCaseDetails.model_validate(json.loads(body))
    run = QATechRun.model_validate({"shortId": "abc123", "status": "COMPLETED", "runTestCases": [json.loads(body)]})
    observed = ObservedAttempt("start", run, details={"t1": details})
    report = build_report(recognise([observed]), GatePolicy(), ended_at=NOW)
    assert report.tests[0].duration_seconds is None
    for text in (report.model_dump_json(), render_verdict_json(report)):
        json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    forged = json.loads(
        render_verdict_json(report).replace('"duration_seconds": null', f'"duration_seconds": {number}')
    )
    assert GateReport.model_validate(forged) == report


def full_report() -> GateReport:
    entry = QuarantineEntry(reason="known", owner="ana", expires=date(2026, 9, 30))
    policy = GatePolicy(quarantine={"2": entry}, fuse_failures=0.25, deadline_seconds=90.5, max_flaky=3)
    observed = [
        attempt(
            case("a", id="1", shortId="t1", **FAILED),
            case("b\x00\x1b[31m\u202e<script>", id="2", **FAILED),
            result="FAILED",
            test_count=2,
            started_at=NOW,
            finished_at=NOW + timedelta(seconds=90.25),
            details={"t1": {"errorCode": "TEST_FAILED", "durationMs": 0.5, "url": "https://q/1"}},
        ),
        attempt(case("a", id="1"), result="PASSED", kind="rerun", rerun_of="abc123", filter="failed_only"),
    ]
    return build_report(
        recognise(observed),
        policy,
        GateSubject(
            plan_short_id="pln_smoke",
            plan_name="Smoke",
            label="before the release",
            flow_run_id="5e4d3c2b-0000-4000-8000-000000000001",
        ),
        ended_at=NOW + timedelta(minutes=5),
        incidents=[Incident.USAGE_LIMIT],
    )


def test_a_report_survives_json_and_pickle() -> None:
    report = full_report()
    assert GateReport.model_validate_json(report.model_dump_json()) == report
    assert GateReport.model_validate(report.model_dump(mode="json")) == report
    assert GateReport.model_validate(report.model_dump()) == report
    assert pickle.loads(pickle.dumps(report)) == report
    assert GateReport.model_validate_json(report.model_dump_json()).policy.fuse_failures == 0.25


@pytest.mark.parametrize("fuse", [0, 3, 0.5, None])
def test_a_fuse_keeps_its_kind(fuse: float | None) -> None:
    report = build_report(recognise(campaigns()["green"]), GatePolicy(fuse_failures=fuse), ended_at=NOW)
    kept = GateReport.model_validate_json(report.model_dump_json()).policy.fuse_failures
    assert (kept, type(kept)) == (fuse, type(fuse))


def test_a_text_that_utf8_cannot_carry_does_not_break_the_report() -> None:
    # JavaScript cuts texts between the halves of a smiley, and JSON carries the half as \ud83d.
    body = '{"shortId": "abc123", "status": "COMPLETED", "result": "FAILED", "runTestCases": [{"id": "1\\ud83d",'
    body += '"name": "Pay \\ud83d", "status": "COMPLETED", "result": "FAILED", "resultTitle": "No \\ud83d"}]}'
    run = QATechRun.model_validate(json.loads(body))
    report = build_report(recognise([ObservedAttempt("start", run)]), GatePolicy(), ended_at=NOW)
    assert report.tests[0].name.startswith("Pay")
    assert GateReport.model_validate_json(report.model_dump_json()) == report


def test_a_newer_report_can_be_read() -> None:
    newer = json.loads(full_report().model_dump_json())
    newer["tests"][0]["mood"] = newer["mood"] = newer["attempts"][0]["mood"] = "good"
    assert GateReport.model_validate(newer) == full_report()


def test_evidence_is_about_its_target_and_of_no_words() -> None:
    observed = recognise(campaigns()["failed"])

    def hash_of(target: str | None = None, label: str | None = None, **fields: Any) -> str:
        subject = GateSubject(target=target, label=label)
        return build_report(observed, GatePolicy(), subject, ended_at=NOW, **fields).evidence_sha256

    assert hash_of("v1") == hash_of("v1", "y", notes=["x"], evidence_is_older=True)
    assert len({hash_of(), hash_of("v1"), hash_of("v2")}) == 3


@pytest.mark.parametrize("number", [0, 1])
def test_a_failure_whose_details_were_lost_stays_a_failure_and_its_cause_is_unknown(number: int) -> None:
    details = {"t0": {"errorCode": "TEST_FAILED"}, "t1": {"errorCode": "AGENT_STUCK"}}
    cases = [case("Pay", id="1", shortId="t0", **FAILED), case("Search", id="2", shortId="t1", **FAILED)]
    lost = {key: value for key, value in details.items() if key != f"t{number}"}
    observed = attempt(*cases, result="FAILED", details=lost, details_lost=frozenset({f"t{number}"}))
    report = build_report(recognise([observed]), GatePolicy(), ended_at=NOW)
    assert report.causes_unknown == (("1", "2")[number],)
    assert report.tests[number].outcomes == (Outcome.FAILED,)
    assert [test.test_id for test in report.tests] == ["1", "2"]
    assert report.verdict is Verdict.FAIL


def test_notes_are_cut() -> None:
    report = build_report(recognise([]), GatePolicy(), ended_at=NOW, notes=["x" * 100_000, "short"])
    assert [len(note) for note in report.notes] == [1500, 5]


def test_what_readers_ask_of_a_report() -> None:
    report = full_report()
    assert report.schema_version == SCHEMA_VERSION == 1
    assert not report.passed
    assert (report.run_short_id, report.run_url) == ("abc123", "https://q/abc")
    assert report.counts == {TestVerdict.FLAKY: 1, TestVerdict.FAILED: 1}
    assert [test.test_id for test in report.tests_with(TestVerdict.FAILED)] == ["2"]
    assert report.attempts[0].duration_seconds == 90.25
    assert report.attempts[1].duration_seconds is None
    assert report.attempts[0].counts == {Outcome.FAILED: 2}
    assert (report.attempts[1].kind, report.attempts[1].filter) == ("rerun", "failed_only")
    assert (report.started_at, report.label) == (NOW, "before the release")


@pytest.mark.parametrize("url", ["javascript:alert(1)", "http://elsewhere.example", "https://user:pw@a.example", "//a"])
def test_an_address_that_may_not_become_a_link_is_in_no_report(url: str) -> None:
    details = {"url": url, "screenshotUrl": url, "recordingUrl": url}
    observed = attempt(case("Pay", shortId="t1", **FAILED), details={"t1": details}, run_url=url)
    report = build_report(recognise([observed]), GatePolicy(), ended_at=NOW)
    changed = report.model_dump()
    changed["attempts"][0]["run_url"] = changed["tests"][0]["url"] = url
    for kept in (report, GateReport.model_validate(changed)):
        assert url not in kept.model_dump_json()
        assert kept.run_url is None

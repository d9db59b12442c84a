"""Each failure is new or known, by the campaigns of the same plan in the same place, and of no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from prefect_qatech import GateReport, GatesReport
from prefect_qatech.report.artifacts import artifact_key, publish_report
from prefect_qatech.report.ctrf import render_ctrf
from prefect_qatech.report.events import emit_gate_verdict
from prefect_qatech.report.explain import explain
from prefect_qatech.report.gates import render_gates
from prefect_qatech.report.history import (
    MAX_FAILED_MARKS,
    HistoryEntry,
    history_line,
    history_of,
    in_order,
    read_history,
)
from prefect_qatech.report.junit import render_junit
from prefect_qatech.report.known import with_standings
from prefect_qatech.report.markdown import render_job_summary, render_markdown
from prefect_qatech.report.message import gate_message
from prefect_qatech.report.subject import ReportedApplication
from prefect_qatech.report.verdict_json import render_verdict_json
from tests.report.campaigns import attempt, report_of
from tests.report.reading import render, words


def remembered(report: GateReport) -> HistoryEntry:
    entry = read_history(history_line(report))
    assert entry is not None
    return entry


def campaign(number: int, pay: str) -> GateReport:
    """A campaign in which one test passed, and another one failed (F), was flaky (FP), passed (P) or was missed (M)."""
    runs = [attempt(0, {"Login": "P", "Pay": pay[0]}, run=f"run-{number}")]
    if pay == "FP":
        runs.append(attempt(1, {"Pay": "P"}, run=f"rerun-{number}"))
    began = datetime(2026, 11, 1 + number, 8, tzinfo=timezone.utc)
    return report_of(*runs).model_copy(update={"started_at": began, "ended_at": began + timedelta(minutes=9)})


def compared(now: str, *earlier: str, later: str | None = None) -> GateReport:
    """A campaign after others, of which one may have begun later."""
    report = campaign(len(earlier), now)
    others = [campaign(number, pay) for number, pay in enumerate(earlier)]
    others += [campaign(len(earlier) + 1, later)] if later else []
    return with_standings(report, in_order(map(remembered, [*others, report])))


def told_of(now: str, *earlier: str, later: str | None = None) -> str:
    return words(render(render_markdown(compared(now, *earlier, later=later))).text)


@pytest.mark.parametrize(
    ("earlier", "told"),
    [
        (["P"], "new"),
        (["P", "P", "M"], "new"),
        (["F"], "known since 2026-11-01 08:00 UTC (run run-0) or earlier"),
        (["P", "F", "F"], "known since 2026-11-02 08:00 UTC (run run-1)"),
        (["F", "P", "F"], "known since 2026-11-03 08:00 UTC (run run-2)"),
        (["F", "P"], "failed or flaky in 2 of the last 3 campaigns, this one included"),
        (["FP", "P", "FP"], "failed or flaky in 3 of the last 4 campaigns, this one included"),
    ],
)
def test_a_failure_is_new_or_known_since_a_campaign(earlier: list[str], told: str) -> None:
    text = told_of("F", *earlier)
    assert f"Pay: failed on attempt 1: Pay: the button is missing · {told} ·" in text
    assert f"The failure is {'new' if told == 'new' else 'not new'}, judging by the last " in text


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ({"A": "P", "B": "P", "C": "P"}, "All 3 failures are new"),
        ({"A": "F", "B": "F", "C": "F"}, "None of the 3 failures is new"),
        ({"A": "F", "B": "F", "C": "P"}, "Of 3 failures, 1 is new"),
        ({"A": "F", "B": "P", "C": "P"}, "Of 3 failures, 2 are new"),
    ],
)
def test_several_failures_are_counted(before: dict[str, str], told: str) -> None:
    earlier = remembered(report_of(attempt(0, before, run="run-0")))
    report = with_standings(report_of(attempt(0, dict.fromkeys("ABC", "F"))), [earlier])
    assert f" {told}, judging by the last campaign of the same plan here. " in gate_message(report)


@pytest.mark.parametrize(
    ("earlier", "told"),
    [(["P", "P"], "new"), (["FP", "P", "F"], "failed or flaky in 3 of the last 4 campaigns, this one included")],
)
def test_a_flaky_test_says_how_often_it_was(earlier: list[str], told: str) -> None:
    text = told_of("FP", *earlier)
    assert f"passed on attempt 2 · {told} ·" in text
    assert "judging by" not in text, "nothing has failed"


@pytest.mark.parametrize("now", ["F", "FP"])
def test_without_earlier_campaigns_nothing_is_said(now: str) -> None:
    text = told_of(now)
    assert not any(word in text for word in ("· new", "known since", "of the last", "judging by"))


def test_a_history_that_was_cut_calls_nothing_new() -> None:
    many = report_of(attempt(0, {f"Test {n}": "F" for n in range(MAX_FAILED_MARKS + 1)}, run="run-0"))
    earlier = remembered(many)
    assert len(earlier.failed_tests) == MAX_FAILED_MARKS
    text = words(render(render_markdown(with_standings(campaign(1, "F"), [earlier]))).text)
    assert "· new" not in text
    assert "judging by" not in text


def test_what_began_later_says_nothing_of_a_campaign_that_is_published_again() -> None:
    assert told_of("F", later="F") == told_of("F")
    assert "Pay: failed on attempt 1: Pay: the button is missing · new ·" in told_of("F", "P", later="F")


KNOWN = "known since 2026-11-02 08:00 UTC (run run-1)"


def test_every_form_says_whether_a_failure_is_new_or_known() -> None:
    report = compared("F", "P", "F")
    sentence = "The failure is not new, judging by the last 2 campaigns of the same plan here."

    [pay] = [test for test in json.loads(render_verdict_json(report))["tests"] if test["name"] == "Pay"]
    since = {"since": "2026-11-02T08:00:00Z", "since_run_short_id": "run-1", "is_since_first": False}
    assert pay["standing"] == {"kind": "known", "campaigns": 3, "times": 2, **since}

    suite = ElementTree.fromstring(render_junit(report))
    [output] = [case.findtext("system-out") or "" for case in suite.iter("testcase") if case.get("name") == "Pay"]
    assert f"history: {KNOWN}" in output.splitlines()
    assert {"name": "qatech.new_and_known", "value": sentence} in [entry.attrib for entry in suite.iter("property")]

    results = json.loads(render_ctrf(report))["results"]
    [pay] = [test["extra"] for test in results["tests"] if test["name"] == "Pay"]
    assert (pay["standing"]["kind"], pay["standing"]["text"], pay["standing"]["times"]) == ("known", KNOWN, 2)
    assert (pay["standing"]["since"], pay["standing"]["sinceRun"]) == ("2026-11-02T08:00:00+00:00", "run-1")
    assert results["extra"]["newAndKnown"] == sentence

    lines = explain(report, width=300)
    assert sentence in lines
    assert any(line.lstrip().startswith("- Pay") and line.endswith(f"; {KNOWN}") for line in lines)
    assert sentence in gate_message(report)
    assert KNOWN in words(render(render_job_summary(report)).text)
    gates = render_gates(GatesReport(names=("shop",), reports={"shop": report}))
    assert sentence in words(render(gates).text)


@pytest.mark.parametrize("form", [render_verdict_json, render_junit, render_ctrf])
def test_no_form_says_more_than_the_history_does(form: Callable[[GateReport], str]) -> None:
    report = compared("F")
    assert not any(word in form(report) for word in ('"new"', "known since", "history: ", "judging by"))
    assert not [test for test in compared("P", "P", "F").tests if test.standing], "what passed has no standing"


async def test_the_event_says_whether_failures_are_new_or_known(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr("prefect_qatech.report.events.emit_event", lambda **event: sent.append(event))
    await emit_gate_verdict(compared("FP", "F", "P"))
    await emit_gate_verdict(compared("F"))
    many = report_of(attempt(0, {f"Test {n}": "F" for n in range(150)}))
    await emit_gate_verdict(with_standings(many, [remembered(campaign(0, "P"))]))
    flaky, unknown, long = (event["payload"] for event in sent)
    text = "failed or flaky in 2 of the last 3 campaigns, this one included"
    [told] = flaky["standings"]
    assert (told["test"], told["verdict"], told["text"]) == ("Pay", "flaky", text)
    assert (told["kind"], told["times"], told["campaigns"]) == ("recurring", 2, 3)
    assert flaky["new_and_known"] is None, "nothing has failed"
    assert (unknown["standings"], unknown["new_and_known"]) == ([], None)
    assert len(long["standings"]) == 100
    assert long["new_and_known"] == "All 150 failures are new, judging by the last campaign of the same plan here."


SHOP = ReportedApplication(application_short_id="app_shop", environment_url="https://staging.example.com")


@pytest.mark.parametrize(
    "other",
    [
        {"plan_short_id": "pln_other"},
        {"label": "nightly"},
        {"deployment": "release/production"},
        {"project_short_id": "proj_2"},
        {"credentials_block": "other"},
        {"applications": ()},
        {"applications": (SHOP.model_copy(update={"environment_url": "https://www.example.com"}),)},
        {"applications": (SHOP, SHOP.model_copy(update={"application_short_id": "app_api"}))},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_plan_place_project_or_deployment_has_another_history(other: dict[str, Any]) -> None:
    report = campaign(0, "F").model_copy(update={"applications": (SHOP,), "deployment": "release/staging"})
    assert history_of(report) != history_of(report.model_copy(update=other))


def test_another_version_has_the_same_history_and_so_has_a_preview_whose_address_changes() -> None:
    report = campaign(0, "F").model_copy(update={"applications": (SHOP,), "target": "v1"})
    again = {"target": "v2", "branch": "fix", "commit": "4f2c9e1", "started_by": "Ada", "flow_run_id": "x"}
    assert history_of(report) == history_of(report.model_copy(update=again))
    preview = SHOP.model_copy(update={"environment_name": "PR 42"})
    previews = [preview.model_copy(update={"environment_url": f"https://{name}.example.com"}) for name in "ab"]
    assert len({history_of(report.model_copy(update={"applications": (one,)})) for one in previews}) == 1


def test_a_retry_changes_no_time_of_what_is_on_record_and_no_place() -> None:
    first, second = remembered(campaign(0, "F")), remembered(campaign(1, "F"))
    late = {"ended_at": datetime(2026, 12, 24, tzinfo=timezone.utc), "duration_seconds": None, "passed": 2, "failed": 0}
    again = first.model_copy(update=late)
    [kept, last] = in_order([again, second, first])
    assert last == second
    assert (kept.ended_at, kept.duration_seconds) == (first.ended_at, first.duration_seconds)
    assert (kept.passed, kept.failed) == (2, 0), "what was found out later counts"
    reruns = again.model_copy(update={"reruns": 1})
    assert in_order([reruns, second, first])[0].ended_at == late["ended_at"], "it went on until then"


async def published(key: str) -> list[str]:
    """What the versions of a Markdown artifact say, the latest first."""
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort=ArtifactSort.CREATED_DESC
        )
    return [words(render(str(artifact.data)).text) for artifact in found]


@pytest.mark.usefixtures("prefect_server")
async def test_the_history_is_read_from_what_was_published_for_the_same_plan_in_the_same_place() -> None:
    plan = f"pln_{uuid4().hex}"
    live = SHOP.model_copy(update={"environment_url": "https://www.example.com"})
    staging = {"plan_short_id": plan, "applications": (SHOP,), "deployment": "release/staging"}
    by_hand, production = {**staging, "deployment": None}, {**staging, "applications": (live,)}
    standings: list[str] = []
    for number, (pay, where) in enumerate(
        [("F", staging), ("P", production), ("P", by_hand), ("F", production), ("F", by_hand), ("F", staging)]
    ):
        report = await publish_report(campaign(number, pay).model_copy(update=where))
        standings += [test.standing.kind if test.standing else "-" for test in report.tests if test.name == "Pay"]
    assert standings == ["-", "-", "-", "new", "new", "known"]
    [again, hand, _, first] = await published(artifact_key("report", plan, "app_shop https://staging.example.com"))
    assert "known since 2026-11-01 08:00 UTC (run run-0) or earlier" in again
    assert "· new ·" in hand
    assert "known since" not in first
    [live_again, _] = await published(artifact_key("report", plan, "app_shop https://www.example.com"))
    assert "· new ·" in live_again

"""Every form says what was tested, where, by whom and by which rules; and nothing that nobody knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date

import pytest

from prefect_qatech import GatePolicy, GateReport, QuarantineEntry, ReleaseCheckPolicy
from prefect_qatech.cli.result import lines_of
from prefect_qatech.report.about import MAX_APPLICATIONS, about_line, policy_text
from prefect_qatech.report.ctrf import render_ctrf
from prefect_qatech.report.explain import explain
from prefect_qatech.report.junit import render_junit
from prefect_qatech.report.markdown import render_job_summary, render_markdown
from prefect_qatech.report.subject import ReportedApplication
from prefect_qatech.report.verdict_json import render_verdict_json
from tests.report import campaigns
from tests.report.reading import render, words

FORMS: dict[str, Callable[[GateReport], str]] = {
    "artifact": lambda report: words(render(render_markdown(report)).text),
    "summary": lambda report: words(render(render_job_summary(report)).text),
    "explain": lambda report: " ".join(" ".join(explain(report)).split()),
    "terminal": lambda report: "\n".join(lines_of(report)),
    "junit": render_junit,
    "ctrf": render_ctrf,
    "verdict": render_verdict_json,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "fact",
    [
        "v4.2.0-rc1",
        "app_shop",
        "https://staging.example.com/shop",
        "release/4.2",
        "4f2c9e1",
        "release/staging",
        "automation Release train",
    ],
)
def test_every_form_says_what_was_tested(form: str, fact: str) -> None:
    told = FORMS[form](campaigns.everything())
    assert fact in told


@pytest.mark.parametrize("form", [form for form in FORMS if form != "verdict"])
def test_every_form_says_by_which_rules_where_they_are_not_the_usual_ones(form: str) -> None:
    lax = campaigns.report_of(campaigns.attempt(0, {"Login": "F"}), policy=GatePolicy(max_failed=99))
    assert "max_failed 99" in FORMS[form](lax)
    assert "max_failed 99" not in FORMS[form](campaigns.passing())


@pytest.mark.parametrize("form", ["artifact", "summary"])
def test_the_head_comes_first_and_says_what_the_campaign_cost(form: str) -> None:
    told = FORMS[form](campaigns.everything())
    for fact in (
        "29 test executions",
        "25 min 30 s of runs",
        "Tested: target v4.2.0-rc1 · app_shop on https://staging",
    ):
        assert told.index(fact) < told.index("4 tests failed")


def test_what_nobody_knows_is_left_out() -> None:
    report = campaigns.passing()
    assert about_line(report) == ""
    environment = json.loads(render_ctrf(report))["results"]["environment"]
    assert set(environment) == {"reportName", "healthy", "extra"}
    for name in ("target", "application", "environment", "branch", "commit", "deployment", "started_by", "policy"):
        assert f'"qatech.{name}' not in render_junit(report)


def test_what_ctrf_has_a_field_for_stands_there() -> None:
    environment = json.loads(render_ctrf(campaigns.everything()))["results"]["environment"]
    fields = ("appName", "appVersion", "buildUrl", "commit", "branchName", "testEnvironment")
    assert [environment[field] for field in fields] == [
        "app_shop",
        "v4.2.0-rc1",
        "https://prefect.example.com/runs/flow-run/flow-1",
        "4f2c9e1",
        "release/4.2",
        "https://staging.example.com/shop (Staging)",
    ]


def test_each_application_has_its_place() -> None:
    applications = (
        ReportedApplication(application_short_id="app_web", environment_short_id="env_1"),
        ReportedApplication(
            application_short_id="app_ios", application_build_short_id="bld_7", device_preset_short_id="preset_2"
        ),
        ReportedApplication(application_short_id="app_api"),
    )
    report = campaigns.passing().model_copy(update={"applications": applications})
    assert about_line(report) == "app_web on env_1 · app_ios on bld_7 with preset_2 · app_api"
    for name in ("qatech.application.3", "qatech.environment.2", "qatech.device"):
        assert f'name="{name}"' in render_junit(report)


def test_many_applications_do_not_fill_the_head() -> None:
    many = tuple(ReportedApplication(application_short_id=f"app_{n}") for n in range(MAX_APPLICATIONS + 2))
    line = about_line(campaigns.passing().model_copy(update={"applications": many}))
    assert line.endswith(f"app_{MAX_APPLICATIONS - 1} · and 2 more applications")


ENTRY = QuarantineEntry(reason="x", owner="y", expires=date(2026, 12, 1))


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (GatePolicy(), ""),
        (GatePolicy(max_failed=99, max_reruns=0), "max_reruns 0, max_failed 99"),
        (GatePolicy(max_flaky=0, deadline_seconds=600.0), "max_flaky 0, deadline_seconds 600"),
        (GatePolicy(fuse_failures=0.25), "fuse_failures 0.25"),
        (GatePolicy(quarantine={"a": ENTRY}), "quarantine of 1 test"),
        (GatePolicy(quarantine={"a": ENTRY, "b": ENTRY}), "quarantine of 2 tests"),
        (GatePolicy(release_check=ReleaseCheckPolicy(min_score=70.0)), "release_check.min_score 70"),
    ],
)
def test_a_policy_is_told_where_it_is_not_the_usual_one(policy: GatePolicy, told: str) -> None:
    assert policy_text(policy) == told

"""A quarantine that can be lived with: entries to paste, entries that end soon, tests that can leave it."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest
import yaml

from prefect_qatech.report.explain import explain
from prefect_qatech.report.headline import advice
from prefect_qatech.report.history import HistoryEntry, history_line, read_history
from prefect_qatech.report.markdown import render_job_summary, render_markdown
from prefect_qatech.report.model import GateReport
from prefect_qatech.verdict.outcomes import TestVerdict, Verdict
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry
from tests.report.campaigns import BEGAN, attempt, everything, hostile, project_id, report_of
from tests.report.reading import HOSTILE, render, words

TODAY = BEGAN.date()


def pasted(markdown: str) -> dict[str, dict[str, str]]:
    """What somebody gets who copies the block of code below the heading into a policy file."""
    _, _, below = markdown.partition("### To put a test into quarantine")
    code = re.findall(r"(?:^    .*\n)+", below, re.MULTILINE)
    return dict(yaml.safe_load("quarantine:\n" + code[0])["quarantine"] or {}) if code else {}


def filled_in(report: GateReport, entries: dict[str, dict[str, str]]) -> GatePolicy:
    """The policy with the entries, filled in; what they replace is taken out."""
    others = {key: entry for key, entry in report.policy.quarantine.items() if entry.expires >= TODAY}
    new = {
        key: QuarantineEntry.model_validate({**entry, "reason": "x", "owner": "y"}) for key, entry in entries.items()
    }
    return report.policy.model_copy(update={"quarantine": {**others, **new}})


@pytest.mark.parametrize("form", [render_markdown, render_job_summary])
def test_an_entry_that_is_pasted_and_filled_in_takes_its_test_out_of_the_verdict(form: object) -> None:
    assert callable(form)
    report = everything()
    entries = pasted(form(report))
    assert {entry["expires"] for entry in entries.values()} == {str(TODAY + timedelta(days=14))}
    failing = {
        test.test_id for test in report.tests_with(TestVerdict.FAILED, TestVerdict.FLAKY) if not test.quarantined
    }
    assert set(entries) == failing
    rules = {reason.rule for reason in report.judge_again(filled_in(report, entries)).reasons}
    assert {"max_failed", "flaky_reported"} & {reason.rule for reason in report.reasons}
    assert not rules & {"max_failed", "flaky_reported", "quarantine_expired"}


def test_an_entry_that_nobody_fills_in_is_no_policy() -> None:
    entries = pasted(render_markdown(everything()))
    for entry in entries.values():
        with pytest.raises(ValueError, match="owner"):
            QuarantineEntry.model_validate(entry)


def test_an_entry_is_told_by_the_name_of_its_test_and_by_what_it_replaces() -> None:
    text = render(render_markdown(everything())).text
    assert "# Checkout\n" in text
    assert "# Old banner: take out its old entry, which expired on 2026-11-01" in text


def test_a_pass_has_nothing_to_paste() -> None:
    assert "To put a test into quarantine" not in render_markdown(report_of(attempt(0, {"Login": "P"})))


@pytest.mark.parametrize("kind", HOSTILE)
def test_names_of_any_kind_can_be_pasted_or_are_said_to_be_none(kind: str) -> None:
    report = hostile(HOSTILE[kind])
    entries = pasted(render_markdown(report))
    rules = {reason.rule for reason in report.judge_again(filled_in(report, entries)).reasons}
    text = render(render_markdown(report)).text
    assert ("max_failed" in rules) is ("so no entry finds it" in text)


def test_tests_that_share_an_id_are_pasted_by_name_where_that_is_their_own() -> None:
    first = attempt(0, {"Login": "F", "Pay": "F", "Ship": "F"})
    cases = [case.model_copy(update={"id": "same"}) for case in first.run.test_cases or []]
    shared = type(first)(**{**first.__dict__, "run": first.run.model_copy(update={"test_cases": cases})})
    report = report_of(shared)
    assert set(pasted(render_markdown(report))) == {"Login", "Pay", "Ship"}


def test_where_many_tests_fail_some_can_be_pasted_and_the_rest_is_counted() -> None:
    markdown = render_markdown(report_of(attempt(0, {f"Test {number}": "F" for number in range(30)})))
    assert len(pasted(markdown)) == 20
    assert "# … and 10 more" in markdown


def quarantined(outcome: str, last_day: date, name: str = "Pay") -> GateReport:
    entry = QuarantineEntry(reason="known", owner="ana", expires=last_day)
    return report_of(attempt(0, {"Login": "P", name: outcome}), policy=GatePolicy(quarantine={name: entry}))


@pytest.mark.parametrize(("days", "is_told"), [(-1, False), (0, True), (3, True), (4, False)])
def test_an_entry_that_ends_within_three_days_is_named(days: int, is_told: bool) -> None:
    last_day = TODAY + timedelta(days=days)
    report = quarantined("F", last_day)
    sentence = f"1 quarantine entry ends within three days; its test counts again then. {last_day}: Pay"
    for form in (render_markdown, render_job_summary):
        assert (sentence in words(render(form(report)).text)) is is_told
    told = " ".join(explain(report))
    assert (f"{last_day}: Pay ({project_id('Pay')})" in " ".join(told.split())) is is_told
    assert ("ends soon" in advice(report)) is is_told


def test_nothing_has_to_be_done_only_where_no_entry_ends() -> None:
    assert "Nothing has to be done" not in advice(quarantined("P", TODAY))
    assert "Nothing has to be done" in advice(quarantined("P", TODAY + timedelta(days=30)))


LEAVES = "1 test in quarantine has passed in each of the last 5 campaigns, and can leave quarantine. Pay"


def campaign(number: int, outcome: str) -> HistoryEntry:
    """What a campaign of the same plan leaves in the history."""
    entry = QuarantineEntry(reason="known", owner="ana", expires=TODAY + timedelta(days=30))
    first = attempt(0, {"Login": "P", "Pay": outcome}, run=f"earlier{number}")
    remembered = read_history(history_line(report_of(first, policy=GatePolicy(quarantine={"Pay": entry}))))
    assert remembered is not None
    return remembered


@pytest.mark.parametrize(
    ("earlier", "now", "can_leave"),
    [
        ("PPPP", "P", True),
        ("FPPPP", "P", True),
        ("PPPP", "F", False),
        ("PPPP", "M", False),
        ("PPP", "P", False),
        ("PPFPP", "P", False),
        ("PPPSP", "P", False),
        ("FFFFF", "P", False),
    ],
)
def test_a_test_that_has_passed_in_the_last_five_campaigns_can_leave(earlier: str, now: str, can_leave: bool) -> None:
    report = quarantined(now, TODAY + timedelta(days=30))
    history = [campaign(number, outcome) for number, outcome in enumerate(earlier)]
    own = read_history(history_line(report))
    assert own is not None
    for shown in (history, [*history, own]):
        assert (LEAVES in words(render(render_markdown(report, history=shown)).text)) is can_leave


def test_a_campaign_of_before_the_quarantine_is_no_evidence_for_leaving_it() -> None:
    history = [HistoryEntry(verdict=Verdict.PASS, run_short_id=f"run-{number}", passed=2) for number in range(9)]
    report = quarantined("P", TODAY + timedelta(days=30))
    assert LEAVES not in words(render(render_markdown(report, history=history)).text)


def test_a_history_of_many_tests_in_quarantine_is_read_again() -> None:
    names = [f"Test {number}" for number in range(300)]
    entry = QuarantineEntry(reason="known", owner="ana", expires=TODAY)
    policy = GatePolicy(quarantine=dict.fromkeys(names, entry))
    report = report_of(attempt(0, dict.fromkeys([*names, "Login"], "P")), policy=policy)
    remembered = read_history(render_markdown(report))
    assert remembered is not None
    assert len(remembered.quarantined_passed) == 40

"""Why, rule by rule, and what another policy would have said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from prefect_qatech.cli.explain import explain as command
from prefect_qatech.report.explain import explain as lines_of, load_policy
from prefect_qatech.report.model import GateReport
from prefect_qatech.report.verdict_json import render_verdict_json
from prefect_qatech.verdict.outcomes import Verdict
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry
from tests.report import campaigns
from tests.report.campaigns import everything, hostile, project_id
from tests.report.reading import HOSTILE, invisible


def explain(report: GateReport, policy: GatePolicy | None = None, *, today: date | None = None) -> str:
    """What is said, without the line breaks, which are a terminal's."""
    return " ".join(" ".join(lines_of(report, policy, today=today)).split())


def explain_command(verdict: Path, policy: Path | None = None) -> int:
    with pytest.raises(SystemExit) as ended:
        command(verdict, policy=policy)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def written(tmp_path: Path, text: str, name: str = "verdict.json") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_rule_and_the_tests_that_it_is_about() -> None:
    text = explain(everything())
    for reason in everything().reasons:
        assert f"{reason.verdict.value} {reason.rule}: {reason.sentence}" in text
    found = f"- Checkout ({project_id('Checkout')}): failed on attempts 1, 2 and 3: Checkout: the button is missing"
    assert found in text
    assert "nothing to say: no_attempt, max_flaky, min_decided" in text
    assert "Under the other policy" not in text
    assert "contradicts" not in text


def test_what_another_policy_would_have_said() -> None:
    text = explain(campaigns.flaky_pass(), GatePolicy(max_flaky=0, max_reruns=0))
    before, _, after = text.partition("Under the other policy: FAIL: do not release")
    assert "PASS, 1 flaky: look at it this week" in before
    assert "max_flaky: none -> 0" in after
    assert "max_reruns: 2 -> 0" in after
    assert "what more or fewer reruns would have found, nobody knows" in after
    assert "fail max_flaky: 1 test failed first and passed in a rerun: flaky; this gate allows none." in after
    assert f"- Login ({project_id('Login')}): failed on attempt 1" in after


def test_a_test_that_another_policy_judges_otherwise_is_named() -> None:
    text = explain(campaigns.flaky_pass(), GatePolicy(passes_required=2))
    assert "Login is failed instead of flaky" in text


def test_another_quarantine_is_told() -> None:
    entry = QuarantineEntry(reason="x", owner="y", expires=date(2026, 12, 1))
    policy = GatePolicy(quarantine={project_id("Login"): entry})
    text = explain(campaigns.flaky_pass(), policy)
    assert f"quarantine of {project_id('Login')}: none -> through 2026-12-01 (UTC)" in text
    expired = explain(campaigns.flaky_pass(), policy, today=date(2026, 12, 2))
    assert "quarantine_expired" in expired


def test_a_quarantine_entry_that_matched_nothing_is_named_and_not_told_as_applied() -> None:
    entry = QuarantineEntry(reason="x", owner="y", expires=date(2026, 12, 1))
    policy = GatePolicy(quarantine={"Login": entry, "Logout": entry}, quarantine_time_zone="Asia/Tokyo")
    text = explain(campaigns.flaky_pass(), policy)
    assert "quarantine of Login: none -> through 2026-12-01 (Asia/Tokyo)" in text
    assert "quarantine of Logout: none -> no effect: see quarantine_unmatched" in text
    rule = "pass quarantine_unmatched: 1 quarantine entry matches no test, or more than one, and so had no effect"
    assert rule in text
    assert "- Logout" in text.partition(rule)[2]
    assert text.count("Logout") == 2


def test_the_same_policy_differs_in_nothing() -> None:
    assert "What it asks for differently: nothing Rule by rule" in explain(everything(), everything().policy)


def test_a_ledger_that_was_changed_is_told_and_does_not_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = everything().model_copy(update={"verdict": Verdict.PASS, "reasons": ()})
    assert "The report contradicts itself: its runs and its policy give fail, not pass." in explain(forged)
    assert explain_command(written(tmp_path, render_verdict_json(forged))) == 1
    grim = campaigns.passing().model_copy(update={"verdict": Verdict.FAIL})
    assert explain_command(written(tmp_path, render_verdict_json(grim))) == 1


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (campaigns.passing, 0),
        (campaigns.flaky_pass, 0),
        (everything, 1),
        (campaigns.inconclusive, 2),
        (campaigns.no_run, 2),
    ],
)
def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object, code: int) -> None:
    assert callable(make)
    assert explain_command(written(tmp_path, render_verdict_json(make()))) == code
    assert " ".join(capsys.readouterr().out.split()) == explain(make())


@pytest.mark.parametrize(
    ("policy", "code"),
    [("max_flaky: 0\n", 1), ('{"max_flaky": 1}', 0), ("min_decided: 3", 2), ("", 0)],
)
def test_exit_codes_under_another_policy(tmp_path: Path, policy: str, code: int) -> None:
    verdict = written(tmp_path, render_verdict_json(campaigns.flaky_pass()))
    assert explain_command(verdict, written(tmp_path, policy, "policy.yaml")) == code


@pytest.mark.parametrize(
    "policy",
    [
        "max_flaky: [",
        "max_flakes: 0",
        "max_flaky: -1",
        "max_flaky: true",
        "1: 2",
        "quarantine: {x: {1: 2}}",
        "- 1",
        "just text",
        "!!python/object/apply:os.system ['true']",
        "quarantine: {x: {reason: a, owner: b}}",
        "quarantine: {x: {reason: a, owner: b, expires: 2030-13-45}}",
        "[" * 5_000,
        "\x00",
        'quarantine: {"\\e[31m": {}}',
    ],
)
def test_a_policy_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str) -> None:
    verdict = written(tmp_path, render_verdict_json(campaigns.flaky_pass()))
    assert explain_command(verdict, written(tmp_path, policy, "policy.yaml")) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("prefect-qatech: Cannot explain: ")
    assert "is not a policy" in captured.err
    assert captured.err.count("\n") == 1
    assert invisible(captured.err) == []


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = written(tmp_path, render_verdict_json(campaigns.flaky_pass()))
    assert explain_command(tmp_path / "nowhere.json") == 3
    assert explain_command(tmp_path) == 3
    assert explain_command(verdict, tmp_path / "nowhere.yaml") == 3
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe")
    assert explain_command(tmp_path / "latin.json") == 3
    assert explain_command(written(tmp_path, "{}")) == 3
    assert capsys.readouterr().err.count("Cannot explain: ") == 5


def test_a_quarantine_that_nobody_can_date_is_refused(tmp_path: Path) -> None:
    report = json.loads(render_verdict_json(everything()))
    assert explain_command(written(tmp_path, json.dumps({**report, "judged_on": None}))) == 3


def test_a_policy_file_may_hold_dates(tmp_path: Path) -> None:
    path = written(tmp_path, "quarantine:\n  abc: {reason: a, owner: b, expires: 2026-12-01}\n", "policy.yaml")
    assert load_policy(path).quarantine["abc"].expires == date(2026, 12, 1)


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_text_of_the_service_reaches_the_terminal_raw(kind: str) -> None:
    lines = lines_of(hostile(HOSTILE[kind]), GatePolicy(passes_required=2, quarantine={}))
    assert invisible("".join(lines)) == []
    assert max(map(len, lines)) < 1_000


@pytest.mark.parametrize("make", [everything, campaigns.flaky_pass, campaigns.inconclusive, campaigns.no_run])
def test_lines_fit_eighty_columns_and_stand_below_each_other(make: Callable[[], GateReport]) -> None:
    lines = lines_of(make(), GatePolicy(max_flaky=0))
    assert max(map(len, lines)) <= 80
    rules = [line for line in lines if re.match(r"  (pass|fail|inconclusive) ", line)]
    assert rules
    assert {len(line) - len(line[2:].split(" ", 1)[1].lstrip()) for line in rules} == {16}


def test_a_forged_ledger_does_not_reach_the_terminal_raw() -> None:
    report = everything()
    reason = report.reasons[0].model_copy(
        update={"rule": "\x1b[31m", "sentence": "\x1b[32m", "test_ids": ("\x1b[33m",)}
    )
    forged = report.model_copy(update={"reasons": (reason,), "plan_name": "\x1b[34m", "plan_short_id": "\x1b[35m"})
    assert invisible(explain(forged)) == []

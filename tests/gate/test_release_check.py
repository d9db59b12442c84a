"""A gate with a release check: what it found counts, what became of it is told, and it is started once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from prefect_qatech import (
    GateFailed,
    GateInconclusive,
    GatePolicy,
    GateReport,
    QATechChange,
    QATechReleaseCheckRequest,
    ReleaseCheckPolicy,
    Verdict,
    arelease_gate,
    release_gate,
)
from prefect_qatech.report.ctrf import render_ctrf
from prefect_qatech.report.junit import render_junit
from prefect_qatech.report.markdown import render_markdown
from prefect_qatech.report.verdict_json import load_verdict_json, render_verdict_json
from prefect_qatech.sandbox import Sandbox
from prefect_qatech.verdict.judge import GateVerdict, Incident
from tests.gate.conftest import Judge
from tests.report.reading import render
from tests.support import POLLING, Failing, cases, counted, credentials_for, fault, one_plan, posts, verdict_in

pytestmark = pytest.mark.usefixtures("prefect_server")

REQUEST = QATechReleaseCheckRequest(release_name="v9", changes=[QATechChange(summary="A new basket")])
BLOCKER = {"title": "Nobody can pay", "is_blocker": True, "severity": "critical"}
MINOR = {"title": "A typo", "severity": "low", "is_blocker": False}
START = "start_release_check"
LOOK = {"method": "GET", "path": "release_check"}


@contextmanager
def sandbox_of(review: Mapping[str, Any], *outcomes: Any, speed: float = 2000) -> Iterator[Sandbox]:
    scenario = {**one_plan(cases(*(outcomes or ["passed"]))), "release_checks": [review]}
    with Sandbox(scenario, speed=speed) as sandbox:
        yield sandbox


async def gate(sandbox: Sandbox, **arguments: Any) -> GateReport:
    """A gate that returns its report whatever it says."""
    arguments = {"polling": POLLING, "raise_unless_passed": False, "release_check": REQUEST, **arguments}
    report: GateReport = await arelease_gate(credentials_for(sandbox), "pln_one", **arguments)
    return report


def checks(sandbox: Sandbox) -> int:
    """How many release checks were started."""
    return sandbox.counts()["release_checks"]


def rules(report: GateReport | GateVerdict) -> dict[str, Verdict]:
    return {reason.rule: reason.verdict for reason in report.reasons}


async def test_a_check_without_a_blocker_lets_the_gate_pass_and_is_told() -> None:
    with sandbox_of({"overall_score": 90, "findings": [MINOR], "manual_follow_ups": ["Pay once"]}) as sandbox:
        report = release_gate(credentials_for(sandbox), "pln_one", polling=POLLING, release_check=REQUEST)
        [run, check] = posts(sandbox)
    assert (run["path"], check["path"]) == ("/v1/run", "/v1/release-checks")
    assert check["body"] == REQUEST.to_json()
    assert report.passed
    assert report.incidents == ()
    assert report.release_check is not None
    assert (report.release_check.status, report.release_check.score) == ("COMPLETED", 90)
    assert report.release_check.manual_follow_ups == ("Pay once",)
    page = render(render_markdown(report))
    assert "Release check: score 90, 0 blockers among 1 finding" in page.text
    assert str(report.release_check.url) in page.links
    assert load_verdict_json(render_verdict_json(report)) == report
    assert 'qatech.release_check.status" value="COMPLETED"' in render_junit(report)
    assert '"releaseCheck": {' in render_ctrf(report)


async def test_a_blocker_makes_the_gate_inconclusive_and_the_error_names_the_check(tmp_path: Path) -> None:
    with sandbox_of({"findings": [MINOR, BLOCKER]}) as sandbox:
        with pytest.raises(GateInconclusive, match="The release check found 1 blocker") as caught:
            await gate(sandbox, raise_unless_passed=True, report_directory=str(tmp_path))
        report = caught.value.report
    check = report.release_check
    assert check is not None
    assert check.url
    assert check.url in caught.value.message
    assert rules(report)["release_check_blockers"] is Verdict.INCONCLUSIVE
    assert verdict_in(tmp_path) == report
    assert "Nobody can pay" in render(render_markdown(report)).text


async def test_a_blocker_is_what_the_policy_says(tmp_path: Path) -> None:
    only_told, fails = (GatePolicy(release_check=ReleaseCheckPolicy(on_blocker=what)) for what in ("report", "fail"))
    with sandbox_of({"findings": [MINOR, BLOCKER]}) as sandbox:
        report = await gate(sandbox, policy=only_told, report_directory=str(tmp_path))
    assert report.verdict is rules(report)["release_check_blockers"] is Verdict.PASS
    assert verdict_in(tmp_path) == report
    assert "Nobody can pay" in render(render_markdown(report)).text
    # Offline, another policy judges the same check.
    for policy, verdict in [(fails, Verdict.FAIL), (GatePolicy(), Verdict.INCONCLUSIVE)]:
        again = report.judge_again(policy)
        assert again.verdict is rules(again)["release_check_blockers"] is verdict


async def test_a_failed_test_is_a_fail_whatever_the_check_says() -> None:
    with sandbox_of({"findings": [BLOCKER]}, "failed") as sandbox:
        with pytest.raises(GateFailed):
            await gate(sandbox, raise_unless_passed=True)
        assert counted(sandbox) == (1, 2)
        assert checks(sandbox) == 1


async def test_a_score_can_be_asked_for(judge: Judge) -> None:
    enough, too_little = (GatePolicy(release_check=ReleaseCheckPolicy(min_score=score)) for score in (70, 70.5))
    with sandbox_of({"overall_score": 70}) as sandbox:
        report = await judge(sandbox, check=REQUEST, policy=too_little)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.judge_again(enough).verdict is Verdict.PASS


# --- what goes wrong with a check is an incident in a report


def assert_incomplete(report: GateReport, *words: str) -> None:
    assert report.verdict is Verdict.INCONCLUSIVE
    assert Incident.RELEASE_CHECK_INCOMPLETE in report.incidents
    assert rules(report)["release_check_incomplete"] is Verdict.INCONCLUSIVE
    assert report.tests[0].verdict == "passed"
    shown = render(render_markdown(report)).text
    for word in words:
        assert word in " ".join(report.notes)
        assert word in shown


@pytest.mark.parametrize(("status", "words"), [(402, "usage limit"), (403, "403"), (404, "404"), (400, "400")])
async def test_a_check_that_is_refused_leaves_the_gate_inconclusive(status: int, words: str, judge: Judge) -> None:
    with sandbox_of({}) as sandbox:
        sandbox.set_faults(fault({"kind": "status", "status": status, "times": -1}, START))
        report = await judge(sandbox, check=REQUEST)
        assert checks(sandbox) == 0
    assert_incomplete(report, words)
    assert report.release_check is not None
    assert report.release_check.short_id is None
    assert "nobody knows what became of it" in render(render_markdown(report)).text


async def test_a_check_that_may_have_been_started_is_never_started_again() -> None:
    step, reports = Failing(), list[GateReport]()
    with sandbox_of({}) as sandbox:
        sandbox.set_faults(fault({"kind": "drop_after"}, START))

        @flow(retries=1)
        async def release() -> None:
            reports.append(await gate(sandbox))
            step()

        await release()
        assert checks(sandbox) == 1
        assert counted(sandbox) == (1, 0)
    for report in reports:
        assert_incomplete(report, "Look in QA.tech for a release check", "It is not sent again")


async def test_a_check_that_goes_on_at_the_deadline_is_not_green(judge: Judge) -> None:
    for seconds in (3, 15, 75):
        with sandbox_of({"duration_seconds": 100_000}) as sandbox:
            report = await judge(sandbox, check=REQUEST, policy=GatePolicy(deadline_seconds=seconds))
        if not any("could be waited for" in note for note in report.notes):
            break  # else the machine is busy: the deadline passed before the check was started
    assert_incomplete(report, "did not end in time", "goes on at QA.tech")
    assert report.release_check is not None
    assert report.release_check.status == "RUNNING"
    assert str(report.release_check.url) in report.notes[-1]


async def test_a_check_that_is_lost_is_not_green(judge: Judge) -> None:
    with sandbox_of({}) as sandbox:
        sandbox.set_faults([{"on": LOOK, "kind": "status", "status": 403, "times": -1}])
        report = await judge(sandbox, check=REQUEST)
    assert_incomplete(report, "could not be followed")


@pytest.mark.parametrize("status", ["ERROR", "CANCELLED"])
async def test_a_check_that_failed_is_not_green(status: str, judge: Judge) -> None:
    with sandbox_of({"status": status, "findings": []}) as sandbox:
        report = await judge(sandbox, check=REQUEST)
    assert_incomplete(report, f"ended as {status}")
    assert "a retry cannot change this" in render(render_markdown(report)).text


async def test_after_a_refused_check_no_rerun_is_paid_for(judge: Judge) -> None:
    with sandbox_of({}, ["failed", "passed"]) as sandbox:
        sandbox.set_faults(fault({"kind": "status", "status": 403, "times": -1}, START))
        report = await judge(sandbox, check=REQUEST)
        assert counted(sandbox) == (1, 0)
    assert report.verdict is Verdict.FAIL


# --- started once


async def test_a_retry_finds_the_check_and_another_target_has_its_own() -> None:
    step, found = Failing(2), list[Any]()
    targets = ["v1", "v1", "v2"]
    with sandbox_of({}) as sandbox:

        @flow(retries=2)
        async def release() -> None:
            report = await gate(sandbox, target=targets[len(found)])
            found.append(report.release_check)
            step()

        await release()
        assert checks(sandbox) == 2
    assert found[0] == found[1]
    assert found[0].short_id != found[2].short_id


async def test_a_check_that_was_refused_for_now_is_started_by_a_retry() -> None:
    step, verdicts = Failing(), list[Verdict]()
    with sandbox_of({}) as sandbox:
        sandbox.set_faults(fault({"kind": "status", "status": 403, "times": 1}, START))

        @flow(retries=1)
        async def release() -> None:
            verdicts.append((await gate(sandbox)).verdict)
            step()

        await release()
        assert checks(sandbox) == 1
        assert counted(sandbox) == (1, 0)
    assert verdicts == [Verdict.INCONCLUSIVE, Verdict.PASS]

"""The gate against the sandbox, which counts what it was asked, on a real Prefect server."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from prefect_qatech import (
    GateFailed,
    GateInconclusive,
    GateNotPassed,
    GatePolicy,
    GateReport,
    InvalidInputError,
    NotFoundError,
    QATechApplication,
    QATechCredentials,
    QATechEnvironment,
    QATechError,
    QATechPolling,
    QATechRunRequest,
    StartOutcomeUnknown,
    TestVerdict,
    UnauthorizedError,
    Verdict,
    aread_ledger,
    arelease_gate,
    astart_test_run,
    release_gate,
    start_test_run,
)
from prefect_qatech.gate import approval
from prefect_qatech.report import artifacts, events
from prefect_qatech.report.escape import cell_text
from prefect_qatech.report.verdict_json import load_verdict_json
from prefect_qatech.sandbox import Sandbox
from prefect_qatech.verdict.judge import Incident
from prefect_qatech.verdict.policy import QuarantineEntry
from tests.support import (
    POLLING,
    Failing,
    artifacts_of,
    cases,
    counted,
    credentials_for,
    fault,
    flow_run_id,
    looks,
    one_plan,
    posts,
    rewrite,
    rows_of,
    time_goes_on,
    verdict_in,
)

pytestmark = pytest.mark.usefixtures("prefect_server")


@contextmanager
def sandbox_of(scenario: Mapping[str, Any], speed: float = 2000) -> Iterator[Sandbox]:
    with Sandbox(scenario, speed=speed) as sandbox:
        yield sandbox


async def look_at(sandbox: Sandbox, plan: str | None = "pln_one", **arguments: Any) -> GateReport:
    """A gate that returns its report whatever it says."""
    arguments = {"polling": POLLING, "raise_unless_passed": False, **arguments}
    return await arelease_gate(credentials_for(sandbox), plan, **arguments)


def kinds(sandbox: Sandbox) -> list[Any]:
    """The bodies of the reruns that arrived."""
    return [request["body"] for request in posts(sandbox) if request["path"] != "/v1/run"]


# --- what is asked of the service


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a report's files are written; the summary of the job stands beside it."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step"))
    return tmp_path / "report"


def check_files(directory: Path, report: GateReport, heading: str) -> None:
    """Check that each file of a gate, and the summary of its job, tells the report."""
    written = {path.name: path.read_text(encoding="utf-8") for path in directory.iterdir()}
    assert set(written) == {"verdict.json", "junit.xml", "ctrf.json", "summary.md"}
    assert load_verdict_json(written["verdict.json"]) == report
    assert json.loads(written["ctrf.json"])["results"]["summary"]["tests"] == len(report.tests)
    # The file has a line that no reader sees, by which it is known as one of ours.
    summary = written["summary.md"].replace("[//]: # (prefect-qatech)\n\n", "", 1)
    assert (directory.parent / "step").read_text(encoding="utf-8").strip() == summary.strip()
    assert written["summary.md"].startswith(heading)


async def test_a_green_gate_is_one_start_and_no_rerun(
    sandbox: Sandbox, credentials: QATechCredentials, directory: Path
) -> None:
    report = await arelease_gate(credentials, "pln_green", polling=POLLING, report_directory=str(directory))
    assert report.passed
    assert not report.is_one_run_only
    check_files(directory, report, "## ✅ PASS")
    assert [request["path"] for request in posts(sandbox)] == ["/v1/run"]
    assert counted(sandbox) == (1, 0)
    assert report.run_short_id == sandbox.runs()[0]["short_id"]
    assert [reason.rule for reason in report.reasons] == ["passed"]
    assert report.flow_run_id is not None


def evidence(report: GateReport) -> dict[str, Any]:
    """A report without times, and without the ids of its flow run and of what the sandbox made up."""
    shown = report.model_dump(mode="json")
    for name in ("started_at", "ended_at", "judged_on", "flow_run_id", "flow_run_url"):
        del shown[name]
    for attempt in shown["attempts"]:
        del attempt["started_at"], attempt["finished_at"]
    return shown


async def in_both_versions(sandbox: Sandbox, plan: str) -> GateReport:
    """The report of a gate, of which the sync and the async version ask and say the same."""
    report = await look_at(sandbox, plan)
    asked = [(request["path"], request["body"]) for request in posts(sandbox)]
    sandbox.reset()  # the same ids again
    other = release_gate(credentials_for(sandbox), plan, polling=POLLING, raise_unless_passed=False)
    assert evidence(report) == evidence(other)
    assert asked == [(request["path"], request["body"]) for request in posts(sandbox)]
    return report


async def test_a_flaky_gate_is_one_rerun_of_what_failed(sandbox: Sandbox) -> None:
    report = await in_both_versions(sandbox, "pln_flaky")
    start, rerun = posts(sandbox)
    assert rerun["path"] == f"/v1/run/{start['run_short_id']}"
    assert rerun["body"] == {"failedOnly": True}
    assert counted(sandbox) == (1, 1)
    assert report.passed
    assert report.verdict_without_reruns is Verdict.FAIL
    assert [test.name for test in report.tests_with(TestVerdict.FLAKY)] == ["Apply a voucher"]
    assert [attempt.run_short_id for attempt in report.attempts] == [start["run_short_id"], rerun["run_short_id"]]
    published = {artifact.key: artifact for artifact in await artifacts_of([UUID(report.flow_run_id or "")])}
    # A run that has ended at the first look gets no bar of its progress.
    assert {key: artifact.type for key, artifact in published.items() if artifact.type != "progress"} == {
        "qatech-run-pln-flaky": "markdown",
        "qatech-report-pln-flaky": "markdown",
        "qatech-tests-pln-flaky": "table",
    }
    assert "Apply a voucher" in str(published["qatech-report-pln-flaky"].data)
    assert "Apply a voucher" in str(published["qatech-tests-pln-flaky"].data)


def test_a_broken_gate_is_two_reruns_and_an_error_that_names_test_and_link(
    sandbox: Sandbox, credentials: QATechCredentials, directory: Path
) -> None:
    with pytest.raises(GateFailed) as caught:
        release_gate(credentials, "pln_broken", polling=POLLING, report_directory=str(directory))
    error = caught.value
    check_files(directory, error.report, "## ❌ FAIL")
    assert counted(sandbox) == (1, 2)
    assert "Pay with a credit card" in error.message
    assert error.run_url is not None
    assert error.run_url in error.message
    assert error.run_short_id == posts(sandbox)[-1]["run_short_id"]
    assert error.report.verdict is Verdict.FAIL
    assert "\n" not in error.message


async def test_a_test_in_quarantine_by_its_name_is_not_rerun_and_an_entry_without_effect_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entry = QuarantineEntry(reason="known", owner="ana", expires=date.max)
    policy = GatePolicy(quarantine={"Test 1": entry, "Test 7": entry})
    with sandbox_of(one_plan(cases("passed", "failed"))) as sandbox:
        report = await look_at(sandbox, policy=policy)
        assert counted(sandbox) == (1, 0)
    assert report.passed
    assert report.quarantine_unmatched == ("Test 7",)
    assert "'Test 7' matches no test, or more than one" in caplog.text


# --- the deadline


async def test_a_run_that_never_ends_is_inconclusive_at_the_deadline(
    sandbox: Sandbox, credentials: QATechCredentials, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    policy, rare = GatePolicy(deadline_seconds=5), QATechPolling(first_seconds=600, max_seconds=3600)
    with pytest.raises(GateInconclusive, match=r"goes on at QA\.tech") as caught:
        await arelease_gate(credentials, "pln_never", policy=policy, polling=rare, report_directory=str(tmp_path))
    start = posts(sandbox)[0]
    assert looks(sandbox) == 2, "one when the wait begins, one at the deadline"
    last = [request for request in sandbox.requests() if request["path"].startswith(f"/v1/run/{start['run_short_id']}")]
    waited = datetime.fromisoformat(last[-1]["at"]) - datetime.fromisoformat(start["at"])
    # The time counts from before the request, which takes a busy machine a while.
    assert waited.total_seconds() >= 2.5
    report = caught.value.report
    assert report.incidents == (Incident.DEADLINE_PASSED,)
    assert report.attempts[0].status == "RUNNING"
    assert report.attempts[0].finished_at is None
    assert "deadline" in caught.value.message
    assert counted(sandbox) == (1, 0)
    red = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert [message for message in red if not message.startswith("Finished in state")] == [], (
        "a deadline is no error of a task"
    )
    published = {artifact.key: artifact for artifact in await artifacts_of([UUID(report.flow_run_id or "")])}
    assert set(published) >= {"qatech-run-pln-never", "qatech-report-pln-never", "qatech-tests-pln-never"}
    text = str(published["qatech-report-pln-never"].data)
    assert text.startswith("## ⚠️ INCONCLUSIVE: do not release yet")
    assert "The deadline passed before the tests had ended" in text
    assert verdict_in(tmp_path) == report


async def aged(flow_run: UUID, hours: float) -> None:
    """Let a recorded run be started so long ago."""
    for key, value in (await rows_of(flow_run)).items():
        if key.endswith(("-done", "-intent")):
            row = json.loads(value)
            field = "started_at" if key.endswith("-done") else "sent_at"
            moment = datetime.fromisoformat(row[field].replace("Z", "+00:00")) - timedelta(hours=hours)
            await rewrite(flow_run, key, {**row, field: moment.isoformat()})


async def test_a_restart_after_a_crash_gets_no_more_time_and_a_retry_after_the_verdict_does() -> None:
    policy = GatePolicy(deadline_seconds=3600)
    reports: list[GateReport] = []
    polls: list[int] = []
    step = Failing(2)
    with sandbox_of(one_plan(cases(["failed", "passed"])), speed=0) as sandbox:

        @flow(retries=2)
        async def user() -> None:
            if step.calls == 0:
                # As far as a gate comes before it crashes: its start is on record.
                await astart_test_run(credentials_for(sandbox), "pln_one", label="release")
                await aged(flow_run_id(), hours=2)
            else:
                before = looks(sandbox)
                with time_goes_on(sandbox, 60) if reports else nullcontext():
                    reports.append(await look_at(sandbox, label="release", policy=policy))
                polls.append(looks(sandbox) - before)
            step()

        await user()
        assert counted(sandbox) == (1, 1)
    late, retried = reports
    assert late.incidents == (Incident.DEADLINE_PASSED,)
    assert polls[0] == 1, "the deadline has passed: one poll, no wait"
    assert late.verdict is Verdict.INCONCLUSIVE
    # Somebody asked again after a verdict: the campaign goes on with the deadline anew, and spends its rerun.
    assert retried.incidents == ()
    assert [attempt.kind for attempt in retried.attempts] == ["start", "rerun"]
    assert retried.passed


async def test_a_rerun_that_is_on_record_counts_although_the_time_is_over() -> None:
    """The process died while it waited for the rerun; the rerun has passed in the meantime."""
    reports: list[GateReport] = []
    step = Failing()
    # "Failed only" leaves out what was cancelled.
    with sandbox_of(one_plan(cases(["cancelled", "passed"]))) as sandbox:

        @flow(retries=1)
        async def user() -> None:
            reports.append(await look_at(sandbox, label="release"))
            if step.left:
                for key in await rows_of(flow_run_id()):
                    if "-ended-" in key or "-passed-" in key:
                        await rewrite(flow_run_id(), key, None)
                await aged(flow_run_id(), hours=2)
            step()

        await user()
        assert counted(sandbox) == (1, 1)
        assert [[*body] for body in kinds(sandbox)] == [["projectTestCaseIds"]]
    before, after = reports
    assert before.passed
    assert [attempt.run_short_id for attempt in after.attempts] == [a.run_short_id for a in before.attempts]
    assert after.verdict is Verdict.PASS


async def test_a_rerun_that_the_deadline_forbids_is_told() -> None:
    """The run ended, and its test is undecided, but the time is over: nobody may think that nothing could be done."""
    reports: list[GateReport] = []
    step = Failing()
    with sandbox_of(one_plan(cases(["agent_error", "passed"]))) as sandbox:

        @flow(retries=1)
        async def user() -> None:
            if step.left:
                await astart_test_run(credentials_for(sandbox), "pln_one", label="release")
                await aged(flow_run_id(), hours=2)
                await asyncio.sleep(0.1)
            else:
                reports.append(await look_at(sandbox, label="release"))
            step()

        await user()
        assert counted(sandbox) == (1, 0)
    assert reports[0].verdict is Verdict.INCONCLUSIVE
    assert Incident.DEADLINE_PASSED in reports[0].incidents


# --- what stops a rerun


async def test_a_usage_limit_is_told_beside_a_failure_and_a_retry_after_it_was_raised_spends_the_rerun() -> None:
    with sandbox_of({**one_plan(cases(["failed", "passed"])), "usage_limit": 1}) as sandbox:

        @flow(retries=1)
        async def user() -> GateReport:
            if not posts(sandbox):
                with pytest.raises(GateNotPassed, match="402") as caught:
                    await look_at(sandbox, raise_unless_passed=True)
                assert caught.value.report.incidents == (Incident.USAGE_LIMIT,)
                assert {"max_failed", "usage_limit"} <= {reason.rule for reason in caught.value.report.reasons}
                sandbox.set_usage_limit(None)
                raise caught.value
            return await look_at(sandbox, raise_unless_passed=True)

        assert (await user()).passed
        assert [request["status"] for request in posts(sandbox)] == [200, 402, 200]
        assert counted(sandbox) == (1, 1)


async def test_a_lost_answer_to_the_rerun_is_inconclusive_and_never_repeated() -> None:
    reports: list[GateReport] = []
    with sandbox_of(one_plan(cases(["agent_error", "passed"]))) as sandbox:
        credentials = credentials_for(sandbox, timeout_seconds=1)
        sandbox.set_faults(fault({"kind": "drop_after"}, "rerun"))
        ids: list[UUID] = []

        @flow(retries=1)
        async def user() -> None:
            ids.append(flow_run_id())
            try:
                await arelease_gate(credentials, "pln_one", polling=POLLING)
            except GateInconclusive as error:
                reports.append(error.report)
                raise

        with pytest.raises(GateInconclusive) as caught:
            await user()
        assert len(reports) == 2
        for report in reports:
            assert report.incidents == (Incident.OUTCOME_UNKNOWN,)
            assert report.verdict is Verdict.INCONCLUSIVE
        assert counted(sandbox) == (1, 1)
        assert len(posts(sandbox)) == 2
        (is_open,) = (found for found in await aread_ledger(ids[0]) if found.is_open)
        assert f"prefect-qatech ledger attach {ids[0]} {is_open.slot}" in caught.value.message
        assert f"prefect-qatech ledger clear {ids[0]} {is_open.slot}" in caught.value.message


async def test_a_lost_answer_to_the_start_is_an_error_and_never_repeated(sandbox: Sandbox) -> None:
    credentials = credentials_for(sandbox, timeout_seconds=1)
    sandbox.set_faults(fault({"kind": "drop_after"}, "start"))

    @flow(retries=1)
    def user() -> None:
        release_gate(credentials, "pln_green", polling=POLLING)

    with pytest.raises(StartOutcomeUnknown, match="prefect-qatech ledger attach"):
        user()
    assert len(posts(sandbox)) == 1


@pytest.mark.parametrize(
    ("plan", "token", "error"),
    [("pln_nosuch", "sandbox-token", NotFoundError), ("pln_green", "nobodys-token", UnauthorizedError)],
)
async def test_a_gate_that_is_set_up_wrongly_is_an_error_whatever_may_return(
    sandbox: Sandbox, plan: str, token: str, error: type[QATechError]
) -> None:
    with pytest.raises(error):
        await arelease_gate(credentials_for(sandbox, api_token=token), plan, raise_unless_passed=False)
    assert len(posts(sandbox)) == 1


# --- a run from elsewhere


async def a_run_from_elsewhere(sandbox: Sandbox, plan: str) -> str:
    record = await astart_test_run(credentials_for(sandbox), plan)
    return record.run_short_id


async def test_a_run_from_elsewhere_is_taken_up_with_its_passes_and_its_links_stand_in_one_artifact(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    run = await astart_test_run(credentials, "pln_flaky")
    reports: list[GateReport] = []
    step = Failing()

    @flow(retries=1)
    def user() -> None:
        reports.append(release_gate.fn(credentials, run=run, target="v1", label="smoke", polling=POLLING))
        step()

    user()
    report, again = reports
    assert report.passed
    assert report.attempts[0].run_short_id == run.run_short_id
    assert kinds(sandbox) == [{"failedOnly": True}]
    assert counted(sandbox) == (1, 1)
    assert sandbox.counts()["test_executions"] == 4, "three, and one again"
    published = await artifacts_of([UUID(report.flow_run_id or "")])
    [told] = [str(artifact.data) for artifact in published if artifact.key == "qatech-run-smoke"]
    assert re.findall(r"\]\((.*?)\)", told) == [str(attempt.run_url) for attempt in again.attempts]
    assert len(again.attempts) == 2
    assert not [artifact.key for artifact in published if "rerun" in str(artifact.key)]


async def test_a_retry_of_a_gate_on_a_run_from_elsewhere_goes_on_with_it(sandbox: Sandbox) -> None:
    run = await a_run_from_elsewhere(sandbox, "pln_broken")
    reports: list[GateReport] = []
    step = Failing()

    @flow(retries=1)
    async def user() -> None:
        reports.append(await look_at(sandbox, None, run=run, policy=GatePolicy(max_reruns=1)))
        step()

    await user()
    first, again = ([attempt.run_short_id for attempt in report.attempts] for report in reports)
    assert first == again
    assert (reports[0].attempts[0].kind, first[0]) == ("attached", run)
    assert reports[0].is_one_run_only
    assert kinds(sandbox) == [{"failedOnly": True}]
    assert counted(sandbox) == (1, 1)


async def test_a_retry_after_an_upgrade_starts_no_rerun_again_of_a_run_from_elsewhere(sandbox: Sandbox) -> None:
    """0.1.0 named the run without its service, in the form of a label."""
    run = await a_run_from_elsewhere(sandbox, "pln_broken")
    step = Failing()

    @flow(retries=1)
    async def user() -> None:
        of_0_1_0 = f"run {run}" if step.calls == 0 else None
        await look_at(sandbox, None, run=run, policy=GatePolicy(max_reruns=1), label=of_0_1_0)
        step()

    await user()
    assert counted(sandbox) == (1, 1)


async def test_a_link_is_published_as_soon_as_qatech_tells_the_address_of_the_run(sandbox: Sandbox) -> None:
    run = await a_run_from_elsewhere(sandbox, "pln_green")
    test = {"id": str(uuid4()), "shortId": "a", "name": "Login", "status": "COMPLETED", "result": "PASSED"}
    url = f"https://app.qa.tech/p/shop/results/{run}"
    ended = {"shortId": run, "status": "COMPLETED", "result": "PASSED", "url": url, "runTestCases": [test]}
    told = {"kind": "status", "status": 200, "body": json.dumps(ended)}
    sandbox.set_faults([{"on": {"method": "GET", "path": "status"}, **told}])
    report = await look_at(sandbox, None, run=run, label="told")
    published = await artifacts_of([UUID(report.flow_run_id or "")])
    assert [url in str(artifact.data) for artifact in published if artifact.key == "qatech-run-told"] == [True]


async def test_gates_of_one_plan_that_differ_in_label_or_place_share_no_key(sandbox: Sandbox) -> None:
    ids: list[UUID] = []

    def at(url: str) -> QATechRunRequest:
        application = QATechApplication(application_short_id="app_shop", environment=QATechEnvironment(url=url))
        return QATechRunRequest(test_plan_short_id="pln_green", applications=[application])

    places = [at("https://staging.example.com"), at("https://www.example.com")]
    for request, label in [(places[0], None), (places[1], None), (places[0], "nightly")]:
        report = await arelease_gate(credentials_for(sandbox), request, label=label, polling=POLLING)
        ids.append(UUID(report.flow_run_id or ""))
    subjects: set[str] = set()
    for one in ids:
        found = [str(artifact.key).split("-", 2)[1:] for artifact in await artifacts_of([one])]
        told = [[subject for kind, subject in found if kind == each] for each in ("run", "report", "tests")]
        assert told[0] == told[1] == told[2]
        [subject] = told[0]
        subjects.add(subject)
    assert len(subjects) == 3


async def test_bad_input_is_refused_before_anything_is_sent(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    bad: dict[str, dict[str, Any]] = {
        "run and plan": {"run": "abc123", "request": "pln_green"},
        "a path for a run": {"run": "../abc123"},
        "a name for a plan": {"request": "smoke tests"},
        "a target of two lines": {"request": "pln_green", "target": "v1\nv2"},
    }

    @flow
    async def user() -> None:
        for what in bad.values():
            with pytest.raises(InvalidInputError):
                await arelease_gate.fn(credentials, **what)

    await user()
    assert sandbox.requests() == []


# --- what may go wrong beside it


async def test_artifacts_events_and_files_that_cannot_be_written_change_nothing(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise OSError("no space left")

    async def abroken(*_: object, **__: object) -> Any:
        raise OSError("no space left")

    for name in dir(artifacts):
        if name.startswith(("acreate_", "aupdate_")):
            monkeypatch.setattr(artifacts, name, abroken)
    monkeypatch.setattr("prefect_qatech.report.events.emit_event", broken)
    monkeypatch.setattr("prefect_qatech.tasks.write_report_files", broken)
    report = await look_at(sandbox, "pln_flaky", report_directory=str(tmp_path))
    assert report.passed
    assert counted(sandbox) == (1, 1)


async def test_a_report_that_cannot_be_rendered_changes_nothing_of_the_verdict(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise ZeroDivisionError("a fault of the report")

    for what in ("render_markdown", "render_table"):
        monkeypatch.setattr(artifacts, what, broken)
    report = await look_at(sandbox, "pln_green")
    assert report.passed


async def test_a_gate_has_one_link_and_one_bar_whatever_it_reruns_and_however_often_it_is_tried() -> None:
    """A retry of a pass without a target tests anew, in the same flow run."""
    reports: list[GateReport] = []
    with sandbox_of(one_plan(cases(["failed", "passed"], "passed")), speed=0) as sandbox, time_goes_on(sandbox):
        given = credentials_for(sandbox)

        @flow(retries=1)
        def release() -> None:
            reports.append(release_gate.fn(given, "pln_one", polling=POLLING))
            if len(reports) == 1:
                raise RuntimeError("deployment failed after the gate")

        release()
    runs = [attempt for report in reports for attempt in report.attempts]
    assert len(runs) == 4
    published = await artifacts_of([UUID(reports[0].flow_run_id or "")])
    [links] = [artifact for artifact in published if artifact.key == "qatech-run-pln-one"]
    told = [(number % 2, run.run_short_id, run.run_url) for number, run in enumerate(runs)]
    texts = [f"[{'Rerun' if is_rerun else 'Run'} {cell_text(id, 99)} on QA.tech]({url})" for is_rerun, id, url in told]
    assert links.data == "\n\n".join(texts)
    [bar] = [artifact for artifact in published if artifact.type == "progress"]
    assert (bar.key, bar.data) == ("qatech-progress-pln-one", 100)
    assert runs[-1].run_short_id in str(bar.description)
    newest = max(published, key=lambda artifact: str(artifact.created))
    assert newest.key == "qatech-report-pln-one", "both UIs show it first"


def test_a_gate_that_fails_again_says_since_when_wherever_it_tells_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(approval, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(events, "emit_event", lambda **event: told.update({event["event"]: event["payload"]}))
    given: dict[str, Any] = {
        "policy": GatePolicy(max_reruns=0),
        # A history of its own.
        "label": uuid4().hex,
        "polling": POLLING,
        "report_directory": str(tmp_path),
        "on_failed": "ask",
        "decision_timeout_seconds": 0.5,
    }
    with sandbox_of(one_plan(cases("failed", "passed")), speed=0) as sandbox, time_goes_on(sandbox):
        gates: list[GateFailed] = []
        for _ in range(2):
            with pytest.raises(GateFailed) as failed:
                release_gate(credentials_for(sandbox), "pln_one", **given)
            gates.append(failed.value)
    before, now = (gate.report for gate in gates)
    assert before is not None
    assert now is not None
    assert [test.standing for test in before.tests] == [None, None], "nothing is known of the first one"
    known, passed = [test.standing for test in now.tests]
    assert known is not None
    assert (known.kind, known.since_run_short_id, known.times) == ("known", before.run_short_id, 2)
    assert passed is None
    assert load_verdict_json((tmp_path / "verdict.json").read_text(encoding="utf-8")) == now
    sentence = "The failure is not new, judging by the last campaign of the same plan here."
    assert sentence in gates[1].message
    assert sentence not in gates[0].message
    for event in ("qatech.gate.asked", "qatech.gate.failed", "qatech.gate.rejected"):
        assert told[event]["new_and_known"] == sentence
        assert [standing["since_run_short_id"] for standing in told[event]["standings"]] == [before.run_short_id]


async def test_a_directory_that_cannot_be_written_to_is_refused_before_anything_is_sent(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no directory", encoding="utf-8")
    with pytest.raises(InvalidInputError):
        await look_at(sandbox, "pln_green", report_directory=str(tmp_path / "file"))
    assert sandbox.requests() == []


async def test_an_error_that_was_stored_as_json_is_read_back(
    sandbox: Sandbox, credentials: QATechCredentials, tmp_path: Path
) -> None:
    gate = arelease_gate.with_options(persist_result=True, result_serializer="json", result_storage=None)
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
        state = await gate(
            credentials, "pln_broken", policy=GatePolicy(max_reruns=0), polling=POLLING, return_state=True
        )
        async with get_client() as client:
            flow_run = await client.read_flow_run(state.state_details.flow_run_id)
        assert flow_run.state is not None
        error = await flow_run.state.aresult(raise_on_failure=False)
    assert type(error) is GateFailed
    assert "The release may not go out." in str(error)
    assert flow_run.state.data.serializer.type == "json"


async def test_a_run_that_nobody_knows_is_believed_at_once(sandbox: Sandbox) -> None:
    with pytest.raises(NotFoundError, match="mistyped"):
        await look_at(sandbox, None, run="mistyped")
    assert looks(sandbox) == 1


# --- twice, beside each other, and again


@pytest.mark.parametrize(("retried", "version"), [("the gate itself", "async"), ("its parent", "sync")])
async def test_a_retry_of_a_failed_gate_asks_nothing_and_says_the_same(
    sandbox: Sandbox, credentials: QATechCredentials, version: str, retried: str
) -> None:
    own = 1 if retried == "the gate itself" else 0
    messages: list[str] = []
    policy = GatePolicy(max_reruns=1)

    @flow(retries=1 - own)
    async def user() -> None:
        try:
            if version == "sync":
                release_gate.with_options(retries=own)(credentials, "pln_broken", policy=policy, polling=POLLING)
            else:
                await arelease_gate.with_options(retries=own)(credentials, "pln_broken", policy=policy, polling=POLLING)
        except GateFailed as error:
            messages.append(error.message)
            raise

    with pytest.raises(GateFailed):
        await user()
    assert len({*messages}) == 1
    assert counted(sandbox) == (1, 1)


async def test_each_gate_of_a_flow_has_runs_of_its_own_and_a_retry_finds_them_in_any_order(sandbox: Sandbox) -> None:
    """Equal gates and a start that is equal to them, gates with a label side by side, and a gate of another plan."""
    step = Failing()
    runs: list[dict[str, list[tuple[Any, ...]]]] = []

    async def gate(name: str, plan: str, label: str | None = None) -> None:
        report = await look_at(sandbox, plan, target="v1", label=label)
        assert report.plan_short_id == plan
        seen[name] = [(run.run_short_id, run.started_at, run.finished_at) for run in report.attempts]

    async def equal() -> None:
        for name in ("first", "second"):
            await gate(name, "pln_flaky")

    async def another() -> None:
        await gate("another", "pln_green")

    async def side_by_side() -> None:
        labels = ["one", "two"] if step.left else ["two", "one"]
        await asyncio.gather(*(gate(label, "pln_green", label) for label in labels))

    @flow(retries=1)
    async def user() -> None:
        seen.clear()
        record = start_test_run(credentials_for(sandbox), "pln_flaky")
        seen["start"] = [(record.run_short_id, record.started_at, record.started_at)]
        for part in [equal, another, side_by_side] if step.left else [side_by_side, another, equal]:
            await part()
        runs.append({**seen})
        step()

    seen: dict[str, list[tuple[Any, ...]]] = {}
    await user()
    assert runs[0] == runs[1], "nor is any time of a run another one"
    known = [run for found in seen.values() for run in found]
    assert len({short_id for short_id, _, _ in known}) == 8
    assert None not in {ended for _, _, ended in known}
    assert counted(sandbox) == (6, 2)


async def test_a_gate_in_a_users_own_task_is_found_by_a_retry_of_the_task_and_of_the_flow(sandbox: Sandbox) -> None:
    step = Failing(2)
    runs: list[str | None] = []

    @task(retries=1, retry_delay_seconds=0)
    async def mine() -> None:
        runs.append((await look_at(sandbox, "pln_green", target="v1", label="mine")).run_short_id)
        step()

    @flow(retries=1)
    async def user() -> None:
        await mine()

    await user()
    assert step.calls == 3
    assert counted(sandbox) == (1, 0)
    assert len(runs) == 3
    assert len({*runs}) == 1


async def test_never_more_starts_than_gates_whatever_goes_wrong() -> None:
    """Fifteen gates, each on a plan of its own and retried once, through faults of every kind from a seed."""
    chance = random.Random(20261123)
    outcomes: list[Any] = ["passed", "failed", ["failed", "passed"], ["agent_error", "passed"], "skipped", "error"]
    behaviours: list[dict[str, Any]] = [{}, {}, {"status": "ERROR"}, {"status": "CANCELLED"}, {"never_ends": True}]
    plans = [
        {
            "short_id": f"pln_{number}",
            "name": f"Plan {number}",
            "run": chance.choice(behaviours),
            "test_cases": [
                {"name": f"Test {number}.{place}", "outcomes": chance.choice(outcomes)}
                for place in range(chance.randint(1, 4))
            ],
        }
        for number in range(15)
    ]
    wrong: list[dict[str, Any]] = [
        {"kind": "status", "status": 429, "retry_after": 0},
        {"kind": "status", "status": 500, "accepted": True},
        {"kind": "status", "status": 503, "retry_after": 0},
        {"kind": "drop_before"},
        {"kind": "drop_after"},
        {"kind": "broken_json"},
        {"kind": "half"},
    ]
    faults = [
        {"on": {"path": path}, "times": -1, "probability": 0.06, "seed": chance.randint(0, 9999), **kind}
        for path in ("start", "rerun", "status")
        for kind in wrong
    ]
    policy = GatePolicy(deadline_seconds=1.5)
    ended: dict[str, GateReport | QATechError] = {}
    few_at_once = asyncio.Semaphore(3)  # SQLite's locks would make it slow, and tell nothing of ours
    with sandbox_of({"plans": plans}) as sandbox:
        credentials = credentials_for(sandbox, timeout_seconds=1)
        sandbox.set_faults(faults)

        async def one(plan: str) -> None:
            work = arelease_gate.with_options(retries=1)
            async with few_at_once:
                try:
                    ended[plan] = await work(credentials, plan, policy=policy, polling=POLLING)
                except QATechError as error:
                    ended[plan] = error.report if isinstance(error, GateNotPassed) else error

        await asyncio.gather(*(one(plan["short_id"]) for plan in plans))
        starts = sandbox.counts()["starts_by_plan"]
        asked = posts(sandbox)
    assert len(ended) == 15
    assert max(starts.values()) == 1
    for plan, result in ended.items():
        if isinstance(result, GateReport):
            assert starts[plan] == 1
            accepted = [request for request in asked if request["run_short_id"] == result.attempts[0].run_short_id]
            assert len(accepted) == 1
            assert len(result.attempts) <= 3
        else:
            assert isinstance(result, StartOutcomeUnknown) or starts[plan] == 0, result
    reports = [result for result in ended.values() if isinstance(result, GateReport)]
    assert len(reports) > 5
    assert sum(isinstance(result, StartOutcomeUnknown) for result in ended.values()) > 0
    by_plan = {plan["short_id"]: plan for plan in plans}
    for report in reports:
        if report.passed:
            written = by_plan[report.plan_short_id or ""]["test_cases"]
            assert all(case["outcomes"] not in ("failed", "skipped", "error") for case in written), "a wrong pass"

"""A verdict is about this target, now; and nothing that was found out is thrown away."""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from prefect import flow, task
from prefect.settings import PREFECT_FLOWS_DEFAULT_RETRIES, temporary_settings
from prefect.variables import Variable

from prefect_qatech import (
    GateFailed,
    GateInconclusive,
    GatePolicy,
    GateReport,
    InvalidInputError,
    LedgerConflict,
    LedgerUnavailable,
    NotFoundError,
    QATechCredentials,
    QATechRunRecord,
    QATechTestPlan,
    StartOutcomeUnknown,
    Verdict,
    agather_gates,
    arelease_gate,
    arerun_test_run,
    astart_test_run,
    await_for_test_run,
    gather_gates,
    ledger,
    release_gate,
)
from prefect_qatech.gate import journal, steps
from prefect_qatech.report import events
from prefect_qatech.report.files import write_report_files
from prefect_qatech.report.markdown import render_markdown
from prefect_qatech.report.plan_durations import variable_name
from prefect_qatech.sandbox import Sandbox
from prefect_qatech.verdict.judge import Incident
from tests.support import (
    POLLING,
    Failing,
    a_report,
    cases,
    counted,
    credentials_for,
    fault,
    flow_run_id,
    one_plan,
    posts,
    verdict_in,
    when_it_is_over,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

CONNECTION_REFUSED = httpx.ConnectError("All connection attempts failed")
STATUS = {"path": "status", "method": "GET"}


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The events that were emitted."""
    seen: list[str] = []
    real: Callable[..., Any] = events.emit_event

    def emit(event: str, **more: Any) -> Any:
        seen.append(event)
        return real(event=event, **more)

    monkeypatch.setattr(events, "emit_event", emit)
    return seen


@pytest.fixture
def flaky() -> Iterator[Sandbox]:
    """A plan whose only failing test passes when it is asked for again."""
    with Sandbox(one_plan(cases("passed", ["failed", "passed"])), speed=2000) as running:
        yield running


class Outage:
    """The ledger cannot be reached when a rerun is due, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.met = 0
        real = ledger.once

        async def once(call: ledger.Call, *args: Any, **options: Any) -> Any:
            if call.kind == "rerun" and self.met < times:
                self.met += 1
                raise CONNECTION_REFUSED
            return await real(call, *args, **options)

        monkeypatch.setattr(ledger, "once", once)


async def judge(sandbox: Sandbox, request: str | None = "pln_one", **arguments: Any) -> GateReport:
    """A gate that returns its report whatever it says."""
    arguments = {"polling": POLLING, "raise_unless_passed": False, **arguments}
    return await arelease_gate(credentials_for(sandbox), request, **arguments)


# --- about this target, now


async def test_a_pass_of_an_earlier_attempt_is_kept_for_the_same_named_target_only(sandbox: Sandbox) -> None:
    targets = [None, None, None, "v1", "v1", "v2"]
    publish, reports = Failing(5), list[GateReport]()

    @flow(retries=5)
    async def release() -> None:
        reports.append(await judge(sandbox, "pln_green", target=targets[len(reports)]))
        publish()

    await release()
    assert counted(sandbox) == (5, 0)
    assert [report.verdict for report in reports] == [Verdict.PASS] * 6
    assert [report.target for report in reports] == targets
    runs = [report.run_short_id for report in reports]
    assert runs[4] == runs[3]
    assert len(set(runs)) == 5
    assert [report.evidence_is_older for report in reports] == [False, False, False, False, True, False]


async def test_what_was_no_pass_is_not_turned_green_by_starting_anew() -> None:
    reports: list[GateReport] = []
    step = Failing()
    with Sandbox(one_plan(cases("failed")), speed=2000) as sandbox:

        @flow(retries=1)
        async def release() -> None:
            reports.append(await judge(sandbox, policy=GatePolicy(max_reruns=0)))
            step()

        await release()
        assert counted(sandbox) == (1, 0)
    assert [report.verdict for report in reports] == [Verdict.FAIL, Verdict.FAIL]
    assert reports[0].run_short_id == reports[1].run_short_id


async def test_a_retried_sub_flow_is_another_attempt_and_so_is_a_retried_task(sandbox: Sandbox) -> None:
    in_flow, in_task = Failing(), Failing()

    @flow(retries=1)
    async def inner() -> None:
        await judge(sandbox, "pln_green")
        in_flow()

    @task(retries=1)
    async def step() -> None:
        await judge(sandbox, "pln_green", label="in a task")
        in_task()

    @flow
    async def outer() -> None:
        await inner()
        await step()

    await outer()
    assert (in_flow.calls, in_task.calls) == (2, 2)
    assert counted(sandbox) == (4, 0)


async def test_many_gates_keep_evidence_for_their_target_only(sandbox: Sandbox) -> None:
    step = Failing(2)
    targets = ["v1", "v1", "v2"]

    @flow(retries=2)
    async def release() -> None:
        await agather_gates(
            credentials_for(sandbox),
            {"one": "pln_green"},
            target=targets[step.calls],
            polling=POLLING,
            raise_unless_passed=False,
        )
        step()

    await release()
    assert counted(sandbox) == (2, 0)


async def test_a_job_starts_anew_on_a_retry_unless_its_target_is_named(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    step, reports = Failing(3), list[GateReport]()
    targets = [None, None, "v1", "v1"]
    plan = QATechTestPlan(credentials=credentials, test_plan_short_id="pln_green", polling=POLLING)

    @flow(retries=3)
    async def release() -> None:
        run = await plan.atrigger(target=targets[step.calls])
        await run.await_for_completion()
        reports.append(await run.afetch_result())
        step()

    await release()
    assert [report.target for report in reports] == targets
    assert reports[3].run_short_id == reports[2].run_short_id
    assert counted(sandbox) == (3, 0)


async def test_a_run_that_passed_for_another_target_proves_nothing(sandbox: Sandbox) -> None:
    credentials = credentials_for(sandbox)

    @flow
    async def release() -> list[GateReport]:
        run = await astart_test_run(credentials, "pln_green")
        return [await judge(sandbox, None, run=run, target=target) for target in ("v1", "v1", "v2")]

    first, same, other = await release()
    assert first.passed
    assert same.passed
    assert other.verdict is Verdict.INCONCLUSIVE
    assert Incident.STALE_PASS in other.incidents


@pytest.mark.parametrize("by", ["its record", "its id"])
async def test_a_run_that_was_started_for_another_target_proves_nothing(sandbox: Sandbox, by: str) -> None:
    credentials = credentials_for(sandbox)

    @flow
    async def release() -> list[GateReport]:
        record = await astart_test_run(credentials, "pln_green", target="v1")
        run = record if by == "its record" else record.run_short_id
        return [await judge(sandbox, None, run=run, target=target) for target in ("v2", "v1")]

    other, same = await release()
    assert other.verdict is Verdict.INCONCLUSIVE
    assert other.incidents == (Incident.STALE_PASS,)
    assert same.passed


@pytest.mark.parametrize("by", ["its record", "its id"])
async def test_a_run_that_a_person_has_found_is_of_the_target_of_the_start_that_was_lost(
    sandbox: Sandbox, by: str
) -> None:
    credentials = credentials_for(sandbox, timeout_seconds=1)
    sandbox.set_faults(fault({"kind": "drop_after"}, "start"))

    @flow(retries=1)
    async def release() -> list[GateReport]:
        try:
            record = await astart_test_run(credentials, "pln_green", target="v1")
        except StartOutcomeUnknown as error:
            [found], slot = sandbox.runs(), str(error.slot)
            await when_it_is_over(lambda: ledger.aattach_run(flow_run_id(), slot, found["short_id"]))
            raise
        run = record if by == "its record" else record.run_short_id
        return [await judge(sandbox, None, run=run, target=target) for target in ("v2", "v1")]

    other, same = await release()
    assert other.incidents == (Incident.STALE_PASS,)
    assert same.passed


async def test_a_run_that_was_judged_for_one_target_is_not_that_of_a_lost_start_for_another(sandbox: Sandbox) -> None:
    credentials = credentials_for(sandbox, timeout_seconds=1)
    sandbox.set_faults(fault({"kind": "drop_after"}, "start"))

    @flow
    async def release() -> None:
        with pytest.raises(StartOutcomeUnknown) as lost:
            await astart_test_run(credentials, "pln_green", target="v1")
        [found], slot = sandbox.runs(), str(lost.value.slot)
        assert (await judge(sandbox, None, run=found["short_id"], target="v2")).passed
        with pytest.raises(ValueError, match="another target, v2"):
            await when_it_is_over(lambda: ledger.aattach_run(flow_run_id(), slot, found["short_id"]))

    await release()


@pytest.mark.parametrize("by", ["its record", "its id"])
async def test_a_run_that_was_judged_in_vain_for_another_target_proves_nothing(by: str) -> None:
    reports, targets = list[GateReport](), ["v1", "v2", "v1"]
    with Sandbox(one_plan(cases("passed")), speed=0) as sandbox:
        credentials = credentials_for(sandbox)

        @flow(retries=2)
        async def release() -> None:
            record = await astart_test_run(credentials, "pln_one")
            run = record if by == "its record" else record.run_short_id
            policy = GatePolicy(deadline_seconds=60 if reports else 0.5)
            reports.append(await judge(sandbox, None, run=run, target=targets[len(reports)], policy=policy))
            sandbox.advance(3600)
            assert len(reports) == len(targets)

        await release()
    assert [report.verdict for report in reports] == [Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, Verdict.PASS]
    assert [report.incidents for report in reports] == [
        (Incident.DEADLINE_PASSED,),
        (Incident.STALE_PASS,),
        (),
    ]


async def test_a_rerun_is_not_judged_for_its_campaign_and_the_first_run_is_named(sandbox: Sandbox) -> None:
    credentials = credentials_for(sandbox)

    @flow
    async def release() -> QATechRunRecord:
        first = await astart_test_run(credentials, "pln_flaky")
        await await_for_test_run(credentials, first, polling=POLLING)
        rerun = await arerun_test_run(credentials, first, failed_only=True)
        for its in (rerun, rerun.run_short_id):
            with pytest.raises(InvalidInputError, match=f'run="{first.run_short_id}"'):
                await judge(sandbox, None, run=its)
        return first

    await release()
    assert counted(sandbox) == (1, 1)


@pytest.mark.parametrize("remembers", [True, False], ids=["the plan has run before", "nobody remembers the plan"])
async def test_a_count_that_was_lost_with_an_answer_is_that_of_the_latest_run_or_said_to_be_unknown(
    remembers: bool,
) -> None:
    plan = f"pln_{uuid4().hex[:8]}"
    if remembers:
        await Variable.aset(variable_name(plan), {"5": [60.0]})
    scenario = one_plan(cases("passed", "passed", "passed"), short_id=plan)
    with Sandbox(scenario, speed=2000) as sandbox:
        credentials = credentials_for(sandbox, timeout_seconds=1)
        sandbox.set_faults(fault({"kind": "drop_after"}, "start"))

        @flow(retries=1)
        async def release() -> GateReport:
            try:
                return await arelease_gate(
                    credentials,
                    plan,
                    target="v1",
                    policy=GatePolicy(max_reruns=0),
                    polling=POLLING,
                    raise_unless_passed=False,
                )
            except StartOutcomeUnknown as error:
                [run] = sandbox.runs()
                slot = str(error.slot)
                await when_it_is_over(lambda: ledger.aattach_run(flow_run_id(), slot, run["short_id"]))
                raise

        report = await release()
    assert counted(sandbox) == (1, 0)
    if remembers:
        assert report.verdict is Verdict.INCONCLUSIVE
        assert any("5 are expected" in note for note in report.notes)
    else:
        assert report.verdict is Verdict.PASS
        assert "Nobody knows whether all tests are listed" in render_markdown(report)


async def test_tests_that_were_promised_and_not_listed_are_no_pass_outside_a_flow(emitted: list[str]) -> None:
    with Sandbox(one_plan(cases("passed", "passed"), test_count_offset=3), speed=2000) as sandbox:
        plan = QATechTestPlan(
            credentials=credentials_for(sandbox),
            test_plan_short_id="pln_one",
            polling=POLLING,
            policy=GatePolicy(max_reruns=0),
        )
        run = await plan.atrigger()
        await run.await_for_completion()
        with pytest.raises(GateInconclusive, match="never listed"):
            await run.afetch_result()
    assert "qatech.gate.passed" not in emitted
    assert "qatech.gate.inconclusive" in emitted


async def test_a_gate_that_ends_without_a_verdict_says_so(sandbox: Sandbox, emitted: list[str]) -> None:
    with pytest.raises(NotFoundError):
        await judge(sandbox, "pln_nowhere")
    assert [name for name in emitted if ".gate." in name] == ["qatech.gate.errored"]


async def test_a_run_and_a_request_together_make_no_sense(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidInputError):
        await judge(sandbox, "pln_green", run="abc123")
    assert sandbox.requests() == []


# --- nothing is thrown away

REFUSALS: dict[str, dict[str, Any]] = {
    "429 for a long time": {"kind": "status", "status": 429, "retry_after": 600, "times": -1},
    "no connection": {"kind": "status", "status": 503, "retry_after": 0, "times": 9},
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refused_rerun_leaves_a_report_with_a_verdict(flaky: Sandbox, emitted: list[str], refusal: str) -> None:
    flaky.set_faults(fault(REFUSALS[refusal], "rerun"))
    with pytest.raises(GateFailed) as caught:
        await judge(flaky, raise_unless_passed=True)
    report = caught.value.report
    assert report.incidents == (Incident.RERUN_REFUSED,)
    assert len(report.attempts) == 1
    first = report.attempts[0]
    assert first.run_short_id in report.notes[0]
    assert first.run_url is not None
    assert first.run_url in report.notes[0]
    assert counted(flaky) == (1, 0)
    assert [event for event in emitted if event.startswith("qatech.gate.")] == ["qatech.gate.failed"]


async def test_a_rerun_that_cannot_be_followed_leaves_a_report_with_a_verdict(flaky: Sandbox) -> None:
    def refuse(*_: object) -> None:
        flaky.set_faults([{"on": STATUS, "kind": "status", "status": 401, "times": -1}])

    real = steps.arerun_in_campaign

    async def rerun(*args: Any, **options: Any) -> Any:
        record = await real(*args, **options)
        refuse()
        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "arerun_in_campaign", rerun)
        report = await judge(flaky)
    assert report.verdict is Verdict.FAIL
    assert report.incidents == (Incident.WAIT_GAVE_UP,)
    assert len(report.attempts) == 2
    assert report.attempts[1].run_short_id in report.notes[0]


# --- deadlines


async def test_no_rerun_is_sent_that_cannot_be_waited_for(flaky: Sandbox) -> None:
    flaky.set_faults(fault({"kind": "status", "status": 429, "retry_after": 240, "times": 3}, "rerun"))
    began = time.monotonic()
    report = await judge(flaky, policy=GatePolicy(deadline_seconds=120))
    assert time.monotonic() - began < 120
    assert report.incidents == (Incident.RERUN_REFUSED,)
    assert len(posts(flaky)) == 2


async def test_an_installation_that_retries_flows_does_not_multiply_a_gate(emitted: list[str]) -> None:
    with (
        Sandbox(one_plan(cases("failed")), speed=2000) as sandbox,
        temporary_settings({PREFECT_FLOWS_DEFAULT_RETRIES: 2}),
        pytest.raises(GateFailed),
    ):
        await judge(sandbox, policy=GatePolicy(max_reruns=0), raise_unless_passed=True)
    assert emitted.count("qatech.gate.failed") == 1


# --- a Prefect API that is down


async def test_an_outage_of_prefect_at_the_rerun_is_waited_through(
    flaky: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch, times=3)
    report = await judge(flaky, label="release")
    assert outage.met == 3
    assert report.passed
    assert counted(flaky) == (1, 1)


async def test_an_outage_of_prefect_that_lasts_is_an_incident(flaky: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    Outage(monkeypatch, times=10_000)
    for seconds in (6, 24, 96):
        flaky.reset()
        report = await judge(flaky, policy=GatePolicy(deadline_seconds=seconds))
        if report.verdict is not Verdict.INCONCLUSIVE:
            break  # else the machine is busy: the deadline passed before the run had ended
    assert report.verdict is Verdict.FAIL
    assert report.incidents == (Incident.RERUN_REFUSED,)
    assert report.attempts[0].run_short_id in report.notes[0]
    assert counted(flaky) == (1, 0)


async def test_an_outage_names_the_run_that_is_on_record() -> None:
    record = ledger.QATechRunRecord(
        kind="start", run_short_id="abc123", run_url="https://app.qa.tech/r/abc123", started_at="2026-11-01T00:00:00Z"
    )

    async def down() -> None:
        raise CONNECTION_REFUSED

    with pytest.raises(LedgerUnavailable, match="abc123") as caught:
        await ledger.through_outages(down, 0.1, record)
    assert caught.value.run_url == record.run_url


async def test_what_prefect_refuses_is_not_asked_again() -> None:
    asked = 0

    async def refused() -> None:
        nonlocal asked
        asked += 1
        raise LookupError("no such flow run")

    with pytest.raises(LookupError):
        await ledger.through_outages(refused, 60)
    assert asked == 1


async def test_a_gate_in_a_thread_without_context_starts_nothing_that_a_retry_could_not_find(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = credentials_for(sandbox)

    def gate() -> GateReport:
        return release_gate(credentials, "pln_green", polling=POLLING)

    @flow
    def release() -> None:
        # As a worker does for the process of a flow run.
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(flow_run_id()))
        with ThreadPoolExecutor() as pool:
            with pytest.raises(LedgerConflict, match=r"contextvars.copy_context\(\).run"):
                pool.submit(gate).result()
            assert counted(sandbox) == (0, 0)
            assert pool.submit(contextvars.copy_context().run, gate).result().passed

    release()
    assert counted(sandbox) == (1, 0)
    assert gate().passed, "a flow run that has ended does not matter"


async def test_a_verdict_does_not_wait_for_a_record_of_it_that_hangs(
    flaky: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(steps, "_RECORD_SECONDS", 0.1)
    monkeypatch.setattr(journal, "record_end", hang)
    with anyio.fail_after(240):
        report = await judge(flaky, policy=GatePolicy(max_reruns=0))
    assert report.verdict is Verdict.FAIL


@pytest.mark.parametrize("target", [None, "v1"])
async def test_a_pass_that_cannot_be_recorded_is_one_for_its_named_target_only(
    target: str | None, flaky: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def refuse(*_: object) -> None:
        raise CONNECTION_REFUSED

    monkeypatch.setattr(steps, "_PASS_SECONDS", 0.1)
    monkeypatch.setattr(journal, "record_pass", refuse)
    report = await judge(flaky, target=target, report_directory=str(tmp_path))
    if target is None:
        assert (report.verdict, report.incidents) == (Verdict.INCONCLUSIVE, (Incident.PASS_NOT_RECORDED,))
    else:
        assert report.verdict is Verdict.PASS
    assert verdict_in(tmp_path) == report


async def test_a_gate_that_ends_without_a_report_leaves_no_older_one(flaky: Sandbox, tmp_path: Path) -> None:
    write_report_files(a_report(), tmp_path)
    files = [tmp_path / name for name in ("verdict.json", "junit.xml")]
    older = [file.read_bytes() for file in files]
    for wrong in ({"label": ""}, {"target": " "}, {"request": "pln nothing"}, {"request": "pln_nosuch"}):
        for file, content in zip(files, older, strict=True):
            file.write_bytes(content)
        with pytest.raises((InvalidInputError, NotFoundError)):
            await judge(flaky, report_directory=str(tmp_path), **wrong)
        assert not any(file.exists() for file in files), wrong


def gate_of(what: str, sandbox: Sandbox) -> bool:
    credentials = credentials_for(sandbox)
    if what == "gather_gates":
        return gather_gates(credentials, {"one": "pln_green"}, polling=POLLING).passed
    if what == "arelease_gate":
        return asyncio.run(arelease_gate(credentials, "pln_green", polling=POLLING)).passed
    return release_gate(credentials, "pln_green", polling=POLLING).passed


def test_a_gate_in_a_thread_that_has_lost_the_context_of_a_retried_flow_is_refused(sandbox: Sandbox) -> None:
    step = Failing()

    @flow(retries=1)
    def release() -> None:
        with ThreadPoolExecutor() as pool:
            for what in ("arelease_gate", "gather_gates"):
                with pytest.raises(LedgerConflict, match=r"contextvars.copy_context\(\).run") as caught:
                    pool.submit(gate_of, what, sandbox).result()
                assert caught.value.flow_run_id == str(flow_run_id())
        assert counted(sandbox) == (0, 0)
        step()

    release()
    assert step.calls == 2
    with ThreadPoolExecutor() as pool:
        assert pool.submit(gate_of, "arelease_gate", sandbox).result(), "a flow run that has ended does not matter"


def test_gates_in_threads_beside_each_other_are_no_part_of_each_other(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor() as pool:
        assert all(pool.map(gate_of, ["release_gate"] * 2, [sandbox] * 2))
    assert counted(sandbox) == (2, 0)


def test_a_gate_in_the_main_thread_is_no_part_of_a_retried_flow_in_another_thread(sandbox: Sandbox) -> None:
    is_running, may_end = threading.Event(), threading.Event()

    @flow(retries=1)
    def elsewhere() -> None:
        is_running.set()
        may_end.wait()

    with ThreadPoolExecutor() as pool:
        running = pool.submit(elsewhere)
        try:
            assert is_running.wait(240)
            assert gate_of("release_gate", sandbox)
        finally:
            may_end.set()
        running.result()

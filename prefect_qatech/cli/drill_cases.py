"""What `prefect-qatech drill` does to a gate: what goes wrong between a release and its verdict, case by case.

Each case has a sandbox of its own. The gate is the flow `release_gate` as it is installed, on a Prefect server.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.gate.flow import arelease_gate
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.report.exceptions import GateNotPassed
from prefect_qatech.report.model import GateReport
from prefect_qatech.sandbox import Sandbox
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry

PLAN = "pln_drill"
POLICY = GatePolicy(max_reruns=1, deadline_seconds=120)
SHORT = GatePolicy(max_reruns=1, deadline_seconds=3)
"""For what never comes: the gate has to say no when its time is over."""
POLLING = QATechPolling(first_seconds=0.05, max_seconds=0.5)
SPEED = 2000.0
HANG_SECONDS = 5.0

NO_GO = frozenset({"fail", "inconclusive", "error"})
GO = frozenset({"pass"})


class StepFailed(Exception):
    """A later step of a flow, which makes Prefect run it again."""


@dataclass(frozen=True)
class Stage:
    """Where a case is played: QA.tech, the gate's policy, and a directory for the files of its report."""

    sandbox: Sandbox
    policy: GatePolicy
    directory: Path

    async def gate(self, **options: Any) -> GateReport:
        token = SecretStr(self.sandbox.token)
        credentials = QATechCredentials(api_token=token, api_url=self.sandbox.url)
        report: GateReport = await arelease_gate(
            credentials, PLAN, policy=self.policy, polling=POLLING, raise_unless_passed=False, **options
        )
        return report


async def once(stage: Stage) -> GateReport:
    return await stage.gate()


async def retried(stage: Stage) -> GateReport:
    """Run the gate in a flow that Prefect runs again where the gate has no verdict."""

    @flow(name="drill-retried", retries=1, retry_delay_seconds=0)
    async def release() -> None:
        reports.append(await stage.gate())

    reports: list[GateReport] = []
    await release()
    return reports[-1]


async def then_a_step_fails(stage: Stage) -> GateReport:
    """Run the gate in a flow whose next step fails once, so that the steps before the gate are taken again."""
    reports: list[GateReport] = []

    @flow(name="drill-step-fails", retries=1, retry_delay_seconds=0)
    async def release() -> None:
        reports.append(await stage.gate())
        if len(reports) == 1:
            raise StepFailed("A later step failed.")

    await release()
    return reports[-1]


async def of_two_targets(stage: Stage) -> GateReport:
    """Run the gate for one version, then for another one, in the same flow run."""

    @flow(name="drill-two-targets", retries=0)
    async def release() -> None:
        reports.extend([await stage.gate(target="v1"), await stage.gate(target="v2")])

    reports: list[GateReport] = []
    await release()
    return reports[-1]


async def over_older_files(stage: Stage) -> GateReport:
    """Run a gate that passes, then one that is refused, with the same directory; return what its files then hold."""
    passed = await stage.gate(report_directory=str(stage.directory), target="v1")
    stage.sandbox.set_faults([{"kind": "status", "status": 401, "times": -1}])
    try:
        return await stage.gate(report_directory=str(stage.directory), target="v2")
    except Exception:
        with suppress(OSError, ValueError):
            if json.loads((stage.directory / "verdict.json").read_bytes())["verdict"] == "pass":
                return passed
        raise


async def while_prefect_hangs(stage: Stage) -> GateReport:
    """Run the gate while Prefect's API takes connections and does not answer, from the start of the run on."""
    async with _prefect_in_front() as prefect_answers:

        async def hang() -> None:
            while not stage.sandbox.counts()["starts"]:  # noqa: ASYNC110 - it is counted in another thread
                await asyncio.sleep(0.02)
            prefect_answers(False)
            await asyncio.sleep(HANG_SECONDS)
            prefect_answers(True)

        hanging = asyncio.ensure_future(hang())
        try:
            return await stage.gate()
        finally:
            hanging.cancel()
            prefect_answers(True)


@asynccontextmanager
async def _prefect_in_front() -> AsyncIterator[Callable[[bool], None]]:
    """Put a proxy before Prefect's API, and yield a switch for whether it answers."""
    parts = urlsplit(PREFECT_API_URL.value() or "")
    # In a thread of its own: Prefect asks its API from threads that wait for the answer, too.
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="drill-proxy", daemon=True).start()
    is_up = asyncio.Event()
    is_up.set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await is_up.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await is_up.wait()
        there, back = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    async def listen() -> int:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def switch(answers: bool) -> None:
        loop.call_soon_threadsafe(is_up.set if answers else is_up.clear)

    port = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(listen(), loop))
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}{parts.path}"}):
        yield switch
    # It is not closed: Prefect's workers for logs and events go on using the address until the process ends.


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong.

    `tests` is what comes of each test case, by attempt, in the scenario's words, and `plan` more fields of its plan.
    Each fault happens once unless it says more. The organisation has so many test executions left. A gate that fails
    closed may say one of `may_say`, and there must be so many starts, each of which is paid for.
    """

    name: str
    what: str
    tests: Sequence[Any] = ("passed", "passed")
    plan: Mapping[str, Any] = field(default_factory=dict)
    faults: Sequence[Mapping[str, Any]] = ()
    executions: int | None = None
    policy: GatePolicy = POLICY
    play: Callable[[Stage], Awaitable[GateReport]] = once
    may_say: frozenset[str] = NO_GO
    starts: int = 1

    def sandbox(self) -> Sandbox:
        cases = [{"name": f"Test {number}", "outcomes": outcomes} for number, outcomes in enumerate(self.tests, 1)]
        plan = {"short_id": PLAN, "name": "Drill", "test_cases": cases, **self.plan}
        scenario = {"plans": [plan], "faults": [*self.faults], "usage_limit": self.executions}
        return Sandbox(scenario, speed=SPEED)


@dataclass(frozen=True)
class Played:
    """What came of a case.

    The verdict is pass, fail, inconclusive or error, or `nothing` where the gate did not end; the reason is in the
    gate's words. It fails closed where it may say that, and nothing was started twice.
    """

    case: str
    what: str
    verdict: str
    reason: str
    starts: int
    fails_closed: bool


async def play(case: Case, directory: Path, seconds: float) -> Played:
    """Play a case, with an empty directory for the gate's files; the gate has a deadline of its own, too."""
    with case.sandbox() as sandbox:
        try:
            report = await asyncio.wait_for(case.play(Stage(sandbox, case.policy, directory)), seconds)
        except (TimeoutError, asyncio.TimeoutError):
            verdict, reason = "nothing", f"The gate had not ended after {seconds:g} s."
        except GateNotPassed as error:
            verdict, reason = error.report.verdict.value, error.report.reasons[0].sentence
        except Exception as error:
            verdict, reason = "error", f"{type(error).__name__}: {error}"
        else:
            # The worst reason comes first.
            verdict, reason = report.verdict.value, report.reasons[0].sentence if report.reasons else ""
        starts = sum((item["method"], item["path"]) == ("POST", "/v1/run") for item in sandbox.requests())
    fails_closed = verdict in case.may_say and starts == case.starts
    return Played(case.name, case.what, verdict, reason, starts, fails_closed)


def _on(path: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"on": {"path": path}, "kind": kind, **more}


_FOR_EVER = {"times": -1}
_QUARANTINED = QuarantineEntry(
    reason="drill", owner="drill", expires=(datetime.now(timezone.utc) + timedelta(days=7)).date()
)
_OF_ANOTHER_RUN = json.dumps({"id": "1", "shortId": "other", "status": "COMPLETED", "result": "PASSED"})

CONTROLS = (
    Case("all-pass", "All tests pass.", may_say=GO),
    Case("flaky", "A test fails, and passes in the rerun.", ("passed", ["failed", "passed"]), may_say=GO),
    Case(
        "429-storm",
        "QA.tech answers the start and eight polls with 429.",
        faults=[_on("start", "status", status=429, retry_after=0), _on("status", "status", status=429, times=8)],
        may_say=GO,
        starts=2,  # the first one was surely not accepted
    ),
)

CASES = (
    *CONTROLS,
    Case("failed", "A test fails in each run.", ("passed", "failed")),
    Case(
        "cancelled-run",
        "Somebody cancels the run, after its tests have passed.",
        plan={"run": {"status": "CANCELLED", "after_seconds": 3600}},
    ),
    Case("cancelled-test", "A test is cancelled.", ("passed", "cancelled")),
    Case(
        "error-run",
        "The run ends in an error, after its tests have passed.",
        plan={"run": {"status": "ERROR", "after_seconds": 3600}},
    ),
    Case("error-test", "A test ends in an error.", ("passed", "error")),
    Case(
        "agent-error",
        "The agent did not get through a test.",
        ("passed", "agent_error"),
    ),
    Case("skipped", "A test is skipped.", ("passed", "skipped")),
    Case("all-skipped", "All tests are skipped.", ("skipped", "skipped")),
    Case("unknown-word", "A result has a word that no document knows.", ("passed", {"result": "GREEN"})),
    Case("zero-tests", "The plan has no tests.", ()),
    Case("vanished-test", "QA.tech promises a test more than it lists.", plan={"test_count_offset": 1}),
    Case(
        "contradiction",
        "The run is PASSED, a test of it failed.",
        ("passed", "failed"),
        plan={"run": {"result": "PASSED"}},
    ),
    Case("failed-run", "The run is FAILED, and none of its tests is.", plan={"run": {"result": "FAILED"}}),
    Case(
        "quarantine-only",
        "All tests are in quarantine.",
        policy=POLICY.model_copy(update={"quarantine": {"Test 1": _QUARANTINED, "Test 2": _QUARANTINED}}),
    ),
    Case(
        "late-result",
        "The run is COMPLETED long before its result comes: FAILED.",
        ("passed", "failed"),
        plan={"run": {"result_delay_seconds": 2000}},
    ),
    Case(
        "no-result",
        "The run is COMPLETED, and its result never comes.",
        plan={"run": {"result_delay_seconds": float("inf")}},
        policy=SHORT,
    ),
    Case("never-ends", "The run never ends.", plan={"run": {"never_ends": True}}, policy=SHORT),
    Case("usage-limit", "402: the usage limit keeps the run from starting.", executions=0),
    Case("usage-limit-rerun", "402: the usage limit stops the rerun.", ("passed", ["failed", "passed"]), executions=2),
    Case(
        "lost-start",
        "The answer to the start is lost; Prefect retries the flow.",
        faults=[_on("start", "drop_after")],
        play=retried,
    ),
    Case(
        "broken-start",
        "The answer to the start is half a JSON; Prefect retries the flow.",
        faults=[_on("start", "broken_json")],
        play=retried,
    ),
    Case(
        "refused-rerun",
        "The rerun is refused with 403.",
        ("passed", ["failed", "passed"]),
        faults=[_on("rerun", "status", status=403, **_FOR_EVER)],
    ),
    Case(
        "nothing-to-rerun",
        "QA.tech says that nothing is left to rerun.",
        ("passed", ["failed", "passed"]),
        faults=[_on("rerun", "status", status=400, body='{"message": "No tests to rerun"}', **_FOR_EVER)],
    ),
    Case(
        "lost-rerun",
        "The answer to the rerun is lost.",
        ("passed", ["failed", "passed"]),
        faults=[_on("rerun", "drop_after")],
    ),
    Case(
        "token-revoked",
        "401: the token is revoked while the run goes on.",
        faults=[_on("status", "status", status=401, **_FOR_EVER)],
    ),
    Case(
        "other-run",
        "QA.tech answers about another run, which passed.",
        faults=[_on("status", "status", status=200, body=_OF_ANOTHER_RUN, **_FOR_EVER)],
        policy=SHORT,
    ),
    Case(
        "gateway",
        "A gateway answers each poll with a page of HTML.",
        faults=[_on("status", "html", **_FOR_EVER)],
        policy=SHORT,
    ),
    Case(
        "429-for-ever",
        "429 for each poll, for ever.",
        faults=[_on("status", "status", status=429, **_FOR_EVER)],
        policy=SHORT,
    ),
    Case(
        "new-target",
        "The next version is tested in the same flow run, and was not tested yet.",
        may_say=GO,
        starts=2,
        play=of_two_targets,
    ),
    Case(
        "redeployed",
        "The gate passes, and a retry of the flow deploys anew.",
        may_say=GO,
        starts=2,
        play=then_a_step_fails,
    ),
    Case(
        "stale-files",
        "Files of an earlier pass are there, and the next gate is refused with 401.",
        play=over_older_files,
        starts=2,
    ),
    Case(
        "prefect-hangs",
        f"Prefect's API hangs for {HANG_SECONDS:g} s while a test fails.",
        ("passed", "failed"),
        play=while_prefect_hangs,
    ),
)

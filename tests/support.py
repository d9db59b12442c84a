"""What the tests of the ledger, the tasks and the gate share."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import Artifact
from prefect.context import FlowRunContext

from prefect_qatech import GatePolicy, GateReport, QATechCredentials, QATechPolling, QATechRun, QATechRunTestCase
from prefect_qatech.report.build import build_report
from prefect_qatech.report.subject import GateSubject
from prefect_qatech.report.verdict_json import load_verdict_json
from prefect_qatech.sandbox import Sandbox
from prefect_qatech.verdict.identity import ObservedAttempt, recognise

T = TypeVar("T")

POLLING = QATechPolling(first_seconds=0.05, max_seconds=0.2)
"""Looks as often as a fast sandbox needs."""

_VENDORS_DOCUMENT = Path(__file__).parents[2] / "shared" / "qatech-api" / "openapi-2026-03.json"


def read_vendors_document() -> Any:
    """Read QA.tech's own OpenAPI document, which is no part of this repository; skip the test without it."""
    if not _VENDORS_DOCUMENT.is_file():
        pytest.skip("QA.tech's own OpenAPI document is not beside this repository")
    return json.loads(_VENDORS_DOCUMENT.read_bytes())


UNKNOWN_FAULTS: dict[str, dict[str, Any]] = {
    "no answer": {"kind": "drop_after"},
    "a reset instead of an answer": {"kind": "drop_after", "reset": True},
    "half an answer": {"kind": "half"},
    "broken JSON": {"kind": "broken_json"},
    "HTML of a gateway": {"kind": "html"},
    "an answer without a run": {"kind": "status", "status": 200, "body": "{}", "accepted": True},
    "500": {"kind": "status", "status": 500, "accepted": True},
    "502": {"kind": "status", "status": 502, "accepted": True},
    "503 without Retry-After": {"kind": "status", "status": 503, "accepted": True},
    "504": {"kind": "status", "status": 504, "accepted": True},
    "408": {"kind": "status", "status": 408, "accepted": True},
    "a redirect after the POST": {"kind": "redirect", "status": 302, "accepted": True},
    "an answer that comes too late": {"kind": "latency", "seconds": 5},
    "an answer in drops": {"kind": "drip", "seconds": 0.2},
}
"""What can happen to a POST that was carried out, so that the client cannot know."""


class StepFailed(Exception):
    """A later step of a user's flow."""


class Failing:
    """A step that fails so many times, then succeeds; shared by the attempts of a flow run."""

    def __init__(self, times: int = 1) -> None:
        self.left = times
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.left > 0:
            self.left -= 1
            raise StepFailed("a later step failed")


def posts(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The POSTs that arrived, whatever came of them."""
    return [request for request in sandbox.requests() if request["method"] == "POST"]


def looks(sandbox: Sandbox) -> int:
    """How often a run was looked at."""
    return sandbox.counts()["requests"].get("GET /v1/run/{shortId}", 0)


def counted(sandbox: Sandbox) -> tuple[int, int]:
    """Starts and reruns that the sandbox carried out."""
    counts = sandbox.counts()
    return counts["starts"], counts["reruns"]


def fault(kind: Mapping[str, Any], path: str, **more: Any) -> list[dict[str, Any]]:
    """One fault for the POSTs of a path."""
    return [{"on": {"method": "POST", "path": path}, **kind, **more}]


def one_plan(test_cases: Iterable[Any], **plan: Any) -> dict[str, Any]:
    """A scenario of one plan, `pln_one`."""
    return {"plans": [{"short_id": "pln_one", "name": "One", "test_cases": [*test_cases], **plan}]}


def cases(*outcomes: Any) -> list[dict[str, Any]]:
    """A test case for each outcome, or list of outcomes by attempt."""
    return [{"name": f"Test {number}", "outcomes": outcome} for number, outcome in enumerate(outcomes)]


@contextmanager
def time_goes_on(sandbox: Sandbox, seconds: float = 10) -> Iterator[None]:
    """Let a sandbox that stands still move on, so many seconds with each poll of a run."""
    is_over = threading.Event()

    def move() -> None:
        seen = 0
        while not is_over.wait(0.02):
            if (now := looks(sandbox)) > seen:
                seen = now
                sandbox.advance(seconds)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        yield
    finally:
        is_over.set()
        mover.join()


def credentials_for(sandbox: Sandbox, **fields: Any) -> QATechCredentials:
    """Credentials of a sandbox."""
    return QATechCredentials(**{"api_token": sandbox.token, "api_url": sandbox.url, **fields})


def flow_run_id() -> UUID:
    """The flow run that the caller is in."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run.id


@flow
def nothing() -> None:
    """A flow for flow runs that only need to exist."""


async def new_flow_run(client: PrefectClient) -> UUID:
    """A flow run that nobody executes."""
    return (await client.create_flow_run(nothing)).id


async def artifacts_of(flow_run_ids: Sequence[UUID]) -> list[Artifact]:
    """What flow runs have published; Prefect's own artifacts of results are none of it."""
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[*flow_run_ids])),
            limit=200,
        )
    return [artifact for artifact in found if artifact.key is not None]


async def rows_of(flow_run_id: UUID) -> dict[str, str]:
    """Every row of a flow run's ledger, as it is stored."""
    async with get_client() as client:
        rows = await client.filter_flow_run_input(flow_run_id=flow_run_id, key_prefix="", limit=200, exclude_keys=set())
    return {row.key: row.value for row in rows}


async def rewrite(flow_run_id: UUID, key: str, value: Mapping[str, Any] | None) -> None:
    """Put another value into a row of a flow run's ledger, or delete it."""
    async with get_client() as client:
        await client.delete_flow_run_input(flow_run_id=flow_run_id, key=key)
        if value is not None:
            await client.create_flow_run_input(flow_run_id=flow_run_id, key=key, value=json.dumps(value))


def keep_to_schema(schema: str, *files: Path) -> None:
    """Check that files are valid by a schema that `check-jsonschema` brings."""
    import check_jsonschema  # not there where the lowest versions are tried

    with pytest.raises(SystemExit) as ended:
        check_jsonschema.main(["--builtin-schema", schema, *map(str, files)])
    assert ended.value.code == 0


def build_packages(source: Path, to: Path) -> tuple[Path, Path]:
    """Build sdist and wheel, as `python -m build` does, but with the hatchling that is here."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(to)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [sdist], [wheel] = to.glob("*.tar.gz"), to.glob("*.whl")
    return sdist, wheel


def unpacked_wheel(directory: Path) -> Path:
    """Build the wheel of this working directory and give a directory that holds its files alone, for PYTHONPATH."""
    _, wheel = build_packages(Path(__file__).parents[1], directory / "dist")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site")
    return directory / "site"


async def when_it_is_over(settle: Callable[[], Awaitable[T]]) -> T:
    """Settle an open intent as soon as its POST cannot be under way any more."""
    while True:
        try:
            return await settle()
        except ValueError as error:
            if "under way" not in str(error):
                raise
        await asyncio.sleep(0.1)


def verdict_in(directory: Path) -> GateReport:
    """The report that stands in the file of a directory."""
    return load_verdict_json((directory / "verdict.json").read_text(encoding="utf-8"))


def a_report() -> GateReport:
    """A report of a gate that passed."""
    case = QATechRunTestCase(id="one", short_id="tc1", name="Sign in", status="COMPLETED", result="PASSED")
    run = QATechRun(run_short_id="abc123", status="COMPLETED", result="PASSED", test_cases=[case])
    observed = ObservedAttempt(kind="start", run=run, test_count=1)
    return build_report(
        recognise([observed]), GatePolicy(), GateSubject(plan_short_id="pln_smoke"), ended_at=datetime.now(timezone.utc)
    )

"""Artifacts are a picture of what happens and can never change it."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import anyio
import pytest
from hypothesis import given, strategies as st
from prefect import flow
from prefect.exceptions import TerminationSignal

from prefect_qatech.api.responses import QATechRun, QATechRunTestCaseDetails
from prefect_qatech.report import artifacts
from prefect_qatech.report.artifacts import (
    Progress,
    artifact_key,
    publish_gates,
    publish_link,
    publish_report,
    publish_unattended,
)
from prefect_qatech.report.build import build_report
from prefect_qatech.report.escape import cell_text
from prefect_qatech.report.model import GateReport, GatesReport
from prefect_qatech.report.plan_durations import variable_name
from prefect_qatech.report.subject import GateSubject, ReportedApplication
from prefect_qatech.verdict.identity import ObservedAttempt, recognise
from prefect_qatech.verdict.policy import GatePolicy
from tests.support import artifacts_of, flow_run_id
from tests.virtual_time import run_at_once

ARTIFACT = UUID("5e4d3c2b-0000-4000-8000-000000000001")
WRITERS = [
    "acreate_image_artifact",
    "acreate_link_artifact",
    "acreate_markdown_artifact",
    "acreate_progress_artifact",
    "acreate_table_artifact",
    "aupdate_progress_artifact",
]


@given(st.lists(st.none() | st.text(max_size=300), max_size=4))
def test_a_key_is_one_that_prefect_takes(parts: list[str | None]) -> None:
    key = artifact_key(*parts)
    assert re.fullmatch("qatech[a-z0-9-]*", key)
    assert len(key) <= 200


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        (("report", "pln_smoke"), "qatech-report-pln-smoke"),
        (("report", "pln-smoke-tests_abc123"), "qatech-report-pln-smoke-tests-abc123"),
        (("report", "nightly-eu"), "qatech-report-nightly-eu"),
        (("run", None, "", "abc123"), "qatech-run-abc123"),
        ((), "qatech"),
    ],
)
def test_a_key(parts: tuple[str | None, ...], key: str) -> None:
    assert artifact_key(*parts) == key


NAMES = [
    *("pln_smoke", "pln-smoke", "pln__smoke", "PLN_smoke", "pln_Smoke", "pln_smoke ", "pln-smoke_a", "pln_smoke-a"),
    *(
        "smoke",
        "Smoke",
        "smoke!",
        "smoke.",
        "smoke-",
        "-smoke",
        "smoke tests",
        "smoke-tests",
        "smoke_tests",
        "smoke--tests",
    ),
    *("ÄÖÜ", "äöü", "日本", "日本語", "١", "…", ".", "..", "-", "_", " ", "\x00", "\ud83d", "\ud83e"),
    *("a" * 300, "a" * 301, "a" * 300 + "b", "ä" * 300),
]


@pytest.mark.parametrize("key_of", [lambda name: artifact_key("report", name), variable_name])
def test_different_names_have_different_keys_that_stay(key_of: Callable[[str], str]) -> None:
    keys = [key_of(name) for name in NAMES]
    assert len(set(keys)) == len(NAMES)
    assert all(re.fullmatch("[a-z0-9_-]{1,255}", key) for key in keys)


@given(st.lists(st.text(max_size=20), min_size=2, max_size=2, unique=True))
def test_two_names_never_share_a_key(names: list[str]) -> None:
    assert len({artifact_key("report", name or None) for name in names}) == 2
    assert len({variable_name(name) for name in names}) == 2


def test_a_key_is_stable_and_can_be_read() -> None:
    # As an artifact's versions are found by its key, it does not change from one release to the next.
    assert artifact_key("report", "Smoke Tests / 2") == "qatech-report-smoke-tests-2-446462c2"
    assert variable_name("pln_smoke") == "qatech_durations_pln_smoke"
    assert variable_name("pln-smoke_abc") == "qatech_durations_pln_smoke_abc"


class Written:
    """Stands in for Prefect's functions, and keeps what they were asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error = error
        for name in WRITERS:
            monkeypatch.setattr(artifacts, name, self._function(name))
        monkeypatch.setattr(artifacts, "get_client", self._client)

    @property
    def names(self) -> list[str]:
        """Which functions were called."""
        return [name for name, _ in self.calls]

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        if self.error is not None:
            raise self.error
        yield SimpleNamespace(read_artifacts=self._read_nothing)

    async def _read_nothing(self, **_: Any) -> list[Any]:
        return []

    def _function(self, name: str) -> Any:
        async def write(**fields: Any) -> UUID:
            self.calls.append((name, fields))
            await asyncio.sleep(0)  # as a request lets the others go on
            if self.error is not None:
                raise self.error
            return ARTIFACT

        return write


def run(status: str = "RUNNING", *statuses: str) -> QATechRun:
    cases = [{"status": status} for status in statuses]
    return QATechRun.model_validate({"shortId": "abc123", "status": status, "runTestCases": cases})


def report() -> GateReport:
    case = {"id": "1", "name": "Pay", "shortId": "t1", "status": "COMPLETED", "result": "FAILED"}
    body = {"shortId": "abc123", "status": "COMPLETED", "result": "FAILED", "runTestCases": [case]}
    details = QATechRunTestCaseDetails.model_validate({"screenshotUrl": "https://cdn.qa.tech/1.png"})
    attempt = ObservedAttempt("start", QATechRun.model_validate(body), details={"t1": details})
    now = datetime(2026, 9, 1, tzinfo=timezone.utc)
    return build_report(recognise([attempt]), GatePolicy(), GateSubject(plan_short_id="pln_smoke"), ended_at=now)


async def write_all() -> None:
    await publish_link("https://app.qa.tech/x", "The run", key="qatech-x", description="A run")
    await publish_report(report())
    await shown((0, False), (100, True))


async def others_go_on() -> None:
    """Let the other tasks come to where they wait for somebody, however long that takes them."""
    for _ in range(50):
        await asyncio.sleep(0)


async def shown(*steps: tuple[float, bool]) -> None:
    """A progress that has the time to write each step."""
    async with Progress("A run", "qatech-x") as progress:
        for percent, is_over in steps:
            progress.show(percent, is_over=is_over)
            await others_go_on()


async def test_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch)
    await write_all()
    assert written.names == [
        "acreate_link_artifact",
        "acreate_image_artifact",
        "acreate_table_artifact",
        "acreate_markdown_artifact",
        "acreate_progress_artifact",
        "aupdate_progress_artifact",
    ]
    assert written.calls[0][1] == {
        "link": "https://app.qa.tech/x",
        "link_text": "The run",
        "key": "qatech-x",
        "description": "A run",
    }
    assert [written.calls[i][1]["key"] for i in (1, 2, 3)] == [
        "qatech-failure-pln-smoke-1",
        "qatech-tests-pln-smoke",
        "qatech-report-pln-smoke",
    ]
    assert written.calls[5][1] == {"artifact_id": ARTIFACT, "progress": 100}


async def test_the_report_is_written_however_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written last, it is what both UIs show first."""
    written = Written(monkeypatch)

    async def hang(**_: Any) -> UUID:
        await asyncio.Event().wait()
        return ARTIFACT

    monkeypatch.setattr(artifacts, "acreate_image_artifact", hang)
    monkeypatch.setattr(artifacts, "acreate_table_artifact", hang)
    monkeypatch.setattr(artifacts, "REPORT_SECONDS", 0.2)
    await publish_report(report())
    assert written.names == ["acreate_markdown_artifact"]


async def test_the_descriptions_say_what_was_tested_where_and_how_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch)
    where = ReportedApplication(application_short_id="app_shop", environment_url="https://staging.example.com")
    await publish_report(report().model_copy(update={"target": "v2", "applications": (where,)}))
    told = {call["key"]: call["description"] for _, call in written.calls}
    tested = "pln_smoke · target v2 · app_shop on https://staging.example.com"
    assert told[artifact_key("report", "pln_smoke", "app_shop https://staging.example.com")] == cell_text(
        f"QA.tech gate: fail, 1 test: 1 failed · {tested}", 500
    )
    assert told[artifact_key("tests", "pln_smoke", "app_shop https://staging.example.com")] == cell_text(
        f"QA.tech gate: each test's outcome by attempt · {tested}", 500
    )


@pytest.mark.parametrize("error", [RuntimeError("server down"), ValueError("bad key"), TimeoutError()], ids=repr)
async def test_a_write_that_fails_changes_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = Written(monkeypatch, error)
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)
    with caplog.at_level(logging.WARNING, "prefect.qatech"):
        await write_all()
    assert len(written.calls) == 5, "each was tried; what has no bar fills none"
    told = [record for record in caplog.records if "could not be written" in record.getMessage()]
    assert len(told) == 6, "the five and the history"


@pytest.mark.parametrize("name", ["render_markdown", "render_table", "attempts_chart", "history_line"])
async def test_a_report_that_cannot_be_drawn_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("what a name")

    Written(monkeypatch)
    monkeypatch.setattr(artifacts, name, fail)
    await publish_report(report())


async def test_a_progress_that_could_not_be_created_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch, RuntimeError("server down"))
    async with Progress("A run", "qatech-x") as progress:
        progress.show(10, is_over=False)
        await others_go_on()
        written.error = None
        progress.show(20, is_over=False)
        await others_go_on()
        progress.show(30, is_over=False)
    assert written.names == ["acreate_progress_artifact", "acreate_progress_artifact", "aupdate_progress_artifact"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TerminationSignal(signal.SIGTERM)], ids=repr)
async def test_a_stop_is_no_failed_write(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    Written(monkeypatch, error)
    with pytest.raises(type(error)):
        await publish_link("https://app.qa.tech/x", "The run", key="qatech-x", description="A run")


async def test_a_signal_that_is_raised_in_a_write_ends_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    Written(monkeypatch, TerminationSignal(signal.SIGTERM))

    async def work() -> None:
        async with Progress("A run", "qatech-x") as progress:
            progress.show(0, is_over=False)
            await asyncio.sleep(60)

    with pytest.raises(TerminationSignal):
        await work()


@pytest.mark.usefixtures("prefect_server")
async def test_nothing_waits_for_a_write_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(**_: Any) -> None:
        await asyncio.sleep(3600)

    for name in WRITERS:
        monkeypatch.setattr(artifacts, name, hang)
    monkeypatch.setattr(artifacts, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(artifacts, "REPORT_SECONDS", 0.05)
    with anyio.fail_after(120):
        async with Progress("A run", "qatech-x") as progress:
            for percent in range(0, 90, 10):
                progress.show(percent, is_over=False)
        await publish_link("https://app.qa.tech/x", "The run", key="qatech-x", description="A run")
        await publish_report(report())
        await publish_gates(GatesReport(names=("smoke",), reports={"smoke": report()}, errors={}))


async def test_what_is_cancelled_waits_for_no_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch)

    async def work() -> None:
        async with Progress("A run", "qatech-x") as progress:
            progress.show(0, is_over=False)
            await asyncio.sleep(3600)

    task = asyncio.ensure_future(work())
    await others_go_on()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert written.names == ["acreate_progress_artifact"]


@pytest.mark.parametrize("url", [None, "", "javascript:alert(1)", "http://app.qa.tech/x"])
async def test_no_link_is_better_than_a_bad_one(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch)
    await publish_link(url, "The run", key="qatech-x", description="A run")
    assert written.calls == []


@pytest.mark.parametrize("lookup", [RuntimeError("server down"), None], ids=["fails", "hangs"])
@pytest.mark.usefixtures("prefect_server")
async def test_a_gate_whose_artifacts_cannot_be_looked_up_gets_new_ones(
    lookup: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Written(monkeypatch)

    @asynccontextmanager
    async def client() -> AsyncIterator[Any]:
        if lookup is not None:
            raise lookup
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(artifacts, "get_client", client)
    monkeypatch.setattr(artifacts, "PATIENCE_SECONDS", 0.05)
    url = "https://app.qa.tech/"
    with anyio.fail_after(120):
        await publish_link(f"{url}b", "Rerun b", key="qatech-x", description="Runs", below_url=f"{url}a")
        async with Progress("A run", "qatech-y", is_only_one=True) as progress:
            progress.show(10, is_over=False)
            while len(written.names) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert written.names == ["acreate_link_artifact", "acreate_progress_artifact"]


def test_the_link_of_a_rerun_holds_nothing_up_longer_than_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def client() -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield

    async def hang(**_: Any) -> None:
        await asyncio.sleep(3600)

    async def seconds_of(**options: Any) -> float:
        began = asyncio.get_running_loop().time()
        await publish_link("https://app.qa.tech/b", "A run", key="qatech-x", description="Runs", **options)
        return asyncio.get_running_loop().time() - began

    monkeypatch.setattr(artifacts, "get_client", client)
    monkeypatch.setattr(artifacts, "acreate_link_artifact", hang)
    alone, below = run_at_once(seconds_of()), run_at_once(seconds_of(below_url="https://app.qa.tech/a"))
    assert alone == below == artifacts.PATIENCE_SECONDS


@pytest.mark.usefixtures("prefect_server")
async def test_gates_in_one_flow_run_do_not_share_a_link() -> None:
    """They may test the same plan, one after another; the newest artifact is not that of the first gate."""
    url, key = "https://app.qa.tech/", "qatech-run-pln-smoke"
    ids: list[UUID] = []

    @flow
    async def two_gates() -> None:
        ids.append(flow_run_id())
        for run in ("a", "ab"):
            await publish_link(f"{url}{run}", f"Run {run}", key=key, description="QA.tech run")
        await publish_link(f"{url}c", "Rerun c", key=key, description="QA.tech runs", below_url=f"{url}a")

    await two_gates()
    await two_gates()  # and another flow run has artifacts of its own
    links = [f"[Run a]({url}a)\n\n[Rerun c]({url}c)", f"[Run ab]({url}ab)"]
    for one in ids:
        published = await artifacts_of([one])
        assert sorted((artifact.data, artifact.description) for artifact in published) == [
            (links[0], "QA.tech runs"),
            (links[1], "QA.tech run"),
        ]


@pytest.mark.usefixtures("prefect_server")
async def test_what_is_shown_again_by_a_retry_moves_the_same_bar_and_no_other() -> None:
    ids: list[UUID] = []

    @flow(retries=1)
    async def user() -> None:
        ids.append(flow_run_id())
        for description in ("2 runs (a, b)", "2 runs (c, d)"):
            async with Progress(description, "qatech-runs") as progress:
                progress.show(40.0 * len(ids), is_over=False)
        if len(ids) == 1:
            raise RuntimeError("a later step failed")

    await user()
    bars = [(bar.description, bar.data) for bar in await artifacts_of(ids[:1])]
    assert sorted(bars) == [("2 runs (a, b)", 80), ("2 runs (c, d)", 80)]


async def test_a_bar_moves_by_a_percent_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch)
    await shown(*((percent, False) for percent in (0, 0.4, 0.9, 1.2, 1.3, 50, 99.9)), (99.9, True))
    assert [call["progress"] for _, call in written.calls] == [0, 1.2, 50, 99.9, 100]
    assert written.names == ["acreate_progress_artifact", *["aupdate_progress_artifact"] * 4]
    assert written.calls[0][1]["key"] == "qatech-x"


async def test_what_changes_faster_than_it_is_written_is_one_bar_that_ends_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = Written(monkeypatch)
    async with Progress("Runs", "qatech-x") as progress:
        progress.show(0, is_over=False)
        await asyncio.sleep(0)
        for percent in range(10, 90, 10):
            progress.show(percent, is_over=False)
        progress.show(100, is_over=True)
    assert written.names == ["acreate_progress_artifact", "aupdate_progress_artifact"]
    assert written.calls[-1][1]["progress"] == 100


async def test_what_is_over_fills_its_bar_and_gets_no_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch)
    await shown((50, True))
    assert written.calls == [], "what was never seen to move needs no bar"
    await shown((50, False), (50, True))
    assert written.calls[-1] == ("aupdate_progress_artifact", {"artifact_id": ARTIFACT, "progress": 100})


async def test_what_goes_on_unattended_is_one_link_or_a_table_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch)
    await publish_unattended({"abc123": "https://app.qa.tech/abc123"})
    await publish_unattended({"abc123": "https://app.qa.tech/abc123", "d": None, "<b>e": "javascript:alert(1)"})
    await publish_unattended({})
    (one, link), (many, table) = written.calls
    assert (one, link["key"]) == ("acreate_link_artifact", "qatech-unattended-abc123")
    assert (many, table["key"]) == ("acreate_table_artifact", "qatech-unattended-runs")
    assert [row["Address"] for row in table["table"]] == ["https://app.qa.tech/abc123", "", ""]
    assert "<b>" not in str(table["table"])


async def test_a_table_of_what_goes_on_has_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch)
    await publish_unattended({str(number): None for number in range(5_000)})
    assert len(written.calls[0][1]["table"]) == 2_000
    assert "5000" in written.calls[0][1]["description"]

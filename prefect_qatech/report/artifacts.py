"""Writing Prefect artifacts in a way that can never change what happens to a run or a gate, nor hold it up for long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar
from uuid import UUID

import anyio
from prefect.artifacts import (
    acreate_image_artifact,
    acreate_link_artifact,
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.client.schemas.sorting import ArtifactSort
from prefect.logging import get_logger
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from prefect_qatech._prefect import PATIENCE_SECONDS
from prefect_qatech.addresses import safe_url
from prefect_qatech.report.about import about_line, environment_of
from prefect_qatech.report.chart import attempts_chart
from prefect_qatech.report.escape import cell_text, cut_key, key_text
from prefect_qatech.report.gates import render_gates
from prefect_qatech.report.history import HistoryEntry, history_line, history_of, in_order, read_history
from prefect_qatech.report.known import with_standings
from prefect_qatech.report.markdown import render_markdown, render_release_check
from prefect_qatech.report.model import GateReport, GatesReport, ReportedReleaseCheck
from prefect_qatech.report.subject import GateSubject
from prefect_qatech.report.table import render_table
from prefect_qatech.report.wording import campaign_name, counts_text
from prefect_qatech.verdict.outcomes import TestVerdict

MAX_PICTURES = 5
MAX_DESCRIPTION = 500
MAX_HISTORY_VERSIONS = 40
MAX_LINKS = 50
MAX_UNATTENDED = 2_000
MIN_PERCENT = 1.0
REPORT_SECONDS = 20.0
"""How long all artifacts of a report may take together."""

T = TypeVar("T")


def artifact_key(*parts: str | None) -> str:
    """Return a key that Prefect accepts: lower case letters, digits and dashes; different parts give different keys.

    Args:
        parts: What the artifact is about; absent parts are left out.

    Returns:
        The key, `qatech-` in front; where letters of a part are lost, with a short hash of it.

    Example:
        ```python
        artifact_key("report", "pln_smoke")  # "qatech-report-pln-smoke"
        ```
    """
    return cut_key("-".join(["qatech", *(key_text(part) for part in parts if part)]), 200)


def gate_key(kind: str, subject: GateSubject, *more: str) -> str:
    """Return the key of a gate's artifact: stable per label or plan, and the place that was tested.

    A history is that of a plan at one address, not at all of them.
    """
    return artifact_key(kind, subject.label or subject.plan_short_id, environment_of(subject), *more)


async def publish_link(url: str | None, text: str, *, key: str, description: str, below_url: str | None = None) -> None:
    """Publish the link to a run, unless its address may not become one.

    Where the flow run has an artifact of this key with a link to `below_url`, the new link is put below that one,
    unless it is there already, and there is no second artifact.
    """
    address = safe_url(url)
    if address is None:
        return
    # Both name a run by the id that the service gave it, which may look like anything; no UI shows a link's HTML.
    text, description = cell_text(text, 300), cell_text(description, 300)
    # Together they take no longer than a link that stands alone.
    patience = PATIENCE_SECONDS if below_url is None else PATIENCE_SECONDS / 2
    if below_url is not None and await _safely(
        _put_below(below_url, f"[{text}]({address})", key, description), patience
    ):
        return
    # Rather a second artifact than a run without a link.
    await _safely(acreate_link_artifact(link=address, link_text=text, key=key, description=description), patience)


async def _put_below(url: str, link: str, key: str, description: str) -> bool:
    async with get_client() as client:
        for artifact in await _artifacts_of_this_flow_run(client, key):
            links = artifact.data
            if artifact.id is not None and isinstance(links, str) and f"]({url})" in links:
                if link not in links:
                    update = ArtifactUpdate(data=f"{links}\n\n{link}", description=description)
                    await client.update_artifact(artifact.id, update)
                return True
    return False


async def _artifacts_of_this_flow_run(client: PrefectClient, key: str) -> list[Artifact]:
    """Return what the current flow run has published under a key, the newest first."""
    if (own := flow_run.id) is None:
        return []
    return await client.read_artifacts(
        artifact_filter=ArtifactFilter(
            key=ArtifactFilterKey(any_=[key]), flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(own)])
        ),
        sort=ArtifactSort.CREATED_DESC,
        limit=MAX_LINKS,
    )


async def publish_report(report: GateReport, *, key: str | None = None) -> GateReport:
    """Publish a gate's report: Markdown with charts, a table of the tests, and pictures of those that failed.

    By default the Markdown's key is stable per label or plan, and the place that was tested: its versions, those of the
    same project and deployment, are the plan's history. In the report that is returned each failed or flaky test says
    whether that is new or known, by that history.
    """
    key = key or gate_key("report", report)

    history = await _safely(_history(report, key)) or []
    report = with_standings(report, history)

    def described(what: str) -> str:
        return cell_text(" · ".join(filter(None, [what, campaign_name(report), about_line(report)])), MAX_DESCRIPTION)

    async def text() -> None:
        markdown = render_markdown(report, chart=attempts_chart(report), history=history)
        description = described(f"QA.tech gate: {report.verdict.value}, {counts_text(report)}")
        await acreate_markdown_artifact(markdown=markdown, key=key, description=description)

    async def table() -> None:
        title = described("QA.tech gate: each test's outcome by attempt")
        await acreate_table_artifact(table=render_table(report), key=gate_key("tests", report), description=title)

    async def beside_it() -> None:
        pictured = [test for test in report.tests_with(TestVerdict.FAILED) if test.screenshot_url]
        for number, test in enumerate(pictured[:MAX_PICTURES], start=1):
            await _safely(
                acreate_image_artifact(
                    image_url=test.screenshot_url or "",
                    key=gate_key("failure", report, str(number)),
                    description=f"Last picture of a failed test: {cell_text(test.name, 200)}",
                )
            )

        await _safely(table(), REPORT_SECONDS)

    # Both UIs show what was written last first. However long the rest takes, the text has half of the time.
    await _safely(beside_it(), REPORT_SECONDS / 2)
    await _safely(text(), REPORT_SECONDS / 2)
    return report


async def publish_release_check(check: ReportedReleaseCheck, *, key: str | None = None) -> None:
    """Publish a release check: its score, its findings with the blockers first, what people should look at."""

    async def text() -> None:
        await acreate_markdown_artifact(
            markdown=render_release_check(check),
            key=key or artifact_key("release-check-report", check.short_id),
            description="QA.tech release check",
        )

    await _safely(text(), REPORT_SECONDS)


async def publish_gates(report: GatesReport) -> None:
    async def summary() -> None:
        passed = sum(gate.passed for gate in report.reports.values())
        description = f"QA.tech gates: {report.verdict.value}, {passed} of {len(report.names)} passed"
        pages = {
            name: page
            for name, gate in report.reports.items()
            if gate.flow_run_id and (page := url_for("flow-run", obj_id=gate.flow_run_id))
        }
        markdown = render_gates(report, pages=pages)
        await acreate_markdown_artifact(markdown=markdown, key="qatech-gates", description=description)

    await _safely(summary(), REPORT_SECONDS)


async def _history(report: GateReport, key: str) -> list[HistoryEntry]:
    """Read the last campaigns of the same plan in the same place, from versions of the artifact, and add this one."""
    async with get_client() as client:
        versions = await client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
            sort=ArtifactSort.CREATED_DESC,
            limit=MAX_HISTORY_VERSIONS,
        )
    published = [read_history(version.data) for version in versions if isinstance(version.data, str)]
    own, subject = read_history(history_line(report)), history_of(report)
    entries = in_order(entry for entry in [own, *published] if entry is not None and entry.subject == subject)
    return entries if len(entries) > 1 else []


async def publish_unattended(runs: Mapping[str, str | None]) -> None:
    """Publish which runs, short ids to addresses, go on although nobody waits for them any more."""
    if len(runs) == 1:
        [(run_short_id, run_url)] = runs.items()
        text, why = (
            f"Run {run_short_id} goes on at QA.tech",
            f"The wait for run {run_short_id} was cancelled; the run was not.",
        )
        await publish_link(run_url, text, key=artifact_key("unattended", run_short_id), description=why)
    elif runs:
        rows = [
            {"Run": cell_text(run_short_id, 200), "Address": safe_url(run_url) or ""}
            for run_short_id, run_url in list(runs.items())[:MAX_UNATTENDED]
        ]
        why = f"The wait for {len(runs)} runs was cancelled; the runs were not."
        await _safely(acreate_table_artifact(table=rows, key=artifact_key("unattended", "runs"), description=why))


class Progress:
    """A progress artifact that is written beside what it shows, which never waits for it.

    Used as a context; at its end the bar has `PATIENCE_SECONDS` to reach its last state. Where the flow run has a bar
    of this key and description, of an earlier attempt, that one is moved; whatever its description where it
    `is_only_one`.
    """

    def __init__(self, description: str, key: str, *, is_only_one: bool = False) -> None:
        self._description = cell_text(description, 300)
        self._key = key
        self._is_only_one = is_only_one
        self._artifact_id: UUID | None = None
        self._percent = self._shown = -MIN_PERCENT
        self._is_over = self._is_closing = False
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Progress:
        host = asyncio.current_task()
        self._writer = asyncio.create_task(self._write())

        def stop_with_it(writer: asyncio.Task[None]) -> None:
            # A signal interrupts whatever code happens to run, but it is meant for the whole flow run.
            if host is not None and not writer.cancelled() and writer.exception() is not None:
                host.cancel()

        self._writer.add_done_callback(stop_with_it)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None or issubclass(kind, Exception):
            self._is_closing = True
            self._changed.set()
            await asyncio.wait([self._writer], timeout=PATIENCE_SECONDS)
        self._writer.cancel()
        await asyncio.wait([self._writer])
        if not self._writer.cancelled():
            self._writer.result()

    def show(self, percent: float, *, is_over: bool) -> None:
        """Move the bar, a percent at least; what is over at once needs none."""
        percent = 100.0 if is_over else percent
        if abs(percent - self._percent) >= MIN_PERCENT or is_over:
            self._percent, self._is_over = percent, is_over
            self._changed.set()

    async def _write(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._shown != self._percent:
                self._shown = self._percent
                await self._write_once(self._percent)
            if self._is_closing and not self._changed.is_set():
                return

    async def _write_once(self, percent: float) -> None:
        # Before Prefect is asked for a former bar: what was going on when there was something to show has a bar.
        needs_none = self._is_over
        if self._artifact_id is not None:
            await _safely(aupdate_progress_artifact(artifact_id=self._artifact_id, progress=percent))
        elif (former := await _safely(self._former())) is not None:
            self._artifact_id = await _safely(
                aupdate_progress_artifact(artifact_id=former, progress=percent, description=self._description)
            )
        elif not needs_none:
            self._artifact_id = await _safely(
                acreate_progress_artifact(progress=percent, key=self._key, description=self._description)
            )

    async def _former(self) -> UUID | None:
        if flow_run.id is None:
            return None
        async with get_client() as client:
            bars = await _artifacts_of_this_flow_run(client, self._key)
        mine = (bar for bar in bars if self._is_only_one or bar.description == self._description)
        return next((bar.id for bar in mine if bar.type == "progress"), None)


async def _safely(write: Awaitable[T], seconds: float | None = None) -> T | None:
    try:
        with anyio.fail_after(PATIENCE_SECONDS if seconds is None else seconds):
            return await write
    except Exception:  # the run and the verdict count, not the picture of them
        get_logger("qatech").warning("A Prefect artifact could not be written", exc_info=True)
        return None

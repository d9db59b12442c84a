"""The last campaigns of a plan: what a report's Markdown remembers of each, in a line that no reader sees."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from prefect_qatech.api.ids import RunShortId
from prefect_qatech.report.about import environment_of
from prefect_qatech.report.model import GateReport
from prefect_qatech.report.quarantine import mark_of, marks_of_passed
from prefect_qatech.report.wording import campaign_id, campaign_seconds, group, spent
from prefect_qatech.texts import in_utc, short_hash
from prefect_qatech.verdict.outcomes import TestVerdict, Verdict

MAX_MARKS = 40
MAX_FAILED_MARKS = 150
_LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)
_Count = Annotated[int, Field(ge=0, le=1_000_000)]
_Mark = Annotated[str, Field(pattern="^[0-9a-f]{8}$")]
_Moment = Annotated[datetime, AfterValidator(in_utc)]
_HISTORY = re.compile(r"^\[//\]: # \(qatech-history (\{[^()\n]{1,4000}\})\)$", re.MULTILINE)


class HistoryEntry(BaseModel):
    """One campaign of a plan, as later ones remember it. A test in quarantine is counted in no group.

    `run_short_id` is its first run, as `campaign_id` writes it; `subject` what it tested and where, as `history_of`
    writes it. Tests that passed include those that were not carried out properly at first. The marks of tests are
    hashes of their ids: of those that failed, in quarantine or not, and of those that were flaky, only the first where
    `is_cut`; and of the first `MAX_MARKS` in quarantine that passed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    run_short_id: RunShortId | None = None
    verdict: Verdict
    subject: _Mark | None = None
    started_at: _Moment | None = None
    ended_at: _Moment | None = None
    duration_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    reruns: _Count = 0
    passed: _Count = 0
    flaky: _Count = 0
    failed: _Count = 0
    undecided: _Count = 0
    failed_tests: tuple[_Mark, ...] = ()
    flaky_tests: tuple[_Mark, ...] = ()
    is_cut: bool = False
    quarantined_passed: tuple[_Mark, ...] = ()


def history_line(report: GateReport) -> str:
    """Return the line of a Markdown report that no reader sees, and that `read_history` reads.

    A link reference definition: every Markdown dialect takes it out of the text, and no text of the service can look
    like one, as it never stands at the beginning of a line.
    """
    counts = Counter(map(group, report.tests))
    failed, flaky = (
        tuple(mark_of(test) for test in report.tests_with(verdict))
        for verdict in (TestVerdict.FAILED, TestVerdict.FLAKY)
    )
    entry = HistoryEntry(
        run_short_id=campaign_id(report),
        verdict=report.verdict,
        subject=history_of(report),
        started_at=report.started_at,
        ended_at=report.ended_at,
        duration_seconds=campaign_seconds(report),
        reruns=spent(report).reruns,
        passed=counts["passed"] + counts["recovered"],
        flaky=counts["flaky"],
        failed=counts["failed"],
        undecided=counts["undecided"],
        failed_tests=failed[:MAX_FAILED_MARKS],
        flaky_tests=flaky[:MAX_MARKS],
        is_cut=len(failed) > MAX_FAILED_MARKS or len(flaky) > MAX_MARKS,
        quarantined_passed=marks_of_passed(report)[:MAX_MARKS],
    )
    return f"[//]: # (qatech-history {entry.model_dump_json(exclude_defaults=True)})"


def history_of(report: GateReport) -> str:
    """Return which history a campaign belongs to, as a hash: that of its plan, project, place and deployment."""
    plan = [report.label, report.plan_short_id, report.project_short_id, report.credentials_block]
    return short_hash(json.dumps([plan, environment_of(report), report.deployment]), 8)


def in_order(entries: Iterable[HistoryEntry]) -> list[HistoryEntry]:
    """Return each campaign once, in the order in which they began, of entries with the latest first.

    A retry publishes a campaign again: its latest words count, and they change no time that was on record, unless
    there were more reruns since.
    """
    campaigns: dict[str | None, HistoryEntry] = {}
    for entry in entries:
        latest = campaigns.setdefault(entry.run_short_id, entry)
        if latest is not entry and latest.reruns == entry.reruns:
            times = {"ended_at": entry.ended_at, "duration_seconds": entry.duration_seconds or latest.duration_seconds}
            campaigns[entry.run_short_id] = latest.model_copy(update=times)
    return sorted(campaigns.values(), key=lambda entry: entry.started_at or entry.ended_at or _LONG_AGO)


def read_history(markdown: str) -> HistoryEntry | None:
    """Read what an earlier report's Markdown, by any version of this library, remembers of its campaign.

    None where there is nothing, or nothing that is understood.
    """
    # It is the report's last line; an artifact may hold megabytes of something else.
    lines = _HISTORY.findall(markdown[-5_000:])
    try:
        return HistoryEntry.model_validate_json(lines[-1]) if lines else None
    except (ValidationError, OverflowError):  # the latter of a date that has none in UTC
        return None

"""Small charts as `data:` images, and the line by which later campaigns of a plan read this one's counts.

Every bar has its numbers below it in words, so that nothing rests on colour. A chart brings its own background, so
that it reads alike on a dark and on a light page, and it refers to nothing outside of itself. It is no wider than the
column of an artifact's page, as what is shrunk cannot be read.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from hashlib import sha256
from typing import Annotated, NamedTuple
from xml.sax.saxutils import escape

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefect_qatech.api.ids import RunShortId
from prefect_qatech.report.about import environment_of
from prefect_qatech.report.model import GateReport
from prefect_qatech.report.quarantine import mark_of, marks_of_passed
from prefect_qatech.report.wording import (
    attempt_name,
    campaign_id,
    campaign_seconds,
    duration_text,
    group_counts,
    in_utc,
    spent,
)
from prefect_qatech.verdict import Outcome, TestVerdict, Verdict

MAX_BARS = 20
MAX_MARKS = 40
MAX_FAILED_MARKS = 150
_WIDTH, _LEFT, _BAR, _ROW, _TOP = 600, 144, 444, 42, 38
# Okabe and Ito's colours, which people with any kind of colour blindness can tell apart; dark text reads on each.
_COLOURS = {
    "passed": "#2fbf93",
    "flaky": "#f0e442",
    "failed": "#e8743b",
    "missed": "#cc79a7",
    "undecided": "#cc79a7",
    "unfinished": "#56b4e9",
    "cancelled": "#b0b0b0",
    "skipped": "#d9d9d9",
}
_LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)
_Count = Annotated[int, Field(ge=0, le=1_000_000)]
_Mark = Annotated[str, Field(pattern="^[0-9a-f]{8}$")]
_HISTORY = re.compile(r"^\[//\]: # \(qatech-history (\{[^()\n]{1,4000}\})\)$", re.MULTILINE)


class HistoryEntry(BaseModel):
    """One campaign of a plan, as later ones remember it. A test in quarantine is counted in no group.

    Attributes:
        run_short_id: Its first run, as `campaign_id` writes it.
        verdict: Its verdict.
        subject: What it tested and where, as a hash: `history_of` of its report.
        started_at: When it began.
        ended_at: When the verdict was given.
        duration_seconds: How long its runs took, from the start of the first to the end of the last; None if unknown.
        reruns: How many reruns it had.
        passed: Tests that passed, those included that were not carried out properly at first.
        flaky: Tests that failed and passed later.
        failed: Tests that failed.
        undecided: Tests that did neither.
        failed_tests: Which tests failed, those in quarantine included, each by a hash of its id.
        flaky_tests: Which tests were flaky, likewise.
        is_cut: Whether these are only the first of them.
        quarantined_passed: Which tests in quarantine passed, the first `MAX_MARKS` of them, each by a hash of its id.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    run_short_id: RunShortId | None = None
    verdict: Verdict
    subject: _Mark | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
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
    counts = group_counts(report)
    failed, flaky = (
        tuple(mark_of(test) for test in report.tests_with(verdict))
        for verdict in (TestVerdict.FAILED, TestVerdict.FLAKY)
    )
    entry = HistoryEntry(
        run_short_id=campaign_id(report),
        verdict=report.verdict,
        subject=history_of(report),
        started_at=in_utc(report.started_at) if report.started_at else None,
        ended_at=in_utc(report.ended_at) if report.ended_at else None,
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
    return sha256(json.dumps([plan, environment_of(report), report.deployment]).encode()).hexdigest()[:8]


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
    return sorted(campaigns.values(), key=lambda entry: in_utc(entry.started_at or entry.ended_at or _LONG_AGO))


def read_history(markdown: str) -> HistoryEntry | None:
    """Read what an earlier report's Markdown remembers of its campaign.

    Args:
        markdown: The report of an earlier campaign, by any version of this library, or any other text.

    Returns:
        The entry; None where there is none, or none that is understood.
    """
    # It is the report's last line; an artifact may hold megabytes of something else.
    lines = _HISTORY.findall(markdown[-5_000:])
    try:
        return HistoryEntry.model_validate_json(lines[-1]) if lines else None
    except ValidationError:
        return None


class _Bar(NamedTuple):
    label: str
    counts: dict[str, int]
    note: str = ""


def attempts_chart(report: GateReport) -> str:
    """Draw the outcomes of each attempt."""
    bars = [
        _Bar(
            f"{attempt.number + 1} ({attempt_name(attempt.number)})",
            {o.value: attempt.counts[o] for o in Outcome if attempt.counts.get(o)},
            duration_text(attempt.duration_seconds) if attempt.duration_seconds is not None else "",
        )
        for attempt in report.attempts[:MAX_BARS]
    ]
    return _draw("Outcomes per attempt", bars)


def history_chart(entries: Iterable[HistoryEntry]) -> str:
    """Draw the last campaigns of a plan, in the order given.

    Args:
        entries: The campaigns, the oldest first; the last 20 are drawn.
    """
    bars = [
        _Bar(
            f"{in_utc(began):%Y-%m-%d %H:%M}" if (began := entry.started_at or entry.ended_at) else "unknown time",
            {name: count for name in ("passed", "flaky", "failed", "undecided") if (count := getattr(entry, name))},
            ", ".join(
                [entry.verdict.value.upper()]
                + ([] if entry.duration_seconds is None else [duration_text(entry.duration_seconds)])
            ),
        )
        for entry in list(entries)[-MAX_BARS:]
    ]
    return _draw("Last campaigns of this plan (UTC)", bars)


def _draw(title: str, bars: Sequence[_Bar]) -> str:
    most = max((sum(bar.counts.values()) for bar in bars), default=0) or 1
    height = _TOP + _ROW * max(1, len(bars)) + 2
    # A font size in an attribute, no style sheet: sanitisers drop those.
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" font-family="sans-serif" font-size="12" fill="#1a1a1a"><title>{escape(title)}</title>',
        f'<rect width="{_WIDTH}" height="{height}" rx="6" fill="#ffffff" stroke="#8a8a8a"/>',
        f'<text x="12" y="24" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for number, bar in enumerate(bars):
        y, x = _TOP + number * _ROW, float(_LEFT)
        parts.append(f'<text x="12" y="{y + 14}" font-weight="bold">{escape(bar.label)}</text>')
        for word, count in bar.counts.items():
            width = _BAR * count / most
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="18" fill="{_COLOURS[word]}" stroke="#4a4a4a" '
                'stroke-width="0.5"/>'
            )
            if width > 10 * len(str(count)):
                parts.append(f'<text x="{x + width / 2:.1f}" y="{y + 13}" text-anchor="middle">{count}</text>')
            x += width
        words = ", ".join(f"{count} {word}" for word, count in bar.counts.items()) or "no tests"
        note = f"{bar.note}: {words}" if bar.note else words
        parts.append(f'<text x="12" y="{y + 31}" font-size="11" fill="#4a4a4a">{escape(note)}</text>')
    svg = "".join([*parts, "</svg>"])
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()

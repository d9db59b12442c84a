"""Small charts as `data:` images.

Every bar has its numbers below it in words, so that nothing rests on colour. A chart brings its own background, so
that it reads alike on a dark and on a light page, and it refers to nothing outside of itself. It is no wider than the
column of an artifact's page, as what is shrunk cannot be read.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from prefect_qatech.report.history import HistoryEntry
from prefect_qatech.report.model import GateReport
from prefect_qatech.report.wording import attempt_name, duration_text
from prefect_qatech.texts import in_utc
from prefect_qatech.verdict.outcomes import Outcome

MAX_BARS = 20
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


class _Bar(NamedTuple):
    label: str
    counts: dict[str, int]
    note: str = ""


def attempts_chart(report: GateReport) -> str:
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
    """Draw the last 20 of a plan's campaigns, the oldest first."""
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

"""Several gates at once: what became of each, why where it did not pass, and the same in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prefect_qatech.report.escape import cell_text, link, markdown_text, plain_text
from prefect_qatech.report.known import new_and_known
from prefect_qatech.report.model import GatesReport
from prefect_qatech.report.wording import HEADLINES, SYMBOLS, counts_text, duration_text, spent
from prefect_qatech.texts import counted, listed
from prefect_qatech.verdict.outcomes import TestVerdict, Verdict

_MAX_TOLD = 100
_MAX_NAMED = 10
_NAME_LENGTH = 120
_REASON_LENGTH = 300


def render_gates(report: GatesReport, *, pages: Mapping[str, str] | None = None) -> str:
    """Return the summary of several gates as the Markdown artifact of the Prefect UI, those that did not pass first.

    `pages` are the addresses of the gates' flow runs, by the gates' names.
    """
    targets = sorted({gate.target for gate in report.reports.values() if gate.target})
    ordered = sorted(report.names, key=lambda name: [*Verdict].index(report.verdict_of(name)), reverse=True)
    seconds = sum(spent(gate).seconds or 0.0 for gate in report.reports.values())
    target = f" Target: {markdown_text(', '.join(targets), _REASON_LENGTH)}." if targets else ""
    took = f" {duration_text(seconds)} of runs." if seconds else ""
    return "\n".join(
        [
            f"## {SYMBOLS[report.verdict]} {HEADLINES[report.verdict]}",
            "",
            f"{_sum(report)}{target}{took}",
            "",
            # No table: neither UI wraps lines in one, and columns too far to the right are not seen.
            *(line for name in ordered[:_MAX_TOLD] for line in _item(report, name, (pages or {}).get(name))),
            *(next(_item(report, name, (pages or {}).get(name))) for name in ordered[_MAX_TOLD:]),
        ]
    ).rstrip()


def _item(report: GatesReport, name: str, page: str | None) -> Iterator[str]:
    gate = report.reports.get(name)
    # One UI of Prefect shows the text of a link unrendered, so a name is never the text of a link.
    head = f"- {SYMBOLS[report.verdict_of(name)]} **{markdown_text(name, _NAME_LENGTH)}**"
    if gate is None:
        yield f"{head}: could not be evaluated"
    else:
        plan = gate.plan_name or gate.plan_short_id or ""
        seconds = spent(gate).seconds
        parts = [
            f"{head}: {gate.verdict}",
            markdown_text(plan, _NAME_LENGTH) if plan != name else "",
            counts_text(gate),
            counted(len(gate.attempts), "attempt"),
            duration_text(seconds) if seconds else "",
            f"[flow run]({page})" if page else "",
            link(f"run {gate.run_short_id}", gate.run_url) if gate.run_short_id else "",
        ]
        yield " · ".join(part for part in parts if part)
        for word, verdict in (("Failed", TestVerdict.FAILED), ("Flaky", TestVerdict.FLAKY)):
            if names := [test.name for test in gate.tests_with(verdict)]:
                told = listed(names, _MAX_NAMED, lambda name: markdown_text(name, _NAME_LENGTH) or "(no name)")
                yield f"  - {word}: {told}"
        if told_apart := new_and_known(gate):
            yield f"  - {told_apart}"
    for reason in _reasons(report, name):
        yield f"  - {markdown_text(reason, _REASON_LENGTH)}"


def gates_message(report: GatesReport) -> str:
    """Return one line for a release manager: how many gates passed, and the others by name, reason and link."""
    left = [name for name in report.names if report.verdict_of(name) is not Verdict.PASS]
    told = [_told(report, name) for name in left[:_MAX_NAMED]]
    more = [f"and {len(left) - _MAX_NAMED} more"] if len(left) > _MAX_NAMED else []
    return f"{HEADLINES[report.verdict]}. {_sum(report)} {'; '.join([*told, *more])}".rstrip()


def _sum(report: GatesReport) -> str:
    passed = sum(report.verdict_of(name) is Verdict.PASS for name in report.names)
    return f"{passed} of {len(report.names)} gates passed."


def _reasons(report: GatesReport, name: str) -> list[str]:
    gate = report.reports.get(name)
    if gate is None:
        return [report.errors.get(name, "no report")]
    return [reason.sentence for reason in gate.reasons if reason.verdict is not Verdict.PASS]


def _told(report: GatesReport, name: str) -> str:
    # A log makes links of addresses; the name is the user's own.
    reasons = cell_text(" ".join(_reasons(report, name)), _REASON_LENGTH)
    gate = report.reports.get(name)
    run = f" ({plain_text(gate.run_url or gate.run_short_id or '', 1_000)})" if gate and gate.run_short_id else ""
    word = gate.verdict if gate else "could not be evaluated"
    return f"{plain_text(name, _NAME_LENGTH)}: {word}, {reasons}{run}"

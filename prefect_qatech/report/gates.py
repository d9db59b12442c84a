"""Several gates at once: a row for each, the reasons of those that did not pass, and the same in one line."""

from __future__ import annotations

from prefect_qatech.report.escape import cell_text, line_link, line_text, plain_text
from prefect_qatech.report.model import GateReport, GatesReport
from prefect_qatech.report.wording import HEADLINES, SYMBOLS, counts_text
from prefect_qatech.verdict import Verdict

_MAX_REASONS = 100
_MAX_NAMED = 10
_NAME_LENGTH = 120
_REASON_LENGTH = 300


def render_gates(report: GatesReport) -> str:
    """Return the summary of several gates as the Markdown artifact of the Prefect UI.

    Args:
        report: What became of them.

    Returns:
        Markdown: a table with a row for each gate, those that did not pass first.

    Example:
        ```python
        render_gates(gather_gates(credentials, requests, raise_unless_passed=False))
        ```
    """
    targets = sorted({gate.target for gate in report.reports.values() if gate.target})
    ordered = sorted(report.names, key=lambda name: [*Verdict].index(report.verdict_of(name)), reverse=True)
    reasons = [
        f"- **{line_text(name, _NAME_LENGTH)}**: {line_text(reason, _REASON_LENGTH)}"
        for name in ordered
        for reason in _reasons(report, name)
    ]
    more = f"- and {len(reasons) - _MAX_REASONS} more" if len(reasons) > _MAX_REASONS else ""
    return "\n".join(
        [
            f"## {SYMBOLS[report.verdict]} {HEADLINES[report.verdict]}",
            "",
            _sum(report) + (f" Target: {line_text(', '.join(targets), _REASON_LENGTH)}." if targets else ""),
            "",
            "| Gate | Verdict | Plan | Tests | Attempts | Run |",
            "| --- | --- | --- | --- | --- | --- |",
            *(_row(report, name) for name in ordered),
            "",
            *reasons[:_MAX_REASONS],
            more,
        ]
    ).rstrip()


def gates_message(report: GatesReport) -> str:
    """Return one line for a release manager: how many gates passed, and the others by name, reason and link."""
    left = [name for name in report.names if report.verdict_of(name) is not Verdict.PASS]
    told = [_told(report, name) for name in left[:_MAX_NAMED]]
    more = [f"and {len(left) - _MAX_NAMED} more"] if len(left) > _MAX_NAMED else []
    return f"{HEADLINES[report.verdict]}. {_sum(report)} {'; '.join([*told, *more])}".rstrip()


def _sum(report: GatesReport) -> str:
    passed = sum(report.verdict_of(name) is Verdict.PASS for name in report.names)
    return f"{passed} of {len(report.names)} gates passed."


def _row(report: GatesReport, name: str) -> str:
    gate = report.reports.get(name)
    shown = line_text(name, _NAME_LENGTH)
    if gate is None:
        return f"| {shown} | {SYMBOLS[Verdict.INCONCLUSIVE]} could not be evaluated | | | | |"
    run = line_link(gate.run_short_id or "", gate.run_url)
    verdict = f"{SYMBOLS[gate.verdict]} {gate.verdict}"
    plan = line_text(gate.plan_name or gate.plan_short_id or "", _NAME_LENGTH)
    return f"| {shown} | {verdict} | {plan} | {counts_text(gate)} | {len(gate.attempts)} | {run} |"


def _reasons(report: GatesReport, name: str) -> list[str]:
    gate = report.reports.get(name)
    return [report.errors.get(name, "no report")] if gate is None else _blocking(gate)


def _blocking(gate: GateReport) -> list[str]:
    return [reason.sentence for reason in gate.reasons if reason.verdict is not Verdict.PASS]


def _told(report: GatesReport, name: str) -> str:
    # A log makes links of addresses; the name is the user's own.
    reasons = cell_text(" ".join(_reasons(report, name)), _REASON_LENGTH)
    gate = report.reports.get(name)
    run = f" ({plain_text(gate.run_url or gate.run_short_id or '', 1_000)})" if gate and gate.run_short_id else ""
    word = gate.verdict if gate else "could not be evaluated"
    return f"{plain_text(name, _NAME_LENGTH)}: {word}, {reasons}{run}"

"""Pure: what QA.tech noticed beside the results, as a part of a gate's report, and as Markdown.

No document says what an issue looks like. One that names an execution belongs to that test; any other to the campaign.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from prefect_qatech.api.responses import QATechDetectedIssue
from prefect_qatech.report.escape import markdown_text
from prefect_qatech.report.model import ReportedIssue
from prefect_qatech.texts import cut_to_bytes
from prefect_qatech.verdict.identity import Campaign

MAX_ISSUES = 200
"""So many issues are in a report at most."""
MAX_ISSUES_OF_ONE = 10
"""So many of them are of one test, or of no test."""
ISSUES_BYTES = 64 * 1024
"""What the texts of a report's issues may take together: Prefect stores it as a result."""
_WORD, _TITLE, _DESCRIPTION = 50, 200, 500


class Noticed(NamedTuple):
    """The first issues, cut, of one execution, or of none of the campaign's; and how many there are."""

    issues: tuple[ReportedIssue, ...] = ()
    total: int = 0


def noticed_in(campaign: Campaign, executions: Iterable[str | None]) -> dict[str | None, Noticed]:
    """Return what a report holds of the issues in a campaign's runs; so few of each test that all have room.

    That is of some executions, one for each test that did not pass, by their short ids; and, under None, of what names
    no execution of the campaign.
    """
    known = {case.short_id for attempt in campaign.observed for case in attempt.run.test_cases} - {None}
    wanted = known.intersection(executions)
    groups: dict[str | None, list[QATechDetectedIssue]] = {}
    # An issue that belongs to no test counts once, however many runs noticed it.
    elsewhere: dict[object, QATechDetectedIssue] = {}
    for issue in (issue for attempt in campaign.observed for issue in attempt.run.issues):
        short_id = issue.run_test_case_short_id
        if short_id not in known:
            elsewhere[issue.title, issue.category, issue.severity, issue.description] = issue
        elif short_id in wanted:
            groups.setdefault(short_id, []).append(issue)
    groups[None] = list(elsewhere.values())
    most = min(MAX_ISSUES_OF_ONE, MAX_ISSUES // len(groups))
    size = ISSUES_BYTES // (4 * max(1, sum(min(most, len(issues)) for issues in groups.values())))
    return {
        short_id: Noticed(tuple(_reported(issue, size) for issue in issues[:most]), len(issues))
        for short_id, issues in groups.items()
    }


def _reported(issue: QATechDetectedIssue, size: int) -> ReportedIssue:
    return ReportedIssue(
        title=cut_to_bytes(issue.title, _TITLE, size) or "",
        category=cut_to_bytes(issue.category, _WORD, size),
        severity=cut_to_bytes(issue.severity, _WORD, size),
        description=cut_to_bytes(issue.description, _DESCRIPTION, size),
    )


def issue_texts(issues: Sequence[ReportedIssue], count: int) -> list[str]:
    """Return what a report holds of issues as Markdown, one line each, and how many more there are."""
    more = count - len(issues)
    return [*map(issue_text, issues), *([f"… and {more} more at QA.tech."] if more > 0 else [])]


def issue_text(issue: ReportedIssue | QATechDetectedIssue) -> str:
    """Return an issue as Markdown of one line, in which all text of the service shows as text."""
    kind = ", ".join(
        filter(None, (markdown_text(issue.severity or "", _WORD), markdown_text(issue.category or "", _WORD)))
    )
    title = markdown_text(issue.title, _TITLE) or "An issue without a title"
    description = markdown_text(issue.description or "", _DESCRIPTION)
    return " ".join(filter(None, (f"**{title}**", f"({kind})" if kind else "", description)))

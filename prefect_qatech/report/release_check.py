"""Pure: a release check as a part of a gate's report, and the parts of its Markdown."""

from __future__ import annotations

from prefect_qatech.api.catalogue import QATechFinding, QATechReleaseCheck
from prefect_qatech.report.escape import link, markdown_text
from prefect_qatech.report.model import ReportedFinding, ReportedReleaseCheck, ReportedScore
from prefect_qatech.report.wording import BLOCKER_SYMBOL, SYMBOLS, UNKNOWN_SYMBOL
from prefect_qatech.texts import counted, cut_to_bytes
from prefect_qatech.verdict.outcomes import Verdict

MAX_ITEMS = 50
"""So many findings, categories and follow-ups of a check are in a report, each."""
_NAME, _TEXT = 300, 1_000
_TEXTS_BYTES = 96 * 1024
_WORST_FIRST = ("blocker", "critical", "high", "major", "medium", "moderate", "minor", "low", "info")

Section = tuple[str, list[str]]
"""A title and the lines below it."""


def report_release_check(check: QATechReleaseCheck, url: str | None = None) -> ReportedReleaseCheck:
    """Return what a report holds of a release check, cut, blockers first; `url` is used where it tells none itself."""
    findings = sorted(check.findings, key=_rank)
    texts = 3 * min(MAX_ITEMS, len(findings)) + 2 * min(MAX_ITEMS, len(check.categories)) + len(check.manual_follow_ups)
    size = _TEXTS_BYTES // (texts + 1)

    def short(text: str | None, length: int = _TEXT) -> str | None:
        return cut_to_bytes(text, length, size)

    return ReportedReleaseCheck(
        short_id=check.short_id or None,
        url=check.url or url,
        status=short(check.status, _NAME) or "",
        is_complete=check.status == "COMPLETED" and not check.findings_are_unreadable,
        score=check.overall_score,
        summary=short(check.summary),
        scores=tuple(
            ReportedScore(category=short(score.name, _NAME) or "", score=score.score, summary=short(score.summary))
            for score in check.categories[:MAX_ITEMS]
        ),
        findings=tuple(
            ReportedFinding(
                title=short(finding.title, _NAME) or "",
                category=short(finding.category, _NAME),
                severity=short(finding.severity, _NAME),
                is_blocker=finding.is_blocker,
                description=short(finding.description),
                recommendation=short(finding.recommendation),
            )
            for finding in findings[:MAX_ITEMS]
        ),
        finding_count=len(findings),
        # Fail closed: a finding that is not said to be harmless may be a blocker.
        blocker_count=sum(finding.is_blocker is not False for finding in findings),
        manual_follow_ups=tuple(short(text) or "" for text in check.manual_follow_ups[:MAX_ITEMS]),
    )


def _rank(finding: QATechFinding) -> tuple[int, int]:
    """Return what puts the worse first; a severity that is not known stands in the middle."""
    word = (finding.severity or "").lower()
    severity = _WORST_FIRST.index(word if word in _WORST_FIRST else "medium")
    return {True: 0, None: 1, False: 2}[finding.is_blocker], severity


def sections(check: ReportedReleaseCheck, *, level: int) -> list[Section]:
    """Return a release check as Markdown: blockers first, then scores and follow-ups."""
    about = [markdown_text(check.summary or "", _TEXT) or "No summary."]
    if check.url:
        about.append(link(f"open release check {check.short_id or ''}", check.url))
    parts: list[Section] = [(f"{'#' * level} {_headline(check)}\n", [f"- {' · '.join(about)}"])]
    mark = "#" * (level + 1)
    if check.findings:
        items = [_finding(finding) for finding in check.findings]
        more = check.finding_count - len(items)
        items += [f"- … and {more} more at QA.tech."] if more > 0 else []
        parts.append((f"{mark} Findings, blockers first ({check.finding_count})\n", items))
    if check.scores:
        parts.append((f"{mark} Score per category\n", [_score(score) for score in check.scores]))
    if check.manual_follow_ups:
        items = [f"- {markdown_text(text, _TEXT) or '(no text)'}" for text in check.manual_follow_ups]
        parts.append((f"{mark} For people to look at ({len(items)})\n", items))
    return parts


def _headline(check: ReportedReleaseCheck) -> str:
    if not check.is_complete:
        return f"{UNKNOWN_SYMBOL} Release check: {markdown_text(check.status, 40) or 'nobody knows what became of it'}"
    score = "no score" if check.score is None else f"score {check.score:g}"
    blockers = f"{counted(check.blocker_count, 'blocker')} among {counted(check.finding_count, 'finding')}"
    symbol = BLOCKER_SYMBOL if check.blocker_count else SYMBOLS[Verdict.PASS]
    return f"{symbol} Release check: {score}, {blockers if check.finding_count else 'no findings'}"


def _finding(finding: ReportedFinding) -> str:
    marks = {
        True: f"{BLOCKER_SYMBOL} **blocker** ",
        None: f"{BLOCKER_SYMBOL} **perhaps a blocker: QA.tech does not say** ",
        False: "",
    }
    about = ", ".join(markdown_text(word, 40) for word in (finding.severity, finding.category) if word)
    parts = [
        f"- {marks[finding.is_blocker]}**{markdown_text(finding.title, _NAME) or '(no title)'}**"
        + (f" ({about})" if about else ""),
        markdown_text(finding.description or "", _TEXT),
        f"Recommendation: {markdown_text(finding.recommendation, _TEXT)}" if finding.recommendation else "",
    ]
    return " · ".join(part for part in parts if part)


def _score(score: ReportedScore) -> str:
    number = "no score" if score.score is None else f"{score.score:g}"
    why = markdown_text(score.summary or "", _TEXT)
    return f"- {markdown_text(score.category, _NAME) or '(no name)'}: **{number}**" + (f" · {why}" if why else "")

"""The report as Markdown: for the Prefect UI, and for a CI job's summary.

Read from the top, by somebody who was woken up: the verdict and what to do, why, what failed and where to look; then
everything else. All of the service's words are escaped; the whole stays below `MAX_BYTES`, and says what it left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from textwrap import indent

from prefect_qatech.addresses import safe_url
from prefect_qatech.report.about import about_line
from prefect_qatech.report.chart import history_chart
from prefect_qatech.report.escape import html_text, link, markdown_text
from prefect_qatech.report.headline import advice, headline, retry_text, symbol
from prefect_qatech.report.history import HistoryEntry, history_line
from prefect_qatech.report.issues import issue_texts
from prefect_qatech.report.known import earlier_campaigns, new_and_known, standing_text
from prefect_qatech.report.model import GateReport, ReportedAttempt, ReportedReason, ReportedReleaseCheck, ReportedTest
from prefect_qatech.report.quarantine import entries_to_paste, remarks
from prefect_qatech.report.release_check import Section, sections
from prefect_qatech.report.wording import (
    NOTE_SYMBOL,
    SYMBOLS,
    Group,
    attempt_name,
    caveats,
    counts_text,
    duration_text,
    group,
    shown_attempt,
    spent,
    story,
    tests_named,
    time_text,
    until_text,
)
from prefect_qatech.texts import listed
from prefect_qatech.verdict.outcomes import Outcome, Verdict
from prefect_qatech.verdict.policy import QuarantineEntry

MAX_BYTES = 200_000
_NAME, _REASON, _EXPLANATION, _SENTENCE, _WORD = 200, 500, 1_000, 400, 60
_NOTE, _NAMES_PER_REASON, _MAX_ATTEMPTS, _MAX_CHART = 1_000, 5, 20, 40_000
_FILTERS = {
    "failed_only": "not passed",
    "test_cases": "open tests",
    "everything": "everything",
}
_SECTIONS: tuple[tuple[Group, str], ...] = (
    ("failed", "Failed"),
    ("undecided", "Undecided: neither passed nor failed"),
    ("flaky", "Flaky: failed first, passed later"),
    ("quarantined", "In quarantine: reported, not counted"),
    ("recovered", "Recovered: not carried out at first, then passed"),
)

_TO_PASTE = """### To put a test into quarantine

Copy its entry below `quarantine:` in the policy file, and fill in the reason and the owner.
"""


def render_markdown(report: GateReport, *, chart: str = "", history: Sequence[HistoryEntry] = ()) -> str:
    """Return the report as the Markdown artifact of the Prefect UI, with the line that `read_history` reads at its end.

    `chart` is what `attempts_chart` gave. The history, the plan's last campaigns with the oldest first, is drawn; the
    report's own need not be among them.
    """
    attempts = _picture("Outcomes per attempt", chart)
    campaigns = _picture("The plan's last campaigns", history_chart(history) if history else "")
    proceed = "" if report.passed or report.approved else f"\n### How to proceed\n\n{retry_text(report)}\n"
    earlier = earlier_campaigns(report, history)
    return _render(report, MAX_BYTES, attempts, campaigns, f"{proceed}\n{history_line(report)}\n", earlier)


def render_job_summary(report: GateReport, *, max_bytes: int = MAX_BYTES) -> str:
    """Return the report as Markdown for the summary of a GitHub or GitLab job, which shows no `data:` images."""
    return _render(report, max_bytes, [], [], "")


def _picture(title: str, image: str) -> list[str]:
    return [f"![{title}]({image})\n"] if 0 < len(image) <= _MAX_CHART else []


def _render(
    report: GateReport,
    max_bytes: int,
    attempts: Iterable[str],
    campaigns: Iterable[str],
    ending: str,
    earlier: Sequence[HistoryEntry] = (),
) -> str:
    budget = max_bytes - len(ending.encode())
    head, without = _head(report), report.verdict_without_reruns
    same = "the same" if without is report.verdict else f"{SYMBOLS[without]} {without.value.upper()}"
    first_alone = f"Without reruns the verdict would have been {same}."
    tail = ["### Attempts\n", *attempts, *_attempts_table(report), first_alone, "", *campaigns, *_weak(report)]
    left = budget - len("\n".join([*head, *tail]).encode())
    lists = _fitting(_lists(report, earlier), left, "verdict.json")
    return _cut("\n".join([*head, *lists, *tail]).rstrip() + "\n", budget) + ending


def render_release_check(check: ReportedReleaseCheck, *, max_bytes: int = MAX_BYTES) -> str:
    """Return a release check as the Markdown artifact of the Prefect UI; the parameters are those of a report."""
    lines = _fitting(sections(check, level=2), max_bytes, "QA.tech")
    return _cut("\n".join(lines).rstrip() + "\n", max_bytes)


def _fitting(parts: Iterable[Section], max_bytes: int, whole: str) -> list[str]:
    """Return the lines of all parts that have room, the first ones first; `whole` names what has all of them."""
    lines: list[str] = []
    left = max_bytes - 1_000  # for the titles, and for what is said of what is left out
    for title, items in parts:
        lines += [title] if title else []
        for number, item in enumerate(items):
            size = len(item.encode()) + 1
            if size > left:
                lines.append(f"- … and {len(items) - number} more; {whole} has them all.")
                break
            left -= size
            lines.append(item)
        lines.append("")
    return lines


def _cut(markdown: str, max_bytes: int) -> str:
    # Only a hostile report or a tiny limit comes here. Between lines, as no construct of ours is longer than a line.
    encoded = markdown.encode()
    if len(encoded) <= max_bytes:
        return markdown
    note = "\n\n… cut here.\n"
    kept = encoded[: max(0, max_bytes - len(note.encode()))].decode(errors="ignore")
    return kept.rpartition("\n")[0] + note if "\n" in kept else ""


def _head(report: GateReport) -> list[str]:
    about = [f"**{_plan(report)}**", counts_text(report)]
    if report.label and report.label != report.plan_name:
        about.insert(1, markdown_text(report.label, _NAME))
    about.append(str(spent(report)))
    if report.ended_at:
        about.append(time_text(report.ended_at))
    if report.run_url:
        about.append(link("open the latest run", report.run_url))
    return [
        f"## {symbol(report)} {headline(report, lambda words: markdown_text(words, _NAME))}",
        "",
        advice(report, lambda words: markdown_text(words, _SENTENCE)),
        "",
        " · ".join(about),
        "",
        *([f"Tested: {tested}", ""] if (tested := about_line(report, _fact)) else []),
    ]


def _fact(text: str, url: str | None) -> str:
    # One UI of Prefect shows the text of a link unrendered, so an address is never the text of a link.
    opens = link("open", url) if safe_url(url) else ""
    return markdown_text(text, _NAME) + (f" ({opens})" if opens else "")


def _plan(report: GateReport) -> str:
    name = markdown_text(report.plan_name or "", _NAME)
    short_id = markdown_text(report.plan_short_id or "", _NAME)
    return f"{name} ({short_id})" if name and short_id else name or short_id or "Default test plan"


def _lists(report: GateReport, earlier: Sequence[HistoryEntry]) -> Iterable[Section]:
    by_id, quarantine = {test.test_id: test for test in report.tests}, report.quarantine
    unknown = frozenset(report.causes_unknown)
    lines = [_reason(reason, by_id) for reason in report.reasons]
    lines += [f"- {NOTE_SYMBOL} {markdown_text(note, _NOTE)}" for note in report.notes]
    for sentence, ids in caveats(report):
        lines.append(_remark(sentence, [(by_id[key].name, key) for key in ids if key in by_id]))
    passed = [entry.quarantined_passed for entry in earlier]
    lines += [_remark(sentence, named) for sentence, named in remarks(report, passed)]
    if told := new_and_known(report):
        lines.append(_remark(told, []))
    yield "", lines
    for wanted, title in _SECTIONS:
        tests = [test for test in report.tests if group(test) == wanted]
        if tests:
            items = [_test(test, report, quarantine, test.test_id in unknown) for test in tests]
            yield f"### {title} ({len(tests)})\n", items
    if report.issue_count:
        items = [f"- {text}" for text in issue_texts(report.issues, report.issue_count)]
        yield f"### QA.tech noticed besides ({report.issue_count})\n", items
    if entries := entries_to_paste(report):
        # Indented code, as each line of it stays code when others are cut.
        yield _TO_PASTE, [indent(entry, "    ") for entry in entries]
    if report.release_check is not None:
        yield from sections(report.release_check, level=3)


def _reason(reason: ReportedReason, tests: Mapping[str, ReportedTest]) -> str:
    # A remark beside a verdict is no pass, and where all passed there is nothing to name.
    is_remark = reason.verdict is Verdict.PASS and reason.rule != "passed"
    named = [] if reason.rule == "passed" else tests_named(reason, tests)
    return _remark(reason.sentence, named, NOTE_SYMBOL if is_remark else SYMBOLS[reason.verdict])


def _remark(sentence: str, named: Sequence[tuple[str, str | None]], symbol: str = NOTE_SYMBOL) -> str:
    text = f"- {symbol} {markdown_text(sentence, _SENTENCE)}"
    if not named:
        return text
    names = [name or test_id or "" for name, test_id in named]
    shown = listed(names, _NAMES_PER_REASON, lambda name: markdown_text(name, _WORD) or "(no name)")
    return f"{text} *{shown}*"


def _test(
    test: ReportedTest, report: GateReport, quarantine: Mapping[str, QuarantineEntry], cause_is_unknown: bool
) -> str:
    index = shown_attempt(test)
    attempt = report.attempts[index] if index is not None and index < len(report.attempts) else None
    links = {"test": test.url, "screenshot": test.screenshot_url, "recording": test.recording_url}
    if attempt is not None:
        links[f"run of attempt {attempt.number + 1}"] = attempt.run_url
    told = story(test, lambda words: markdown_text(words, _REASON))
    parts = [f"- **{markdown_text(test.name, _NAME) or '(no name)'}**: {told}"]
    parts += [markdown_text(standing, _NAME)] if (standing := standing_text(test)) else []
    parts += [link(text, url) for text, url in links.items() if url]
    entry = quarantine.get(test.test_id)
    if test.quarantined and entry:
        until = markdown_text(until_text(entry, report.policy), _NAME)
        owner = markdown_text(entry.owner, _NAME)
        parts.append(f"in quarantine {until}: {markdown_text(entry.reason, _REASON)} (owner: {owner})")
    if not test.expected:
        parts.append("appeared in a rerun only")
    if cause_is_unknown:
        parts.append("its cause could not be found out")
    parts.append(f"id {markdown_text(test.test_id, _NAME)}")
    issues = issue_texts(test.issues, test.issue_count)
    text = "\n  - QA.tech noticed: ".join([" · ".join(parts), *issues])
    explanation = html_text(test.explanation or "", _EXPLANATION)
    if not explanation:
        return text
    return f"{text}\n\n  <details><summary>The agent's explanation</summary>{explanation}</details>\n"


def _attempts_table(report: GateReport) -> list[str]:
    if not report.attempts:
        return ["There was no run.\n"]
    # The one UI of Prefect breaks no line in a table and hides what is too far to the right: short cells, and last what
    # can be long and what the chart tells as well.
    lines = [
        "| Attempt | Run | Started | Duration | Status | Asked for | Outcomes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_attempt(attempt, report.ended_at) for attempt in report.attempts[:_MAX_ATTEMPTS]),
    ]
    more = len(report.attempts) - _MAX_ATTEMPTS
    return [*lines, f"\n… and {more} more." if more > 0 else "", ""]


def _attempt(attempt: ReportedAttempt, ended_at: datetime | None) -> str:
    asked = {"start": "the plan", "attached": "started elsewhere"}.get(attempt.kind)
    if asked is None:
        asked = _FILTERS.get(attempt.filter or "") or markdown_text(attempt.filter or "unknown", _WORD)
    counts = ", ".join(f"{attempt.counts[outcome]} {outcome}" for outcome in Outcome if attempt.counts.get(outcome))
    ended = attempt.status == "COMPLETED" and attempt.result
    words = (attempt.result,) if ended else (attempt.status, attempt.result)
    cells = (
        f"{attempt.number + 1} ({attempt_name(attempt.number)})",
        link(attempt.run_short_id, attempt.run_url, _WORD),
        time_text(attempt.started_at, ended_at),
        duration_text(attempt.duration_seconds),
        " ".join(markdown_text(word, _WORD) for word in words if word) or "unknown",
        asked,
        counts or "no tests",
    )
    return f"| {' | '.join(cells)} |"


def _weak(report: GateReport) -> list[str]:
    weak = [test.name for test in report.tests if test.identity_is_weak]
    if not weak:
        return []
    names = listed(weak, 20, lambda name: markdown_text(name, _WORD))
    return [f"Recognised by name alone, as QA.tech gave no id that lasts across runs: {names}.", ""]

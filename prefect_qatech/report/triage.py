"""Pure: why a test failed, as Markdown: what the service says of it, what it noticed, and the agent's last steps.

All of it is text from elsewhere: each piece is cut and escaped before it is put in, and whole pieces are left out where
the size does not allow them. Markdown is never cut: half an escape would be markup.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from prefect_qatech.api.catalogue import QATechToolCall, QATechTraceStep
from prefect_qatech.api.responses import QATechDetectedIssue, QATechRunTestCase, QATechRunTestCaseDetails
from prefect_qatech.report.escape import link, markdown_text
from prefect_qatech.report.issues import issue_text
from prefect_qatech.texts import listed

MAX_LENGTH = 8_000
MAX_STEPS = 5
MAX_ISSUES = 10
MAX_CALLS = 5

_BREAK = "\n\n"


def describe_failure(
    test: QATechRunTestCase,
    trace: Sequence[QATechTraceStep] = (),
    issues: Sequence[QATechDetectedIssue] = (),
    *,
    max_length: int = MAX_LENGTH,
) -> str:
    """Return why a test failed, as Markdown for an artifact: its reason, what QA.tech noticed, the agent's last steps.

    Args:
        test: The test, with its details where they could be had.
        trace: What the agent did; the last steps are shown.
        issues: What QA.tech noticed in the run; those of this test are shown.
        max_length: How many characters it may have. Whole pieces are left out, the oldest steps first.

    Returns:
        Markdown, in which all text of the service shows as text.

    Example:
        ```python
        trace = get_test_case_trace(credentials, test.short_id)
        create_markdown_artifact(describe_failure(test, trace), key="why-it-failed")
        ```
    """
    mine = [issue for issue in issues if issue.run_test_case_short_id == test.short_id is not None]
    shown = _fitting(_head(test), max_length)
    found = _section("QA.tech noticed", map(issue_text, mine[:MAX_ISSUES]), len(mine), _room(shown, max_length) // 2)
    shown += found
    # The last step first: it is the last one to be left out.
    last = (_step(number, trace[number - 1]) for number in range(len(trace), max(0, len(trace) - MAX_STEPS), -1))
    title, *steps = _section("The agent's last steps", last, len(trace), _room(shown, max_length)) or [""]
    return _BREAK.join(part for part in (*shown, title, *reversed(steps)) if part)


def _room(shown: Sequence[str], max_length: int) -> int:
    return max_length - sum(len(part) + len(_BREAK) for part in shown)


def _fitting(parts: Iterable[str], room: int) -> list[str]:
    """Return the first parts that have room together."""
    kept: list[str] = []
    for part in filter(None, parts):
        if len(part) > _room(kept, room):
            break
        kept.append(part)
    return kept


def _section(title: str, parts: Iterable[str], total: int, room: int) -> list[str]:
    """Return a title and the first parts that have room together with it; nothing where there is room for none."""
    longest = f"**{title}** ({total} of {total})"
    kept = _fitting(parts, room - len(longest) - len(_BREAK))
    return [f"**{title}** ({len(kept)} of {total})", *kept] if kept else []


def _head(test: QATechRunTestCase) -> list[str]:
    head = [
        f"### {markdown_text(test.name, 200) or 'A test without a name'}",
        f"**{markdown_text(test.result or test.status, 50) or 'no result'}**",
        markdown_text(test.result_title or "", 300) or "no reason given",
    ]
    if isinstance(test, QATechRunTestCaseDetails):
        minutes = f"{test.duration_ms / 60_000:.1f} minutes" if test.duration_ms is not None else ""
        urls = {"test": test.url, "screenshot": test.screenshot_url, "recording": test.recording_url}
        links = [link(text, url) for text, url in urls.items() if url]
        head.append(", ".join(filter(None, (markdown_text(test.error_code or "", 100), minutes, *links))))
    return [*head, markdown_text(test.evaluation_thought or "", 2_000)]


def _step(number: int, step: QATechTraceStep) -> str:
    calls = listed(step.tool_calls, MAX_CALLS, _call)
    result = markdown_text(step.tool_result or "", 300)
    parts = (
        f"**Step {number}:**",
        markdown_text(step.reasoning or "", 500),
        f"**Did:** {calls}" if calls else "",
        f"**Result:** {result}" if result else "",
        link("picture", step.screenshot_url) if step.screenshot_url else "",
    )
    return " ".join(filter(None, parts))


def _call(call: QATechToolCall) -> str:
    given = "" if call.arguments in (None, {}, []) else json.dumps(call.arguments, ensure_ascii=False, default=str)
    return f"{markdown_text(call.name, 100) or 'a tool'}({markdown_text(given, 200)})"

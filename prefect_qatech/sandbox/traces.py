"""What the agent did in a test, step by step, and what it noticed."""

from __future__ import annotations

from prefect_qatech.sandbox.answers import DetectedIssue, TraceAnswer, TraceStep
from prefect_qatech.sandbox.engine import Engine
from prefect_qatech.sandbox.runs import Execution, Run
from prefect_qatech.sandbox.scenario import Step, ToolCall

__all__ = ["issues", "trace"]


def trace(engine: Engine, execution: Execution, *, limit: int, offset: int) -> TraceAnswer:
    """Return the answer of `GET /run-test-case/{shortId}/trace`: the steps that have ended, a page of them."""
    steps = _ended(engine, execution)
    return {
        "runTestCaseShortId": execution.short_id,
        "total": len(steps),
        "limit": limit,
        "offset": offset,
        "steps": steps[offset : offset + limit],
    }


def issues(engine: Engine, run: Run, category: str) -> list[DetectedIssue]:
    """Return what was noticed in a run so far: of a category, or `all`."""
    return [
        {
            "id": f"{execution.short_id}-{number}",
            "title": issue.title,
            "category": issue.category,
            "severity": issue.severity,
            "description": issue.description,
            "runTestCaseShortId": execution.short_id,
        }
        for execution in run.executions
        if execution.completed is not None and execution.outcome is not None
        for number, issue in enumerate(execution.outcome.issues, 1)
        if category in {"all", issue.category}
    ]


def _ended(engine: Engine, execution: Execution) -> list[TraceStep]:
    if execution.started is None:
        return []
    outcome = execution.outcome or execution.planned
    steps = _default_steps(execution) if outcome.steps is None else outcome.steps
    length = execution.finish - execution.started if execution.ended else execution.case.duration_seconds
    until = execution.finish if execution.ended else engine.clock.now()
    ends = [execution.started + length * (place + 1) / len(steps) for place in range(len(steps))]
    if execution.ended and ends:
        ends[-1] = execution.finish  # whatever the sum of the fractions is
    return [
        {
            "index": place,
            "startedAt": engine.clock.text(ends[place - 1] if place else execution.started),
            "endedAt": engine.clock.text(ends[place]),
            "durationMs": round(length / len(steps) * 1000),
            "reasoning": step.reasoning,
            "toolCalls": [{"name": call.name, "arguments": call.arguments} for call in step.tool_calls],
            "toolResult": step.tool_result,
            "screenshotUrl": engine.page(f"screenshots/{execution.short_id}.svg?step={place + 1}"),
        }
        for place, step in enumerate(steps)
        if ends[place] <= until
    ]


def _default_steps(execution: Execution) -> list[Step]:
    case, outcome = execution.case, execution.outcome
    path = case.http.path if case.http else "/"
    steps = [
        Step(
            reasoning=f"I am to do this: {case.goal or case.name}. I open the application first.",
            tool_calls=[ToolCall(name="navigate", arguments={"path": path})],
            tool_result="The page is open.",
        ),
        Step(
            reasoning="I follow the steps of the test.",
            tool_calls=[ToolCall(name="act", arguments={"test": case.name})],
            tool_result="Done.",
        ),
        Step(
            reasoning=(outcome and (outcome.thought or outcome.title)) or "I compare the page with what is expected.",
            tool_calls=[ToolCall(name="finish", arguments={"result": outcome.result if outcome else None})],
        ),
    ]
    return steps if outcome else steps[:-1]

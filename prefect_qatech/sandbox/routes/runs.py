"""Runs: start, rerun, status, one test case's execution."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from prefect_qatech.sandbox import traces
from prefect_qatech.sandbox.answers import RerunAnswer, RunAnswer, RunTestCaseAnswer, StartAnswer, TraceAnswer
from prefect_qatech.sandbox.bodies import RerunBody, StartBody
from prefect_qatech.sandbox.routes.common import (
    Limit,
    Offset,
    Reading,
    ServiceOf,
    ShortIdInPath,
    Writing,
    answer_json,
    note,
    refusals,
)

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["Runs"])


@router.post("/run", operation_id="start", response_model=StartAnswer, responses=refusals(402), dependencies=[Writing])
async def start(request: Request, service: ServiceOf, body: StartBody | None = None) -> Response:
    """Start a run; without a body, of the default test plan."""
    note(request, service, body)
    with service.lock:
        return answer_json(service.engine.start(body or StartBody()))


@router.post(
    "/run/{shortId}",
    operation_id="rerun",
    response_model=RerunAnswer,
    responses=refusals(402),
    dependencies=[Writing],
)
async def rerun(request: Request, service: ServiceOf, short_id: ShortIdInPath, body: RerunBody) -> Response:
    """Rerun a run: everything, what did not pass, or the listed test cases."""
    note(request, service, body)
    run = service.engine.find(short_id)
    await service.settle(run)  # which tests failed is what is known now
    with service.lock:
        return answer_json(service.engine.rerun(run, body))


@router.get(
    "/run/{shortId}", operation_id="status", response_model=RunAnswer, responses=refusals(), dependencies=[Reading]
)
async def status(
    service: ServiceOf,
    short_id: ShortIdInPath,
    test_cases: Annotated[Literal["failed", "all"] | None, Query(alias="testCases")] = None,
    issues: Annotated[str | None, Query(description="`all`, or a category.")] = None,
) -> Response:
    """Show a run's status and results."""
    run = service.engine.find(short_id)
    await service.settle(run)
    with service.lock:
        answer = service.engine.show(run, test_cases)
        if issues is not None:
            answer["issues"] = traces.issues(service.engine, run, issues)
        return answer_json(answer)


@router.get(
    "/run-test-case/{shortId}",
    operation_id="test_case",
    response_model=RunTestCaseAnswer,
    responses=refusals(),
    dependencies=[Reading],
)
async def test_case(service: ServiceOf, short_id: ShortIdInPath) -> Response:
    """Show one test case's execution, for its root cause."""
    run, execution = service.engine.find_execution(short_id)
    await service.settle(run)
    with service.lock:
        return answer_json(service.engine.show_execution(run, execution))


@router.get(
    "/run-test-case/{shortId}/trace",
    operation_id="trace",
    response_model=TraceAnswer,
    responses=refusals(),
    dependencies=[Reading],
)
async def trace(service: ServiceOf, short_id: ShortIdInPath, limit: Limit, offset: Offset) -> Response:
    """Show what the agent did in one test case's execution, a page of steps at a time."""
    run, execution = service.engine.find_execution(short_id)
    await service.settle(run)
    with service.lock:
        return answer_json(traces.trace(service.engine, execution, limit=limit, offset=offset))

"""`/sandbox`: look at the sandbox and steer it, from this machine only."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from prefect_qatech.sandbox.answers import ErrorAnswer
from prefect_qatech.sandbox.engine import Refusal, SandboxCounts
from prefect_qatech.sandbox.faults import Fault
from prefect_qatech.sandbox.routes.common import ServiceOf, answer_json

__all__ = ["router"]

_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "What was sent cannot be"},
    403: {"model": ErrorAnswer, "description": "Not from this machine"},
}

router = APIRouter(prefix="/sandbox", tags=["Sandbox"], responses=_REFUSED)


class _Steering(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ClockBody(_Steering):
    """How far the manual clock goes on."""

    advance_seconds: float = Field(ge=0, allow_inf_nan=False)


class UsageLimitBody(_Steering):
    """How many test executions are left; null is no limit."""

    remaining_test_executions: int | None = Field(ge=0)


class FaultsBody(_Steering):
    """The faults; a bare list of them will do."""

    faults: list[Fault]

    @model_validator(mode="before")
    @classmethod
    def _bare_list(cls, value: object) -> object:
        return {"faults": value} if isinstance(value, list) else value


class DoneAnswer(TypedDict):
    """It is done."""

    ok: bool


class HealthAnswer(DoneAnswer):
    """The sandbox is there."""

    virtual_seconds: float
    speed: float


class LoggedRequest(TypedDict):
    """A request as it was noted."""

    method: str
    path: str
    body: Any
    status: int | None
    fault: str | None
    run_short_id: str | None
    virtual_seconds: float
    at: str


class RequestsAnswer(TypedDict):
    """The last requests."""

    requests: list[LoggedRequest]


class RunSummary(TypedDict):
    """A run."""

    short_id: str
    parent: str | None
    index: int
    plan: str | None
    status: str
    result: str | None
    test_count: int
    test_cases: list[str]
    applications: list[dict[str, Any]]
    created_at: str | None


class RunsAnswer(TypedDict):
    """All runs."""

    runs: list[RunSummary]


def _done() -> Response:
    return answer_json({"ok": True})


@router.get("/health", response_model=HealthAnswer)
async def health(service: ServiceOf) -> Response:
    """Return that the sandbox is there, and what time it is."""
    clock = service.engine.clock
    return answer_json({"ok": True, "virtual_seconds": clock.now(), "speed": clock.speed})


@router.get("/counts", response_model=SandboxCounts)
async def counts(service: ServiceOf) -> Response:
    """Return the counts."""
    return answer_json(service.counts())


@router.get("/requests", response_model=RequestsAnswer)
async def requests(service: ServiceOf) -> Response:
    """Return the last requests."""
    return answer_json({"requests": service.requests()})


@router.get("/runs", response_model=RunsAnswer)
async def runs(service: ServiceOf) -> Response:
    """Return all runs as they are now."""
    return answer_json({"runs": service.runs()})


@router.post("/faults", response_model=DoneAnswer)
async def set_faults(service: ServiceOf, body: FaultsBody) -> Response:
    """Replace the faults."""
    service.set_faults(body.faults)
    return _done()


@router.delete("/faults", response_model=DoneAnswer)
async def clear_faults(service: ServiceOf) -> Response:
    """Let nothing go wrong any more."""
    service.set_faults([])
    return _done()


@router.post("/reset", response_model=DoneAnswer)
async def reset(service: ServiceOf) -> Response:
    """Forget all runs, counts and requests."""
    service.reset()
    return _done()


@router.post("/clock", response_model=DoneAnswer)
async def advance(service: ServiceOf, body: ClockBody) -> Response:
    """Move the manual clock on."""
    try:
        service.advance(body.advance_seconds)
    except ValueError as error:
        raise Refusal(400, str(error)) from None
    return _done()


@router.post("/usage_limit", response_model=DoneAnswer)
async def usage_limit(service: ServiceOf, body: UsageLimitBody) -> Response:
    """Set how many test executions are left."""
    service.set_usage_limit(body.remaining_test_executions)
    return _done()

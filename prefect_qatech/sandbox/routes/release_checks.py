"""Release checks: start one, and see how it goes."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from prefect_qatech.sandbox.answers import ReleaseCheckAnswer, ReleaseCheckStartAnswer
from prefect_qatech.sandbox.bodies import ReleaseCheckBody
from prefect_qatech.sandbox.routes.common import (
    Reading,
    ServiceOf,
    ShortIdInPath,
    Writing,
    answer_json,
    note,
    refusals,
)

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["Release checks"])


@router.post(
    "/release-checks",
    operation_id="start_release_check",
    response_model=ReleaseCheckStartAnswer,
    responses=refusals(402),
    dependencies=[Writing],
)
async def start_release_check(request: Request, service: ServiceOf, body: ReleaseCheckBody) -> Response:
    """Start a release check."""
    note(request, service, body)
    with service.lock:
        return answer_json(service.release_checks.start(body))


@router.get(
    "/release-checks/{shortId}",
    operation_id="release_check",
    response_model=ReleaseCheckAnswer,
    responses=refusals(),
    dependencies=[Reading],
)
async def show_release_check(service: ServiceOf, short_id: ShortIdInPath) -> Response:
    """Show a release check."""
    check = service.release_checks.find(short_id)
    if check.run is not None:
        await service.settle(check.run)
    with service.lock:
        return answer_json(service.release_checks.show(check))

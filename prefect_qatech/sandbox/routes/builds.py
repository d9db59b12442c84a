"""Mobile builds: the address for an upload, the upload, the build."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from prefect_qatech.sandbox.answers import BuildAnswer, BuildsAnswer, ErrorAnswer, UploadAnswer
from prefect_qatech.sandbox.bodies import BuildBody, UploadBody
from prefect_qatech.sandbox.engine import Refusal
from prefect_qatech.sandbox.routes.common import (
    WHOLE_NUMBER,
    Reading,
    ServiceOf,
    ShortIdInPath,
    Writing,
    answer_json,
    note,
    refusals,
    whole_number,
)

__all__ = ["router"]

router = APIRouter(tags=["Builds"])


async def _per_page(
    per_page: Annotated[str | None, Query(alias="perPage", json_schema_extra=WHOLE_NUMBER)] = None,
) -> int:
    return whole_number(per_page, "perPage", 20)


@router.post(
    "/v1/applications/{shortId}/builds/upload-url",
    operation_id="upload_url",
    response_model=UploadAnswer,
    responses=refusals(),
    dependencies=[Writing],
)
async def make_upload_url(request: Request, service: ServiceOf, short_id: ShortIdInPath, body: UploadBody) -> Response:
    """Return an address to which the file can be PUT."""
    note(request, service, body)
    with service.lock:
        return answer_json(service.builds.upload_url(short_id, body))


@router.put(
    "/uploads/{buildToken}",
    operation_id="upload",
    response_class=Response,
    responses={
        200: {"description": "The file is there"},
        400: {"model": ErrorAnswer, "description": "There is a token beside the address"},
        403: {"model": ErrorAnswer, "description": "The address has expired"},
        404: {"model": ErrorAnswer, "description": "There is no such upload"},
        500: {"model": ErrorAnswer, "description": "Server error"},
    },
    openapi_extra={"requestBody": {"content": {"application/octet-stream": {"schema": {}}}}},
)
async def upload(
    request: Request, service: ServiceOf, build_token: Annotated[str, Path(alias="buildToken")]
) -> Response:
    """Take the file of a build. The address is all that is needed; a store for files refuses the API's token."""
    if "authorization" in request.headers:
        raise Refusal(400, "The address has its own signature: do not send the API token to the store")
    body = await request.body()
    with service.lock:
        service.builds.receive(build_token, len(body))
    return Response()


@router.post(
    "/v1/applications/{shortId}/builds",
    operation_id="register_build",
    response_model=BuildAnswer,
    responses=refusals(),
    dependencies=[Writing],
)
async def register_build(request: Request, service: ServiceOf, short_id: ShortIdInPath, body: BuildBody) -> Response:
    """Make a build of a file that was uploaded."""
    note(request, service, body)
    with service.lock:
        return answer_json(service.builds.register(short_id, body))


@router.get(
    "/v1/applications/{shortId}/builds",
    operation_id="builds",
    response_model=BuildsAnswer,
    responses=refusals(),
    dependencies=[Reading],
)
async def list_builds(
    service: ServiceOf, short_id: ShortIdInPath, per_page: Annotated[int, Depends(_per_page)]
) -> Response:
    """List the newest builds of an application."""
    with service.lock:
        return answer_json(service.builds.listed(short_id, per_page))

"""What all routes need: the state, the token, the documented refusals, JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from prefect_qatech.sandbox.answers import ErrorAnswer
from prefect_qatech.sandbox.bodies import unknown_fields
from prefect_qatech.sandbox.engine import Refusal
from prefect_qatech.sandbox.service import Service

__all__ = [
    "WHOLE_NUMBER",
    "Limit",
    "Offset",
    "Reading",
    "ServiceOf",
    "ShortIdInPath",
    "Writing",
    "answer_json",
    "note",
    "refusals",
    "whole_number",
]

_MAX_LIMIT = 1000
_DESCRIPTIONS = {
    400: "Validation error",
    401: "Missing or invalid API key",
    402: "Usage limit exceeded",
    403: "Account suspended or invalid token",
    404: "Resource not found",
    500: "Server error",
}

_bearer = HTTPBearer(auto_error=False, scheme_name="bearerAuth", description="A token of the scenario.")


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service)]
ShortIdInPath = Annotated[str, Path(alias="shortId")]


def _authorize(
    service: Service, given: HTTPAuthorizationCredentials | None, project_short_id: str | None, *, write: bool
) -> None:
    token = next((token for token in service.scenario.tokens if given and token.token == given.credentials), None)
    if token is None:
        raise Refusal(401, "Missing or invalid API key")
    if token.access == "suspended":
        raise Refusal(403, "Organization is suspended")
    if token.access == "forbidden" or (write and token.access == "read"):
        raise Refusal(403, "Invalid token: it does not allow this")
    service.engine.check_project(project_short_id)


_Given = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
_Project = Annotated[str | None, Query(alias="projectShortId")]


async def _may_read(service: ServiceOf, given: _Given, project_short_id: _Project = None) -> None:
    _authorize(service, given, project_short_id, write=False)


async def _may_write(service: ServiceOf, given: _Given, project_short_id: _Project = None) -> None:
    _authorize(service, given, project_short_id, write=True)


Reading, Writing = Depends(_may_read), Depends(_may_write)


def whole_number(text: str | None, name: str, default: int) -> int:
    """Read a number from 0 of a query."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()):
        raise Refusal(400, f"Validation error: {name}: must be a number from 0")
    return int(text) if len(text) < 10 else 10**9  # beyond the end of everything


WHOLE_NUMBER: dict[str, Any] = {"type": "integer", "minimum": 0}


async def _limit(
    limit: Annotated[str | None, Query(json_schema_extra=WHOLE_NUMBER, description="At most 1000.")] = None,
) -> int:
    return min(whole_number(limit, "limit", 100), _MAX_LIMIT)


async def _offset(offset: Annotated[str | None, Query(json_schema_extra=WHOLE_NUMBER)] = None) -> int:
    return whole_number(offset, "offset", 0)


Limit = Annotated[int, Depends(_limit)]
Offset = Annotated[int, Depends(_offset)]


def refusals(*statuses: int, token: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return the documented refusals of an operation: those given, and those of every one that wants a token."""
    common = {400, 401, 403, 404, 500} if token else {500}  # 404: the project
    return {
        status: {"model": ErrorAnswer, "description": _DESCRIPTIONS[status]} for status in sorted({*common, *statuses})
    }


def answer_json(payload: Any, status: int = 200) -> Response:
    """Return an answer; in ASCII, for texts may hold lone surrogates, which JSON can escape and UTF-8 cannot hold."""
    return Response(json.dumps(payload), status, media_type="application/json")


def note(request: Request, service: Service, body: object) -> None:
    """Count what a body has that no document names."""
    with service.lock:
        name = f"{request.method} {request.scope['route'].path}"
        service.engine.count_unknown_fields(name, [*unknown_fields(body)])

"""The sandbox over HTTP: QA.tech's documented API under `/v1`, a page for each run, `/sandbox` to look and steer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from prefect_qatech.sandbox.engine import Refusal
from prefect_qatech.sandbox.front import Front
from prefect_qatech.sandbox.routes import builds, catalogue, control, pages, release_checks, runs
from prefect_qatech.sandbox.routes.common import answer_json
from prefect_qatech.sandbox.service import Service

__all__ = ["create_app"]

_API = (runs.router, catalogue.router, builds.router, release_checks.router)
_PAGES = (pages.router,)
_MAX_TOLD = 3


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, without FastAPI's own answer to what is not valid: here it is 400."""
        document = super().openapi()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document


def create_app(service: Service) -> ASGIApp:
    """Build the ASGI application."""
    app = _App(title="prefect-qatech sandbox", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    for router in (*_API, *_PAGES, control.router):
        app.include_router(router)

    @app.exception_handler(Refusal)
    async def refused(_request: Request, error: Refusal) -> Response:
        return answer_json({"message": error.message}, error.status)

    @app.exception_handler(RequestValidationError)
    async def not_valid(_request: Request, error: RequestValidationError) -> Response:
        return answer_json({"message": f"Validation error: {_sentence(error.errors())}"}, 400)

    @app.exception_handler(HTTPException)
    async def unknown_route(_request: Request, error: HTTPException) -> Response:
        return answer_json({"message": error.detail}, error.status_code)

    return Front(app, service, _routes(_API), _routes(_PAGES))


def _routes(routers: Sequence[APIRouter]) -> list[APIRoute]:
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]


def _sentence(errors: Sequence[Any]) -> str:
    """Report what is wrong by the names that the request has."""
    parts = []
    for error in errors[:_MAX_TOLD]:
        where, *place = [str(part) for part in error["loc"]]
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "json_invalid":
            parts.append("the body is not JSON")
        elif not place and error["type"] == "missing":
            parts.append(f"a JSON {where} is required")
        elif not place and error["type"] == "model_attributes_type":
            parts.append(f"the {where} is not a JSON object")
        else:
            parts.append(f"{'.'.join(place) or where}: {message}")
    return "; ".join(parts)

"""The pages behind the links of the API's answers."""

from __future__ import annotations

import base64
from html import escape

from fastapi import APIRouter, Response
from starlette.responses import HTMLResponse

from prefect_qatech.sandbox.engine import Engine
from prefect_qatech.sandbox.routes.common import ServiceOf, ShortIdInPath
from prefect_qatech.sandbox.runs import Run

__all__ = ["router"]

_ONE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
_STYLE = "body{font:16px sans-serif;margin:2em}td,th{text-align:left;vertical-align:top;padding:.3em 1em .3em 0}"
_NOT_FOUND: dict[int | str, dict[str, object]] = {
    404: {"description": "There is no such page", "content": {"text/html": {}}}
}

router = APIRouter(prefix="/p/{project}", tags=["Pages"], default_response_class=HTMLResponse)


@router.get("/results/{shortId}", responses=_NOT_FOUND)
async def run_page(service: ServiceOf, project: str, short_id: ShortIdInPath) -> Response:
    """Show a run."""
    run = service.engine.runs.get(short_id)
    if run is None or project != service.scenario.project.short_id:
        return _page("Not found", "<p>There is no such run.</p>", 404)
    await service.settle(run)
    with service.lock:
        return _run_page(service.engine, run)


@router.get("/screenshots/{name}.png")
async def screenshot(project: str, name: str) -> Response:
    """Show a picture."""
    return Response(_ONE_PIXEL, media_type="image/png")


@router.get("/recordings/{shortId}")
async def recording(project: str, short_id: ShortIdInPath) -> Response:
    """Show a recording."""
    return _page("Recording", "<p>The sandbox records nothing.</p>")


def _page(title: str, body: str, status: int = 200) -> Response:
    page = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>This is prefect-qatech's local sandbox, not QA.tech.</p>{body}</body></html>"
    )
    # Texts of a hostile scenario may hold lone surrogates, which UTF-8 does not know.
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return HTMLResponse(page.encode("utf-8", "replace"), status, headers=headers)


def _run_page(engine: Engine, run: Run) -> Response:
    shown = engine.show(run, "all")
    rows = "".join(
        f'<tr id="{escape(test["shortId"])}">'
        + "".join(
            f"<td>{escape(text or '')}</td>"
            for text in (test["name"], test["status"], test["result"], test["resultTitle"], test["evaluationThought"])
        )
        + "</tr>"
        for test in shown["runTestCases"]
    )
    state = " ".join(word for word in (shown["status"], shown["result"]) if word)
    plan = f"{run.plan.name}: " if run.plan else ""
    return _page(
        f"Run {run.short_id}",
        f"<p><strong>{escape(plan)}{escape(state)}</strong></p>"
        "<table><tr><th>Test</th><th>Status</th><th>Result</th><th>Reason</th><th>Reasoning</th></tr>"
        f"{rows}</table>",
    )

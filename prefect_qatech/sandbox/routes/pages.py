"""The pages behind the links of the API's answers."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter, Response
from starlette.responses import HTMLResponse

from prefect_qatech.sandbox.engine import Engine, Refusal
from prefect_qatech.sandbox.pictures import screenshot
from prefect_qatech.sandbox.routes.common import ServiceOf, ShortIdInPath
from prefect_qatech.sandbox.runs import Run

__all__ = ["router"]

_STYLE = "body{font:16px sans-serif;margin:2em}td,th{text-align:left;vertical-align:top;padding:.3em 1em .3em 0}"
_NO_SCRIPTS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
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


@router.get(
    "/screenshots/{shortId}.svg",
    response_class=Response,
    responses={**_NOT_FOUND, 200: {"description": "A drawing", "content": {"image/svg+xml": {}}}},
)
async def show_screenshot(service: ServiceOf, project: str, short_id: ShortIdInPath, step: str = "") -> Response:
    """Show what the agent saw at the end of a test, or of a step."""
    found = service.engine.executions.get(short_id)
    if found is None:
        return _page("Not found", "<p>There is no such picture.</p>", 404)
    run, execution = found
    with service.lock:
        case, outcome = execution.case, execution.outcome
        address = service.engine.test_url(run, case.http.application) if case.http else None
        where = (address or "").rstrip("/") + (case.http.path if case.http else "")
        # In the middle of a test nobody knows how it ends.
        state = "step " + step[:6] if step else execution.result or execution.status
        picture = screenshot(case.name, state, outcome.title if outcome and not step else None, where)
    return Response(picture, media_type="image/svg+xml", headers=_NO_SCRIPTS)


@router.get("/recordings/{shortId}")
async def recording(project: str, short_id: ShortIdInPath) -> Response:
    """Show a recording."""
    return _page("Recording", "<p>The sandbox records nothing.</p>")


@router.get("/test-cases/{uuid}", responses=_NOT_FOUND)
async def test_case_page(service: ServiceOf, project: str, uuid: str) -> Response:
    """Show a test case."""
    with service.lock:
        case = next((case for case in service.engine.cases.values() if case.uuid == uuid), None)
    if case is None:
        return _page("Not found", "<p>There is no such test case.</p>", 404)
    return _page(case.name, f"<p>{escape(case.goal or '')}</p>")


@router.get("/release-checks/{shortId}", responses=_NOT_FOUND)
async def release_check_page(service: ServiceOf, project: str, short_id: ShortIdInPath) -> Response:
    """Show a release check."""
    try:
        check = service.release_checks.find(short_id)
    except Refusal:
        return _page("Not found", "<p>There is no such release check.</p>", 404)
    if check.run is not None:
        await service.settle(check.run)
    with service.lock:
        shown = service.release_checks.show(check)
    text = shown["markdown"] or shown["progress"]["message"]
    return _page(
        f"Release check {short_id}", f"<p><strong>{escape(shown['status'])}</strong></p><pre>{escape(text)}</pre>"
    )


def _page(title: str, body: str, status: int = 200) -> Response:
    page = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>This is prefect-qatech's local sandbox, not QA.tech.</p>{body}</body></html>"
    )
    # Texts of a hostile scenario may hold lone surrogates, which UTF-8 does not know.
    return HTMLResponse(page.encode("utf-8", "replace"), status, headers=_NO_SCRIPTS)


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

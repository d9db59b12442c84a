"""The sandbox over HTTP: QA.tech's documented API under `/v1`, a page for each run, `/sandbox` to look and steer.

`Service` is what all of it works on, and what `Sandbox` calls directly; its methods may be called from any thread.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import datetime, timezone
from html import escape
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefect_qatech.sandbox.bodies import RerunBody, StartBody
from prefect_qatech.sandbox.checks import carry_out_check, is_loopback
from prefect_qatech.sandbox.engine import Clock, Engine, Execution, Refusal, Run, SandboxCounts
from prefect_qatech.sandbox.faults import Answer, Fault, Faults, answer_with
from prefect_qatech.sandbox.scenario import SandboxScenario

__all__ = ["Service", "create_app"]

_LOG = logging.getLogger(__name__)
_M = TypeVar("_M", bound=BaseModel)
_FAULTS = TypeAdapter(list[Fault])
_GITHUB_FIELDS = ("actor", "branch", "commitHash", "commitMessage", "repository")
# A page that hangs must not hang the answer: the test stays RUNNING, and the next look finds the result.
_MOST_WAIT_FOR_CHECKS_SECONDS = 2.0
_KINDS = (
    ("start", "POST", re.compile(r"/v1/run"), "/v1/run"),
    ("rerun", "POST", re.compile(r"/v1/run/[^/]+"), "/v1/run/{shortId}"),
    ("status", "GET", re.compile(r"/v1/run/[^/]+"), "/v1/run/{shortId}"),
    ("test_case", "GET", re.compile(r"/v1/run-test-case/[^/]+"), "/v1/run-test-case/{shortId}"),
    ("catalogue", "GET", re.compile(r"/v1/applications/[^/]+/environments"), "/v1/applications/{shortId}/environments"),
    ("catalogue", "GET", re.compile(r"/v1/applications"), "/v1/applications"),
    ("catalogue", "GET", re.compile(r"/v1/test-cases"), "/v1/test-cases"),
    ("catalogue", "GET", re.compile(r"/v1/projects"), "/v1/projects"),
    ("catalogue", "GET", re.compile(r"/v1/outbound-ips"), "/v1/outbound-ips"),
)
_ONE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


class Service:
    """The sandbox's whole state."""

    def __init__(self, scenario: SandboxScenario, *, speed: float = 60.0, seed: int = 0, base_url: str = "") -> None:
        self.lock = threading.RLock()
        self.scenario = scenario
        self._speed, self._seed, self._base_url = speed, seed, base_url
        self.reset()

    def reset(self) -> None:
        """Forget all runs, counts and requests; the scenario's own faults and limits apply again."""
        with self.lock:
            self.engine = Engine(self.scenario, Clock(self._speed), seed=self._seed, base_url=self._base_url)
            self.faults = Faults(self.scenario.faults)
            self.log: deque[dict[str, Any]] = deque(maxlen=1000)
            self.checks: dict[Execution, asyncio.Task[None]] = {}

    def counts(self) -> SandboxCounts:
        """Give a copy of the counts."""
        with self.lock:
            return deepcopy(self.engine.counts)

    def requests(self) -> list[dict[str, Any]]:
        """Give the last requests."""
        with self.lock:
            return [dict(entry) for entry in self.log]

    def runs(self) -> list[dict[str, Any]]:
        """Give all runs as they are now."""
        with self.lock:
            for run in self.engine.runs.values():
                run.settle(self.engine.clock.now())
            return [self.engine.summary(run) for run in self.engine.runs.values()]

    def set_faults(self, faults: Sequence[Mapping[str, Any] | Fault]) -> None:
        """Replace the faults."""
        checked = _FAULTS.validate_python([*faults])
        with self.lock:
            self.faults.replace(checked)

    def set_usage_limit(self, remaining: int | None) -> None:
        """Set how many test executions are left; None is no limit."""
        if remaining is not None and (isinstance(remaining, bool) or not isinstance(remaining, int) or remaining < 0):
            raise ValueError(f"remaining test executions: a number from 0, or none at all, not {remaining!r}")
        with self.lock:
            self.engine.remaining = remaining

    def advance(self, seconds: float) -> None:
        """Move the manual clock on."""
        with self.lock:
            self.engine.clock.advance(seconds)

    async def settle(self, run: Run) -> None:
        """Bring a run up to now, real checks included."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _MOST_WAIT_FOR_CHECKS_SECONDS
        while True:
            with self.lock:
                now = self.engine.clock.now()
                run.settle(now)
                for execution in run.due_checks(now):
                    self.checks[execution] = loop.create_task(self._check(run, execution))
                waiting = [self.checks[execution] for execution in run.executions if execution in self.checks]
            if not waiting or loop.time() >= deadline:
                return
            await asyncio.wait(waiting, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED)

    async def _check(self, run: Run, execution: Execution) -> None:
        engine, checks = self.engine, self.checks
        check = execution.case.http
        assert check is not None  # noqa: S101  # only such an execution has a check that is due
        engine.counts["http_checks"] += 1
        try:
            execution.check = await carry_out_check(check, engine.test_url(run, check.application))
        finally:
            checks.pop(execution, None)


def create_app(service: Service) -> ASGIApp:
    """Build the ASGI application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    _add_api(app, service)
    _add_pages(app, service)
    _add_control(app, service)

    @app.exception_handler(Refusal)
    async def refused(_request: Request, error: Refusal) -> Response:
        return _json({"message": error.message}, error.status)

    @app.exception_handler(HTTPException)
    async def unknown_route(_request: Request, error: HTTPException) -> Response:
        return _json({"message": error.detail}, error.status_code)

    return _Front(app, service)


def _add_api(app: FastAPI, service: Service) -> None:
    @app.post("/v1/run")
    async def start(request: Request) -> Response:
        _authorize(request, service, write=True)
        body = _body(await request.body(), required=False)
        trigger = body.pop("trigger", None)
        if trigger not in {None, "API", "GITHUB"}:
            raise Refusal(400, "Validation error: trigger: must be API or GITHUB")
        if "github" in body:
            raise Refusal(400, "Validation error: github: unknown field")
        # The GitHub fields stand at the top level of the body; with API they are ignored.
        github = {name: body.pop(name) for name in _GITHUB_FIELDS if name in body}
        if trigger == "GITHUB":
            body["github"] = github
        asked = _validated(StartBody, body)
        with service.lock:
            return _json(service.engine.start(asked))

    @app.post("/v1/run/{short_id}")
    async def rerun(short_id: str, request: Request) -> Response:
        _authorize(request, service, write=True)
        asked = _validated(RerunBody, _body(await request.body(), required=True))
        run = service.engine.find(short_id)
        await service.settle(run)  # which tests failed is what is known now
        with service.lock:
            return _json(service.engine.rerun(run, asked))

    @app.get("/v1/run/{short_id}")
    async def status(short_id: str, request: Request) -> Response:
        _authorize(request, service)
        which = request.query_params.get("testCases")
        if which not in {None, "failed", "all"}:
            raise Refusal(400, "Validation error: testCases: must be failed or all")
        run = service.engine.find(short_id)
        await service.settle(run)
        with service.lock:
            return _json(service.engine.show(run, which))

    @app.get("/v1/run-test-case/{short_id}")
    async def run_test_case(short_id: str, request: Request) -> Response:
        _authorize(request, service)
        found = service.engine.executions.get(short_id)
        if found is None:
            raise Refusal(404, "Run test case not found")
        await service.settle(found[0])
        with service.lock:
            return _json(service.engine.show_execution(*found))

    @app.get("/v1/applications")
    async def applications(request: Request) -> Response:
        _authorize(request, service)
        apps = service.scenario.applications
        return _json({"applications": [app.model_dump(by_alias=True, exclude={"environments"}) for app in apps]})

    @app.get("/v1/applications/{short_id}/environments")
    async def environments(short_id: str, request: Request) -> Response:
        _authorize(request, service)
        application = service.scenario.application(short_id)
        if application is None:
            raise Refusal(404, "Application not found")
        return _json(application.model_dump(by_alias=True, include={"environments"}))

    @app.get("/v1/test-cases")
    async def test_cases(request: Request) -> Response:
        _authorize(request, service)
        return _json(_list_test_cases(service, request.query_params))

    @app.get("/v1/projects")
    async def projects(request: Request) -> Response:
        _authorize(request, service)
        return _json({"projects": [service.scenario.project.model_dump(by_alias=True)]})

    @app.get("/v1/outbound-ips")
    async def outbound_ips() -> Response:
        return _json({"ipAddresses": service.scenario.outbound_ips})


def _list_test_cases(service: Service, query: Mapping[str, str]) -> dict[str, Any]:
    scenario = service.scenario
    limit, offset = _whole(query, "limit", 100), _whole(query, "offset", 0)
    enabled, wanted = query.get("isEnabled"), query.get("applicationShortId")
    if enabled not in {None, "true", "false"}:
        raise Refusal(400, "Validation error: isEnabled: must be true or false")
    names = {app.short_id: app.name for app in scenario.applications}
    labels = {label for label in query.get("labels", "").split(",") if label}
    shown = {"name", "is_enabled", "labels", "classification", "goal"}
    listed = []
    for case in scenario.cases.values():
        application = case.application or (case.http.application if case.http else next(iter(names), None))
        matches = wanted in {None, application} and enabled in {None, str(case.is_enabled).lower()}
        if matches and labels <= {*case.labels}:
            listed.append(
                {
                    **case.model_dump(by_alias=True, include=shown),
                    "id": case.uuid,
                    "applicationShortId": application,
                    "applicationName": names.get(application or ""),
                    "createdAt": "2026-01-01T00:00:00.000Z",
                }
            )
    return {"testCases": listed[offset : offset + limit], "total": len(listed), "limit": limit, "offset": offset}


def _whole(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise Refusal(400, f"Validation error: {name}: must be a number")
    return int(text)


def _add_pages(app: FastAPI, service: Service) -> None:
    @app.get("/p/{project}/results/{short_id}")
    async def run_page(project: str, short_id: str) -> Response:
        run = service.engine.runs.get(short_id)
        if run is None or project != service.scenario.project.short_id:
            return HTMLResponse("<!DOCTYPE html><title>Not found</title><p>There is no such run.</p>", 404)
        await service.settle(run)
        with service.lock:
            page = _page(service.engine, run)
        # Texts of a hostile scenario may hold lone surrogates, which UTF-8 does not know.
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(page.encode("utf-8", "replace"), headers=headers)

    @app.get("/p/{project}/screenshots/{name}.png")
    async def screenshot(project: str, name: str) -> Response:
        return Response(_ONE_PIXEL, media_type="image/png")

    @app.get("/p/{project}/recordings/{name}")
    async def recording(project: str, name: str) -> Response:
        return HTMLResponse("<!DOCTYPE html><title>Recording</title><p>The sandbox records nothing.</p>")


def _page(engine: Engine, run: Run) -> str:
    shown = engine.show(run, "all")
    rows = "".join(
        f'<tr id="{escape(test["shortId"])}">'
        + "".join(
            f"<td>{escape(test[name] or '')}</td>"
            for name in ("name", "status", "result", "resultTitle", "evaluationThought")
        )
        + "</tr>"
        for test in shown["runTestCases"]
    )
    state = " ".join(word for word in (shown["status"], shown["result"]) if word)
    plan = f"{run.plan.name}: " if run.plan else ""
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Run {escape(run.short_id)}</title>'
        "<style>body{font:16px sans-serif;margin:2em}td,th{text-align:left;vertical-align:top;padding:.3em 1em .3em 0}"
        "</style></head><body>"
        f"<h1>Run {escape(run.short_id)}</h1><p><strong>{escape(plan)}{escape(state)}</strong></p>"
        "<p>This is prefect-qatech's local sandbox, not QA.tech.</p>"
        "<table><tr><th>Test</th><th>Status</th><th>Result</th><th>Reason</th><th>Reasoning</th></tr>"
        f"{rows}</table></body></html>"
    )


def _add_control(app: FastAPI, service: Service) -> None:
    done = {"ok": True}

    @app.get("/sandbox/health")
    async def health() -> Response:
        return _json({**done, "virtual_seconds": service.engine.clock.now(), "speed": service.engine.clock.speed})

    @app.get("/sandbox/counts")
    async def counts() -> Response:
        return _json(service.counts())

    @app.get("/sandbox/requests")
    async def requests() -> Response:
        return _json({"requests": service.requests()})

    @app.get("/sandbox/runs")
    async def runs() -> Response:
        return _json({"runs": service.runs()})

    def on(method: str, path: str, field: str | None, act: Callable[[Any], None]) -> None:
        async def steer(request: Request) -> Response:
            raw = await request.body()
            value: Any = None
            if field is not None:
                value = _parsed(raw)
                if isinstance(value, dict) and value.keys() == {field}:
                    value = value[field]
                elif not isinstance(value, list):  # a bare list of faults will do
                    raise Refusal(400, f"The body has to be a JSON object with {field}, and nothing else")
            try:
                act(value)
            except ValidationError as error:
                raise Refusal(400, _sentence(error)) from None
            except (TypeError, ValueError) as error:
                raise Refusal(400, str(error)) from None
            return _json(done)

        app.add_api_route(path, steer, methods=[method])

    on("POST", "/sandbox/faults", "faults", service.set_faults)
    on("DELETE", "/sandbox/faults", None, lambda _: service.set_faults([]))
    on("POST", "/sandbox/reset", None, lambda _: service.reset())
    on("POST", "/sandbox/clock", "advance_seconds", service.advance)
    on("POST", "/sandbox/usage_limit", "remaining_test_executions", service.set_usage_limit)


class _Front:
    """Outermost: keeps strangers out, notes what was asked, and lets faults happen."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1"):
            if scope["type"] == "http" and scope["path"].startswith("/sandbox") and not _is_local(scope):
                refusal = _json({"message": "The sandbox is steered from this machine only"}, 403)
                await refusal(scope, receive, send)
                return
            await self.app(scope, receive, send)
            return
        body = await _read(receive)
        try:
            shown = _parsed(body) if body else None
        except Refusal:
            shown = body[:1000].decode("utf-8", "replace")
        method, path = scope["method"], scope["path"]
        kind, template = next(
            ((kind, text) for kind, verb, pattern, text in _KINDS if verb == method and pattern.fullmatch(path)),
            ("other", "other"),
        )
        query = scope["query_string"].decode("latin-1")
        service = self.service
        with service.lock:
            engine = service.engine
            fault = service.faults.pick(method, kind)
            entry: dict[str, Any] = {
                "method": method,
                "path": path + (f"?{query}" if query else ""),
                "body": shown,
                "status": None,
                "fault": fault.kind if fault else None,
                "run_short_id": None,
                "virtual_seconds": engine.clock.now(),
                "at": datetime.now(timezone.utc).isoformat(),
            }
            service.log.append(entry)
            name = f"{method} {template}"
            engine.counts["requests"][name] = engine.counts["requests"].get(name, 0) + 1
            engine.counts["gets"] += method == "GET"

        async def carry_out() -> Answer:
            answer = await self._carry_out(scope, body, receive)
            if method == "POST" and answer.status == 200:
                entry["run_short_id"] = json.loads(answer.body).get("run", {}).get("shortId")
            return answer

        if fault is None:
            answer = await carry_out()
            entry["status"] = answer.status
            await answer.send(send)
        else:
            entry["status"] = await answer_with(fault, carry_out, scope, receive, send)

    async def _carry_out(self, scope: Scope, body: bytes, receive: Receive) -> Answer:
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        collected = Answer(0, [], b"")

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                collected.status, collected.headers = message["status"], list(message["headers"])
            else:
                collected.body += message.get("body", b"")

        try:
            await self.app(scope, replay, collect)
        except Exception:
            _LOG.exception("The sandbox failed at %s %s", scope["method"], scope["path"])
            return Answer(500, [(b"content-type", b"application/json")], b'{"message": "Internal server error"}')
        return collected


def _json(payload: Any, status: int = 200) -> Response:
    # ASCII: texts may hold lone surrogates, which JSON can write as escapes and UTF-8 cannot.
    return Response(json.dumps(payload), status, media_type="application/json")


def _authorize(request: Request, service: Service, *, write: bool = False) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    token = next((token for token in service.scenario.tokens if token.token == given.strip()), None)
    if scheme.lower() != "bearer" or token is None:
        raise Refusal(401, "Missing or invalid API key")
    if token.access == "suspended":
        raise Refusal(403, "Organization is suspended")
    if token.access == "forbidden" or (write and token.access == "read"):
        raise Refusal(403, "Invalid token: it does not allow this")
    service.engine.check_project(request.query_params.get("projectShortId"))


def _body(raw: bytes, *, required: bool) -> dict[str, Any]:
    if not raw.strip():
        if required:
            raise Refusal(400, "Validation error: a JSON body is required; {} reruns everything")
        return {}
    body = _parsed(raw)
    if not isinstance(body, dict):
        raise Refusal(400, "Validation error: the body is not a JSON object")
    return body


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise Refusal(400, "Validation error: the body is not JSON") from None


def _validated(model: type[_M], body: dict[str, Any]) -> _M:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise Refusal(400, f"Validation error: {_sentence(error)}") from None


def _sentence(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    parts = [
        f"{'.'.join(str(part) for part in one['loc']) or 'body'}: {one['msg'].removeprefix('Value error, ')}"
        for one in errors
    ]
    return "; ".join(parts[:3])


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


def _is_local(scope: Scope) -> bool:
    # The Host too: a web page in a browser on this machine must not steer the sandbox through a name of its own.
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    names = [scope["client"][0] if scope.get("client") else "", urlsplit(f"//{host}").hostname or ""]
    return all(is_loopback(name) for name in names)

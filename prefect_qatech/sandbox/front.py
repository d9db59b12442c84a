"""Outermost in the sandbox: keeps strangers out, notes what was asked, and lets faults happen."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefect_qatech.addresses import is_loopback
from prefect_qatech.sandbox.faults import Answer, answer_with
from prefect_qatech.sandbox.routes.common import answer_json
from prefect_qatech.sandbox.service import Service

__all__ = ["Front"]

_LOG = logging.getLogger(__name__)
_JSON = (b"content-type", b"application/json")
_MAX_SHOWN = 1000
# What goes in has to come out again, in the log and the list of runs.
_MAX_DEPTH = 100


class Front:
    """An ASGI application around the routes.

    Args:
        app: The routes.
        service: The state.
        api: The routes of the API; faults and the counts know them by method, path and operation id.
        pages: The other routes that are noted.
    """

    def __init__(self, app: ASGIApp, service: Service, api: Sequence[APIRoute], pages: Sequence[APIRoute]) -> None:
        self.app, self.service, self._api, self._pages = app, service, api, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"].startswith("/sandbox"):
            # Steering is not noted: whoever looks at the log is not in it.
            app = self.app if _is_local(scope) else answer_json({"message": "Steered from this machine only"}, 403)
            await app(_as_json(scope), receive, send)
        elif scope["path"].startswith("/v1") or self._route(self._api, scope["method"], scope["path"]):
            await self._serve_api(scope, scope["path"], receive, send)
        elif self._route(self._api, scope["method"], f"/v1{scope['path']}"):
            await self._serve_api(scope, f"/v1{scope['path']}", receive, send)
        else:
            await self._serve_page(scope, receive, send)

    async def _serve_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry = self._note(scope, self._route(self._pages, scope["method"], scope["path"]), None)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
            await send(message)

        await self.app(scope, receive, noting)

    async def _serve_api(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        route = self._route(self._api, scope["method"], path)
        with self.service.lock:
            query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            fault = self.service.faults.pick(scope["method"], route.operation_id if route else None, query)
            shown, fault_of_body = _shown(body)
            entry = self._note(scope, route, shown)
            entry["fault"] = fault.kind if fault else None
            self.service.engine.counts["gets"] += scope["method"] == "GET"
        inner = {**_as_json(scope), "path": path}

        async def carry_out() -> Answer:
            if fault_of_body and route is not None and route.body_field is not None:
                message = {"message": f"Validation error: the body is {fault_of_body}"}
                return Answer(400, [_JSON], json.dumps(message).encode())
            answer = await self._carry_out(inner, body, receive)
            if scope["method"] == "POST" and answer.status == 200:
                entry["run_short_id"] = json.loads(answer.body).get("run", {}).get("shortId")
            return answer

        if fault is None:
            answer = await carry_out()
            entry["status"] = answer.status
            await answer.send(send)
        else:
            entry["status"] = await answer_with(fault, carry_out, inner, receive, send)

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
            return Answer(500, [_JSON], b'{"message": "Internal server error"}')
        return collected

    def _route(self, routes: Sequence[APIRoute], method: str, path: str) -> APIRoute | None:
        return next(
            (route for route in routes if method in (route.methods or ()) and route.path_regex.match(path)), None
        )

    def _note(self, scope: Scope, route: APIRoute | None, body: Any) -> dict[str, Any]:
        method, path = scope["method"], scope["path"]
        query = scope["query_string"].decode("latin-1")
        entry: dict[str, Any] = {
            "method": method,
            "path": path + (f"?{query}" if query else ""),
            "body": body,
            "status": None,
            "fault": None,
            "run_short_id": None,
            "virtual_seconds": self.service.engine.clock.now(),
            "at": datetime.now(timezone.utc).isoformat(),
        }
        template = route.path if route else "other"
        # An unversioned path is counted as what it is.
        name = f"{method} {template if path.startswith('/v1') else template.removeprefix('/v1')}"
        with self.service.lock:
            self.service.log.append(entry)
            requests = self.service.engine.counts["requests"]
            requests[name] = requests.get(name, 0) + 1
        return entry


def _as_json(scope: Scope) -> Scope:
    """Return a request as one of JSON, whatever the client calls it: nothing else is known here."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return {**scope, "headers": [*headers, _JSON]}


def _shown(body: bytes) -> tuple[Any, str | None]:
    """Return a body as the log shows it, and what is wrong with it as JSON: then it is the beginning of its text."""
    if not body:
        return None, None
    fault = "not JSON"
    try:
        value = json.loads(body, parse_constant=_refuse, parse_float=_finite)
        if not _is_too_deep(value):
            return value, None
        fault = "nested too deeply"
    except (ValueError, RecursionError):
        pass
    return body[:_MAX_SHOWN].decode("utf-8", "replace"), fault


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else _items(one))]
    return bool(level)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is a number that JSON does not have")


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(bytes(message.get("body", b"")))
        if not message.get("more_body"):
            return b"".join(parts)


def _is_local(scope: Scope) -> bool:
    # The Host too: a web page in a browser on this machine must not steer the sandbox through a name of its own.
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    try:
        names = [scope["client"][0] if scope.get("client") else "", urlsplit(f"//{host}").hostname or ""]
    except ValueError:
        return False
    return all(is_loopback(name) for name in names)

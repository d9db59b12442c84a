"""A sandbox per test, and a web site to test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from prefect_qatech.sandbox import Sandbox


def eventually(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Api:
    """A sandbox with a manual clock, and a client of it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.client = httpx.Client(
            base_url=f"{sandbox.url}/v1", headers={"Authorization": f"Bearer {sandbox.token}"}, timeout=120
        )

    def start(self, plan: str | None = None, **body: Any) -> str:
        if plan:
            body["testPlanShortId"] = plan
        return self._reference(self.client.post("/run", json=body))

    def rerun(self, run: str, **body: Any) -> str:
        return self._reference(self.client.post(f"/run/{run}", json=body))

    def get(self, run: str, which: str | None = "all") -> dict[str, Any]:
        answer = self.client.get(f"/run/{run}", params={"testCases": which} if which else {})
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def finish(self, run: str) -> dict[str, Any]:
        self.sandbox.advance(10_000)
        return self.get(run)

    def results(self, run: str) -> dict[str, str | None]:
        return {test["name"]: test["result"] or test["status"] for test in self.finish(run)["runTestCases"]}

    @staticmethod
    def _reference(answer: httpx.Response) -> str:
        assert answer.status_code == 200, answer.text
        return answer.json()["run"]["shortId"]  # type: ignore[no-any-return]


@pytest.fixture
def serve() -> Iterator[Callable[..., Api]]:
    opened: list[Api] = []

    def open_one(scenario: Any = None, speed: float = 0) -> Api:
        sandbox = Sandbox(scenario, speed=speed)
        sandbox.__enter__()
        opened.append(Api(sandbox))
        return opened[-1]

    yield open_one
    for api in opened:
        api.client.close()
        api.sandbox.__exit__(None, None, None)


@pytest.fixture(scope="module")
def _shared() -> Iterator[Api]:
    with Sandbox(speed=0) as sandbox:
        api = Api(sandbox)
        yield api
        api.client.close()


@pytest.fixture
def api(_shared: Api) -> Api:
    """The default scenario, as new; one server for all tests of a module."""
    _shared.sandbox.reset()
    return _shared


class Site:
    """A web site on this machine; `pages` maps a path to (status, body), `seen` is what was asked of it."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, str]] = {}
        self.seen: list[str] = []
        self.hold: threading.Event | None = None
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.seen.append(self.path)
                if site.hold is not None:
                    site.hold.wait(300)
                status, body = site.pages.get(self.path, (404, "<h1>Not here</h1>"))
                raw = body.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    site.thread.start()
    yield site
    if site.hold is not None:
        site.hold.set()
    site.server.shutdown()
    site.server.server_close()
    site.thread.join()

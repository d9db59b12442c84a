"""A real Prefect server with the reports of some gates, and Debian's Chromium to look at them.

`make pictures` also writes what is looked at to docs/images.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page, TimeoutError, expect, sync_playwright

from prefect_qatech.sandbox import Sandbox
from tests.e2e.world import PATIENCE_SECONDS, ROOT, World, eventually
from tests.support import time_goes_on
from tests.ui import scenario

CHROMIUM = Path("/usr/bin/chromium")
PICTURES = os.environ.get("QATECH_PICTURES")
# The new UI asks its telemetry's maker for a configuration, again and again; it is not answered here.
KNOWN = ("https://sr-client-cfg.amplitude.com/",)
# It runs as root in CI, and without the others Chromium asks its makers' servers for this and that.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Else each new page also loads the pages with which its address bar unfolds, half a second of work.
    "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup",
    # Nothing but this machine is reached. A route of Playwright's would do the same, but it turns the browser's cache
    # off, and for each page the server would compress and send the whole UI again.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Beacon:
    """A web server that nobody must ask for anything; it remembers who did."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Beacon:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True)
class Gate:
    """A gate that was run: its flow run, its verdict, the sandbox it tested with, its artifacts by key."""

    flow_run_id: str
    verdict: str
    sandbox_url: str
    artifacts: dict[str, str]


@dataclass
class UI:
    """One page of one of Prefect's two UIs, and what happened in it."""

    version: str
    page: Page
    base: str
    asked: list[str] = field(default_factory=list)
    may_ask: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    @property
    def asked_elsewhere(self) -> list[str]:
        """What was asked of others than the Prefect server."""
        return [
            url for url in self.asked if not url.startswith((f"{self.base}/", "data:", "blob:", *KNOWN, *self.may_ask))
        ]

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.base}{'/v2' if self.version == 'v2' else ''}{path}")
        return self.page

    def artifact(self, gate: Gate, key: str) -> Page:
        page = self.open(f"/artifacts/artifact/{gate.artifacts[key]}")
        expect(page.get_by_text(gate.artifacts[key]).first).to_be_visible()
        # Until all of it has come, the new UI draws the page anew now and then.
        page.wait_for_load_state("networkidle")
        return page

    @property
    def content(self) -> Locator:
        """All but the menu."""
        return self.page.locator("main" if self.version == "v2" else ".app-router-view__view")

    def report(self, gate: Gate, key: str) -> Locator:
        """Open a Markdown artifact, and give what is made of it."""
        page = self.artifact(gate, key)
        markdown = page.locator(".prose" if self.version == "v2" else "article.artifact-data-markdown")
        expect(markdown.locator("h2")).to_be_visible()
        return markdown

    def table(self, gate: Gate, key: str) -> Locator:
        """Open a table artifact, and give its table with all rows."""
        page = self.artifact(gate, key)
        table = page.locator("table")
        expect(table.locator("tbody tr").first).to_be_visible()
        if self.version == "v2":
            self._show_all_rows()
        return table

    def _show_all_rows(self) -> None:
        expect(self.page.get_by_text(re.compile(r"Page 1 of \d+"))).to_be_visible()
        options = self.page.get_by_role("option")

        def unfolded() -> bool:
            # What is drawn anew while the page is still loading folds the list again.
            if options.count() == 0:
                self.page.get_by_role("combobox").click()
            with suppress(TimeoutError):
                options.last.click(timeout=2_000)
            return self.page.get_by_text("Page 1 of 1").count() == 1

        eventually(unfolded, "all rows of the table")

    def flow_run(self, gate: Gate, tab: str) -> Page:
        page = self.open(f"/runs/flow-run/{gate.flow_run_id}")
        tabs = page.get_by_role("tab") if self.version == "v2" else page.locator("li.p-tab")
        tabs.get_by_text(tab, exact=True).or_(tabs.filter(has_text=tab)).first.click()
        return page

    def picture(self, name: str, first: Locator, last: Locator | None = None) -> None:
        """Keep a picture from the top of an element to the end of it, or of another, where pictures are asked for."""
        if PICTURES is None or self.version == "v2":
            return
        self.page.wait_for_load_state("networkidle")
        top, bottom = first.bounding_box(), (last or first).bounding_box()
        assert top is not None
        assert bottom is not None
        height = bottom["y"] + bottom["height"] - top["y"]
        self.page.screenshot(
            path=Path(PICTURES) / f"{name}.png",
            clip={"x": top["x"] - 16, "y": top["y"] - 8, "width": top["width"] + 32, "height": height + 24},
            animations="disabled",
        )


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.fail(
            f"There is no {CHROMIUM}, with which tests/ui looks at the reports: tests/ui/install-browser installs it.",
            pytrace=False,
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def beacon() -> Iterator[Beacon]:
    with Beacon() as beacon:
        yield beacon


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    created = World(tmp_path_factory.mktemp("ui"))
    try:
        created.start_server()
        yield created
    finally:
        created.stop_everything()


@pytest.fixture(scope="package")
def gates(world: World, beacon: Beacon) -> Iterator[dict[str, Gate]]:
    """Gates of each verdict, of a hostile service, and three nights of one plan; all of them are over."""
    with ExitStack() as stack:

        def sandbox(project: dict[str, Any], seed: int) -> Sandbox:
            # Slower for pictures, so that not every duration is nought; the seed is that of the runs' short ids.
            return stack.enter_context(Sandbox(project, speed=400 if PICTURES is None else 15, seed=seed))

        shop, hostile = sandbox(scenario.shop(), 1), sandbox(scenario.hostile(beacon.url), 2)
        followed = shop
        if PICTURES is None:
            # On any machine the gate sees its run at work, and shows a progress bar.
            followed = stack.enter_context(Sandbox(scenario.shop(), speed=0, seed=1))
            stack.enter_context(time_goes_on(followed))
        nights = [sandbox(scenario.shop(nightly), 3 + n) for n, nightly in enumerate(("good", "flaky", "broken"))]
        where: dict[str, tuple[Sandbox, str | list[str], dict[str, Any]]] = {
            "pass": (shop, "pln_smoke", {}),
            "fail": (followed, "pln_release", {}),
            "inconclusive": (shop, "pln_orders", {}),
            "hostile": (hostile, "pln_hostile", {"fuse_failures": 100}),
            "words": (hostile, "pln_words", {"deadline_seconds": 1.0}),
            **{f"night-{number}": (night, "pln_nightly", {}) for number, night in enumerate(nights)},
            "regression": (shop, ["pln_smoke", "pln_release", "pln_nowhere"], {}),
            "triage": (hostile, "pln_hostile", {}),
        }
        jobs: list[dict[str, Any]] = [
            {"name": name, "api_url": box.url, "token": box.token, "plan": plan, "policy": policy}
            for name, (box, plan, policy) in where.items()
        ]
        jobs[-1]["triage"] = "hostile"
        command = [sys.executable, "-m", "tests.ui.gates", json.dumps(jobs)]
        done = subprocess.run(
            command,
            env=world.environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        artifacts = world.post("/artifacts/filter", {"limit": 200, "sort": "CREATED_DESC"})
        yield {
            name: Gate(
                run["id"],
                run["verdict"],
                where[name][0].url,
                {found["key"]: found["id"] for found in artifacts if found["flow_run_id"] == run["id"]},
            )
            for name, run in json.loads(done.stdout).items()
        }


@pytest.fixture(scope="package")
def context(browser: Browser) -> Iterator[BrowserContext]:
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)
    context = browser.new_context(
        # A picture holds no more than the window shows.
        viewport={"width": 1280, "height": 1000 if PICTURES is None else 2000},
        locale="en-GB",
        timezone_id="UTC",
        reduced_motion="reduce",
    )
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    yield context
    context.close()


def opened(context: BrowserContext, world: World, version: str) -> UI:
    """Open a page that notes what it is asked to do."""
    ui = UI(version, context.new_page(), world.api_url.removesuffix("/api"))

    def dismiss(dialog: Dialog) -> None:
        ui.dialogs.append(dialog.message)
        dialog.dismiss()

    ui.page.on("dialog", dismiss)
    ui.page.on("request", lambda request: ui.asked.append(request.url))
    return ui


@pytest.fixture(params=["v1", "v2"])
def ui(request: pytest.FixtureRequest, context: BrowserContext, world: World, beacon: Beacon) -> Iterator[UI]:
    """A page of the one and of the other UI, in which nothing that the service wrote may do anything."""
    ui = opened(context, world, request.param)
    yield ui
    live = ui.page.locator('[href^="javascript:" i], [href^="data:" i], [onerror], [onload], [onclick]').count()
    ui.page.close()
    assert live == 0
    assert ui.dialogs == []
    assert ui.asked_elsewhere == []
    assert beacon.asked == []

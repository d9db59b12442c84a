"""The sample storefront on this machine: staging and production, each behind an address of its own."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.storefront import deploy
from flows.storefront.serve import serving
from prefect_qatech import GateNotPassed, QATechCredentials, QATechPolling
from prefect_qatech.sandbox import Sandbox

APPLICATION = "app_shop"
TEST_PLAN = "pln_storefront"


@dataclass(frozen=True)
class LocalStorefront:
    """A storefront that is being served.

    Attributes:
        site: The directory that the deployments go to.
        staging_url: Where a version is tested.
        production_url: Where customers see it once it is promoted.
    """

    site: Path
    staging_url: str
    production_url: str

    def commands(self, version: str) -> dict[str, list[str]]:
        """Give the flow's commands for a version."""
        command = [sys.executable, deploy.__file__, "--site", str(self.site)]
        return {f"{action}_command": [*command, action, version] for action in ("deploy", "promote", "rollback")}


@contextlib.contextmanager
def local_storefront(site: Path, *, staging_port: int = 0) -> Iterator[LocalStorefront]:
    """Serve staging and production.

    Args:
        site: The directory that the deployments go to.
        staging_port: The port of staging; 0 takes a free one.

    Yields:
        The storefront.
    """
    with (
        serving(site / "staging", staging_port) as staging_url,
        serving(site / "production") as production_url,
    ):
        yield LocalStorefront(site, staging_url, production_url)


def version_served_at(url: str) -> str | None:
    """Look at the home page and say which version it is; None where nothing is deployed."""
    # No proxy of the environment: the page is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/index.html", timeout=10) as answer:
            found = re.search(r"Version (v[\w-]+)", answer.read().decode())
    except urllib.error.HTTPError:
        return None
    return found[1] if found else None


def release_sample(release: Callable[..., Any]) -> None:
    """Run the release flow on the sample storefront, tested by the sandbox, or by QA.tech where there is a token.

    Args:
        release: The flow.
    """
    parser = argparse.ArgumentParser(
        prog="flows.release",
        description="Release a version of the sample storefront. It is tested by the sandbox; with QATECH_API_TOKEN "
        "set, by QA.tech, which needs --url: a public address of http://127.0.0.1:PORT, a tunnel for example.",
    )
    parser.add_argument("version", nargs="?", default=deploy.BASE, help=", ".join(deploy.VERSIONS))
    parser.add_argument("--port", type=int, default=8410, help="port of the staging server")
    parser.add_argument("--url", help="the address under which QA.tech reaches the staging server")
    parser.add_argument("--application", default=APPLICATION, help="short id of the application at QA.tech")
    parser.add_argument("--plan", default=TEST_PLAN, help="short id of the test plan")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        site = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storefront-")))
        try:
            shop = stack.enter_context(local_storefront(site, staging_port=given.port))
        except OSError as error:
            parser.error(f"port {given.port}: {error}")
        if os.environ.get("QATECH_API_TOKEN") or os.environ.get("QATECH_API_KEY"):
            credentials, polling = QATechCredentials.from_env(), None
        else:
            sandbox = stack.enter_context(Sandbox())
            credentials = QATechCredentials.model_validate({"api_token": sandbox.token, "api_url": sandbox.url})
            polling = QATechPolling(first_seconds=0.5, max_seconds=1)
        try:
            release(
                environment_url=given.url or shop.staging_url,
                application_short_id=given.application,
                test_plan_short_id=given.plan,
                credentials=credentials,
                polling=polling,
                **shop.commands(given.version),
            )
        except GateNotPassed as error:
            sys.exit(str(error))
        finally:
            for name, url in (("Staging", shop.staging_url), ("Production", shop.production_url)):
                print(f"{name} serves {version_served_at(url) or 'nothing'}.")

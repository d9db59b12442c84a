"""The sample storefront on this machine: staging and production, each behind an address of its own."""

from __future__ import annotations

import contextlib
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from flows.storefront import deploy
from flows.storefront.serve import serving

APPLICATION = "app_shop"
TEST_PLAN = "pln_storefront"


class Commands(TypedDict):
    """The release flow's commands for a version."""

    deploy_command: list[str]
    promote_command: list[str]
    rollback_command: list[str]


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

    def commands(self, version: str) -> Commands:
        """Give the flow's commands for a version."""

        def command(action: str) -> list[str]:
            return [sys.executable, deploy.__file__, "--site", str(self.site), action, version]

        return {
            "deploy_command": command("deploy"),
            "promote_command": command("promote"),
            "rollback_command": command("rollback"),
        }


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

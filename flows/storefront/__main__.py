"""Releases a version of the sample storefront on this machine: `python -m flows.storefront v2-stumbles`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

from flows.release import release
from flows.storefront import deploy
from flows.storefront.local import APPLICATION, TEST_PLAN, local_storefront, version_served_at
from prefect_qatech import GateNotPassed, QATechCredentials, QATechPolling
from prefect_qatech.sandbox import Sandbox


def main() -> None:
    """Run the release flow, tested by the sandbox, or by QA.tech where there is a token."""
    parser = argparse.ArgumentParser(
        prog="flows.storefront",
        description="Release a version of the sample storefront. It is tested by the sandbox; with QATECH_API_TOKEN "
        "set, by QA.tech, which needs --url: a public address of http://127.0.0.1:PORT, a tunnel for example.",
    )
    parser.add_argument("version", nargs="?", default=deploy.BASE, help=", ".join(deploy.VERSIONS))
    parser.add_argument("--port", type=int, default=8410, help="port of the staging server")
    parser.add_argument("--url", help="the address under which QA.tech reaches the staging server")
    parser.add_argument("--application", default=APPLICATION, help="short id of the application at QA.tech")
    parser.add_argument("--plan", default=TEST_PLAN, help="short id of the test plan")
    given = parser.parse_args()
    if given.version not in deploy.VERSIONS:
        sys.exit(f"There is no version {given.version}; there are {', '.join(deploy.VERSIONS)}.")
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


if __name__ == "__main__":
    main()

"""The release flow, live: three versions of a sample shop, deployed, tested, and promoted or rolled back.

    python -m flows.demo

Everything is on this machine: the sandbox in place of QA.tech, the shop's web servers, and Prefect's embedded server
with a directory of its own, so that neither your Prefect profile nor your QA.tech account is touched.

A worker process in a process group of its own does the work; the process that you start only watches over it. Prefect's
server is a child of the worker, so however the demo ends, the group is what has to be gone.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version as version_of_package
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.storefront.local import LocalStorefront
    from prefect_qatech.sandbox import Sandbox

ROOT = Path(__file__).resolve().parent.parent
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 8.0
SANDBOX_SPEED = 60.0


def main() -> int:
    """Watch over the worker, and leave nothing behind.

    Returns:
        The exit code: 0 when the three versions behaved as they should.
    """
    parser = argparse.ArgumentParser(prog="flows.demo", description="Release three versions of a sample shop.")
    parser.add_argument("--verbose", action="store_true", help="show all of Prefect's log")
    parser.add_argument("--home", type=Path, default=ROOT / ".demo", metavar="DIR", help="where Prefect keeps its data")
    parser.add_argument("--worker", type=Path, metavar="SITE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        return 0 if work(given.worker, verbose=given.verbose) else 1

    # The handler only notes the signal: no exception can come between the worker's start and the care for it.
    received: list[int] = []
    for number in STOPPING:
        signal.signal(number, lambda number, _: received.append(number))
    home: Path = given.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    (home / ".gitignore").write_text("*\n")
    prefect_home = home / f"prefect-{version_of_package('prefect')}"
    print("Starting Prefect's embedded server; with an empty database that takes a while ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="qatech-demo-") as site:
        worker = subprocess.Popen(  # noqa: S603 - this program itself
            [sys.executable, "-m", "flows.demo", "--worker", site, *(["--verbose"] if given.verbose else [])],
            env=environment(prefect_home, verbose=given.verbose),
            # Not where you are: Prefect reads settings from .env, prefect.toml and pyproject.toml there.
            cwd=home,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while worker.poll() is None and not received:
                time.sleep(0.1)
        finally:
            end(worker, received)
    if received:
        print("\nInterrupted; everything that the demo had started is ended.", file=sys.stderr)
        return 128 + received[0]
    if worker.returncode in (0, 1):
        print(
            f"\nTo look at the flow runs, their logs and the reports (Artifacts):\n"
            f"  PREFECT_HOME={prefect_home} {Path(sys.executable).parent / 'prefect'} server start\n"
            "and open http://127.0.0.1:4200. The addresses of runs and of the shop are dead:\n"
            "the sandbox and the shop's servers have ended with the demo."
        )
    return worker.returncode


def environment(prefect_home: Path, *, verbose: bool) -> dict[str, str]:
    """Give the worker's environment: nothing of the user's Prefect and QA.tech settings in it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "QATECH_"))}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")])),
        # All addresses of the demo are on this machine.
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # The level of what is shown only: the flow runs' logs on the server are complete.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if verbose else "CRITICAL",
    }


def end(worker: subprocess.Popen[bytes], received: list[int]) -> None:
    """End the worker and all processes of its group."""
    before = len(received)
    if worker.poll() is None:
        # First alone, so that the flow run can still tell Prefect's server that it was stopped.
        worker.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        while worker.poll() is None and time.monotonic() < deadline and len(received) == before:
            time.sleep(0.05)
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_SECONDS / 2
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, number)
            while time.monotonic() < deadline:
                worker.poll()
                os.killpg(worker.pid, 0)
                time.sleep(0.05)


@dataclass(frozen=True)
class Expected:
    """How a version should behave."""

    version: str
    state: str
    verdict: str
    reruns: int
    flaky: tuple[str, ...]
    failed: tuple[str, ...]
    in_staging: str
    in_production: str


CHECKOUT = ("Checkout takes an order",)
EXPECTED = (
    Expected("v1-good", "Passed", "pass", 0, (), (), "v1-good", "v1-good"),
    Expected("v2-stumbles", "Passed, 1 flaky", "pass", 1, CHECKOUT, (), "v2-stumbles", "v2-stumbles"),
    Expected("v3-broken", "Gate failed", "fail", 2, (), CHECKOUT, "v2-stumbles", "v2-stumbles"),
)


HEAD = ("Version", "Gate", "Attempts", "Starts + reruns", "Tests", "Deployment")


@dataclass(frozen=True)
class Seen:
    """How it behaved: by the gate's report, the sandbox's counts, and a look at the shop."""

    state: str
    message: str
    verdict: str
    attempts: int
    passed: int
    flaky: tuple[str, ...]
    failed: tuple[str, ...]
    starts: int
    reruns: int
    in_staging: str | None
    in_production: str | None

    def is_as(self, expected: Expected) -> bool:
        """Whether that is what should happen."""
        return self.starts == 1 and all(
            getattr(self, name) == getattr(expected, name)
            for name in ("state", "verdict", "reruns", "flaky", "failed", "in_staging", "in_production")
        )

    def row(self, version: str) -> tuple[str, ...]:
        """Give its row of the table."""
        tests = [f"{self.passed} passed"]
        tests += [
            f"{word}: {', '.join(names)}" for word, names in (("flaky", self.flaky), ("failed", self.failed)) if names
        ]
        if self.in_production == version:
            deployment = "promoted"
        elif self.in_staging != version:
            deployment = f"rolled back to {self.in_staging or 'nothing'}"
        else:
            deployment = "still in staging"
        counted = f"{self.starts} + {self.reruns}"
        return version, self.verdict, str(self.attempts), counted, ", ".join(tests), deployment


def work(site: Path, *, verbose: bool) -> bool:
    """Release the three versions and show what happened.

    Args:
        site: The directory that the shop is deployed to.
        verbose: Whether Prefect shows its own log.

    Returns:
        Whether they behaved as they should.
    """
    # Prefect reads its settings at the import, so the import is here, in the worker.
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.storefront.local import local_storefront
    from prefect_qatech.sandbox import Sandbox

    if not verbose:
        show_own_log()
    began = time.monotonic()
    with (
        # Prefect joins its heartbeat thread at the end of each sync flow run, which takes a second.
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        Sandbox(speed=SANDBOX_SPEED) as sandbox,
        local_storefront(site) as shop,
    ):
        seen = {expected.version: release_version(expected.version, sandbox, shop) for expected in EXPECTED}
        requests = sum(sandbox.counts()["requests"].values())
    print("\n".join(["", *table([HEAD, *(one.row(version) for version, one in seen.items())])]))
    print(f"\nStarts and reruns are what the sandbox counted ({requests} requests in all).")
    print(f"Took {time.monotonic() - began:.0f} s.")
    for version, one in seen.items():
        if one.message:
            sentences = textwrap.fill(one.message, 110, break_long_words=False, break_on_hyphens=False)
            print(f"\nThe flow run of {version} is in the state {one.state}:\n{textwrap.indent(sentences, '  ')}")
    wrong = [expected for expected in EXPECTED if not seen[expected.version].is_as(expected)]
    for expected in wrong:
        print(f"\nNot as it should be:\n  expected {expected}\n  seen     {seen[expected.version]}")
    return not wrong


def release_version(version: str, sandbox: Sandbox, shop: LocalStorefront) -> Seen:
    """Run the release flow for one version."""
    from flows.release import release
    from flows.storefront.local import APPLICATION, TEST_PLAN, version_served_at
    from prefect_qatech import GateNotPassed, GateReport, QATechCredentials, QATechPolling, TestVerdict

    print(f"\nReleasing {version}", flush=True)
    before = sandbox.counts()
    # A name that is found again in Prefect's UI.
    state = release.with_options(flow_run_name=f"release-{version}")(
        environment_url=shop.staging_url,
        application_short_id=APPLICATION,
        test_plan_short_id=TEST_PLAN,
        credentials=QATechCredentials.model_validate({"api_token": sandbox.token, "api_url": sandbox.url}),
        polling=QATechPolling(first_seconds=0.5, max_seconds=0.5),
        return_state=True,
        **shop.commands(version),
    )
    after = sandbox.counts()
    result = state.result(raise_on_failure=False)
    report = result.report if isinstance(result, GateNotPassed) else result
    if not isinstance(report, GateReport):
        raise SystemExit(f"The release of {version} ended without a verdict: {state.name}: {state.message}")

    def names(*verdicts: TestVerdict) -> tuple[str, ...]:
        return tuple(test.name for test in report.tests_with(*verdicts))

    return Seen(
        state=state.name or "",
        message=str(result) if isinstance(result, GateNotPassed) else "",
        verdict=report.verdict.value,
        attempts=len(report.attempts),
        passed=len(names(TestVerdict.PASSED, TestVerdict.RECOVERED)),
        flaky=names(TestVerdict.FLAKY),
        failed=names(TestVerdict.FAILED),
        starts=after["starts"] - before["starts"],
        reruns=after["reruns"] - before["reruns"],
        in_staging=version_served_at(shop.staging_url),
        in_production=version_served_at(shop.production_url),
    )


def show_own_log() -> None:
    """Show what the flow and this package log, without Prefect's own lines around it."""
    import prefect
    from prefect.logging.configuration import setup_logging

    setup_logging()
    prefects_own = str(Path(prefect.__file__).parent) + os.sep
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("  %(message)s"))
    handler.addFilter(lambda record: not record.pathname.startswith(prefects_own))
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addHandler(handler)


def table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Lay out rows, the first of them the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in widths)


if __name__ == "__main__":
    sys.exit(main())

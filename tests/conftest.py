"""What all tests share: one Prefect server and one sandbox for the session; each test finds the sandbox new."""

from __future__ import annotations

import gc
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import settings
from prefect.settings import (
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)

from prefect_qatech import QATechCredentials, QATechPolling
from prefect_qatech.sandbox import Sandbox
from tests.e2e.world import LESS_WORK, World
from tests.head_start import copy_tables, keep_tables, one_certificate
from tests.wire import Everything

# No test measures how fast the machine is.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")

# What is imported stays: to look through it for garbage, again and again, is a twentieth of what the tests cost.
gc.set_threshold(10_000)


def pytest_collection_finish() -> None:
    """Leave alone what is there before the first test."""
    gc.freeze()


# Folders whose tests start servers, workers and flow runs, or a browser; and those of their files that take longest.
OF_MANY_PROCESSES = ("e2e", "ui")
LONGEST = ("test_crashed.py", "test_deployments.py", "test_documents.py", "test_never_twice.py")

_refusals = 0


def pytest_runtest_setup() -> None:
    """Begin to count what Prefect's servers give up during a test."""
    global _refusals
    _refusals = World.refusals()


def prefect_gave_something_up() -> bool:
    """Whether a test that failed may run again: Prefect's server on SQLite loses what meets a locked database."""
    return World.refusals() > _refusals


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a Prefect server as slow, and begin with what takes longest: a long file must not be the last."""
    for item in items:
        if "prefect_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
        if item.path.parent.name in OF_MANY_PROCESSES:
            # On any machine: each waits for several other processes, more than once where it runs again.
            item.add_marker(pytest.mark.timeout(1800))
            item.add_marker(pytest.mark.flaky(reruns=2, condition=prefect_gave_something_up))
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> tuple[bool, bool, bool]:
        is_of_many = item.path.parent.name in OF_MANY_PROCESSES
        return not is_of_many, item.path.name not in LONGEST, item.path not in slow

    items.sort(key=place)


def _light_server(args: list[str], *, env: dict[str, str], **options: Any) -> subprocess.Popen[bytes]:
    """Start `python -m uvicorn ...` without garbage collector, as tests/e2e/world.py does, which says why."""
    assert args[1:3] == ["-m", "uvicorn"]
    code = "import gc, uvicorn; gc.disable(); uvicorn.main()"
    # No test of this server has an automation.
    less_work = {**LESS_WORK, "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false"}
    return subprocess.Popen([args[0], "-c", code, *args[3:]], env={**env, **less_work}, **options)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server on a fresh database."""
    # Seconds to import, and many tests need no server.
    from prefect.testing.utilities import prefect_test_harness

    database = Path(mkdtemp()) / "prefect-test.db"
    copy_tables(database)
    started = {**vars(subprocess), "Popen": _light_server}
    with (
        patch("prefect.testing.utilities.mkdtemp", lambda: str(database.parent)),
        patch("prefect.server.api.server.subprocess", SimpleNamespace(**started)),
        temporary_settings({PREFECT_API_SSL_CERT_FILE: str(one_certificate())}),
        prefect_test_harness(server_startup_timeout=120),
        # Prefect joins its heartbeat thread at the end of each sync flow run, which takes a second. Each new client
        # asks for a token that this server, as by default, does not have.
        temporary_settings(
            {
                PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
                PREFECT_CLIENT_MAX_RETRIES: 8,
                PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False,
            }
        ),
        # Its client waits 2, 4, 8... seconds when SQLite is locked, as it is now and then: here 0.2, 0.4, 0.8...
        patch("prefect.client.base.clamped_poisson_interval", lambda average, *_: average / 10),
    ):
        keep_tables(database)
        yield


@pytest.fixture(scope="session")
def qatech_prefect(prefect_server: None) -> None:
    """The fixtures for users run on the same server."""


@pytest.fixture
def sandbox(qatech_sandbox: Sandbox) -> Sandbox:
    """A sandbox in which an hour takes about two seconds, and that knows nothing yet."""
    return qatech_sandbox


@pytest.fixture
def credentials(sandbox: Sandbox) -> QATechCredentials:
    """Credentials of the sandbox, also where there is no Prefect server."""
    return QATechCredentials(api_token=sandbox.token, api_url=sandbox.url)


@pytest.fixture
def polling(qatech_polling: QATechPolling) -> QATechPolling:
    """Looks as often as a fast sandbox needs."""
    return qatech_polling


@pytest.fixture
def everything() -> Iterator[Everything]:
    """Every logger there is, at its lowest level, also those that keep what they write to themselves."""
    handler = Everything()
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    before = [(logger, logger.level, logger.disabled) for logger in [logging.root, *loggers]]
    alone = [logging.root, *(logger for logger in loggers if not logger.propagate)]
    for logger, _, _ in before:
        logger.setLevel(1)
        logger.disabled = False
    for logger in alone:
        logger.addHandler(handler)
    yield handler
    for logger in alone:
        logger.removeHandler(handler)
    for logger, level, disabled in before:
        logger.setLevel(level)
        logger.disabled = disabled

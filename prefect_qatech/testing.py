"""Pytest fixtures for flows that call QA.tech: a sandbox, credentials for it, and a Prefect server to throw away.

They are loaded where they are asked for, in the `conftest.py` at the top of your tests or in a test's own module:

    pytest_plugins = ["prefect_qatech.testing"]

There is no entry point `pytest11`: pytest would load it into every run of an environment that has this package.

| Fixture | What it is |
|---|---|
| `qatech_sandbox` | a running sandbox, as new for each test; counts starts, reruns and requests |
| `qatech_credentials` | credentials of the sandbox; brings `qatech_prefect` with it |
| `qatech_polling` | polls as often as a fast sandbox needs |
| `qatech_prefect` | Prefect's test harness, a server on a fresh database: no flow run of a test reaches your own |
| `qatech_scenario` | what the sandbox serves: the default scenario; override it with a file, a mapping or a name |
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.sandbox import Sandbox

__all__ = ["qatech_credentials", "qatech_polling", "qatech_prefect", "qatech_sandbox", "qatech_scenario"]

SPEED = 2000.0
"""An hour of the sandbox takes about two seconds."""


@pytest.fixture(scope="session")
def qatech_prefect() -> Iterator[None]:
    """Run a Prefect server on a fresh database; override it where your tests have a harness of their own."""
    # It brings all of Prefect's server, which takes seconds to import.
    from prefect.testing.utilities import prefect_test_harness

    # Prefect joins its heartbeat thread at the end of each sync flow run, which takes a second.
    with prefect_test_harness(120), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


@pytest.fixture(scope="session")
def qatech_scenario() -> str | Path | Mapping[str, Any] | None:
    """Return what the sandbox serves: None is its default scenario."""
    return None


@pytest.fixture(scope="session")
def _running_qatech_sandbox(qatech_scenario: str | Path | Mapping[str, Any] | None) -> Iterator[Sandbox]:
    with Sandbox(qatech_scenario, speed=SPEED) as sandbox:
        yield sandbox


@pytest.fixture
def qatech_sandbox(_running_qatech_sandbox: Sandbox) -> Sandbox:
    """Return a running sandbox on a free port that knows nothing yet."""
    _running_qatech_sandbox.reset()
    return _running_qatech_sandbox


@pytest.fixture
def qatech_credentials(qatech_sandbox: Sandbox, qatech_prefect: None) -> QATechCredentials:
    """Return credentials of the sandbox; flows that take them run on the Prefect server of the tests."""
    return QATechCredentials.model_validate({"api_token": qatech_sandbox.token, "api_url": qatech_sandbox.url})


@pytest.fixture
def qatech_polling() -> QATechPolling:
    """Return a polling that is fast enough for the sandbox."""
    return QATechPolling(first_seconds=0.05, max_seconds=0.2)

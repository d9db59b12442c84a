"""A ledger on a real Prefect server, and trouble with it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from prefect.client.orchestration import PrefectClient, get_client

from prefect_qatech.ledger import Ledger
from tests.ledger.books import Trouble
from tests.support import new_flow_run


@pytest.fixture
async def client(prefect_server: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


@pytest.fixture
async def book(client: PrefectClient) -> Ledger:
    """The ledger of a new flow run."""
    return Ledger(client, await new_flow_run(client))


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    return Trouble(monkeypatch)

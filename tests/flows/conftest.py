from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.storefront.local import APPLICATION, TEST_PLAN, LocalStorefront, local_storefront
from prefect_qatech import QATechCredentials, QATechPolling

Arguments = Callable[..., dict[str, Any]]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[LocalStorefront]:
    """The sample storefront, with nothing deployed yet."""
    with local_storefront(tmp_path / "site") as running:
        yield running


@pytest.fixture
def arguments(shop: LocalStorefront, credentials: QATechCredentials, polling: QATechPolling) -> Arguments:
    """What the release flow takes for a version of the storefront, tested by the sandbox."""

    def of(version: str, **changes: Any) -> dict[str, Any]:
        return {
            "environment_url": shop.staging_url,
            "application_short_id": APPLICATION,
            "test_plan_short_id": TEST_PLAN,
            "credentials": credentials,
            "polling": polling,
            **shop.commands(version),
            **changes,
        }

    return of

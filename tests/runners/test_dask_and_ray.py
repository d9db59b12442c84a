"""Our tasks on Dask and on Ray; `make test-runners` installs both."""

from __future__ import annotations

import pytest

from tests.e2e.elsewhere import Elsewhere, check_campaign, check_errors, check_no_token


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_campaign(elsewhere: Elsewhere, kind: str) -> None:
    check_campaign(elsewhere, kind)
    check_no_token(elsewhere.world.home)


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_errors_come_back(elsewhere: Elsewhere, kind: str) -> None:
    check_errors(elsewhere, kind)
    check_no_token(elsewhere.world.home)

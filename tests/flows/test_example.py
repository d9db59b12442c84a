"""Tests of the flows, on the sandbox and a Prefect server to throw away.

They need `pip install "prefect-qatech[sandbox]" pytest`.
"""

import pytest

from flows.check import check_release
from prefect_qatech import GateFailed, QATechCredentials, QATechPolling
from prefect_qatech.sandbox import Sandbox

pytest_plugins = ["prefect_qatech.testing"]


def test_a_release_that_stumbles_once_goes_out(
    qatech_sandbox: Sandbox, qatech_credentials: QATechCredentials, qatech_polling: QATechPolling
) -> None:
    report = check_release(qatech_credentials, "pln_flaky", polling=qatech_polling)
    assert report.passed
    assert (qatech_sandbox.counts()["starts"], qatech_sandbox.counts()["reruns"]) == (1, 1)


def test_a_broken_release_does_not(qatech_credentials: QATechCredentials, qatech_polling: QATechPolling) -> None:
    with pytest.raises(GateFailed, match="Pay with a credit card"):
        check_release(qatech_credentials, "pln_broken", polling=qatech_polling)

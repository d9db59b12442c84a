"""On a retry Prefect returns the result of a flow that was called, where it is stored, and does not call it again.

A gate is called: what is deployed by then may be another version.
"""

from pathlib import Path

import pytest
from prefect import flow
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, PREFECT_RESULTS_PERSIST_BY_DEFAULT, temporary_settings

from prefect_qatech import (
    GateReport,
    InvalidInputError,
    QATechCredentials,
    QATechPolling,
    agather_gates,
    arelease_gate,
    release_gate,
    verdict_as_state,
)
from prefect_qatech.sandbox import Sandbox
from tests.support import Failing, counted

pytestmark = pytest.mark.usefixtures("prefect_server")

POLLING = QATechPolling(first_seconds=0.05, max_seconds=0.2)


@pytest.mark.parametrize(
    ("who", "how"),
    [
        ("a setting", "arelease_gate"),
        ("a setting", "agather_gates"),
        ("a setting", "a gate of one's own"),
        ("the flow that calls it", "release_gate"),
        ("the flow that calls it", "agather_gates"),
    ],
)
async def test_stored_results_let_no_version_out_that_was_not_tested(
    sandbox: Sandbox, credentials: QATechCredentials, tmp_path: Path, who: str, how: str
) -> None:
    publish, targets = Failing(), list[str | None]()

    @verdict_as_state
    @flow
    async def own(target: str) -> GateReport:
        return await arelease_gate.fn(credentials, "pln_green", target=target, polling=POLLING)

    @flow(retries=1, persist_result=who == "the flow that calls it" or None)
    async def release() -> None:
        target = f"v{publish.calls + 1}"
        if how == "agather_gates":
            many = await agather_gates(credentials, {"one": "pln_green"}, target=target, polling=POLLING)
            report = many.reports["one"]
        elif how == "arelease_gate":
            report = await arelease_gate(credentials, "pln_green", target=target, polling=POLLING)
        elif how == "release_gate":
            report = release_gate(credentials, "pln_green", target=target, polling=POLLING)
        else:
            report = await own(target)
        targets.append(report.target)
        publish()

    stored = {PREFECT_RESULTS_PERSIST_BY_DEFAULT: who == "a setting", PREFECT_LOCAL_STORAGE_PATH: tmp_path}
    with temporary_settings(stored):
        await release()
    assert targets == ["v1", "v2"]
    assert counted(sandbox) == (2, 0)


@pytest.mark.parametrize("how", ["the gate itself", "many gates", "a flow that is the gate"])
async def test_a_gate_that_is_told_to_store_its_result_is_called_alone(
    sandbox: Sandbox, credentials: QATechCredentials, tmp_path: Path, how: str
) -> None:
    @flow(persist_result=True)
    async def own() -> GateReport:
        return await arelease_gate.fn(credentials, "pln_green", polling=POLLING)

    @flow
    async def release() -> None:
        if how == "the gate itself":
            gate = arelease_gate.with_options(persist_result=True)
            await gate(credentials, "pln_green", polling=POLLING, report_directory=report)
        elif how == "many gates":
            gates = agather_gates.with_options(persist_result=True)
            await gates(credentials, {"one": "pln_green"}, polling=POLLING)
        await own()

    report = str(tmp_path / "report")
    await arelease_gate(credentials, "pln_green", polling=POLLING, report_directory=report)
    assert (tmp_path / "report" / "verdict.json").exists()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        with pytest.raises(InvalidInputError, match="Set persist_result=False on it"):
            await release()
        assert counted(sandbox) == (1, 0)
        if how == "the gate itself":
            assert not (tmp_path / "report" / "verdict.json").exists(), "no earlier verdict is left to be read"
        assert (await own()).passed

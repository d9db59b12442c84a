"""On a retry Prefect returns the result of a flow that was called, where it is stored, and does not call it again.

A gate is called: what is deployed by then may be another version.
"""

from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, PREFECT_RESULTS_PERSIST_BY_DEFAULT, temporary_settings

from prefect_qatech import (
    GateReport,
    InvalidInputError,
    QATechCredentials,
    agather_gates,
    arelease_gate,
    release_gate,
    verdict_as_state,
)
from prefect_qatech.sandbox import Sandbox
from tests.support import POLLING, Failing, counted

pytestmark = pytest.mark.usefixtures("prefect_server")


async def test_stored_results_let_no_version_out_that_was_not_tested(
    sandbox: Sandbox, credentials: QATechCredentials, tmp_path: Path
) -> None:
    """A setting wants results to be stored, and so does the flow that calls the gates."""
    publish, targets = Failing(), dict[str, list[str | None]]()

    @verdict_as_state
    @flow
    async def own(target: str) -> GateReport:
        return await arelease_gate.fn(credentials, "pln_green", target=target, polling=POLLING)

    @flow(retries=1, persist_result=True)
    async def release() -> None:
        options: dict[str, Any] = {"target": f"v{publish.calls + 1}", "polling": POLLING}
        many = await agather_gates(credentials, {"one": "pln_green"}, **options)
        reports = {
            "agather_gates": many.reports["one"],
            "arelease_gate": await arelease_gate(credentials, "pln_green", **options),
            "release_gate": release_gate(credentials, "pln_green", **options),
            "a gate of one's own": await own(options["target"]),
        }
        for how, report in reports.items():
            targets.setdefault(how, []).append(report.target)
        publish()

    with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: True, PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
        await release()
    assert list(targets.values()) == [["v1", "v2"]] * 4, targets
    assert counted(sandbox) == (8, 0)


async def test_a_gate_that_is_told_to_store_its_result_is_called_alone(
    sandbox: Sandbox, credentials: QATechCredentials, tmp_path: Path
) -> None:
    report = str(tmp_path / "report")
    gate = arelease_gate.with_options(persist_result=True)
    gates = agather_gates.with_options(persist_result=True)

    @flow(persist_result=True)
    async def own() -> GateReport:
        return await arelease_gate.fn(credentials, "pln_green", polling=POLLING)

    @flow
    async def release() -> None:
        with pytest.raises(InvalidInputError, match="Set persist_result=False on it"):
            await gate(credentials, "pln_green", polling=POLLING, report_directory=report)
        with pytest.raises(InvalidInputError, match="Set persist_result=False on it"):
            await gates(credentials, {"one": "pln_green"}, polling=POLLING)
        with pytest.raises(InvalidInputError, match="Set persist_result=False on it"):
            await own()

    await arelease_gate(credentials, "pln_green", polling=POLLING, report_directory=report)
    assert (tmp_path / "report" / "verdict.json").exists()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        await release()
        assert counted(sandbox) == (1, 0)
        assert not (tmp_path / "report" / "verdict.json").exists(), "no earlier verdict is left to be read"
        assert (await own()).passed

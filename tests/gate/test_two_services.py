"""A flow that asks two services may get the same id from both: what is known of one run says nothing of the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from prefect import flow

from prefect_qatech import (
    GatePolicy,
    GateReport,
    InvalidInputError,
    Verdict,
    arelease_gate,
    arerun_test_run,
    astart_test_run,
)
from prefect_qatech.sandbox import Sandbox
from prefect_qatech.verdict.judge import Incident
from tests.support import POLLING, Failing, cases, counted, credentials_for, one_plan

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def services() -> Iterator[tuple[Sandbox, Sandbox]]:
    """Two services that give their runs the same ids: the test of one passes, that of the other fails."""
    with ExitStack() as stack:
        passing, failing = (
            stack.enter_context(Sandbox(one_plan(cases(outcome)), speed=2000)) for outcome in ("passed", "failed")
        )
        yield passing, failing


async def judge(sandbox: Sandbox, request: str | None = "pln_one", **arguments: Any) -> GateReport:
    """A gate without reruns that returns its report whatever it says."""
    arguments = {"policy": GatePolicy(max_reruns=0), "polling": POLLING, "raise_unless_passed": False, **arguments}
    return await arelease_gate(credentials_for(sandbox), request, **arguments)


async def test_a_pass_at_one_service_starts_nothing_anew_at_the_other(services: tuple[Sandbox, Sandbox]) -> None:
    passing, failing = services
    publish, reports = Failing(), list[GateReport]()

    @flow(retries=1)
    async def release() -> None:
        reports.extend([await judge(passing, label="one"), await judge(failing, label="two")])
        publish()

    await release()
    assert reports[0].run_short_id == reports[1].run_short_id
    assert [report.verdict for report in reports] == [Verdict.PASS, Verdict.FAIL] * 2
    assert counted(passing) == (2, 0), "a pass is good for the attempt in which it was found"
    assert counted(failing) == (1, 0), "a verdict that is no pass stays"
    assert [(one.started_at, one.finished_at) for one in reports[1].attempts] == [
        (one.started_at, one.finished_at) for one in reports[3].attempts
    ]


async def test_a_run_from_elsewhere_is_judged_by_what_is_known_of_it_at_its_own_service(
    services: tuple[Sandbox, Sandbox],
) -> None:
    """The flow has started a run for v1 at one of them, and is to judge a run of the other for v2."""
    passing, failing = services
    elsewhere = await astart_test_run.fn(credentials_for(failing), "pln_one")
    reports = list[GateReport]()

    @flow
    async def release() -> None:
        reports.append(await judge(passing, target="v1"))
        for sandbox in (failing, passing):
            reports.append(await judge(sandbox, None, run=elsewhere.run_short_id, target="v2"))

    await release()
    assert reports[0].run_short_id == elsewhere.run_short_id
    assert [report.verdict for report in reports] == [Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE]
    assert [report.incidents for report in reports] == [(), (), (Incident.STALE_PASS,)]
    assert [report.is_one_run_only for report in reports] == [False, True, False]
    assert [report.expected_count for report in reports] == [1, None, 1]


async def test_a_rerun_at_one_service_is_no_rerun_at_the_other(services: tuple[Sandbox, Sandbox]) -> None:
    passing, failing = services
    for _ in range(2):
        first = await astart_test_run.fn(credentials_for(passing), "pln_one")

    @flow
    async def release() -> GateReport:
        credentials = credentials_for(failing)
        failed = await astart_test_run(credentials, "pln_one")
        rerun = await arerun_test_run(credentials, failed, failed_only=True)
        assert rerun.run_short_id == first.run_short_id
        with pytest.raises(InvalidInputError, match="is a rerun of"):
            await judge(failing, None, run=rerun.run_short_id)
        return await judge(passing, None, run=rerun.run_short_id)

    assert (await release()).passed

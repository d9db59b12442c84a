"""In which flow run, and where in it, a call stands: in real flows."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID, uuid4

import anyio
import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.deployments import arun_deployment
from prefect.flow_engine import run_flow_async

from prefect_qatech import (
    LedgerConflict,
    NotFoundError,
    QATechRunRecord,
    StartOutcomeUnknown,
    ledger,
)
from prefect_qatech._sync import run_sync
from prefect_qatech.ledger import Call
from tests.ledger.books import (
    Sends,
    Trouble,
    a_run,
    ask,
    call,
)
from tests.support import Failing, StepFailed, flow_run_id


@pytest.mark.usefixtures("prefect_server")
async def test_an_attached_run_that_this_flow_run_has_started_keeps_what_its_start_told() -> None:
    started = a_run(test_count=5, plan_short_id="pln_smoke")
    seen: list[QATechRunRecord] = []
    step = Failing(1)

    async def start() -> QATechRunRecord:
        return started

    async def attach(run_short_id: str) -> QATechRunRecord:
        asked = Call(kind="attach", what="", fingerprint=run_short_id, label=f"run {run_short_id}")
        return await ledger.attach(asked, a_run(run_short_id).model_copy(update={"kind": "attached"}))

    @flow(retries=1)
    async def attaching() -> None:
        first = await ledger.once(call(), start, post_seconds=0)
        seen.extend([await attach(started.run_short_id), await attach("elsewhere")])
        assert seen[-2].slot not in (None, first.slot)
        assert seen[-2].started_at == first.started_at
        step()

    await attaching()
    told = ("kind", "test_count", "plan_short_id")
    assert [tuple(getattr(record, name) for name in told) for record in seen] == [
        ("start", 5, "pln_smoke"),
        ("attached", None, None),
    ] * 2
    assert [record.is_resumed for record in seen] == [False, False, True, True]


async def test_outside_a_flow_run_there_is_no_ledger() -> None:
    send = Sends()
    assert [await ask(send), await ask(send)] == ["run1", "run2"]


@pytest.mark.usefixtures("prefect_server")
async def test_a_sub_flow_under_a_retried_parent_finds_its_run_although_its_id_is_new() -> None:
    send, step = Sends(), Failing()
    runs: list[str] = []
    ids: set[UUID] = set()

    @flow
    async def sub() -> None:
        ids.add(flow_run_id())
        runs.append(await ask(send))
        step()

    @flow(retries=1)
    async def parent() -> None:
        await sub()

    await parent()
    assert runs == ["run1", "run1"]
    assert len(ids) == 2


@pytest.mark.usefixtures("prefect_server")
async def test_a_sub_flow_that_is_retried_alone_finds_its_run_beside_a_sibling() -> None:
    send, step = Sends(), Failing(2)
    runs: dict[str, list[str]] = {"one": [], "two": []}

    @flow(retries=2)
    async def sub(name: str) -> None:
        runs[name].append(await ask(send))
        if name == "two":
            step()

    @flow
    async def parent() -> None:
        await sub("one")
        await sub("two")

    await parent()
    assert runs == {"one": ["run1"], "two": ["run2", "run2", "run2"]}


def test_a_step_of_these_tests_fails_as_often_as_it_should() -> None:
    step = Failing(1)
    with pytest.raises(StepFailed):
        step()
    step()
    assert step.calls == 2


# --- threads that have lost Prefect's context


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("kind", ["sync flow", "async flow"])
async def test_a_thread_without_context_sends_nothing_and_is_told_the_ways_out(kind: str) -> None:
    send = Sends()

    def work(label: str | None) -> str:
        return run_sync(lambda: ask(send, label=label))

    def in_threads(*calls: Callable[[], str]) -> list[str]:
        with ThreadPoolExecutor() as pool:
            return [future.result() for future in [pool.submit(each) for each in calls]]

    step, seen = Failing(), []

    def body() -> None:
        with pytest.raises(LedgerConflict, match=r"contextvars.copy_context\(\).run.*label") as caught:
            in_threads(lambda: work(None))
        assert str(flow_run_id()) in str(caught.value)
        context = contextvars.copy_context()
        seen.append(in_threads(lambda: work("one"), lambda: work("two"), lambda: context.run(work, None)))
        step()

    if kind == "sync flow":
        flow(retries=1)(body)()
    else:

        @flow(retries=1)
        async def user() -> None:
            body()

        await user()
    assert [sorted(runs) for runs in seen] == [["run1", "run2", "run3"]] * 2
    assert seen[0] == seen[1]
    assert send.count == 3
    assert len({await ask(send), await ask(send)}) == 2, "after the flow run there is no ledger"


# --- reruns


@pytest.mark.usefixtures("prefect_server")
async def test_a_rerun_is_known_with_the_first_run_of_its_campaign() -> None:
    async def rerun(of: QATechRunRecord, run_short_id: str) -> QATechRunRecord:
        asked = Call(kind="rerun", what="", fingerprint=of.run_short_id, rerun_of=of.run_short_id)

        async def send() -> QATechRunRecord:
            return a_run(run_short_id, rerun_of=of.run_short_id)

        return await ledger.once(asked, send, post_seconds=0)

    @flow
    async def user() -> list[QATechRunRecord | None]:
        first = await ledger.once(call(), Sends(), post_seconds=0)
        second = await rerun(first, "second")
        third = await rerun(second, "third")
        return [await ledger.first_run_of(run, "") for run in (first, second, third.run_short_id, "nobody's")]

    none, of_second, of_third, unknown = await user()
    assert none is None
    assert unknown is None
    assert of_second is not None
    assert of_second == of_third
    assert (of_second.run_short_id, of_second.run_url) == ("run1", "https://app.qa.tech/run1")


async def test_outside_a_flow_run_a_rerun_is_known_by_its_record() -> None:
    found = await ledger.first_run_of(a_run("second", rerun_of="run1"), "")
    assert found is not None
    assert found.run_short_id == "run1"
    assert await ledger.first_run_of("second", "") is None


# --- the number of a call


@pytest.mark.usefixtures("prefect_server")
async def test_a_call_that_was_refused_gives_its_number_to_the_next_so_that_a_retry_finds_it() -> None:
    send, step, runs = Sends(), Failing(), list[str]()

    @flow(retries=1)
    async def user() -> None:
        with suppress(NotFoundError):
            runs.append(await ask(Sends(NotFoundError("no such plan yet", status=404)), "A"))
        runs.append(await ask(send, "A"))
        step()

    await user()
    # The retry's first call has the number of the run that there is; its second is another one.
    assert runs == ["run1", "run1", "run2"]


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("is_written", [False, True], ids=["not written", "written, and the answer lost"])
async def test_a_start_that_is_repeated_until_the_ledger_is_there_is_found_by_a_retry(
    trouble: Trouble, is_written: bool
) -> None:
    send, step, runs = Sends(), Failing(), list[str]()
    trouble.with_rows("-intent", 1, httpx.ReadTimeout("the server restarts"), written=is_written)

    @flow(retries=1)
    async def user() -> None:
        with suppress(httpx.ReadTimeout):
            runs.append(await ask(send))
        if not runs:
            runs.append(await ask(send))
        step()

    with anyio.fail_after(240):
        await user()
    assert trouble.failed == 1
    assert (runs, send.count) == (["run1", "run1"], 1)


@pytest.mark.usefixtures("prefect_server")
async def test_an_equal_call_behind_one_of_unknown_outcome_finds_its_own_run_on_a_retry() -> None:
    send, step, runs = Sends(), Failing(), list[str]()

    @flow(retries=1)
    async def user() -> None:
        with pytest.raises(StartOutcomeUnknown):
            await ask(Sends(StartOutcomeUnknown("the answer was lost")))
        runs.append(await ask(send))
        step()

    await user()
    assert (runs, send.count) == (["run1", "run1"], 1)


@pytest.mark.usefixtures("prefect_server")
async def test_sub_flows_that_a_retry_calls_in_another_order_find_what_they_asked_for() -> None:
    send, step = Sends(), Failing()
    seen: list[list[tuple[str, str]]] = []

    @flow
    async def sub(asks: str) -> str:
        return await ask(send, asks)

    @flow(retries=1)
    async def user() -> None:
        seen.append(sorted([(asks, await sub(asks)) for asks in ("ABA" if step.left else "BAA")]))
        step()

    await user()
    assert seen[0] == seen[1]
    assert send.count == 3


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("order", ["AB", "BA"], ids=["the same order", "another order"])
async def test_deployments_that_a_flow_runs_are_told_apart_by_their_order_or_start_nothing(
    client: PrefectClient, order: str
) -> None:
    send, step = Sends(), Failing()
    runs: list[list[str]] = []

    @flow
    async def check(asks: str) -> str:
        return await ask(send, asks)

    deployment_id = await client.create_deployment(await client.create_flow(check), name=f"own-{uuid4().hex}")

    async def deployed(asks: str) -> str:
        flow_run = await arun_deployment(deployment_id, parameters={"asks": asks}, timeout=0)
        run = contextvars.Context().run(asyncio.ensure_future, run_flow_async(check, flow_run, {"asks": asks}))
        return str(await run)

    @flow(retries=1)
    async def user() -> None:
        runs.append([await deployed(asks) for asks in ("AB" if step.left else order)])
        step()

    if order == "AB":
        await user()
        assert runs[0] == runs[1]
    else:
        with pytest.raises(LedgerConflict, match="label"):
            await user()
    assert send.count == 2

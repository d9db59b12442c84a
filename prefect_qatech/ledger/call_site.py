"""In which flow run, and where in it, a call stands.

Prefect's own dynamic keys of task runs are random since 3.0 and tell nothing; those of sub-flow runs are numbers in the
order of calls.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import anyio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectNotFound

from prefect_qatech._prefect import (
    flow_run_of_this_process,
    flow_runs_at_work,
    has_stable_number,
    name_of_task,
    name_without_number,
    parent_task_run,
)
from prefect_qatech.exceptions import LedgerConflict
from prefect_qatech.ledger.slots import Call

_READS = 10
_READ_SECONDS = 0.5

_numbers: dict[tuple[str, int, str], dict[str, int]] = {}
_numbers_lock = threading.Lock()


def _number(flow_run_id: str, run_count: int, family: str, caller: str) -> int:
    """Number the equal calls of one attempt of a flow run; a retried task run keeps its number."""
    with _numbers_lock:
        for key in [key for key in _numbers if key[0] == flow_run_id and key[1] < run_count]:
            del _numbers[key]
        given = _numbers.setdefault((flow_run_id, run_count, family), {})
        if caller not in given:
            given[caller] = next(number for number in range(len(given) + 1) if number not in given.values())
        return given[caller]


def give_back(call: Call) -> None:
    """Let the next equal call have the number of a call that has left no trace, as a retry will number it.

    Args:
        call: The call that has left none.
    """
    if call.numbered is not None:
        flow_run_id, run_count, family, caller = call.numbered
        with _numbers_lock:
            _numbers.get((flow_run_id, run_count, family), {}).pop(caller, None)


def forget_calls(flow_run_id: UUID) -> None:
    """Number the calls of a flow run anew: it is going to run from its top again, and its run count stays the same.

    Args:
        flow_run_id: The flow run.
    """
    with _numbers_lock:
        for key in [key for key in _numbers if key[0] == str(flow_run_id)]:
            del _numbers[key]


async def flow_run_of(call: Call) -> FlowRun | None:
    """Return the flow run that a call stands in.

    A thread of the user's has lost Prefect's context. A call with a label then means the only flow run at work.

    Args:
        call: What is asked for.

    Returns:
        The flow run; None outside of any. Then Prefect's API is not asked, so that it cannot fail either.

    Raises:
        LedgerConflict: A flow run is at work in this process, and it cannot be told whether the call is part of it.
    """
    context = FlowRunContext.get()
    if context is not None:
        return context.flow_run
    candidates = flow_runs_at_work()
    if not candidates:
        return None
    async with get_client() as client:
        at_work = {flow_run.id: flow_run for flow_run in candidates if await _is_at_work(client, flow_run)}
    roots = [flow_run for flow_run in at_work.values() if flow_run.parent_task_run_id is None]
    if not at_work:
        return None
    if call.label is not None and len(roots) == 1:
        return roots[0]
    way_out = "have the thread run it by `contextvars.copy_context().run`" + (
        ", or give it a label" if len(roots) == 1 else ""
    )
    raise LedgerConflict(
        f"Nothing was sent: {call.what} was asked for in a thread that has lost Prefect's context, while flow run "
        f"{', '.join(sorted(map(str, at_work)))} is at work, which could not find it on a retry; {way_out}."
    )


async def _is_at_work(client: PrefectClient, known: FlowRun) -> bool:
    try:
        flow_run = await client.read_flow_run(known.id)
    except ObjectNotFound:
        return False
    return flow_run.state is not None and flow_run.state.is_running() and flow_run.run_count == known.run_count


async def locate(client: PrefectClient, call: Call, flow_run: FlowRun) -> tuple[UUID, Call]:
    """Find out which flow run's ledger a call belongs to, and where in it the call stands.

    Args:
        client: A client of the Prefect API.
        call: What is asked for.
        flow_run: The flow run that it stands in.

    Returns:
        The root flow run's id, and the call with its place.
    """
    context = FlowRunContext.get()
    is_detached = context is not None and context.detached
    chain = [(str(flow_run.id), flow_run.run_count)]
    places: list[str] = []
    callers: list[str] = []
    stable, first = True, _runs_for_the_first_time(flow_run)
    parent_task_run_id = flow_run.parent_task_run_id
    while parent_task_run_id is not None:
        task_run = await client.read_task_run(parent_task_run_id)
        if task_run.flow_run_id is None:
            break
        parent = await client.read_flow_run(task_run.flow_run_id)
        name, caller, is_stable = await _sub_flow(client, call, task_run, parent)
        stable = stable and is_stable
        if caller is not None:
            callers.append(caller)
        places.insert(0, f"{name_of_task(task_run)}:{name}")
        chain.insert(0, (str(parent.id), parent.run_count))
        first = first and _runs_for_the_first_time(parent)
        parent_task_run_id = parent.parent_task_run_id
    outer = await _caller(client)
    _check_that_it_is_no_stray(call, chain[0][0])
    # On a distributed task runner nobody can number equal calls, so they share one run.
    numbered = (str(flow_run.id), flow_run.run_count, f"{outer.name}:{call.family}", outer.task_run_id)
    number = 0 if is_detached else _number(*numbered)
    if outer.name:
        callers.append(outer.task_run_id)
        places.append(outer.name)
    return UUID(chain[0][0]), replace(
        call,
        chain=tuple(chain),
        place="/".join([*places, str(number)]),
        place_is_stable=stable,
        callers=tuple(callers),
        is_first_attempt=first,
        numbered=None if is_detached else numbered,
    )


def _check_that_it_is_no_stray(call: Call, root: str) -> None:
    """Raise where a flow, such as a gate, was called in a thread that has lost the context of another one."""
    owner = flow_run_of_this_process()
    if owner in (None, root) or owner not in map(str, (flow_run.id for flow_run in flow_runs_at_work())):
        return
    raise LedgerConflict(
        f"Nothing was sent: the flow that asked for {call.what} was called in a thread that has lost the context of "
        f"flow run {owner}, which could not find it on a retry; have the thread call it by "
        "`contextvars.copy_context().run`.",
        flow_run_id=owner,
    )


async def _sub_flow(
    client: PrefectClient, call: Call, task_run: TaskRun, parent: FlowRun
) -> tuple[str, str | None, bool]:
    """Return a sub-flow's name in its parent, the task run of the user's it stands in, and if the name is stable."""
    if has_stable_number(task_run):
        return task_run.name, None, True
    name = name_without_number(task_run)
    outer = await _outermost(client, task_run)
    if outer is None:
        return name, None, False
    family = f"{outer.name}:{name}:{call.kind}:{call.label}:{call.fingerprint}"
    number = _number(str(parent.id), parent.run_count, family, outer.task_run_id)
    return f"{name} in task {outer.name} {number}", outer.task_run_id, True


def _runs_for_the_first_time(flow_run: FlowRun) -> bool:
    """Whether a flow run was neither retried nor resumed: it is in the state in which it began to run.

    A resumed one keeps its run count.
    """
    state = flow_run.state
    return (
        flow_run.run_count == 1 and state is not None and state.is_running() and state.timestamp == flow_run.start_time
    )


@dataclass(frozen=True)
class _Caller:
    """Who calls: a task run of the user's, by its task's name; without a name one of our tasks in the flow itself."""

    task_run_id: str
    name: str = ""


async def _caller(client: PrefectClient) -> _Caller:
    """Tell who calls: our task's run, or the user's task run that it stands in, whose retries Prefect does not tell us.

    So equal calls in one task run of the user's share a run, unless a label tells them apart.
    """
    context = TaskRunContext.get()
    if context is None:
        # The body of a flow, or `.fn` of a task: nobody retries it but the flow.
        return _Caller(uuid4().hex)
    return await _outermost(client, context.task_run) or _Caller(str(context.task_run.id))


async def _outermost(client: PrefectClient, task_run: TaskRun) -> _Caller | None:
    """Give the outermost task run that a task run was called in; None where it was called in none."""
    outermost: _Caller | None = None
    while (parent := parent_task_run(task_run)) is not None:
        found = await _read_task_run(client, parent)
        outermost = _Caller(str(parent), name_of_task(found) if found is not None else "unknown")
        if found is None:
            break
        task_run = found
    return outermost


async def _read_task_run(client: PrefectClient, task_run_id: UUID) -> TaskRun | None:
    # Task runs reach the server as events, a moment after they have begun.
    for _ in range(_READS):
        try:
            return await client.read_task_run(task_run_id)
        except ObjectNotFound:
            await anyio.sleep(_READ_SECONDS)
    return None


async def root_flow_run(client: PrefectClient, flow_run_id: UUID | str) -> FlowRun:
    """Give the flow run that a sub-flow run is part of, however deep.

    Args:
        client: A client of the Prefect API.
        flow_run_id: The sub-flow run, or the root itself.

    Returns:
        The root flow run.

    Raises:
        ValueError: There is no such flow run.
    """
    try:
        flow_run = await client.read_flow_run(UUID(str(flow_run_id)))
        while flow_run.parent_task_run_id is not None:
            task_run = await client.read_task_run(flow_run.parent_task_run_id)
            if task_run.flow_run_id is None:
                break
            flow_run = await client.read_flow_run(task_run.flow_run_id)
    except ObjectNotFound:
        raise ValueError(f"the Prefect server knows no flow run {flow_run_id}") from None
    return flow_run

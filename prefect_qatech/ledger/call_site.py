"""In which flow run, and where in it, a call stands.

In the body of a flow the order of equal calls tells them apart, and nobody but the flow repeats them. Inside a task of
the user's, and on a distributed task runner, neither holds: there a call must have a label.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound

from prefect_qatech._prefect import (
    flow_run_of_this_process,
    flow_runs_at_work,
    is_called_in_a_task,
    name_of_task,
    own_task_run,
    stands_in_users_task,
)
from prefect_qatech.exceptions import InvalidInputError, LedgerConflict
from prefect_qatech.ledger.slots import Call

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


def _asked(flow_run_id: str, run_count: int) -> frozenset[str]:
    with _numbers_lock:
        return frozenset(key[2] for key in _numbers if key[:2] == (flow_run_id, run_count))


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

    Raises:
        InvalidInputError: It stands where only a label tells it apart, and has none.
        LedgerConflict: The flow was called in a thread that has lost the context of another one.
    """
    steps = await _steps_to_root(client, flow_run)
    root = steps[-1].parent if steps else flow_run
    _check_that_it_is_no_stray(call, str(root.id))
    chain = [(str(root.id), root.run_count), *((str(step.child.id), step.child.run_count) for step in reversed(steps))]
    first = all(map(_runs_for_the_first_time, [flow_run, *(step.parent for step in steps)]))
    call = replace(call, chain=tuple(chain), is_first_attempt=first)
    if call.label is not None:
        return root.id, call
    if any(is_called_in_a_task(step.task_run) for step in steps) or stands_in_users_task():
        raise _unnamed(call, "inside a task")
    context = FlowRunContext.get()
    if context is not None and context.detached:
        raise _unnamed(call, "on a distributed task runner")
    # The body of a flow, or `.fn` of a task, is repeated by nobody but the flow; a task run of ours by Prefect.
    task_run = own_task_run()
    caller = str(task_run.id) if task_run is not None else uuid4().hex
    numbered = (str(flow_run.id), flow_run.run_count, call.family, caller)
    asked = _asked(str(flow_run.id), flow_run.run_count)
    return root.id, replace(
        call,
        place="/".join([*(step.place(call) for step in reversed(steps)), str(_number(*numbered))]),
        is_ordered_by_prefect=any(step.is_in_another_process for step in steps),
        numbered=numbered,
        asked=asked,
    )


def _unnamed(call: Call, where: str) -> InvalidInputError:
    return InvalidInputError(f"{where}, name this {call.name}: label=... Nothing was sent ({call.what}).")


@dataclass(frozen=True)
class _Step:
    """From a sub-flow run to its parent, by the task run that stands for it there."""

    child: FlowRun
    task_run: TaskRun
    parent: FlowRun

    @property
    def is_in_another_process(self) -> bool:
        """Whether `run_deployment` made the sub-flow run, so that this process does not see its siblings."""
        return self.child.deployment_id is not None

    def place(self, call: Call) -> str:
        """Name the sub-flow run in its parent: by its number among those of its name that ask for the same."""
        if self.is_in_another_process:
            return self.task_run.name
        name = name_of_task(self.task_run)
        number = _number(str(self.parent.id), self.parent.run_count, f"{name}:{call.family}", str(self.child.id))
        return f"{name}:{number}"


async def _steps_to_root(client: PrefectClient, flow_run: FlowRun) -> list[_Step]:
    steps: list[_Step] = []
    while flow_run.parent_task_run_id is not None:
        task_run = await client.read_task_run(flow_run.parent_task_run_id)
        if task_run.flow_run_id is None:
            break
        parent = await client.read_flow_run(task_run.flow_run_id)
        steps.append(_Step(flow_run, task_run, parent))
        flow_run = parent
    return steps


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


async def check_that_no_context_was_lost(is_in_main_thread: bool) -> None:
    """Raise where a gate became a flow run of its own because its thread has lost the context of a retried flow.

    Such a thread cannot be told from one that never was part of that flow; the main thread can, and gates beside each
    other, which have no retries.

    Args:
        is_in_main_thread: Whether the gate was called there.

    Raises:
        LedgerConflict: It did, as far as can be told.
    """
    context = FlowRunContext.get()
    own = context.flow_run if context is not None else None
    if own is None or own.parent_task_run_id is not None or is_in_main_thread:
        return
    others = [
        other
        for other in flow_runs_at_work()
        if other.id != own.id and other.parent_task_run_id is None and (other.empirical_policy.retries or 0) > 0
    ]
    if not others:
        return
    async with get_client() as client:
        at_work = [str(other.id) for other in others if await _is_at_work(client, other)]
    if at_work:
        raise LedgerConflict(
            f"Nothing was sent: the gate was called in a thread without Prefect's context, while flow run {at_work[0]} "
            "is at work, a retry of which could not find it; have the thread call it by "
            "`contextvars.copy_context().run`, or, if it is no part of that flow run, call it in a flow of its own.",
            flow_run_id=at_work[0],
        )


def _runs_for_the_first_time(flow_run: FlowRun) -> bool:
    """Whether a flow run was neither retried nor resumed: it is in the state in which it began to run.

    A resumed one keeps its run count.
    """
    state = flow_run.state
    return (
        flow_run.run_count == 1 and state is not None and state.is_running() and state.timestamp == flow_run.start_time
    )


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

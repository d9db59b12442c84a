"""In which flow run, and where in it, a call stands.

In the body of a flow the order of equal calls tells them apart, and nobody but the flow repeats them. Inside a task of
the user's, and on a distributed task runner, neither holds: there a call must have a label.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence, Set
from contextlib import suppress
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
    own_flow_run,
    own_task_run,
    stands_in_users_task,
    stands_on_distributed_runner,
)
from prefect_qatech._sync import calling_thread
from prefect_qatech.exceptions import InvalidInputError, LedgerConflict
from prefect_qatech.ledger.slots import Call, Chain

_OWN_CONTEXT = "have the thread call it by `contextvars.copy_context().run`"

_numbers: dict[tuple[str, int], dict[str, dict[str, int]]] = {}
"""The numbers of equal calls in each attempt of a flow run: family to caller to number."""
_numbers_lock = threading.Lock()


def _number(flow_run: FlowRun, family: str, caller: str) -> int:
    """Number the equal calls of one attempt of a flow run; a retried task run keeps its number."""
    attempt = (str(flow_run.id), flow_run.run_count)
    with _numbers_lock:
        for former in [key for key in _numbers if key[0] == attempt[0] and key[1] < attempt[1]]:
            del _numbers[former]
        numbers = _numbers.setdefault(attempt, {}).setdefault(family, {})
        if caller not in numbers:
            numbers[caller] = next(number for number in range(len(numbers) + 1) if number not in numbers.values())
        return numbers[caller]


def families_beside(call: Call) -> Set[str]:
    """Return the families of all calls that the attempt of this call has made so far."""
    with _numbers_lock:
        return {
            family
            for families in _numbers.values()
            if call.caller in families.get(call.family, {})
            for family in families
        }


def give_back(call: Call) -> None:
    """Let the next equal call have the number of a call whose slot is empty, as a retry will number it."""
    with _numbers_lock:
        for families in _numbers.values():
            families.get(call.family, {}).pop(call.caller or "", None)


def forget_calls(flow_run_id: UUID) -> None:
    """Number the calls of a flow run anew: it is going to run from its top again, and its run count stays the same."""
    with _numbers_lock:
        for attempt in [key for key in _numbers if key[0] == str(flow_run_id)]:
            del _numbers[attempt]


async def flow_run_of(call: Call) -> FlowRun | None:
    """Return the flow run that a call stands in; None outside of any, and then Prefect's API is not asked.

    A thread of the user's has lost Prefect's context. A call with a label then means the only flow run at work; where
    it cannot be told which is meant, that is a `LedgerConflict`.
    """
    context = FlowRunContext.get()
    if context is not None:
        return context.flow_run
    flow_runs = await _still_at_work(flow_runs_at_work())
    if not flow_runs:
        return None
    roots = [flow_run for flow_run in flow_runs if flow_run.parent_task_run_id is None]
    if call.is_named and len(roots) == 1:
        return roots[0]
    raise LedgerConflict(
        f"Nothing was sent: {call.what} was asked for in a thread that has lost Prefect's context, while flow run "
        f"{', '.join(sorted(str(flow_run.id) for flow_run in flow_runs))} is at work, which could not find it on a "
        f"retry; {_OWN_CONTEXT}" + (", or give it a label." if len(roots) == 1 else ".")
    )


async def _still_at_work(candidates: Iterable[FlowRun]) -> list[FlowRun]:
    """Return those flow runs that the server knows to be running, in the same attempt."""
    attempts = {(flow_run.id, flow_run.run_count) for flow_run in candidates}
    at_work: list[FlowRun] = []
    if not attempts:
        return at_work
    async with get_client() as client:
        for flow_run_id in {flow_run_id for flow_run_id, _ in attempts}:
            with suppress(ObjectNotFound):
                flow_run = await client.read_flow_run(flow_run_id)
                is_running = flow_run.state is not None and flow_run.state.is_running()
                if is_running and (flow_run.id, flow_run.run_count) in attempts:
                    at_work.append(flow_run)
    return at_work


async def locate(client: PrefectClient, flow_run: FlowRun, *calls: Call) -> tuple[UUID, list[Call]]:
    """Return the id of the root flow run, whose ledger calls belong to, and the calls with their places.

    Calls without a label where only that tells them apart are an `InvalidInputError`.
    """
    root, steps = await _way_from_root(client, flow_run)
    return root.id, [_in_its_place(call, flow_run, root, steps) for call in calls]


def _in_its_place(call: Call, flow_run: FlowRun, root: FlowRun, steps: Sequence[_Step]) -> Call:
    _check_that_root_is_not_stray(call, str(root.id))
    call = replace(call, chain=_chain(root, steps))
    if call.is_named:
        return call
    if any(is_called_in_a_task(step.task_run) for step in steps) or stands_in_users_task():
        raise _without_label(call, "inside a task")
    if stands_on_distributed_runner():
        raise _without_label(call, "on a distributed task runner")
    # Only the flow repeats its body, or `.fn` of a task; Prefect repeats task runs of ours.
    task_run = own_task_run()
    caller = str(task_run.id) if task_run is not None else uuid4().hex
    place = [*(step.place(call) for step in steps), str(_number(flow_run, call.family, caller))]
    is_ordered = any(step.is_in_another_process for step in steps)
    return replace(call, place="/".join(place), is_ordered_by_prefect=is_ordered, caller=caller)


def _without_label(call: Call, where: str) -> InvalidInputError:
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
        """Return the name of the sub-flow run in its parent: its number among those of its name that ask the same."""
        if self.is_in_another_process:
            return self.task_run.name
        name = name_of_task(self.task_run)
        return f"{name}:{_number(self.parent, f'{name}:{call.family}', str(self.child.id))}"


async def _way_from_root(client: PrefectClient, flow_run: FlowRun) -> tuple[FlowRun, list[_Step]]:
    """Return the root of a flow run and the steps between both, those next to the root first."""
    steps: list[_Step] = []
    while flow_run.parent_task_run_id is not None:
        task_run = await client.read_task_run(flow_run.parent_task_run_id)
        if task_run.flow_run_id is None:
            break
        parent = await client.read_flow_run(task_run.flow_run_id)
        steps.insert(0, _Step(flow_run, task_run, parent))
        flow_run = parent
    return flow_run, steps


def _chain(root: FlowRun, steps: Sequence[_Step]) -> Chain:
    return tuple((str(each.id), each.run_count) for each in (root, *(step.child for step in steps)))


async def chain_of(client: PrefectClient, flow_run: FlowRun) -> Chain:
    """Return the attempt of a flow run and of those that it is part of, the root first."""
    return _chain(*await _way_from_root(client, flow_run))


async def root_of(client: PrefectClient, flow_run: FlowRun) -> FlowRun:
    """Return the flow run that a sub-flow run is part of, however deep; a root itself."""
    root, _ = await _way_from_root(client, flow_run)
    return root


def _check_that_root_is_not_stray(call: Call, root: str) -> None:
    """Raise where a flow, such as a gate, was called in a thread that has lost the context of another one."""
    owner = flow_run_of_this_process()
    if owner in (None, root) or owner not in {str(flow_run.id) for flow_run in flow_runs_at_work()}:
        return
    raise LedgerConflict(
        f"Nothing was sent: the flow that asked for {call.what} was called in a thread that has lost the context of "
        f"flow run {owner}, which could not find it on a retry; {_OWN_CONTEXT}.",
        flow_run_id=owner,
    )


async def check_that_no_context_was_lost() -> None:
    """Raise `LedgerConflict` where a gate seems to have lost, with its thread, the context of a flow that is retried.

    Such a thread cannot be told from one that never was part of that flow; the main thread can, and gates beside each
    other, which have no retries.
    """
    own = own_flow_run()
    if own is None or own.parent_task_run_id is not None or calling_thread() is threading.main_thread():
        return
    retried = [
        other
        for other in flow_runs_at_work()
        if other.id != own.id and other.parent_task_run_id is None and (other.empirical_policy.retries or 0) > 0
    ]
    for other in await _still_at_work(retried):
        raise LedgerConflict(
            f"Nothing was sent: the gate was called in a thread without Prefect's context, so that a retry of flow run "
            f"{other.id} could not find it; {_OWN_CONTEXT}. If it is no part of that flow run, call it in a flow of "
            "its own.",
            flow_run_id=str(other.id),
        )

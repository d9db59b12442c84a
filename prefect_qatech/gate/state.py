"""The verdict as the state of the gate's flow run, so that each list of flow runs shows it.

A flow that returns a `State` ends in it: `Failed(name="Gate failed")`, `Completed(name="Passed, 1 flaky")`. Whoever
calls the flow gets what it would get without: the report, or `GateFailed` raised.
"""

import functools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import Flow, State
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.states import Completed, exception_to_failed_state

from prefect_qatech._sync import run_sync, sync_version
from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.report.exceptions import GateFailed, GateNotPassed, GatesNotPassed
from prefect_qatech.report.gates import gates_message
from prefect_qatech.report.headline import state_name
from prefect_qatech.report.message import gate_message
from prefect_qatech.report.model import GateReport, GatesReport

FlowT = TypeVar("FlowT", bound=Flow[..., Any])
P = ParamSpec("P")
T = TypeVar("T")

_reports: dict[UUID, GateReport | GatesReport] = {}
"""The reports of flow runs that are about to end, in this process."""

_judging: ContextVar[UUID | None] = ContextVar("judging", default=None)


class SyncFlow(Flow[P, T]):
    """The sync version of a flow, which knows the async one."""

    async_version: Flow[P, Coroutine[Any, Any, T]]


def gate_in_both_versions(**options: Any) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], SyncFlow[P, T]]:
    """Make two flows of an async function: the sync version, under its name, and its `async_version`.

    Both end in a state that names the verdict, and are not retried.
    """

    def decorate(core: Callable[P, Coroutine[Any, Any, T]]) -> SyncFlow[P, T]:
        sync = sync_version(core)
        core.__name__ = core.__qualname__ = f"a{core.__name__}"
        async_version = Flow(core, retries=0, **options)
        # Prefect's default is a hash of the file in which the function stands: of the sync one, that is `_sync.py`.
        version = SyncFlow(sync, version=async_version.version, retries=0, **options)
        version.async_version = verdict_as_state(async_version)
        return verdict_as_state(version)

    return decorate


def verdict_as_state(flow: FlowT) -> FlowT:
    """Let the flow runs of a flow that is a gate end in a state that names the verdict.

    - For flows that return a `GateReport` or `GatesReport`, or raise `GateNotPassed` or `GatesNotPassed`. Any other
      result and any other error stay what they are.
    - The caller notices nothing: the report is returned, and the error raised; `.fn` does so as well.
    - A flow with `retries` of its own ends as ever.
    - The report is not stored as the flow run's result, unless the flow says `persist_result=True`. Call no such flow
      in another one, whose retry would get the stored report: Prefect would not call the gate again. A gate that stands
      in its body refuses that.

    Args:
        flow: The flow: this decorator stands above `@flow`.

    Returns:
        The same flow.

    Raises:
        TypeError: It stands below.

    Example:
        ```python
        @verdict_as_state
        @flow
        def check(version: str) -> GateReport:
            return release_gate.fn(QATechCredentials.load("prod"), "pln_smoke", target=version)
        ```
    """
    if not isinstance(flow, Flow):
        raise TypeError("@verdict_as_state stands above @flow, not below.")
    body = flow.fn

    # Prefect pickles a served flow by value, and what it refers to: these two by name.
    if flow.isasync:

        @functools.wraps(body)
        async def judge_async(*args: Any, **kwargs: Any) -> Any:
            return await _run_async(body, *args, **kwargs)

        flow.fn = judge_async
    else:

        @functools.wraps(body)
        def judge(*args: Any, **kwargs: Any) -> Any:
            return _run(body, *args, **kwargs)

        flow.fn = judge
    if flow.persist_result is None:
        # Else the flow that calls it, or a setting, decides.
        flow.persist_result = False
    flow.on_completion(_keep_report)
    return flow


def check_that_each_retry_calls_it() -> None:
    """Raise where a retry would get a stored report and not call the gate, whatever is deployed by then.

    On a retry of a flow Prefect returns the stored result of each flow that was called in it, whatever its parameters.
    One that `run_deployment` runs is run again.
    """
    context = FlowRunContext.get()
    flow_run = context.flow_run if context is not None else None
    if context is None or flow_run is None or flow_run.parent_task_run_id is None or flow_run.deployment_id is not None:
        return
    if context.persist_result:
        raise InvalidInputError(
            f"Nothing was sent: the result of flow {context.flow.name if context.flow else 'unknown'!r} is stored, so "
            "that a retry of the flow that calls it would get the report and test nothing. Set persist_result=False on "
            "it."
        )


async def _run_async(body: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    with _own_flow_run(body) as own:
        try:
            result = await body(*args, **kwargs)
        except (GateNotPassed, GatesNotPassed) as error:
            if own is None:
                raise
            return await _failed(own, error)
        return result if own is None else _completed(own, result)


def _run(body: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    with _own_flow_run(body) as own:
        try:
            result = body(*args, **kwargs)
        except (GateNotPassed, GatesNotPassed) as error:
            if own is None:
                raise
            not_passed = error
            return run_sync(lambda: _failed(own, not_passed))
        return result if own is None else _completed(own, result)


@contextmanager
def _own_flow_run(body: Callable[..., Any]) -> Iterator[FlowRunContext | None]:
    """Give the context of the flow run whose engine calls this body; None where somebody else does.

    A `State` is for the engine alone. Whoever calls `.fn`, in a flow of another name or in this very one, would take it
    for a report, and a failed one for a pass.
    """
    context = FlowRunContext.get()
    flow_run = context.flow_run if context is not None else None
    is_own = (
        context is not None
        and context.flow is not None
        and getattr(context.flow.fn, "__wrapped__", None) is body
        and flow_run is not None
        # After a retry in the same process the engine takes an earlier attempt's error for what a state stands for.
        and not flow_run.empirical_policy.retries
        and _judging.get() != flow_run.id
    )
    if not is_own or flow_run is None:
        yield None
        return
    token = _judging.set(flow_run.id)
    try:
        yield context
    finally:
        _judging.reset(token)


def _completed(context: FlowRunContext, result: Any) -> Any:
    if not isinstance(result, (GateReport, GatesReport)):
        return result
    message = gate_message(result) if isinstance(result, GateReport) else gates_message(result)
    flow, flow_run = context.flow, context.flow_run
    if flow is not None and flow_run is not None and _keep_report in flow.on_completion_hooks:
        _reports[flow_run.id] = result
    return Completed(name=state_name(result), message=message, data=result)


def _keep_report(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Put the report back into a state that has lost it.

    The engine returns what the state holds. Where Prefect's server gets the end of a flow run twice, because its first
    answer was lost, it answers with its own copy of the state, in which there is no report.
    """
    report = _reports.pop(flow_run.id, None)
    if state.data is None:
        state.data = report


async def _failed(context: FlowRunContext, error: GateNotPassed | GatesNotPassed) -> State[BaseException]:
    # An error that is raised is stored whether or not results are, so that other processes can read it. So is this one.
    state = await exception_to_failed_state(
        error, result_store=context.result_store, write_result=True, name=_name(error)
    )
    state.message = error.message
    return state


def _name(error: GateNotPassed | GatesNotPassed) -> str:
    # There is none where the error was read from JSON.
    if (report := getattr(error, "report", None)) is not None:
        return state_name(report)
    return "Gate failed" if isinstance(error, GateFailed) else "Inconclusive"

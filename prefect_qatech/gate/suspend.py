"""Waiting without a process: a gate notes what it waits for and suspends its flow run; a watcher wakes it.

- The note is written before the suspension, under the suspension's own key, so that a note is never taken for that of
  another suspension. It names the run, the moment until which to wait and a fingerprint of the service's address.
- `wake_suspended_gates`, called again and again (`flows/watcher.py`), resumes each suspended gate whose run has ended
  or whose time is over. It goes by what is, not by what happens: a run that ended before the suspension, or while
  nobody watched, is found by the next round.
- A gate that wakes runs anew from its top, replays its ledger and polls for itself. So one wake-up too many, from a
  second watcher or from a person, costs a process and nothing else: the gate suspends again.
- Both states are called "Suspended", so the name of the flow run says what is waited for, until it wakes.
- Prefect itself fails a suspended flow run that nobody resumes. That is set to a day after the gate's own time, and
  bounds the wait where no watcher runs.
"""

import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Literal, TypeVar
from uuid import UUID, uuid4

import anyio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import SetStateStatus
from prefect.context import FlowRunContext, TaskRunContext
from prefect.flow_runs import asuspend_flow_run
from prefect.states import Scheduled
from pydantic import BaseModel, ConfigDict

from prefect_qatech._prefect import PATIENCE_SECONDS, run_logger
from prefect_qatech._sync import run_sync, sleep_unless_stopped
from prefect_qatech.addresses import safe_url
from prefect_qatech.api.catalogue import QATechReleaseCheck, QATechStartedReleaseCheck
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.exceptions import InvalidInputError, NotFoundError, QATechAPIError, UnauthorizedError
from prefect_qatech.gate.approval import NO_ANSWER, SERVER_GRACE_SECONDS
from prefect_qatech.gate.journal import end_key
from prefect_qatech.ledger import QATechRunRecord, Rows, fingerprint, forget_calls
from prefect_qatech.polling.exceptions import WaitTimedOut
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.polling.task_run import reporting_what_goes_on
from prefect_qatech.polling.throttle import Throttle
from prefect_qatech.polling.wait import Surroundings, wait_for_run

_KEY = "qatech-"
_PAGE = 200
_AT_ONCE = 8
_POLLS_SECONDS = 300.0

ItemT = TypeVar("ItemT")


WaitsFor = Literal["run", "release check", "decision"]


_ENDINGS: dict[WaitsFor, str] = {
    "run": " · waits for QA.tech",
    "release check": " · waits for QA.tech",
    "decision": " · waits for a person",
}


class Note(BaseModel):
    """What a suspended gate waits for.

    Attributes:
        what: The end of a run, that of a release check, or a person's decision.
        until: When the time for it is over.
        api: Fingerprint of the service's address.
        run_short_id: The run or the release check; of a decision, the gate's first run.
        run_url: Its address.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    what: WaitsFor
    until: datetime
    api: str
    run_short_id: str
    run_url: str | None = None


def needs_poll(note: Note, now: datetime, api: str) -> bool:
    """Pure: whether only a poll of its run or release check can tell if a gate is to be woken.

    Args:
        note: What it waits for.
        now: The time.
        api: Fingerprint of the address that can be polled.
    """
    return note.what != "decision" and now < note.until and note.api == api


def why_wake(note: Note, now: datetime, run: QATechRun | QATechReleaseCheck | None) -> str | None:
    """Pure: return why a suspended gate is to be woken now.

    Args:
        note: What it waits for.
        now: The time.
        run: Its run or release check as a poll saw it; None where there was none, or where it failed.

    Returns:
        The reason; None where it is to sleep on.
    """
    if now >= note.until:
        return "nobody has decided in time" if note.what == "decision" else "its deadline has come"
    if note.what != "decision" and run is not None and run.is_final:
        return f"{note.what} {note.run_short_id} has ended"
    return None


def name_while(name: str, what: WaitsFor | None) -> str:
    """Pure: return the name of a flow run while it waits for something.

    Args:
        name: The name that it has.
        what: What it waits for; None for the name of one that does not wait.

    Returns:
        The name.

    Example:
        >>> name_while("pln_smoke · waits for QA.tech", "decision")
        'pln_smoke · waits for a person'
    """
    for ending in _ENDINGS.values():
        name = name.removesuffix(ending)
    return name if what is None else f"{name}{_ENDINGS[what]}"


async def show_wait(what: WaitsFor | None) -> None:
    """Let the name of the current flow run say what it waits for, where lists show no more than "Suspended".

    Args:
        what: What it waits for; None to take that away again.
    """
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        await _rename(context.flow_run, what)


async def _rename(flow_run: FlowRun, what: WaitsFor | None) -> None:
    name = name_while(flow_run.name, what)
    if name == flow_run.name:
        return
    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            async with get_client() as client:
                await client.update_flow_run(flow_run.id, name=name)
        flow_run.name = name
    except Exception as error:  # the wait counts, not what it is called
        run_logger().debug("Flow run %s could not be renamed: %r", flow_run.id, error)


def check_can_suspend() -> None:
    """Make sure that Prefect can suspend the current flow run.

    Raises:
        InvalidInputError: It cannot.
    """
    context = FlowRunContext.get()
    flow_run = context.flow_run if context is not None else None
    if flow_run is None or flow_run.deployment_id is None:
        why = "this one has no deployment"
    elif flow_run.parent_task_run_id is not None or TaskRunContext.get() is not None:
        why = "this one stands in another flow or task"
    else:
        return
    raise InvalidInputError(
        f'waiting="suspend" is for the flow run of a deployment, and {why}. Nothing was sent. Deploy '
        "release_gate itself or a flow that is nothing but the gate (flows/check.py, which calls release_gate.fn), "
        'and deploy flows/watcher.py beside it; or use waiting="poll".'
    )


async def suspend_until_ended(
    credentials: QATechCredentials, record: QATechRunRecord, seconds: float, polling: QATechPolling
) -> None:
    """Return where a run has ended; else suspend the flow run until it has, or its time is over.

    A run that was just started is polled for a while first: errors at the start show early.

    Raises:
        Pause: Prefect's signal that ends the process; for nobody but Prefect to catch.
        QATechAPIError: Polling makes no sense any more.
    """
    began = time.monotonic()
    if not await _goes_on(
        credentials, record, 0.0 if record.is_resumed else min(seconds, polling.last_early_poll_seconds), polling
    ):
        return
    left = max(0.0, seconds - (time.monotonic() - began))
    await _suspend("run", left, credentials, record.run_short_id, record.run_url)


async def suspend_until_checked(
    credentials: QATechCredentials, check: QATechStartedReleaseCheck, seconds: float
) -> None:
    """Return where a release check has ended; else suspend the flow run until it has, or its time is over.

    Raises:
        Pause: Prefect's signal that ends the process; for nobody but Prefect to catch.
    """
    try:
        async with credentials.get_client() as client:
            if (await client.get_release_check(check.short_id)).is_final:
                return
    except QATechAPIError as error:
        if not error.retryable:
            return  # the ordinary wait finds out what is wrong, and tells it
    await _suspend("release check", seconds, credentials, check.short_id, safe_url(check.url))


async def _suspend(
    what: WaitsFor, seconds: float, credentials: QATechCredentials, short_id: str, url: str | None
) -> None:
    key = f"{_KEY}{uuid4().hex}"
    await write_note(key, what, seconds, credentials, short_id, url)
    run_logger().info(
        "%s %s goes on: this flow run is suspended, and its worker is free. The watcher wakes it: %s",
        what.capitalize(),
        short_id,
        url or "no address given",
    )
    await show_wait(what)
    await asuspend_flow_run(timeout=math.ceil(seconds) + SERVER_GRACE_SECONDS, key=key)


async def _goes_on(
    credentials: QATechCredentials, record: QATechRunRecord, seconds: float, polling: QATechPolling
) -> bool:
    logger = run_logger()
    is_unknown = False

    def on_change(run: QATechRun) -> None:
        logger.info("Run %s: %s", record.run_short_id, run.status or "no status")

    def on_error(error: QATechAPIError) -> None:
        nonlocal is_unknown
        is_unknown = isinstance(error, NotFoundError)
        logger.warning("A poll of run %s failed and will be repeated: %s", record.run_short_id, error)

    async with (
        reporting_what_goes_on({record.run_short_id: record.run_url}, logger),
        credentials.get_client() as client,
    ):
        try:
            await wait_for_run(
                client,
                record.run_short_id,
                timeout_seconds=seconds,
                polling=polling,
                surroundings=Surroundings(sleep=sleep_unless_stopped, before_poll=Throttle(credentials).wait),
                on_change=on_change,
                on_error=on_error,
                run_url=record.run_url,
                age_seconds=record.age_seconds,
            )
        except WaitTimedOut as error:
            # The ordinary wait finds out within a minute whether QA.tech comes to know a run that it does not know yet.
            return error.run is not None or not is_unknown
    return False


async def write_note(
    key: str, what: WaitsFor, seconds: float, credentials: QATechCredentials, short_id: str, url: str | None
) -> Note:
    """Write down what the current flow run is going to wait for.

    Args:
        key: Of the suspension; begins with `qatech-`.
        what: The end of a run or of a release check, or a decision.
        seconds: How long from now.
        credentials: Where the run is.
        short_id: The run or the release check.
        url: Its address.
    """
    note = Note(
        what=what,
        until=datetime.now(timezone.utc) + timedelta(seconds=seconds),
        api=fingerprint(credentials.api_url),
        run_short_id=short_id,
        run_url=url,
    )
    flow_run_id = _current_flow_run_id()
    async with get_client() as client:
        await Rows(client, flow_run_id).insert(_row(key), note.model_dump_json())
    forget_calls(flow_run_id)
    return note


async def read_note(key: str) -> Note | None:
    """Read what the current flow run has noted for a suspension."""
    async with get_client() as client:
        return await _note_of(client, _current_flow_run_id(), key)


def _current_flow_run_id() -> UUID:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("There is no flow run.")
    return context.flow_run.id


def _row(key: str) -> str:
    return f"{key.removeprefix(_KEY)}-waiting"


async def _note_of(client: PrefectClient, flow_run_id: UUID, key: str) -> Note | None:
    row = await Rows(client, flow_run_id).value(_row(key))
    return None if row is None else Note.model_validate_json(row)


async def awake_suspended_gates(credentials: QATechCredentials) -> list[UUID]:
    """Async version of `wake_suspended_gates`: the same argument, result and errors."""
    logger = run_logger()
    api = fingerprint(credentials.api_url)
    woken: list[UUID] = []
    to_poll: list[tuple[FlowRun, Note]] = []
    refused: list[UnauthorizedError] = []
    async with get_client() as prefect, credentials.get_client() as qatech:

        async def wake(flow_run: FlowRun, note: Note, why: str) -> None:
            if await _resume(prefect, flow_run, note):
                await _rename(flow_run, None)
                logger.info("Flow run %s is resumed: %s", flow_run.id, why)
                woken.append(flow_run.id)

        async def attend(flow_run: FlowRun) -> None:
            key = _key_of(flow_run)
            note = await _note_of(prefect, flow_run.id, key) if key is not None else None
            if note is None:
                return
            now = datetime.now(timezone.utc)
            if (why := why_wake(note, now, None)) is not None:
                await wake(flow_run, note, why)
            elif needs_poll(note, now, api):
                to_poll.append((flow_run, note))

        async def poll(gate: tuple[FlowRun, Note]) -> None:
            flow_run, note = gate
            await throttle.wait(_POLLS_SECONDS)
            try:
                look = qatech.get_run if note.what == "run" else qatech.get_release_check
                run = await look(note.run_short_id)
            except UnauthorizedError as error:
                refused.append(error)
                return
            now = datetime.now(timezone.utc)
            if run.is_final:
                # The gate that is woken finds an end that it has not seen itself.
                with suppress(Exception):
                    await Rows(prefect, flow_run.id).insert(end_key(note.run_short_id), json.dumps(now.isoformat()))
            if (why := why_wake(note, now, run)) is not None:
                await wake(flow_run, note, why)

        throttle = Throttle(credentials)
        # A gate whose time is over waits for no poll.
        await _each(await suspended_gates(prefect), attend)
        with anyio.move_on_after(_POLLS_SECONDS) as scope:
            await _each(to_poll, poll)
        if scope.cancelled_caught:
            logger.warning("Not all runs could be polled in time; the next round goes on.")
    if refused:
        raise refused[0]
    return woken


async def suspended_gates(prefect: PrefectClient) -> list[FlowRun]:
    """Return the flow runs whose gates wait suspended."""
    by_name = FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Suspended"])))
    found: list[FlowRun] = []
    while True:
        page = await prefect.read_flow_runs(flow_run_filter=by_name, limit=_PAGE, offset=len(found))
        found.extend(page)
        if len(page) < _PAGE:
            return [flow_run for flow_run in found if _key_of(flow_run) is not None]


def _key_of(flow_run: FlowRun) -> str | None:
    key = flow_run.state.state_details.pause_key if flow_run.state is not None else None
    return key if key is not None and key.startswith(_KEY) else None


async def _resume(prefect: PrefectClient, flow_run: FlowRun, note: Note) -> bool:
    answer = NO_ANSWER if note.what == "decision" else None
    result = await prefect.resume_flow_run(flow_run.id, run_input=answer)
    is_asleep = result.status is SetStateStatus.REJECT and result.state is not None and result.state.is_paused()
    if is_asleep and note.what == "decision":
        # A process that was killed before it had shown its form leaves a question that takes no answer.
        result = await prefect.set_flow_run_state(flow_run.id, Scheduled(name="Resuming"))
    # A flow run that was cancelled or resumed in the meantime refuses this, as it should.
    return result.status is SetStateStatus.ACCEPT


async def _each(items: Sequence[ItemT], act: Callable[[ItemT], Awaitable[None]]) -> None:
    """Do the work for each, several at once; one that fails is logged and stops no other."""
    limit = anyio.CapacityLimiter(_AT_ONCE)
    logger = run_logger()

    async def safely(item: ItemT) -> None:
        async with limit:
            try:
                await act(item)
            except Exception as error:
                logger.warning("A suspended gate could not be handled in this round: %s", error)

    async with anyio.create_task_group() as group:
        for item in items:
            group.start_soon(safely, item)


def wake_suspended_gates(credentials: QATechCredentials) -> list[UUID]:
    """Resume each suspended gate that has something to do.

    - Its run or its release check has ended, its deadline has come, or the time to answer is over.
    - Call it in a flow, again and again: `flows/watcher.py` does, by a schedule. Calls side by side do no harm.
    - A poll that fails is logged, and keeps no other gate from being woken.
    - Runs at another address than that of the credentials are left to a watcher of theirs; deadlines are for all.
    - A gate that was cancelled while it was suspended stays so.

    Args:
        credentials: How to poll the gates' runs; read access is enough.

    Returns:
        The flow runs that were resumed.

    Raises:
        UnauthorizedError: The token is refused; gates whose time is over were woken all the same.

    Example:
        ```python
        @flow
        def watch():
            wake_suspended_gates(QATechCredentials.load("prod"))
        ```
    """
    return run_sync(lambda: awake_suspended_gates(credentials))

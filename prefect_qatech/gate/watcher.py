"""Resuming suspended gates that have something to do.

- `wake_suspended_gates`, called again and again (`flows/watcher.py`), resumes each suspended gate whose run has ended
  or whose time is over. It goes by what is, not by what happens: a run that ended before the suspension, or while
  nobody watched, is found by the next round.
- One wake-up too many, from a second watcher or from a person, costs a process and nothing else: the gate suspends
  again.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import TypeVar
from uuid import UUID

import anyio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import SetStateStatus
from prefect.states import Scheduled

from prefect_qatech._prefect import run_logger, shared_time
from prefect_qatech._sync import run_sync
from prefect_qatech.api.catalogue import QATechReleaseCheck
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.exceptions import UnauthorizedError
from prefect_qatech.gate.approval import NO_ANSWER
from prefect_qatech.gate.journal import end_key
from prefect_qatech.gate.suspend import KEY_PREFIX, Note, note_of, rename
from prefect_qatech.ledger import Rows, fingerprint
from prefect_qatech.polling.throttle import Throttle

_PAGE = 200
_AT_ONCE = 8
_POLLS_SECONDS = 300.0

ItemT = TypeVar("ItemT")


def needs_poll(note: Note, now: datetime, api: str) -> bool:
    """Pure: whether only a poll, at an address with this fingerprint, can tell if a gate is to be woken."""
    return note.what != "decision" and now < note.until and note.api == api


def why_wake(note: Note, now: datetime, run: QATechRun | QATechReleaseCheck | None) -> str | None:
    """Pure: return why a suspended gate is to be woken now; None where it is to sleep on.

    The run, or release check, is as a poll saw it; None where there was none, or where it failed.
    """
    if now >= note.until:
        return "nobody has decided in time" if note.what == "decision" else "its deadline has come"
    if note.what != "decision" and run is not None and run.is_final:
        return f"{note.what} {note.run_short_id} has ended"
    return None


async def awake_suspended_gates(credentials: QATechCredentials) -> list[UUID]:
    """Async version of `wake_suspended_gates`: the same argument, result and errors."""
    logger = run_logger()
    api = fingerprint(credentials.api_url)
    woken: list[UUID] = []
    to_poll: list[tuple[FlowRun, Note]] = []
    refused: list[UnauthorizedError] = []
    async with get_client() as prefect, credentials.get_client() as qatech:
        ahead = datetime.now(timezone.utc) - await shared_time(prefect)

        def time_now() -> datetime:
            return datetime.now(timezone.utc) - ahead

        async def wake(flow_run: FlowRun, note: Note, why: str) -> None:
            if await _resume(prefect, flow_run, note):
                await rename(flow_run, None)
                logger.info("Flow run %s is resumed: %s", flow_run.id, why)
                woken.append(flow_run.id)

        async def attend(flow_run: FlowRun) -> None:
            key = _key_of(flow_run)
            note = await note_of(prefect, flow_run.id, key) if key is not None else None
            if note is None:
                return
            now = time_now()
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
            now = time_now()
            if note.what == "run" and run.is_final:
                # The gate that is woken finds an end that it has not seen itself.
                with suppress(Exception):
                    await Rows(prefect, flow_run.id).insert(
                        end_key(note.run_short_id, api), json.dumps(now.isoformat())
                    )
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
    return key if key is not None and key.startswith(KEY_PREFIX) else None


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

"""Waiting without a process: a gate notes what it waits for and suspends its flow run; the watcher wakes it.

- The note is written before the suspension, under the suspension's own key, so that a note is never taken for that of
  another suspension. It names the run, the moment until which to wait and a fingerprint of the service's address.
- A gate that wakes runs anew from its top, replays its ledger and polls for itself.
- Both states are called "Suspended", so the name of the flow run says what is waited for, until it wakes.
- Prefect itself fails a suspended flow run that nobody resumes. That is set to a day after the gate's own time, and
  bounds the wait where no watcher runs.
"""

import math
import time
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID, uuid4

import anyio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import TaskRunContext
from prefect.flow_runs import asuspend_flow_run
from pydantic import BaseModel, ConfigDict

from prefect_qatech._prefect import PATIENCE_SECONDS, own_flow_run, run_logger, shared_time
from prefect_qatech._sync import sleep_unless_stopped
from prefect_qatech.addresses import safe_url
from prefect_qatech.api.catalogue import QATechStartedReleaseCheck
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.exceptions import InvalidInputError, NotFoundError, QATechAPIError
from prefect_qatech.gate.approval import SERVER_GRACE_SECONDS
from prefect_qatech.ledger import QATechRunRecord, Rows, fingerprint, forget_calls
from prefect_qatech.polling.exceptions import WaitTimedOut
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.polling.task_run import reporting_what_goes_on
from prefect_qatech.polling.throttle import Throttle
from prefect_qatech.polling.wait import Surroundings, wait_for_run

KEY_PREFIX = "qatech-"
"""How the key of a gate's suspension begins."""

WaitsFor = Literal["run", "release check", "decision"]

_ENDINGS: dict[WaitsFor, str] = {
    "run": " · waits for QA.tech",
    "release check": " · waits for QA.tech",
    "decision": " · waits for a person",
}


class Note(BaseModel):
    """What a suspended gate waits for, and until when, by the clock of the Prefect server.

    `api` is a fingerprint of the service's address. The run may be a release check; of a decision, it is the gate's
    first run.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    what: WaitsFor
    until: datetime
    api: str
    run_short_id: str
    run_url: str | None = None


def name_while(name: str, what: WaitsFor | None) -> str:
    """Pure: return the name of a flow run while it waits for something, or again for nothing.

    Example:
        >>> name_while("pln_smoke · waits for QA.tech", "decision")
        'pln_smoke · waits for a person'
    """
    for ending in _ENDINGS.values():
        name = name.removesuffix(ending)
    return name if what is None else f"{name}{_ENDINGS[what]}"


async def show_wait(what: WaitsFor | None) -> None:
    """Let the name of the current flow run say what it waits for, where lists show no more than "Suspended"."""
    if (flow_run := own_flow_run()) is not None:
        await rename(flow_run, what)


async def rename(flow_run: FlowRun, what: WaitsFor | None) -> None:
    """Let the name of a flow run say what it waits for; None to take that away again."""
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
    """Raise `InvalidInputError` where Prefect cannot suspend the current flow run."""
    flow_run = own_flow_run()
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

    A run that was just started is polled for a while first: errors at the start show early. `Pause`, Prefect's signal
    that ends the process, is for nobody else to catch.
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
    """Return where a release check has ended; else suspend the flow run until it has, or its time is over."""
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
    key = f"{KEY_PREFIX}{uuid4().hex}"
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
    """Write down what the current flow run is going to wait for, and for how long, under the key of the suspension."""
    flow_run_id = _current_flow_run_id()
    async with get_client() as client:
        note = Note(
            what=what,
            until=await shared_time(client) + timedelta(seconds=seconds),
            api=fingerprint(credentials.api_url),
            run_short_id=short_id,
            run_url=url,
        )
        await Rows(client, flow_run_id).insert(_row(key), note.model_dump_json())
    forget_calls(flow_run_id)
    return note


async def read_note(key: str) -> Note | None:
    async with get_client() as client:
        return await note_of(client, _current_flow_run_id(), key)


def _current_flow_run_id() -> UUID:
    if (flow_run := own_flow_run()) is None:
        raise RuntimeError("There is no flow run.")
    return flow_run.id


def _row(key: str) -> str:
    return f"{key.removeprefix(KEY_PREFIX)}-waiting"


async def note_of(client: PrefectClient, flow_run_id: UUID, key: str) -> Note | None:
    row = await Rows(client, flow_run_id).value(_row(key))
    return None if row is None else Note.model_validate_json(row)

"""How a task makes something at QA.tech once in a flow run: what is checked, recorded, sent, and told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import UUID

from prefect_qatech import ledger
from prefect_qatech._prefect import check_that_prefect_returns_results, rename_own_task_run, run_logger
from prefect_qatech.api.catalogue import QATechNewTestCase, QATechReleaseCheckRequest
from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.lookup import remembered_in, resolve
from prefect_qatech.api.names import needs_answers
from prefect_qatech.api.requests import QATechRerunRequest, QATechRunRequest
from prefect_qatech.credentials import QATechCredentials, check_credentials
from prefect_qatech.inputs import check_name, check_target
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.report import artifacts

RequestT = TypeVar("RequestT", QATechRunRequest, QATechRerunRequest, QATechReleaseCheckRequest, QATechNewTestCase)


def address_of(credentials: QATechCredentials, project_short_id: str | None = None) -> str:
    """Return where a run is: the service, and the project where one is named."""
    project = project_short_id or credentials.project_short_id
    return f"{credentials.api_url}, project {project}" if project else credentials.api_url


def check_call(credentials: QATechCredentials, label: str | None = None, target: str | None = None) -> None:
    """Check what each call is given, before anything is sent."""
    check_credentials(credentials)
    check_target(target)
    if label is not None:
        check_name(label, "label")


def call_of_start(
    credentials: QATechCredentials,
    request: QATechRunRequest | QATechReleaseCheckRequest | QATechNewTestCase,
    what: str,
    *,
    makes: str = "run",
    target: str | None = None,
    label: str | None = None,
    campaign: tuple[str, int] | None = None,
) -> ledger.Call:
    """Return a start as the ledger tells it from others: by its label, else by what was asked for and for what."""
    # Not by what its names mean: a retry has to find its run also where the catalogue has changed since, or cannot be
    # asked. Notifications and the project are no part of what is tested.
    beside = {"notifications", "project_short_id"} & set(type(request).model_fields)
    meaning = request.model_copy(update=dict.fromkeys(beside)).to_json()
    return ledger.Call(
        kind="start",
        makes=makes,
        what=what,
        fingerprint=ledger.fingerprint(meaning, *([target] if target else [])),
        address=address_of(credentials, request.project_short_id),
        # A label stands for one start of one target: the next version is tested anew under the same label.
        label=f"{label} of {target}" if label is not None and target is not None else label,
        campaign=campaign,
        target=target,
    )


async def announce(record: QATechRunRecord, *, key: str, description: str, below_url: str | None = None) -> None:
    """Tell what was started, or found, by the name of the task run, the log and a link; `publish_link` has the rest."""
    what = record.makes if record.rerun_of is None else "rerun"
    rename_own_task_run(f"{'resume' if record.is_resumed else 'start'} {what} {record.run_short_id}")
    if record.is_resumed:
        sentence = "Resuming QA.tech %s %s, which this flow run has on record: %s"
        run_logger().info(sentence, record.makes, record.run_short_id, record.run_url or "no address given")
        return
    text = f"{what.capitalize()} {record.run_short_id} on QA.tech"
    await artifacts.publish_link(record.run_url, text, key=key, description=description, below_url=below_url)


async def send_once(
    credentials: QATechCredentials,
    call: ledger.Call,
    request: RequestT,
    send: Callable[[QATechClient, RequestT], Awaitable[QATechRunRecord]],
    *,
    has_names: bool = True,
    beside: QATechReleaseCheckRequest | None = None,
) -> QATechRunRecord:
    """Return what the call has made before, or send its request, once, with ids in place of names.

    `beside` is a request that is sent later: its names must mean something before this one is sent.
    """
    check_that_prefect_returns_results()
    # Opened before the ledger knows of anything: unusable credentials leave no trace.
    async with credentials.get_client() as client:
        wanted = request
        asks = has_names and any(needs_answers(each) for each in (request, beside) if each is not None)

        async def prepare(flow_run_id: UUID | None) -> None:
            nonlocal wanted
            await client.know_project()
            if asks:
                remembered = remembered_in(flow_run_id, client)
                if beside is not None:
                    await resolve(client, beside, remembered)
                wanted = await resolve(client, request, remembered)

        return await ledger.once(
            call,
            lambda: send(client, wanted),
            post_seconds=credentials.timeout_seconds,
            prepare=prepare if asks or client.has_project_name else None,
        )

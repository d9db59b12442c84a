"""What `prefect-qatech doctor` checks. Each check looks at one thing, starts nothing, and says what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.filesystems import LocalFileSystem
from prefect.results import aget_default_result_storage, get_default_result_serializer
from prefect.settings import PREFECT_API_URL

from prefect_qatech._prefect import server_time
from prefect_qatech.addresses import is_loopback, without_password
from prefect_qatech.api.catalogue import QATechProject
from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.ids import names
from prefect_qatech.cli.display import one_line
from prefect_qatech.credentials import QATechCredentials, check_credentials
from prefect_qatech.exceptions import (
    ForbiddenError,
    InvalidInputError,
    InvalidResponseError,
    NotFoundError,
    QATechAPIError,
    QATechConnectionError,
    QATechTimeoutError,
    RateLimitedError,
    ServerError,
    StartOutcomeUnknown,
    UnauthorizedError,
    UsageLimitError,
)
from prefect_qatech.gate.approval import SERVER_GRACE_SECONDS
from prefect_qatech.gate.watcher import suspended_gates
from prefect_qatech.texts import http_date

State = Literal["ok", "note", "wrong", "skipped"]

MAX_SKEW_SECONDS = 30.0
_OVERDUE = timedelta(minutes=5)
_PAGE = 200
_BLOCK_TYPES = ("qatech-credentials", "qatech-test-plan")
_WATCHER_FLOW = "watch-suspended-gates"
_TOKEN_PAGE = "QA.tech: Settings -> Integrations -> API"  # noqa: S105
_NO_SERVICE = (QATechConnectionError, QATechTimeoutError, InvalidResponseError, ServerError, RateLimitedError)


@dataclass(frozen=True)
class Finding:
    """What a check has found, and what to do.

    `note` is worth knowing; `skipped` is what was not checked, because something before it is wrong.
    """

    check: str
    state: State
    message: str
    advice: str = ""


@dataclass
class Where:
    """What is examined, and what the checks so far have found there.

    With a `block` its credentials are meant, else those of the environment; `skews` are by how many seconds this
    machine's clock is ahead of others.
    """

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    block: str | None = None
    read_only: bool = False
    credentials: QATechCredentials | None = None
    is_service_up: bool = False
    projects: list[QATechProject] | None = None
    is_prefect_up: bool = False
    skews: dict[str, float] = field(default_factory=dict)

    def client(self, *, names_project: bool = True) -> QATechClient:
        if self.credentials is None:
            raise RuntimeError("There are no credentials.")
        if names_project:
            return self.credentials.get_client()
        return self.credentials.model_copy(update={"project_short_id": None}).get_client()


Answer = tuple[State, str, str]

_WHEN_SLOW = "Is it up? Check the name server, proxy and firewall of this machine; or give --timeout-seconds more."


async def examine(where: Where, seconds: float) -> AsyncIterator[Finding]:
    for name, check in CHECKS.items():
        try:
            with anyio.fail_after(seconds):
                state, found, advice = await check(where)
        except TimeoutError:
            state, found, advice = "wrong", f"There was no answer within {seconds:g} s.", _WHEN_SLOW
        except Exception as error:  # what nobody foresaw is a finding, too
            state, found, advice = "wrong", f"{type(error).__name__}: {error}", ""
        yield Finding(name, state, one_line(found), advice)


async def check_versions(where: Where) -> Answer:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("prefect-qatech", "prefect", "httpx")]
    return "ok", f"{', '.join(versions)}, Python {platform.python_version()}", ""


async def check_token(where: Where) -> Answer:
    """Check that there is a token, and that it looks like one."""
    if where.block is None:
        try:
            where.credentials = QATechCredentials.from_env(where.environ)
        except ValueError as error:
            return "wrong", str(error), "Set it, or name a saved block: --block NAME."
        place = "QATECH_API_TOKEN" if where.environ.get("QATECH_API_TOKEN") else "QATECH_API_KEY"
    else:
        try:
            where.credentials = await QATechCredentials.aload(where.block)
            check_credentials(where.credentials)
        except ValueError as error:
            where.credentials = None
            return "wrong", f"The block {where.block} cannot be used: {error}", "`prefect block ls` names those saved."
        place = f"block {where.block}"
    return "ok", f"A token is there ({place}), for {where.credentials.api_url}.", ""


async def check_network(where: Where) -> Answer:
    """Report the proxy that requests go through, and the certificates that are trusted."""
    if where.credentials is None:
        return _skipped("there are no credentials")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = where.environ.get(name)
        if path and not _is_there(path):
            return "wrong", f"{name} names {path}, which is not there.", f"Correct {name}, or unset it."
    parts = urlsplit(where.credentials.api_url)
    host = parts.hostname or ""
    if is_loopback(host):
        return "ok", f"{host} is this machine: no proxy is asked.", ""
    proxies = getproxies()
    proxy = None if proxy_bypass(host) else proxies.get(parts.scheme) or proxies.get("all")
    trusted = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if where.environ.get(name)), None)
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"  # as httpx reads it
    told = f"Requests go {'through ' + without_password(proxy) if proxy else 'without a proxy'}; certificates: " + (
        f"{trusted}={where.environ[trusted]}" if trusted else "those that come with httpx"
    )
    if where.environ.get("REQUESTS_CA_BUNDLE") and trusted is None:
        return "note", f"{told}. REQUESTS_CA_BUNDLE is not read here.", "Name its file in SSL_CERT_FILE as well."
    return "ok", f"{told}.", ""


async def check_service(where: Where) -> Answer:
    """Check that QA.tech answers; no token is sent."""
    if where.credentials is None:
        return _skipped("there are no credentials")
    began = time.monotonic()
    async with where.client() as client:
        try:
            await client.list_outbound_ips()
        except _NO_SERVICE as error:
            return "wrong", str(error), "Check QATECH_API_URL, and the proxy and firewall of this machine."
        except QATechAPIError as error:
            told = f"{client.api_url} answers {error.status} where QA.tech lists its addresses."
            answer: Answer = ("note", told, "Check QATECH_API_URL: is that QA.tech?")
        else:
            told = f"{client.api_url} answers, in {1000 * (time.monotonic() - began):.0f} ms."
            answer = ("ok", told, "")
        _note_skew(where, "QA.tech", http_date(client.latest_date or ""))
    where.is_service_up = True
    return answer


async def check_access(where: Where) -> Answer:
    if not where.is_service_up:
        return _skipped("QA.tech does not answer")
    try:
        # A wrong project would be refused, and the existing ones would not be listed.
        async with where.client(names_project=False) as client:
            where.projects = await _projects(client)
    except (UnauthorizedError, ForbiddenError) as error:
        return "wrong", f"QA.tech refuses the token ({error.status}).", f"Make a new one: {_TOKEN_PAGE}."
    if where.read_only:
        return "ok", "The token may read; whether it may start runs was not asked.", ""
    async with where.client() as client:
        try:
            may_start = await client.may_start_runs()
        except InvalidInputError:
            return _skipped("there is no such project")
        except UsageLimitError as error:
            return "wrong", str(error), "No run can be started until then."
        except StartOutcomeUnknown as error:
            return "note", f"The token may read. Whether it may start runs is not known: {error}", ""
    if not may_start:
        return (
            "wrong",
            "The token may read, and may start no runs.",
            f"Make one that may write: {_TOKEN_PAGE}. A watcher and a triage need none: --read-only.",
        )
    return "ok", "The token may read, and is not refused starts.", ""


async def check_project(where: Where) -> Answer:
    """Check that runs go to one project, and to which."""
    if where.projects is None or where.credentials is None:
        return _skipped("the projects could not be listed")
    named = where.credentials.project_short_id
    there = ", ".join(f"{project.short_id} ({project.name})" for project in where.projects[:10]) or "none"
    if named is not None:
        found = [project for project in where.projects if named == project.name or names(named, project.short_id)]
        if not found:
            return "wrong", f"The token sees no project {named}. It sees: {there}.", "Correct QATECH_PROJECT_SHORT_ID."
        return "ok", f"{found[0].short_id} ({found[0].name})", ""
    if len(where.projects) > 1:
        return (
            "wrong",
            f"No project is named, and the token sees {len(where.projects)}: {there}.",
            "Name one: QATECH_PROJECT_SHORT_ID, or project_short_id of the block.",
        )
    return "ok", there, ""


async def check_prefect(where: Where) -> Answer:
    """Check that Prefect's API answers, with a version that goes with this one."""
    url = PREFECT_API_URL.value()
    if url is None:
        return (
            "note",
            "PREFECT_API_URL is not set, so each flow starts a server of its own that ends with it.",
            "`prefect-qatech run` needs none. For flows: `prefect config set PREFECT_API_URL=...`.",
        )
    if not url:
        return "wrong", "PREFECT_API_URL is set to nothing: flows would run, and lose all events.", "Unset it."
    async with get_client() as client:
        try:
            now = await server_time(client)
        except PrefectHTTPStatusError as error:
            status = error.response.status_code
            what = "Check PREFECT_API_KEY." if status in (401, 403) else "Check PREFECT_API_URL: does it end in /api?"
            return "wrong", f"{without_password(url)} answers {status}.", what
        except (OSError, httpx.HTTPError) as error:
            told = f"{without_password(url)} does not answer ({type(error).__name__})."
            return "wrong", told, "Is the server up? `prefect server start` starts one."
        where.is_prefect_up = True
        _note_skew(where, "Prefect", now)
        try:
            server = str(await client.api_version())
        except PrefectHTTPStatusError:  # Prefect Cloud has none
            return "ok", f"{without_password(url)} answers, and names no version.", ""
        ours = client.client_version()
    told = f"{without_password(url)} is Prefect {server}; here is {ours}."
    if _release(server)[:1] != _release(ours)[:1]:
        return "wrong", told, "Their major versions must be the same."
    if _release(server) < _release(ours):
        return "note", told, "Upgrade the server: Prefect supports servers that are no older than the client."
    return "ok", told, ""


async def check_blocks(where: Where) -> Answer:
    """Check that Prefect knows the blocks' types, and say which blocks are saved."""
    if not where.is_prefect_up:
        return _skipped("there is no Prefect server")
    missing, saved = [], []
    async with get_client() as client:
        for slug in _BLOCK_TYPES:
            try:
                await client.read_block_type_by_slug(slug)
            except ObjectNotFound:
                missing.append(slug)
                continue
            blocks = await client.read_block_documents_by_type(slug, include_secrets=False, limit=_PAGE)
            saved += [f"{slug}/{block.name}" for block in blocks if block.name]
    if missing:
        told = f"Prefect's server does not know the block types {', '.join(missing)}."
        return "wrong", told, "prefect block register -m prefect_qatech"
    return "ok", f"The block types are registered. Saved: {', '.join(saved) or 'none'}.", ""


async def check_watcher(where: Where) -> Answer:
    """Check that somebody wakes the gates that wait suspended."""
    if not where.is_prefect_up:
        return _skipped("there is no Prefect server")
    async with get_client() as client:
        suspended = await suspended_gates(client)
        deployments = await client.read_deployments(limit=_PAGE)
        watchers = await client.read_deployments(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[_WATCHER_FLOW])), limit=_PAGE
        )
    now = datetime.now(timezone.utc)
    ends = [run.state.state_details.pause_timeout for run in suspended if run.state is not None]
    overdue = sum(end is not None and now > end - timedelta(seconds=SERVER_GRACE_SECONDS) + _OVERDUE for end in ends)
    suspending = [item.name for item in deployments if item.parameters.get("waiting") == "suspend"]
    needs = f"{len(suspended)} gates wait suspended" if suspended else f"deployments suspend: {', '.join(suspending)}"
    if overdue:
        told = f"{overdue} suspended gates should have been woken {_OVERDUE.seconds // 60} minutes ago, and were not."
        return "wrong", told, "Look at the flow runs of the watcher, and whether its worker runs."
    if not suspended and not suspending:
        return "ok", "None is needed: no gate waits suspended, and no deployment suspends.", ""
    if not any(schedule.active for item in watchers if not item.paused for schedule in item.schedules):
        told = f"{needs[0].upper()}{needs[1:]}; no deployment of {_WATCHER_FLOW} has an active schedule."
        return "wrong", told, "Deploy flows/watcher.py, and switch its schedule on."
    return "ok", f"{needs[0].upper()}{needs[1:]}; {', '.join(item.name for item in watchers)} wakes them.", ""


async def check_results(where: Where) -> Answer:
    """Check that Prefect can store the results of flows."""
    if not where.is_prefect_up:
        return _skipped("there is no Prefect server")
    storage, serializer = await aget_default_result_storage(), get_default_result_serializer()
    where_to = type(storage).__name__
    if isinstance(storage, LocalFileSystem):
        path = storage.basepath or "~/.prefect/storage"
        if not _can_be_written(path):
            return "wrong", f"Results go to {path}, which cannot be written.", "Correct PREFECT_LOCAL_STORAGE_PATH."
        where_to = f"{path}, on this machine"
    told = f"Results go to {where_to}. No gate needs them: what was started is on record on the server."
    if serializer.type == "json":
        return (
            "note",
            f"{told} As JSON, an error keeps its message alone.",
            "For GateFailed.report: PREFECT_RESULTS_DEFAULT_SERIALIZER=pickle.",
        )
    return "ok", told, ""


async def check_clock(where: Where) -> Answer:
    """Check that this machine's clock goes as others do."""
    if not where.skews:
        return _skipped("nobody could be asked for the time")
    told = ", ".join(
        f"{abs(skew):.0f} s {'behind' if skew < 0 else 'ahead of'} {whose}" for whose, skew in where.skews.items()
    )
    if any(abs(skew) > MAX_SKEW_SECONDS for skew in where.skews.values()):
        return (
            "wrong",
            f"The clock of this machine is {told}.",
            "Deadlines that are resumed and quarantine dates go by it: set it (NTP).",
        )
    return "ok", f"The clock of this machine is {told}.", ""


CHECKS: dict[str, Callable[[Where], Awaitable[Answer]]] = {
    "versions": check_versions,
    "token": check_token,
    "network": check_network,
    "QA.tech": check_service,
    "access": check_access,
    "project": check_project,
    "Prefect": check_prefect,
    "block types": check_blocks,
    "watcher": check_watcher,
    "results": check_results,
    "clock": check_clock,
}


async def _projects(client: QATechClient) -> list[QATechProject] | None:
    try:
        return await client.list_projects()
    except NotFoundError:  # an older service has no such list
        await client.list_applications()
        return None


def _skipped(why: str) -> Answer:
    return "skipped", f"Not checked: {why}.", ""


def _is_there(path: str) -> bool:
    return Path(path).exists()


def _can_be_written(directory: str) -> bool:
    path = Path(directory).expanduser().absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _note_skew(where: Where, whose: str, time_there: datetime | None) -> None:
    if time_there is not None:
        where.skews[whose] = (datetime.now(timezone.utc) - time_there).total_seconds()

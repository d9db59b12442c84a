"""Ask the catalogue what the names in a request mean; `names` settles it. What was asked once is remembered."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import anyio

from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.names import Answers, NotAsked, Question, needs_answers, resolved
from prefect_qatech.api.wire import Request
from prefect_qatech.exceptions import InvalidInputError, QATechTimeoutError

T = TypeVar("T")
RequestT = TypeVar("RequestT", bound=Request)

MAX_SECONDS = 180.0
"""How long it may take to find out what is asked for."""

_MAX_REMEMBERED = 100


@dataclass
class Remembered:
    """What a catalogue has answered, within a flow run; but for answers from which it follows what is run."""

    answers: dict[Question, Sequence[Any]] = field(default_factory=dict)
    _locks: WeakKeyDictionary[asyncio.AbstractEventLoop, anyio.Lock] = field(default_factory=WeakKeyDictionary)

    @property
    def lock(self) -> anyio.Lock:
        """Lets one at a time ask, in each event loop."""
        return self._locks.setdefault(asyncio.get_running_loop(), anyio.Lock())


_remembered: OrderedDict[tuple[str, str], Remembered] = OrderedDict()


def remembered_in(flow_run_id: object, client: QATechClient) -> Remembered:
    """Return what is remembered in a flow run of what a token sees; outside a flow run nothing is."""
    if flow_run_id is None:
        return Remembered()
    key = (str(flow_run_id), client.digest())
    _remembered[key] = found = _remembered.pop(key, None) or Remembered()
    while len(_remembered) > _MAX_REMEMBERED:
        _remembered.popitem(last=False)
    return found


async def resolve(client: QATechClient, request: RequestT, remembered: Remembered | None = None) -> RequestT:
    """Return a request with ids in place of names, and with test cases in place of labels; errors as of `resolved`."""
    await client.know_project()
    if not needs_answers(request):
        return request
    return await find_out(client, lambda answers: resolved(request, answers), remembered)


async def find_out(client: QATechClient, settle: Callable[[Answers], T], remembered: Remembered | None = None) -> T:
    """Return the result of a pure function, after asking the catalogue for the answers that it needs.

    The function raises `NotAsked` for what it needs. What it raises else, it raises on answers that are not older than
    this call.
    """
    memory = remembered or Remembered()
    with anyio.move_on_after(MAX_SECONDS):
        async with memory.lock:
            return await _find_out(client, settle, memory)
    raise QATechTimeoutError(
        f"QA.tech did not tell within {MAX_SECONDS:.0f} s what the names mean. Nothing was sent: give ids, or retry.",
        retryable=True,
    )


async def _find_out(client: QATechClient, settle: Callable[[Answers], T], memory: Remembered) -> T:
    older, asked = dict(memory.answers), dict[Question, Sequence[Any]]()
    while True:
        try:
            result = settle({**older, **asked})
        except NotAsked as needed:
            question = needed.question
        except InvalidInputError:
            if not older:
                raise
            # It may have been created since, perhaps by this very flow run.
            older = {}
            continue
        else:
            memory.answers.update({one: items for one, items in asked.items() if not one.is_selection})
            return result
        asked[question] = await _ask(client, question)


async def _ask(client: QATechClient, question: Question) -> Sequence[Any]:
    if question.kind == "project":
        return await client.list_projects()
    if question.kind == "application":
        return await client.list_applications()
    if question.kind == "environment":
        return await client.list_environments(question.application or "")
    return await client.list_test_cases(application_short_id=question.application)

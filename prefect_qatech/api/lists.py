"""How lists are read, pages of them too; and which project is meant, where it is given by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
from pydantic import ValidationError

from prefect_qatech.api.answers import Exchange
from prefect_qatech.api.catalogue import QATechProject
from prefect_qatech.api.names import Question, id_of, looks_like_id
from prefect_qatech.api.transport import ModelT, Transport
from prefect_qatech.api.wire import count_of

PAGE_SIZE = 1_000
_MAX_READINGS = 3
_WITHOUT_PROJECT = ("/v1/projects", "/v1/outbound-ips")

_projects: dict[str, str] = {}
"""Ids of projects that were given by their names, by what a token sees; a process uses few of them."""


class Lists(Transport):
    """Reads lists; `QATechClient` documents the arguments."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._project_lock = anyio.Lock()

    @property
    def has_project_name(self) -> bool:
        """Whether the project is given by its name, as far as can be told."""
        return self._project_short_id is not None and not looks_like_id(self._project_short_id, "project")

    async def list_projects(self) -> list[QATechProject]:
        """Return the projects that the token may use (`GET /projects`).

        Raises:
            QATechAPIError: They could not be had; `retryable` tells whether another try may succeed.
        """
        return await self._list(QATechProject, "projects", "projects")

    async def know_project(self) -> str | None:
        """Return the id of the project; it is asked for once where the project is given by its name.

        Before a POST whose time is limited this is to be called by itself.

        Raises:
            InvalidInputError: The token sees no such project, or more than one.
            QATechAPIError: The projects could not be had; `retryable` tells whether another try may succeed.
        """
        given = self._project_short_id
        if given is None or not self.has_project_name:
            return given
        async with self._project_lock:
            key = self.digest()
            if key not in _projects:
                projects = Question("project")
                _projects[key] = id_of(given, projects, {projects: await self.list_projects()}, "project_short_id")
            return _projects[key]

    async def _project_of(self, exchange: Exchange) -> str | None:
        if exchange.path not in _WITHOUT_PROJECT:
            return await self.know_project()
        return _projects.get(self.digest()) if self.has_project_name else self._project_short_id

    async def _list(
        self,
        model: type[ModelT],
        path: str,
        name: str,
        *,
        ids: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> list[ModelT]:
        exchange = self._exchange("GET", path, ids=ids)
        return self._items(model, await self._send(exchange, query=query), name, exchange)

    def _items(self, model: type[ModelT], answer: Any, name: str, exchange: Exchange) -> list[ModelT]:
        items = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(items, list):
            raise exchange.undocumented(f"The answer to {exchange} has no list of {name}.")
        return [self._parse(model, item, exchange) for item in items]

    async def _pages(
        self,
        model: type[ModelT],
        path: str,
        name: str,
        query: Mapping[str, str],
        *,
        key: Callable[[ModelT], str],
        max_items: int,
    ) -> list[ModelT]:
        exchange = self._exchange("GET", path)
        for _ in range(_MAX_READINGS):
            found: list[ModelT] = []
            while True:
                offset = max(0, len(found) - 1)
                page = {**query, "limit": str(PAGE_SIZE), "offset": str(offset)}
                answer = await self._send(exchange, query=page)
                items = self._items(model, answer, name, exchange)
                if found and (not items or key(items[0]) != key(found[-1])):
                    break  # the list has changed: read it again
                new = items[1:] if found else items
                found += new
                if len(found) > max_items:
                    raise exchange.undocumented(f"{exchange} gave more than {max_items:,}: narrow what is asked for.")
                total = count_of(answer.get("total")) if isinstance(answer, dict) else None
                # A page may be shorter than was asked for: without a total, the end is where nothing new comes.
                if not new or len(found) == total:
                    distinct = list({key(item): item for item in found}.values())
                    if total is not None and len(distinct) < total:
                        break  # a part would pass for the whole
                    return distinct
        raise exchange.undocumented(
            f"The list of {exchange} changed each time while it was read, or has fewer entries than its total says."
        )

    async def _make(
        self,
        model: type[ModelT],
        path: str,
        body: Mapping[str, Any],
        *,
        ids: Mapping[str, str],
        makes: str,
        within: str | None = None,
    ) -> ModelT:
        """Send a POST and return what it has made; an answer that cannot be read leaves its outcome unknown.

        `within` is the field of the answer that holds it; None where the answer itself does.
        """
        exchange = self._exchange("POST", path, ids=ids, makes=makes)
        answer = await self._send(exchange, body=body)
        if isinstance(answer, dict) and not answer.get("success", True):
            raise exchange.outcome_unknown("the answer says success: false")
        try:
            return model.model_validate(answer if within is None else answer[within])
        except (KeyError, TypeError, ValidationError):
            pass
        raise exchange.outcome_unknown("the answer does not name it")

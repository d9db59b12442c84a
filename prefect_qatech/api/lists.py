"""What a project has: its lists, read to their ends, and its own id, which every other request names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefect_qatech.api.answers import Exchange
from prefect_qatech.api.catalogue import (
    QATechApplicationInfo,
    QATechBuild,
    QATechEnvironmentInfo,
    QATechProject,
    QATechTestCase,
    QATechTraceStep,
)
from prefect_qatech.api.ids import check_id
from prefect_qatech.api.names import Question, id_of, looks_like_id
from prefect_qatech.api.transport import ModelT, Transport
from prefect_qatech.api.wire import count_of
from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.inputs import short_repr

MAX_TEST_CASES = 20_000
MAX_TRACE_STEPS = 5_000
PAGE_SIZE = 1_000
_MAX_READINGS = 3
_WITHOUT_PROJECT = ("/v1/projects", "/v1/outbound-ips")

_projects: dict[str, str] = {}
"""Ids of projects that were given by their names, by what a token sees; a process uses few of them."""


class Lists(Transport):
    """Reads what a project has."""

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

    async def list_applications(self) -> list[QATechApplicationInfo]:
        """Return the applications of the project (`GET /applications`).

        Raises:
            QATechAPIError: They could not be had; `retryable` tells whether another try may succeed.
        """
        return await self._list(QATechApplicationInfo, "applications", "applications")

    async def list_environments(self, application_short_id: str) -> list[QATechEnvironmentInfo]:
        """Return the saved environments of an application (`GET /applications/{shortId}/environments`).

        Args:
            application_short_id: The application.

        Raises:
            QATechAPIError: They could not be had; `retryable` tells whether another try may succeed.
        """
        path = f"applications/{check_id(application_short_id)}/environments"
        return await self._list(
            QATechEnvironmentInfo, path, "environments", ids={"application_short_id": application_short_id}
        )

    async def list_builds(self, application_short_id: str, *, max_builds: int = 100) -> list[QATechBuild]:
        """Return the newest builds of a mobile application (`GET /applications/{shortId}/builds`).

        Args:
            application_short_id: The application.
            max_builds: How many at most.

        Raises:
            QATechAPIError: They could not be had; `retryable` tells whether another try may succeed.
        """
        return await self._list(
            QATechBuild,
            f"applications/{check_id(application_short_id)}/builds",
            "builds",
            ids={"application_short_id": application_short_id},
            query={"perPage": str(max_builds)},
        )

    async def list_outbound_ips(self) -> list[str]:
        """Return the addresses from which QA.tech's agents come (`GET /outbound-ips`); the token is not sent.

        Raises:
            QATechAPIError: They could not be had; `retryable` tells whether another try may succeed.
        """
        exchange = self._exchange("GET", "outbound-ips")
        answer = await self._send(exchange, with_token=False)
        addresses = answer.get("ipAddresses") if isinstance(answer, dict) else None
        if not isinstance(addresses, list):
            raise exchange.undocumented(f"The answer to {exchange} has no list of ipAddresses.")
        return [str(address) for address in addresses]

    async def list_test_cases(
        self,
        *,
        application_short_id: str | None = None,
        labels: Sequence[str] = (),
        is_enabled: bool | None = None,
        max_test_cases: int = MAX_TEST_CASES,
    ) -> list[QATechTestCase]:
        """Return the test cases of the project (`GET /test-cases`), all pages of them.

        - Each page begins with the last test case of the one before: where another one stands there, the list has
          changed while it was read, and it is read again.

        Args:
            application_short_id: Only those of an application.
            labels: Only those that have all of these labels.
            is_enabled: Only those that are enabled, or disabled.
            max_test_cases: More than these are an error: a part of the list would be taken for the whole.

        Raises:
            QATechAPIError: They could not be had; `retryable` tells whether another try may succeed.
        """
        if isinstance(labels, str) or any("," in label for label in labels):
            raise InvalidInputError(f"labels must be a list of labels without commas, not {short_repr(labels)}")
        query = {
            "applicationShortId": None if application_short_id is None else check_id(application_short_id),
            "labels": ",".join(labels) or None,
            "isEnabled": None if is_enabled is None else str(is_enabled).lower(),
        }
        return await self._pages(
            QATechTestCase,
            "test-cases",
            "testCases",
            {name: value for name, value in query.items() if value is not None},
            key=lambda case: case.id,
            max_items=max_test_cases,
        )

    async def get_test_case_trace(
        self, run_test_case_short_id: str, *, max_steps: int = MAX_TRACE_STEPS
    ) -> list[QATechTraceStep]:
        """Return what the agent did in one execution (`GET /run-test-case/{shortId}/trace`), all pages of it.

        Args:
            run_test_case_short_id: The `short_id` of a `QATechRunTestCase`.
            max_steps: More than these are an error.

        Raises:
            QATechAPIError: It could not be had; `retryable` tells whether another try may succeed.
        """
        return await self._pages(
            QATechTraceStep,
            f"run-test-case/{check_id(run_test_case_short_id)}/trace",
            "steps",
            {},
            # A step without a number is known by its content alone.
            key=lambda step: step.model_dump_json() if step.index is None else str(step.index),
            max_items=max_steps,
        )

    async def _send(
        self,
        exchange: Exchange,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        with_token: bool = True,
    ) -> Any:
        if exchange.path not in _WITHOUT_PROJECT:
            project = await self.know_project()
        else:
            project = _projects.get(self.digest()) if self.has_project_name else self._project_short_id
        if project is not None and exchange.method == "GET":
            query = {**(query or {}), "projectShortId": project}
        elif project is not None and body is not None:
            body = {"projectShortId": project, **body}
        return await super()._send(exchange, query=query, body=body, with_token=with_token)

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

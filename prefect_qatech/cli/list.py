"""The command that lists what a project has, so that nobody has to copy ids from a dashboard."""

from __future__ import annotations

import asyncio
import json as json_module
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Literal

from cyclopts import Parameter

from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.wire import Response
from prefect_qatech.cli.display import one_line
from prefect_qatech.cli.exits import end
from prefect_qatech.cli.terminal import show
from prefect_qatech.credentials import QATechCredentials
from prefect_qatech.exceptions import QATechError

What = Literal["projects", "applications", "environments", "test-cases", "builds"]

_COLUMNS: dict[What, tuple[str, ...]] = {
    "projects": ("short_id", "name"),
    "applications": ("short_id", "name", "kind"),
    "environments": ("short_id", "name", "url", "is_production"),
    "test-cases": ("id", "name", "is_enabled", "labels", "application_short_id"),
    "builds": ("application_build_short_id", "platform", "file_name"),
}
_OF_AN_APPLICATION = ("environments", "builds")


def list_(
    what: What,
    /,
    *,
    application: str | None = None,
    label: Annotated[list[str] | None, Parameter(negative="")] = None,
    enabled: bool | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """List what the project of the token has, with its ids.

    Exit codes: 0 it was read, 3 error.

    Args:
        what: projects, applications, environments, test-cases or builds.
        application: Short id of an application: of environments and builds always, of test cases to choose among them.
        label: Only test cases with this label; may be repeated.
        enabled: Only test cases that are enabled, or are not.
        json: Print it as JSON.
    """
    if what in _OF_AN_APPLICATION and application is None:
        end(f"{what} are those of an application: give --application app_... (`prefect-qatech list applications`).")
    calls: dict[What, Callable[[QATechClient], Awaitable[Sequence[Response]]]] = {
        "projects": lambda client: client.list_projects(),
        "applications": lambda client: client.list_applications(),
        "environments": lambda client: client.list_environments(application or ""),
        "builds": lambda client: client.list_builds(application or ""),
        "test-cases": lambda client: client.list_test_cases(
            application_short_id=application, labels=label or (), is_enabled=enabled
        ),
    }

    async def ask() -> Sequence[Response]:
        async with QATechCredentials.from_env().get_client() as client:
            return await calls[what](client)

    try:
        items = asyncio.run(ask())
    except (QATechError, ValueError) as error:
        end(one_line(str(error)))
    if json:
        show([json_module.dumps([item.model_dump(mode="json", by_alias=False) for item in items], indent=2)])
        return
    show(_lines(items, _COLUMNS[what]))
    if not items:
        print(f"No {what}.", file=sys.stderr)


def _lines(items: Sequence[Response], columns: Sequence[str]) -> list[str]:
    rows = [[_cell(getattr(item, column)) for column in columns] for item in items]
    widths = [max((len(row[number]) for row in rows), default=0) for number in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(value: object) -> str:
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return "-" if value in (None, "") else one_line(str(value))

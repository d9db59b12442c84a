"""The table of endpoints in the docs: it names what there is, and leaves no endpoint and no method out."""

import inspect
import re
from pathlib import Path
from typing import Any, get_args

import httpx
import prefect
import pytest

import prefect_qatech
from prefect_qatech import QATechClient
from prefect_qatech.cli import app
from prefect_qatech.cli.list import What
from prefect_qatech.sandbox import Sandbox
from tests.support import read_vendors_document

PAGE = (Path(__file__).parents[1] / "docs/reference/endpoints.md").read_text(encoding="utf-8")
COVERED, _, OTHERS = PAGE.partition("## Not for this project")


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


TABLE = {named(endpoint)[0]: cells for endpoint, *cells in rows(COVERED)}


def endpoints_of(document: Any, prefix: str = "") -> set[str]:
    return {
        f"{method.upper()} {prefix}{path}"
        for path, operations in document["paths"].items()
        for method in operations
        if method in ("get", "post", "put", "patch", "delete")
    }


@pytest.mark.parametrize("endpoint", TABLE)
def test_what_the_table_names_is_there(endpoint: str) -> None:
    methods, tasks, commands = map(named, TABLE[endpoint])
    assert methods, "an endpoint without a method is not covered"
    for method in methods:
        assert inspect.iscoroutinefunction(getattr(QATechClient, method, None)), method
    for task in tasks:
        for version in (task, f"a{task}"):
            assert isinstance(getattr(prefect_qatech, version, None), prefect.Task), version
    for command in commands:
        name, *what = command.split()
        assert name in app, command
        assert not what or (name == "list" and what[0] in get_args(What)), command


def test_each_endpoint_of_the_sandbox_is_in_the_table() -> None:
    with Sandbox(speed=0) as sandbox:
        document = httpx.get(f"{sandbox.url}/openapi.json").json()
    # Steering the sandbox, and its pages for people, are no part of QA.tech's API.
    served = {name for name in endpoints_of(document) if not re.search(r" /(sandbox|p)/", name)}
    assert served == set(TABLE)


def test_each_endpoint_of_the_vendors_document_is_in_the_table() -> None:
    assert endpoints_of(read_vendors_document(), "/v1") <= set(TABLE)


def test_each_method_of_the_client_is_in_the_table() -> None:
    methods = {
        name for name, item in inspect.getmembers(QATechClient, inspect.iscoroutinefunction) if not name.startswith("_")
    }
    assert methods == {method for cells in TABLE.values() for method in named(cells[0])}


def test_each_task_that_calls_the_service_is_in_the_table() -> None:
    tasks = {
        name
        for name in prefect_qatech.__all__
        if isinstance(item := getattr(prefect_qatech, name), prefect.Task)
        and not inspect.iscoroutinefunction(item.fn)
        and "credentials" in inspect.signature(item.fn).parameters
    }
    assert tasks == {task for cells in TABLE.values() for task in named(cells[1])}


def test_what_is_not_for_this_project_says_why() -> None:
    assert len(rows(OTHERS)) >= 6
    assert all(why for _, why in rows(OTHERS))

"""The room does what its docstring says: no I/O, no clock, examples that run."""

from __future__ import annotations

import ast
import doctest
from importlib import import_module
from pathlib import Path

import pytest

from prefect_qatech import verdict as room

MODULES = sorted(Path(room.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_room_is_pure(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    allowed = {"__future__", "collections", "collections.abc", "dataclasses", "datetime", "enum", "fractions"}
    allowed |= {"typing", "zoneinfo", "pydantic"}
    allowed |= {f"prefect_qatech.{name}" for name in ("inputs", "texts", "api.responses")}
    assert {name for name in imported if not name.startswith("prefect_qatech.verdict")} <= allowed
    called = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")}
    assert not called & {"today", "now", "open", "read_text"}


def test_examples_in_the_docstrings_run() -> None:
    results = [
        doctest.testmod(import_module(f"{room.__name__}.{path.stem}")) for path in MODULES if path.stem != "__init__"
    ]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 9

"""A module that defines a flow or a task evaluates its annotations.

`.serve()` pickles a flow by value, and with it only the names that its code uses: an annotation that is a string names
nothing there, and each flow run fails with "is not fully defined".
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("prefect_qatech", "flows", "deployments") for path in (ROOT / folder).rglob("*.py"))
DECORATORS = {"flow", "task", "task_in_both_versions", "gate_in_both_versions", "materialize"}


def defines_flow_or_task(tree: ast.Module) -> bool:
    """Whether a function is made a flow or a task: `@flow`, `@task(...)`, `@prefect.flow`, `task(function)`."""

    def is_decorator(node: ast.expr) -> bool:
        return (isinstance(node, ast.Name) and node.id in DECORATORS) or (
            isinstance(node, ast.Attribute)
            and node.attr in DECORATORS
            and isinstance(node.value, ast.Name)
            and node.value.id == "prefect"
        )

    return any(
        (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(map(is_decorator, node.decorator_list)))
        or (isinstance(node, ast.Call) and is_decorator(node.func))
        for node in ast.walk(tree)
    )


def postpones(tree: ast.Module) -> bool:
    """Whether the module's annotations are strings."""
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and "annotations" in {alias.name for alias in node.names}
        for node in tree.body
    )


DEFINING = [path for path in FILES if defines_flow_or_task(ast.parse(path.read_text(encoding="utf-8")))]


def test_there_are_modules_to_look_at() -> None:
    names = {str(path.relative_to(ROOT)) for path in DEFINING}
    assert names >= {
        "flows/check.py",
        "prefect_qatech/gate/flow.py",
        "prefect_qatech/gate/many.py",
        "prefect_qatech/tasks.py",
    }


@pytest.mark.parametrize("path", DEFINING, ids=lambda path: str(path.relative_to(ROOT)))
def test_annotations_are_evaluated(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not postpones(tree), "take out `from __future__ import annotations`"

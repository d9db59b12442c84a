"""Reads a scenario from a YAML file; whatever is wrong with it is told in one line that names the place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from prefect_qatech.sandbox.scenario import SandboxScenario

__all__ = ["ScenarioError", "load_scenario"]

_SHIPPED = Path(__file__).parent / "scenarios"


class ScenarioError(ValueError):
    """The scenario cannot be used; the message is one line that names the place."""


def load_scenario(source: str | Path | Mapping[str, Any] | SandboxScenario | None = None) -> SandboxScenario:
    """Read a scenario.

    Args:
        source: A YAML file, the name of a scenario that comes with the package (`"default"`), a mapping, a scenario,
            or nothing for the default one.

    Returns:
        The scenario, checked.

    Raises:
        ScenarioError: It is not there or not right; the message names the file, the line and the field.
    """
    if isinstance(source, SandboxScenario):
        return source
    if isinstance(source, Mapping):
        return _validated(dict(source), None, "scenario")
    path = Path(source or "default")
    try:
        if len(path.parts) == 1 and not path.suffix and not path.exists():
            path = _SHIPPED / f"{path}.yaml"
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ScenarioError(_line(f"{source}: there is no such scenario file")) from None
    except (OSError, ValueError) as error:  # bytes that are no UTF-8, a path that can be none
        raise ScenarioError(_line(f"{source}: cannot be read ({error})")) from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _refuse_repeated_keys(node)
        data = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ScenarioError(_line(f"{path}{where}: not valid YAML ({error.problem})")) from None
    except RecursionError:
        raise ScenarioError(_line(f"{path}: nested too deeply")) from None
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:  # the 30th of February, `!!int x`
        raise ScenarioError(_line(f"{path}: not valid YAML ({error})")) from None
    return _validated(data, node, str(path))


def _line(text: str) -> str:
    return " ".join(text.split())


def _validated(data: object, node: yaml.Node | None, name: str) -> SandboxScenario:
    try:
        return SandboxScenario.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        line = f", line {_line_of(node, first['loc'])}" if node is not None else ""
        # Pydantic puts the tags of unions into the place; the reader of the file knows nothing of them.
        field = ".".join(str(part) for part in first["loc"] if part not in {"key", "definition"}) or "scenario"
        message = first["msg"].removeprefix("Value error, ")
        raise ScenarioError(_line(f"{name}{line}, {field}: {message}{more}")) from None


def _line_of(node: yaml.Node, loc: tuple[int | str, ...]) -> int:
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), node)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
    return int(node.start_mark.line) + 1


def _refuse_repeated_keys(root: yaml.Node | None) -> None:
    # PyYAML lets the last one win in silence, which hides half of a scenario.
    visited: set[int] = set()  # an anchor may stand within itself
    todo = [root]
    while todo:
        node = todo.pop()
        if node is None or id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                        raise yaml.MarkedYAMLError(
                            problem=f"the key {key.value!r} stands there twice", problem_mark=key.start_mark
                        )
                    seen.add(key.value)
                todo.append(value)

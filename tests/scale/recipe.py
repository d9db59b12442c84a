"""Pure: reads a Compose file, so that what is tested is what is copied: commands, settings and health checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::([-?])([^}]*))?\})")


class Recipe:
    """A Compose file with its variables filled in.

    Args:
        path: The file.
        given: The variables that somebody who runs it would have set.

    Raises:
        ValueError: A variable that must be set is not.
    """

    def __init__(self, path: Path, given: Mapping[str, str]) -> None:
        self.services: dict[str, dict[str, Any]] = _filled(yaml.safe_load(path.read_text()), given)["services"]

    def command(self, service: str) -> list[str]:
        """Give a service's command."""
        return list(self.services[service]["command"])

    def environment(self, service: str, here: Mapping[str, str] | None = None) -> dict[str, str]:
        """Give a service's environment.

        Args:
            service: Its name.
            here: The values that must be others outside of a container: addresses. Those that it does not have are left
                out, so that nothing gets in that is not in the file.

        Returns:
            Name to value.
        """
        environment = dict(self.services[service]["environment"])
        return environment | {name: value for name, value in (here or {}).items() if name in environment}

    def health_check(self, service: str, ports: Mapping[int, int]) -> list[str]:
        """Give the command that says whether a service is well, at other ports."""
        command: list[str] = self.services[service]["healthcheck"]["test"][1:]
        for there, here in ports.items():
            command = [re.sub(rf"\b{there}\b", str(here), part) for part in command]
        return command


def _filled(value: Any, given: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one, given) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, given) for one in value]
    return _VARIABLE.sub(lambda match: _value(match, given), value) if isinstance(value, str) else value


def _value(match: re.Match[str], given: Mapping[str, str]) -> str:
    name, kind, rest = match.groups()
    if name is None:
        return "$"
    if given.get(name):
        return given[name]
    if kind == "-":
        return str(rest)
    raise ValueError(f"{name} is not set: {rest or 'there is no default for it'}")

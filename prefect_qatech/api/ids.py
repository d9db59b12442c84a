"""Ids. The service decides what an id looks like; here only what surely is none is refused.

QA.tech's own pages do not agree with each other on prefixes, slugs and alphabets. So only what cannot be an id at all
is refused: it would change the address of a request, or is not one word. For the rest the service's own 400 or 404 is
the error, and an id that the service has just given is never refused for its looks.
"""

from __future__ import annotations

import re
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.inputs import short_repr

MAX_ID_LENGTH = 200

_KINDS = {
    "pln": "a test plan's",
    "app": "an application's",
    "env": "an environment's",
    "preset": "a device preset's",
    "proj": "a project's",
    "bld": "a build's",
    "build": "a build's",
    "cfg": "a config's",
    "scenario": "a scenario's",
}

_RUN = "a run's short id, such as 'abc123' (the last part of the run's address, .../results/abc123)"


def check_id(value: str, what: str = "an id") -> str:
    """Return a text that can be an id; raise `InvalidInputError` for any other, with `what` is needed instead."""
    return _checked(value, _fault_of(value), what)


def _checked(value: str, fault: str | None, what: str) -> str:
    if fault:
        raise InvalidInputError(f"{short_repr(value)} {fault}: {what} is needed")
    return value


def is_prefixed(text: str) -> bool:
    """Return whether a text has the form that QA.tech documents for short ids, such as `app-shop_abc123`."""
    return _kind_of(text) is not None


def check_run_short_id(run_short_id: str) -> str:
    """Return a text that can be a run's short id; raise `InvalidInputError` for any other: an address, say."""
    return check_id(run_short_id, _RUN)


def names(asked: str, answered: str) -> bool:
    """Return whether an answer may be about the id that was asked for, which may lack its slug or prefix, or be a slug.

    For `pln-smoke-tests_abc123` that is `pln_abc123`, `abc123` or `smoke-tests`; in doubt both name the same.
    """
    _, _, slug = answered.rpartition("_")[0].partition("-")
    return asked == slug or not _without_slug(asked).isdisjoint(_without_slug(answered))


def _without_slug(short_id: str) -> set[str]:
    """Return the id with and without its prefix. A slug may have underscores, as an id may: all readings count."""
    prefix, _, rest = short_id.partition("_")
    readings = {short_id, rest or short_id}
    while "-" in prefix and "_" in rest:
        rest = rest.partition("_")[2]
        readings.add(rest)
    return readings - {""}


def described(field: str, short_id: str) -> str:
    """Return an id for an error about one that the service does not know, and what else it looks like, if anything."""
    kind = _kind_of(short_id)
    is_else = kind is not None and kind.split()[-1].removesuffix("'s") not in field
    return f"{field} {short_repr(short_id)}" + (f", which looks like {kind}" if is_else else "")


def _kind_of(short_id: str) -> str | None:
    prefix = re.match(r"([a-z]+)(?:-.+)?_.", short_id)
    return _KINDS.get(prefix[1]) if prefix else None


def _fault_of_name(value: object) -> str | None:
    if not isinstance(value, str):
        return "is not a text"
    if not value.strip():
        return "is empty"
    if len(value) > MAX_ID_LENGTH:
        return f"is longer than {MAX_ID_LENGTH} characters"
    return None if value.isprintable() else "has characters that do not show"


def _fault_of(value: object) -> str | None:
    if not isinstance(value, str) or not value or len(value) > MAX_ID_LENGTH:
        return _fault_of_name(value)
    if any(character.isspace() for character in value):
        return "has blanks"
    if fault := _fault_of_name(value):
        return fault
    if found := next((character for character in value if character in "/?#%"), None):
        return f'has a "{found}"'
    return "is nothing but dots" if not value.strip(".") else None


def _text_of_uuid(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


def _id_of(what: str) -> AfterValidator:
    return AfterValidator(lambda value: check_id(value, what))


def _name_or_id_of(what: str) -> AfterValidator:
    return AfterValidator(lambda value: _checked(value, _fault_of_name(value), what))


# What a form refuses before there is a flow run, and the API with it.
_ID = WithJsonSchema({"type": "string", "pattern": r"^[^\s/?#%]+$", "maxLength": MAX_ID_LENGTH})
_NAME_OR_ID = WithJsonSchema({"type": "string", "pattern": r"\S", "maxLength": MAX_ID_LENGTH})

TestPlanShortId = Annotated[str, _id_of("a test plan's short id, such as 'pln_abc123',"), _ID]
ApplicationShortId = Annotated[
    str, _name_or_id_of("an application's short id, such as 'app_abc123', or its name"), _NAME_OR_ID
]
EnvironmentShortId = Annotated[
    str, _name_or_id_of("an environment's short id, such as 'env_abc123', or its name"), _NAME_OR_ID
]
DevicePresetShortId = Annotated[str, _id_of("a device preset's short id, such as 'preset_abc123',"), _ID]
ProjectShortId = Annotated[str, _name_or_id_of("a project's short id, such as 'proj_abc123', or its name"), _NAME_OR_ID]
ScenarioShortId = Annotated[str, _id_of("a scenario's short id, such as 'scenario_abc123',"), _ID]
BuildShortId = Annotated[str, _id_of("an application build's short id, such as 'bld_abc123',"), _ID]
ConfigKey = Annotated[str, _id_of("a config's short id, such as 'cfg_abc123', or its slug")]
RunShortId = Annotated[str, AfterValidator(check_run_short_id)]
TestCaseId = Annotated[str, BeforeValidator(_text_of_uuid), _name_or_id_of("a test case's UUID or its name")]
EnvironmentId = Annotated[str, BeforeValidator(_text_of_uuid), _id_of("an environment's UUID")]

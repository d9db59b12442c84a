"""Which id is meant: the vendor's own pages show ids with a prefix, with a prefix and a slug, and without either."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

from prefect_qatech.api.ids import check_id

__all__ = ["ShortId", "resolve"]

_PREFIXES = {"pln": "pln", "app": "app", "env": "env", "proj": "proj", "bld": "bld|build"}

ShortId = Annotated[str, AfterValidator(check_id)]
"""An id that a scenario gives to something."""


def resolve(asked: str, known: Iterable[str], kind: str) -> str | None:
    """Find the id that is meant: `pln_abc123`, `pln-smoke-tests_abc123` and `abc123` are one.

    Args:
        asked: The id of the request.
        known: The ids that there are.
        kind: The prefix of the kind: `pln`, `app`, `env`, `proj` or `bld`.

    Returns:
        The id as it is known, or None.
    """
    known = list(known)
    if asked in known:
        return asked
    readings = _readings(asked, kind)
    return next((one for one in known if not readings.isdisjoint(_readings(one, kind))), None)


def _readings(short_id: str, kind: str) -> set[str]:
    """Return what may be left of an id without prefix and slug; a slug may have underscores, as an id may."""
    with_prefix = re.fullmatch(rf"(?:{_PREFIXES[kind]})(?:_(.+)|-(.+))", short_id, re.DOTALL)
    if with_prefix is None:
        return {short_id}
    bare, slug_and_bare = with_prefix.groups()
    parts = [] if bare else slug_and_bare.split("_")
    return {bare} if bare else {"_".join(parts[place:]) for place in range(1, len(parts))} - {""} or {short_id}

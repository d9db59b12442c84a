"""Pure: names instead of ids. What the catalogue answers settles which thing of the project a text means.

- What looks like an id (`app_abc123`, `env-staging_abc123`, a UUID) is taken as one, and the catalogue is not asked.
- All else is looked for in the catalogue. It means the thing of which it is the id, with or without its prefix and
  slug, or exactly the name. Case, blanks and slugs count: what is nearly a name is no name.
- None, or more than one, is an error that names what is near. Nothing is ever turned into what was not asked for.

`resolved` is given the answers that there are, and raises `NotAsked` with the question whose answer it needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, cast
from uuid import UUID

from prefect_qatech.api.catalogue import QATechTestCase
from prefect_qatech.api.ids import check_id, is_prefixed
from prefect_qatech.api.requests import QATechRunRequest
from prefect_qatech.api.wire import Request
from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.inputs import short_repr
from prefect_qatech.texts import cut, listed

RequestT = TypeVar("RequestT", bound=Request)
Kind = Literal["project", "application", "environment", "test case"]

_CASES = (
    "test_case_ids",
    "resume_from_dependency_project_test_case_id",
    "wait_for_dependencies_project_test_case_ids",
)
_PREFIXES: dict[Kind, str] = {"project": "proj", "application": "app", "environment": "env", "test case": ""}
_MAX_TOLD = 5
_MAX_NAME = 60


@dataclass(frozen=True)
class Question:
    """Something to be asked of the catalogue: about the project, or one application of it.

    Where `is_selection`, what is run follows from the answer, which then must not be an old one.
    """

    kind: Kind
    application: str | None = None
    is_selection: bool = False


Answers = Mapping[Question, Sequence[Any]]


class NotAsked(Exception):
    """The answer to a question is needed."""

    def __init__(self, question: Question) -> None:
        super().__init__(question)
        self.question = question


def looks_like_id(text: str, kind: Kind) -> bool:
    """Return whether a text is taken as an id, without a look at the catalogue."""
    try:
        check_id(text)
    except InvalidInputError:
        return False
    return _is_uuid(text) or (kind != "test case" and is_prefixed(text))


def choose(asked: str, things: Iterable[tuple[str, str]], kind: Kind, place: str) -> str:
    """Return the id, as the catalogue has it, of the thing that a text means, among the ids and names of all things.

    Where there is none, or more than one, the `InvalidInputError` names the place where the text was given.
    """
    there = [(short_id, name) for short_id, name in things if short_id]
    found = {short_id: name for short_id, name in there if name == asked or asked in _forms(short_id, _PREFIXES[kind])}
    if len(found) == 1:
        return next(iter(found))
    if found:
        raise InvalidInputError(
            f"{place}: {short_repr(asked)} is more than one {kind}: {_told(found.items())}. "
            "Nothing was sent; give its id."
        )
    by_name = {name.casefold(): (short_id, name) for short_id, name in there}
    near = [by_name[name] for name in get_close_matches(asked.casefold(), by_name, n=_MAX_TOLD)]
    hint = f"did you mean {_told(near)}?" if near else f"there is {_told(there) or 'none'}."
    raise InvalidInputError(f"{place}: there is no {kind} {short_repr(asked)}; {hint} Nothing was sent.")


def resolved(request: RequestT, answers: Answers) -> RequestT:
    """Return a request with ids in place of the names, and with test cases in place of what selects them.

    Raises:
        NotAsked: An answer is needed.
        InvalidInputError: A name means nothing, or more than one thing, or nothing is selected.
    """
    request = _with_ids(request, answers, None, "")
    if isinstance(request, QATechRunRequest) and request.is_selection:
        ids = _selected(request, answers)
        nothing = {"labels": None, "application_short_id": None}
        request = cast("RequestT", request.model_copy(update={"test_case_ids": ids, **nothing}))
    return request


def needs_answers(request: Request) -> bool:
    """Return whether the catalogue has to be asked what a request means."""
    try:
        resolved(request, {})
    except NotAsked:
        return True
    return False


def _with_ids(request: RequestT, answers: Answers, application: str | None, inside: str) -> RequestT:
    changes: dict[str, Any] = {}
    for name, value in request:
        place, new = f"{inside}{name}", value
        if isinstance(value, Request):
            new = _with_ids(value, answers, application, f"{place}.")
        elif isinstance(value, list) and any(isinstance(item, Request) for item in value):
            new = [_with_ids(item, answers, application, f"{place}.{number}.") for number, item in enumerate(value)]
        elif value is None:
            continue
        elif name == "project_short_id":
            new = id_of(value, Question("project"), answers, place)
        elif name == "application_short_id":
            new = application = id_of(value, Question("application"), answers, place)
        elif name == "short_id":
            new = id_of(value, Question("environment", application), answers, place)
        elif name in _CASES:
            new = _case_ids(value, answers, place)
        if new != value:
            changes[name] = new
    return request.model_copy(update=changes) if changes else request


def _case_ids(value: str | list[str], answers: Answers, place: str) -> str | list[str]:
    if isinstance(value, str):
        return id_of(value, Question("test case"), answers, place)
    ids = [id_of(item, Question("test case"), answers, f"{place}.{n}") for n, item in enumerate(value)]
    # A test case by its name and by its id is one test case.
    return value if ids == value else list(dict.fromkeys(ids))


def id_of(asked: str, question: Question, answers: Answers, place: str) -> str:
    """Return the id of what is given by its id or name, among the answers to a question; errors as of `resolved`."""
    if looks_like_id(asked, question.kind):
        return asked
    return choose(asked, _things(_answer(question, answers)), question.kind, place)


def _answer(question: Question, answers: Answers) -> Sequence[Any]:
    if question not in answers:
        raise NotAsked(question)
    return answers[question]


def _things(items: Sequence[Any]) -> list[tuple[str, str]]:
    return [(item.id if isinstance(item, QATechTestCase) else item.short_id, item.name) for item in items]


def _selected(request: QATechRunRequest, answers: Answers) -> list[str]:
    """Return the ids of the test cases that a request selects; never an empty list, which could mean everything."""
    labels = set(request.labels or ())
    cases: Sequence[QATechTestCase] = _answer(
        Question("test case", request.application_short_id, is_selection=True), answers
    )
    chosen = [case for case in cases if labels <= set(case.labels)]
    enabled = [case for case in chosen if case.is_enabled is not False]
    what = " and ".join(
        [*(["the labels " + ", ".join(map(short_repr, request.labels))] if request.labels else [])]
        + ([f"the application {short_repr(request.application_short_id)}"] if request.application_short_id else [])
    )
    if not enabled:
        known = sorted({label for case in cases for label in case.labels})
        disabled = f", and {len(chosen)} that are disabled" if chosen else ""
        near = [text for label in sorted(labels - set(known)) for text in get_close_matches(label, known, n=_MAX_TOLD)]
        told = ", ".join(short_repr(cut(label, _MAX_NAME)) for label in (near or known)[:_MAX_TOLD]) or "none"
        hint = f" The labels that {'are near' if near else 'there are'}: {told}." if labels else ""
        raise InvalidInputError(
            f"There is no enabled test case of {what}{disabled}. Nothing was sent: an empty selection is never a run "
            f"of everything.{hint}"
        )
    if not all(case.id for case in enabled):
        raise InvalidInputError(f"QA.tech gave no id for some test cases of {what}. Nothing was sent.")
    return list(dict.fromkeys(case.id for case in enabled))


def _forms(short_id: str, prefix: str) -> set[str]:
    """Return an id as it is, and without its prefix and slug; a slug may have underscores, as an id may."""
    with_prefix = re.fullmatch(rf"(?:{prefix})(-.+)?_(.+)", short_id, re.DOTALL) if prefix else None
    if with_prefix is None:
        return {short_id}
    parts = short_id.split("_")
    bare = {"_".join(parts[place:]) for place in range(1, len(parts) if with_prefix[1] else 2)}
    return {short_id, *bare} - {""}


def _told(things: Iterable[tuple[str, str]]) -> str:
    told = [f"{short_repr(cut(name, _MAX_NAME))} ({cut(short_id, _MAX_NAME)})" for short_id, name in things]
    return listed(told, _MAX_TOLD)


def _is_uuid(text: str) -> bool:
    try:
        return len(text) == 36 and bool(UUID(text))
    except ValueError:
        return False

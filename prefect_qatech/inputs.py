"""What users pass in, and how it is refused: with one kind of error, in one line.

An error ends up in the state of a flow run and in logs, where a report of several lines helps nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from typing_extensions import Self

from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.texts import clean_text, cut

_MAX_FAULTS = 3
_MAX_SHOWN = 80
_MAX_DEPTH = 3
_SINGLE_ITEM = " (put a single item into [...])"

# None outside of all models; else whether a call in Python, not a validation, makes the outermost one.
_is_made_in_code: ContextVar[bool | None] = ContextVar("qatech_is_made_in_code", default=None)

ItemT = TypeVar("ItemT")


class Checked(BaseModel):
    """A model that users make: what is wrong with it is an `InvalidInputError`."""

    def __init__(self, **data: Any) -> None:
        with _errors_in_one_line(type(self)):
            super().__init__(**data)

    @model_validator(mode="wrap")
    @classmethod
    def _notice_who_makes_it(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        with _made(in_code=False):
            return validate(given)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Validate an object, as pydantic does, with the errors of this class."""
        with _errors_in_one_line(cls):
            return super().model_validate(obj, **options)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Validate JSON, as pydantic does, with the errors of this class."""
        with _errors_in_one_line(cls):
            return super().model_validate_json(json_data, **options)


def is_made_in_code() -> bool:
    """Return whether a call in Python makes a model, and not, for example, the parameters of a flow run."""
    return _is_made_in_code.get() is True


def short_repr(value: object) -> str:
    """Return a value as an error may show it: its `repr`, cut to a short line."""
    return cut(repr(value), _MAX_SHOWN)


CleanText = Annotated[str, AfterValidator(clean_text)]
"""A field for a text of a user's that goes into reports and events."""


def _no_single_item(value: object) -> object:
    # pydantic would take a model for the list of its fields.
    if isinstance(value, BaseModel):
        raise ValueError(f"Input should be a valid list{_SINGLE_ITEM}, not {short_repr(value)}")
    return value


Several = Annotated[list[ItemT], BeforeValidator(_no_single_item)]
"""A field for a list of models."""


def check_name(name: object, what: str) -> None:
    """Raise `InvalidInputError` for a name that is no text, is empty, or has characters that cannot be stored.

    It ends up in keys, events and reports; `what` is what it is called, such as `label`.
    """
    if not isinstance(name, str) or not name.strip():
        raise InvalidInputError(f"{what} must be a text that is not empty, not {short_repr(name)}")
    if clean_text(name) != name:
        raise InvalidInputError(f"{what} has characters that cannot be stored: {short_repr(name)}")


def check_target(target: str | None) -> None:
    """Raise `InvalidInputError` for a target that is empty or not one line: it would stand for every version."""
    if target is None:
        return
    check_name(target, "target")
    if not target.isprintable():
        raise InvalidInputError(f"target must be one line, such as a commit or a version, not {short_repr(target)}")


def describe_in_one_sentence(schema: dict[str, Any]) -> None:
    """Keep the first paragraph of a docstring: a schema is shown to people, as a form."""
    schema["description"] = " ".join(schema.get("description", "").partition("\n\n")[0].split())


@contextmanager
def _made(*, in_code: bool) -> Iterator[None]:
    before = _is_made_in_code.get()
    token = _is_made_in_code.set(in_code if before is None else before)
    try:
        yield
    finally:
        _is_made_in_code.reset(token)


@contextmanager
def _errors_in_one_line(model: type[BaseModel]) -> Iterator[None]:
    try:
        with _made(in_code=True):
            yield
    except ValidationError as error:
        raise _in_one_line(model, error) from None


def _in_one_line(model: type[BaseModel], error: ValidationError) -> InvalidInputError:
    faults: list[tuple[str, str]] = []
    for fault in error.errors(include_url=False):
        place = [_part_of_place(part) for part in fault["loc"]]
        cause = fault.get("ctx", {}).get("error")
        nested = cause.faults if isinstance(cause, InvalidInputError) else ()
        for field, sentence in nested or [("", _sentence(model, fault, cause))]:
            faults.append((".".join([*place, field] if field else place), sentence))
    sentences = [f"{field}: {sentence}" if field else sentence for field, sentence in faults[:_MAX_FAULTS]]
    if len(faults) > _MAX_FAULTS:
        sentences.append(f"and {len(faults) - _MAX_FAULTS} more")
    return InvalidInputError(" ".join("; ".join(sentences).split()), faults=tuple(faults))


def _part_of_place(part: int | str) -> str:
    text = str(part)
    return text if text.isprintable() and len(text) <= _MAX_SHOWN else short_repr(part)


def _model_at(model: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    for part in place:
        field = model.model_fields.get(str(part))
        if field is not None and (models := _models_of(field.annotation)):
            model = models[0]
    return model


def _where_it_is(name: str, model: type[BaseModel]) -> str:
    """Return a hint at the field that was probably meant: one of a like name, or one of that name further inside."""
    fields = model.model_fields
    alike = get_close_matches(name, fields, n=1) or [field for field in fields if f"_{name}_" in f"_{field}_"]
    if len(alike) == 1:
        return f"; did you mean {alike[0]}?"
    inside = _inside(name, model, _MAX_DEPTH)
    return f"; it goes into {inside}" if inside else ""


def _inside(name: str, model: type[BaseModel], depth: int) -> str | None:
    for field, info in model.model_fields.items() if depth else ():
        for inner in _models_of(info.annotation):
            rest = f"{name}=..." if name in inner.model_fields else _inside(name, inner, depth - 1)
            if rest is not None:
                value = f"{inner.__name__}({rest})"
                return f"{field}=[{value}]" if "list" in str(info.annotation) else f"{field}={value}"
    return None


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_of(part)]


def _sentence(model: type[BaseModel], fault: Any, cause: object) -> str:
    if fault["type"] == "extra_forbidden":
        return f"There is no such field{_where_it_is(str(fault['loc'][-1]), _model_at(model, fault['loc'][:-1]))}"
    # Our own sentences say what was given, where that may be said.
    if cause is not None or fault["type"] == "missing" or model.model_config.get("hide_input_in_errors"):
        return str(cause or fault["msg"])
    hint = _SINGLE_ITEM if fault["type"] == "list_type" else ""
    return f"{fault['msg']}{hint}, not {short_repr(fault['input'])}"

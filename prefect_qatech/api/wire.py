"""How a body is made for the wire, and read from it: the two kinds of models, and the kinds of their fields.

What users pass in is checked before any request is made: an unknown field, or a combination that the API does not take,
is an error that says what is allowed. What the service answers is read tolerantly: unknown fields are kept aside
(`model_extra`), an unknown status or result stays text, and an absent list is an empty one.

Field names are those of Python. The API's names (camelCase) are made in `to_json`, for the wire only, and are aliases
where answers are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from typing_extensions import Self

from prefect_qatech.inputs import Checked, describe_in_one_sentence
from prefect_qatech.texts import clean_text

_MAX_NUMBER = 1e300
FilledText = Annotated[str, Field(min_length=1), AfterValidator(clean_text)]


class Request(Checked):
    """Strict: what users pass in, by the names of Python everywhere; `to_json` alone knows those of the API."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=describe_in_one_sentence)

    @model_validator(mode="after")
    def _json_can_carry_it(self) -> Self:
        try:
            json.dumps(self.to_json(), allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, TypeError):
            raise ValueError("it holds something that JSON cannot carry (NaN, an object, half a character)") from None
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the body that goes over the wire: by the API's names, without what was not set."""
        return {to_camel(name): _on_the_wire(value) for name, value in self if value is not None}

    def ids(self) -> dict[str, str]:
        """Return every id in it by the place of its field, for an error about one that the service does not know."""
        found: dict[str, str] = {}
        for name, value in self:
            items = {f"{name}.{number}": item for number, item in enumerate(value)} if isinstance(value, list) else {}
            for place, item in (items or {name: value}).items():
                if isinstance(item, Request):
                    found |= {f"{place}.{inner}": short_id for inner, short_id in item.ids().items()}
                elif isinstance(item, str) and name.endswith(("short_id", "test_case_id", "test_case_ids")):
                    found[place] = item
        return found


def _on_the_wire(value: Any) -> Any:
    """Return a field's value as it goes over the wire; the keys of a mapping are the user's own."""
    if isinstance(value, Request):
        return value.to_json()
    return [_on_the_wire(item) for item in value] if isinstance(value, list) else value


def _text_or_none(value: object) -> object:
    return None if value is None else clean_text(str(value))


def count_of(value: object) -> int | None:
    """Return the count that a value is: a number, or one in digits; None where it is none."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 10**9:
        return None
    return int(value) if value == int(value) else None


def object_or_none(value: object) -> object:
    return value if isinstance(value, (Mapping, BaseModel)) else None


def objects_only(value: object) -> object:
    return [item for item in value if isinstance(item, (dict, BaseModel))] if isinstance(value, (list, tuple)) else []


def _number_or_none(value: object) -> object:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MAX_NUMBER
    return value if is_number else None  # what JSON cannot carry is no number either


OptionalText = Annotated[str | None, BeforeValidator(_text_or_none)]
Text = Annotated[str, BeforeValidator(lambda value: _text_or_none(value) or "")]
OptionalNumber = Annotated[float | None, BeforeValidator(_number_or_none)]


class Response(BaseModel):
    """Tolerant: what the service answers."""

    model_config = ConfigDict(
        extra="allow", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, protected_namespaces=()
    )

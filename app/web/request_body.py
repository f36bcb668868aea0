"""From the bytes of a request to a checked model, or to an error that names the field.

Knows JSON and pydantic's errors. Must never know the fields of any one API.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import InvalidRequest


class Fields(BaseModel):
    """Named fields of a request or of a part of it. Those that we do not know are kept, to be named as ignored."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)


_T = TypeVar("_T")

# A list that is read up to its first fault. One fault is reported; to collect a few hundred thousand takes seconds,
# in which every other stream of the worker waits.
Many = Annotated[list[_T], Field(fail_fast=True)]

_F = TypeVar("_F", bound=Fields)


def parse(model: type[_F], data: bytes) -> _F:
    """The body of a request; raises InvalidRequest with the name of the field that is at fault."""
    try:
        raw = orjson.loads(data)
    except ValueError as e:
        raise InvalidRequest(f"the body is not valid JSON: {_place(e)}", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    try:
        return model.model_validate(raw)
    except ValidationError as e:
        # A value that fits none of several forms has an error for each: the deepest one is meant.
        first = max(e.errors(include_url=False), key=lambda error: len(error["loc"]))
        param = _param(first["loc"], raw, is_missing=first["type"] == "missing")
        message = first["msg"]
        if first["type"] == "union_tag_invalid":
            # Pydantic's own message repeats what was sent, which would then stand in the log.
            message = "{discriminator} should be one of {expected_tags}".format(**first["ctx"])
        raise InvalidRequest(f"{param}: {message}", param=param) from None


def unsupported(name: str, why: str) -> InvalidRequest:
    """The refusal of a parameter that OpenAI knows and that cannot be served."""
    return InvalidRequest(f"Unsupported parameter: '{name}': {why}", code="unsupported_parameter", param=name)


def has_effect(value: Any) -> bool:
    """Whether the sender of this value may expect an effect: null, false, "", [] and {} ask for nothing."""
    return value is not None and value is not False and value not in ("", [], {})


def _place(error: ValueError) -> str:
    """Where JSON is broken, without showing any of it."""
    return re.sub(r".*?(line \d+ column \d+).*", r"\1", str(error), flags=re.DOTALL)


def _param(location: Sequence[int | str], raw: Any, *, is_missing: bool) -> str:
    """A pydantic location → ``messages[0].content``. A location also holds the names of alternatives, which are no
    part of the path: a name that is not in the body is one of those, or the field that is missing."""
    path, here = "", raw
    for index, step in enumerate(location):
        if isinstance(step, int):
            path += f"[{step}]"
            here = here[step] if isinstance(here, list) and step < len(here) else None
        elif isinstance(here, dict) and (step in here or (is_missing and index == len(location) - 1)):
            path += f".{step}" if path else step
            here = here.get(step)
    return path

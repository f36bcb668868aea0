"""JSON Schemas in the body of a request. Must never know in which field."""

from typing import Any

import orjson

from app.errors import InvalidRequest
from app.web.request_context import gateway

# Longer than any schema written by hand. The schema also becomes part of the prompt.
_MAX_CHARS = 50_000


def schema_text(schema: dict[str, Any], field: str) -> str:
    """``schema`` as JSON text.

    Raises InvalidRequest, naming ``field``: if it is not a valid JSON Schema, is too long or nested too deep, or
    refers to something outside of itself.
    """
    try:
        text = orjson.dumps(schema).decode()
    except orjson.JSONEncodeError:
        raise InvalidRequest(f"{field} is nested too deep", param=field) from None
    if len(text) > _MAX_CHARS:
        raise InvalidRequest(f"{field} is longer than {_MAX_CHARS} characters", param=field)
    gateway().json_checker.check_schema(text, field)
    return text

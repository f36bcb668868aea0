"""JSON Schemas in the body of a request. Knows no field that they come in."""

from typing import Any

import orjson

from app.errors import InvalidRequest
from app.web.request_context import gateway

# More than any schema that is written by hand. It is also a part of the prompt.
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

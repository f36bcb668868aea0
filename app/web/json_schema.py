"""Whether a JSON Schema that a client sent is one, and whole.

Knows JSON Schema. Must never know which field it came in.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from app.errors import InvalidRequest

# More takes noticeable time to look through: half a second on a small machine.
_MAX_CHARS = 50_000


def schema_text(schema: dict[str, Any], place: str) -> str:
    """The schema as JSON text. Raises InvalidRequest, naming ``place``, for what is no JSON Schema, or too long, or
    needs something that is not in it."""
    # Here and not above: few requests bring a schema, and each start would wait for it.
    import jsonschema
    from jsonschema.validators import validator_for

    try:
        text = orjson.dumps(schema).decode()
    except orjson.JSONEncodeError:
        raise InvalidRequest(f"{place} is nested too deep", param=place) from None
    # Before it is looked at: meanwhile nobody else is served.
    if len(text) > _MAX_CHARS:
        raise InvalidRequest(f"{place} is longer than {_MAX_CHARS} characters", param=place)
    try:
        kind = validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
        outside = next(_outside_references(schema), None)
    except jsonschema.SchemaError as e:
        # Its text shows the value; where it stands is enough.
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in e.absolute_path)
        raise InvalidRequest(f"{place}{path} is not valid in a JSON Schema", param=place) from None
    except RecursionError:
        raise InvalidRequest(f"{place} is nested too deep", param=place) from None
    except Exception as e:  # noqa: BLE001  # jsonschema takes much of a schema at its word; what it raises shows it
        raise InvalidRequest(f"{place} is not a valid JSON Schema ({type(e).__name__})", param=place) from None
    if outside is not None:
        raise InvalidRequest(f"{place}: only references within the schema ('#…') are followed", param=place)
    return text


def _outside_references(value: Any) -> Iterator[str]:
    """What a validator would have to fetch from somewhere else."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(inner, str) and inner[:1] != "#":
                yield inner
            else:
                yield from _outside_references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _outside_references(inner)

"""Whether a JSON Schema that a client sent is one, and whole.

Knows JSON Schema. Must never know which field it came in.
"""

from collections.abc import Iterator
from typing import Any

from app.errors import InvalidRequest


def check_schema(schema: dict[str, Any], place: str) -> None:
    """Raises InvalidRequest, naming ``place``, for what is no JSON Schema or needs something that is not in it."""
    # Here and not above: few requests bring a schema, and each start would wait for it.
    import jsonschema
    from jsonschema.validators import validator_for

    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
        outside = next(_outside_references(schema), None)
    except jsonschema.SchemaError as e:
        # Its text shows the value; where it stands is enough.
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in e.absolute_path)
        raise InvalidRequest(f"{place}{path} is not valid in a JSON Schema", param=place) from None
    except RecursionError:
        raise InvalidRequest(f"{place} is nested too deep", param=place) from None
    if outside is not None:
        raise InvalidRequest(f"{place}: only references within the schema ('#…') are followed", param=place)


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

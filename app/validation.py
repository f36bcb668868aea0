"""Whether a JSON value is what a schema describes, found out in bounded time and without the network.

The schema is a stranger's: references that lead out of it are not followed, and every step looks at the clock,
because a few nested references or one pattern can ask for more work than there is time. Knows JSON Schema.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema
import orjson
import referencing
import regex
from jsonschema.validators import extend, validator_for
from referencing.exceptions import Unresolvable

from app.errors import InvalidRequest

# For all that is checked against one schema: so long nobody else is served by the same worker.
_LIMIT_S = 0.5
_MAX_CHARS = 100_000
_MAX_DEPTH = 100

# Keywords whose values map names, not keywords, to schemas.
_NAMING = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})


@dataclass(frozen=True, slots=True)
class Problem:
    """``rule`` is the keyword of the schema that is broken; ``message`` says how, and shows the value."""

    rule: str
    message: str


class _TooLong(Exception):
    pass


class Schema:
    """A JSON Schema. Raises InvalidRequest for one that cannot be worked with."""

    def __init__(self, text: str) -> None:
        schema = orjson.loads(text)
        if len(text) > _MAX_CHARS:
            raise _unusable(f"is longer than {_MAX_CHARS} characters")
        _check_keywords(schema)
        kind = validator_for(schema, default=jsonschema.Draft202012Validator)
        try:
            kind.check_schema(schema)
        except jsonschema.SchemaError as e:
            raise _unusable(f"breaks the rule '{e.validator}' of JSON Schema") from None
        timed = {name: self._timed(check) for name, check in kind.VALIDATORS.items()}
        with_limits: Any = extend
        bounded = with_limits(kind, {**timed, "pattern": self._pattern})
        # An empty registry: without it jsonschema would fetch what a reference names.
        self._validator = bounded(schema, registry=referencing.Registry())
        self._deadline = 0.0
        self._budget_s = _LIMIT_S

    def problem(self, value: Any) -> Problem | None:
        """The most telling way in which ``value`` is not what is described. Raises InvalidRequest where that
        cannot be found out."""
        began = time.monotonic()
        self._deadline = began + self._budget_s
        try:
            error = jsonschema.exceptions.best_match(self._validator.iter_errors(value))
        except (_TooLong, TimeoutError, RecursionError):
            raise _unusable("is too much work to check an answer against") from None
        except Unresolvable:
            raise _unusable("refers to something that is not in it") from None
        except regex.error:
            raise _unusable("holds a pattern that is no regular expression") from None
        finally:
            self._budget_s -= time.monotonic() - began
        return None if error is None else Problem(str(error.validator), f"{error.json_path}: {error.message}")

    def _timed(self, check: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            self._left_s()
            return check(*arguments)

        return timed

    def _left_s(self) -> float:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise _TooLong
        return left_s

    def _pattern(self, _validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[Any]:
        # Python's own regular expressions cannot be given a limit.
        if isinstance(value, str) and regex.search(pattern, value, timeout=self._left_s()) is None:
            yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _check_keywords(schema: Any) -> None:
    """Raises InvalidRequest for what is nested too deep, and for patterns of names: OpenAI does not take them
    either, and jsonschema tries them without a limit."""
    depth, level = 0, [(schema, False)]
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise _unusable("is nested too deep")
        inner: list[tuple[Any, bool]] = []
        for value, has_names in level:
            if isinstance(value, dict):
                if not has_names and "patternProperties" in value:
                    raise _unusable("uses patternProperties, which is not supported")
                inner += [(item, not has_names and name in _NAMING) for name, item in value.items()]
            elif isinstance(value, list):
                inner += [(item, False) for item in value]
        level = inner


def _unusable(why: str) -> InvalidRequest:
    return InvalidRequest(f"the JSON Schema for the answer {why}", code="unusable_schema", param="response_format")

"""Whether a JSON value is what a schema describes, found out in bounded time and without the network.

The schema is a stranger's: references that lead out of it are not followed, and every step looks at the clock,
because a few nested references or one pattern can ask for more work than there is time. Knows JSON Schema.
"""

import math
import re
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
_MAX_DEPTH = 100
# So large, in characters, a pattern may become when it is compiled: some milliseconds.
_MAX_PATTERN = 10_000

# Keywords whose values map names, not keywords, to schemas.
_NAMING = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})


# A character (escaped, or one of a class), a group, a quantifier.
_TOKEN = re.compile(
    r"""
    (?P<open>\( (?: \? (?: [:=!] | <[=!] | P?<\w+> | [aimsu]+: | (?P<hides>) ) )? )
    | \{ (?P<least>\d+) (?P<most>,\d*)? \} | \{,\d+\} | [*+?]
    | \[ \^? \]? (?: \\. | [^\]\\] )* \]?
    | \\. | .
    """,
    re.DOTALL | re.VERBOSE,
)


# Flags for all of it, which some libraries write first.
_FLAGS = re.compile(r"^\(\?[aimsu]+\)")


@dataclass(frozen=True, slots=True)
class Problem:
    """``rule`` is the keyword of the schema that is broken; ``message`` says how, and shows the value."""

    rule: str
    message: str


class _TooLong(Exception):
    pass


class Schema:
    """A JSON Schema. Raises InvalidRequest for one that cannot be worked with."""

    def __init__(self, text: str, asked_in: str) -> None:
        """``asked_in``: the field that it came in."""
        schema = orjson.loads(text)
        self._asked_in = asked_in
        _check_keywords(schema, asked_in)
        kind = validator_for(schema, default=jsonschema.Draft202012Validator)
        timed = {name: self._timed(check) for name, check in kind.VALIDATORS.items()}
        with_limits: Any = extend
        bounded = with_limits(kind, {**timed, "pattern": self._pattern})
        # An empty registry: without it jsonschema would fetch what a reference names.
        self._validator = bounded(schema, registry=referencing.Registry())
        self._deadline = 0.0
        self._budget_s = _LIMIT_S
        self._patterns: dict[str, Any] = {}

    def problem(self, value: Any) -> Problem | None:
        """The most telling way in which ``value`` is not what is described. Raises InvalidRequest where that
        cannot be found out."""
        began = time.monotonic()
        self._deadline = began + self._budget_s
        try:
            error = jsonschema.exceptions.best_match(self._validator.iter_errors(value))
        except (_TooLong, TimeoutError, RecursionError):
            raise self._unusable("is too much work to check an answer against") from None
        except Unresolvable:
            raise self._unusable("refers to something that is not in it") from None
        except regex.error:
            raise self._unusable("holds a pattern that is no regular expression") from None
        except InvalidRequest:
            raise
        except Exception as e:  # noqa: BLE001  # jsonschema takes a schema at its word; what it raises shows the answer
            raise self._unusable(f"cannot be checked against this answer ({type(e).__name__})") from None
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
        if isinstance(value, str) and self._compiled(pattern).search(value, timeout=self._left_s()) is None:
            yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")

    def _compiled(self, pattern: str) -> Any:
        if pattern not in self._patterns:
            size = _size(_FLAGS.sub("", pattern))
            if size is None:
                raise self._unusable("holds a pattern with something that JSON Schema's patterns do not have")
            if size > _MAX_PATTERN:
                raise self._unusable("holds a pattern that repeats too much")
            # Not kept beyond this answer: strangers may have thousands.
            self._patterns[pattern] = regex.compile(pattern, cache_pattern=False)
        return self._patterns[pattern]

    def _unusable(self, why: str) -> InvalidRequest:
        return _unusable(why, self._asked_in)


def _size(pattern: str) -> float | None:
    """How large a regular expression becomes when it is compiled, in characters: a repetition is written out, once
    more where it has no end, and that takes time which cannot be limited. None for what may hide some, like comments:
    ECMA's expressions have none of that."""
    # Of the groups that are open: what is in them so far, and the last thing, which a quantifier would repeat.
    open_groups: list[tuple[float, float]] = []
    done, last = 0.0, 0.0
    for token in _TOKEN.finditer(pattern):
        if (least := token["least"]) is not None:
            # Of a group that need not be there, one is written, too.
            last *= max(1, int(least) + (token["most"] is not None))
        elif token[0] == "+":
            last *= 2
        elif token["open"]:
            if token["hides"] is not None:
                return None
            open_groups.append((done + last, 0.0))
            done, last = 0.0, 0.0
        elif token[0] == ")" and open_groups:
            done, last = open_groups.pop()[0], done + last + 1
        else:
            done, last = done + last, 1.0
        if done + last > _MAX_PATTERN:
            return math.inf
    return done + last + sum(outer for outer, _ in open_groups)


def _check_keywords(schema: Any, asked_in: str) -> None:
    """Raises InvalidRequest for what is nested too deep, and for patterns of names: OpenAI does not take them
    either, and jsonschema tries them without a limit."""
    depth, level = 0, [(schema, False)]
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise _unusable("is nested too deep", asked_in)
        inner: list[tuple[Any, bool]] = []
        for value, has_names in level:
            if isinstance(value, dict):
                if not has_names and "patternProperties" in value:
                    raise _unusable("uses patternProperties, which is not supported", asked_in)
                inner += [(item, not has_names and name in _NAMING) for name, item in value.items()]
            elif isinstance(value, list):
                inner += [(item, False) for item in value]
        level = inner


def _unusable(why: str, asked_in: str) -> InvalidRequest:
    return InvalidRequest(f"the JSON Schema for the answer {why}", code="unusable_schema", param=asked_in)

"""Finds JSON in an answer that should be only JSON, but often has a code fence or a sentence around it.

Returns the JSON unchanged and never repairs it. Knows JSON and the code fences of Markdown.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Limits the number of code fences that are tried, and the number of brackets outside of fences.
_MAX_PLACES = 50

_FENCE = re.compile(r"(?:^|\n)[ \t]*+(```++|~~~++)[ \t]*+(?:json[a-z0-9]*+)?+[ \t]*+\n", re.IGNORECASE)
_BRACKET = re.compile(r"[\[{]")
_SPACE = re.compile(r"[ \t\r\n]*")
# A bracket that starts a JSON value and not a remark in a sentence; the value may be invalid or cut off. It is {}, an
# object with its first name, or a list of objects, lists or strings.
_VALUE_START = re.compile(
    r"""\{\s*+(?: \} | (?P<quote>["'])(?:(?!(?P=quote))[^\\\n]|\\.)*+(?P=quote)\s*+: | [\w$]++\s*+: )
    | \[\s*+(?: [\[{] | "(?:[^"\\\n]|\\.)*+(?:"\s*+[,\]:]|$) )""",
    re.VERBOSE,
)
# A bracket at the start of a line, and the last characters of the line before.
_LINE_START = re.compile(r"(\S{1,2})\s*\n([\[{])")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A JSON value, and its text in the answer."""

    text: str
    value: Any


def candidates(text: str) -> Iterator[Candidate]:
    """The JSON values in ``text``, the most likely one first.

    If the whole text is a JSON value, that is the only one. Otherwise:

    1. the values in code fences, then
    2. objects and lists in the text. Never a part of a value that is invalid or cut off, because that part is not
       the answer.
    """
    whole = _decode(text, _skip_space(text, 0))
    if whole is not None and _skip_space(text, whole[1]) == len(text):
        yield whole[0]
        return
    for fence in itertools.islice(_FENCE.finditer(text), _MAX_PLACES):
        inside = _decode(text, _skip_space(text, fence.end()))
        if inside is not None and text.startswith(fence[1], _skip_space(text, inside[1])):
            yield inside[0]
    at = 0
    for _ in range(_MAX_PLACES):
        bracket = _BRACKET.search(text, at)
        if bracket is None:
            return
        value = _decode(text, bracket.start())
        if value is not None:
            yield value[0]
            at = value[1]
        elif _VALUE_START.match(text, bracket.start()):
            at = _next_value(text, bracket.start())
        else:
            at = bracket.end()


def _next_value(text: str, at: int) -> int:
    """The position after an invalid value at ``at`` at which the next value may start.

    That is a line that starts with a bracket and does not continue the invalid value.
    """
    for line in _LINE_START.finditer(text, at):
        if not line[1].endswith(("[", "{", ",", '":')):
            return line.start(2)
    return len(text)


def _skip_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space is not None else at


def _decode(text: str, at: int) -> tuple[Candidate, int] | None:
    """The value that starts at ``at``, and the position of its end. None if there is none."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    return Candidate(text[at:end], value), end


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# Python's default decoder accepts NaN and Infinity.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)

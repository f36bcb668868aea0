"""Finds JSON in an answer that should be nothing but JSON, and often has a code fence or a sentence around it.

JSON is returned as it was written and never repaired. Knows JSON and the fences of Markdown.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# How many fences, and how many brackets outside of fences, are tried.
_MAX_PLACES = 50

_FENCE = re.compile(r"(?:^|\n)[ \t]*+(```++|~~~++)[ \t]*+(?:json[a-z0-9]*+)?+[ \t]*+\n", re.IGNORECASE)
_BRACKET = re.compile(r"[\[{]")
_SPACE = re.compile(r"[ \t\r\n]*")
# A bracket that starts a JSON value, which may be invalid or cut off, and not a remark in a sentence: {} or the first
# name of an object; a list of objects, lists or strings.
_VALUE_START = re.compile(
    r"""\{\s*+(?: \} | (?P<quote>["'])(?:(?!(?P=quote))[^\\\n]|\\.)*+(?P=quote)\s*+: | [\w$]++\s*+: )
    | \[\s*+(?: [\[{] | "(?:[^"\\\n]|\\.)*+(?:"\s*+[,\]:]|$) )""",
    re.VERBOSE,
)
# A bracket at the start of a line, and what the line before it ends with.
_LINE_START = re.compile(r"(\S{1,2})\s*\n([\[{])")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A JSON value, and the text that it was written as."""

    text: str
    value: Any


def candidates(text: str) -> Iterator[Candidate]:
    """The JSON values in ``text``, the most likely one first.

    1. All of the text, or
    2. what stands in a code fence, and then
    3. objects and lists between words. A part of a value that is invalid or cut off is never one of them: it would
       be something else than the answer.
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
    """Where, after an invalid value at ``at``, the next one may start: at a line that does not continue it."""
    for line in _LINE_START.finditer(text, at):
        if not line[1].endswith(("[", "{", ",", '":')):
            return line.start(2)
    return len(text)


def _skip_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space is not None else at


def _decode(text: str, at: int) -> tuple[Candidate, int] | None:
    """The value that starts there, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    return Candidate(text[at:end], value), end


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# Python's own accepts NaN and Infinity.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)

"""Finds the JSON in what a model wrote, although it was asked for nothing else: a fence around it, words before
and after it. What is found is given as it was written, byte for byte. Knows JSON and Markdown's fences.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# How many places are tried: in an answer that is JSON and some words, the first few are enough.
_MAX_PLACES = 50
_MAX_DEPTH = 200

_FENCED = re.compile(r"(?:^|\n)[ \t]*+(```++|~~~++)[ \t]*+(?:json[a-z0-9]*+)?+[ \t]*+\n", re.IGNORECASE)
_BEGINNING = re.compile(r"[\[{]")
_BLANK = re.compile(r"[ \t\r\n]*")
# What begins a value, and hardly a word in brackets: an object's first name, what can be in a list.
_BEGUN = re.compile(
    r"""\{\s*+(?: \} | (?P<quote>["'])(?:(?!(?P=quote))[^\\\n]|\\.)*+(?P=quote)\s*+: | [\w$]++\s*+: )
    | \[\s*+(?: [\[{] | "(?:[^"\\\n]|\\.)*+(?:"\s*+[,\]:]|$) )""",
    re.VERBOSE,
)
_NUMBERS = re.compile(r"\[\s*+(?:-?\d|true\b|false\b|null\b)")
# The last signs before a line that begins with a bracket, and that bracket.
_NEW_LINE = re.compile(r"(\S{1,2})\s*\n([\[{])")
_STRING_OR_BRACKET = re.compile(r"\"(?:[^\"\\]|\\.)*+\"?+|[\[\]{}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Found:
    """A JSON value, and the text that it was written as."""

    text: str
    value: Any


def found(text: str) -> Iterator[Found]:
    """The values in ``text``, the most likely first: all of it, what fences hold, the first that is complete, …

    Objects and lists are found anywhere, other values only where they stand alone. What stands within a value that
    was begun and is broken or cut off is only a part of what was meant, and is not found.
    """
    whole = _at(text, _skip(text, 0))
    if whole is not None and _skip(text, whole[1]) == len(text):
        yield whole[0]
        return
    for fence in itertools.islice(_FENCED.finditer(text), _MAX_PLACES):
        inside = _at(text, _skip(text, fence.end()))
        if inside is not None and text.startswith(fence[1], _skip(text, inside[1])):
            yield inside[0]
    at = 0
    for _ in range(_MAX_PLACES):
        beginning = _BEGINNING.search(text, at)
        if beginning is None:
            return
        here = _at(text, beginning.start())
        if here is not None:
            yield here[0]
            at = here[1]
        elif _is_begun(text, beginning.start()):
            at = _behind(text, beginning.start())
        else:
            # A bracket in a sentence.
            at = beginning.end()


def _is_begun(text: str, at: int) -> bool:
    """Whether a bracket that begins no value was meant to begin one."""
    if _BEGUN.match(text, at):
        return True
    if not _NUMBERS.match(text, at):
        return False
    try:
        _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as e:
        # "[1 of 3]", "[0, 1)".
        return not (text[e.pos : e.pos + 1].isalpha() or text.startswith(")", e.pos))
    except (ValueError, RecursionError):
        pass
    return True


def _skip(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank is not None else at


def _behind(text: str, at: int) -> int:
    """Where the brackets are closed again that are opened there. Where they are not: where another value is begun at
    the start of a line, and not as a part of this one; or the end."""
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text, at):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        if depth == 0:
            return token.end()
    for line in _NEW_LINE.finditer(text, at):
        if not line[1].endswith(("[", "{", ",", '":')):
            return line.start(2)
    return len(text)


def _at(text: str, at: int) -> tuple[Found, int] | None:
    """The value that begins there, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    if _depth(value) > _MAX_DEPTH:
        return None
    return Found(text[at:end], value), end


def _depth(value: Any) -> int:
    """How deep a value is nested, without recursion; it stops counting where that is too deep."""
    depth, level = 0, [value]
    while level and depth <= _MAX_DEPTH:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)

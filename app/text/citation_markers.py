"""Finds Kimi's citation markers in a text that comes in pieces (``kimi-protocol.md`` 3.7, 5.6, Q29).

    [^3^]                                       both generations until 2025: the number of a page
    <d>cite<d>web_search:1#5<d>                 since 2026: the position of a page in a search, between delimiters,
    <d>web_search:1#0:~:text=a quote<d>         of which U+1F6E0, U+1F3A8, U+E3A0 and U+E3A8 were observed

Only one incomplete example of the second form was published, so many variants of it are accepted: any of the
delimiters, one to three of them, with or without ``cite``, several pages in a row. Not markers are footnotes of
Markdown (``[^1]``), a tool emoji in a sentence, and anything inside code blocks and code spans of Markdown. Text is
held back only while it may become a marker. Does not know what a marker refers to.
"""

import re
from dataclasses import dataclass

from app.text.markdown import Code

_MAX_QUOTE_CHARS = 1000
# Pages that one marker names. Observed were one to three.
_MAX_ELEMENTS = 16

_D = "(?:[\ue3a0\ue3a8\U0001f6e0\U0001f3a8]\ufe0f?)"
_NAME = "[a-z_]{1,32}"
_QUOTE = f"(?:(?!{_D})[^\n]){{0,{_MAX_QUOTE_CHARS}}}"
_PLACE = f"{_NAME}:[0-9]{{1,4}}#[0-9]{{1,4}}"
_ELEMENT = f"{_D}{{1,3}}(?:cite{_D}?)?{_PLACE}(?::~:text={_QUOTE}(?={_D}))?"


def _start_of(word: str) -> str:
    """A pattern for the first characters of ``word``: any number of them, also none and all."""
    return f"(?:{word[0]}{_start_of(word[1:])})?" if word else ""


_PARTIAL_ELEMENT = "|".join(
    (
        f"{_D}{{1,3}}{_start_of('cite')}",
        f"{_D}{{1,3}}(?:cite{_D}?)?{_NAME}(?::[0-9]{{0,4}})?",
        f"{_D}{{1,3}}(?:cite{_D}?)?{_NAME}:[0-9]{{1,4}}#[0-9]{{0,4}}",
        f"{_D}{{1,3}}cite{_D}",
        f"{_D}{{1,3}}(?:cite{_D}?)?{_PLACE}{_start_of(':~:text=')}",
        f"{_D}{{1,3}}(?:cite{_D}?)?{_PLACE}:~:text={_QUOTE}",
    )
)
_MARKER = re.compile(rf"\[\^(?P<number>[0-9]{{1,4}})\^\]|(?:{_ELEMENT}){{1,{_MAX_ELEMENTS}}}{_D}?")
_PARTIAL_MARKER = re.compile(
    rf"(?:\[(?:\^(?:[0-9]{{1,4}}\^?)?)?|(?:{_ELEMENT}){{0,{_MAX_ELEMENTS - 1}}}(?:{_PARTIAL_ELEMENT}))\Z"
)
_PLACES = re.compile(f"{_D}(?:cite)?({_PLACE})")

# The characters that may start code, a line or a marker.
_find_special = re.compile("`+|~+|\n|[\\[\ue3a0\ue3a8\U0001f6e0\U0001f3a8]").search


@dataclass(frozen=True, slots=True)
class Marker:
    """A citation marker in the text."""

    raw: str
    """As Kimi wrote it."""
    refs: tuple[str, ...]
    """The pages that it refers to, at least one."""
    is_certain: bool
    """Nobody writes such a text by hand."""


class Markers:
    """Splits one text into texts and markers. Nothing is lost, except what is held back until ``flush``."""

    __slots__ = ("_code", "_held")

    def __init__(self) -> None:
        self._held = ""
        self._code = Code()

    def passes_unchanged(self, piece: str) -> bool:
        """Whether ``split`` would return just this piece, which then must not be passed to it any more.

        The fast path for nearly every piece of an answer.
        """
        if self._held or _find_special(piece):
            return False
        if not self._code.is_within_line:
            self._code.plain(piece)
        return True

    def split(self, piece: str) -> list[str | Marker]:
        return self._split(piece, final=False)

    def flush(self) -> list[str | Marker]:
        """What was held back. To be called after the last piece."""
        return self._split("", final=True) if self._held else []

    def _split(self, piece: str, *, final: bool) -> list[str | Marker]:
        text, self._held = self._held + piece, ""
        code, out, start, at = self._code, list[str | Marker](), 0, 0
        while special := _find_special(text, at):
            code.plain(text[at : special.start()])
            at = special.start()
            match text[at]:
                case "`" | "~":
                    code.ticks(special.group())
                case "\n":
                    code.newline()
                case _ if code.allows_marker():
                    if not final and _PARTIAL_MARKER.match(text, at):
                        self._held = text[at:]
                        text = text[:at]
                        break
                    if found := _MARKER.match(text, at):
                        out += [text[start:at], _marker(found)]
                        start = at = found.end()
                        continue
            at = special.end()
        code.plain(text[at:])
        out.append(text[start:])
        return [part for part in out if part]


_CERTAIN_MARKER = re.compile(f"(?:{_ELEMENT})+{_D}?")


def without_certain_markers(text: str) -> str:
    """A whole text without the markers that nobody writes by hand."""
    return _CERTAIN_MARKER.sub("", text)


def _marker(found: re.Match[str]) -> Marker:
    number = found["number"]
    if number is not None:
        return Marker(found.group(), (str(int(number)),), is_certain=False)
    return Marker(found.group(), tuple(dict.fromkeys(_PLACES.findall(found.group()))), is_certain=True)

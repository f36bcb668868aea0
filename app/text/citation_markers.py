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
# What may precede a fence in its line: block quotes, list items.
_BEFORE_FENCE = re.compile(r"[ \t>*+\-0-9.)]*")


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
        self._code = _Code()

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


def _marker(found: re.Match[str]) -> Marker:
    number = found["number"]
    if number is not None:
        return Marker(found.group(), (str(int(number)),), is_certain=False)
    return Marker(found.group(), tuple(dict.fromkeys(_PLACES.findall(found.group()))), is_certain=True)


class _Code:
    """Whether the current position in a text is inside code of Markdown.

    A code span that is not closed ends with its paragraph.
    """

    def __init__(self) -> None:
        self._fence = ""
        self._is_fence_line = False
        self._span = 0
        self._ticks = ""
        self._line_begins = True
        self._line_is_blank = True
        # In the middle of a line, where more plain text changes nothing.
        self.is_within_line = False

    def plain(self, text: str) -> None:
        if not text:
            return
        if self._ticks:
            self._end_ticks()
        if self._line_begins and not _BEFORE_FENCE.fullmatch(text):
            self._line_begins = False
        if self._line_is_blank and not text.isspace():
            self._line_is_blank = False
        self.is_within_line = not self._line_begins and not self._line_is_blank

    def ticks(self, ticks: str) -> None:
        """Back-ticks or tildes, possibly the continuation of those in the last piece."""
        if self._ticks and self._ticks[0] != ticks[0]:
            self._end_ticks()
        self._ticks += ticks
        self.is_within_line = False

    def newline(self) -> None:
        self._end_ticks()
        if self._line_is_blank:
            self._span = 0
        self._line_begins = self._line_is_blank = True
        self._is_fence_line = self.is_within_line = False

    def allows_marker(self) -> bool:
        """Whether the next character, which may start a marker, is outside of code."""
        self._end_ticks()
        self._line_begins = self._line_is_blank = False
        return not self._fence and not self._span

    def _end_ticks(self) -> None:
        ticks, self._ticks = self._ticks, ""
        if not ticks:
            return
        begins, self._line_begins, self._line_is_blank = self._line_begins, False, False
        if self._fence and self._is_fence_line and ticks[0] == self._fence[0] == "`":
            # More back-ticks in the line that seemed to open a block: they close a code span.
            self._span, self._fence = len(self._fence), ""
        if self._fence:
            if begins and ticks.startswith(self._fence):
                self._fence = ""
        elif begins and len(ticks) >= 3 and not self._span:
            self._fence, self._is_fence_line = ticks, True
        elif ticks[0] == "`":
            self._span = len(ticks) if not self._span else 0 if self._span == len(ticks) else self._span

"""Finds Kimi's citation markers in a text that comes in any pieces (``kimi-protocol.md`` 3.7, 5.6, Q29).

    [^3^]                                       both generations until 2025: the number of a page
    <d>cite<d>web_search:1#5<d>                 since 2026: the place of a page in a search, between delimiters,
    <d>web_search:1#0:~:text=a quote<d>         of which U+1F6E0, U+1F3A8, U+E3A0 and U+E3A8 were seen

Of the second form one stripped example was published, so it is read generously: any of the delimiters, one to
three of them, ``cite`` or none, several pages in a row. What only looks like a marker is text: a footnote of
Markdown (``[^1]``), a picture of a tool, and everything inside Markdown's code, blocks and spans. Text is held
back only while it can still become a marker. Knows Markdown's code, and not what a marker refers to.
"""

import re
from dataclasses import dataclass

_MAX_QUOTE_CHARS = 1000

_D = "(?:[\ue3a0\ue3a8\U0001f6e0\U0001f3a8]\ufe0f?)"
_NAME = "[a-z_]{1,32}"
_QUOTE = f"(?:(?!{_D})[^\n]){{0,{_MAX_QUOTE_CHARS}}}"
_PLACE = f"{_NAME}:[0-9]{{1,4}}#[0-9]{{1,4}}"
_ELEMENT = f"{_D}{{1,3}}(?:cite{_D}?)?{_PLACE}(?::~:text={_QUOTE}(?={_D}))?"


def _begun(word: str) -> str:
    """A pattern for every beginning of ``word``, the empty one and the whole included."""
    return f"(?:{word[0]}{_begun(word[1:])})?" if word else ""


_BEGUN_ELEMENT = "|".join(
    (
        f"{_D}{{1,3}}{_begun('cite')}",
        f"{_D}{{1,3}}(?:cite{_D}?)?{_NAME}(?::[0-9]{{0,4}})?",
        f"{_D}{{1,3}}(?:cite{_D}?)?{_NAME}:[0-9]{{1,4}}#[0-9]{{0,4}}",
        f"{_D}{{1,3}}cite{_D}",
        f"{_D}{{1,3}}(?:cite{_D}?)?{_PLACE}{_begun(':~:text=')}",
        f"{_D}{{1,3}}(?:cite{_D}?)?{_PLACE}:~:text={_QUOTE}",
    )
)
_MARKER = re.compile(rf"\[\^(?P<number>[0-9]{{1,4}})\^\]|(?:{_ELEMENT})+{_D}?")
_BEGUN_MARKER = re.compile(rf"(?:\[(?:\^(?:[0-9]{{1,4}}\^?)?)?|(?:{_ELEMENT})*(?:{_BEGUN_ELEMENT}))\Z")
_PLACES = re.compile(f"{_D}(?:cite)?({_PLACE})")

# Where something may begin: code, a line, a marker.
_find_special = re.compile("`+|~+|\n|[\\[\ue3a0\ue3a8\U0001f6e0\U0001f3a8]").search
# What may stand before a fence in its line: quotation, a list.
_BEFORE_FENCE = re.compile(r"[ \t>*+\-0-9.)]*")


@dataclass(frozen=True, slots=True)
class Marker:
    """``refs``: the pages that it names, at least one. ``certain``: no text would hold it by itself."""

    raw: str
    refs: tuple[str, ...]
    certain: bool


class Markers:
    """One text. What comes out, markers and texts in order, is what went in, less the end that is held back."""

    __slots__ = ("_code", "_held")

    def __init__(self) -> None:
        self._held = ""
        self._code = _Code()

    def may_be_in(self, piece: str) -> bool:
        """False where ``split`` would give the piece as it is; the piece has been seen then."""
        if self._held or _find_special(piece):
            return True
        if not self._code.is_within_line:
            self._code.plain(piece)
        return False

    def split(self, piece: str) -> list[str | Marker]:
        return self._split(piece, final=False)

    def rest(self) -> list[str | Marker]:
        """What was held back, now that nothing follows."""
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
                case _ if code.ends_before_marker():
                    if not final and _BEGUN_MARKER.match(text, at):
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
        return Marker(found.group(), (str(int(number)),), certain=False)
    return Marker(found.group(), tuple(dict.fromkeys(_PLACES.findall(found.group()))), certain=True)


class _Code:
    """Whether a text that is told piece by piece is inside Markdown's code now. A span that nothing closes ends
    with its paragraph."""

    def __init__(self) -> None:
        self._fence = ""
        self._is_fence_line = False
        self._span = 0
        self._ticks = ""
        self._line_begins = True
        self._line_is_blank = True
        # More plain text would change nothing.
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
        """Back-ticks or tildes, maybe more of those that came last."""
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

    def ends_before_marker(self) -> bool:
        """Something that may be a marker comes; whether it is outside of code."""
        self._end_ticks()
        self._line_begins = self._line_is_blank = False
        return not self._fence and not self._span

    def _end_ticks(self) -> None:
        ticks, self._ticks = self._ticks, ""
        if not ticks:
            return
        begins, self._line_begins, self._line_is_blank = self._line_begins, False, False
        if self._fence and self._is_fence_line and ticks[0] == self._fence[0] == "`":
            # The line that seemed to open a block holds a span.
            self._span, self._fence = len(self._fence), ""
        if self._fence:
            if begins and ticks.startswith(self._fence):
                self._fence = ""
        elif begins and len(ticks) >= 3 and not self._span:
            self._fence, self._is_fence_line = ticks, True
        elif ticks[0] == "`":
            self._span = len(ticks) if not self._span else 0 if self._span == len(ticks) else self._span

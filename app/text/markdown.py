"""What is code in a text of Markdown that comes in pieces: blocks between fences, and spans between back-ticks.

``Code`` follows a text character by character. ``opening_fence`` and ``closes_fence`` look at one line. Knows only
this of Markdown.
"""

import re
from dataclasses import dataclass

from app.text.pieces import MORE, More

# What may precede a fence in its line: block quotes, list items.
_BEFORE_FENCE = re.compile(r"[ \t>*+\-0-9.)]*")
_OPENING_FENCE = re.compile(r"(`{3,}|~{3,})([^\n]*)\n")
_PARTIAL_FENCE = re.compile(r"(`+|~+)([^\n]*)")
# The line of a fence, with the language of its block, is never longer.
_MAX_FENCE_CHARS = 320


@dataclass(frozen=True, slots=True)
class Fence:
    """The line that opens a block of code."""

    # Back-ticks or tildes, at least three.
    marker: str
    # Where the next line begins.
    end: int


def opening_fence(text: str, at: int, *, final: bool) -> Fence | More | None:
    """The fence that opens in the line at ``at``. ``final``: nothing follows ``text``."""
    found = _OPENING_FENCE.match(text, at, at + _MAX_FENCE_CHARS)
    if found is not None:
        return Fence(found[1], found.end()) if _is_info(found[1], found[2]) else None
    start = _PARTIAL_FENCE.match(text, at)
    if start is None or final or start.end() < len(text) or len(text) - at >= _MAX_FENCE_CHARS:
        return None
    could_open = _is_info(start[1], start[2]) and (len(start[1]) >= 3 or not start[2])
    return MORE if could_open else None


def closing_fence(text: str, at: int, marker: str, *, final: bool) -> int | More | None:
    """Where the line after the one at ``at`` begins, if that closes the block that ``marker`` opened."""
    end = at
    while end < len(text) and text[end] == marker[0]:
        end += 1
    length = end - at
    while end < len(text) and text[end] in " \t\r":
        end += 1
    if end - at >= _MAX_FENCE_CHARS:
        return None
    if end == len(text):
        return (end if length >= len(marker) else None) if final else MORE
    return end + 1 if length >= len(marker) and text[end] == "\n" else None


def _is_info(marker: str, info: str) -> bool:
    """Whether this may follow a fence: with a back-tick in it, it is a code span that begins the line."""
    return marker[0] != "`" or "`" not in info


class Code:
    """Whether the current position in a text is inside code of Markdown.

    A code span that is not closed ends with its paragraph.
    """

    # Without a dictionary: there is one for each stream.
    __slots__ = ("_fence", "_is_fence_line", "_line_begins", "_line_is_blank", "_span", "_ticks", "is_within_line")

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

"""The headings that separate messages, functions, calls and results in one text, and how they are read back.

    call     = "[C call NAME:N]"  NL  [ JSON object NL ]  { value }  "[C /call]"
    value    = "[C value KEY]"  NL  raw text, up to the next heading; one line break before that is no part of it
    result   = "[C result NAME:N]"  NL  text
    error    = "[C error NAME:N]"  NL  text

A heading stands alone on its line. C is the code: 12 hexadecimal digits that occur nowhere else in the text. N counts
the calls of one message from 1. Reading is lenient, because a model copies the code and the heading by itself: the
code may have two characters wrong, missing or doubled. Fewer than 2^17 words are that near to a code of 48 bits.
"""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from app.text.pieces import MORE, More

_CODE_BYTES = 6
CODE_CHARS = 2 * _CODE_BYTES
# How many characters of the code may be wrong, missing or doubled.
_MAX_EDITS = 2
# A heading is never longer. Longer names are refused when they are declared.
MAX_HEADING_CHARS = 320

# The words of headings that mean something in an answer.
CALL, END_OF_CALL, VALUE, RESULT, ERROR = _WORDS = ("call", "/call", "value", "result", "error")
# How much of a text behind a wrong code is looked at for one of these words.
_WRONG_CODE_CHARS = 8

# Square brackets of several scripts, and the marks of Markdown that a model may put around a heading.
_OPENING = re.compile(r"([`*]{0,3})[\[【［][ \t]*")
_TOKEN = re.compile(r"[0-9A-Za-z]*")
_CLOSING = re.compile(r"[\]】］]")
_LIKE_A_CODE = re.compile(r"[0-9a-fA-F]{10,14}")
_START_LIKE_A_CODE = re.compile(r"[0-9a-fA-F]{0,14}")
_WORD = re.compile(r"(/?)\s*([A-Za-z]+)(?!\S)\s*(.*)", re.DOTALL)
HEADING_STARTS: Final = "[【［`*"


def unused_code(texts: Iterable[str]) -> str:
    """A new code that none of the texts contains."""
    held = list(texts)
    while True:
        code = secrets.token_hex(_CODE_BYTES)
        if not any(code in text for text in held):
            return code


def heading(code: str, *words: str) -> str:
    return f"[{' '.join((code, *words))}]"


def call(code: str, label: str, number: int, arguments: str) -> str:
    """A call as it stands in a prompt and as the model is to write it."""
    return "\n".join((heading(code, CALL, f"{label}:{number}"), arguments, heading(code, END_OF_CALL)))


def result(code: str, place: str, text: str, *, failed: bool) -> str:
    """The result of a call. ``place``: ``NAME:N`` of the call, or only its number where nothing else is known."""
    return heading(code, ERROR if failed else RESULT, place) + "\n" + text


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading in an answer."""

    # In small letters; empty where the heading holds a name alone.
    word: str
    # What follows the word, with single spaces.
    argument: str
    # Where it ends in the text: behind its bracket.
    end: int
    # The marks of Markdown before it, which may follow it, too.
    marks: str


@dataclass(frozen=True, slots=True)
class WrongCode:
    """What would be a heading, if its code were right."""


WRONG_CODE: Final = WrongCode()


class Code:
    """The code of one prompt, and whether a word that the model wrote is meant to be it."""

    def __init__(self, code: str) -> None:
        self.text: Final = code
        # Two edits leave one of three parts intact.
        third = CODE_CHARS // (_MAX_EDITS + 1)
        self._parts = [code[at : at + third] for at in range(0, CODE_CHARS, third)]

    def matches(self, word: str) -> bool:
        """Whether the word is the code, with at most two characters wrong, missing or doubled."""
        word = word.lower()
        if word == self.text:
            return True
        if abs(len(word) - CODE_CHARS) > _MAX_EDITS or not any(part in word for part in self._parts):
            return False
        return _distances(word, self.text)[-1] <= _MAX_EDITS

    def may_begin_with(self, start: str) -> bool:
        """Whether ``matches`` may be true of a word that begins so."""
        if len(start) > CODE_CHARS + _MAX_EDITS:
            return False
        start = start.lower()
        return self.text.startswith(start) or min(_distances(start, self.text)) <= _MAX_EDITS

    def heading_at(self, text: str, at: int, *, final: bool) -> Heading | WrongCode | More | None:
        """The heading that begins at ``at``, a line's first character that is no space. None: no heading does.

        ``final``: nothing follows ``text``.
        """
        opening = _OPENING.match(text, at)
        if opening is None:
            # Only marks so far, at the end of the text.
            is_open = not final and len(text) - at <= 3 and not text[at:].strip("`*")
            return MORE if is_open else None
        token = _TOKEN.match(text, opening.end())
        assert token is not None, "it matches the empty text"
        if token.end() == len(text) and not final:
            may_be_one = _START_LIKE_A_CODE.fullmatch(token.group()) or self.may_begin_with(token.group())
            return MORE if may_be_one else None
        if not text[token.end() : token.end() + 1].isspace():
            return None
        if not self.matches(token.group()):
            return self._with_wrong_code(text, token, final)
        return self._rest(text, at, opening, token, final)

    def _rest(
        self, text: str, at: int, opening: "re.Match[str]", token: "re.Match[str]", final: bool
    ) -> Heading | More | None:
        closing = _CLOSING.search(text, token.end(), at + MAX_HEADING_CHARS)
        inside = text[token.end() : closing.start() if closing else at + MAX_HEADING_CHARS]
        # One line break is forgiven: a bracket on a later line belongs to something else.
        if inside.count("\n") > 1 or "[" in inside:
            return None
        if closing is None:
            return None if final or len(text) - at >= MAX_HEADING_CHARS else MORE
        word, argument = _split(inside)
        return Heading(word, argument, closing.end(), opening[1])

    def _with_wrong_code(self, text: str, token: "re.Match[str]", final: bool) -> WrongCode | More | None:
        if not _LIKE_A_CODE.fullmatch(token.group()):
            return None
        window = text[token.end() : token.end() + _WRONG_CODE_CHARS]
        rest = window.lstrip(" \t").lower()
        if rest.startswith(_WORDS):
            return WRONG_CODE
        may_follow = any(word.startswith(rest) for word in _WORDS)
        return MORE if may_follow and len(window) < _WRONG_CODE_CHARS and not final else None


def _split(inside: str) -> tuple[str, str]:
    """The word of a heading and what follows it."""
    inside = " ".join(inside.split()).replace("`", "").strip("* ")
    found = _WORD.fullmatch(inside)
    if found is None:
        return "", inside
    return found[1] + found[2].lower(), found[3].strip("* ")


def _distances(word: str, code: str) -> list[int]:
    """The edit distance between ``word`` and each beginning of ``code``, from the empty one to the whole."""
    row = list(range(len(code) + 1))
    for number, letter in enumerate(word, start=1):
        before, row = row, [number]
        for at, expected in enumerate(code, start=1):
            row.append(min(before[at] + 1, row[-1] + 1, before[at - 1] + (letter != expected)))
    return row


class CodeFilter:
    """Removes the code from a text that comes in pieces, so that it never leaves this process.

    The space behind it goes, too: ``[C call now:1]`` becomes ``[call now:1]``. After a hexadecimal digit three dots
    take its place, so that what stands on both sides of it never makes up a code again. At most 11 characters are
    held back.
    """

    __slots__ = ("_after_bracket", "_code", "_held", "_last", "_starts", "removed")

    def __init__(self, code: str) -> None:
        self._code = code
        self._starts = tuple(code[:length] for length in range(1, len(code)))
        self._held = ""
        # The last character that was passed on.
        self._last = ""
        # A code was removed behind a bracket: a space that follows goes, too.
        self._after_bracket = False
        self.removed = 0

    def passes_unchanged(self, piece: str) -> bool:
        """Whether ``feed`` would return just this piece, which then need not be passed to it."""
        if self._held or self._after_bracket or not piece or self._code in piece or piece.endswith(self._starts):
            return False
        self._last = piece[-1]
        return True

    def feed(self, piece: str) -> str:
        """The text without the code, and without what may be the start of one."""
        text, start = self._held + piece, 0
        out: list[str] = []
        while (at := text.find(self._code, start)) >= 0:
            self.removed += 1
            self._add(out, text[start:at])
            if self._last and self._last in "0123456789abcdef":
                self._add(out, "…")
            self._after_bracket = self._last in ("[", "【", "［")
            start = at + len(self._code)
        held = self._start_at_the_end(text[max(start, len(text) - len(self._code)) :])
        self._held = text[len(text) - held :]
        self._add(out, text[start : len(text) - held])
        return "".join(out)

    def flush(self) -> str:
        """What was held back. To be called where the text ends, or another one begins."""
        held, self._held, self._after_bracket = self._held, "", False
        self._last = held[-1:] or self._last
        return held

    def _add(self, out: list[str], text: str) -> None:
        if self._after_bracket and text:
            self._after_bracket = False
            text = text.removeprefix(" ")
        if text:
            self._last = text[-1]
            out.append(text)

    def _start_at_the_end(self, text: str) -> int:
        """How many characters at the end of the text are the start of the code."""
        for start in reversed(self._starts):
            if text.endswith(start):
                return len(start)
        return 0


def without_code(code: str, text: str) -> tuple[str, bool]:
    """A whole text without the code, and whether it was there."""
    if code not in text:
        return text, False
    cleaner = CodeFilter(code)
    return cleaner.feed(text) + cleaner.flush(), True

"""Reads an answer that comes in pieces, and splits it into text, calls and flaws.

Text flows as it comes; a call is given at its own end, while the next one may still be written. Only what may become
a part of a call is held back. A call is never repaired here, and one that was cut off is never completed. What the
pieces are makes no difference: a test feeds each case whole, cut everywhere, and character by character.

    line start ──► in a line ──► line start …
      │  [C call …]
      ▼
    body ──► json ──► after ──► tail ──► body …       (a value, or raw text, instead of JSON)

Knows the grammar, the fences of Markdown and the forms of ``foreign``. Must never know a schema, an upstream, or what
follows a flaw.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from app.text.markdown import Fence, closing_fence, opening_fence
from app.text.pieces import MORE, More
from app.text.tools.foreign import ForeignCall, ForeignScan, JsonScan, frame_end, opener
from app.text.tools.grammar import (
    CALL,
    END_OF_CALL,
    ERROR,
    HEADING_STARTS,
    RESULT,
    VALUE,
    Code,
    CodeFilter,
    Heading,
    WrongCode,
    without_code,
)
from app.text.tools.names import Named, Names

# A call that is longer is a flaw. Characters.
MAX_CALL_CHARS = 1024 * 1024
# More words than these behind a call are no remark between two calls, and end the answer.
MAX_WORDS_BEHIND = 300
# Longer runs of blank lines are passed on before it is known what follows them.
_MAX_BLANK_CHARS = 320
_MAX_TICKS = 64
# An indented line is code from here on.
_MAX_INDENT = 3


@dataclass(frozen=True, slots=True)
class Block:
    """A call as Kimi wrote it."""

    named: Named
    # JSON text; of a text tool, and where there is no JSON, everything up to the end mark.
    body: str
    # The long texts that stand outside of the JSON, in order: (key, text).
    values: tuple[tuple[str, str], ...] = ()
    # An end mark was seen, so that missing brackets are known to be missing.
    closed: bool = True
    # Everything that it was read from.
    raw: str = ""
    # The foreign form that it was written in; empty: our own.
    form: str = ""


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something that is no call and should be one.

    unfinished: the answer ended within it. too-long. in-code: it stands in a block of code. other-form: it is written
    in a form that cannot be trusted here.
    """

    kind: Literal["unfinished", "too-long", "in-code", "other-form"]
    label: str
    raw: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The answer is over, whatever Kimi still writes: it began to write results, or words, behind its calls."""


@dataclass(frozen=True, slots=True)
class NoCall:
    """In thinking: the blocks that were given before are a plan or a quotation, because thinking goes on."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Text that was taken for a part of a call, for limits of length."""

    text: str


STOP: Final = Stop()
NO_CALL: Final = NoCall()
Item = str | Block | Flaw | Stop | NoCall | Spent

# What is done with a call in a foreign form: it counts; it is text; or the answer should be written anew.
Verdict = Literal["call", "text", "ask"]


@dataclass(slots=True)
class _Open:
    """A block that is being read."""

    named: Named
    marks: str
    body: list[str] = field(default_factory=list)
    values: list[tuple[str, str]] = field(default_factory=list)
    value_key: str | None = None
    value: list[str] = field(default_factory=list)
    # The fence around its JSON.
    fence: str = ""
    # Its JSON object is complete. What was written behind it, which may belong to the object all the same.
    complete: bool = False
    extra: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _InCode:
    """Calls inside a block of code, until it is known what else stands in it."""

    # The block of code holds nothing but calls.
    only_calls: bool
    # The line of the fence, held back with what is blank around it.
    opening: str
    blocks: list[Block] = field(default_factory=list)


class CallReader:
    """Reads one answer."""

    def __init__(
        self,
        code: str,
        names: Names,
        judge_foreign: Callable[[str, list[ForeignCall]], Verdict] | None,
        *,
        is_thinking: bool = False,
        reports_spent: bool = False,
    ) -> None:
        """``judge_foreign`` decides about calls in other forms; None: they are text. ``is_thinking``: blocks may be
        plans, and nothing ends the text. ``reports_spent``: what is taken for calls is reported as it comes."""
        self._is_thinking = is_thinking
        self._reports_spent = reports_spent
        self._code = Code(code)
        self._filter = CodeFilter(code)
        self._names = names
        self._judge_foreign = judge_foreign
        # Kinds of oddities, for counters. Whoever reads them empties it.
        self.oddities: list[str] = []
        self._state: Callable[[str, int], int] = self._line_start
        # What cannot be decided yet.
        self._pending = ""
        self._final = False
        self._over = False
        self._out: list[Item] = []
        # White space that may stand before a call.
        self._blank = ""
        # The run of back-ticks that opened a code span in this line, or 0.
        self._span = 0
        # The fence of the block of code that the position is in.
        self._fence = ""
        self._held_fence: str = ""
        self._held_marker: str = ""
        # Since the last text: what a call is read from.
        self._raw: list[str] = []
        self._size = 0
        self._block: _Open | None = None
        self._in_code: _InCode | None = None
        self._json = JsonScan()
        self._foreign: ForeignScan | None = None
        self._at_line_start = True
        # Behind a call.
        self._words: list[str] = []
        self._words_count = 0
        self._tail_fence = ""
        self._tail_fence_is_new = False
        # There are back-ticks in the line.
        self._tail_ticks = False
        # Marks of Markdown that were put around an end mark, and may follow it.
        self._marks = ""
        self._told_call = False

    @property
    def holds(self) -> bool:
        """Whether something is held back that may become a call, or is one that is not complete."""
        return bool(
            self._block or self._in_code or self._foreign or self._words or self._pending or self._held_fence
        ) or (self._state == self._tail)

    @property
    def is_stopped(self) -> bool:
        """The answer was over before Kimi ended it."""
        return self._over and not self._final

    def passes_unchanged(self, piece: str) -> bool:
        """Whether ``feed`` would return just this piece, which then need not be passed to it."""
        return (
            self._state == self._in_line
            and not self._pending
            and not _SPECIAL(piece)
            and self._filter.passes_unchanged(piece)
        )

    def feed(self, piece: str) -> list[Item]:
        out = self._out = []
        if self._over:
            return out
        self._consume(self._pending + piece)
        return out

    def flush(self, *, is_whole: bool) -> list[Item]:
        """What was held back. To be called after the last piece. ``is_whole``: Kimi has ended the answer by itself;
        else a call that is not complete is dropped without a word."""
        out = self._out = []
        if self._over:
            return out
        self._final = True
        self._consume(self._pending)
        self._end(is_whole)
        self._over = True
        return out

    def _consume(self, text: str) -> None:
        self._pending = ""
        at = 0
        while at < len(text) and not self._over:
            after = self._state(text, at)
            if after < 0:
                break
            at = after
        self._pending = "" if self._over else text[at:]

    # Text

    def _say(self, text: str) -> None:
        """Passes text on, without the code."""
        if not text:
            return
        shown = text if self._filter.passes_unchanged(text) else self._filtered(text)
        if shown:
            self._out.append(shown)

    def _filtered(self, text: str) -> str:
        before = self._filter.removed
        shown = self._filter.feed(text)
        if self._filter.removed > before:
            self._count("in-code" if self._fence else "leak")
        return shown

    def _end_text(self) -> None:
        """Something else than text follows."""
        if held := self._filter.flush():
            self._out.append(held)

    def _say_blank(self) -> None:
        blank, self._blank = self._blank, ""
        self._say(blank)

    def _count(self, kind: str) -> None:
        self.oddities.append(kind)

    def _in_line(self, text: str, at: int) -> int:
        """Inside a line, where only code spans and special tokens matter."""
        special = _SPECIAL(text, at)
        if special is None:
            self._say(text[at:])
            return len(text)
        start = special.start()
        if start > at:
            self._say(text[at:start])
            return start
        match text[at]:
            case "\n":
                self._span = 0
                self._state = self._line_start
                return at
            case "`":
                return self._ticks(text, at)
            case _:
                return self._tag(text, at)

    def _ticks(self, text: str, at: int) -> int:
        end = at
        while end < len(text) and text[end] == "`":
            end += 1
        if end == len(text) and end - at < _MAX_TICKS and not self._final:
            return -1
        length = end - at
        self._span = length if not self._span else 0 if self._span == length else self._span
        self._say(text[at:end])
        return end

    def _tag(self, text: str, at: int) -> int:
        if self._judge_foreign is not None and not self._fence and not self._span:
            form = opener(text, at, in_line=True, final=self._final)
            if isinstance(form, More):
                return -1
            if form is not None:
                return self._begin_foreign(ForeignScan(form), at)
            if (after := self._skip_frame(text, at)) is not None:
                return after
        self._say(text[at])
        return at + 1

    def _skip_frame(self, text: str, at: int) -> int | None:
        """Leaves out a mark that K3 puts around its words. None: there is none. In thoughts it stays."""
        end = None if self._is_thinking else frame_end(text, at, final=self._final)
        if isinstance(end, More):
            return -1
        if end is not None:
            self._count("other-markup")
        return end

    def _line_start(self, text: str, at: int) -> int:
        """At the first character of a line, or in the white space before it."""
        if (after_blank := self._skip_blank(text, at)) > at:
            return after_blank
        indent = len(self._blank) - self._blank.rfind("\n") - 1
        if indent <= _MAX_INDENT and (after := self._line_opening(text, at)) is not None:
            return after
        self._say_blank()
        self._state = self._in_line
        # A special character in first place is looked at there; anything else is text.
        return at

    def _skip_blank(self, text: str, at: int) -> int:
        blank = _BLANK.match(text, at)
        if blank is not None:
            self._blank += blank.group()
            at = blank.end()
            if len(self._blank) > _MAX_BLANK_CHARS:
                self._say_blank()
        return at

    def _line_opening(self, text: str, at: int) -> int | None:
        """Reads a heading, a fence or a foreign call at the start of a line. None: it is a line of text."""
        first = text[at]
        if first in HEADING_STARTS:
            found = self._code.heading_at(text, at, final=self._final)
            if isinstance(found, More):
                return -1
            if isinstance(found, Heading):
                after = self._heading_in_text(text, at, found)
                if after is not None:
                    return after
            elif isinstance(found, WrongCode):
                self._count("wrong-code")
        if self._fence:
            return self._fence_end(text, at)
        if first in "`~":
            fence = opening_fence(text, at, final=self._final)
            if isinstance(fence, More):
                return -1
            if isinstance(fence, Fence):
                self._held_fence = self._blank + text[at : fence.end]
                self._held_marker = fence.marker
                self._blank = ""
                self._state = self._after_opening_fence
                return fence.end
        elif first in "<f" and self._judge_foreign is not None:
            form = opener(text, at, in_line=False, final=self._final)
            if isinstance(form, More):
                return -1
            if form is not None:
                return self._begin_foreign(ForeignScan(form), at)
        return None

    def _fence_end(self, text: str, at: int) -> int | None:
        if text[at] != self._fence[0]:
            return None
        end = closing_fence(text, at, self._fence, final=self._final)
        if isinstance(end, More):
            return -1
        if end is not None:
            self._say_blank()
            # The line break stays: it may stand before a call.
            stop = end - 1 if text[end - 1] == "\n" else end
            self._say(text[at:stop])
            self._fence = ""
            return stop
        return None

    def _after_opening_fence(self, text: str, at: int) -> int:
        """The first thing in a block of code says what it is: calls, or a text in which calls are examples."""
        blank = _BLANK.match(text, at)
        if blank is not None and len(self._blank) <= _MAX_BLANK_CHARS:
            self._blank += blank.group()
            return blank.end()
        found = self._call_heading(text, at)
        if isinstance(found, More):
            return -1
        if found is not None:
            self._in_code = _InCode(True, self._held_fence + self._blank)
            self._fence, self._held_fence, self._blank = self._held_marker, "", ""
            return self._begin_block(text, at, found)
        self._say(self._held_fence)
        self._fence, self._held_fence = self._held_marker, ""
        self._state = self._line_start
        return at

    def _heading_in_text(self, text: str, at: int, found: Heading) -> int | None:
        """What a heading with the right code does outside of a call. None: it is text."""
        may_call = self._may_begin_call(text, found)
        if may_call is MORE:
            return -1
        if may_call is True:
            if self._fence:
                self._in_code = _InCode(False, self._blank)
                self._blank = ""
            return self._begin_block(text, at, found)
        if self._fence or self._is_thinking or found.word == CALL or not found.word:
            # In code, in a sentence, in thoughts: shown without the code.
            return None
        if found.word in (RESULT, ERROR):
            self._count("fabricated")
            self._stop()
            return found.end
        # Kimi goes on with the conversation by itself, or closes what is not open.
        self._count("heading")
        self._state = self._after_removed_heading
        return found.end

    def _after_removed_heading(self, text: str, at: int) -> int:
        blank = _REST_OF_LINE.match(text, at)
        assert blank is not None, "it matches the empty text"
        if blank.end() == len(text) and not blank.group().endswith("\n") and not self._final:
            return -1
        self._state = self._line_start
        return blank.end()

    def _call_heading(self, text: str, at: int) -> Heading | More | None:
        """The heading of a call that may begin at ``at``; More if that is not known yet."""
        if text[at] not in HEADING_STARTS:
            return None
        found = self._code.heading_at(text, at, final=self._final)
        if not isinstance(found, Heading):
            return found if isinstance(found, More) else None
        may_call = self._may_begin_call(text, found)
        if isinstance(may_call, More):
            return may_call
        return found if may_call else None

    def _may_begin_call(self, text: str, found: Heading) -> bool | More:
        """Whether a heading outside of a call begins one: nothing but its arguments may follow it in its line."""
        if found.word != CALL and (found.word or self._names.named(found.argument).tool is None):
            return False
        if not found.argument:
            return False
        at = found.end
        while at < len(text) and text[at] in "`* \t\r":
            at += 1
        if at == len(text):
            return True if self._final else MORE
        return text[at] in "\n{[【"

    # Blocks

    def _begin_block(self, text: str, at: int, found: Heading) -> int:
        self._end_text()
        if self._in_code is None:
            self._raw = [self._blank]
            self._blank = ""
        self._keep(text[at : found.end])
        self._block = _Open(self._names.named(found.argument), found.marks)
        self._json = JsonScan()
        self._at_line_start = True
        self._state = self._before_body
        return found.end

    def _keep(self, text: str) -> None:
        self._raw.append(text)
        if self._reports_spent:
            self._out.append(Spent(text))
        self._size += len(text)

    def _before_body(self, text: str, at: int) -> int:
        """Behind the heading of a call: marks of Markdown, and the rest of its line."""
        block = self._open
        end = at
        while end < len(text) and (text[end] in " \t\r" or (block.marks and text[end] in block.marks)):
            end += 1
        if end == len(text) and not self._final:
            return -1
        if text.startswith("\n", end):
            end += 1
        self._keep(text[at:end])
        is_text = block.named.tool is not None and block.named.tool.kind == "text"
        self._state = self._raw_body if is_text else self._body
        return end

    def _body(self, text: str, at: int) -> int:
        """Before the arguments of a function."""
        block = self._open
        blank = _BLANK.match(text, at)
        if blank is not None:
            self._keep(blank.group())
            return blank.end()
        if text[at] == "{":
            self._state = self._json_body
            return at
        if text[at] in HEADING_STARTS:
            found = self._code.heading_at(text, at, final=self._final)
            if isinstance(found, More):
                return -1
            if isinstance(found, Heading):
                return self._heading_in_block(text, at, found)
        if text[at] in "`~" and not block.fence:
            fence = opening_fence(text, at, final=self._final)
            if isinstance(fence, More):
                return -1
            if isinstance(fence, Fence):
                block.fence = fence.marker
                self._keep(text[at : fence.end])
                return fence.end
        self._state = self._raw_body
        self._at_line_start = True
        return at

    def _json_body(self, text: str, at: int) -> int:
        """Inside a JSON object. A line that begins with a heading ends it wherever it is."""
        block = self._open
        if self._at_line_start:
            after = self._heading_at_line_start(text, at)
            if after is not None:
                return after
        line_end = text.find("\n", at) + 1
        stop = line_end or len(text)
        end = self._json.feed(text, at, stop)
        taken = stop if end is None else end
        block.body.append(text[at:taken])
        self._keep(text[at:taken])
        self._at_line_start = bool(line_end) and end is None
        if end is not None:
            block.complete = True
            self._state = self._after_json
        return self._within_limit(taken)

    def _after_json(self, text: str, at: int) -> int:
        """The object is complete, its end mark is missing yet."""
        block = self._open
        blank = _BLANK.match(text, at)
        if blank is not None:
            self._keep(blank.group())
            return blank.end()
        if text[at] in HEADING_STARTS:
            found = self._code.heading_at(text, at, final=self._final)
            if isinstance(found, More):
                return -1
            if isinstance(found, Heading):
                return self._heading_in_block(text, at, found)
        if block.fence and text[at] == block.fence[0]:
            fence_end = closing_fence(text, at, block.fence, final=self._final)
            if isinstance(fence_end, More):
                return -1
            if fence_end is not None:
                self._keep(text[at:fence_end])
                block.fence = ""
                return fence_end
        if text[at] == "<":
            junk = _JUNK.match(text, at)
            if junk is not None and (self._final or not _WORD_START.match(text, junk.end())):
                self._keep(junk.group())
                return junk.end()
            if _PARTIAL_JUNK.match(text, at) and not self._final:
                return -1
        if self._in_code is not None:
            return self._json_in_code_ends(text, at)
        self._words, self._words_count = [], 0
        self._state = self._behind_json
        return at

    def _json_in_code_ends(self, text: str, at: int) -> int:
        """In a block of code, a call without its end mark: it ends with the code, or it was an example."""
        if text[at] == self._fence[0]:
            end = closing_fence(text, at, self._fence, final=self._final)
            if isinstance(end, More):
                return -1
            if end is not None:
                self._close_block(closed=False)
                return at
        self._block = None
        return self._release(at)

    def _behind_json(self, text: str, at: int) -> int:
        """Something else follows a complete object: a part of it, if the end mark comes; else words."""
        block = self._open
        if text[at] in HEADING_STARTS:
            found = self._code.heading_at(text, at, final=self._final)
            if isinstance(found, More):
                return -1
            if isinstance(found, Heading):
                if found.word in (END_OF_CALL, VALUE):
                    block.body += self._words
                    block.complete = False
                    self._words, self._words_count = [], 0
                return self._heading_in_block(text, at, found)
        following = _HEADING_START.search(text, at + 1)
        end = following.start() if following else len(text)
        self._keep(text[at:end])
        self._add_words(text[at:end])
        if self._words_count > MAX_WORDS_BEHIND:
            self._close_block()
            if not self._over:
                self._end_with_words()
        return end

    def _raw_body(self, text: str, at: int) -> int:
        return self._lines(text, at, self._open.body)

    def _value(self, text: str, at: int) -> int:
        return self._lines(text, at, self._open.value)

    def _lines(self, text: str, at: int, into: list[str]) -> int:
        """Raw text, up to a line that begins with a heading."""
        if self._at_line_start:
            after = self._heading_at_line_start(text, at)
            if after is not None:
                return after
        end = text.find("\n", at) + 1
        self._at_line_start = end > 0
        end = end or len(text)
        into.append(text[at:end])
        self._keep(text[at:end])
        return self._within_limit(end)

    def _heading_at_line_start(self, text: str, at: int) -> int | None:
        """Reads a heading in a block. None: the line has none."""
        start = at
        while start < len(text) and text[start] in " \t" and start - at < _MAX_INDENT:
            start += 1
        if start == len(text) and not self._final:
            return -1
        if start < len(text) and text[start] in HEADING_STARTS:
            found = self._code.heading_at(text, start, final=self._final)
            if isinstance(found, More):
                return -1
            if isinstance(found, Heading):
                self._keep(text[at:start])
                return self._heading_in_block(text, start, found)
        self._at_line_start = False
        return None

    def _heading_in_block(self, text: str, at: int, found: Heading) -> int:
        """Ends the part of the block that is being read."""
        block = self._open
        if found.word == VALUE and found.argument:
            self._keep(text[at : found.end])
            self._end_value()
            block.value_key = found.argument
            # From here on only an end mark says that it is.
            block.complete = False
            self._state = self._before_value
            return found.end
        if found.word == END_OF_CALL:
            self._keep(text[at : found.end])
            self._marks = found.marks
            self._close_block()
            return found.end
        self._close_block()
        # It begins the next call, or is odd: read again behind this one.
        return at if not self._over else len(text)

    def _before_value(self, text: str, at: int) -> int:
        end = at
        while end < len(text) and text[end] in "`* \t\r":
            end += 1
        if end == len(text) and not self._final:
            return -1
        if text.startswith("\n", end):
            end += 1
        self._keep(text[at:end])
        self._at_line_start = True
        self._state = self._value
        return end

    def _end_value(self) -> None:
        block = self._open
        if block.value_key is not None:
            block.values.append((block.value_key, self._cleaned(_without_last_break("".join(block.value)))))
        block.value_key, block.value = None, []

    def _within_limit(self, at: int) -> int:
        if self._size <= MAX_CALL_CHARS:
            return at
        block = self._open
        self._block = None
        if self._is_thinking:
            self._go_on_thinking("".join(self._raw))
            return at
        self._flaw("too-long", block.named.label)
        self._stop()
        return at

    @property
    def _open(self) -> _Open:
        assert self._block is not None, "a block is open in this state"
        return self._block

    def _close_block(self, *, closed: bool = True) -> None:
        """The block that is open is complete."""
        block = self._open
        self._end_value()
        is_text = block.named.tool is not None and block.named.tool.kind == "text"
        body = "".join(block.body)
        body = _without_last_break(body) if is_text else body.strip()
        done = Block(
            block.named,
            self._cleaned(body),
            tuple(block.values),
            closed and not (block.complete and self._words_count),
            "".join(self._raw),
        )
        self._block = None
        self._size = 0
        if self._in_code is not None:
            self._in_code.blocks.append(done)
            self._state = self._behind_call_in_code
            return
        self._raw = []
        self._out.append(done)
        self._begin_tail()

    def _cleaned(self, text: str) -> str:
        text, leaked = without_code(self._code.text, text)
        if leaked:
            self._count("leak")
        return text

    def _flaw(self, kind: Literal["unfinished", "too-long", "in-code", "other-form"], label: str) -> None:
        raw = "".join(self._raw)
        self._raw, self._size = [], 0
        self._count(kind)
        self._out.append(Flaw(kind, label, raw))

    # Behind a call

    def _begin_tail(self) -> None:
        self._told_call = True
        self._state = self._tail
        self._at_line_start = True
        self._tail_fence = ""
        self._tail_ticks = False

    def _tail(self, text: str, at: int) -> int:
        """Behind a complete call: the next one, or words, which are held back."""
        if self._marks:
            if text.startswith(self._marks[0], at):
                self._marks = self._marks[1:]
                return at + 1
            self._marks = ""
        if self._at_line_start:
            blank = _BLANK.match(text, at)
            if blank is not None:
                self._words.append(blank.group())
                return blank.end()
            after = self._line_in_tail(text, at)
            if after is not None:
                return after
            self._at_line_start = False
        if self._is_thinking:
            self._go_on_thinking("".join(self._words))
            return at
        if text[at] == "<" and (after := self._token_in_tail(text, at)) is not None:
            return after
        following = _TAIL_SPECIAL(text, at + (text[at] == "<"))
        end = len(text) if following is None else following.end() if following[0] == "\n" else following.start()
        self._at_line_start = text[end - 1] == "\n"
        self._tail_ticks = not self._at_line_start and (self._tail_ticks or "`" in text[at:end])
        self._add_words(text[at:end])
        if self._words_count > MAX_WORDS_BEHIND:
            self._end_with_words()
        return end

    def _token_in_tail(self, text: str, at: int) -> int | None:
        """Reads a foreign call that begins with a special token inside a line. None: it is text."""
        if self._judge_foreign is None or self._tail_fence or self._tail_ticks:
            return None
        form = opener(text, at, in_line=True, final=self._final)
        if isinstance(form, More):
            return -1
        if form is None:
            return self._skip_frame(text, at)
        self._tell_words()
        return self._begin_foreign(ForeignScan(form), at)

    def _line_in_tail(self, text: str, at: int) -> int | None:
        first = text[at]
        if first in HEADING_STARTS:
            found = self._code.heading_at(text, at, final=self._final)
            if isinstance(found, More):
                return -1
            if isinstance(found, Heading) and (not self._tail_fence or self._tail_fence_is_new):
                return self._heading_in_tail(text, at, found)
        if first in "`~":
            return self._fence_in_tail(text, at)
        if first in "<f" and self._judge_foreign is not None and not self._tail_fence:
            form = opener(text, at, in_line=False, final=self._final)
            if isinstance(form, More):
                return -1
            if form is not None:
                self._tell_words()
                return self._begin_foreign(ForeignScan(form), at)
        self._tail_fence_is_new = False
        return None

    def _heading_in_tail(self, text: str, at: int, found: Heading) -> int | None:
        may_call = self._may_begin_call(text, found)
        if may_call is MORE:
            return -1
        if may_call is True:
            self._tell_words()
            self._blank = ""
            return self._begin_block(text, at, found)
        if found.word == CALL or not found.word or self._is_thinking:
            return None
        if found.word in (RESULT, ERROR):
            self._count("fabricated")
            self._stop()
            return found.end
        if found.word != END_OF_CALL:
            self._count("heading")
        return found.end

    def _fence_in_tail(self, text: str, at: int) -> int | None:
        if self._tail_fence:
            end = (
                closing_fence(text, at, self._tail_fence, final=self._final)
                if text[at] == self._tail_fence[0]
                else None
            )
            if isinstance(end, More):
                return -1
            if end is not None:
                self._words.append(text[at:end])
                self._tail_fence = ""
                return end
            return None
        fence = opening_fence(text, at, final=self._final)
        if isinstance(fence, More):
            return -1
        if isinstance(fence, Fence):
            self._words.append(text[at : fence.end])
            self._tail_fence, self._tail_fence_is_new = fence.marker, True
            return fence.end
        return None

    def _add_words(self, text: str) -> None:
        self._words.append(text)
        self._words_count += len("".join(text.split()))

    def _tell_words(self) -> None:
        """Another call follows: what was said between the two is told."""
        words, self._words, self._words_count = "".join(self._words), [], 0
        lines = [line for line in words.splitlines() if line.strip() and not _ONLY_FENCE.fullmatch(line)]
        if lines:
            shown, leaked = without_code(self._code.text, words.strip())
            if leaked:
                self._count("leak")
            self._out.append(shown)

    def _end_with_words(self) -> None:
        """The words behind a call are no remark: they tell of a result that is not there."""
        if self._is_thinking:
            self._go_on_thinking("".join(self._words))
            return
        self._count("fabricated")
        self._stop()

    def _go_on_thinking(self, held: str) -> None:
        """The blocks before are no calls; what was held behind them is text, too."""
        self._words, self._words_count, self._marks = [], 0, ""
        self._raw, self._size = [], 0
        self._out.append(NO_CALL)
        self._told_call = False
        self._say(held)
        self._state = self._in_line

    def _stop(self) -> None:
        self._words, self._words_count, self._blank = [], 0, ""
        self._block = self._in_code = self._foreign = None
        self._end_text()
        self._out.append(STOP)
        self._over = True

    # Calls in a block of code

    def _behind_call_in_code(self, text: str, at: int) -> int:
        in_code = self._in_code
        assert in_code is not None, "of this state"
        blank = _BLANK.match(text, at)
        if blank is not None:
            self._keep(blank.group())
            return blank.end()
        if text[at] == self._fence[0]:
            end = closing_fence(text, at, self._fence, final=self._final)
            if isinstance(end, More):
                return -1
            if end is not None:
                if not in_code.only_calls:
                    return self._release(at)
                self._keep(text[at:end])
                self._tell_calls_in_code(in_code)
                return end
        found = self._call_heading(text, at)
        if isinstance(found, More):
            return -1
        if found is not None and self._size <= MAX_CALL_CHARS:
            return self._begin_block(text, at, found)
        return self._release(at)

    def _tell_calls_in_code(self, in_code: _InCode) -> None:
        self._in_code = None
        self._fence = ""
        self._raw = []
        self._size = 0
        self._out += in_code.blocks
        self._begin_tail()

    def _release(self, at: int) -> int:
        """What looked like calls is an example in a block of code."""
        in_code = self._in_code
        assert in_code is not None, "of this state"
        self._in_code = None
        raw = "".join(self._raw)
        label = in_code.blocks[0].named.label if in_code.blocks else ""
        # Whether it should have been a call is not known here.
        self._out.append(Flaw("in-code", label, raw))
        self._raw, self._size = [], 0
        self._say(in_code.opening + raw)
        self._state = self._line_start
        return at

    # Foreign calls

    def _begin_foreign(self, scan: ForeignScan, at: int) -> int:
        self._foreign = scan
        self._raw = [self._blank]
        self._blank = ""
        self._state = self._in_foreign
        return at

    def _in_foreign(self, text: str, at: int) -> int:
        scan = self._foreign
        assert scan is not None, "of this state"
        end = scan.feed(text, at)
        taken = len(text) if end is None else end
        self._keep(text[at:taken])
        if end is not None:
            self._end_foreign(scan, scan.calls())
        elif scan.is_too_long:
            self._reject_foreign()
        return taken

    def _end_foreign(self, scan: ForeignScan, calls: list[ForeignCall]) -> Verdict:
        verdict: Verdict = "text"
        if calls and self._judge_foreign is not None:
            verdict = self._judge_foreign(scan.text, calls)
        if verdict == "text":
            self._reject_foreign()
            return verdict
        self._foreign = None
        self._end_text()
        if verdict == "ask":
            self._flaw("other-form", calls[0].name)
        else:
            raw = "".join(self._raw)
            for number, call in enumerate(calls):
                named = Named(call.name, None, self._names.find(call.name))
                body = self._cleaned(call.arguments)
                self._out.append(Block(named, body, (), call.closed, "" if number else raw, scan.form))
            self._raw, self._size = [], 0
        self._begin_tail()
        return verdict

    def _reject_foreign(self) -> None:
        self._foreign = None
        raw = "".join(self._raw)
        self._raw, self._size = [], 0
        self._count("other-markup")
        if self._told_call:
            self._begin_tail()
            self._at_line_start = False
            self._add_words(raw)
        else:
            self._say(raw)
            self._state = self._in_line

    # The end

    def _end(self, is_whole: bool) -> None:
        """Nothing more comes."""
        if self._foreign is not None:
            self._cut_foreign(self._foreign, is_whole)
        if self._block is not None:
            self._cut_block(self._block, is_whole)
        if self._in_code is not None:
            # The fence was never closed: models forget it. The calls in it are complete.
            self._tell_calls_in_code(self._in_code)
        if self._state == self._tail and self._is_thinking and self._words_count:
            self._go_on_thinking("".join(self._words))
        if self._state == self._tail:
            if self._words_count:
                self._count("words-behind")
            return
        if self._held_fence:
            self._say(self._held_fence)
        self._say_blank()
        self._say(self._pending)
        self._end_text()

    def _cut_block(self, block: _Open, is_whole: bool) -> None:
        if block.complete and is_whole:
            # The object says itself that it is complete.
            self._close_block(closed=False)
            return
        self._block = None
        if self._in_code is not None and self._in_code.blocks:
            self._tell_calls_in_code(self._in_code)
        self._in_code = None
        if is_whole:
            self._flaw("unfinished", block.named.label)
        self._begin_tail()

    def _cut_foreign(self, scan: ForeignScan, is_whole: bool) -> None:
        calls = scan.calls()
        complete = [call for call in calls if call.closed]
        if complete:
            verdict = self._end_foreign(scan, complete)
            if verdict == "call" and is_whole and len(complete) < len(calls):
                self._flaw("unfinished", next(call.name for call in calls if not call.closed))
        elif calls and self._judge_foreign is not None and self._judge_foreign(scan.text, calls) != "text":
            self._foreign = None
            if is_whole:
                self._flaw("unfinished", calls[0].name)
            self._begin_tail()
        else:
            self._reject_foreign()


_SPECIAL = re.compile(r"[\n<`]").search
_TAIL_SPECIAL = re.compile(r"[\n<]").search
_BLANK = re.compile(r"[ \t\r\n]+")
_REST_OF_LINE = re.compile(r"[ \t\r]*\n?")
_HEADING_START = re.compile(r"[\[【［`*]")
_ONLY_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})[^`]*")
# A token that Kimi's training puts behind a call, with the name of the element that it closes.
_JUNK = re.compile(r"<\|[a-z_]{1,40}\|>(?:(?:tools|call|argument|json|message|response)(?=<))?|</tool_call>")
_WORD_START = re.compile(r"[a-z]{0,12}\Z")
_PARTIAL_JUNK = re.compile(r"<(?:\|(?:[a-z_]{0,40}(?:\|(?:>[a-z]{0,12})?)?)?|/[a-z_]{0,10})?\Z")


def _without_last_break(text: str) -> str:
    """One line break at the end belongs to the heading that follows."""
    return text.removesuffix("\n")

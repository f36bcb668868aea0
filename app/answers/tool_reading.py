"""From the text of an answer to calls that its client can make: names are looked up, arguments are checked.

    TextDelta, ReasoningDelta, Finished  →  TextDelta, ReasoningDelta, ToolCall, FlawedCalls, Finished, …

The first step of ``shaping``, in the thread that reads the upstream. Says what is wrong with calls that cannot be
used; ``tool_calling`` decides what follows. Must never know an upstream or an API.
"""

import secrets
from collections.abc import Sequence

from app.answers.json_checker import Arguments, JsonChecker, Problem
from app.chat import (
    HEARTBEAT,
    CallFlaw,
    ChatRequest,
    Event,
    Finished,
    FinishReason,
    FlawedCalls,
    Notice,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
    Unrecognised,
)
from app.text import json_extraction
from app.text.prompt import Prompt, allowed_tools
from app.text.tools.foreign import ForeignCall, name_and_arguments
from app.text.tools.free_text import text_of_call
from app.text.tools.grammar import without_code
from app.text.tools.names import Named, Names
from app.text.tools.reader import Block, CallReader, Flaw, Item, NoCall, Spent, Stop, Verdict

# Calls in one answer, and how often the same one may be there.
_MAX_CALLS = 64
_MAX_EQUAL_CALLS = 3
# A text that is longer is not searched for a call without its form.
_MAX_BARE_CHARS = 64 * 1024
# For Kimi, about one flaw.
_MAX_MESSAGE_CHARS = 2000


class ToolReading:
    """Reads the calls of one answer. ``text``, ``thinking`` and ``finish`` return events; the last one is Finished as
    soon as the answer is over, also if Kimi goes on."""

    def __init__(
        self, request: ChatRequest, prompt: Prompt, checker: JsonChecker, *, shows_all: bool, reports_spent: bool
    ) -> None:
        """``shows_all``: Kimi has read nothing but ``prompt``, so that it is known what it may quote.
        ``reports_spent``: what is taken for calls is reported as ``Spent``, for a limit of tokens."""
        assert prompt.code is not None, "of a prompt whose answer may hold calls"
        choice = request.tool_choice
        self._code = prompt.code
        self._prompt = prompt
        self._checker = checker
        self._shows_all = shows_all
        self._tools: Sequence[Tool] = allowed_tools(request) if request.offers_tools else ()
        self._names = Names(self._tools)
        self._is_forced = bool(self._tools) and choice.mode == "required"
        self._only_one = not choice.parallel or (self._is_forced and len(choice.names) == 1)
        judge = self._judge_foreign if self._tools else None
        self._reader = CallReader(self._code, self._names, judge, reports_spent=reports_spent)
        self._thoughts = CallReader(
            self._code, self._names, self._judge_in_thinking if self._tools else None, is_thinking=True
        )
        # Thinking came last. It may end with blocks, which are held back.
        self._thinks = False
        self._planned: list[Block] = []
        self._flaws: list[CallFlaw] = []
        # What the client is not shown: flawed blocks, and where a call is demanded also the words.
        self._hidden: list[str] = []
        self._held_words: list[str] = []
        self._said_words = False
        # How many calls there were before the last words.
        self._said_after = 0
        self._suppressed = False
        self._calls: dict[tuple[str, str], int] = {}
        self._count = 0
        self._over = False
        # The prompt without its white space, once it was needed.
        self._squeezed: str | None = None
        # Functions whose schema takes too much work.
        self._unjudged: set[str] = set()

    # What comes

    def passes_text(self, piece: str) -> bool:
        """Whether ``text`` would return just this piece, which then need not be passed to it."""
        if self._is_forced or self._over or self._thinks or not self._reader.passes_unchanged(piece):
            return False
        self._said_words = True
        return True

    def passes_thinking(self, piece: str) -> bool:
        """The same for ``thinking``."""
        self._thinks = True
        return not self._over and self._thoughts.passes_unchanged(piece)

    def text(self, piece: str) -> "list[Event | Spent]":
        out: list[Event | Spent] = []
        if self._thinks:
            self._end_thinking(out)
        self._take(self._reader.feed(piece), out)
        return self._with_oddities(out)

    def thinking(self, piece: str) -> "list[Event | Spent]":
        out: list[Event | Spent] = []
        self._thinks = True
        if not self._over:
            self._take_thoughts(self._thoughts.feed(piece), out)
        return self._with_oddities(out)

    def finish(self, reason: FinishReason) -> "list[Event | Spent]":
        """Nothing more comes: Kimi has ended the answer, or a limit did."""
        out: list[Event | Spent] = []
        if self._over:
            return out
        is_whole = reason == "stop"
        self._take_thoughts(self._thoughts.flush(is_whole=is_whole), out)
        # Before the flush: words that are held back are words.
        self._take(self._reader.flush(is_whole=is_whole), out)
        if self._planned:
            self._settle_planned(out, is_whole=is_whole)
        if not self._over:
            self._conclude(out, reason)
        return self._with_oddities(out)

    def abandon(self) -> "list[Event | Spent]":
        """The answer has failed: the text that was held back. A call that is not complete is dropped."""
        out: list[Event | Spent] = []
        if not self._over:
            self._over = True
            for item in self._reader.flush(is_whole=False):
                if isinstance(item, str) and not self._is_forced:
                    out.append(TextDelta(item))
        return out

    def _with_oddities(self, out: "list[Event | Spent]") -> "list[Event | Spent]":
        for reader in (self._reader, self._thoughts):
            if reader.oddities:
                # Before the end of the answer, behind which nothing is looked at.
                out[:0] = [Unrecognised(f"tools:{kind}") for kind in reader.oddities]
                reader.oddities.clear()
        if not out and (self._reader.holds or self._thoughts.holds or self._held_words):
            out.append(HEARTBEAT)
        return out

    def _take(self, items: Sequence[Item], out: "list[Event | Spent]") -> None:
        for item in items:
            if self._over:
                return
            match item:
                case str() if self._is_forced:
                    self._held_words.append(item)
                case str():
                    # Apart from what was said before the calls.
                    is_apart = self._said_words and self._count > self._said_after
                    self._said_words, self._said_after = True, self._count
                    out.append(TextDelta(f"\n\n{item}" if is_apart else item))
                case Spent():
                    out.append(item)
                case Block():
                    self._block(item, out)
                case Flaw():
                    self._flaw(item)
                case Stop():
                    self._conclude(out, "stop")

    # Thinking

    def _take_thoughts(self, items: Sequence[Item], out: "list[Event | Spent]") -> None:
        for item in items:
            match item:
                case str():
                    out.append(ReasoningDelta(item))
                case Block():
                    self._planned.append(item)
                case NoCall():
                    self._tell_planned(out)
                case Flaw(raw=raw) if item.kind != "in-code":
                    self._tell_planned(out)
                    out.append(ReasoningDelta(without_code(self._code, raw)[0]))

    def _tell_planned(self, out: "list[Event | Spent]") -> None:
        """Blocks in the thinking are shown as what they are: thoughts."""
        for block in self._planned:
            if block.form:
                out.append(Unrecognised("tools:other-markup"))
            if block.raw:
                out.append(ReasoningDelta(without_code(self._code, block.raw)[0]))
        self._planned.clear()

    def _end_thinking(self, out: "list[Event | Spent]") -> None:
        """The answer begins: what was thought is no call."""
        self._thinks = False
        self._take_thoughts(self._thoughts.flush(is_whole=False), out)
        self._tell_planned(out)
        self._thoughts = CallReader(self._code, self._names, None, is_thinking=True)

    def _settle_planned(self, out: "list[Event | Spent]", *, is_whole: bool) -> None:
        """A call at the very end of the thinking of an answer that says nothing else is meant as one."""
        nothing_else = not (self._said_words or self._held_words or self._count or self._flaws or self._over)
        if not (is_whole and nothing_else and self._tools):
            self._tell_planned(out)
            return
        out.append(Unrecognised("tools:in-thinking"))
        planned, self._planned = self._planned, []
        for block in planned:
            if not self._over:
                self._block(block, out)

    def _judge_in_thinking(self, raw: str, calls: list[ForeignCall]) -> Verdict:
        return "call" if self._shows_all and self._judge_foreign(raw, calls) == "call" else "text"

    # Calls

    def _judge_foreign(self, raw: str, calls: list[ForeignCall]) -> Verdict:
        """Calls in another form hold no code: they count where they cannot be a quotation of what Kimi has read."""
        if any(self._names.find(call.name) is None for call in calls) or self._is_quoted(raw):
            return "text"
        return "call" if self._shows_all else "ask"

    def _is_quoted(self, raw: str) -> bool:
        if self._squeezed is None:
            self._squeezed = "".join(self._prompt.text.split())
        return "".join(raw.split()) in self._squeezed

    def _block(self, block: Block, out: "list[Event | Spent]") -> None:
        if not self._tools:
            self._suppressed = True
            return
        if block.form:
            out.append(Unrecognised(f"tools:form-{block.form}"))
        tool = block.named.tool
        if tool is None:
            self._add_unknown(block, out)
        elif tool.kind == "text":
            text = text_of_call(block.body, block.values, tool.name)
            self._tell(tool, text, out)
        else:
            self._check(block, tool, out)

    def _add_unknown(self, block: Block, out: "list[Event | Spent]") -> None:
        out.append(Unrecognised("tools:unknown-name"))
        label = block.named.label[:200]
        if self._is_forced and len(self._tools) == 1:
            message = f"{label!r} is not the function that this message was to run: that is {self._names.labels[0]!r}"
        else:
            message = f"there is no function {label!r}; the functions are {', '.join(self._names.labels)}"
        self._add_flaw("unknown-function", message, block.raw)

    def _check(self, block: Block, tool: Tool, out: "list[Event | Spent]") -> None:
        label = self._names.label(tool)
        schema = None if label in self._unjudged else tool.schema
        found = self._checker.check_call(block.body, block.values, schema, (label, tool.name), closed=block.closed)
        if isinstance(found, Problem):
            self._add_flaw("not-json", f"the block for {label}: {found.message}", block.raw)
            return
        if not found.is_judged and schema is not None:
            self._unjudged.add(label)
            out.append(Unrecognised("tools:unjudged"))
        if found.problem is not None and (tool.strict or self._is_forced):
            self._add_flaw("schema", f"the arguments for {label}: {found.problem.message}", block.raw)
            return
        if found.mended:
            out += [Unrecognised("tools:mended"), Notice("tool-call-mended")]
        if found.retyped:
            out.append(Unrecognised("tools:types"))
        for text in found.texts:
            if not self._over:
                self._tell(tool, text, out)

    def _tell(self, tool: Tool, arguments: str, out: "list[Event | Spent]") -> None:
        which = (self._names.label(tool), arguments)
        self._calls[which] = self._calls.get(which, 0) + 1
        if self._calls[which] > _MAX_EQUAL_CALLS:
            out.append(Unrecognised("tools:loop"))
            self._conclude(out, "stop")
            return
        self._count += 1
        # By its end the result of a call finds its place, if the client sends nothing else of it.
        call_id = f"{secrets.token_hex(10)}_{self._count}"
        out.append(ToolCall(call_id, tool.name, arguments, tool.kind, tool.namespace))
        if self._only_one or self._count >= _MAX_CALLS:
            self._conclude(out, "stop")

    def _flaw(self, flaw: Flaw) -> None:
        if not self._tools:
            self._suppressed = self._suppressed or flaw.kind != "in-code"
            return
        label = flaw.label[:200]
        match flaw.kind:
            case "in-code" if not self._is_forced:
                pass
            case "in-code":
                self._add_flaw("in-code", f"the block for {label} stands in a block of code", "")
            case "unfinished":
                self._add_flaw("unfinished", f"the block for {label} has no end", flaw.raw)
            case "too-long":
                self._add_flaw("too-long", f"the block for {label} is too long", flaw.raw[:_MAX_MESSAGE_CHARS])
            case "other-form":
                self._add_flaw("other-form", f"the call of {label} is written in another form than agreed", flaw.raw)

    def _add_flaw(self, kind: str, message: str, raw: str) -> None:
        self._flaws.append(CallFlaw(kind, message[:_MAX_MESSAGE_CHARS]))
        self._hidden.append(raw.strip("\n"))

    # The end

    def _conclude(self, out: "list[Event | Spent]", reason: FinishReason) -> None:
        words, self._held_words = "".join(self._held_words), []
        if self._is_forced and not (self._count or self._flaws) and reason == "stop":
            self._find_bare_call(words, out)
        if self._over:
            return
        self._over = True
        if self._is_forced and not self._count and reason != "stop" and words:
            # It was cut short, and says so.
            out.append(TextDelta(words))
        if reason == "stop" and (flaws := self._flaws_at_the_end(words)):
            raw = "\n".join(part for part in (words, *self._hidden) if part)
            out.append(FlawedCalls(flaws, raw, self._code))
        if self._suppressed:
            out.append(Notice("tool-call-suppressed"))
        out.append(Finished("tool_calls" if self._count and reason == "stop" else reason))

    def _flaws_at_the_end(self, words: str) -> tuple[CallFlaw, ...]:
        if self._flaws or self._count:
            return tuple(self._flaws)
        if self._is_forced:
            return (CallFlaw("missing", "the message runs no function"),)
        if self._suppressed and not self._said_words:
            return (CallFlaw("suppressed", "no function can be run by this message"),)
        if self._reader.is_stopped and not self._said_words and not words:
            return (CallFlaw("fabricated", "the message holds the result of a function that it did not run"),)
        return ()

    def _find_bare_call(self, words: str, out: "list[Event | Spent]") -> None:
        """Where a call was demanded, one JSON object that names a function and fits it is meant as one."""
        if not words or len(words) > _MAX_BARE_CHARS:
            return
        for candidate in json_extraction.candidates(words):
            if not isinstance(candidate.value, dict):
                continue
            name, arguments = name_and_arguments(candidate.value)
            tool = self._names.find(name) if name is not None else None
            if tool is None or tool.kind == "text" or self._is_quoted(candidate.text):
                continue
            label = self._names.label(tool)
            found = self._checker.check_call(arguments, (), tool.schema, (label, tool.name), closed=True)
            if isinstance(found, Arguments) and found.problem is None:
                out.append(Unrecognised("tools:form-bare"))
                self._block(Block(Named(label, None, tool), arguments), out)
                if not self._over:
                    self._conclude(out, "stop")
                return

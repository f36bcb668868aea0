"""Changes the events of an upstream for the client: calls, citations, stop sequences, a limit of tokens, in this
order.

So stop sequences and the limit apply to the text that the client gets, and what stands in a call is data. The limit
counts calls, too. Does not know any wire format or API.
"""

from collections.abc import Sequence

from app.answers.tool_reading import ToolReading
from app.chat import (
    Citation,
    CitationStyle,
    Event,
    Finished,
    FinishReason,
    Notice,
    Options,
    ReasoningDelta,
    Source,
    TextDelta,
    ToolCall,
)
from app.text.citations import Citations
from app.text.tools.reader import Spent
from app.text.truncation import StopSequences, TokenBudget

# One object for all answers: an empty set takes 200 bytes.
_NO_CITATIONS: frozenset[Citation] = frozenset()


def shaper(
    options: Options, style: CitationStyle, calls: ToolReading | None, *, limits_thinking: bool = True
) -> "Shaper | None":
    """``limits_thinking``: a limit of tokens is one of thinking, too. ``calls`` reads the calls of the answer, where
    there may be any. None if no event would be changed, apart from Source, which encoders ignore."""
    if style != "off" and options.format is not None:
        # A link would become part of the data.
        style = "annotations"
    if style == "off" and not options.stop and options.max_tokens is None and calls is None:
        return None
    return Shaper(options, style, calls, limits_thinking=limits_thinking)


class Shaper:
    """Shapes one answer. Its events end with Finished as soon as the answer is over, also if the upstream goes on.
    Events that are taken after that have no effect."""

    __slots__ = ("_budget", "_called", "_calls", "_citations", "_cited", "_length", "_limits", "_over", "_stops")

    def __init__(
        self, options: Options, style: CitationStyle, calls: ToolReading | None, *, limits_thinking: bool = True
    ) -> None:
        self._calls = calls
        self._called = False
        # The citations that were passed on before a call.
        self._cited = _NO_CITATIONS
        self._citations = None if style == "off" else Citations(style)
        self._stops = StopSequences(options.stop) if options.stop else None
        most = options.max_tokens
        self._budget = None if most is None else TokenBudget(most, counts_thinking=limits_thinking)
        self._limits = self._stops is not None or self._budget is not None
        # Of the text that was passed on, which may be less than what Citations returned.
        self._length = 0
        self._over = False

    def passes_unchanged(self, event: Event) -> bool:
        """Whether ``take`` would return just this event, which then must not be passed to it any more.

        The fast path for nearly every token of an answer without limits.
        """
        if self._limits or self._over:
            return False
        if event.__class__ is TextDelta:
            if self._calls is not None and not self._calls.passes_text(event.text):
                return False
            return self._citations is None or self._citations.passes_unchanged(event.text)
        return event.__class__ is ReasoningDelta and (self._calls is None or self._calls.passes_thinking(event.text))

    def take(self, events: Sequence[Event]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            if self._over:
                break
            if self._calls is None:
                self._shape(out, event)
                continue
            match event:
                case TextDelta(text):
                    read = self._calls.text(text)
                case ReasoningDelta(text):
                    read = self._calls.thinking(text)
                case Finished(reason):
                    read = self._calls.finish(reason)
                case _:
                    read = [event]
            self._shape_all(out, read)
        return out

    def flush(self) -> list[Event]:
        """The events of the text that was held back. To be called after the last event, where the answer failed."""
        out: list[Event] = []
        if self._calls is not None and not self._over:
            self._shape_all(out, self._calls.abandon())
        return out + self._held_text()

    def _shape_all(self, out: list[Event], events: Sequence[Event | Spent]) -> None:
        for event in events:
            if self._over:
                return
            if isinstance(event, Spent):
                self._spend_on_call(out, event.text)
            else:
                self._shape(out, event)

    def _shape(self, out: list[Event], event: Event) -> None:
        match event:
            case TextDelta():
                self._text(out, event)
            case ReasoningDelta():
                self._thinking(out, event)
            case Source():
                if self._citations is not None:
                    self._citations.add_source(event)
            case ToolCall():
                self._call(out, event)
            case Finished():
                out += self._held_text()
                if not self._over:
                    self._finish(out, event.reason)
            case _:
                out.append(event)

    def _call(self, out: list[Event], call: ToolCall) -> None:
        """What was said before a call is passed on before it."""
        out += self._held_text()
        if self._over:
            return
        self._called = True
        out += self._citations_so_far()
        out.append(call)

    def _spend_on_call(self, out: list[Event], text: str) -> None:
        """What Kimi writes for a call counts as it comes, so that a call without end ends, too."""
        if self._budget is not None and len(self._budget.cut_text(text)) < len(text):
            assert self._calls is not None, "only it reports what is spent"
            for event in self._calls.finish("length"):
                if isinstance(event, TextDelta):
                    self._text(out, event)
            if not self._over:
                out += self._held_text()
                self._finish(out, "length")

    def _held_text(self) -> list[Event]:
        out: list[Event] = []
        if not self._over and self._citations is not None and (text := self._citations.flush()):
            self._limit(out, TextDelta(text))
        if not self._over and self._stops is not None and (text := self._stops.flush()):
            self._spend(out, TextDelta(text))
        return out

    def _text(self, out: list[Event], event: TextDelta) -> None:
        if self._citations is not None:
            event = _with_text(event, self._citations.feed(event.text))
        if event.text:
            self._limit(out, event)

    def _limit(self, out: list[Event], event: TextDelta) -> None:
        if self._stops is None:
            self._spend(out, event)
            return
        text, stop = self._stops.feed(event.text)
        if text:
            self._spend(out, _with_text(event, text))
        if stop is not None and not self._over:
            self._finish(out, "stop", stop)

    def _spend(self, out: list[Event], event: TextDelta) -> None:
        allowed = event.text if self._budget is None else self._budget.cut_text(event.text)
        if allowed:
            self._length += len(allowed)
            out.append(_with_text(event, allowed))
        if len(allowed) < len(event.text):
            self._finish(out, "length")

    def _thinking(self, out: list[Event], event: ReasoningDelta) -> None:
        allowed = event.text if self._budget is None else self._budget.cut_thinking(event.text)
        if allowed:
            out.append(ReasoningDelta(allowed))
        if len(allowed) < len(event.text):
            # The text that is held back came before.
            out += self._held_text()
            if not self._over:
                if self._length == 0 and not self._called:
                    # Otherwise nobody sees why there is no answer.
                    out.append(Notice("cut-while-thinking"))
                self._finish(out, "length")

    def _finish(self, out: list[Event], reason: FinishReason, stop_sequence: str | None = None) -> None:
        self._over = True
        out += self._citations_so_far()
        if self._called and reason == "stop":
            # A stop sequence between two calls.
            reason, stop_sequence = "tool_calls", None
        out.append(Finished(reason, stop_sequence))

    def _citations_so_far(self) -> list[Citation]:
        """Those that were not passed on yet."""
        if self._citations is None:
            return []
        found = self._citations.citations(self._length if self._limits else None)
        if self._cited:
            found = [citation for citation in found if citation not in self._cited]
        if self._called:
            self._cited |= frozenset(found)
        return found


def _with_text(event: TextDelta, text: str) -> TextDelta:
    return event if text is event.text else TextDelta(text)

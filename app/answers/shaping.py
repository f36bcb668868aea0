"""Changes the events of an upstream for the client: citations, stop sequences, a limit of tokens, in this order.

So stop sequences and the limit apply to the text that the client gets. Does not know any wire format or API.
"""

from collections.abc import Sequence

from app.chat import CitationStyle, Event, Finished, FinishReason, Options, ReasoningDelta, Source, TextDelta
from app.text.citations import Citations
from app.text.truncation import StopSequences, TokenBudget


def shaper(options: Options, style: CitationStyle) -> "Shaper | None":
    """None if no event would be changed, apart from Source, which encoders ignore."""
    if style != "off" and options.format is not None:
        # A link would become part of the data.
        style = "annotations"
    if style == "off" and not options.stop and options.max_tokens is None:
        return None
    return Shaper(options, style)


class Shaper:
    """Shapes one answer. Its events end with Finished as soon as the answer is over, also if the upstream goes on.
    Events that are taken after that have no effect."""

    __slots__ = ("_budget", "_citations", "_length", "_limits", "_over", "_stops")

    def __init__(self, options: Options, style: CitationStyle) -> None:
        self._citations = None if style == "off" else Citations(style)
        self._stops = StopSequences(options.stop) if options.stop else None
        self._budget = None if options.max_tokens is None else TokenBudget(options.max_tokens)
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
            return self._citations is None or self._citations.passes_unchanged(event.text)
        return event.__class__ is ReasoningDelta

    def take(self, events: Sequence[Event]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            if self._over:
                break
            match event:
                case TextDelta():
                    self._text(out, event)
                case ReasoningDelta():
                    self._thinking(out, event)
                case Source():
                    if self._citations is not None:
                        self._citations.add_source(event)
                case Finished():
                    out += self.flush()
                    if not self._over:
                        self._finish(out, event.reason)
                case _:
                    out.append(event)
        return out

    def flush(self) -> list[Event]:
        """The events of the text that was held back. To be called after the last event."""
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
            out += self.flush()
            if not self._over:
                self._finish(out, "length")

    def _finish(self, out: list[Event], reason: FinishReason, stop_sequence: str | None = None) -> None:
        self._over = True
        if self._citations is not None:
            out += self._citations.citations(self._length if self._limits else None)
        out.append(Finished(reason, stop_sequence))


def _with_text(event: TextDelta, text: str) -> TextDelta:
    return event if text is event.text else TextDelta(text)

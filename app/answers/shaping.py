"""What is done to an answer on its way to the client: citations, stop sequences, a limit of tokens, in this order.

So stop sequences and the limit are about the text that the client gets. Stands between an upstream's events and
those that leave the gateway; where nothing is asked for, nothing stands there. Knows no wire and no API.
"""

from collections.abc import Sequence

from app.chat import CitationStyle, Event, Finished, FinishReason, Options, ReasoningDelta, Source, TextDelta
from app.text.citations import Citations
from app.text.truncation import StopSequences, TokenBudget


def shaper(options: Options, style: CitationStyle) -> "Shaper | None":
    """None where every event would pass as it is, but for Source, which nobody would look at."""
    if style != "off" and options.format is not None:
        # Links would be letters of somebody's data.
        style = "annotations"
    if style == "off" and not options.stop and options.max_tokens is None:
        return None
    return Shaper(options, style)


class Shaper:
    """One answer. Its events end with Finished as soon as the answer is over, whether or not the upstream has
    said so; what is taken after that has no effect."""

    __slots__ = ("_budget", "_citations", "_length", "_limits", "_over", "_stops")

    def __init__(self, options: Options, style: CitationStyle) -> None:
        self._citations = None if style == "off" else Citations(style)
        self._stops = StopSequences(options.stop) if options.stop else None
        self._budget = None if options.max_tokens is None else TokenBudget(options.max_tokens)
        self._limits = self._stops is not None or self._budget is not None
        # Of the text that was passed on, where that may be less than what Citations gave.
        self._length = 0
        self._over = False

    def lets_pass(self, event: Event) -> bool:
        """Whether the event may go as it is; it has been seen then, and ``take`` must not get it again. That is the
        short way for nearly every token of an answer without limits."""
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
                    out += self.rest()
                    if not self._over:
                        self._finish(out, event.reason)
                case _:
                    out.append(event)
        return out

    def rest(self) -> list[Event]:
        """What was held back, now that nothing follows."""
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
            # What is held back of the text came before.
            out += self.rest()
            if not self._over:
                self._finish(out, "length")

    def _finish(self, out: list[Event], reason: FinishReason, stop_sequence: str | None = None) -> None:
        self._over = True
        if self._citations is not None:
            out += self._citations.citations(self._length if self._limits else None)
        out.append(Finished(reason, stop_sequence))


def _with_text(event: TextDelta, text: str) -> TextDelta:
    return event if text is event.text else TextDelta(text)

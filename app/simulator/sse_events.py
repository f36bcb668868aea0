"""The events of an SSE answer, in the manner of 2024 and of 2025.

Knows sections 3.3–3.7 of the protocol notes. Must never know how an answer is thought up or when its events leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from app.simulator.answers import Answer, Page
from app.simulator.http1 import ENCODER, json_bytes
from app.simulator.knobs import Knobs
from app.simulator.sse_errors import STREAM_ERRORS
from app.simulator.turns import Step, Thought

CONTENT_TYPE = "text/event-stream; charset=utf-8"
_NATURAL_FAIL_AFTER = {"moderated": 3}
_UNKNOWN_EVENTS: tuple[Mapping[str, object], ...] = (
    {"event": "loading", "loading": True},
    {"event": "zone_set", "idx_z": 0, "zone": {"section": "reply"}},
    {"event": "tool_call_status", "text": "must not be shown", "tool": {"name": "calendar"}},
    {"text": "an event without a name"},
)


class SSEVoice:
    """Tells an answer as server-sent events."""

    headers: Mapping[str, str] = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-cache"}

    def __init__(
        self,
        knobs: Knobs,
        fault: str,
        opening: Iterable[Mapping[str, object]],
        answer: Answer,
        first_turn: bool,
        ends_in_length: bool,
    ) -> None:
        silent = fault == "empty"
        self.tokens = () if silent else answer.tokens[: self._fail_point(knobs, fault)]
        self.ping_s = knobs.ping_s
        self.offset = 0
        self._knobs = knobs
        self._fault = fault
        self._opening = opening
        self._answer = replace(answer, thoughts=()) if silent else answer
        self._first_turn = first_turn
        self._ends_in_length = ends_in_length
        self._old = knobs.profile == "sse-2024"
        self._gap = b"\r\n\r\n" if knobs.crlf else b"\n\n"
        fields = "" if self._old else '"idx_s":0,"idx_z":0,'
        self._before_text = f'data: {{"event":"cmpl",{fields}"text":'.encode()
        self._after_text = (b"}" if self._old else b',"view":"cmpl"}') + self._gap

    @staticmethod
    def _fail_point(knobs: Knobs, fault: str) -> int | None:
        """How many tokens come before the fault; None when the text comes whole."""
        if fault in STREAM_ERRORS:
            return _NATURAL_FAIL_AFTER.get(fault, 0) if knobs.fail_after is None else knobs.fail_after
        return knobs.fail_after if fault == "drop" else None

    def steps(self) -> Iterator[Step]:
        for event in self._opening:
            yield self._event(event)
        if self._fault == "empty_close":
            return
        yield b""
        if self.tokens or self._fault not in STREAM_ERRORS:
            yield from self._content()
        yield from self._closing()

    def text(self, token: str) -> bytes:
        return self._before_text + ENCODER.encode(token).encode("utf-8", "replace") + self._after_text

    def thought(self, token: str) -> bytes:
        return self._event({"event": "k1", "text": token})

    def ping(self) -> bytes:
        return self._event({"event": "ping"})

    def farewell(self) -> Iterable[bytes]:
        return ()  # this generation has no cancel call

    def lines(self, data: bytes) -> list[bytes]:
        return data.splitlines(keepends=True)

    def _content(self) -> Iterator[Step]:
        if self._first_turn and not self._old:
            yield self._event({"event": "rename", "text": self._answer.title})
        if self._answer.pages:
            yield from self._search(self._answer.pages)
        if self._knobs.refs == "before":
            yield self._ref_docs()
        yield from map(Thought, self._answer.thoughts)
        for number, token in enumerate(self.tokens):
            yield token
            yield from self._interruptions(number)
        if self._knobs.refs == "after":
            yield self._ref_docs()

    def _interruptions(self, number: int) -> Iterator[bytes]:
        if self._knobs.empty_text:
            yield self.text("")
        if self._knobs.comments:
            yield b": keep-alive" + self._gap
        if self._knobs.unknown:
            yield self._event(_UNKNOWN_EVENTS[number % len(_UNKNOWN_EVENTS)])

    def _search(self, pages: Sequence[Page]) -> Iterator[bytes]:
        if self._old:
            planned = {"need2search": True, "search_target": self._answer.title, "search_language": "zh-cn"}
            yield self._event({"event": "debug", "message": planned})
        yield self._progress({"type": "start" if self._old else "start_res"})
        for number, page in enumerate(pages, start=1):
            found = {"successNum": number, "title": page.title, "type": "get_res", "url": page.url}
            newer = {"site_name": page.site, "date": page.date, "snippet": page.snippet}
            yield self._progress(found if self._old else found | newer)
        yield self._progress({"type": "answer"})

    def _ref_docs(self) -> bytes:
        """The cards of the pages; of a card only `url` is known for certain (3.4)."""
        cards = [{"url": page.url, "title": page.title} for page in self._answer.pages]
        return self._event({"event": "ref_docs", "ref_cards": cards})

    def _progress(self, msg: Mapping[str, object]) -> bytes:
        return self._event({"event": "search_plus", "msg": msg})

    def _closing(self) -> Iterator[bytes]:
        if self._fault in STREAM_ERRORS:
            yield self._event({"error": self._error(), "event": "error"})
            return
        if self._fault == "drop":
            return
        if self._ends_in_length:
            yield self._event({"event": "length"})
        yield from [self._event({"event": "done"})] * {"once": 1, "none": 0, "twice": 2}[self._knobs.done]
        if self._fault != "done_only":
            yield self._event({"event": "all_done"})

    def _error(self) -> dict[str, str]:
        error_type, message = STREAM_ERRORS[self._fault]
        error = {
            "error_type": self._knobs.fail_code or error_type,
            "message": self._knobs.fail_message or message,
        }
        return error | {"detail": "upstream unavailable"} if self._fault == "overloaded" else error

    def _event(self, event: Mapping[str, object]) -> bytes:
        return b"data: " + json_bytes(event) + self._gap

"""Generation 1's answers: the lines of a stream → our events (``kimi-protocol.md`` 3.4, 3.9, 3.10).

Knows the frames and how their text is joined. Reads nothing itself: it works on any lines, with no socket. Must never
know paths, bodies of requests, retries or the other generation.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from app.chat import (
    HEARTBEAT,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    Unrecognised,
)
from app.errors import ConnectionLost, Moderated, UpstreamError
from app.upstreams.account import Account
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi import sse
from app.upstreams.kimi.http import Reply
from app.upstreams.kimi.json_frames import Reader, SurrogateJoiner, without_lone_surrogates
from app.upstreams.kimi.set_phrases import Opening
from app.upstreams.kimi.sources import sources_of_cards, sources_of_search

# Frames that say nothing that a client is to see (3.4): the echo, the title, ends of parts.
_QUIET = frozenset({"resp", "rename", "debug", "done", "ping"})

# How much is read of what is no stream of events but one error.
_ERROR_BYTES = 65536


class AnswerDecoder:
    """One stream of an answer. An answer that Kimi cuts at its length limit goes on in another stream, with the
    decoder that ``next`` gives.

    ``reason``: why Kimi calls the answer complete; None until it does.
    ``segment_id``: what a request for the rest of the answer has to name.
    ``continues``: an earlier stream held the first part of this answer.
    ``spoke``: the stream has held text or thinking.
    """

    __slots__ = (
        "_account",
        "_has_text",
        "_json",
        "_length",
        "_opening",
        "_site",
        "_text",
        "_thinking",
        "continues",
        "reason",
        "segment_id",
        "spoke",
    )

    def __init__(self, account: Account, site: str, asked: str = "") -> None:
        """``account`` and ``site`` (the address of Kimi) are named in errors. ``asked``: the question."""
        self.reason: FinishReason | None = None
        self.segment_id: str | None = None
        self.continues = False
        self.spoke = False
        self._account = account
        self._site = site
        self._length = False
        self._has_text = False
        # None once it is certain that the answer is no set phrase.
        self._opening: Opening | None = Opening(asked)
        self._json = Reader()
        # One for each kind of text: the two take turns, and a half waits for the next delta of its own kind.
        self._text = SurrogateJoiner(self._json)
        self._thinking = SurrogateJoiner(self._json)

    @property
    def may_continue(self) -> bool:
        return self.reason == "length" and self.segment_id is not None

    def next(self) -> "AnswerDecoder":
        """For the stream that continues this one. Half a surrogate pair at its end goes along."""
        following = AnswerDecoder(self._account, self._site)
        following.segment_id, following.continues = self.segment_id, True
        following._opening = None
        following._json, following._text, following._thinking = self._json, self._text, self._thinking
        return following

    def decode(self, lines: Iterable[bytes], *, is_last: bool) -> Iterator[Event]:
        """The events of the stream that comes in ``lines`` (without their ends), each as soon as its line is there.
        Finished is the last one, except where the answer is to be continued (``may_continue`` and not ``is_last``).

        Raises:
            UpstreamError: if Kimi sent an error, in the stream or instead of one.
            AnswerEmpty: if Kimi calls an answer complete in which there is nothing.
            UpstreamProtocolError: if a frame is no JSON.
            ConnectionLost: if the bytes end before Kimi has said that the answer is complete.
        """
        events = sse.Decoder()
        try:
            for line in self._refuse_json(lines):
                payload = events.take(line)
                if payload is None:
                    continue
                yield from self._frame(payload)
                if self.reason is not None:
                    if is_last or not self.may_continue:
                        yield from self.finish(self.reason)
                    else:
                        yield from self._open()
                    return
        except UpstreamError:
            yield from self._open()
            raise
        yield from self._open()
        raise ConnectionLost(f"{self._account.label}: Kimi closed the connection before the end of the answer")

    def finish(self, reason: FinishReason) -> Iterator[Event]:
        """The last events of an answer that ends for this reason. Raises AnswerEmpty, UpstreamOverloaded."""
        if reason == "stop" and self._opening is not None and (meaning := self._opening.meaning) is not None:
            if meaning == "overloaded":
                self._opening = None
                raise kimi_errors.tired(self._account)
            reason = "content_filter"
        yield from self._open()
        for kind, halves in ((ReasoningDelta, self._thinking), (TextDelta, self._text)):
            # What still waits for its other half.
            if half := halves.flush():
                self.spoke = True
                yield kind(half)
        if reason == "stop" and not self.spoke and not self.continues:
            raise kimi_errors.empty_answer(self._account)
        yield Finished(reason)

    def _open(self) -> Iterator[Event]:
        """From now on the answer is one like any other."""
        opening, self._opening = self._opening, None
        if opening is not None and (held := opening.flush()):
            yield TextDelta(held)

    def _refuse_json(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """The same lines; raises for an error in JSON that only its content type calls a stream (3.10)."""
        lines = iter(lines)
        start = next(filter(None, lines), b"")
        if not start.startswith(b"{"):
            return itertools.chain((start,), lines)
        while len(start) < _ERROR_BYTES and (line := next(lines, None)) is not None:
            start += line
        raise kimi_errors.refusal(Reply(200, "application/json", {}, start[:_ERROR_BYTES]), self._account, self._site)

    def _frame(self, payload: bytes) -> tuple[Event, ...]:
        """The events for the data of one SSE event (3.4). Raises UpstreamError for an ``error`` frame."""
        frame = self._parse(payload) if payload else {"event": "ping"}
        match frame.get("event"):
            case "cmpl":
                return self._delta(TextDelta, self._text, frame)
            case "k1":
                return self._delta(ReasoningDelta, self._thinking, frame)
            case "req":
                # `continue` names the user's segment (3.9).
                self.segment_id = str(frame["id"]) if frame.get("id") else self.segment_id
            case "length":
                self._length = True
            case "all_done":
                self.reason = "length" if self._length else "stop"
            case "error":
                error = kimi_errors.in_stream(frame.get("error"), self._account)
                if not (isinstance(error, Moderated) and (self._has_text or self.continues)):
                    raise error
                self.reason = "content_filter"
            case "search_plus":
                return tuple(sources_of_search(frame.get("msg"))) or (HEARTBEAT,)
            case "ref_docs":
                return tuple(sources_of_cards(frame.get("ref_cards"))) or (HEARTBEAT,)
            case str(kind) if kind in _QUIET:
                pass
            case str(kind):
                return (Unrecognised(f"event {kind[:40]}"),)
            case kind:
                return (Unrecognised(f"event ({type(kind).__name__})"),)
        return (HEARTBEAT,)

    def _delta(
        self, kind: type[TextDelta] | type[ReasoningDelta], halves: SurrogateJoiner, frame: dict[str, Any]
    ) -> tuple[Event, ...]:
        text = frame.get("text")
        if not isinstance(text, str):
            return (Unrecognised(f"event {frame['event']} without text"),)
        text = halves.join(text)
        if not text:
            return (HEARTBEAT,)
        self.spoke = True
        if kind is TextDelta:
            self._has_text = True
        if self._opening is not None and kind is TextDelta:
            text = self._opening.take(text)
            if not text:
                return (HEARTBEAT,)
            self._opening = None
        return (kind(text),)

    def _parse(self, payload: bytes) -> dict[str, Any]:
        frame = {"event": "[DONE]"} if payload == b"[DONE]" else self._json.load(payload)
        if not isinstance(frame, dict):
            return {"event": "(no object)"}
        if self._json.saw_lone_surrogate and frame.get("event") not in ("cmpl", "k1"):
            return dict(without_lone_surrogates(frame))
        return frame

"""An answer on its way → a response in the words of one API, as it comes or whole.

Knows that a stream must not fall silent, and that a failure is the last thing in it. Must never know any API's words:
those are an ``Encoder``'s.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flask import Response, current_app

from app.chat import Answer, Citation, Finished, FinishReason, ReasoningDelta, TextDelta
from app.text import token_count
from app.web.error_responses import Failure, failure_of
from app.web.event_stream import event_stream
from app.web.request_context import json_response, said_beside


@dataclass(frozen=True, slots=True)
class Counts:
    """Estimates, because Kimi tells no numbers. ``output`` is reasoning and text."""

    input: int
    output: int
    reasoning: int


@dataclass(slots=True)
class Told:
    """What an answer has said so far. ``reason`` is None until it is complete; ``stop_sequence`` is what ended it, if
    one did."""

    prompt: str
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)
    reason: FinishReason | None = None
    stop_sequence: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        return "".join(self.thoughts)

    def finish(self, event: Finished, prompt: str) -> None:
        # What was sent to Kimi may not have been known when the answer began: it stood in a line.
        self.prompt, self.reason, self.stop_sequence = prompt, event.reason, event.stop_sequence

    def count(self) -> Counts:
        reasoning = token_count.estimate(self.reasoning)
        return Counts(token_count.estimate(self.prompt), token_count.estimate(self.text) + reasoning, reasoning)


class Encoder(Protocol):
    """One answer in the words of one API. ``begin``, deltas, and one of ``end`` and ``fail`` make a stream;
    ``whole`` makes the one object. What has nothing to say says ``b""``. ``heartbeat`` says that the answer goes on.
    """

    heartbeat: bytes

    def begin(self, told: Told) -> bytes: ...

    def text(self, text: str) -> bytes: ...

    def reasoning(self, text: str) -> bytes: ...

    def citation(self, citation: Citation) -> bytes: ...

    def end(self, told: Told) -> bytes: ...

    def fail(self, failure: Failure) -> bytes: ...

    def whole(self, told: Told) -> dict[str, Any]: ...


def respond(answer: Answer, encoder: Encoder, *, stream: bool, headers: Mapping[str, str]) -> Response:
    """The response to a request that has been accepted. Closes ``answer``; raises what a whole one fails with."""
    if stream:
        heartbeat_s: float = current_app.config["HEARTBEAT_S"]
        return event_stream(_streamed(answer, encoder, heartbeat_s), answer, headers, lambda: said_beside(answer))
    response = json_response(encoder.whole(_collected(answer)))
    response.headers.update({**headers, **said_beside(answer)})
    return response


def _streamed(answer: Answer, encoder: Encoder, heartbeat_s: float) -> Iterator[bytes]:
    """What came in one read leaves in one write."""
    told = Told(answer.prompt)
    # What is to be sent with the next piece, if only with the failure.
    out = [encoder.begin(told)]
    try:
        yield from _batches(answer, encoder, told, out, heartbeat_s)
    except Exception as e:  # noqa: BLE001  # the edge of a stream whose status is long sent; failure_of logs it
        # Also where the client seems to have left: it may have closed its sending half only, and must not take a
        # cut answer for a whole one.
        answer.close(e)
        yield b"".join([*out, encoder.fail(failure_of(e))])
    finally:
        answer.close()


def _batches(answer: Answer, encoder: Encoder, told: Told, out: list[bytes], heartbeat_s: float) -> Iterator[bytes]:
    wrote_at = time.monotonic()
    for batch in answer:
        for event in batch:
            match event:
                case TextDelta(text):
                    told.texts.append(text)
                    out.append(encoder.text(text))
                case ReasoningDelta(text):
                    told.thoughts.append(text)
                    out.append(encoder.reasoning(text))
                case Citation():
                    told.citations.append(event)
                    out.append(encoder.citation(event))
                case Finished():
                    told.finish(event, answer.prompt)
                    out.append(encoder.end(told))
        piece = b"".join(out)
        out.clear()
        now = time.monotonic()
        if not piece and now - wrote_at >= heartbeat_s:
            piece = encoder.heartbeat
        if piece:
            yield piece
            wrote_at = now


def _collected(answer: Answer) -> Told:
    told = Told(answer.prompt)
    try:
        for batch in answer:
            for event in batch:
                match event:
                    case TextDelta(text):
                        told.texts.append(text)
                    case ReasoningDelta(text):
                        told.thoughts.append(text)
                    case Citation():
                        told.citations.append(event)
                    case Finished():
                        told.finish(event, answer.prompt)
    except BaseException as e:
        answer.close(e)
        raise
    finally:
        answer.close()
    return told

"""From an answer to a response in the words of one API, streamed or whole: the one stream loop, the one fold.

    Answer → batches of events → Encoder → bytes → event_stream

A stream never falls silent, and a failure is the last thing in it. Must never know the words of any API: those are an
``Encoder``'s.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import Response, current_app

from app.answers.answer import Answer
from app.chat import Citation, Event, Finished, FinishReason, ReasoningDelta, TextDelta, ToolCall
from app.request_record import RequestRecord
from app.text import token_count
from app.text.held_text import HeldText
from app.web import sse
from app.web.error_responses import Failure, failure_of, note_failure
from app.web.event_stream import event_stream
from app.web.request_context import current_record, info_headers, json_response


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, estimated because Kimi gives no numbers. ``output`` is reasoning, text and calls together."""

    input: int
    output: int
    reasoning: int
    # Of the input, what a chat held already; None where chats do not stay open.
    cached: int | None = None

    @property
    def total(self) -> int:
        return self.input + self.output


@dataclass(slots=True)
class Choice:
    """One choice of an answer, as far as it has come."""

    texts: HeldText = field(default_factory=HeldText)
    thoughts: HeldText = field(default_factory=HeldText)
    citations: list[Citation] = field(default_factory=list)
    # Each with the number of characters of text before it.
    calls: list[tuple[int, ToolCall]] = field(default_factory=list)
    # None until the choice is complete.
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None

    @property
    def text(self) -> str:
        return str(self.texts)

    @property
    def reasoning(self) -> str:
        return str(self.thoughts)

    @property
    def parts(self) -> Iterator[str | ToolCall]:
        """The texts and the calls in their order; neighbouring texts joined, none empty. Not of a stream whose
        encoder keeps no text."""
        start, text = 0, self.text
        for end, call in self.calls:
            if end > start:
                yield text[start:end]
            yield call
            start = end
        if start < len(text):
            yield text[start:]

    def add(self, event: Event) -> None:
        match event:
            case TextDelta(text):
                self.texts.add(text)
            case ReasoningDelta(text):
                self.thoughts.add(text)
            case Citation():
                self.citations.append(event)
            case ToolCall():
                self.calls.append((len(self.texts), event))
            case Finished(reason, stop_sequence):
                self.finish_reason, self.stop_sequence = reason, stop_sequence


class AnswerSoFar:
    """What an answer has said so far, choice by choice."""

    __slots__ = ("_answer", "_open", "_record", "choices")

    def __init__(self, answer: Answer, record: RequestRecord) -> None:
        self._answer = answer
        self._record = record
        self.choices = [Choice() for _ in range(answer.choices)]
        self._open = answer.choices

    @property
    def only(self) -> Choice:
        """For APIs that know one choice."""
        return self.choices[0]

    @property
    def is_complete(self) -> bool:
        return self._open == 0

    def add(self, index: int, event: Event) -> None:
        self.choices[index].add(event)
        if isinstance(event, Finished):
            self._open -= 1

    def finish(self, index: int, event: Finished) -> Choice:
        choice = self.choices[index]
        choice.add(event)
        self._open -= 1
        return choice

    def usage(self) -> Usage:
        """The prompt counts once, as at OpenAI. Streams whose encoder keeps no text can count the prompt only."""
        reasoning = sum(token_count.estimate(choice.reasoning) for choice in self.choices)
        text = sum(token_count.estimate(choice.text) for choice in self.choices)
        calls = [call for choice in self.choices for _, call in choice.calls]
        text += sum(token_count.estimate(call.name) + token_count.estimate(call.arguments) for call in calls)
        # What was sent to Kimi may not have been known when the answer began: the request was queued.
        info = self._answer.info
        usage = Usage(info.input_tokens(), text + reasoning, reasoning, info.cached_tokens())
        if self.is_complete:
            self._record.usage = (usage.input, usage.output, usage.reasoning)
        return usage


class Encoder(ABC):
    """One answer in the words of one API.

    A stream is ``start``, deltas, ``finish`` for each choice, and ``end``; or ``fail`` at any point. ``whole`` makes
    the one object. What has nothing to say returns ``b""``. ``index`` is the choice.
    """

    # Sent where nothing else was sent for HEARTBEAT_S.
    heartbeat = sse.COMMENT
    # Whether the text of a stream is kept until its end, because ``end`` needs it.
    keeps_text = True

    @abstractmethod
    def start(self, so_far: AnswerSoFar) -> bytes: ...

    @abstractmethod
    def text(self, index: int, text: str) -> bytes: ...

    @abstractmethod
    def reasoning(self, index: int, text: str) -> bytes: ...

    def tool_call(self, index: int, call: ToolCall) -> bytes:  # noqa: ARG002  # of those who offer functions
        """One whole call. Text may come before, between and behind calls."""
        return b""

    def citation(self, index: int, citation: Citation) -> bytes:  # noqa: ARG002  # of those who have a place for them
        return b""

    def finish(self, index: int, choice: Choice) -> bytes:  # noqa: ARG002  # of those who close each choice
        return b""

    @abstractmethod
    def end(self, so_far: AnswerSoFar) -> bytes: ...

    @abstractmethod
    def fail(self, failure: Failure) -> bytes: ...

    @abstractmethod
    def whole(self, so_far: AnswerSoFar) -> dict[str, Any]: ...


def respond(answer: Answer, encoder: Encoder, *, stream: bool, headers: Mapping[str, str]) -> Response:
    """The response to a request that has been accepted. Closes ``answer``. Raises the failure of a whole one."""
    record = current_record()
    if record.is_renamed:
        headers = {**headers, "x-kimi-model": record.model}
    if stream:
        heartbeat_s: float = current_app.config["HEARTBEAT_S"]
        more: Callable[[], Mapping[str, str]] = lambda: info_headers(answer.info)  # noqa: E731
        return event_stream(_stream(answer, encoder, heartbeat_s, record), answer, headers, more)
    response = json_response(encoder.whole(_fold(answer, record)))
    response.headers.update({**headers, **info_headers(answer.info)})
    return response


def _stream(answer: Answer, encoder: Encoder, heartbeat_s: float, record: RequestRecord) -> Iterator[bytes]:
    """What came in one read leaves in one write."""
    so_far = AnswerSoFar(answer, record)
    # What goes out with the next write, if only with the failure.
    out = [encoder.start(so_far)]
    wrote_at = time.monotonic()
    try:
        for index, batch in answer.by_choice():
            _encode(encoder, so_far, out, index, batch)
            if so_far.is_complete:
                out.append(encoder.end(so_far))
                record.finished(so_far.choices[0].finish_reason or "stop")
                yield b"".join(out)
                return
            piece = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            now = time.monotonic()
            if not piece and now - wrote_at >= heartbeat_s:
                piece = encoder.heartbeat
                record.heartbeats += 1
            if piece:
                wrote_at = now
                yield piece
    except Exception as e:  # noqa: BLE001  # the edge of a stream whose status has been sent; failure_of logs it
        # Also where the client seems to have left: it may have closed its sending half only, and must not take a cut
        # answer for a whole one.
        answer.close(e)
        failure = failure_of(e)
        note_failure(record, e, failure)
        yield b"".join([*out, encoder.fail(failure)])
    finally:
        answer.close()


def _encode(encoder: Encoder, so_far: AnswerSoFar, out: list[bytes], index: int, batch: Sequence[Event]) -> None:
    """Encodes a batch into ``out`` and adds it to ``so_far``. The loop runs for each token, so events are known by
    their class. Not a closure with all that it uses, which would be a dozen objects in each stream."""
    append, keeps_text = out.append, encoder.keeps_text
    for event in batch:
        kind = event.__class__
        if kind is TextDelta:
            append(encoder.text(index, event.text))  # type: ignore[union-attr]  # known by its class
            if keeps_text:
                so_far.choices[index].texts.add(event.text)  # type: ignore[union-attr]
        elif kind is ReasoningDelta:
            append(encoder.reasoning(index, event.text))  # type: ignore[union-attr]
            if keeps_text:
                so_far.choices[index].thoughts.add(event.text)  # type: ignore[union-attr]
        elif isinstance(event, ToolCall):
            so_far.choices[index].add(event)
            append(encoder.tool_call(index, event))
        elif isinstance(event, Citation):
            so_far.choices[index].citations.append(event)
            append(encoder.citation(index, event))
        elif isinstance(event, Finished):
            append(encoder.finish(index, so_far.finish(index, event)))


def _fold(answer: Answer, record: RequestRecord) -> AnswerSoFar:
    """The whole answer. Closes it; raises its failure."""
    so_far = AnswerSoFar(answer, record)
    try:
        for index, batch in answer.by_choice():
            for event in batch:
                so_far.add(index, event)
    except BaseException as e:
        answer.close(e)
        raise
    finally:
        answer.close()
    record.finished(so_far.choices[0].finish_reason or "stop")
    return so_far

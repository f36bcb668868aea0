"""OpenAI's chat completions: routes, field names, shapes.

    POST   /v1/chat/completions                    stateless: remembers nothing
    POST   /v1/chat/completions/{conversation_id}  a conversation that Kimi holds
    GET    /v1/chat/completions/{conversation_id}  what is known of it
    DELETE /v1/chat/completions/{conversation_id}  forgets it

Source of the shapes: OpenAI's API reference and what its clients were measured to need
(openai-contract.md 1 and 2, 2026-11-23). Must never know that Kimi exists.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import orjson
from flask import Blueprint, Response, current_app, request

from app.answers.choices import Choices
from app.api.chat_completions.body import Body
from app.chat import Answer, Caller, ChatRequest, Citation, Event, Finished, ReasoningDelta, TextDelta
from app.errors import GatewayError
from app.store import ConversationRow
from app.text import token_count
from app.web import sse
from app.web.conversation_id import asked_conversation, checked
from app.web.error_responses import failure_of, openai_error
from app.web.event_stream import event_stream
from app.web.operations import OF_ANSWERS, Operation, object_of
from app.web.request_body import parse
from app.web.request_context import caller, gateway, json_response, reply_id, said_beside

blueprint = Blueprint("chat_completions", __name__)


@blueprint.post("/chat/completions")
@blueprint.post("/chat/completions/<anything:conversation_id>")
def create(conversation_id: str | None = None) -> Response:
    who = caller()
    body = parse(Body, request.get_data(cache=False))
    headers = body.settle()
    chat = body.to_request(asked_conversation(conversation_id, body.conversation_id))
    answer = _open(chat, who, body.choices, commit=bool(body.stream))
    shape = _Shape(reply_id("chatcmpl-", who), chat.model, body.choices, body.wants_usage)
    if body.stream:
        heartbeat_s: float = current_app.config["HEARTBEAT_S"]
        return event_stream(encode_stream(answer, shape, heartbeat_s), answer, headers, lambda: said_beside(answer))
    response = json_response(encode_completion(answer, shape))
    response.headers.update(headers | said_beside(answer))
    return response


@blueprint.get("/chat/completions/<anything:conversation_id>")
def get_conversation(conversation_id: str) -> Response:
    owner = caller().owner
    return json_response(_encode_conversation(gateway().find_conversation(owner, checked(conversation_id))))


@blueprint.delete("/chat/completions/<anything:conversation_id>")
def delete_conversation(conversation_id: str) -> Response:
    gateway().forget_conversation(caller(), checked(conversation_id))
    return json_response({"object": "conversation.deleted", "id": conversation_id, "deleted": True})


class _Answers(Protocol):
    """One answer or several: batches with the index of their choice."""

    @property
    def prompt(self) -> str: ...

    @property
    def notices(self) -> Sequence[str]: ...
    @property
    def rebuilt_from(self) -> str | None: ...

    def wait_for_answer(self) -> None: ...

    def __iter__(self) -> Iterator[tuple[int, Sequence[Event]]]: ...

    def close(self, error: BaseException | None = None) -> None: ...


class _One:
    """A single answer, which needs none of the machinery of several."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.wait_for_answer: Callable[[], None] = answer.wait_for_answer
        self.close: Callable[..., None] = answer.close

    @property
    def prompt(self) -> str:
        return self._answer.prompt

    @property
    def notices(self) -> Sequence[str]:
        return self._answer.notices

    @property
    def rebuilt_from(self) -> str | None:
        return self._answer.rebuilt_from

    def __iter__(self) -> Iterator[tuple[int, Sequence[Event]]]:
        # Without a frame of Python's around each batch.
        return zip(itertools.repeat(0), self._answer)


def _open(chat: ChatRequest, who: Caller, choices: int, *, commit: bool) -> _Answers:
    open_one = gateway().open
    if choices == 1:
        return _One(open_one(chat, who, commit=commit))
    return Choices(lambda caller: open_one(chat, caller, commit=commit), who, choices)


class _Shape:
    """The parts that all chunks of one reply share, made once."""

    def __init__(self, reply_id: str, model: str, choices: int, include_usage: bool) -> None:
        self.id = reply_id
        self.created = int(time.time())
        self.model = model
        self.include_usage = include_usage
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": model}
        self._start = b"data: " + orjson.dumps(head)[:-1]
        tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        befores = (self._start + b',"choices":[{"index":%d,"delta":' % i for i in range(choices))
        self.choices = [_Choice(before, tail, counts=include_usage) for before in befores]

    def usage(self, usage: dict[str, Any]) -> bytes:
        return self._start + b',"choices":[],"usage":' + orjson.dumps(usage) + b"}\n\n"


class _Choice:
    """One choice: its chunks, and what it has said so far.

    ``counts``: whether what is streamed will be counted; else nobody asks for it again, and it is not kept.
    """

    def __init__(self, before_delta: bytes, tail: bytes, *, counts: bool) -> None:
        self._counts = counts
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.annotations: list[dict[str, Any]] = []
        self.finish_reason: str | None = None
        self._before_delta = before_delta
        self._before_text = before_delta + b'{"content":'
        self._before_reasoning = before_delta + b'{"reasoning_content":'
        self._after_delta = b',"logprobs":null,"finish_reason":null}]' + tail
        self._after_text = b"}" + self._after_delta
        self._after_reason = b"}]" + tail

    def role(self) -> bytes:
        return self._before_delta + b'{"role":"assistant","content":""}' + self._after_delta

    def encode(self, batch: Sequence[Event]) -> bytes:
        """The chunks of a batch; empty where its events have none."""
        out: list[bytes] = []
        for event in batch:
            if event.__class__ is TextDelta:
                out += (self._before_text, orjson.dumps(event.text), self._after_text)
            elif event.__class__ is ReasoningDelta:
                out += (self._before_reasoning, orjson.dumps(event.text), self._after_text)
            else:
                self.note(event)
                if isinstance(event, Finished):
                    out.append(self._finish(event.reason))
                continue
            if self._counts:
                self.note(event)
        return b"".join(out)

    def note(self, event: Event) -> None:
        match event:
            case TextDelta(delta):
                self.text.append(delta)
            case ReasoningDelta(delta):
                self.reasoning.append(delta)
            case Citation():
                self.annotations.append(_annotation(event))
            case Finished(reason):
                self.finish_reason = reason

    def _finish(self, reason: str) -> bytes:
        # All annotations are here: a list in more than one chunk breaks openai-python, and LobeChat reads them only
        # beside a reason.
        delta = orjson.dumps({"annotations": self.annotations} if self.annotations else {})
        reasoned = b',"logprobs":null,"finish_reason":' + orjson.dumps(reason)
        return self._before_delta + delta + reasoned + self._after_reason

    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.text), "refusal": None}
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.annotations:
            message["annotations"] = self.annotations
        return message


def encode_stream(answer: _Answers, shape: _Shape, heartbeat_s: float) -> Iterator[bytes]:
    """The answer as SSE; what came in one read leaves in one write. Closes ``answer``."""
    piece = b"".join([choice.role() for choice in shape.choices])
    wrote_at = time.monotonic()
    try:
        for index, batch in answer:
            choice = shape.choices[index]
            piece += choice.encode(batch)
            if choice.finish_reason is not None and all(choice.finish_reason for choice in shape.choices):
                if shape.include_usage:
                    piece += shape.usage(_usage(answer.prompt, shape.choices))
                yield piece + sse.DONE
                return
            now = time.monotonic()
            if piece:
                wrote_at = now
                yield piece
                piece = b""
            elif now - wrote_at >= heartbeat_s:
                wrote_at = now
                yield sse.COMMENT
    except Exception as e:  # noqa: BLE001  # the edge of a stream whose status is long sent; failure_of logs it
        # Also where the client seems to have left: it may have closed its sending half only, and must not take
        # a cut answer for a whole one.
        answer.close(e)
        yield sse.encode(orjson.dumps(openai_error(failure_of(e)))) + sse.DONE
    finally:
        answer.close()


def encode_completion(answer: _Answers, shape: _Shape) -> dict[str, Any]:
    """The answer as one object, when it is complete. Closes ``answer``; raises GatewayError."""
    try:
        for index, batch in answer:
            for event in batch:
                shape.choices[index].note(event)
    except GatewayError as e:
        answer.close(e)
        raise
    finally:
        answer.close()
    return {
        "id": shape.id,
        "object": "chat.completion",
        "created": shape.created,
        "model": shape.model,
        "choices": [
            {"index": i, "message": choice.message(), "logprobs": None, "finish_reason": choice.finish_reason}
            for i, choice in enumerate(shape.choices)
        ],
        "usage": _usage(answer.prompt, shape.choices),
    }


def _annotation(citation: Citation) -> dict[str, Any]:
    """All four fields or nothing: a partial one is a hard failure in several clients."""
    return {
        "type": "url_citation",
        "url_citation": {
            "url": citation.url,
            "title": citation.title,
            "start_index": citation.start_index,
            "end_index": citation.end_index,
        },
    }


def _usage(prompt: str, choices: Sequence[_Choice]) -> dict[str, Any]:
    """An estimate (``tokens``): Kimi tells no numbers. The prompt counts once, as at OpenAI."""
    prompt_tokens = token_count.estimate(prompt)
    reasoning_tokens = sum(token_count.estimate("".join(choice.reasoning)) for choice in choices)
    completion_tokens = sum(token_count.estimate("".join(choice.text)) for choice in choices) + reasoning_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


def _encode_conversation(row: ConversationRow) -> dict[str, Any]:
    return {
        "object": "conversation",
        "id": row.id,
        "model": row.model,
        "turns": row.turns,
        "created": int(row.created_at),
        "updated": int(row.updated_at),
        "busy": gateway().is_busy(row),
    }


_CHOICE = object_of(
    index={"type": "integer"},
    message=object_of(role={"const": "assistant"}, content={"type": "string"}, refusal={"type": "null"}),
    finish_reason={"enum": ["stop", "length", "content_filter"]},
    logprobs={"type": "null"},
)
_COMPLETION = object_of(
    id={"type": "string"},
    object={"const": "chat.completion"},
    created={"type": "integer"},
    model={"type": "string"},
    choices={"type": "array", "items": _CHOICE},
    usage=object_of(
        prompt_tokens={"type": "integer"}, completion_tokens={"type": "integer"}, total_tokens={"type": "integer"}
    ),
)
_ONE = "/v1/chat/completions/{conversation_id}"
_ITS_ID = {
    "conversation_id": {
        "type": "string",
        "pattern": "^[A-Za-z0-9._:-]{1,128}$",
        "description": "yours to choose: 1 to 128 of A-Z a-z 0-9 . _ : -",
    }
}
_UNKNOWN = {404: "there is no such conversation of this key"}

OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "An answer; nothing is remembered, unless the body names a conversation",
        _COMPLETION,
        body=Body,
        streams=True,
        failures=OF_ANSWERS,
    ),
    Operation(
        "post", _ONE, "The next turn of a conversation", _COMPLETION, _ITS_ID, Body, streams=True, failures=OF_ANSWERS
    ),
    Operation(
        "get",
        _ONE,
        "What is known of a conversation; never its text",
        object_of(object={"const": "conversation"}, id={"type": "string"}, turns={"type": "integer"}),
        _ITS_ID,
        failures=_UNKNOWN,
    ),
    Operation(
        "delete",
        _ONE,
        "Forgets a conversation and deletes its chat at Kimi",
        object_of(object={"const": "conversation.deleted"}, id={"type": "string"}, deleted={"const": True}),
        _ITS_ID,
        failures={**_UNKNOWN, 409: "a turn of it is running"},
    ),
)

"""OpenAI's chat completions: routes, field names, shapes.

    POST   /v1/chat/completions                    stateless: remembers nothing
    POST   /v1/chat/completions/{conversation_id}  a conversation that Kimi holds
    GET    /v1/chat/completions/{conversation_id}  what is known of it
    DELETE /v1/chat/completions/{conversation_id}  forgets it

Source of the shapes: OpenAI's API reference and what its clients were measured to need
(openai-contract.md 1 and 2, 2026-11-23). Must never know that Kimi exists.
"""

import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal

import orjson
from flask import Blueprint, Response, current_app, request
from pydantic import Field, StrictBool, StrictInt, StrictStr

from app import sse, tokens
from app.api import caller, gateway, json_response
from app.api.bodies import Fields, has_effect, parse, unsupported
from app.api.doors import asked_conversation, checked
from app.api.failures import failure_of, openai_error
from app.chat import ChatRequest, Finished, Message, ReasoningDelta, Role, TextDelta, ToolCall
from app.errors import GatewayError, InvalidRequest
from app.gateway import ChatStream
from app.store import ConversationRow
from app.streaming import event_stream

blueprint = Blueprint("chat_completions", __name__)


@blueprint.post("/chat/completions", strict_slashes=False)
@blueprint.post("/chat/completions/<anything:conversation_id>")
def create(conversation_id: str | None = None) -> Response:
    who = caller()
    body = parse(Body, request.get_data())
    chat = body.to_request(asked_conversation(conversation_id, body.conversation_id))
    headers = {"x-ignored-params": ", ".join(ignored)} if (ignored := body.ignored()) else {}
    stream = gateway().open(chat, who, commit=bool(body.stream))
    shape = _Shape(chat.model, bool(body.stream and body.stream_options and body.stream_options.include_usage))
    if body.stream:
        heartbeat_s: float = current_app.config["HEARTBEAT_S"]
        headers |= _notices(stream)
        return event_stream(encode_stream(stream, shape, heartbeat_s), stream.close, headers)
    response = json_response(encode_completion(stream, shape))
    response.headers.update(headers | _notices(stream))
    return response


@blueprint.get("/chat/completions/<anything:conversation_id>")
def get_conversation(conversation_id: str) -> Response:
    owner = caller().owner
    return json_response(_encode_conversation(gateway().find_conversation(owner, checked(conversation_id))))


@blueprint.delete("/chat/completions/<anything:conversation_id>")
def delete_conversation(conversation_id: str) -> Response:
    gateway().forget_conversation(caller(), checked(conversation_id))
    return json_response({"object": "conversation.deleted", "id": conversation_id, "deleted": True})


def _notices(stream: ChatStream) -> dict[str, str]:
    return {"x-kimi-notice": ", ".join(stream.notices)} if stream.notices else {}


# What clients send


class _TextPart(Fields):
    type: Literal["text"]
    text: StrictStr


class _RefusalPart(Fields):
    type: Literal["refusal"]
    refusal: StrictStr


class _OtherPart(Fields):
    """Known to OpenAI, not yet to us: refused with its place rather than dropped."""

    type: Literal["image_url", "input_audio", "file", "video_url"]


_Part = Annotated[_TextPart | _RefusalPart | _OtherPart, Field(discriminator="type")]


class _Function(Fields):
    name: StrictStr
    arguments: StrictStr = ""


class _ToolCall(Fields):
    id: StrictStr = ""
    function: _Function


class _Message(Fields):
    role: Role
    content: StrictStr | list[_Part] | None = None
    refusal: StrictStr | None = None
    name: StrictStr | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None
    tool_call_id: StrictStr | None = None

    def to_message(self, place: str) -> Message:
        if self.content is None and self.role in ("system", "developer", "user"):
            raise InvalidRequest(f"a {self.role} message needs content", param=f"{place}.content")
        calls = [ToolCall(c.id, c.function.name, c.function.arguments) for c in self.tool_calls or ()]
        if self.function_call is not None:
            calls.append(ToolCall("", self.function_call.name, self.function_call.arguments))
        texts = (*self._texts(place), *([self.refusal] if self.refusal else []))
        return Message(self.role, texts, self.name, tuple(calls), self.tool_call_id)

    def _texts(self, place: str) -> Iterator[str]:
        if isinstance(self.content, str):
            yield self.content
            return
        for index, part in enumerate(self.content or ()):
            match part:
                case _TextPart(text=text) | _RefusalPart(refusal=text):
                    yield text
                case _:
                    raise InvalidRequest(
                        f"content of type '{part.type}' is not supported: this gateway sends text only",
                        code="unsupported_content",
                        param=f"{place}.content[{index}]",
                    )


class _StreamOptions(Fields):
    include_usage: StrictBool | None = None


class Body(Fields):
    """The body of a request: what is honoured. The rest is in ``_REFUSED`` or ignored by name."""

    model: StrictStr
    messages: list[_Message] = Field(min_length=1)
    stream: StrictBool | None = None
    stream_options: _StreamOptions | None = None
    n: StrictInt | None = None
    # Without effect so far, but a value out of range is a mistake that its sender wants to know of.
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    max_tokens: StrictInt | None = Field(None, ge=1)
    max_completion_tokens: StrictInt | None = Field(None, ge=1)
    # Ours: a door to a conversation.
    conversation_id: StrictStr | None = None

    def to_request(self, conversation_id: str | None) -> ChatRequest:
        """Raises InvalidRequest for what cannot be served, naming the field."""
        if self.n not in (None, 1):
            raise unsupported("n", "only one choice can be made: leave n out or send 1")
        for name, refuse in _REFUSED.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and (why := refuse(value)):
                raise unsupported(name, why)
        messages = tuple(m.to_message(f"messages[{i}]") for i, m in enumerate(self.messages))
        return ChatRequest(self.model, messages, conversation_id)

    def ignored(self) -> list[str]:
        """The names of fields that were sent and have no effect."""
        values = {**(self.model_extra or {}), **{name: getattr(self, name) for name in _CHECKED_ONLY}}
        sent = [name for name, value in values.items() if has_effect(value)]
        # They go into a header, so only plain names are repeated.
        return [name for name in sent if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name)][:50]


def _refuse_format(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else value
    return None if kind == "text" else "answers are plain text; ask for JSON in a message"


def _refuse_tool_choice(value: Any) -> str | None:
    return None if value in ("auto", "none") else "tools cannot be called, so a call cannot be forced"


_CHECKED_ONLY = (
    "temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens", "max_completion_tokens",
)  # fmt: skip

# Fields whose silent loss would break the caller: a reason for each value that cannot be served.
_REFUSED: dict[str, Callable[[Any], str | None]] = {
    "logprobs": lambda value: "Kimi tells no probabilities" if value else None,
    "top_logprobs": lambda value: "Kimi tells no probabilities" if value else None,
    "logit_bias": lambda value: "Kimi takes no biases" if value else None,
    "response_format": _refuse_format,
    "tool_choice": _refuse_tool_choice,
    "function_call": _refuse_tool_choice,
    "modalities": lambda value: None if value == ["text"] else "answers are text only",
    "audio": lambda _value: "answers are text only",
}


# What clients get


class _Shape:
    """The parts that all chunks of one answer share, made once."""

    def __init__(self, model: str, include_usage: bool) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model
        self.include_usage = include_usage
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": model}
        start = b"data: " + orjson.dumps(head)[:-1]
        tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._before_delta = start + b',"choices":[{"index":0,"delta":'
        self._before_text = self._before_delta + b'{"content":'
        self._before_reasoning = self._before_delta + b'{"reasoning_content":'
        self._after_delta = b',"logprobs":null,"finish_reason":null}]' + tail
        self._after_text = b"}" + self._after_delta
        self._before_reason = self._before_delta + b'{},"logprobs":null,"finish_reason":'
        self._after_reason = b"}]" + tail
        self._start = start

    def role(self) -> bytes:
        return self._before_delta + b'{"role":"assistant","content":""}' + self._after_delta

    def text(self, text: str) -> bytes:
        return self._before_text + orjson.dumps(text) + self._after_text

    def reasoning(self, text: str) -> bytes:
        return self._before_reasoning + orjson.dumps(text) + self._after_text

    def finish(self, reason: str) -> bytes:
        return self._before_reason + orjson.dumps(reason) + self._after_reason

    def usage(self, usage: dict[str, Any]) -> bytes:
        return self._start + b',"choices":[],"usage":' + orjson.dumps(usage) + b"}\n\n"


def encode_stream(stream: ChatStream, shape: _Shape, heartbeat_s: float) -> Iterator[bytes]:
    """The answer as SSE; what came in one read leaves in one write. Closes ``stream``."""
    try:
        yield from _encode_batches(stream, shape, heartbeat_s)
    except GatewayError as e:
        # Also where the client seems to have left: it may have closed its sending half only, and must not take
        # a cut answer for a whole one.
        stream.close(e)
        yield sse.encode(orjson.dumps(openai_error(failure_of(e)))) + sse.DONE
    except Exception as e:  # noqa: BLE001  # logged with its traceback by failure_of; the outermost edge of a stream whose status is long sent
        stream.close(e)
        yield sse.encode(orjson.dumps(openai_error(failure_of(e)))) + sse.DONE
    finally:
        stream.close()


def _encode_batches(stream: ChatStream, shape: _Shape, heartbeat_s: float) -> Iterator[bytes]:
    text, reasoning = [], []
    out = [shape.role()]
    wrote_at = time.monotonic()
    for batch in stream:
        for event in batch:
            match event:
                case TextDelta(delta):
                    out.append(shape.text(delta))
                    text.append(delta)
                case ReasoningDelta(delta):
                    out.append(shape.reasoning(delta))
                    reasoning.append(delta)
                case Finished(reason):
                    out.append(shape.finish(reason))
                    if shape.include_usage:
                        out.append(shape.usage(_usage(stream.prompt, text, reasoning)))
                    out.append(sse.DONE)
        now = time.monotonic()
        if not out and now - wrote_at >= heartbeat_s:
            out.append(sse.COMMENT)
        if out:
            yield b"".join(out)
            out.clear()
            wrote_at = now


def encode_completion(stream: ChatStream, shape: _Shape) -> dict[str, Any]:
    """The answer as one object, when it is complete. Closes ``stream``; raises GatewayError."""
    text, reasoning, finish = [], [], None
    try:
        for batch in stream:
            for event in batch:
                match event:
                    case TextDelta(delta):
                        text.append(delta)
                    case ReasoningDelta(delta):
                        reasoning.append(delta)
                    case Finished(reason):
                        finish = reason
    except GatewayError as e:
        stream.close(e)
        raise
    finally:
        stream.close()
    message: dict[str, Any] = {"role": "assistant", "content": "".join(text), "refusal": None}
    if reasoning:
        message["reasoning_content"] = "".join(reasoning)
    return {
        "id": shape.id,
        "object": "chat.completion",
        "created": shape.created,
        "model": shape.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": _usage(stream.prompt, text, reasoning),
    }


def _usage(prompt: str, text: Iterable[str], reasoning: Iterable[str]) -> dict[str, Any]:
    """An estimate (``tokens``): Kimi tells no numbers."""
    prompt_tokens = tokens.estimate(prompt)
    reasoning_tokens = tokens.estimate("".join(reasoning))
    completion_tokens = tokens.estimate("".join(text)) + reasoning_tokens
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
        "busy": row.held_until > time.time(),
    }

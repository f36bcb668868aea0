"""OpenAI's chat completions: routes, field names, shapes.

    POST   /v1/chat/completions                    stateless: remembers nothing
    POST   /v1/chat/completions/{conversation_id}  a conversation that Kimi holds
    GET    /v1/chat/completions/{conversation_id}  what is known of it
    DELETE /v1/chat/completions/{conversation_id}  forgets it

Source of the shapes: OpenAI's API reference and what its clients were measured to need
(openai-contract.md 1 and 2, 2026-11-23). Must never know that Kimi exists.
"""

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import orjson
from flask import Blueprint, Response, current_app, request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError
from werkzeug.routing import BaseConverter

from app import sse, tokens
from app.api import caller, error_object, gateway, json_response
from app.chat import Answer, ChatRequest, Finished, Message, ReasoningDelta, Role, TextDelta, ToolCall
from app.errors import GatewayError, InvalidRequest
from app.store import ConversationRow
from app.streaming import event_stream

log = logging.getLogger(__name__)

blueprint = Blueprint("chat_completions", __name__)


class AnythingConverter(BaseConverter):
    """Whatever stands at the end of a path, slashes and line ends too, so that we can say what is wrong with it."""

    regex = r"(?s:.+)"
    part_isolating = False


_CONVERSATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@blueprint.post("/chat/completions", strict_slashes=False)
def create() -> Response:
    return _answer(None)


@blueprint.post("/chat/completions/<anything:conversation_id>")
def create_in_conversation(conversation_id: str) -> Response:
    return _answer(_checked(conversation_id))


@blueprint.get("/chat/completions/<anything:conversation_id>")
def get_conversation(conversation_id: str) -> Response:
    owner = caller().owner
    return json_response(_encode_conversation(gateway().find_conversation(owner, _checked(conversation_id))))


@blueprint.delete("/chat/completions/<anything:conversation_id>")
def delete_conversation(conversation_id: str) -> Response:
    gateway().forget_conversation(caller(), _checked(conversation_id))
    return json_response({"object": "conversation.deleted", "id": conversation_id, "deleted": True})


def _answer(conversation_id: str | None) -> Response:
    who = caller()
    body = parse(request.get_data())
    chat = body.to_request(conversation_id)
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


def _notices(stream: Answer) -> dict[str, str]:
    headers = {"x-kimi-notice": ", ".join(stream.notices)} if stream.notices else {}
    if stream.rebuilt_from is not None:
        headers["x-conversation-rebuilt"] = stream.rebuilt_from
    return headers


def _checked(conversation_id: str) -> str:
    if not _CONVERSATION_ID.fullmatch(conversation_id):
        raise InvalidRequest(
            "a conversation id is made of 1 to 128 of the characters A-Z a-z 0-9 . _ : -",
            code="invalid_conversation_id",
            param="conversation_id",
        )
    return conversation_id


# What clients send


class _Model(BaseModel):
    # Unknown fields are kept, to be named as ignored.
    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)


class _TextPart(_Model):
    type: Literal["text"]
    text: StrictStr


class _RefusalPart(_Model):
    type: Literal["refusal"]
    refusal: StrictStr


class _OtherPart(_Model):
    """Known to OpenAI, not yet to us: refused with its place rather than dropped."""

    type: Literal["image_url", "input_audio", "file", "video_url"]


_Part = Annotated[_TextPart | _RefusalPart | _OtherPart, Field(discriminator="type")]


class _Function(_Model):
    name: StrictStr
    arguments: StrictStr = ""


class _ToolCall(_Model):
    id: StrictStr = ""
    function: _Function


class _Message(_Model):
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


class _StreamOptions(_Model):
    include_usage: StrictBool | None = None


class Body(_Model):
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

    def to_request(self, conversation_id: str | None) -> ChatRequest:
        """Raises InvalidRequest for what cannot be served, naming the field."""
        if self.n not in (None, 1):
            raise _unsupported("n", "only one choice can be made: leave n out or send 1")
        for name, refuse in _REFUSED.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and (why := refuse(value)):
                raise _unsupported(name, why)
        messages = tuple(m.to_message(f"messages[{i}]") for i, m in enumerate(self.messages))
        return ChatRequest(self.model, messages, conversation_id)

    def ignored(self) -> list[str]:
        """The names of fields that were sent and have no effect."""
        values = {**(self.model_extra or {}), **{name: getattr(self, name) for name in _CHECKED_ONLY}}
        sent = [
            name
            for name, value in values.items()
            if value is not None and value is not False and value not in ([], {})
        ]
        # They go into a header, so only plain names are repeated.
        return [name for name in sent if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name)][:50]


def _unsupported(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Unsupported parameter: '{name}': {why}", code="unsupported_parameter", param=name)


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


def parse(data: bytes) -> Body:
    """The body of a request; raises InvalidRequest with the name of the field that is at fault."""
    try:
        raw = orjson.loads(data)
    except ValueError as e:
        raise InvalidRequest(f"the body is not valid JSON: {_place(e)}", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    try:
        return Body.model_validate(raw)
    except ValidationError as e:
        # A value that fits none of several forms has an error for each: the one that got furthest is meant.
        first = max(e.errors(include_url=False, include_context=False), key=lambda error: len(error["loc"]))
        param = _param(first["loc"], raw)
        raise InvalidRequest(f"{param}: {first['msg']}", param=param) from None


def _place(error: ValueError) -> str:
    """Where JSON is broken, without showing any of it."""
    return re.sub(r".*?(line \d+ column \d+).*", r"\1", str(error), flags=re.DOTALL)


def _param(location: Sequence[int | str], raw: Any) -> str:
    """A pydantic location → ``messages[0].content``; names of alternatives are not part of the path."""
    path, here = "", raw
    for index, step in enumerate(location):
        if isinstance(step, int):
            path += f"[{step}]"
            here = here[step] if isinstance(here, list) and step < len(here) else None
        elif isinstance(here, dict) and (step in here or index == len(location) - 1):
            path += f".{step}" if path else step
            here = here.get(step)
    return path


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


def encode_stream(stream: Answer, shape: _Shape, heartbeat_s: float) -> Iterator[bytes]:
    """The answer as SSE; what came in one read leaves in one write. Closes ``stream``."""
    try:
        yield from _encode_batches(stream, shape, heartbeat_s)
    except GatewayError as e:
        # Also where the client seems to have left: it may have closed its sending half only, and must not take
        # a cut answer for a whole one.
        stream.close(e)
        yield sse.encode(orjson.dumps(error_object(e))) + sse.DONE
    except Exception as e:  # the outermost edge of a stream whose status is long sent
        stream.close(e)
        log.exception("a stream failed for a reason of our own")
        error = GatewayError("the gateway itself failed; its log says more", code="internal_error")
        yield sse.encode(orjson.dumps(error_object(error))) + sse.DONE
    finally:
        stream.close()


def _encode_batches(stream: Answer, shape: _Shape, heartbeat_s: float) -> Iterator[bytes]:
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


def encode_completion(stream: Answer, shape: _Shape) -> dict[str, Any]:
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
        "busy": gateway().is_busy(row),
    }

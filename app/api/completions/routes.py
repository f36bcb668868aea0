"""OpenAI's legacy completions: POST /v1/completions, in which a prompt is one text and an answer is another.

Source of the shapes: OpenAI's API reference and openai-contract.md 2 (2026-11-23). LlamaIndex's OpenAILike asks here
unless it is told otherwise. An answer that nobody limits is whole here, where OpenAI's would end after 16 tokens.
Must never know that Kimi exists.
"""

import time
from typing import Annotated, Any

import orjson
from flask import Blueprint, Response, request
from pydantic import Field, StrictBool, StrictInt, StrictStr

from app.chat import ChatRequest, Citation, Message, Options
from app.errors import InvalidRequest
from app.web import sse
from app.web.answer_response import Told, respond
from app.web.conversation_id import asked_conversation
from app.web.error_responses import Failure, openai_error
from app.web.operations import OF_ANSWERS, Operation, object_of
from app.web.parameters import Parameters, Use
from app.web.request_body import Fields, Many, parse
from app.web.request_context import caller, gateway, reply_id
from app.web.shared_parameters import (
    BIASES,
    BOOKKEEPING,
    CONVERSATION,
    MODEL,
    PENALTY,
    SAMPLING,
    SEED,
    STREAM,
    Number,
)

blueprint = Blueprint("completions", __name__)


@blueprint.post("/completions")
def create() -> Response:
    who = caller()
    body = parse(Body, request.get_data(cache=False))
    chat = body.to_request(asked_conversation(in_body=body.conversation_id))
    headers = body.settle()
    answer = gateway().open(chat, who, commit=bool(body.stream))
    return respond(
        answer,
        _Encoder(reply_id("cmpl-", who), chat.model, body.wants_usage),
        stream=bool(body.stream),
        headers=headers,
    )


# What clients send


class _StreamOptions(Fields):
    include_usage: StrictBool | None = None


_PROMPT = Use(
    "honoured",
    "one text; several, and token numbers, are a 400",
    "一段文本；多段文本或 token 数组返回 400",
)
_MAX_TOKENS = Use(
    "honoured",
    "by estimate, thinking included; without it the answer is whole, where OpenAI's ends after 16 tokens",
    "按估算值（含思考）截断；不设置时给出完整回答（OpenAI 会在 16 个 token 后截断）",
)
_STOP = Use(
    "honoured",
    "up to 4 strings; the answer ends before the first that occurs, and so does Kimi's",
    "最多 4 个字符串；在最先出现的那个之前结束，同时停止 Kimi 的生成",
)
_ONE = Use(
    "refused",
    "more than one answer",
    "多于一个回答",
    lambda value: None if value == 1 else "one answer is made: leave it out or send 1",
)
_AROUND = Use(
    "refused",
    "anything but the text that follows the prompt",
    "除接在提示词后面的文本以外的内容",
    lambda value: "only the text that follows the prompt is told" if value else None,
)
# 0 is a wish too: the probability of each token that was chosen.
_LOGPROBS = Use(
    "refused",
    "Kimi tells no probabilities",
    "Kimi 不提供概率",
    lambda value: None if value is False else "Kimi tells no probabilities",
)


class Body(Parameters):
    """The body of ``POST /v1/completions``."""

    model: Annotated[StrictStr, MODEL]
    prompt: Annotated[StrictStr | Many[StrictStr | StrictInt | Many[StrictInt]], _PROMPT]
    stream: Annotated[StrictBool | None, STREAM] = None
    stream_options: Annotated[_StreamOptions | None, STREAM] = None
    max_tokens: Annotated[StrictInt | None, Field(ge=1), _MAX_TOKENS] = None
    stop: Annotated[StrictStr | Annotated[list[StrictStr], Field(max_length=4)] | None, _STOP] = None
    conversation_id: Annotated[StrictStr | None, CONVERSATION] = None

    temperature: Annotated[Number | None, Field(ge=0, le=2), SAMPLING] = None
    top_p: Annotated[Number | None, Field(ge=0, le=1), SAMPLING] = None
    frequency_penalty: Annotated[Number | None, Field(ge=-2, le=2), PENALTY] = None
    presence_penalty: Annotated[Number | None, Field(ge=-2, le=2), PENALTY] = None
    seed: Annotated[StrictInt | None, SEED] = None
    user: Annotated[StrictStr | None, BOOKKEEPING] = None

    n: Annotated[StrictInt | None, _ONE] = None
    best_of: Annotated[StrictInt | None, _ONE] = None
    echo: Annotated[Any, _AROUND] = None
    suffix: Annotated[Any, _AROUND] = None
    logprobs: Annotated[Any, _LOGPROBS] = None
    logit_bias: Annotated[Any, BIASES] = None

    @property
    def wants_usage(self) -> bool:
        """In a stream, that is: elsewhere it is always told."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def to_request(self, conversation_id: str | None) -> ChatRequest:
        """Raises InvalidRequest for what cannot be served, naming the field."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        options = Options(max_tokens=self.max_tokens, stop=tuple(text for text in stop if text))
        messages = (Message("user", (self._text(),)),)
        return ChatRequest(self.model, messages, conversation_id, options, asked_in="prompt")

    def _text(self) -> str:
        match self.prompt:
            case str(text) | [str(text)]:
                return text
            case [str(), *_] | []:
                raise InvalidRequest("prompt: send one text; several would be several answers", param="prompt")
        raise InvalidRequest("prompt: send text; token numbers mean nothing to this model", param="prompt")


# What clients get


class _Encoder:
    """One answer. Thinking has no place in this API: it is left out and counted in the usage."""

    heartbeat = sse.COMMENT

    def __init__(self, reply_id: str, model: str, include_usage: bool) -> None:
        self._head = {
            "id": reply_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._include_usage = include_usage
        start = b"data: " + orjson.dumps(self._head)[:-1]
        tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._start = start
        self._before_text = start + b',"choices":[{"index":0,"text":'
        self._between = b',"logprobs":null,"finish_reason":'
        self._after_reason = b"}]" + tail
        self._after_text = self._between + b"null" + self._after_reason

    def begin(self, told: Told) -> bytes:  # noqa: ARG002  # an Encoder's
        # This API has no first chunk; the headers should not wait for the first word all the same.
        return sse.COMMENT

    def text(self, text: str) -> bytes:
        return self._before_text + orjson.dumps(text) + self._after_text

    def reasoning(self, _text: str) -> bytes:
        return b""

    def citation(self, _citation: Citation) -> bytes:
        return b""

    def end(self, told: Told) -> bytes:
        finish = self._before_text + b'""' + self._between + orjson.dumps(told.reason) + self._after_reason
        if self._include_usage:
            finish += self._start + b',"choices":[],"usage":' + orjson.dumps(_usage(told)) + b"}\n\n"
        return finish + sse.DONE

    def fail(self, failure: Failure) -> bytes:
        return sse.encode(orjson.dumps(openai_error(failure))) + sse.DONE

    def whole(self, told: Told) -> dict[str, Any]:
        choice = {"index": 0, "text": told.text, "logprobs": None, "finish_reason": told.reason}
        return {**self._head, "choices": [choice], "usage": _usage(told)}


def _usage(told: Told) -> dict[str, Any]:
    counts = told.count()
    return {
        "prompt_tokens": counts.input,
        "completion_tokens": counts.output,
        "total_tokens": counts.input + counts.output,
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning},
    }


OPERATIONS = (
    Operation(
        "post",
        "/v1/completions",
        "OpenAI's legacy completion: text for text",
        object_of(object={"const": "text_completion"}, choices={"type": "array", "items": {"type": "object"}}),
        body=Body,
        streams=True,
        failures=OF_ANSWERS,
    ),
)

"""OpenAI's legacy completions: POST /v1/completions, in which a prompt is one text and an answer is another.

Source of the shapes: OpenAI's API reference and openai-contract.md 2 (2026-11-23). LlamaIndex's OpenAILike asks here
unless it is told otherwise. An answer that nobody limits is whole here, where OpenAI's would end after 16 tokens.
Must never know that Kimi exists.
"""

import time
import uuid
from typing import Any

import orjson
from flask import Blueprint, Response, request
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from app import sse
from app.api import caller, gateway
from app.api.answers import Told, respond
from app.api.bodies import Fields, parse
from app.api.doors import asked_conversation
from app.api.effects import Refusals, ignored, refuse
from app.api.failures import Failure, openai_error
from app.chat import ChatRequest, Citation, Message, Options
from app.errors import InvalidRequest

blueprint = Blueprint("completions", __name__)


@blueprint.post("/completions")
def create() -> Response:
    who = caller()
    body = parse(Body, request.get_data())
    chat = body.to_request(asked_conversation(in_body=body.conversation_id))
    headers = ignored(body, _CHECKED_ONLY)
    answer = gateway().open(chat, who, commit=bool(body.stream))
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return respond(answer, _Encoder(chat.model, usage), stream=bool(body.stream), headers=headers)


# What clients send


class _StreamOptions(Fields):
    include_usage: StrictBool | None = None


class Body(Fields):
    """The body of a request: what is honoured. The rest is in ``_REFUSED`` or ignored by name."""

    model: StrictStr
    prompt: StrictStr | list[StrictStr | StrictInt | list[StrictInt]]
    stream: StrictBool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: StrictInt | None = Field(None, ge=1)
    stop: StrictStr | list[StrictStr] | None = None
    n: StrictInt | None = None
    best_of: StrictInt | None = None
    # Ours: a door to a conversation.
    conversation_id: StrictStr | None = None
    # Without effect, but a value out of range is a mistake that its sender wants to know of.
    temperature: StrictFloat | StrictInt | None = Field(None, ge=0, le=2)
    top_p: StrictFloat | StrictInt | None = Field(None, ge=0, le=1)
    frequency_penalty: StrictFloat | StrictInt | None = Field(None, ge=-2, le=2)
    presence_penalty: StrictFloat | StrictInt | None = Field(None, ge=-2, le=2)
    seed: StrictInt | None = None

    def to_request(self, conversation_id: str | None) -> ChatRequest:
        """Raises InvalidRequest for what cannot be served, naming the field."""
        refuse(self, _REFUSED)
        options = Options(max_tokens=self.max_tokens, stop=self._stops())
        return ChatRequest(self.model, (Message("user", (self._text(),)),), conversation_id, options)

    def _text(self) -> str:
        match self.prompt:
            case str(text) | [str(text)]:
                return text
            case [str(), *_] | []:
                raise InvalidRequest("prompt: send one text; several would be several answers", param="prompt")
        raise InvalidRequest("prompt: send text; token numbers mean nothing to this model", param="prompt")

    def _stops(self) -> tuple[str, ...]:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > 4 or not all(stops):
            raise InvalidRequest("stop: expected at most 4 texts, none of them empty", param="stop")
        return stops


_CHECKED_ONLY = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed")

# Fields whose silent loss would break the caller: a reason for each value that cannot be served.
_REFUSED: Refusals = {
    "n": lambda value: None if value == 1 else "only one choice can be made: leave n out or send 1",
    "best_of": lambda value: None if value == 1 else "only one answer is made: leave best_of out or send 1",
    "echo": lambda value: "the prompt is not repeated; put it in front of the answer yourself" if value else None,
    "suffix": lambda value: "text cannot be inserted before other text" if value else None,
    # 0 asks for the probability of each token that was chosen.
    "logprobs": lambda value: None if value is False else "Kimi tells no probabilities",
    "logit_bias": lambda value: "Kimi takes no biases" if value else None,
}


# What clients get


class _Encoder:
    """One answer. Thinking has no place in this API: it is left out and counted in the usage."""

    heartbeat = sse.COMMENT

    def __init__(self, model: str, include_usage: bool) -> None:
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
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

    def begin(self) -> bytes:
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

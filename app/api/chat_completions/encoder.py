"""An answer in the words of OpenAI's chat completions: chunks, or one object.

What all chunks of a reply share is made once; for a token only its text is encoded. Source of the shapes: OpenAI's
API reference and what its clients need (openai-contract.md 1, 2026-11-23). Must never know that Kimi exists.
"""

import time
from typing import Any

import orjson

from app.chat import Citation, ToolCall
from app.web import sse
from app.web.answer_response import AnswerSoFar, Choice, Encoder
from app.web.error_responses import Failure, openai_error
from app.web.openai_shapes import call_id, encode_usage


class ChatEncoder(Encoder):
    def __init__(
        self, reply_id: str, model: str, choices: int, *, stream_usage: bool, uses_functions: bool = False
    ) -> None:
        """``stream_usage``: a stream ends with a chunk of usage; else nothing of its text is kept.
        ``uses_functions``: calls have the form that ``tool_calls`` has replaced."""
        self.keeps_text = stream_usage
        self._uses_functions = uses_functions
        # How many calls each choice has made.
        self._calls = [0] * choices
        # One `created` for all chunks of a reply, as OpenAI does it.
        self._head = {"id": reply_id, "object": "chat.completion", "created": int(time.time()), "model": model}
        self._start = b"data: " + orjson.dumps({**self._head, "object": "chat.completion.chunk"})[:-1]
        tail = b',"usage":null}\n\n' if stream_usage else b"}\n\n"
        self._chunks = [_ChunkParts(self._start, index, tail) for index in range(choices)]

    def start(self, so_far: AnswerSoFar) -> bytes:  # noqa: ARG002  # an Encoder's
        role = b'{"role":"assistant","content":""}'
        return b"".join([chunk.before_delta + role + chunk.after_delta for chunk in self._chunks])

    def text(self, index: int, text: str) -> bytes:
        chunk = self._chunks[index]
        return chunk.before_text + orjson.dumps(text) + chunk.after_text

    def reasoning(self, index: int, text: str) -> bytes:
        chunk = self._chunks[index]
        return chunk.before_reasoning + orjson.dumps(text) + chunk.after_text

    def tool_call(self, index: int, call: ToolCall) -> bytes:
        """Whole, in one chunk: id, type and name come once, because naive clients join what they get."""
        number = self._calls[index]
        self._calls[index] += 1
        delta: dict[str, Any]
        if self._uses_functions:
            delta = {"function_call": _function(call)} if number == 0 else {}
        else:
            delta = {"tool_calls": [{"index": number, **_encode_call(call)}]}
        chunk = self._chunks[index]
        return chunk.before_delta + orjson.dumps(delta) + chunk.after_delta

    def finish(self, index: int, choice: Choice) -> bytes:
        # All annotations are here: a list in more than one chunk breaks openai-python, and LobeChat reads them only
        # beside a finish reason.
        annotations = [_annotation(citation) for citation in choice.citations]
        delta = orjson.dumps({"annotations": annotations} if annotations else {})
        reason = b',"logprobs":null,"finish_reason":' + orjson.dumps(self._reason(choice))
        chunk = self._chunks[index]
        return chunk.before_delta + delta + reason + chunk.after_reason

    def end(self, so_far: AnswerSoFar) -> bytes:
        if not self.keeps_text:
            return sse.DONE
        usage = orjson.dumps(encode_usage(so_far.usage()))
        return self._start + b',"choices":[],"usage":' + usage + b"}\n\n" + sse.DONE

    def fail(self, failure: Failure) -> bytes:
        """NextChat does not know error events and takes the end for a normal one. It would show "network error" if
        the connection was cut some seconds later, but the AI SDK would then raise the cut in place of our words, and
        as an error that may be repeated."""
        return sse.encode(orjson.dumps(openai_error(failure))) + sse.DONE

    def whole(self, so_far: AnswerSoFar) -> dict[str, Any]:
        return {
            **self._head,
            "choices": [
                {
                    "index": i,
                    "message": self._message(choice),
                    "logprobs": None,
                    "finish_reason": self._reason(choice),
                }
                for i, choice in enumerate(so_far.choices)
            ],
            "usage": encode_usage(so_far.usage()),
        }

    def _reason(self, choice: Choice) -> str | None:
        is_call = choice.finish_reason == "tool_calls" and self._uses_functions
        return "function_call" if is_call else choice.finish_reason

    def _message(self, choice: Choice) -> dict[str, Any]:
        # Without text it is null beside calls, and only there: clients refuse both other ways.
        content = choice.text if choice.text or not choice.calls else None
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if choice.thoughts:
            message["reasoning_content"] = choice.reasoning
        if choice.citations:
            message["annotations"] = [_annotation(citation) for citation in choice.citations]
        calls = [call for _, call in choice.calls]
        if calls and self._uses_functions:
            message["function_call"] = _function(calls[0])
        elif calls:
            message["tool_calls"] = [_encode_call(call) for call in calls]
        return message


class _ChunkParts:
    """The constant bytes around what changes in the chunks of one choice."""

    __slots__ = ("after_delta", "after_reason", "after_text", "before_delta", "before_reasoning", "before_text")

    def __init__(self, start: bytes, index: int, tail: bytes) -> None:
        self.before_delta = start + b',"choices":[{"index":%d,"delta":' % index
        self.before_text = self.before_delta + b'{"content":'
        self.before_reasoning = self.before_delta + b'{"reasoning_content":'
        self.after_delta = b',"logprobs":null,"finish_reason":null}]' + tail
        self.after_text = b"}" + self.after_delta
        self.after_reason = b"}]" + tail


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


def _encode_call(call: ToolCall) -> dict[str, Any]:
    if call.kind == "text":
        return {"id": call_id(call), "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"id": call_id(call), "type": "function", "function": _function(call)}


def _function(call: ToolCall) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}

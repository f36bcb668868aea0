"""An answer, and a failure, in the words of Anthropic's Messages.

Source of the shapes: Anthropic's API reference, the models of anthropic-python 2.12, and what Claude Code needs
(openai-contract.md 3, 2026-11-23). Must never know that Kimi exists.
"""

import json
from typing import Any, Literal

import orjson

from app.chat import ToolCall
from app.web import sse
from app.web.answer_response import AnswerSoFar, Choice, Encoder, Usage
from app.web.anthropic_shapes import encode_error
from app.web.error_responses import Failure


class MessageEncoder(Encoder):
    """The answer is blocks, one after another. Citations have no place here: this API cites passages that were read,
    and only the addresses of whole pages are known. Their links in the text are there (CITATIONS)."""

    heartbeat = sse.encode(b'{"type":"ping"}', "ping")

    def __init__(self, reply_id: str, model: str, *, show_thinking: bool) -> None:
        self._model = model
        self._show_thinking = show_thinking
        self._id = reply_id
        # The block that is open, if any, and how many have been opened.
        self._open: Literal["text", "thinking"] | None = None
        self._blocks = 0
        self._calls = 0

    def start(self, so_far: AnswerSoFar) -> bytes:
        usage = {**_input(so_far.usage()), "output_tokens": 0}
        return self._event("message_start", message=self._message([], usage)) + self.heartbeat

    def text(self, index: int, text: str) -> bytes:  # noqa: ARG002  # there is one choice
        if self._open != "text":
            out = self._block("text")
            # A block of its own needs no empty lines to be apart from what was said before.
            return out + self._delta({"type": "text_delta", "text": text.lstrip("\n") if self._calls else text})
        return self._delta({"type": "text_delta", "text": text})

    def tool_call(self, index: int, call: ToolCall) -> bytes:  # noqa: ARG002  # there is one choice
        self._calls += 1
        out = self._close_block()
        self._blocks += 1
        block = {"type": "tool_use", "id": _call_id(call), "name": call.name, "input": {}}
        return (
            out
            + self._event("content_block_start", index=self._blocks - 1, content_block=block)
            + self._delta({"type": "input_json_delta", "partial_json": call.arguments})
            + self._event("content_block_stop", index=self._blocks - 1)
        )

    def reasoning(self, index: int, text: str) -> bytes:  # noqa: ARG002  # there is one choice
        if not self._show_thinking:
            return b""
        return self._block("thinking") + self._delta({"type": "thinking_delta", "thinking": text})

    def end(self, so_far: AnswerSoFar) -> bytes:
        choice = so_far.only
        # An answer has a text, even where it is empty; beside calls an empty one is refused when it is sent back.
        out = b"" if choice.texts or choice.calls else self._block("text")
        delta = {"stop_reason": _stop_reason(choice), "stop_sequence": choice.stop_sequence}
        return (
            out
            + self._close_block()
            + self._event("message_delta", delta=delta, usage=_usage(so_far))
            + self._event("message_stop")
        )

    def fail(self, failure: Failure) -> bytes:
        return sse.encode(orjson.dumps(encode_error(failure)), "error")

    def whole(self, so_far: AnswerSoFar) -> dict[str, Any]:
        choice = so_far.only
        content: list[dict[str, Any]] = []
        if self._show_thinking and choice.thoughts:
            content.append({"type": "thinking", "thinking": choice.reasoning, "signature": ""})
        content += [_encode_part(part, is_first=number == 0) for number, part in enumerate(choice.parts)]
        if not (choice.text or choice.calls):
            content.append({"type": "text", "text": "", "citations": None})
        return self._message(content, _usage(so_far), _stop_reason(choice), choice.stop_sequence)

    def _message(
        self,
        content: list[dict[str, Any]],
        usage: dict[str, Any],
        stop_reason: str | None = None,
        stop_sequence: str | None = None,
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": stop_sequence,
            "usage": usage,
        }

    def _block(self, kind: Literal["text", "thinking"]) -> bytes:
        """Opens a block of this kind, unless it is the one that is open."""
        if self._open == kind:
            return b""
        out = self._close_block()
        self._open = kind
        self._blocks += 1
        return out + self._event("content_block_start", index=self._blocks - 1, content_block=_EMPTY[kind])

    def _delta(self, delta: dict[str, str]) -> bytes:
        return self._event("content_block_delta", index=self._blocks - 1, delta=delta)

    def _close_block(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return self._event("content_block_stop", index=self._blocks - 1)

    def _event(self, kind: str, **fields: Any) -> bytes:
        return sse.encode(orjson.dumps({"type": kind, **fields}), kind)


def _usage(so_far: AnswerSoFar) -> dict[str, Any]:
    usage = so_far.usage()
    return {
        **_input(usage),
        "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
    }


def _input(usage: Usage) -> dict[str, int]:
    """At Anthropic what a cache held does not count as input."""
    if usage.cached is None:
        return {"input_tokens": usage.input}
    return {"input_tokens": usage.input - usage.cached, "cache_read_input_tokens": usage.cached}


_EMPTY = {
    "text": {"type": "text", "text": "", "citations": None},
    # The signature proves to Anthropic that its model thought this: there is none.
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
}


def _stop_reason(choice: Choice) -> str | None:
    return "stop_sequence" if choice.stop_sequence is not None else _STOP_REASONS.get(choice.finish_reason or "")


def _call_id(call: ToolCall) -> str:
    return f"toolu_{call.id}"


def _encode_part(part: str | ToolCall, *, is_first: bool) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part if is_first else part.lstrip("\n"), "citations": None}
    return {"type": "tool_use", "id": _call_id(part), "name": part.name, "input": _loads(part.arguments)}


def _loads(arguments: str) -> Any:
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        # Halves of surrogate pairs, which a client could not be sent in an object.
        return orjson.loads(json.dumps(json.loads(arguments), ensure_ascii=False).encode("utf-8", "replace"))

"""An answer in the words of OpenAI's Responses: events, or one object.

Source of the shapes: OpenAI's API reference, the models of openai-python 3.54, and the fields that the Open Responses
schema demands (openai-contract.md 4, 2026-11-23). Must never know that Kimi exists.
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from app.chat import Citation, ToolCall
from app.text.held_text import HeldText
from app.web import sse
from app.web.answer_response import AnswerSoFar, Choice, Encoder
from app.web.error_responses import Failure
from app.web.openai_shapes import call_id

if TYPE_CHECKING:
    from app.api.responses.body import Body


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of the output that is being streamed."""

    id: str
    index: int
    # How many characters of the answer's text come before it.
    start: int
    texts: HeldText = field(default_factory=HeldText)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}

    @property
    def text(self) -> str:
        return str(self.texts)


class ResponseEncoder(Encoder):
    """Thinking is sent as a reasoning summary, the one form of it that every client shows.

    A message holds the text up to the next call; thinking that comes after the text has begun is an item of its own
    behind it. The places of citations are places in their message.
    """

    def __init__(self, body: "Body", name: str, conversation_id: str | None) -> None:
        """``name`` makes the ids of the response and of its items."""
        self._created_at = int(time.time())
        self._fixed = _fixed_fields(body, f"resp_{name}", conversation_id)
        self._name = name
        self._number = 0
        # The items of the output; None while one is being streamed.
        self._output: list[dict[str, Any] | None] = []
        self._message: _Item | None = None
        self._thought: _Item | None = None
        # Characters of text so far.
        self._length = 0
        self._called = False

    def start(self, so_far: AnswerSoFar) -> bytes:  # noqa: ARG002  # an Encoder's
        response = self._response("in_progress", [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def text(self, index: int, text: str) -> bytes:  # noqa: ARG002  # there is one choice
        out = self._end_thought()
        self._length += len(text)
        if self._message is None:
            if self._called:
                # A message of its own needs no empty lines to be apart from what was said before.
                text = text.lstrip("\n")
            self._message = self._new_item("msg", self._length - len(text))
            out += self._begin_message(self._message)
        self._message.texts.add(text)
        return out + self._event(
            "response.output_text.delta", **self._message.place, content_index=0, delta=text, logprobs=[]
        )

    def reasoning(self, index: int, text: str) -> bytes:  # noqa: ARG002  # there is one choice
        out = b""
        if self._thought is None:
            self._thought = self._new_item("rs")
            out = self._begin_thought(self._thought)
        self._thought.texts.add(text)
        return out + self._event(
            "response.reasoning_summary_text.delta", **self._thought.place, summary_index=0, delta=text
        )

    def tool_call(self, index: int, call: ToolCall) -> bytes:  # noqa: ARG002  # there is one choice
        self._called = True
        out = self._end_thought()
        if self._message is not None:
            message, self._message = self._message, None
            out += self._end_message(message, "completed")
        item = self._new_item(_CALL_PREFIXES[call.kind])
        field_name, event = ("input", "custom_tool_call_input") if call.kind == "text" else ("arguments", _ARGUMENTS)
        done = self._output[item.index] = _call_item(item.id, call)
        added = {**done, field_name: "", "status": "in_progress"}
        return (
            out
            + self._event("response.output_item.added", output_index=item.index, item=added)
            + self._event(f"response.{event}.delta", **item.place, delta=call.arguments)
            + self._event(f"response.{event}.done", **item.place, **{field_name: call.arguments})
            + self._event("response.output_item.done", output_index=item.index, item=done)
        )

    def citation(self, index: int, citation: Citation) -> bytes:  # noqa: ARG002  # there is one choice
        message = self._message
        if message is None or citation.start_index < message.start:
            return b""
        message.annotations.append(_annotation(citation, message.start))
        return self._event(
            "response.output_text.annotation.added",
            **message.place,
            content_index=0,
            annotation_index=len(message.annotations) - 1,
            annotation=message.annotations[-1],
        )

    def end(self, so_far: AnswerSoFar) -> bytes:
        status = _status(so_far.only)
        out = self._end_thought()
        if self._message is not None:
            out += self._end_message(self._message, status)
        response = self._response(status, self._complete_items(), so_far)
        return out + self._event(f"response.{status}", response=response)

    def fail(self, failure: Failure) -> bytes:
        """Two events: most clients wait for the second, openai-node and the AI SDK look for the first."""
        response = self._response("failed", self._complete_items())
        response["error"] = {"code": _ERROR_CODES.get(failure.status, "server_error"), "message": failure.message}
        error = {"code": failure.code, "message": failure.message, "param": failure.param}
        return self._event("error", **error) + self._event("response.failed", response=response)

    def whole(self, so_far: AnswerSoFar) -> dict[str, Any]:
        choice = so_far.only
        output = [_reasoning_item(f"rs_{self._name}_0", choice.reasoning)] if choice.thoughts else []
        length = 0
        # An answer without calls has a text, even where it is empty.
        for number, part in enumerate(list(choice.parts) or [""]):
            if isinstance(part, ToolCall):
                output.append(_call_item(f"{_CALL_PREFIXES[part.kind]}_{self._name}_{len(output)}", part))
                continue
            text = part.lstrip("\n") if number else part
            start, length = length + len(part) - len(text), length + len(part)
            annotations = [_annotation(c, start) for c in choice.citations if start <= c.start_index < max(length, 1)]
            output.append(_message_item(f"msg_{self._name}_{len(output)}", "completed", text, annotations))
        if output[-1]["type"] == "message":
            output[-1]["status"] = _status(choice)
        return self._response(_status(choice), output, so_far)

    def _new_item(self, prefix: str, start: int = 0) -> _Item:
        index = len(self._output)
        self._output.append(None)
        return _Item(f"{prefix}_{self._name}_{index}", index, start)

    def _complete_items(self) -> list[dict[str, Any]]:
        return [item for item in self._output if item is not None]

    def _begin_message(self, item: _Item) -> bytes:
        added = {**_message_item(item.id, "in_progress", "", []), "content": []}
        return self._event("response.output_item.added", output_index=item.index, item=added) + self._event(
            "response.content_part.added", **item.place, content_index=0, part=_text_part("", [])
        )

    def _end_message(self, item: _Item, status: str) -> bytes:
        done = self._output[item.index] = _message_item(item.id, status, item.text, item.annotations)
        place = {**item.place, "content_index": 0}
        return (
            self._event("response.output_text.done", **place, text=item.text, logprobs=[])
            + self._event("response.content_part.done", **place, part=_text_part(item.text, item.annotations))
            + self._event("response.output_item.done", output_index=item.index, item=done)
        )

    def _begin_thought(self, item: _Item) -> bytes:
        added = {**_reasoning_item(item.id, ""), "summary": []}
        return self._event("response.output_item.added", output_index=item.index, item=added) + self._event(
            "response.reasoning_summary_part.added", **item.place, summary_index=0, part=_summary("")
        )

    def _end_thought(self) -> bytes:
        item, self._thought = self._thought, None
        if item is None:
            return b""
        done = self._output[item.index] = _reasoning_item(item.id, item.text)
        place = {**item.place, "summary_index": 0}
        return (
            self._event("response.reasoning_summary_text.done", **place, text=item.text)
            + self._event("response.reasoning_summary_part.done", **place, part=_summary(item.text))
            + self._event("response.output_item.done", output_index=item.index, item=done)
        )

    def _event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return sse.encode(orjson.dumps(event), kind)

    def _response(
        self, status: str, output: list[dict[str, Any]], so_far: AnswerSoFar | None = None
    ) -> dict[str, Any]:
        """``so_far``: the whole answer, when it is complete."""
        is_incomplete = so_far is not None and status == "incomplete"
        reason = _INCOMPLETE.get(so_far.only.finish_reason or "") if so_far is not None else None
        return {
            **self._fixed,
            "created_at": self._created_at,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "incomplete_details": {"reason": reason} if is_incomplete else None,
            "error": None,
            "output": output,
            "usage": _usage(so_far) if so_far is not None else None,
        }


_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}

# HTTP's status of a failure → the few codes that a failed response may have.
_ERROR_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


def _status(choice: Choice) -> str:
    return "incomplete" if choice.finish_reason in _INCOMPLETE else "completed"


def _fixed_fields(body: "Body", response_id: str, conversation_id: str | None) -> dict[str, Any]:
    """What is the same in every state of a response: all that the Open Responses schema demands, and its
    defaults for what was not sent. Tools that are ignored were not the model's to use, so they are not repeated.
    """
    sent = body.reasoning
    return {
        "id": response_id,
        "object": "response",
        "model": body.model,
        "background": False,
        "conversation": {"id": conversation_id} if conversation_id else None,
        "frequency_penalty": body.frequency_penalty or 0,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "presence_penalty": body.presence_penalty or 0,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": sent.effort if sent else None, "summary": sent.summary if sent else None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": 1 if body.temperature is None else body.temperature,
        "text": {"format": _format(body), "verbosity": (body.text and body.text.verbosity) or "medium"},
        "tool_choice": body.shown_tool_choice(),
        "tools": body.shown_tools(),
        "top_logprobs": 0,
        "top_p": 1 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
        "user": body.user,
    }


def _format(body: "Body") -> dict[str, Any]:
    wanted = body.text.format if body.text else None
    if wanted is None or wanted.type != "json_schema":
        return {"type": wanted.type if wanted else "text"}
    extra = wanted.model_extra or {}
    return {
        "type": "json_schema",
        "name": wanted.name,
        "description": wanted.description,
        "schema": wanted.schema_,
        "strict": extra.get("strict") is True,
    }


def _summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def _reasoning_item(item_id: str, text: str) -> dict[str, Any]:
    return {"id": item_id, "type": "reasoning", "summary": [_summary(text)]}


def _text_part(text: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}


def _message_item(item_id: str, status: str, text: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    content = [_text_part(text, annotations)]
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


_CALL_PREFIXES = {"function": "fc", "text": "ctc"}
_ARGUMENTS = "function_call_arguments"


def _call_item(item_id: str, call: ToolCall) -> dict[str, Any]:
    """A call in the kind that its function was declared in, with its namespace apart: Codex knows it by nothing
    else."""
    item = {"id": item_id, "call_id": call_id(call), "name": call.name, "status": "completed"}
    if call.namespace is not None:
        item["namespace"] = call.namespace
    if call.kind == "text":
        return {**item, "type": "custom_tool_call", "input": call.arguments}
    return {**item, "type": "function_call", "arguments": call.arguments}


def _annotation(citation: Citation, start: int) -> dict[str, Any]:
    """``start``: where in the answer the text of its message begins."""
    return {
        "type": "url_citation",
        "url": citation.url,
        "title": citation.title,
        "start_index": citation.start_index - start,
        "end_index": citation.end_index - start,
    }


def _usage(so_far: AnswerSoFar) -> dict[str, Any]:
    usage = so_far.usage()
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached or 0, "cache_write_tokens": 0},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }

"""Anthropic's Messages: POST /v1/messages and POST /v1/messages/count_tokens.

Source of the shapes: Anthropic's API reference, the models of anthropic-python 2.12, and what Claude Code was
measured to send and to need (openai-contract.md 3, 2026-11-23). Must never know that Kimi exists.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NoReturn

import orjson
from flask import Blueprint, Response, g, request
from pydantic import Field, StrictBool, StrictInt, StrictStr
from werkzeug.exceptions import MethodNotAllowed, NotFound

from app import logs
from app.chat import ChatRequest, Citation, JsonFormat, Message, Options, ToolCall
from app.errors import InvalidRequest
from app.text import token_count
from app.text.prompt import flatten
from app.web import sse
from app.web.answer_response import Told, respond
from app.web.conversation_id import asked_conversation
from app.web.error_responses import Failure, answer_failures
from app.web.json_schema import schema_text
from app.web.operations import OF_ANSWERS, Operation, object_of
from app.web.parameters import Parameters, Use, unknown_fields
from app.web.request_body import Fields, Many, parse
from app.web.request_context import caller, gateway, json_response, reply_id
from app.web.shared_parameters import BOOKKEEPING, MODEL, SAMPLING, VENDOR, Number

blueprint = Blueprint("messages", __name__)

# Anthropic's `type` for a status. The types say what a client shall do, so 503 is an overload here too: clients look
# for that word.
_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def encode_error(failure: Failure) -> dict[str, Any]:
    """``{"type": "error", "error": {type, message}, request_id}``: the field at fault stands in the message."""
    default = "api_error" if failure.status >= 500 else "invalid_request_error"
    message = failure.message
    if failure.param and not message.startswith(failure.param) and f"'{failure.param}'" not in message:
        message = f"{failure.param}: {message}"
    return {
        "type": "error",
        "error": {"type": _TYPES.get(failure.status, default), "message": message},
        "request_id": logs.request_id.get(),
    }


answer_failures(blueprint, encode_error)


@blueprint.after_request
def _name_request(response: Response) -> Response:
    # Anthropic's SDKs look for the id under this name.
    response.headers["request-id"] = g.request_id
    return response


@blueprint.post("/messages")
def create() -> Response:
    who = caller()
    body = parse(Body, request.get_data(cache=False))
    chat = ChatRequest(body.model, body.to_messages(), asked_conversation(), body.options())
    headers = body.settle()
    answer = gateway().open(chat, who, commit=bool(body.stream))
    encoder = _Encoder(reply_id("msg_", who), body.model, show_thinking=body.wants_thinking)
    return respond(answer, encoder, stream=bool(body.stream), headers=headers)


@blueprint.post("/messages/count_tokens")
def count_tokens() -> Response:
    """An estimate, of what would be sent: tools are not."""
    caller()
    body = parse(_Prompt, request.get_data(cache=False))
    gateway().model(body.model)
    return json_response({"input_tokens": token_count.estimate(flatten(body.to_messages()))})


@blueprint.route("/messages", methods=["GET", "PUT", "PATCH", "DELETE"])
@blueprint.route("/messages/count_tokens", methods=["GET", "PUT", "PATCH", "DELETE"])
def wrong_method() -> NoReturn:
    """Here, so that it is told in this API's shape."""
    raise MethodNotAllowed(["POST"])


@blueprint.route("/messages/<anything:rest>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def unknown(rest: str) -> NoReturn:  # noqa: ARG001  # an argument of the route
    raise NotFound


# What clients send


class _Text(Fields):
    type: Literal["text"]
    text: StrictStr


class _Thinking(Fields):
    """What a model said to itself in an earlier turn: no part of what the next answer needs."""

    type: Literal["thinking", "redacted_thinking"]


class _ToolUse(Fields):
    type: Literal["tool_use"]
    id: StrictStr
    name: StrictStr
    input: dict[str, Any] = {}


class _OtherBlock(Fields):
    """Known to Anthropic, not to us: refused with its place rather than dropped."""

    type: Literal["image", "document", "search_result", "server_tool_use", "web_search_tool_result", "tool_reference"]


_ResultBlock = Annotated[_Text | _OtherBlock, Field(discriminator="type")]


class _ToolResult(Fields):
    type: Literal["tool_result"]
    tool_use_id: StrictStr
    content: StrictStr | Many[_ResultBlock] | None = None


_Block = Annotated[_Text | _Thinking | _ToolUse | _ToolResult | _OtherBlock, Field(discriminator="type")]


def _refuse_block(kind: str, place: str) -> NoReturn:
    raise InvalidRequest(
        f"{place}: content of type '{kind}' is not supported: this gateway sends text only",
        code="unsupported_content",
        param=place,
    )


class _Message(Fields):
    role: Literal["user", "assistant", "system"]
    content: StrictStr | Many[_Block]

    def to_messages(self, place: str) -> Iterator[Message]:
        """What its author says, with the calls that it makes; before it, the results of earlier calls."""
        if isinstance(self.content, str):
            yield Message(self.role, (self.content,))
            return
        texts: list[str] = []
        calls: list[ToolCall] = []
        for index, block in enumerate(self.content):
            match block:
                case _Text(text=text):
                    texts.append(text)
                case _ToolUse():
                    calls.append(
                        ToolCall(block.id, block.name, _json(block.input, f"{place}.content[{index}].input"))
                    )
                case _ToolResult():
                    results = _result_texts(block, f"{place}.content[{index}].content")
                    yield Message("tool", tuple(results), tool_call_id=block.tool_use_id)
                case _OtherBlock():
                    _refuse_block(block.type, f"{place}.content[{index}]")
        if texts or calls:
            yield Message(self.role, tuple(texts), tool_calls=tuple(calls))


def _json(value: Any, place: str) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise InvalidRequest(f"{place} is nested too deep", param=place) from None


def _result_texts(result: _ToolResult, place: str) -> Iterator[str]:
    if isinstance(result.content, str):
        yield result.content
        return
    for index, block in enumerate(result.content or ()):
        if isinstance(block, _OtherBlock):
            _refuse_block(block.type, f"{place}[{index}]")
        yield block.text


class _Tool(Fields):
    # Anthropic's own tools have one; those of the client may leave it out.
    type: StrictStr | None = None
    name: StrictStr | None = None

    @property
    def searches(self) -> bool:
        return (self.type or "").startswith("web_search")


class _ToolChoice(Fields):
    type: Literal["auto", "none", "any", "tool"]


class _ThinkingOptions(Fields):
    type: Literal["enabled", "adaptive", "disabled", "between_tools"]
    budget_tokens: StrictInt | None = Field(None, ge=1)
    # "omitted" has an effect. Betas bring further words, and Claude Code asks again with less where one is refused.
    display: StrictStr | None = None


class _Format(Fields):
    type: Literal["json_schema"]
    # Under a name of its own: pydantic's models have a method `schema`.
    schema_: dict[str, Any] = Field(alias="schema")


class _OutputOptions(Fields):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


# What is done with each

_MESSAGES = Use(
    "honoured",
    "text, calls and their results; thinking is dropped, images and documents are a 400 that names their place",
    "文本、工具调用及其结果；思考会被丢弃，图片和文档返回 400，并指出位置",
)
_SYSTEM = Use("honoured", "the first message", "作为第一条消息")
_MAX_TOKENS = Use(
    "honoured",
    "by estimate, thinking included; `stop_reason` is `max_tokens`",
    "按估算值（含思考）截断，`stop_reason` 为 `max_tokens`",
)
_STOP = Use(
    "honoured",
    "the answer ends before the first that occurs, and `stop_sequence` names it",
    "在最先出现的那个之前结束，`stop_sequence` 会给出它",
)
_THINKING = Use(
    "honoured",
    "chooses the form of the model with or without thinking, and whether thinking is told; its budget has no effect",
    "选择模型的思考或非思考形式，并决定是否给出思考过程；预算不起作用",
)
_OUTPUT = Use(
    "honoured",
    "`effort` from `high` on chooses thinking where `thinking` does not say; `format` by asking Kimi and checking "
    "its answer",
    "没有 `thinking` 时，`high` 及以上的 `effort` 选择思考；`format` 通过提示词要求，并校验回答",
)
_TOOLS = Use(
    "ignored",
    "tools are never called, but `web_search` chooses the form of the model that searches",
    "不会调用工具；但 `web_search` 会选择模型的联网形式",
)
_TOOL_CHOICE = Use(
    "refused",
    "a call that is forced",
    "强制调用工具",
    lambda value: "tools cannot be called, so a call cannot be forced" if value.type in ("any", "tool") else None,
)
_CONTEXT = Use(
    "ignored",
    "nothing is taken out of what was sent, and nothing but text is kept anywhere",
    "不会删减发来的内容，也不保存文本以外的东西",
)


class _Prompt(Parameters):
    """What a model is to answer."""

    model: Annotated[StrictStr, MODEL]
    messages: Annotated[Many[_Message], Field(min_length=1), _MESSAGES]
    system: Annotated[StrictStr | Many[_Text] | None, _SYSTEM] = None

    def to_messages(self) -> tuple[Message, ...]:
        """Raises InvalidRequest for what cannot be served, naming its place."""
        system = [self.system] if isinstance(self.system, str) else [block.text for block in self.system or ()]
        first = [Message("system", tuple(system))] if any(system) else []
        rest = [m for i, message in enumerate(self.messages) for m in message.to_messages(f"messages[{i}]")]
        return (*first, *rest)


class Body(_Prompt):
    """The body of ``POST /v1/messages``."""

    max_tokens: Annotated[StrictInt, Field(ge=1), _MAX_TOKENS]
    stream: Annotated[StrictBool | None, Use("honoured", "server-sent events", "服务器推送事件")] = None
    stop_sequences: Annotated[Many[StrictStr] | None, _STOP] = None
    thinking: Annotated[_ThinkingOptions | None, _THINKING] = None
    output_config: Annotated[_OutputOptions | None, _OUTPUT] = None

    temperature: Annotated[Number | None, Field(ge=0, le=1), SAMPLING] = None
    top_p: Annotated[Number | None, Field(ge=0, le=1), SAMPLING] = None
    top_k: Annotated[StrictInt | None, Field(ge=0), VENDOR] = None
    tools: Annotated[Many[_Tool] | None, _TOOLS] = None
    metadata: Annotated[dict[str, Any] | None, BOOKKEEPING] = None
    service_tier: Annotated[StrictStr | None, BOOKKEEPING] = None
    context_management: Annotated[dict[str, Any] | None, _CONTEXT] = None
    container: Annotated[StrictStr | dict[str, Any] | None, _CONTEXT] = None
    mcp_servers: Annotated[Many[dict[str, Any]] | None, _TOOLS] = None

    tool_choice: Annotated[_ToolChoice | None, _TOOL_CHOICE] = None

    @property
    def wants_thinking(self) -> bool:
        """Whether thinking may be told: who did not ask for it takes the first block for the answer."""
        return self.thinking is not None and self.thinking.type != "disabled" and self.thinking.display != "omitted"

    def options(self) -> Options:
        """Raises InvalidRequest for what cannot be served, naming the field."""
        if not all(stop.strip() for stop in self.stop_sequences or ()):
            raise InvalidRequest("stop_sequences: each must hold more than white space", param="stop_sequences")
        return Options(
            max_tokens=self.max_tokens,
            stop=tuple(self.stop_sequences or ()),
            thinking=self._thinking(),
            search=self._search(),
            format=self._json_format(),
        )

    def _thinking(self) -> bool | None:
        """``thinking`` says whether; ``effort`` alone only how much, and the most of it is thinking."""
        if self.thinking is not None:
            return self.thinking.type != "disabled"
        effort = self.output_config.effort if self.output_config else None
        return True if effort in ("high", "xhigh", "max") else None

    def _search(self) -> bool | None:
        if not any(tool.searches for tool in self.tools or ()):
            return None
        # A search that is offered and may not be used is none.
        return self.tool_choice is None or self.tool_choice.type != "none"

    def _json_format(self) -> JsonFormat | None:
        wanted = self.output_config.format if self.output_config else None
        if wanted is None:
            return None
        place = "output_config.format.schema"
        return JsonFormat("answer", schema_text(wanted.schema_, place), asked_in=place)

    def _ignored(self) -> Iterator[str]:
        only_searches = all(tool.searches for tool in self.tools or ())
        yield from (name for name in super()._ignored() if name != "tools" or not only_searches)
        if only_searches:
            yield from unknown_fields(self.tools or (), "tools")
        if self.thinking is not None and self.thinking.budget_tokens is not None:
            yield "thinking.budget_tokens"


# What clients get


class _Encoder:
    """One answer, as blocks one after another. Citations have no place here: this API cites passages that were read,
    and only the addresses of whole pages are known. Their links in the text are there (CITATIONS).
    """

    heartbeat = sse.encode(b'{"type":"ping"}', "ping")

    def __init__(self, reply_id: str, model: str, *, show_thinking: bool) -> None:
        self._model = model
        self._show_thinking = show_thinking
        self._id = reply_id
        # The block that is open, if any, and how many have been opened.
        self._open: Literal["text", "thinking"] | None = None
        self._blocks = 0

    def begin(self, told: Told) -> bytes:
        usage = {"input_tokens": told.count().input, "output_tokens": 0}
        return self._event("message_start", message=self._message([], usage)) + self.heartbeat

    def text(self, text: str) -> bytes:
        return self._block("text") + self._delta({"type": "text_delta", "text": text})

    def reasoning(self, text: str) -> bytes:
        if not self._show_thinking:
            return b""
        return self._block("thinking") + self._delta({"type": "thinking_delta", "thinking": text})

    def citation(self, _citation: Citation) -> bytes:
        return b""

    def end(self, told: Told) -> bytes:
        # An answer has a text, even where it is empty.
        out = b"" if told.texts else self._block("text")
        delta = {"stop_reason": _stop_reason(told), "stop_sequence": told.stop_sequence}
        return (
            out
            + self._close_block()
            + self._event("message_delta", delta=delta, usage=_usage(told))
            + self._event("message_stop")
        )

    def fail(self, failure: Failure) -> bytes:
        return sse.encode(orjson.dumps(encode_error(failure)), "error")

    def whole(self, told: Told) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": told.text, "citations": None}]
        if self._show_thinking and told.thoughts:
            content.insert(0, {"type": "thinking", "thinking": told.reasoning, "signature": ""})
        return self._message(content, _usage(told), _stop_reason(told), told.stop_sequence)

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


def _usage(told: Told) -> dict[str, Any]:
    counts = told.count()
    return {
        "input_tokens": counts.input,
        "output_tokens": counts.output,
        "output_tokens_details": {"thinking_tokens": counts.reasoning},
    }


_EMPTY = {
    "text": {"type": "text", "text": "", "citations": None},
    # The signature proves to Anthropic that its model thought this: there is none.
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}


def _stop_reason(told: Told) -> str | None:
    return "stop_sequence" if told.stop_sequence is not None else _STOP_REASONS.get(told.reason or "")


_ERROR = object_of(
    type={"const": "error"},
    error=object_of(type={"type": "string"}, message={"type": "string"}),
    request_id={"type": "string"},
)

OPERATIONS = (
    Operation(
        "post",
        "/v1/messages",
        "Anthropic's Messages",
        object_of(type={"const": "message"}, id={"type": "string"}, content={"type": "array"}),
        body=Body,
        streams=True,
        failures=OF_ANSWERS,
        error=_ERROR,
    ),
    Operation(
        "post",
        "/v1/messages/count_tokens",
        "An estimate of the tokens of a prompt",
        object_of(input_tokens={"type": "integer"}),
        body=_Prompt,
        failures={404: "there is no such model", 413: "the body is too large"},
        error=_ERROR,
    ),
)

"""OpenAI's Responses: POST /v1/responses.

With ``store`` other than false, a response is a turn of a conversation that is kept, and its id says which:
``resp_<conversation>_<turn>``. That id is all that ``previous_response_id`` needs, so nothing else is stored, and a
response itself cannot be fetched. The ids of its items say the same, because the AI SDK refers to them in place of
what was said. A conversation goes on from its last turn only. With ``store: false`` (Codex) nothing is kept.

Source of the shapes: OpenAI's API reference, the models of openai-python 3.54, and the fields that the Open Responses
schema demands (openai-contract.md 4, 2026-11-23). Must never know that Kimi exists.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from flask import Blueprint, Response, request
from pydantic import BeforeValidator, Discriminator, Field, StrictBool, StrictInt, StrictStr, Tag
from pydantic_core import PydanticCustomError

from app.chat import Caller, ChatRequest, Citation, JsonFormat, Message, Options, ToolCall
from app.errors import InvalidRequest, UnknownConversation
from app.web import sse
from app.web.answer_response import Told, respond
from app.web.conversation_id import asked_conversation
from app.web.error_responses import Failure
from app.web.json_schema import schema_text
from app.web.operations import OF_ANSWERS, Operation, object_of
from app.web.parameters import Parameters, Use, unknown_fields
from app.web.request_body import Fields, Many, parse
from app.web.request_context import caller, gateway, reply_id
from app.web.shared_parameters import BOOKKEEPING, MODEL, PENALTY, PROBABILITIES, SAMPLING, TOOLS, Number

blueprint = Blueprint("responses", __name__)

_TURN = r"([A-Za-z0-9._:-]{1,128})_([1-9][0-9]{0,8})"
_RESPONSE_ID = re.compile(f"resp_{_TURN}")
_ITEM_ID = re.compile(f"(?:msg|rs)_{_TURN}_[0-9]+")


@blueprint.post("/responses")
def create() -> Response:
    who = caller()
    body = parse(Body, request.get_data(cache=False))
    headers = body.settle()
    conversation_id = asked_conversation(in_body=body.conversation_id, field="conversation")
    turn = _turn_of(body, conversation_id, who)
    chat = ChatRequest(
        body.model,
        body.messages(),
        turn.conversation_id if turn else None,
        body.options(),
        turn.number - 1 if turn and turn.number else None,
        asked_in="input",
    )
    encoder = _Encoder(body, turn.name if turn and turn.number else reply_id("", who), conversation_id)
    answer = gateway().open(chat, who, commit=bool(body.stream))
    return respond(answer, encoder, stream=bool(body.stream), headers=headers)


@blueprint.route("/responses/<anything:response_id>", methods=["GET", "DELETE"])
def one(response_id: str) -> Response:
    """Clients of OpenAI ask for what they stored: they are told what stands in its place."""
    caller()
    found = _RESPONSE_ID.fullmatch(response_id)
    instead = f"; DELETE /v1/chat/completions/{found[1]} forgets its conversation" if found else ""
    raise UnknownConversation(
        "responses are not kept: a conversation is, and goes on with previous_response_id" + instead,
        code="response_not_found",
        param="response_id",
    )


@dataclass(frozen=True, slots=True)
class _Turn:
    """The place of a response in a conversation; the first turn is number 1, and 0 is one that nobody counted."""

    conversation_id: str
    number: int

    @property
    def name(self) -> str:
        """What the ids of the response and of its items have in common."""
        return f"{self.conversation_id}_{self.number}"


@dataclass(frozen=True, slots=True)
class _Previous:
    """What a request goes on from: None where its id can be none of ours. ``param``: the field that says so."""

    turn: _Turn | None
    param: str

    @classmethod
    def parse(cls, pattern: re.Pattern[str], its_id: str, param: str) -> "_Previous":
        found = pattern.fullmatch(its_id)
        return cls(_Turn(found[1], int(found[2])) if found else None, param)


def _turn_of(body: "Body", conversation_id: str | None, who: Caller) -> _Turn | None:
    """Which turn of which conversation is asked for; None for a stateless one. Raises GatewayError."""
    previous = body.previous()
    if previous is not None:
        return _next_turn(previous, conversation_id, body.store, who)
    if conversation_id is None:
        return None if body.store is False else _Turn(reply_id("", who), 1)
    if who.idempotency_key is not None:
        # If this is a repetition, its turn has been, and the conversation does not tell which it was.
        return _Turn(conversation_id, 0)
    try:
        return _Turn(conversation_id, gateway().find_conversation(who.owner, conversation_id).turns + 1)
    except UnknownConversation:
        return _Turn(conversation_id, 1)


def _next_turn(previous: _Previous, conversation_id: str | None, store: bool | None, who: Caller) -> _Turn:
    unknown = UnknownConversation(
        f"{previous.param}: nothing with this id is known for this API key; only what was made with store: true is",
        code="previous_response_not_found",
        param=previous.param,
    )
    if previous.turn is None:
        raise unknown
    its_conversation, number = previous.turn.conversation_id, previous.turn.number
    if conversation_id not in (None, its_conversation):
        raise _mistake(previous, "this belongs to another conversation than the one that is named")
    if store is False:
        raise _mistake(
            previous, "a conversation that is kept can go on with store: true only, because its chat grows"
        )
    try:
        turns = gateway().find_conversation(who.owner, its_conversation).turns
    except UnknownConversation:
        raise unknown from None
    if number > turns:
        raise unknown
    # A repetition of a request that has been answered gets that answer, further down.
    if number < turns and who.idempotency_key is None:
        raise _mistake(
            previous,
            f"a conversation can go on from its last response only, resp_{_Turn(its_conversation, turns).name}; "
            "for a branch, send the whole history as input, with store: false",
        )
    return _Turn(its_conversation, number + 1)


def _mistake(previous: _Previous, message: str) -> InvalidRequest:
    return InvalidRequest(f"{previous.param}: {message}", code="invalid_previous_response_id", param=previous.param)


# What clients send


class _Text(Fields):
    type: Literal["input_text", "output_text", "text"]
    text: StrictStr


class _Refusal(Fields):
    type: Literal["refusal"]
    refusal: StrictStr


class _OtherPart(Fields):
    """Known to OpenAI, not to us: refused with its place rather than dropped."""

    type: Literal["input_image", "input_file", "input_audio", "computer_screenshot"]


_Parts = Many[Annotated[_Text | _Refusal | _OtherPart, Field(discriminator="type")]]


def _texts(content: str | _Parts, place: str) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    for index, part in enumerate(content):
        match part:
            case _Text(text=text) | _Refusal(refusal=text):
                yield text
            case _:
                raise InvalidRequest(
                    f"content of type '{part.type}' is not supported: this gateway sends text only",
                    code="unsupported_content",
                    param=f"{place}[{index}]",
                )


class _Message(Fields):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | _Parts

    def to_message(self, place: str) -> Message:
        return Message(self.role, tuple(_texts(self.content, f"{place}.content")))


class _Call(Fields):
    """A call that the model made in an earlier turn. A custom tool takes text for arguments."""

    type: Literal["function_call", "custom_tool_call"]
    call_id: StrictStr
    name: StrictStr
    arguments: StrictStr = ""
    input: StrictStr = ""

    def to_message(self, _place: str) -> Message:
        return Message("assistant", (), tool_calls=(ToolCall(self.call_id, self.name, self.arguments or self.input),))


class _CallOutput(Fields):
    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: StrictStr
    output: StrictStr | _Parts

    def to_message(self, place: str) -> Message:
        return Message("tool", tuple(_texts(self.output, f"{place}.output")), tool_call_id=self.call_id)


class _Dropped(Fields):
    """What a model said to itself, or that it searched: no part of what the next answer needs."""

    type: Literal["reasoning", "web_search_call"]

    def to_message(self, _place: str) -> None:
        return None


class _Reference(Fields):
    """An item of an earlier answer, which the conversation holds: it marks how far that goes."""

    type: Literal["item_reference"]
    id: StrictStr

    def to_message(self, _place: str) -> None:
        return None


# An item without a type is a message.
_KINDS = {
    None: "message",
    "message": "message",
    "function_call": "call",
    "custom_tool_call": "call",
    "function_call_output": "output",
    "custom_tool_call_output": "output",
    "reasoning": "dropped",
    "web_search_call": "dropped",
    "item_reference": "reference",
}


def _kind(item: Any) -> str | None:
    kind = item.get("type") if isinstance(item, dict) else ""
    return _KINDS.get(kind) if kind is None or isinstance(kind, str) else None


_InputItem = Annotated[
    Annotated[_Message, Tag("message")]
    | Annotated[_Call, Tag("call")]
    | Annotated[_CallOutput, Tag("output")]
    | Annotated[_Dropped, Tag("dropped")]
    | Annotated[_Reference, Tag("reference")],
    Discriminator(
        _kind,
        custom_error_type="unknown_item",
        custom_error_message=f"expected an item of type {', '.join(kind for kind in _KINDS if kind)}",
    ),
]


class _Tool(Fields):
    type: StrictStr

    @property
    def searches(self) -> bool:
        return self.type.startswith("web_search")


class _ToolChoice(Fields):
    type: StrictStr
    mode: StrictStr | None = None


class _Format(Fields):
    type: Literal["text", "json_object", "json_schema"]
    name: StrictStr | None = Field(None, min_length=1, max_length=64)
    # Under a name of its own: pydantic's models have a method `schema`.
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    description: StrictStr | None = None


class _TextOptions(Fields):
    format: _Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class _Reasoning(Fields):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class _Conversation(Fields):
    id: StrictStr


# What is done with each


_INPUT = Use(
    "honoured",
    "text, or messages, calls and their results; images, files and audio are a 400 that names their place",
    "文本，或消息、工具调用及其结果；图片、文件、音频返回 400，并指出位置",
)
_INSTRUCTIONS = Use(
    "honoured",
    "said again only where they have changed; earlier ones stay in Kimi's chat",
    "只在变化时重新发送；之前的仍保留在 Kimi 的会话里",
)
_STORE = Use(
    "honoured",
    "unless false, a Kimi conversation is opened or gone on with, and kept; false keeps nothing",
    "不为 false 时新建或继续一个 Kimi 对话并保留；为 false 时什么都不保留",
)
_PREVIOUS = Use(
    "honoured",
    "the last response of a conversation; an older one is a 400, an unknown one a 404",
    "对话的最后一次回答；更早的返回 400，未知的返回 404",
)
_CONVERSATION = Use(
    "honoured",
    "its id, which may be any; the conversation begins with its first turn",
    "对话的 id，可以任取；第一轮时新建",
)
_MAX_TOKENS = Use(
    "honoured",
    "by estimate, thinking included; the response is then `incomplete`",
    "按估算值（含思考）截断，此时回答的状态为 `incomplete`",
)
_REASONING = Use(
    "honoured",
    "`effort` chooses the form of the model with or without thinking; a summary is always told",
    "`effort` 选择模型的思考或非思考形式；思考过程总会以 summary 给出",
)
_TEXT = Use(
    "honoured",
    "`format`: `json_object` and `json_schema` by asking Kimi and checking its answer",
    "`format`：`json_object` 和 `json_schema` 通过提示词要求，并校验回答",
)
_TOOLS = Use(
    "ignored",
    "tools are never called, but `web_search` chooses the form of the model that searches",
    "不会调用工具；但 `web_search` 会选择模型的联网形式",
)
_METADATA = Use("honoured", "repeated in the response, and kept nowhere", "在回答里原样返回，不保存")
_TRUNCATION = Use(
    "ignored",
    "nothing is left out: what is too long for Kimi is a 400",
    "不会省略任何内容：超出 Kimi 限制的返回 400",
    neutral=("disabled",),
)
_INCLUDE = Use(
    "ignored",
    "there is nothing to add to a response; `message.output_text.logprobs` is a 400",
    "没有可附加的内容；`message.output_text.logprobs` 返回 400",
    lambda value: "Kimi tells no probabilities" if "message.output_text.logprobs" in value else None,
)
_BACKGROUND = Use(
    "refused",
    "an answer is told while it comes, and not kept for later",
    "回答在生成时给出，不会留到以后",
    lambda value: "an answer is told while it comes, and not kept for later" if value else None,
)
_PROMPT = Use(
    "refused",
    "no templates are kept here: send `instructions` and `input`",
    "这里不保存模板，请发送 `instructions` 和 `input`",
    lambda _value: "no templates are kept here: send instructions and input",
)


def _refuse_forced_tool(value: str | _ToolChoice) -> str | None:
    if isinstance(value, _ToolChoice):
        value = (value.mode or "auto") if value.type == "allowed_tools" else "required"
    return None if value in ("auto", "none") else "tools cannot be called, so a call cannot be forced"


_TOOL_CHOICE = Use("refused", "a call that is forced", "强制调用工具", _refuse_forced_tool)


# So many pairs OpenAI allows.
_MOST_METADATA = 16


def _refuse_many(value: Any) -> Any:
    """Before they are read: each of them may be at fault, and pydantic counts only what is right."""
    if isinstance(value, dict) and len(value) > _MOST_METADATA:
        about = {"most": _MOST_METADATA, "number": len(value)}
        raise PydanticCustomError("too_long", "Dictionary should have at most {most} items, not {number}", about)
    return value


_Metadata = Annotated[dict[StrictStr, StrictStr], Field(max_length=_MOST_METADATA), BeforeValidator(_refuse_many)]


class Body(Parameters):
    """The body of ``POST /v1/responses``."""

    model: Annotated[StrictStr, MODEL]
    input: Annotated[StrictStr | Many[_InputItem], Field(min_length=1), _INPUT]
    instructions: Annotated[StrictStr | None, _INSTRUCTIONS] = None
    stream: Annotated[StrictBool | None, Use("honoured", "server-sent events", "服务器推送事件")] = None
    store: Annotated[StrictBool | None, _STORE] = None
    previous_response_id: Annotated[StrictStr | None, _PREVIOUS] = None
    conversation: Annotated[StrictStr | _Conversation | None, _CONVERSATION] = None
    max_output_tokens: Annotated[StrictInt | None, Field(ge=1), _MAX_TOKENS] = None
    reasoning: Annotated[_Reasoning | None, _REASONING] = None
    text: Annotated[_TextOptions | None, _TEXT] = None
    metadata: Annotated[_Metadata | None, _METADATA] = None

    temperature: Annotated[Number | None, Field(ge=0, le=2), SAMPLING] = None
    top_p: Annotated[Number | None, Field(ge=0, le=1), SAMPLING] = None
    frequency_penalty: Annotated[Number | None, Field(ge=-2, le=2), PENALTY] = None
    presence_penalty: Annotated[Number | None, Field(ge=-2, le=2), PENALTY] = None
    truncation: Annotated[Literal["auto", "disabled"] | None, _TRUNCATION] = None
    tools: Annotated[Many[_Tool] | None, _TOOLS] = None
    parallel_tool_calls: Annotated[StrictBool | None, TOOLS] = None
    max_tool_calls: Annotated[StrictInt | None, Field(ge=1), TOOLS] = None
    include: Annotated[Many[StrictStr] | None, _INCLUDE] = None
    stream_options: Annotated[dict[str, Any] | None, Use("ignored", "nothing is padded", "不做填充")] = None
    service_tier: Annotated[StrictStr | None, BOOKKEEPING] = None
    safety_identifier: Annotated[StrictStr | None, BOOKKEEPING] = None
    prompt_cache_key: Annotated[StrictStr | None, BOOKKEEPING] = None
    prompt_cache_retention: Annotated[StrictStr | None, BOOKKEEPING] = None
    user: Annotated[StrictStr | None, BOOKKEEPING] = None

    tool_choice: Annotated[Literal["auto", "none", "required"] | _ToolChoice | None, _TOOL_CHOICE] = None
    top_logprobs: Annotated[StrictInt | None, Field(ge=0, le=20), PROBABILITIES] = None
    background: Annotated[StrictBool | None, _BACKGROUND] = None
    prompt: Annotated[Any, _PROMPT] = None

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, _Conversation) else self.conversation

    @property
    def searches(self) -> bool:
        """Whether the client put a web search at the model's disposal."""
        return any(tool.searches for tool in self.tools or ())

    def previous(self) -> _Previous | None:
        """What the request goes on from, if it says so. Raises InvalidRequest where it says two things."""
        items = [] if isinstance(self.input, str) else self.input
        found = [
            _Previous.parse(_ITEM_ID, item.id, f"input[{index}]")
            for index, item in enumerate(items)
            if isinstance(item, _Reference)
        ]
        if self.previous_response_id is not None:
            found.append(_Previous.parse(_RESPONSE_ID, self.previous_response_id, "previous_response_id"))
        for one in found:
            if one.turn and found[-1].turn and one.turn.conversation_id != found[-1].turn.conversation_id:
                raise _mistake(one, "this belongs to another conversation than what comes after it")
        return found[-1] if found else None

    def messages(self) -> tuple[Message, ...]:
        """Raises InvalidRequest for an item that cannot be served, naming its place."""
        messages = [Message("system", (self.instructions,))] if self.instructions else []
        if isinstance(self.input, str):
            return (*messages, Message("user", (self.input,)))
        held = max((index for index, item in enumerate(self.input) if isinstance(item, _Reference)), default=-1)
        for index, item in enumerate(self.input):
            message = item.to_message(f"input[{index}]")
            # What comes before a reference has been said, except that instructions may have changed. With the holes
            # that references are, it is no history that a conversation could be rebuilt from.
            if message is not None and (index > held or message.role in ("system", "developer")):
                messages.append(message)
        return tuple(messages)

    def options(self) -> Options:
        effort = self.reasoning.effort if self.reasoning else None
        return Options(
            max_tokens=self.max_output_tokens,
            thinking=None if effort is None else effort not in ("none", "minimal"),
            # A search that is offered and may not be used is none.
            search=self.tool_choice != "none" if self.searches else None,
            format=self._json_format(),
        )

    def _json_format(self) -> JsonFormat | None:
        wanted = self.text.format if self.text else None
        if wanted is None or wanted.type == "text":
            return None
        if wanted.type == "json_object":
            return JsonFormat()
        if wanted.name is None or wanted.schema_ is None:
            missing = "name" if wanted.name is None else "schema"
            raise InvalidRequest(f"text.format.{missing}: needed for json_schema", param=f"text.format.{missing}")
        place = "text.format.schema"
        return JsonFormat(wanted.name, schema_text(wanted.schema_, place), wanted.description or "", place)

    def _ignored(self) -> Iterator[str]:
        only_searches = all(tool.searches for tool in self.tools or ())
        yield from (name for name in super()._ignored() if name != "tools" or not only_searches)
        if only_searches:
            yield from unknown_fields(self.tools or (), "tools")
        if self.text is not None and self.text.verbosity not in (None, "medium"):
            yield "text.verbosity"


# What clients get


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of the output that is being told."""

    id: str
    index: int
    texts: list[str]

    @property
    def place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}

    @property
    def text(self) -> str:
        return "".join(self.texts)


class _Encoder:
    """One answer. Thinking is told as a reasoning summary, the one form of it that every client shows.

    One message holds the whole text, so that the places of citations are places in it; thinking that comes after
    the text has begun is an item of its own behind it.
    """

    heartbeat = sse.COMMENT

    def __init__(self, body: Body, name: str, conversation_id: str | None) -> None:
        """``name`` makes the ids of the response and of its items."""
        self._created_at = int(time.time())
        self._fixed = _fixed_fields(body, f"resp_{name}", conversation_id)
        self._name = name
        self._number = 0
        # What the output is made of, by the place of each in it; None while it is being told.
        self._output: list[dict[str, Any] | None] = []
        self._message: _Item | None = None
        self._thought: _Item | None = None
        self._annotations: list[dict[str, Any]] = []

    def begin(self, told: Told) -> bytes:  # noqa: ARG002  # an Encoder's
        response = self._response("in_progress", [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def text(self, text: str) -> bytes:
        out = self._end_thought()
        if self._message is None:
            self._message = self._new_item("msg")
            out += self._begin_message(self._message)
        self._message.texts.append(text)
        return out + self._event(
            "response.output_text.delta", **self._message.place, content_index=0, delta=text, logprobs=[]
        )

    def reasoning(self, text: str) -> bytes:
        out = b""
        if self._thought is None:
            self._thought = self._new_item("rs")
            out = self._begin_thought(self._thought)
        self._thought.texts.append(text)
        return out + self._event(
            "response.reasoning_summary_text.delta", **self._thought.place, summary_index=0, delta=text
        )

    def citation(self, citation: Citation) -> bytes:
        if self._message is None:
            return b""
        self._annotations.append(_annotation(citation))
        return self._event(
            "response.output_text.annotation.added",
            **self._message.place,
            content_index=0,
            annotation_index=len(self._annotations) - 1,
            annotation=self._annotations[-1],
        )

    def end(self, told: Told) -> bytes:
        status = _status(told)
        out = self._end_thought()
        if self._message is not None:
            out += self._end_message(self._message, status)
        response = self._response(status, self._told_items(), told)
        return out + self._event(f"response.{status}", response=response)

    def fail(self, failure: Failure) -> bytes:
        """Two events: most clients wait for the second, openai-node and the AI SDK look for the first."""
        response = self._response("failed", self._told_items())
        response["error"] = {"code": _ERROR_CODES.get(failure.status, "server_error"), "message": failure.message}
        error = {"code": failure.code, "message": failure.message, "param": failure.param}
        return self._event("error", **error) + self._event("response.failed", response=response)

    def whole(self, told: Told) -> dict[str, Any]:
        thought = [_reasoning_item(f"rs_{self._name}_0", told.reasoning)] if told.thoughts else []
        annotations = [_annotation(citation) for citation in told.citations]
        message = _message_item(f"msg_{self._name}_{len(thought)}", _status(told), told.text, annotations)
        return self._response(_status(told), [*thought, message], told)

    def _new_item(self, prefix: str) -> _Item:
        index = len(self._output)
        self._output.append(None)
        return _Item(f"{prefix}_{self._name}_{index}", index, [])

    def _told_items(self) -> list[dict[str, Any]]:
        return [item for item in self._output if item is not None]

    def _begin_message(self, item: _Item) -> bytes:
        added = {**_message_item(item.id, "in_progress", "", []), "content": []}
        return self._event("response.output_item.added", output_index=item.index, item=added) + self._event(
            "response.content_part.added", **item.place, content_index=0, part=_text_part("", [])
        )

    def _end_message(self, item: _Item, status: str) -> bytes:
        done = self._output[item.index] = _message_item(item.id, status, item.text, self._annotations)
        place = {**item.place, "content_index": 0}
        return (
            self._event("response.output_text.done", **place, text=item.text, logprobs=[])
            + self._event("response.content_part.done", **place, part=_text_part(item.text, self._annotations))
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

    def _response(self, status: str, output: list[dict[str, Any]], told: Told | None = None) -> dict[str, Any]:
        incomplete = {"reason": _INCOMPLETE.get(told.reason or "")} if told and status == "incomplete" else None
        return {
            **self._fixed,
            "created_at": self._created_at,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "incomplete_details": incomplete,
            "error": None,
            "output": output,
            "usage": _usage(told) if told else None,
        }


_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}

# HTTP's status of a failure → the few codes that a failed response may have.
_ERROR_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


def _status(told: Told) -> str:
    return "incomplete" if told.reason in _INCOMPLETE else "completed"


def _fixed_fields(body: Body, response_id: str, conversation_id: str | None) -> dict[str, Any]:
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
        "tool_choice": "none" if body.tool_choice == "none" else "auto",
        "tools": [{"type": "web_search"}] if body.searches else [],
        "top_logprobs": 0,
        "top_p": 1 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
        "user": body.user,
    }


def _format(body: Body) -> dict[str, Any]:
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


def _annotation(citation: Citation) -> dict[str, Any]:
    return {
        "type": "url_citation",
        "url": citation.url,
        "title": citation.title,
        "start_index": citation.start_index,
        "end_index": citation.end_index,
    }


def _usage(told: Told) -> dict[str, Any]:
    counts = told.count()
    return {
        "input_tokens": counts.input,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.input + counts.output,
    }


_ITS_ID = {"response_id": {"type": "string", "description": "of a response"}}
_NEVER_KEPT = {404: "always: responses are not kept, conversations are"}

OPERATIONS = (
    Operation(
        "post",
        "/v1/responses",
        "OpenAI's Responses",
        object_of(object={"const": "response"}, id={"type": "string"}, output={"type": "array"}),
        body=Body,
        streams=True,
        failures=OF_ANSWERS,
    ),
    Operation("get", "/v1/responses/{response_id}", "No response is kept", {}, _ITS_ID, failures=_NEVER_KEPT),
    Operation("delete", "/v1/responses/{response_id}", "No response is kept", {}, _ITS_ID, failures=_NEVER_KEPT),
)

"""What clients of OpenAI's Responses send: every parameter and item that we know, and what happens to it.

Source: OpenAI's API reference, and what Codex and the AI SDK were seen to send (openai-contract.md 4, 2026-11-23).
Knows Kimi only in the sentences for people.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, StrictBool, StrictInt, StrictStr, Tag
from pydantic_core import PydanticCustomError

from app.api.responses.turn_ids import Previous, TurnId, last_of
from app.chat import (
    ChatRequest,
    Effort,
    FilePart,
    ImagePart,
    JsonFormat,
    Message,
    Options,
    OtherPart,
    Part,
    TextPart,
    ToolCall,
    text_message,
)
from app.errors import InvalidRequest
from app.web.accepted_request import AnswerParameters
from app.web.json_schema import schema_text
from app.web.parameters import ParameterRule, unknown_fields
from app.web.request_body import Fields, Many
from app.web.shared_parameters import (
    BOOKKEEPING,
    MODEL,
    NO_FORCED_TOOL,
    PENALTY,
    PROBABILITIES,
    SAMPLING,
    STREAM_ONLY,
    TOOLS,
    TOOLS_WITH_SEARCH,
    Number,
    thinks,
)


class _Text(Fields):
    type: Literal["input_text", "output_text", "text"]
    text: StrictStr

    def to_part(self, _place: str) -> Part:
        return TextPart(self.text)


class _Refusal(Fields):
    type: Literal["refusal"]
    refusal: StrictStr

    def to_part(self, _place: str) -> Part:
        return TextPart(self.refusal)


class _Image(Fields):
    type: Literal["input_image"]
    image_url: Any = None
    file_id: Any = None

    def to_part(self, place: str) -> Part:
        return ImagePart(str(self.image_url or self.file_id or ""), place, self.type)


class _File(Fields):
    type: Literal["input_file"]
    file_data: Any = None
    file_url: Any = None
    file_id: Any = None
    filename: Any = None

    def to_part(self, place: str) -> Part:
        source = self.file_data or self.file_url or self.file_id or ""
        return FilePart(str(source), str(self.filename or ""), place, self.type)


class _OtherPart(Fields):
    """Known to OpenAI, not to us: it keeps its place, and is refused by who cannot take it."""

    type: Literal["input_audio", "computer_screenshot"]

    def to_part(self, place: str) -> Part:
        return OtherPart(place, self.type)


_Parts = Many[Annotated[_Text | _Refusal | _Image | _File | _OtherPart, Field(discriminator="type")]]


def _to_parts(content: str | _Parts, place: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(part.to_part(f"{place}[{index}]") for index, part in enumerate(content))


class _Message(Fields):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | _Parts

    def to_message(self, place: str) -> Message:
        return Message(self.role, _to_parts(self.content, f"{place}.content"))


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
        return Message("tool", _to_parts(self.output, f"{place}.output"), tool_call_id=self.call_id)


class _Dropped(Fields):
    """What a model thought, or that it searched: the next answer does not need it."""

    type: Literal["reasoning", "web_search_call"]

    def to_message(self, _place: str) -> None:
        return None


class _Reference(Fields):
    """An item of an earlier answer, which the conversation holds: all before it has been said."""

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
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class _Conversation(Fields):
    id: StrictStr


# What is done with each


_INPUT = ParameterRule(
    "honoured",
    "text, or messages, calls and their results; images, files and audio are a 400 that names their place",
    "文本，或消息、工具调用及其结果；图片、文件、音频返回 400，并指出位置",
)
_INSTRUCTIONS = ParameterRule(
    "honoured",
    "sent again only where they have changed; earlier ones stay in Kimi's chat",
    "只在变化时重新发送；之前的仍保留在 Kimi 的会话里",
)
_STORE = ParameterRule(
    "honoured",
    "unless false, a Kimi conversation is opened or continued, and kept; false keeps nothing",
    "不为 false 时新建或继续一个 Kimi 对话并保留；为 false 时什么都不保留",
)
_PREVIOUS = ParameterRule(
    "honoured",
    "the last response of a conversation; an older one is a 400, an unknown one a 404",
    "对话的最后一次回答；更早的返回 400，未知的返回 404",
)
_CONVERSATION = ParameterRule(
    "honoured",
    "its id, which may be any; the conversation begins with its first turn",
    "对话的 id，可以任取；第一轮时新建",
)
_MAX_TOKENS = ParameterRule(
    "honoured",
    "by estimate, thinking included; the response is then `incomplete`",
    "按估算值（含思考）截断，此时回答的状态为 `incomplete`",
)
_REASONING = ParameterRule(
    "honoured",
    "`effort` chooses the form of the model with or without thinking; a summary is always returned",
    "`effort` 选择模型的思考或非思考形式；思考过程总会以 summary 给出",
)
_TEXT = ParameterRule(
    "honoured",
    "`format`: `json_object` and `json_schema` by asking Kimi and checking its answer",
    "`format`：`json_object` 和 `json_schema` 通过提示词要求，并校验回答",
)
_METADATA = ParameterRule("honoured", "repeated in the response, and kept nowhere", "在回答里原样返回，不保存")
_TRUNCATION = ParameterRule(
    "ignored",
    "nothing is left out: what is too long for Kimi is a 400",
    "不会省略任何内容：超出 Kimi 限制的返回 400",
    neutral=("disabled",),
)
_INCLUDE = ParameterRule(
    "ignored",
    "there is nothing to add to a response; `message.output_text.logprobs` is a 400",
    "没有可附加的内容；`message.output_text.logprobs` 返回 400",
    lambda value: "Kimi gives no probabilities" if "message.output_text.logprobs" in value else None,
)
_BACKGROUND = ParameterRule(
    "refused",
    "an answer is returned while it comes, and not kept for later",
    "回答在生成时给出，不会留到以后",
    lambda value: "an answer is returned while it comes, and not kept for later" if value else None,
)
_PROMPT = ParameterRule(
    "refused",
    "no templates are kept here: send `instructions` and `input`",
    "这里不保存模板，请发送 `instructions` 和 `input`",
    lambda _value: "no templates are kept here: send instructions and input",
)


def _refuse_forced_tool(value: str | _ToolChoice) -> str | None:
    if isinstance(value, _ToolChoice):
        value = (value.mode or "auto") if value.type == "allowed_tools" else "required"
    return None if value in ("auto", "none") else NO_FORCED_TOOL


_TOOL_CHOICE = ParameterRule("refused", "a call that is forced", "强制调用工具", _refuse_forced_tool)


# As at OpenAI.
_MAX_METADATA = 16


def _refuse_many(value: Any) -> Any:
    """Called before the pairs are read, because pydantic counts only those that are right."""
    if isinstance(value, dict) and len(value) > _MAX_METADATA:
        about = {"most": _MAX_METADATA, "number": len(value)}
        raise PydanticCustomError("too_long", "Dictionary should have at most {most} items, not {number}", about)
    return value


_Metadata = Annotated[dict[StrictStr, StrictStr], Field(max_length=_MAX_METADATA), BeforeValidator(_refuse_many)]


class Body(AnswerParameters):
    """The body of ``POST /v1/responses``."""

    conversation_field: ClassVar[str] = "conversation"

    model: Annotated[StrictStr, MODEL]
    input: Annotated[StrictStr | Many[_InputItem], Field(min_length=1), _INPUT]
    instructions: Annotated[StrictStr | None, _INSTRUCTIONS] = None
    stream: Annotated[StrictBool | None, STREAM_ONLY] = None
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
    tools: Annotated[Many[_Tool] | None, TOOLS_WITH_SEARCH] = None
    parallel_tool_calls: Annotated[StrictBool | None, TOOLS] = None
    max_tool_calls: Annotated[StrictInt | None, Field(ge=1), TOOLS] = None
    include: Annotated[Many[StrictStr] | None, _INCLUDE] = None
    stream_options: Annotated[dict[str, Any] | None, ParameterRule("ignored", "nothing is padded", "不做填充")] = None
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
    def wants_stream(self) -> bool:
        return bool(self.stream)

    @property
    def named_conversation(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, _Conversation) else self.conversation

    @property
    def searches(self) -> bool:
        """Whether the client put a web search at the model's disposal."""
        return any(tool.searches for tool in self.tools or ())

    def previous(self) -> Previous | None:
        """What the request continues from, if it says so. Raises InvalidRequest where it says two things."""
        items = [] if isinstance(self.input, str) else self.input
        found = [
            Previous.of_item(item.id, f"input[{index}]")
            for index, item in enumerate(items)
            if isinstance(item, _Reference)
        ]
        if self.previous_response_id is not None:
            found.append(Previous.of_response(self.previous_response_id))
        return last_of(found)

    def to_request(self, turn: TurnId | None) -> ChatRequest:
        """``turn``: the turn that is asked for. Raises InvalidRequest with the field that is at fault."""
        return ChatRequest(
            self.model,
            self._messages(),
            turn.conversation_id if turn else None,
            self._options(),
            turn.number - 1 if turn and turn.number else None,
            messages_field="input",
        )

    def _messages(self) -> tuple[Message, ...]:
        messages = [text_message("system", self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return (*messages, text_message("user", self.input))
        held = max((index for index, item in enumerate(self.input) if isinstance(item, _Reference)), default=-1)
        for index, item in enumerate(self.input):
            message = item.to_message(f"input[{index}]")
            # What comes before a reference has been said; only instructions may have changed. Without the items that
            # references stand for, it is no history from which a conversation could be rebuilt.
            if message is not None and (index > held or message.role in ("system", "developer")):
                messages.append(message)
        return tuple(messages)

    def _options(self) -> Options:
        effort = self.reasoning.effort if self.reasoning else None
        return Options(
            max_tokens=self.max_output_tokens,
            thinking=thinks(effort),
            effort=effort,
            # A search that may not be used is none.
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

"""What clients of OpenAI's Responses send: every parameter and item that we know, and what happens to it.

Source: OpenAI's API reference, and what Codex and the AI SDK were seen to send (openai-contract.md 4, 2026-11-23).
Knows Kimi only in the sentences for people.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, StrictBool, StrictInt, StrictStr, Tag
from pydantic_core import PydanticCustomError

from app.api.responses.turn_ids import Previous, TurnId, last_of
from app.chat import (
    ChatRequest,
    JsonFormat,
    Message,
    Options,
    OtherPart,
    Part,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    text_message,
)
from app.errors import InvalidRequest
from app.text.tools.names import Names
from app.web.accepted_request import AnswerParameters
from app.web.any_part import AnyPart, is_thought, left_out_parts
from app.web.file_fields import unused_fields, unused_sources
from app.web.file_references import ATTACHED, ATTACHED_ZH, file_reference, image_reference
from app.web.json_schema import schema_text
from app.web.parameters import ParameterRule, unknown_fields
from app.web.request_body import Fields, Many
from app.web.shared_parameters import (
    BOOKKEEPING,
    MODEL,
    PENALTY,
    PROBABILITIES,
    SAMPLING,
    STREAM_ONLY,
    WHOLE,
    EffortChoice,
    Number,
    TokenLimit,
    thinks,
)
from app.web.tool_parameters import (
    TOOLS_WITH_SEARCH,
    TextFormat,
    arguments_schema,
    tool_choice_rule,
    tools_are_on,
    with_tools,
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
        if self.file_id and not self.image_url:
            return file_reference(None, self.file_id, place, self.type, is_image=True)
        return image_reference(self.image_url, place, self.type)

    def ignored(self, place: str) -> Iterator[str]:
        yield from unused_fields(self.model_extra, place)
        yield from unused_sources({"image_url": self.image_url, "file_id": self.file_id}, place)


class _File(Fields):
    type: Literal["input_file"]
    file_data: Any = None
    file_url: Any = None
    file_id: Any = None
    filename: Any = None

    def to_part(self, place: str) -> Part:
        return file_reference(self.file_data, self.file_id, place, self.type, self.filename, url=self.file_url)

    def ignored(self, place: str) -> Iterator[str]:
        yield from unused_fields(self.model_extra, place)
        sources = {"file_data": self.file_data, "file_url": self.file_url, "file_id": self.file_id}
        yield from unused_sources(sources, place)


class _OtherPart(Fields):
    """Known to OpenAI, not to us: it keeps its place, and is refused by who cannot take it."""

    type: Literal["input_audio", "computer_screenshot"]

    def to_part(self, place: str) -> Part:
        return OtherPart(place, self.type)


_Part = Annotated[_Text | _Refusal | _Image | _File | _OtherPart, Field(discriminator="type")]
# No set: clients may put a list there, which has no hash.
_KNOWN_PARTS = (
    *("input_text", "output_text", "text", "refusal", "input_image", "input_file"),
    *("input_audio", "computer_screenshot"),
)


def _part_tag(part: Any) -> str:
    return "known" if isinstance(part, dict) and part.get("type") in _KNOWN_PARTS else "any"


# A history may hold content of any type, as other programs made it, and so may what a call returned: an agent cannot
# choose what its functions return.
_Parts = Many[Annotated[Annotated[_Part, Tag("known")] | Annotated[AnyPart, Tag("any")], Discriminator(_part_tag)]]


def _to_parts(content: str | _Parts, place: str, role: str | None = None) -> Iterator[Part]:
    """``role``: of the message; None for the result of a call."""
    if isinstance(content, str):
        yield TextPart(content)
        return
    for index, part in enumerate(content):
        here = f"{place}[{index}]"
        if isinstance(part, AnyPart) and role is not None:
            yield from part.in_message(role, here, _KNOWN_PARTS)
        else:
            yield part.to_part(here)


def _ignored_in(content: Any, place: str) -> Iterator[str]:
    """The fields of images and documents that have no effect."""
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, _Image | _File):
            yield from part.ignored(f"{place}[{index}]")


def _append(messages: list[Message], message: Message) -> None:
    """What one response said and called are several items, and one message: its calls are numbered in it."""
    last = messages[-1] if messages else None
    if message.tool_calls and last is not None and last.role == "assistant":
        messages[-1] = replace(last, tool_calls=(*last.tool_calls, *message.tool_calls))
    else:
        messages.append(message)


class _Message(Fields):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | _Parts

    def to_message(self, place: str) -> Message:
        return Message(self.role, tuple(_to_parts(self.content, f"{place}.content", self.role)))


class _Call(Fields):
    """A call that the model made in an earlier turn. A custom tool takes text for arguments."""

    type: Literal["function_call", "custom_tool_call"]
    call_id: StrictStr
    name: StrictStr
    namespace: StrictStr | None = None
    arguments: StrictStr = ""
    input: StrictStr = ""

    def to_message(self, _place: str) -> Message:
        is_text = self.type == "custom_tool_call"
        said = self.input or self.arguments if is_text else self.arguments or self.input
        call = ToolCall(self.call_id, self.name, said, "text" if is_text else "function", self.namespace)
        return Message("assistant", (), tool_calls=(call,))


class _OldOutput(Fields):
    """As older versions of Codex send it."""

    content: StrictStr | _Parts | None = None
    success: StrictBool | None = None


class _CallOutput(Fields):
    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: StrictStr
    output: StrictStr | _Parts | _OldOutput | None = None

    def to_message(self, place: str) -> Message:
        old = self.output if isinstance(self.output, _OldOutput) else None
        failed = old is not None and old.success is False
        return Message("tool", self._parts(place), tool_call_id=self.call_id, failed=failed)

    def unshown(self, place: str) -> Iterator[str]:
        """The places of what cannot be shown to Kimi and is replaced by words."""
        yield from (part.place for part in self._parts(place) if isinstance(part, OtherPart))

    def ignored(self, place: str) -> Iterator[str]:
        yield from _ignored_in(self._content, f"{place}.output")

    @property
    def _content(self) -> StrictStr | _Parts | None:
        return self.output.content if isinstance(self.output, _OldOutput) else self.output

    def _parts(self, place: str) -> tuple[Part, ...]:
        return () if self._content is None else tuple(_to_parts(self._content, f"{place}.output"))


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


class _OtherItem(Fields):
    """An item of a type that we do not know, which a program replays from its history. Its text is read, as what the
    assistant said unless it says otherwise; what a model thought is left out, as elsewhere."""

    type: StrictStr = Field(max_length=64)

    @property
    def said(self) -> str:
        if is_thought(self.type):
            return ""
        extra = self.model_extra or {}
        found = next((extra[name] for name in ("text", "content", "message", "output") if extra.get(name)), None)
        parts = found if isinstance(found, list) else [found]
        texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
        return "\n".join(text for text in texts if isinstance(text, str))

    def to_message(self, _place: str) -> Message | None:
        role = (self.model_extra or {}).get("role")
        said = self.said
        return text_message(role if role in ("user", "system", "developer") else "assistant", said) if said else None


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
    return _KINDS.get(kind, "other") if kind is None or isinstance(kind, str) else None


_InputItem = Annotated[
    Annotated[_Message, Tag("message")]
    | Annotated[_Call, Tag("call")]
    | Annotated[_CallOutput, Tag("output")]
    | Annotated[_Dropped, Tag("dropped")]
    | Annotated[_Reference, Tag("reference")]
    | Annotated[_OtherItem, Tag("other")],
    Discriminator(
        _kind,
        custom_error_type="unknown_item",
        custom_error_message="expected an object; its type is a string, message if there is none",
    ),
]


class _FunctionTool(Fields):
    type: Literal["function"]
    name: StrictStr
    description: StrictStr | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None
    searches: ClassVar[bool] = False

    def to_tools(self, place: str, namespace: str | None = None) -> Iterator[Tool]:
        schema = arguments_schema(self.parameters, f"{place}.parameters")
        about = self.description or ""
        yield Tool(self.name, about, schema, "function", bool(self.strict), namespace, f"{place}.name")


class _FreeTextTool(Fields):
    type: Literal["custom"]
    name: StrictStr
    description: StrictStr | None = None
    format: TextFormat | None = None
    searches: ClassVar[bool] = False

    def to_tools(self, place: str, namespace: str | None = None) -> Iterator[Tool]:
        about = (self.description or "") + (self.format.words if self.format else "")
        yield Tool(self.name, about, None, "text", namespace=namespace, place=f"{place}.name")


class _OtherTool(Fields):
    """One that OpenAI or a client's own model runs."""

    type: StrictStr

    @property
    def searches(self) -> bool:
        return self.type.startswith("web_search")

    def to_tools(self, _place: str, _namespace: str | None = None) -> Iterator[Tool]:
        yield from ()


def _tool_tag(tool: Any) -> str:
    # A dict as it comes, an object as the response repeats it.
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return kind if kind in ("function", "custom", "namespace") else "other"


_OneTool = Annotated[
    Annotated[_FunctionTool, Tag("function")]
    | Annotated[_FreeTextTool, Tag("custom")]
    | Annotated[_OtherTool, Tag("other")],
    Discriminator(lambda tool: "other" if (tag := _tool_tag(tool)) == "namespace" else tag),
]


class _Namespace(Fields):
    """Functions under one name, such as those of an MCP server."""

    type: Literal["namespace"]
    name: StrictStr
    description: StrictStr | None = None
    tools: Many[_OneTool] = []
    searches: ClassVar[bool] = False

    def to_tools(self, place: str) -> Iterator[Tool]:
        for index, tool in enumerate(self.tools):
            yield from tool.to_tools(f"{place}.tools[{index}]", self.name)


_Tool = Annotated[
    Annotated[_FunctionTool, Tag("function")]
    | Annotated[_FreeTextTool, Tag("custom")]
    | Annotated[_Namespace, Tag("namespace")]
    | Annotated[_OtherTool, Tag("other")],
    Discriminator(_tool_tag),
]


# Fields that openai-python's models demand of a response's tools, and that a request may leave out.
_SHOWN_ALWAYS: dict[str, dict[str, Any]] = {
    "function": {"description": None, "parameters": None, "strict": None},
    "namespace": {"description": "", "tools": []},
}


class _ToolReference(Fields):
    type: StrictStr
    name: StrictStr | None = None
    namespace: StrictStr | None = None


class _ToolChoice(_ToolReference):
    """One tool, or with the type ``allowed_tools`` several."""

    mode: Literal["auto", "required"] = "auto"
    tools: Many[_ToolReference] = []

    @property
    def is_required(self) -> bool:
        return self.type != "allowed_tools" or self.mode == "required"


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
    effort: EffortChoice = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class _Conversation(Fields):
    id: StrictStr


# What is done with each


_INPUT = ParameterRule(
    "honoured",
    f"text, or messages, calls and their results; `input_image` and `input_file` {ATTACHED}",
    f"文本，或消息、工具调用及其结果；`input_image` 和 `input_file`{ATTACHED_ZH}",
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
    "a response of a conversation; an older one than the last begins a branch, an unknown one is a 404",
    "对话的一次回答；不是最后一次时开始分支，未知的返回 404",
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


_TOOL_CHOICE = tool_choice_rule(
    "`auto`, `none`, `required`, one function, or `allowed_tools`",
    "`auto`、`none`、`required`、指定函数或 `allowed_tools`",
    lambda value: value.is_required if isinstance(value, _ToolChoice) else value == "required",
)
_PARALLEL = ParameterRule(
    "honoured", "false: the answer ends after its first call", "为 false 时回答在第一次调用后结束"
)
_MAX_CALLS = ParameterRule(
    "ignored", "it limits tools that the provider runs, and none is run here", "限制由服务方运行的工具；这里没有"
)


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
    max_output_tokens: Annotated[TokenLimit, _MAX_TOKENS] = None
    reasoning: Annotated[_Reasoning | None, _REASONING] = None
    text: Annotated[_TextOptions | None, _TEXT] = None
    metadata: Annotated[_Metadata | None, _METADATA] = None

    temperature: Annotated[Number | None, Field(ge=0, le=2), SAMPLING] = None
    top_p: Annotated[Number | None, Field(ge=0, le=1), SAMPLING] = None
    frequency_penalty: Annotated[Number | None, Field(ge=-2, le=2), PENALTY] = None
    presence_penalty: Annotated[Number | None, Field(ge=-2, le=2), PENALTY] = None
    truncation: Annotated[Literal["auto", "disabled"] | None, _TRUNCATION] = None
    tools: Annotated[Many[_Tool] | None, TOOLS_WITH_SEARCH] = None
    tool_choice: Annotated[Literal["auto", "none", "required"] | _ToolChoice | None, _TOOL_CHOICE] = None
    parallel_tool_calls: Annotated[StrictBool | None, _PARALLEL] = None
    max_tool_calls: Annotated[StrictInt | None, Field(ge=1), WHOLE, _MAX_CALLS] = None
    include: Annotated[Many[StrictStr] | None, _INCLUDE] = None
    stream_options: Annotated[dict[str, Any] | None, ParameterRule("ignored", "nothing is padded", "不做填充")] = None
    service_tier: Annotated[StrictStr | None, BOOKKEEPING] = None
    safety_identifier: Annotated[StrictStr | None, BOOKKEEPING] = None
    prompt_cache_key: Annotated[StrictStr | None, BOOKKEEPING] = None
    prompt_cache_retention: Annotated[StrictStr | None, BOOKKEEPING] = None
    user: Annotated[StrictStr | None, BOOKKEEPING] = None

    top_logprobs: Annotated[StrictInt | None, Field(ge=0, le=20), WHOLE, PROBABILITIES] = None
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

    def shown_tools(self) -> list[dict[str, Any]]:
        """The tools that were the model's to use, as the response repeats them."""
        shown: list[dict[str, Any]] = []
        for tool in self.tools or ():
            if tool.searches:
                shown = [*shown, {"type": "web_search"}] if {"type": "web_search"} not in shown else shown
            elif not isinstance(tool, _OtherTool) and tools_are_on():
                shown.append({**_SHOWN_ALWAYS.get(tool.type, {}), **tool.model_dump(exclude_unset=True)})
        return shown

    def shown_tool_choice(self) -> str | dict[str, Any]:
        """As it was sent, where it has an effect."""
        if not tools_are_on():
            return "none" if self.tool_choice == "none" else "auto"
        choice = self.tool_choice
        return choice.model_dump(exclude_unset=True) if isinstance(choice, _ToolChoice) else choice or "auto"

    def previous(self) -> Previous | None:
        """What the request continues from, if it says so. Raises InvalidRequest where it says two things."""
        items = [] if isinstance(self.input, str) else self.input
        found = [
            Previous.of_item(item.id, f"input[{index}]")
            for index, item in enumerate(items)
            if isinstance(item, _Reference)
        ]
        if self.previous_response_id:
            found.append(Previous.of_response(self.previous_response_id))
        return last_of(found)

    def to_request(self, turn: TurnId | None) -> ChatRequest:
        """``turn``: the turn that is asked for. Raises InvalidRequest with the field that is at fault."""
        request = ChatRequest(
            self.model,
            self._messages(),
            turn.conversation_id if turn else None,
            self._options(),
            turn.number - 1 if turn and turn.number else None,
            turn.follows if turn else None,
            messages_field="input",
            repeats_history=True,
            # What may be kept is a conversation of its own.
            stores_nothing=True,
            opens_conversation=turn is not None and turn.opens_conversation,
        )
        tools = [tool for i, one in enumerate(self.tools or ()) for tool in one.to_tools(f"tools[{i}]")]
        return with_tools(request, tools, self._tool_choice(tools), "tool_choice")

    def _tool_choice(self, tools: Sequence[Tool]) -> ToolChoice:
        choice, parallel = self.tool_choice, self.parallel_tool_calls is not False
        if not isinstance(choice, _ToolChoice):
            return ToolChoice(choice or "auto", (), parallel)
        if choice.type != "allowed_tools":
            return ToolChoice("required", _labels(choice, tools), parallel)
        # A search is no function: it is allowed or not by itself.
        names = [
            name for one in choice.tools if not one.type.startswith("web_search") for name in _labels(one, tools)
        ]
        return ToolChoice(choice.mode, tuple(names), parallel)

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
                _append(messages, message)
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
        yield from super()._ignored()
        yield from unknown_fields((tool for tool in self.tools or () if tool.searches), "tools")
        if tools_are_on():
            for index, tool in enumerate(self.tools or ()):
                if isinstance(tool, _OtherTool) and not tool.searches:
                    yield f"tools[{index}]"
            for index, item in enumerate(self.input if isinstance(self.input, list) else ()):
                if isinstance(item, _CallOutput):
                    yield from item.unshown(f"input[{index}]")
        elif not all(tool.searches for tool in self.tools or ()):
            yield "tools"
        for index, item in enumerate(self.input if isinstance(self.input, list) else ()):
            if isinstance(item, _OtherItem) and not item.said:
                yield f"input[{index}]"
            elif isinstance(item, _Message):
                yield from _ignored_in(item.content, f"input[{index}].content")
                yield from left_out_parts(item.content, item.role, f"input[{index}].content")
            elif isinstance(item, _CallOutput):
                yield from item.ignored(f"input[{index}]")
        if self.text is not None and self.text.verbosity not in (None, "medium"):
            yield "text.verbosity"


def _labels(reference: _ToolReference, tools: Sequence[Tool]) -> tuple[str, ...]:
    """How the functions that a reference names are called in a prompt: one, or all of a namespace."""
    names = Names(tools)
    if reference.type == "namespace":
        found = [tool for tool in tools if tool.namespace == reference.name]
    else:
        found = [tool for tool in tools if (tool.namespace, tool.name) == (reference.namespace, reference.name)]
    # What is not there is refused by its name.
    return tuple(names.label(tool) for tool in found) or (reference.name or reference.type,)

"""What clients of OpenAI's chat completions send: every parameter that we know, and what happens to it.

Source: OpenAI's API reference and what its clients were seen to send (openai-contract.md 2, 2026-11-23). Knows Kimi
only in the sentences for people.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictBool, StrictInt, StrictStr, Tag

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
)
from app.errors import InvalidRequest
from app.web.accepted_request import AnswerParameters
from app.web.any_part import AnyPart, left_out_parts
from app.web.file_fields import unused_fields, unused_sources
from app.web.file_references import ATTACHED, ATTACHED_ZH, file_reference, image_reference
from app.web.json_schema import schema_text
from app.web.openai_shapes import Stop, StreamOptions, stop_sequences
from app.web.parameters import ParameterRule
from app.web.request_body import Fields, Many
from app.web.shared_parameters import (
    BIASES,
    BOOKKEEPING,
    CONVERSATION,
    MODEL,
    PENALTY,
    PROBABILITIES,
    SAMPLING,
    SEED,
    STOP,
    STREAM,
    STYLE,
    VENDOR,
    WHOLE,
    EffortChoice,
    Number,
    TokenLimit,
    thinks,
)
from app.web.tool_parameters import (
    TOOLS,
    TextFormat,
    arguments_schema,
    tool_choice_rule,
    tools_are_on,
    with_tools,
)

# Each choice is a Kimi chat of its own.
MAX_CHOICES = 4


# Messages


class _TextPart(Fields):
    type: Literal["text"]
    text: StrictStr

    def to_part(self, _place: str) -> Part:
        return TextPart(self.text)


class _RefusalPart(Fields):
    type: Literal["refusal"]
    refusal: StrictStr

    def to_part(self, _place: str) -> Part:
        return TextPart(self.refusal)


class _ImagePart(Fields):
    type: Literal["image_url"]
    image_url: Any = None

    def to_part(self, place: str) -> Part:
        url = self.image_url.get("url") if isinstance(self.image_url, dict) else self.image_url
        return image_reference(url, place, self.type)

    def ignored(self, place: str) -> Iterator[str]:
        yield from unused_fields(self.model_extra, place)
        if isinstance(self.image_url, dict):
            yield from unused_fields(self.image_url, f"{place}.image_url", "url")


class _FilePart(Fields):
    type: Literal["file"]
    file: dict[str, Any] = {}

    def to_part(self, place: str) -> Part:
        content = self.file.get("file_data")
        return file_reference(content, self.file.get("file_id"), place, self.type, self.file.get("filename"))

    def ignored(self, place: str) -> Iterator[str]:
        yield from unused_fields(self.model_extra, place)
        yield from unused_fields(self.file, f"{place}.file", "file_data", "file_id", "filename")
        yield from unused_sources(self.file, f"{place}.file")


class _OtherPart(Fields):
    type: Literal["input_audio", "video_url"]

    def to_part(self, place: str) -> Part:
        return OtherPart(place, self.type)


_Part = Annotated[_TextPart | _RefusalPart | _ImagePart | _FilePart | _OtherPart, Field(discriminator="type")]


# No set: clients may put a list there, which has no hash.
_KNOWN_PARTS = ("text", "refusal", "image_url", "file", "input_audio", "video_url")


def _part_tag(part: Any) -> str:
    return "known" if isinstance(part, dict) and part.get("type") in _KNOWN_PARTS else "any"


# A history may hold content of any type, as other programs made it, and so may what a call returned: an agent cannot
# choose what its functions return.
_AnyPart = Annotated[
    Annotated[_Part, Tag("known")] | Annotated[AnyPart, Tag("any")],
    Discriminator(_part_tag),
]


class _Function(Fields):
    name: StrictStr
    arguments: StrictStr = ""


class _FreeText(Fields):
    name: StrictStr
    input: StrictStr = ""


class _ToolCall(Fields):
    id: StrictStr = ""
    function: _Function | None = None
    custom: _FreeText | None = None

    def to_call(self, place: str) -> ToolCall:
        if self.custom is not None:
            return ToolCall(self.id, self.custom.name, self.custom.input, "text")
        if self.function is None:
            raise InvalidRequest(f"{place}.function: Field required", param=f"{place}.function")
        return ToolCall(self.id, self.function.name, self.function.arguments)


class _Message(Fields):
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | Many[_AnyPart] | None = None
    refusal: StrictStr | None = None
    name: StrictStr | None = None
    tool_calls: Many[_ToolCall] | None = None
    function_call: _Function | None = None
    # Moonshot's: the answer is to continue this message, which is what is done with every last one of the assistant.
    # Other fields of messages are what their clients received.
    partial: StrictBool | None = None

    def to_message(self, place: str) -> Message:
        if self.content is None and self.role in ("system", "developer", "user"):
            raise InvalidRequest(f"a {self.role} message needs content", param=f"{place}.content")
        calls = [c.to_call(f"{place}.tool_calls[{i}]") for i, c in enumerate(self.tool_calls or ())]
        if self.function_call is not None:
            calls.append(ToolCall("", self.function_call.name, self.function_call.arguments))
        parts = (*self._parts(place), *([TextPart(self.refusal)] if self.refusal else []))
        return Message(self.role, parts, self.name, tuple(calls))

    def unshown(self, _place: str) -> Iterator[str]:
        """The places of what cannot be shown to Kimi and is replaced by words."""
        yield from ()

    def _parts(self, place: str) -> Iterator[Part]:
        if isinstance(self.content, str):
            yield TextPart(self.content)
            return
        for index, part in enumerate(self.content or ()):
            here = f"{place}.content[{index}]"
            if isinstance(part, AnyPart):
                yield from part.in_message(self.role, here, _KNOWN_PARTS)
            else:
                yield part.to_part(here)


class _Result(Fields):
    """What a call returned."""

    role: Literal["tool", "function"]
    content: StrictStr | Many[_AnyPart] | None = None
    name: StrictStr | None = None
    tool_call_id: StrictStr | None = None

    def to_message(self, place: str) -> Message:
        return Message(self.role, tuple(self._parts(place)), self.name, (), self.tool_call_id)

    def unshown(self, place: str) -> Iterator[str]:
        yield from (part.place for part in self._parts(place) if isinstance(part, OtherPart))

    def _parts(self, place: str) -> Iterator[Part]:
        if isinstance(self.content, str):
            yield TextPart(self.content)
            return
        for index, part in enumerate(self.content or ()):
            yield part.to_part(f"{place}.content[{index}]")


def _message_tag(message: Any) -> str:
    return "result" if isinstance(message, dict) and message.get("role") in ("tool", "function") else "message"


_AnyMessage = Annotated[
    Annotated[_Message, Tag("message")] | Annotated[_Result, Tag("result")], Discriminator(_message_tag)
]


# Functions


class _Declaration(Fields):
    name: StrictStr
    description: StrictStr | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None

    def to_tool(self, place: str) -> Tool:
        schema = arguments_schema(self.parameters, f"{place}.parameters")
        return Tool(self.name, self.description or "", schema, strict=bool(self.strict), place=f"{place}.name")


class _FreeTextDeclaration(Fields):
    name: StrictStr
    description: StrictStr | None = None
    format: TextFormat | None = None

    def to_tool(self, place: str) -> Tool:
        words = (self.description or "") + (self.format.words if self.format else "")
        return Tool(self.name, words, kind="text", place=f"{place}.name")


class _FunctionTool(Fields):
    type: Literal["function"] = "function"
    function: _Declaration

    def to_tool(self, place: str) -> Tool | None:
        return None if self.function.name == _WEB_SEARCH else self.function.to_tool(f"{place}.function")


class _FreeTextTool(Fields):
    type: Literal["custom"]
    custom: _FreeTextDeclaration

    def to_tool(self, place: str) -> Tool | None:
        return self.custom.to_tool(f"{place}.custom")


class _OtherTool(Fields):
    """One that its provider runs, such as Moonshot's ``builtin_function``."""

    type: StrictStr | None = None
    function: Any = None

    def to_tool(self, _place: str) -> Tool | None:
        return None


def _tool_tag(tool: Any) -> str:
    kind = tool.get("type", "function") if isinstance(tool, dict) else "other"
    return kind if kind in ("function", "custom") else "other"


_Tool = Annotated[
    Annotated[_FunctionTool, Tag("function")]
    | Annotated[_FreeTextTool, Tag("custom")]
    | Annotated[_OtherTool, Tag("other")],
    Discriminator(_tool_tag),
]


class _Named(Fields):
    name: StrictStr


class _ToolReference(Fields):
    """A function in a ``tool_choice``."""

    type: Literal["function", "custom"] = "function"
    function: _Named | None = None
    custom: _Named | None = None

    def label(self) -> str:
        named = self.custom if self.type == "custom" else self.function
        if named is None:
            raise InvalidRequest(f"tool_choice.{self.type}: Field required", param="tool_choice")
        return named.name


class _AllowedTools(Fields):
    mode: Literal["auto", "required"] = "auto"
    tools: Many[_ToolReference] = []


class _AllowedChoice(Fields):
    type: Literal["allowed_tools"]
    allowed_tools: _AllowedTools


def _choice_tag(choice: Any) -> str:
    if not isinstance(choice, dict):
        return "word"
    return "allowed" if choice.get("type") == "allowed_tools" else "one"


_ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("word")]
    | Annotated[_AllowedChoice, Tag("allowed")]
    | Annotated[_ToolReference, Tag("one")],
    Discriminator(_choice_tag),
]


# Values with a form of their own


class _Thinking(Fields):
    """Moonshot's, DeepSeek's and Anthropic's form. ``auto`` and ``adaptive`` leave it to the model."""

    type: Literal["enabled", "disabled", "auto", "adaptive"]


class _Reasoning(Fields):
    """OpenRouter's and Responses' form."""

    effort: EffortChoice = None
    enabled: StrictBool | None = None


class _Text(Fields):
    type: Literal["text"]


class _JsonObject(Fields):
    type: Literal["json_object"]


class _Schema(Fields):
    name: Annotated[StrictStr, Field(min_length=1, max_length=64)]
    description: StrictStr | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: StrictBool | None = None


class _JsonSchema(Fields):
    type: Literal["json_schema"]
    json_schema: _Schema


_Format = Annotated[_Text | _JsonObject | _JsonSchema, Field(discriminator="type")]

# The tool by which Moonshot's own platform searches the web.
_WEB_SEARCH = "$web_search"


# Why a value cannot be served


def _is_forced(choice: Any) -> bool:
    if isinstance(choice, _AllowedChoice):
        return choice.allowed_tools.mode == "required"
    return choice not in ("auto", "none")


def _refuse_choices(value: int) -> str | None:
    return None if value <= MAX_CHOICES else f"at most {MAX_CHOICES} choices can be made"


# What is done with each

_MESSAGES = ParameterRule(
    "honoured",
    f"all roles; text, `image_url` and `file` {ATTACHED}",
    f"所有角色；文本、`image_url` 和 `file`{ATTACHED_ZH}",
)
_MAX_TOKENS = ParameterRule(
    "honoured",
    "by estimate, thinking included; `finish_reason` is `length`. `max_completion_tokens` wins",
    "按估算值（含思考）截断，`finish_reason` 为 `length`；`max_completion_tokens` 优先",
)
_N = ParameterRule(
    "honoured",
    "up to 4, each a Kimi chat of its own; not in a conversation",
    "最多 4，每个回答都是一个独立的 Kimi 会话；不能用于多轮对话",
    _refuse_choices,
)
_THINKING = ParameterRule(
    "honoured",
    "chooses the form of the model with or without thinking, and how much it thinks where Kimi offers a choice. The "
    "first of these that is set wins",
    "选择模型的思考或非思考形式；以最先给出的为准",
)
_SEARCH = ParameterRule(
    "honoured",
    "chooses the form of the model with or without web search; the tool `$web_search` does the same. "
    "The first of these that is set wins",
    "选择模型的联网或不联网形式；工具 `$web_search` 作用相同；以最先给出的为准",
)
_FORMAT = ParameterRule(
    "honoured",
    "`json_object` and `json_schema` by asking Kimi and checking its answer",
    "`json_object` 和 `json_schema`：通过提示词要求，并校验回答",
)
_STORE = ParameterRule(
    "ignored",
    "an answer cannot be fetched later. `false`: its Kimi chat does not stay open, either "
    "([conversations](conversations.md))",
    "回答之后无法再取。为 `false` 时，它的 Kimi 会话也不会保留（[说明](conversations.zh-CN.md)）",
)
_PARENT = ParameterRule(
    "refused",
    "a conversation goes on after its last turn",
    "对话总是从最后一轮继续",
    lambda _value: "a conversation goes on after its last turn",
)
_TOOL_CHOICE = tool_choice_rule(
    "`auto`, `none`, `required`, one function, or `allowed_tools`",
    "`auto`、`none`、`required`、指定函数或 `allowed_tools`",
    _is_forced,
)
_PARALLEL = ParameterRule(
    "honoured", "false: the answer ends after its first call", "为 false 时回答在第一次调用后结束"
)
_MODALITIES = ParameterRule(
    "refused",
    "anything but text",
    "文本以外的内容",
    lambda value: None if value == ["text"] else "answers are text only",
)
_AUDIO = ParameterRule("refused", "anything but text", "文本以外的内容", lambda _value: "answers are text only")


class Body(AnswerParameters):
    """The body of ``POST /v1/chat/completions``."""

    model: Annotated[StrictStr, MODEL]
    messages: Annotated[Many[_AnyMessage], Field(min_length=1), _MESSAGES]
    stream: Annotated[StrictBool | None, STREAM] = None
    stream_options: Annotated[StreamOptions | None, STREAM] = None
    max_completion_tokens: Annotated[TokenLimit, _MAX_TOKENS] = None
    max_tokens: Annotated[TokenLimit, _MAX_TOKENS] = None
    stop: Annotated[Stop | None, STOP] = None
    n: Annotated[StrictInt | None, Field(ge=1), WHOLE, _N] = None
    thinking: Annotated[StrictBool | _Thinking | None, _THINKING] = None
    enable_thinking: Annotated[StrictBool | None, _THINKING] = None
    reasoning: Annotated[_Reasoning | None, _THINKING] = None
    reasoning_effort: Annotated[EffortChoice, _THINKING] = None
    enable_search: Annotated[StrictBool | None, _SEARCH] = None
    web_search: Annotated[StrictBool | None, _SEARCH] = None
    use_search: Annotated[StrictBool | None, _SEARCH] = None
    web_search_options: Annotated[Fields | None, _SEARCH] = None
    response_format: Annotated[_Format | None, _FORMAT] = None
    conversation_id: Annotated[StrictStr | None, CONVERSATION] = None
    parent_id: Annotated[Any, _PARENT] = None

    temperature: Annotated[Number | None, Field(ge=0, le=2), SAMPLING] = None
    top_p: Annotated[Number | None, Field(ge=0, le=1), SAMPLING] = None
    frequency_penalty: Annotated[Number | None, Field(ge=-2, le=2), PENALTY] = None
    presence_penalty: Annotated[Number | None, Field(ge=-2, le=2), PENALTY] = None
    top_k: Annotated[StrictInt | None, Field(ge=-1), WHOLE, VENDOR] = None
    min_p: Annotated[Number | None, Field(ge=0, le=1), VENDOR] = None
    repetition_penalty: Annotated[Number | None, Field(ge=0), SAMPLING] = None
    seed: Annotated[StrictInt | None, WHOLE, SEED] = None
    user: Annotated[StrictStr | None, BOOKKEEPING] = None
    metadata: Annotated[dict[str, Any] | None, BOOKKEEPING] = None
    store: Annotated[StrictBool | None, _STORE] = None
    service_tier: Annotated[StrictStr | None, BOOKKEEPING] = None
    safety_identifier: Annotated[StrictStr | None, BOOKKEEPING] = None
    prompt_cache_key: Annotated[StrictStr | None, BOOKKEEPING] = None
    prompt_cache_retention: Annotated[StrictStr | None, BOOKKEEPING] = None
    prompt_cache_options: Annotated[dict[str, Any] | None, BOOKKEEPING] = None
    moderation: Annotated[dict[str, Any] | None, BOOKKEEPING] = None
    verbosity: Annotated[Literal["low", "medium", "high"] | None, STYLE] = None
    prediction: Annotated[dict[str, Any] | None, STYLE] = None
    tools: Annotated[Many[_Tool] | None, TOOLS] = None
    tool_choice: Annotated[_ToolChoice | None, _TOOL_CHOICE] = None
    parallel_tool_calls: Annotated[StrictBool | None, _PARALLEL] = None
    functions: Annotated[Many[_Declaration] | None, TOOLS] = None
    function_call: Annotated[Literal["auto", "none"] | _Named | None, _TOOL_CHOICE] = None

    logprobs: Annotated[Any, PROBABILITIES] = None
    top_logprobs: Annotated[Any, PROBABILITIES] = None
    logit_bias: Annotated[Any, BIASES] = None
    modalities: Annotated[Any, _MODALITIES] = None
    audio: Annotated[Any, _AUDIO] = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def wants_stream(self) -> bool:
        return bool(self.stream)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with usage; a whole answer always has it."""
        return bool(self.stream and self.stream_options and self.stream_options.include_usage)

    @property
    def named_conversation(self) -> str | None:
        return self.conversation_id

    def to_request(self, conversation_id: str | None) -> ChatRequest:
        """Raises InvalidRequest with the field that is at fault."""
        if conversation_id is not None and self.choices > 1:
            raise InvalidRequest("a conversation continues with one answer: n must be 1", param="n")
        messages = tuple(m.to_message(f"messages[{i}]") for i, m in enumerate(self.messages))
        request = ChatRequest(
            self.model,
            messages,
            conversation_id,
            self._options(),
            repeats_history=True,
            stores_nothing=self.store is False,
        )
        choice_field = "function_call" if self.uses_functions else "tool_choice"
        return with_tools(request, self._tools(), self._tool_choice(), choice_field)

    @property
    def uses_functions(self) -> bool:
        """Whether the client offers functions in the form that ``tools`` has replaced: calls come back in it, too."""
        return bool(self.functions) and not self.tools

    def _tools(self) -> list[Tool]:
        if self.uses_functions:
            return [one.to_tool(f"functions[{i}]") for i, one in enumerate(self.functions or ())]
        tools = [one.to_tool(f"tools[{i}]") for i, one in enumerate(self.tools or ())]
        return [tool for tool in tools if tool is not None]

    def _tool_choice(self) -> ToolChoice:
        if self.uses_functions:
            # One call was all that this form had a place for.
            match self.function_call:
                case _Named(name=name):
                    return ToolChoice("required", (name,), parallel=False)
                case "none":
                    return ToolChoice("none")
                case _:
                    return ToolChoice(parallel=False)
        parallel = self.parallel_tool_calls is not False
        match self.tool_choice:
            case _AllowedChoice(allowed_tools=allowed):
                return ToolChoice(allowed.mode, tuple(tool.label() for tool in allowed.tools), parallel)
            case _ToolReference() as one:
                return ToolChoice("required", (one.label(),), parallel)
            case None:
                return ToolChoice(parallel=parallel)
            case mode:
                return ToolChoice(mode, (), parallel)

    def _options(self) -> Options:
        return Options(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            stop=stop_sequences(self.stop),
            thinking=self._wants_thinking(),
            search=self._wants_search(),
            effort=(self.reasoning.effort if self.reasoning else None) or self.reasoning_effort,
            format=_json_format(self.response_format),
        )

    def _wants_thinking(self) -> bool | None:
        """A switch wins over an effort: it says whether to think, an effort only how much, and some clients always
        send one."""
        switch = self.thinking
        if isinstance(switch, _Thinking):
            switch = {"enabled": True, "disabled": False}.get(switch.type)
        wishes = [switch, self.enable_thinking]
        if self.reasoning is not None:
            wishes += [self.reasoning.enabled, thinks(self.reasoning.effort)]
        wishes.append(thinks(self.reasoning_effort))
        return next((wish for wish in wishes if wish is not None), None)

    def _wants_search(self) -> bool | None:
        # An empty object asks for a search too: that is OpenAI's own form without a location.
        asked = True if self.web_search_options is not None or any(map(_is_web_search, self.tools or ())) else None
        wishes = [self.enable_search, self.web_search, self.use_search, asked]
        return next((wish for wish in wishes if wish is not None), None)

    def _ignored(self) -> Iterator[str]:
        yield from super()._ignored()
        if any(isinstance(message, _Message) and message.partial for message in self.messages[:-1]):
            yield "messages.partial"
        for at, message in enumerate(self.messages):
            for index, part in enumerate(message.content if isinstance(message.content, list) else ()):
                if isinstance(part, _ImagePart | _FilePart):
                    yield from part.ignored(f"messages[{at}].content[{index}]")
            if isinstance(message, _Message):
                yield from left_out_parts(message.content, message.role, f"messages[{at}].content")
        if not tools_are_on():
            if not all(map(_is_web_search, self.tools or ())):
                yield "tools"
            if self.functions:
                yield "functions"
            return
        for index, tool in enumerate(self.tools or ()):
            if isinstance(tool, _OtherTool) and not _is_web_search(tool):
                yield f"tools[{index}]"
        for index, message in enumerate(self.messages):
            yield from message.unshown(f"messages[{index}]")


def _is_web_search(tool: _FunctionTool | _FreeTextTool | _OtherTool) -> bool:
    match tool:
        case _FunctionTool(function=function):
            return function.name == _WEB_SEARCH
        case _OtherTool(function={"name": name}):
            return bool(name == _WEB_SEARCH)
        case _:
            return False


def _json_format(wish: _Text | _JsonObject | _JsonSchema | None) -> JsonFormat | None:
    match wish:
        case _JsonObject():
            return JsonFormat()
        case _JsonSchema(json_schema=_Schema(name=name, schema_=schema, description=description)):
            place = "response_format.json_schema.schema"
            text = None if schema is None else schema_text(schema, place)
            return JsonFormat(name, text, description or "", place)
        case _:
            return None

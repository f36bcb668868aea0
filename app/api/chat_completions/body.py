"""What clients of OpenAI's chat completions send: every parameter that we know, and what happens to it.

Source: OpenAI's API reference and what its clients were seen to send (openai-contract.md 2, 2026-11-23). Knows Kimi
only in the sentences for people.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

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
    Role,
    TextPart,
    ToolCall,
)
from app.errors import InvalidRequest
from app.web.accepted_request import AnswerParameters
from app.web.json_schema import schema_text
from app.web.openai_shapes import Stop, StreamOptions, stop_sequences
from app.web.parameters import ParameterRule
from app.web.request_body import Fields, Many
from app.web.shared_parameters import (
    BIASES,
    BOOKKEEPING,
    CONVERSATION,
    MODEL,
    NO_FORCED_TOOL,
    PENALTY,
    PROBABILITIES,
    SAMPLING,
    SEED,
    STOP,
    STREAM,
    STYLE,
    TOOLS,
    VENDOR,
    Number,
    thinks,
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
        return ImagePart(str(url or ""), place, self.type)


class _FilePart(Fields):
    type: Literal["file"]
    file: dict[str, Any] = {}

    def to_part(self, place: str) -> Part:
        source = self.file.get("file_data") or self.file.get("file_id") or ""
        return FilePart(str(source), str(self.file.get("filename") or ""), place, self.type)


class _OtherPart(Fields):
    type: Literal["input_audio", "video_url"]

    def to_part(self, place: str) -> Part:
        return OtherPart(place, self.type)


_Part = Annotated[_TextPart | _RefusalPart | _ImagePart | _FilePart | _OtherPart, Field(discriminator="type")]


class _Function(Fields):
    name: StrictStr
    arguments: StrictStr = ""


class _ToolCall(Fields):
    id: StrictStr = ""
    function: _Function


class _Message(Fields):
    role: Role
    content: StrictStr | Many[_Part] | None = None
    refusal: StrictStr | None = None
    name: StrictStr | None = None
    tool_calls: Many[_ToolCall] | None = None
    function_call: _Function | None = None
    tool_call_id: StrictStr | None = None
    # Moonshot's: the answer is to continue this message. Other fields of messages are what their clients received.
    partial: StrictBool | None = None

    def to_message(self, place: str) -> Message:
        if self.content is None and self.role in ("system", "developer", "user"):
            raise InvalidRequest(f"a {self.role} message needs content", param=f"{place}.content")
        calls = [ToolCall(c.id, c.function.name, c.function.arguments) for c in self.tool_calls or ()]
        if self.function_call is not None:
            calls.append(ToolCall("", self.function_call.name, self.function_call.arguments))
        parts = (*self._parts(place), *([TextPart(self.refusal)] if self.refusal else []))
        return Message(self.role, parts, self.name, tuple(calls), self.tool_call_id)

    def _parts(self, place: str) -> Iterator[Part]:
        if isinstance(self.content, str):
            yield TextPart(self.content)
            return
        for index, part in enumerate(self.content or ()):
            yield part.to_part(f"{place}.content[{index}]")


# Values with a form of their own


class _Thinking(Fields):
    """Moonshot's, DeepSeek's and Anthropic's form. ``auto`` and ``adaptive`` leave it to the model."""

    type: Literal["enabled", "disabled", "auto", "adaptive"]


class _Reasoning(Fields):
    """OpenRouter's and Responses' form."""

    effort: Effort | None = None
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


def _refuse_forced_tool(value: Any) -> str | None:
    mode = value
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        allowed = value.get("allowed_tools")
        mode = allowed.get("mode", "auto") if isinstance(allowed, dict) else "auto"
    return None if mode in ("auto", "none") else NO_FORCED_TOOL


def _refuse_choices(value: int) -> str | None:
    return None if value <= MAX_CHOICES else f"at most {MAX_CHOICES} choices can be made"


# What is done with each

_MESSAGES = ParameterRule(
    "honoured",
    "all roles, text; images, files and audio in `content` are a 400 that names their place",
    "所有角色的文本；`content` 里的图片、文件、音频返回 400，并指出位置",
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
_PARENT = ParameterRule(
    "refused",
    "a conversation goes on after its last turn",
    "对话总是从最后一轮继续",
    lambda _value: "a conversation goes on after its last turn",
)
_TOOL_CHOICE = ParameterRule("refused", "a call that is forced", "强制调用工具", _refuse_forced_tool)
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
    messages: Annotated[Many[_Message], Field(min_length=1), _MESSAGES]
    stream: Annotated[StrictBool | None, STREAM] = None
    stream_options: Annotated[StreamOptions | None, STREAM] = None
    max_completion_tokens: Annotated[StrictInt | None, Field(ge=1), _MAX_TOKENS] = None
    max_tokens: Annotated[StrictInt | None, Field(ge=1), _MAX_TOKENS] = None
    stop: Annotated[Stop | None, STOP] = None
    n: Annotated[StrictInt | None, Field(ge=1), _N] = None
    thinking: Annotated[StrictBool | _Thinking | None, _THINKING] = None
    enable_thinking: Annotated[StrictBool | None, _THINKING] = None
    reasoning: Annotated[_Reasoning | None, _THINKING] = None
    reasoning_effort: Annotated[Effort | None, _THINKING] = None
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
    top_k: Annotated[StrictInt | None, Field(ge=-1), VENDOR] = None
    min_p: Annotated[Number | None, Field(ge=0, le=1), VENDOR] = None
    repetition_penalty: Annotated[Number | None, Field(ge=0), SAMPLING] = None
    seed: Annotated[StrictInt | None, SEED] = None
    user: Annotated[StrictStr | None, BOOKKEEPING] = None
    metadata: Annotated[dict[str, Any] | None, BOOKKEEPING] = None
    store: Annotated[StrictBool | None, BOOKKEEPING] = None
    service_tier: Annotated[StrictStr | None, BOOKKEEPING] = None
    safety_identifier: Annotated[StrictStr | None, BOOKKEEPING] = None
    prompt_cache_key: Annotated[StrictStr | None, BOOKKEEPING] = None
    prompt_cache_retention: Annotated[StrictStr | None, BOOKKEEPING] = None
    prompt_cache_options: Annotated[dict[str, Any] | None, BOOKKEEPING] = None
    moderation: Annotated[dict[str, Any] | None, BOOKKEEPING] = None
    verbosity: Annotated[Literal["low", "medium", "high"] | None, STYLE] = None
    prediction: Annotated[dict[str, Any] | None, STYLE] = None
    tools: Annotated[Many[dict[str, Any]] | None, TOOLS] = None
    parallel_tool_calls: Annotated[StrictBool | None, TOOLS] = None
    functions: Annotated[Many[dict[str, Any]] | None, TOOLS] = None

    tool_choice: Annotated[Any, _TOOL_CHOICE] = None
    function_call: Annotated[Any, _TOOL_CHOICE] = None
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
        return ChatRequest(self.model, messages, conversation_id, self._options())

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
        for name in super()._ignored():
            if name != "tools" or not all(map(_is_web_search, self.tools or ())):
                yield name
        if any(message.partial for message in self.messages):
            yield "messages.partial"


def _is_web_search(tool: dict[str, Any]) -> bool:
    function = tool.get("function")
    return isinstance(function, dict) and function.get("name") == _WEB_SEARCH


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

"""What clients of Anthropic's Messages send: every parameter that we know, and what happens to it.

Source: Anthropic's API reference, the models of anthropic-python 2.12, and what Claude Code was seen to send
(openai-contract.md 3, 2026-11-23). Knows Kimi only in the sentences for people.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import BeforeValidator, Discriminator, Field, StrictBool, StrictInt, StrictStr, Tag

from app.chat import (
    ChatRequest,
    FileReference,
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
from app.web.accepted_request import AnswerParameters
from app.web.any_part import AnyPart, is_thought
from app.web.file_fields import unused_fields
from app.web.file_references import ATTACHED, ATTACHED_ZH, clean_line, file_reference
from app.web.json_schema import schema_text
from app.web.openai_shapes import StopText
from app.web.parameters import ParameterRule, Parameters, unknown_fields
from app.web.request_body import Fields, Many
from app.web.shared_parameters import (
    BOOKKEEPING,
    MODEL,
    SAMPLING,
    STREAM_ONLY,
    VENDOR,
    WHOLE,
    Number,
    known_effort,
)
from app.web.tool_parameters import (
    TOOLS_WITH_SEARCH,
    arguments_schema,
    tool_choice_rule,
    tools_are_on,
    with_tools,
)


class _Text(Fields):
    type: Literal["text"]
    text: StrictStr

    def to_parts(self, _place: str) -> Iterator[Part]:
        yield TextPart(self.text)


class _Thinking(Fields):
    """What a model thought in an earlier turn: the next answer does not need it."""

    type: Literal["thinking", "redacted_thinking"]


class _ToolUse(Fields):
    type: Literal["tool_use"]
    id: StrictStr
    name: StrictStr
    input: dict[str, Any] = {}


class _Image(Fields):
    type: Literal["image"]
    source: dict[str, Any] = {}

    def to_parts(self, place: str) -> Iterator[Part]:
        yield _reference(self.source, place, self.type, is_image=True)

    def ignored(self, place: str) -> Iterator[str]:
        yield from unused_fields(self.model_extra, place)


class _Citations(Fields):
    enabled: StrictBool | None = None


class _SourceText(Fields):
    type: Literal["text"]
    text: StrictStr


_SourceBlock = Annotated[_SourceText | _Image, Field(discriminator="type")]


class _ContentSource(Fields):
    """The text of a document in blocks, with its images. It stands in the message, because a file has one type."""

    type: Literal["content"]
    content: StrictStr | Many[_SourceBlock]

    def to_parts(self, place: str) -> Iterator[Part]:
        if isinstance(self.content, str):
            yield TextPart(self.content)
            return
        for index, block in enumerate(self.content):
            if isinstance(block, _SourceText):
                yield TextPart(block.text)
            else:
                yield from block.to_parts(f"{place}.source.content[{index}]")

    def ignored(self, place: str) -> Iterator[str]:
        for index, block in enumerate(self.content if isinstance(self.content, list) else ()):
            if isinstance(block, _Image):
                yield from block.ignored(f"{place}.source.content[{index}]")


def _source_tag(source: Any) -> str:
    return "content" if isinstance(source, dict) and source.get("type") == "content" else "any"


_DocumentSource = Annotated[
    Annotated[_ContentSource, Tag("content")] | Annotated[dict[str, Any], Tag("any")], Discriminator(_source_tag)
]


class _Document(Fields):
    """``context``: what the client says of the document beside its title."""

    type: Literal["document"]
    source: _DocumentSource = {}
    title: StrictStr | None = None
    context: StrictStr | None = None
    citations: _Citations | None = None

    def to_parts(self, place: str) -> Iterator[Part]:
        about = [TextPart(self.context)] if self.context else []
        if isinstance(self.source, _ContentSource):
            title = clean_line(self.title)
            yield TextPart(f"[document: {title}]" if title else "[document]")
            yield from (*about, *self.source.to_parts(place))
            yield TextPart("[end of the document]")
            return
        yield _reference(self.source, place, self.type, self.title)
        yield from about

    def ignored(self, place: str) -> Iterator[str]:
        if self.citations and self.citations.enabled:
            yield f"{place}.citations"
        yield from unused_fields(self.model_extra, place)
        if isinstance(self.source, _ContentSource):
            yield from self.source.ignored(place)


class _SearchResult(Fields):
    """A page or a text that the client has found. Kimi reads it as text."""

    type: Literal["search_result"]
    title: StrictStr
    source: StrictStr
    content: Many[_SourceText]
    citations: _Citations | None = None

    def to_parts(self, _place: str) -> Iterator[Part]:
        yield TextPart(f"[search result: {clean_line(self.title)}, {clean_line(self.source)}]")
        yield from (TextPart(block.text) for block in self.content)
        yield TextPart("[end of the search result]")

    def ignored(self, place: str) -> Iterator[str]:
        if self.citations and self.citations.enabled:
            yield f"{place}.citations"
        yield from unused_fields(self.model_extra, place)


class _OtherBlock(Fields):
    """A block of a type that we do not know, such as what a server's tool did in an earlier answer. Its text is read.
    Without text it is left out of what the assistant said, as what it thought is; in another message something would
    be lost, so that it keeps its place, and is refused by who cannot take it."""

    type: StrictStr = Field(max_length=64)
    text: StrictStr | None = None

    def is_left_out(self, role: str) -> bool:
        return role == "assistant" and (self.text is None or is_thought(self.type))

    def to_parts(self, place: str) -> Iterator[Part]:
        """Raises InvalidRequest if it is of no type that Anthropic knows, and has no text."""
        if self.text is None and self.type not in _KNOWN_TO_ANTHROPIC:
            raise InvalidRequest(f"{place}: a block of a type that is not known here, and without text", param=place)
        yield OtherPart(place, self.type) if self.text is None else TextPart(self.text)


# Blocks of anthropic-python 2.12's requests that are not read here.
_KNOWN_TO_ANTHROPIC = frozenset(
    (
        *("server_tool_use", "tool_reference", "container_upload", "mcp_tool_use", "mcp_tool_result"),
        *("web_search_tool_result", "web_fetch_tool_result", "tool_search_tool_result", "browser_state"),
        *("code_execution_tool_result", "bash_code_execution_tool_result"),
        "text_editor_code_execution_tool_result",
    )
)


def _reference(
    source: dict[str, Any], place: str, sent_as: str, name: str | None = None, *, is_image: bool = False
) -> Part:
    """Of a ``source``: base64, text, an address, or the id of a file."""
    kind = source.get("type")
    if kind in ("base64", "text"):
        data = source.get("data")
        text = data if isinstance(data, str) else ""
        return FileReference(kind, text, place, sent_as, name or "", is_image)
    return file_reference(None, source.get("file_id"), place, sent_as, name, url=source.get("url"), is_image=is_image)


# Blocks of which not everything may have an effect.
_WITH_FILES = (_Image, _Document, _SearchResult)


def _result_tag(block: Any) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    return kind if kind in ("text", "image", "document", "search_result") else "any"


# What a call returned may hold content of any type: an agent cannot choose what its functions return.
_ResultBlock = Annotated[
    Annotated[_Text, Tag("text")]
    | Annotated[_Image, Tag("image")]
    | Annotated[_Document, Tag("document")]
    | Annotated[_SearchResult, Tag("search_result")]
    | Annotated[AnyPart, Tag("any")],
    Discriminator(_result_tag),
]


class _ToolResult(Fields):
    type: Literal["tool_result"]
    tool_use_id: StrictStr
    content: StrictStr | Many[_ResultBlock] | None = None
    is_error: StrictBool | None = None

    def to_message(self, place: str) -> Message:
        parts = tuple(self._parts(f"{place}.content"))
        return Message("tool", parts, tool_call_id=self.tool_use_id, failed=bool(self.is_error))

    def unshown(self, place: str) -> Iterator[str]:
        """The places of what cannot be shown to Kimi and is replaced by words."""
        yield from (part.place for part in self._parts(f"{place}.content") if isinstance(part, OtherPart))

    def ignored(self, place: str) -> Iterator[str]:
        for index, block in enumerate(self.content if isinstance(self.content, list) else ()):
            if isinstance(block, _WITH_FILES):
                yield from block.ignored(f"{place}.content[{index}]")

    def _parts(self, place: str) -> Iterator[Part]:
        if isinstance(self.content, str):
            yield TextPart(self.content)
            return
        for index, block in enumerate(self.content or ()):
            if isinstance(block, AnyPart):
                yield block.to_part(f"{place}[{index}]")
            else:
                yield from block.to_parts(f"{place}[{index}]")


_TAGS = {"redacted_thinking": "thinking"} | {
    kind: kind for kind in ("text", "image", "document", "search_result", "thinking", "tool_use", "tool_result")
}


def _block_tag(block: Any) -> str | None:
    kind = block.get("type") if isinstance(block, dict) else None
    return _TAGS.get(kind, "other") if isinstance(kind, str) else None


_Block = Annotated[
    Annotated[_Text, Tag("text")]
    | Annotated[_Image, Tag("image")]
    | Annotated[_Document, Tag("document")]
    | Annotated[_SearchResult, Tag("search_result")]
    | Annotated[_Thinking, Tag("thinking")]
    | Annotated[_ToolUse, Tag("tool_use")]
    | Annotated[_ToolResult, Tag("tool_result")]
    | Annotated[_OtherBlock, Tag("other")],
    Discriminator(
        _block_tag, custom_error_type="block_without_type", custom_error_message="a block needs a type, as a string"
    ),
]


class _Message(Fields):
    role: Literal["user", "assistant", "system"]
    content: StrictStr | Many[_Block]

    def to_messages(self, place: str) -> Iterator[Message]:
        """What its author says, with the calls that it makes; before it, the results of earlier calls."""
        if isinstance(self.content, str):
            yield text_message(self.role, self.content)
            return
        parts: list[Part] = []
        calls: list[ToolCall] = []
        for index, block in enumerate(self.content):
            here = f"{place}.content[{index}]"
            match block:
                case _Thinking():
                    pass
                case _OtherBlock() if block.is_left_out(self.role):
                    pass
                case _ToolUse():
                    calls.append(ToolCall(block.id, block.name, _json(block.input, f"{here}.input")))
                case _ToolResult():
                    yield block.to_message(here)
                case _:
                    parts.extend(block.to_parts(here))
        if parts or calls:
            yield Message(self.role, tuple(parts), tool_calls=tuple(calls))


def _json(value: Any, place: str) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise InvalidRequest(f"{place} is nested too deep", param=place) from None


class _ServerTool(Fields):
    """One that Anthropic runs, or whose schema only Anthropic's models know."""

    type: StrictStr
    name: StrictStr | None = None

    @property
    def searches(self) -> bool:
        return self.type.startswith("web_search")


class _ClientTool(Fields):
    type: Literal["custom"] | None = None
    name: StrictStr
    description: StrictStr | None = None
    input_schema: dict[str, Any] | None = None
    strict: StrictBool | None = None
    searches: ClassVar[bool] = False

    def to_tool(self, place: str) -> Tool:
        schema = arguments_schema(self.input_schema, f"{place}.input_schema")
        return Tool(self.name, self.description or "", schema, strict=bool(self.strict), place=f"{place}.name")


def _tool_tag(tool: Any) -> str:
    return "server" if isinstance(tool, dict) and tool.get("type") not in (None, "custom") else "client"


_Tool = Annotated[
    Annotated[_ServerTool, Tag("server")] | Annotated[_ClientTool, Tag("client")], Discriminator(_tool_tag)
]


class _ToolChoice(Fields):
    type: Literal["auto", "none", "any", "tool"]
    name: StrictStr | None = None
    disable_parallel_tool_use: StrictBool | None = None

    def to_choice(self) -> ToolChoice:
        parallel = not self.disable_parallel_tool_use
        match self.type:
            case "any":
                return ToolChoice("required", (), parallel)
            case "tool":
                if self.name is None:
                    raise InvalidRequest("tool_choice.name: Field required", param="tool_choice.name")
                return ToolChoice("required", (self.name,), parallel)
            case mode:
                return ToolChoice(mode, (), parallel)


class _ThinkingOptions(Fields):
    type: Literal["enabled", "adaptive", "disabled", "between_tools"]
    budget_tokens: Annotated[StrictInt | None, Field(ge=1), WHOLE] = None
    # "omitted" has an effect. Betas bring further words, and Claude Code asks again with less where one is refused.
    display: StrictStr | None = None


class _Format(Fields):
    type: Literal["json_schema"]
    # Under a name of its own: pydantic's models have a method `schema`.
    schema_: dict[str, Any] = Field(alias="schema")


class _OutputOptions(Fields):
    effort: Annotated[Literal["low", "medium", "high", "xhigh", "max"] | None, BeforeValidator(known_effort)] = None
    format: _Format | None = None


# What is done with each

_MESSAGES = ParameterRule(
    "honoured",
    f"text, calls and their results; thinking is dropped; `image` and `document` {ATTACHED}",
    f"文本、工具调用及其结果；思考会被丢弃；`image` 和 `document`{ATTACHED_ZH}",
)
_SYSTEM = ParameterRule("honoured", "the first message", "作为第一条消息")
_MAX_TOKENS = ParameterRule(
    "honoured",
    "by estimate, thinking included; `stop_reason` is `max_tokens`",
    "按估算值（含思考）截断，`stop_reason` 为 `max_tokens`",
)
_STOP = ParameterRule(
    "honoured",
    "the answer ends before the first that occurs, and `stop_sequence` names it",
    "在最先出现的那个之前结束，`stop_sequence` 会给出它",
)
_THINKING = ParameterRule(
    "honoured",
    "chooses the form of the model with or without thinking, and whether thinking is returned; the budget has no "
    "effect",
    "选择模型的思考或非思考形式，并决定是否给出思考过程；预算不起作用",
)
_OUTPUT = ParameterRule(
    "honoured",
    "`effort` from `high` on chooses thinking where `thinking` is not set; `format` by asking Kimi and checking "
    "its answer",
    "没有 `thinking` 时，`high` 及以上的 `effort` 选择思考；`format` 通过提示词要求，并校验回答",
)
_TOOL_CHOICE = tool_choice_rule(
    "`auto`, `none`, `any` or one function, and `disable_parallel_tool_use`",
    "`auto`、`none`、`any` 或指定函数，以及 `disable_parallel_tool_use`",
    lambda value: value.type in ("any", "tool"),
)
# A client that leaves out what it believes to be kept here must not be answered without it. Source of the shape and
# of the error: anthropic-python 2.12 (BetaMessageThreadParam, ThreadUnsupportedRequestErrorDetails).
_THREAD = ParameterRule(
    "refused",
    "no threads are kept here: send the whole conversation. Anthropic's tool runners do so after this error",
    "本网关不保存 thread：请发送完整对话。Anthropic 的 tool runner 收到此错误后会这样做",
    refusal=lambda _thread: "no threads are kept here: send the whole conversation, without it",
)
_MCP = ParameterRule("ignored", "this gateway connects to no MCP server", "本网关不连接 MCP 服务器")
_CONTEXT = ParameterRule(
    "ignored",
    "nothing is taken out of what was sent, and nothing but text is kept anywhere",
    "不会删减发来的内容，也不保存文本以外的东西",
)


class _PromptFields(Fields):
    """What a model is to answer."""

    model: Annotated[StrictStr, MODEL]
    messages: Annotated[Many[_Message], Field(min_length=1), _MESSAGES]
    system: Annotated[StrictStr | Many[_Text] | None, _SYSTEM] = None
    tools: Annotated[Many[_Tool] | None, TOOLS_WITH_SEARCH] = None
    tool_choice: Annotated[_ToolChoice | None, _TOOL_CHOICE] = None

    def with_tools(self, request: ChatRequest) -> ChatRequest:
        """``request`` with the functions that are offered. Raises InvalidRequest with the field that is at fault."""
        tools = [one.to_tool(f"tools[{i}]") for i, one in enumerate(self.tools or ()) if isinstance(one, _ClientTool)]
        choice = self.tool_choice.to_choice() if self.tool_choice else ToolChoice()
        return with_tools(request, tools, choice, "tool_choice")

    def to_messages(self) -> tuple[Message, ...]:
        """Raises InvalidRequest with the field that is at fault."""
        system = [self.system] if isinstance(self.system, str) else [block.text for block in self.system or ()]
        first = [text_message("system", *system)] if any(system) else []
        rest = [m for i, message in enumerate(self.messages) for m in message.to_messages(f"messages[{i}]")]
        return (*first, *rest)


class PromptBody(_PromptFields, Parameters):
    """The body of ``POST /v1/messages/count_tokens``."""

    def to_request(self) -> ChatRequest:
        """Raises InvalidRequest with the field that is at fault."""
        return self.with_tools(ChatRequest(self.model, self.to_messages()))


class Body(_PromptFields, AnswerParameters):
    """The body of ``POST /v1/messages``."""

    max_tokens: Annotated[StrictInt, Field(ge=1), WHOLE, _MAX_TOKENS]
    stream: Annotated[StrictBool | None, STREAM_ONLY] = None
    stop_sequences: Annotated[Annotated[Many[StopText], Field(max_length=256)] | None, _STOP] = None
    thinking: Annotated[_ThinkingOptions | None, _THINKING] = None
    output_config: Annotated[_OutputOptions | None, _OUTPUT] = None

    temperature: Annotated[Number | None, Field(ge=0, le=1), SAMPLING] = None
    top_p: Annotated[Number | None, Field(ge=0, le=1), SAMPLING] = None
    top_k: Annotated[StrictInt | None, Field(ge=0), WHOLE, VENDOR] = None
    metadata: Annotated[dict[str, Any] | None, BOOKKEEPING] = None
    service_tier: Annotated[StrictStr | None, BOOKKEEPING] = None
    context_management: Annotated[dict[str, Any] | None, _CONTEXT] = None
    container: Annotated[StrictStr | dict[str, Any] | None, _CONTEXT] = None
    mcp_servers: Annotated[Many[dict[str, Any]] | None, _MCP] = None

    thread: Annotated[dict[str, Any] | None, _THREAD] = None

    @property
    def wants_stream(self) -> bool:
        return bool(self.stream)

    @property
    def wants_thinking(self) -> bool:
        """Whether thinking is returned: a client that did not ask for it takes the first block for the answer."""
        return self.thinking is not None and self.thinking.type != "disabled" and self.thinking.display != "omitted"

    def to_request(self, conversation_id: str | None) -> ChatRequest:
        """Raises InvalidRequest with the field that is at fault."""
        messages = self.to_messages()
        return self.with_tools(
            ChatRequest(self.model, messages, conversation_id, self._options(), repeats_history=True)
        )

    def _options(self) -> Options:
        if not all(stop.strip() for stop in self.stop_sequences or ()):
            raise InvalidRequest("stop_sequences: each must hold more than white space", param="stop_sequences")
        return Options(
            max_tokens=self.max_tokens,
            stop=tuple(self.stop_sequences or ()),
            thinking=self._thinking(),
            search=self._search(),
            effort=self.output_config.effort if self.output_config else None,
            format=self._json_format(),
        )

    def _thinking(self) -> bool | None:
        """``thinking`` says whether to think; ``effort`` alone says how much, and a high one needs thinking."""
        if self.thinking is not None:
            return self.thinking.type != "disabled"
        effort = self.output_config.effort if self.output_config else None
        return True if effort in ("high", "xhigh", "max") else None

    def _search(self) -> bool | None:
        if not any(tool.searches for tool in self.tools or ()):
            return None
        # A search that may not be used is none.
        return self.tool_choice is None or self.tool_choice.type != "none"

    def _json_format(self) -> JsonFormat | None:
        wanted = self.output_config.format if self.output_config else None
        if wanted is None:
            return None
        place = "output_config.format.schema"
        return JsonFormat("answer", schema_text(wanted.schema_, place), schema_field=place)

    def _ignored(self) -> Iterator[str]:
        yield from super()._ignored()
        yield from unknown_fields((tool for tool in self.tools or () if tool.searches), "tools")
        if tools_are_on():
            for index, tool in enumerate(self.tools or ()):
                if isinstance(tool, _ServerTool) and not tool.searches:
                    yield f"tools[{index}]"
            yield from self._unshown()
        elif not all(tool.searches for tool in self.tools or ()):
            yield "tools"
        if self.thinking is not None and self.thinking.budget_tokens is not None:
            yield "thinking.budget_tokens"
        for at, message in enumerate(self.messages):
            for index, block in enumerate(message.content if isinstance(message.content, list) else ()):
                if isinstance(block, _OtherBlock) and block.is_left_out(message.role):
                    yield f"messages[{at}].content[{index}]"
                elif isinstance(block, (*_WITH_FILES, _ToolResult)):
                    yield from block.ignored(f"messages[{at}].content[{index}]")

    def _unshown(self) -> Iterator[str]:
        for at, message in enumerate(self.messages):
            for index, block in enumerate(message.content if isinstance(message.content, list) else ()):
                if isinstance(block, _ToolResult):
                    yield from block.unshown(f"messages[{at}].content[{index}]")

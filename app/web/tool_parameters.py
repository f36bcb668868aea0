"""The functions of a client in the body of a request: what the APIs have in common.

Whether functions are offered is a setting (TOOLS). Must never know the fields of any one API.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import orjson
from flask import current_app
from pydantic import StrictStr

from app.chat import ChatRequest, Tool, ToolChoice
from app.errors import InvalidRequest
from app.text.tools.names import NAME, Names
from app.web.parameters import ParameterRule
from app.web.request_body import Fields

TOOLS = ParameterRule(
    "honoured",
    "Kimi is asked for calls in words, and they are read out of its answer ([how](tools.md)). What is no function of "
    "the client is named in `x-ignored-params`. With `TOOLS=off` no effect",
    "用文字请 Kimi 调用，再从回答里读出来（[说明](tools.zh-CN.md)）。不是客户端函数的工具列在 `x-ignored-params` 里。"
    "`TOOLS=off` 时不起作用",
)
TOOLS_WITH_SEARCH = ParameterRule(
    "honoured",
    "functions, and `web_search`, which chooses the form of the model that searches. Kimi is asked for calls in "
    "words, and they are read out of its answer ([how](tools.md)). Other tools are named in `x-ignored-params`. With "
    "`TOOLS=off` only `web_search` has an effect",
    "函数，以及选择联网形式的 `web_search`。用文字请 Kimi 调用，再从回答里读出来（[说明](tools.zh-CN.md)）。"
    "其他工具列在 `x-ignored-params` 里。`TOOLS=off` 时只有 `web_search` 起作用",
)
_NO_DEMAND = ToolChoice()
FORCED = "tools cannot be called, so a call cannot be forced (TOOLS=off)"


def tool_choice_rule(about: str, about_zh: str, is_forced: Callable[[Any], bool]) -> ParameterRule:
    """The rule of a ``tool_choice``. ``is_forced``: whether a value demands a call."""
    return ParameterRule(
        "honoured",
        f"{about}. A call that is demanded and does not come, also when Kimi is asked again, is a 502; with "
        "`TOOLS=off`, a 400",
        f"{about_zh}。要求调用、再问一次仍没有调用时返回 502；`TOOLS=off` 时返回 400",
        lambda value: FORCED if not tools_are_on() and is_forced(value) else None,
    )


class TextFormat(Fields):
    """What a free text must look like. Told to Kimi, and not enforced."""

    type: Literal["text", "grammar"] = "text"
    grammar: dict[str, Any] | None = None
    definition: StrictStr | None = None
    syntax: StrictStr | None = None

    @property
    def words(self) -> str:
        definition = self.definition or (self.grammar or {}).get("definition")
        return f"\nThe text must match this grammar:\n{definition}" if isinstance(definition, str) else ""


def tools_are_on() -> bool:
    """Whether functions are offered to Kimi at all."""
    return bool(current_app.config["TOOLS"] == "emulate")


def arguments_schema(schema: dict[str, Any] | None, place: str) -> str | None:
    """The JSON Schema of a function's arguments as text. It is not checked: one that cannot be used judges nothing.

    Raises InvalidRequest: if it is nested too deep.
    """
    if schema is None:
        return None
    try:
        return orjson.dumps(schema).decode()
    except orjson.JSONEncodeError:
        raise InvalidRequest(f"{place} is nested too deep", param=place) from None


def with_tools(request: ChatRequest, tools: Sequence[Tool], choice: ToolChoice, choice_field: str) -> ChatRequest:
    """The request with its functions. Raises InvalidRequest with the field that is at fault."""
    if not tools_are_on() or (not tools and choice == _NO_DEMAND):
        return request
    _check_names(tools)
    labels = Names(tools).labels
    unknown = next((name for name in choice.names if name not in labels), None)
    if unknown is not None:
        raise InvalidRequest(f"{choice_field}: there is no such function among the tools", param=choice_field)
    if choice.mode == "required" and not tools:
        raise InvalidRequest(f"{choice_field}: a call is demanded, but no function is offered", param=choice_field)
    return replace(request, tools=tuple(tools), tool_choice=choice)


def _check_names(tools: Iterable[Tool]) -> None:
    seen: set[tuple[str | None, str]] = set()
    for tool in tools:
        if not NAME.fullmatch(tool.name) or (tool.namespace is not None and not NAME.fullmatch(tool.namespace)):
            raise InvalidRequest(
                f"{tool.place}: a name is 1 to 128 characters, without spaces, quotes, brackets and back-ticks",
                param=tool.place,
            )
        if (tool.namespace, tool.name) in seen:
            raise InvalidRequest(f"{tool.place}: another function has this name, too", param=tool.place)
        seen.add((tool.namespace, tool.name))

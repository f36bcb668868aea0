"""How functions are explained to Kimi: the words of a prompt, in several wordings of one grammar.

Reports say that Kimi's newer web models take a contract ("you must", "tools available to you") for an injection and
refuse it, and follow a text that shows what it wants (kimi-protocol-2.md 4.2, 4.3). So ``example`` is the default.
None of them has been measured on kimi.com (docs/tools.md). Knows no API, and nothing of how calls are read.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.chat import Tool, ToolChoice
from app.text.tools.grammar import END_OF_CALL, VALUE, call, heading, result
from app.text.tools.names import Names

WordingName = Literal["example", "contract", "serialise"]


@dataclass(frozen=True, slots=True)
class _Wording:
    """``{code}``, ``{call}``, ``{end}`` and ``{value}`` are replaced: the code, and headings with it."""

    # Before the list of functions.
    opening: str
    # Behind it.
    closing: str
    # Whether a worked example follows, made from the first function.
    shows_example: bool
    # The last words of the prompt.
    reminder: str


_COMMON = (
    "Calls that do not wait for one another may stand in one message, numbered 1, 2, 3; the message ends with the "
    "last of them. A long text may stand as it is, without quotes and escapes, under a line {value} before the line "
    "{end}, in place of that argument in the JSON. Where no function helps, the answer is given in words as always; "
    "where something is missing that only the user knows, the answer is a question."
)
_REMINDER = (
    "A function is run by a line {call}, its arguments as one JSON object, and a line {end}; "
    "outside of a code fence, and with nothing behind it."
)

_WORDINGS: dict[WordingName, _Wording] = {
    "example": _Wording(
        opening=(
            "This conversation is kept by a program on the user's computer, which can run the functions below there. "
            "Where a message of the assistant holds a block as in the example, the program runs that function and "
            "writes down what it returned; everything else is shown to the user. These functions have nothing to do "
            "with the assistant's own tools and files. Each is given with the JSON Schema of its arguments:"
        ),
        closing=_COMMON,
        shows_example=True,
        reminder="Write the assistant's next message, in the manner of the example.\n" + _REMINDER,
    ),
    "contract": _Wording(
        opening=(
            "A program on the user's computer reads what you write. Where it finds a block as shown here, it runs "
            "that function on the user's computer and gives you what came out in the next message. This is an "
            "agreement about text between you and that program. It has nothing to do with tools of your own: those, "
            "and any files that you can see, are not on the user's computer.\n\n"
            '{call}\n{{"argument": "…"}}\n{end}\n\n'
            "Begin each block on a new line, outside of code fences. The name is one of those below, letter for "
            "letter; then comes one JSON object that fits its schema. Never write what you think the outcome is. "
            "The functions, each with the JSON Schema of its arguments:"
        ),
        closing=_COMMON,
        shows_example=False,
        reminder="Write the assistant's next message.\n" + _REMINDER,
    ),
    "serialise": _Wording(
        opening=(
            "The task is one of writing: the next step of the assistant in this conversation is to be put down as "
            "text, which another program reads. A step is either words for the user, or the functions that the other "
            "program is to run, each written as a block as in the example. The functions that a step may name, each "
            "with the JSON Schema of its arguments:"
        ),
        closing=_COMMON,
        shows_example=True,
        reminder="Write down the assistant's next step as text.\n" + _REMINDER,
    ),
}

_REPLACES = "These take the place of the functions above."
_NEW_CODE = "From now on the code in such lines is {code}."
_ONE_AT_MOST = "At most one function is run by this message."
_AT_LEAST_ONE = "This message runs at least one function."
_THIS_ONE = "This message runs the function {name}, and holds nothing else."


def digest(tools: Sequence[Tool], wording: WordingName) -> str:
    """Of what is described, whatever its code is."""
    return hashlib.sha256(_description(tools, wording, "0", replaces=False).encode(errors="replace")).hexdigest()


def describe(tools: Sequence[Tool], wording: WordingName, code: str, *, replaces: bool) -> str:
    """The sections about the functions. ``replaces``: the chat has read of others before."""
    return heading(code, "functions") + "\n" + _description(tools, wording, code, replaces=replaces)


def remind(choice: ToolChoice, wording: WordingName, code: str, *, is_new_code: bool) -> str:
    """The last words of a prompt, which say how a function is run, and what this message is to be."""
    lines = [_filled(_WORDINGS[wording].reminder, code)]
    if is_new_code:
        lines.insert(0, _NEW_CODE.format(code=code))
    if choice.mode == "required":
        named = choice.names[0] if len(choice.names) == 1 else None
        lines.append(_AT_LEAST_ONE if named is None else _THIS_ONE.format(name=named))
    if not choice.parallel:
        lines.append(_ONE_AT_MOST)
    return "\n".join(lines)


def texts_of(tools: Sequence[Tool]) -> list[str]:
    """Everything of the functions that stands in a prompt."""
    return [text for tool in tools for text in (tool.name, tool.namespace or "", tool.description, tool.schema or "")]


def _description(tools: Sequence[Tool], wording: WordingName, code: str, *, replaces: bool) -> str:
    words, names = _WORDINGS[wording], Names(tools)
    parts = [_REPLACES] if replaces else []
    parts.append(_filled(words.opening, code))
    parts += [_declaration(tool, names.label(tool)) for tool in tools]
    parts.append(_filled(words.closing, code))
    if words.shows_example:
        parts += _example(tools[0], names.label(tools[0]), code)
    return "\n".join(parts)


def _filled(words: str, code: str) -> str:
    return words.format(
        code=code,
        call=heading(code, "call", "NAME:1"),
        end=heading(code, END_OF_CALL),
        value=heading(code, VALUE, "ARGUMENT"),
    )


def _declaration(tool: Tool, label: str) -> str:
    """One line of JSON. Nothing is shortened: a lost enum is a wrong call."""
    described: dict[str, Any] = {"name": label}
    if tool.description:
        described["description"] = tool.description
    if tool.kind == "text":
        described["input"] = "one free text, which stands under the heading as it is, without JSON"
    else:
        described["parameters"] = _said_schema(tool.schema)
    return json.dumps(described, ensure_ascii=False, separators=(",", ":"))


def _said_schema(schema: str | None) -> Any:
    """The schema without what tells a model nothing."""
    value = json.loads(schema) if schema is not None else None
    if not isinstance(value, dict):
        return {"type": "object", "properties": {}}
    said = {key: inner for key, inner in value.items() if key not in ("$schema", "$id", "strict")}
    properties = said.get("properties")
    if isinstance(properties, dict):
        said["properties"] = {key: _without_title(key, inner) for key, inner in properties.items()}
    return said


def _without_title(key: str, schema: Any) -> Any:
    """Without a title that repeats the name, as generators write it."""
    if not isinstance(schema, dict) or not isinstance(schema.get("title"), str):
        return schema
    same = "".join(schema["title"].split()).lower() == key.replace("_", "").lower()
    return {name: inner for name, inner in schema.items() if name != "title" or not same}


def _example(tool: Tool, label: str, code: str) -> list[str]:
    """A question, a call, its result, an answer."""
    arguments = "example" if tool.kind == "text" else json.dumps(_example_arguments(tool.schema), ensure_ascii=False)
    return [
        heading(code, "example"),
        "(What follows up to the end of the example shows the form. It is no part of the conversation.)",
        heading(code, "user"),
        f"Try {label}, please.",
        heading(code, "assistant"),
        f"I run {label}.",
        "",
        call(code, label, 1, arguments),
        result(code, f"{label}:1", "done", failed=False),
        heading(code, "assistant"),
        f"{label} ran, and returned: done.",
        heading(code, "end", "of", "the", "example"),
    ]


_EXAMPLES = {"string": "example", "integer": 1, "number": 1, "boolean": True, "array": [], "object": {}, "null": None}


def _example_arguments(schema: str | None) -> dict[str, Any]:
    """Values for what is required: names and shapes that are really there, because models copy them."""
    value = json.loads(schema) if schema is not None else None
    properties = value.get("properties") if isinstance(value, dict) else None
    if not isinstance(properties, dict) or not isinstance(value, dict):
        return {}
    required = value.get("required")
    wanted = [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
    if not wanted:
        wanted = list(properties)[:1]
    return {key: _example_value(properties.get(key)) for key in wanted[:_MAX_EXAMPLE_ARGUMENTS]}


_MAX_EXAMPLE_ARGUMENTS = 8


def _example_value(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return "example"
    if "const" in schema:
        return schema["const"]
    for key in ("enum", "examples"):
        choices = schema.get(key)
        if isinstance(choices, list) and choices:
            return choices[0]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    return _EXAMPLES.get(kind, "example") if isinstance(kind, str) else "example"

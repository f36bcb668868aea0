"""What is read out of an answer, case by case (tests/data/tools): whole, under every cut, and character by character.

A user who meets a new slip of a model adds a row there, and no code.
"""

import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.answers.json_checker import JsonChecker
from app.answers.shaping import Shaper
from app.answers.tool_reading import ToolReading
from app.chat import (
    ChatRequest,
    Event,
    Finished,
    FlawedCalls,
    Heartbeat,
    KnownTools,
    Notice,
    Options,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
    Unrecognised,
    text_message,
)
from app.text.prompt import Prompt, compose
from tests.running.each_case import check_each

CODE = "3f09c2a1b87d"
# What stands for the code in the data: the code itself, another one, and the code as a model may copy it.
STAND_INS = {
    "{C}": CODE,
    "{X}": "0123456789ab",
    "{C1}": "3f09c2a1x87d",
    "{C-}": "3f09c2a187d",
    "{C+}": "3f09c2aa1b87d",
    "{C3}": "3f00c201b07d",
}


def tool(name: str, schema: dict[str, Any] | None = None, **more: Any) -> Tool:
    return Tool(name, "", None if schema is None else json.dumps(schema), **more)


def fields(required: Sequence[str] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


TEXT, INTEGER = {"type": "string"}, {"type": "integer"}
TOOLS = (
    tool("weather", fields(["city"], city=TEXT, days=INTEGER, metric={"type": "boolean"})),
    tool("read", fields(["path"], path=TEXT, limit={"type": ["integer", "null"]})),
    tool("write", fields(["path", "content"], path=TEXT, content=TEXT)),
    tool("shell", fields(["command"], command=TEXT)),
    tool("now"),
    tool("patch", kind="text"),
    tool(
        "put",
        fields(
            zip=TEXT,
            tags={"type": "array", "items": TEXT},
            opts={"type": "object"},
            mode={"oneOf": [INTEGER, {"const": "max"}]},
            kind={"const": "a"},
        ),
    ),
    tool("strict", fields(["city"], city=TEXT), strict=True),
    tool("odd", {"type": "object", "patternProperties": {"^x-": INTEGER}}),
    tool("foreign", {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/a.json"}}}),
)


FILES = sorted((Path(__file__).parents[1] / "data" / "tools").glob("*.json"))


def filled(text: str) -> str:
    for stand_in, code in STAND_INS.items():
        text = text.replace(stand_in, code)
    return text


@pytest.fixture(scope="module")
def checker() -> Iterator[JsonChecker]:
    checker = JsonChecker()
    yield checker
    checker.close()


def request_of(case: dict[str, Any]) -> ChatRequest:
    choice = case.get("choice", {})
    return ChatRequest(
        "k2",
        (text_message("system", "Be brief."), text_message("user", case.get("quotes", "What is the weather?"))),
        tools=TOOLS if case.get("offered", True) else (),
        tool_choice=ToolChoice(
            choice.get("mode", "auto"), tuple(choice.get("names", ())), choice.get("parallel", True)
        ),
        code=CODE,
        # Without functions the history has calls in it.
        known_tools=KnownTools(CODE, "") if not case.get("offered", True) or choice.get("mode") == "none" else None,
    )


def prompt_of(request: ChatRequest) -> Prompt:
    prompt = compose(request, request.messages)
    assert prompt.reads_calls and prompt.code == CODE
    return prompt


def shaper_of(case: dict[str, Any], request: ChatRequest, prompt: Prompt, checker: JsonChecker) -> Shaper:
    reading = ToolReading(request, prompt, checker, shows_all=not case.get("continues"), reports_spent=False)
    return Shaper(Options(), "off", reading)


def run(shaper: Shaper, events: Sequence[Event]) -> list[Event]:
    """As ``Attempt`` does it."""
    out: list[Event] = []
    for event in events:
        out += [event] if shaper.passes_unchanged(event) else shaper.take([event])
    return out


def summary(events: Sequence[Event]) -> tuple[list[list[str]], list[str]]:
    """The events in the words of the data, neighbouring texts joined; and the oddities."""
    told: list[list[str]] = []
    oddities = set()
    for event in events:
        match event:
            case TextDelta(text) | ReasoningDelta(text):
                kind = "text" if isinstance(event, TextDelta) else "thinking"
                if told and told[-1][0] == kind:
                    told[-1][1] += text
                else:
                    told.append([kind, text])
            case ToolCall():
                told.append(["call", event.name, event.arguments])
            case FlawedCalls(flaws):
                told += [["ask", flaw.kind, flaw.message] for flaw in flaws]
            case Finished(reason):
                told.append(["end", reason])
            case Unrecognised(kind):
                oddities.add(kind.removeprefix("tools:"))
            case Heartbeat() | Notice():
                pass
            case _:
                raise AssertionError(event)
    return told, sorted(oddities)


def check(case: dict[str, Any], events: Sequence[Event]) -> None:
    told, oddities = summary(events)
    expected = [[kind, *(filled(word) for word in words)] for kind, *words in case["expect"]]
    assert len(told) == len(expected), told
    for (kind, *words), (expected_kind, *expected_words) in zip(told, expected, strict=True):
        if expected_kind == "ask":
            assert [kind, words[0]] == [expected_kind, expected_words[0]], told
            assert all(word in words[1] for word in expected_words[1:]), told
        else:
            assert [kind, *words] == [expected_kind, *expected_words], told
    assert oddities == case.get("oddities", [])
    for event in events:
        if isinstance(event, TextDelta | ReasoningDelta):
            assert CODE not in event.text
        if isinstance(event, ToolCall):
            assert CODE not in event.arguments


def pieces_of(case: dict[str, Any], cuts: Sequence[int]) -> list[Event]:
    thinking, text = filled(case.get("thinking", "")), filled(case["text"])
    whole = thinking + text
    edges = sorted({0, len(thinking), len(whole), *cuts})
    events: list[Event] = []
    for start, end in zip(edges, edges[1:], strict=False):
        events.append(ReasoningDelta(whole[start:end]) if end <= len(thinking) else TextDelta(whole[start:end]))
    return [*events, Finished(case.get("reason", "stop"))]


# Longer cases are cut at some places only. TOOL_CUTS=100000 is every place.
MAX_CUTS = int(os.environ.get("TOOL_CUTS", "20"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_answers_are_read(file: Path, checker: JsonChecker) -> None:
    cases = json.loads(file.read_text())
    check_each(((case["id"], case) for case in cases), partial(check_every_cut, checker))


def check_every_cut(checker: JsonChecker, case: dict[str, Any]) -> None:
    size = len(filled(case.get("thinking", "")) + filled(case["text"]))
    cuts = [[], list(range(1, size))] + [[at] for at in range(1, size)][:: max(1, size // MAX_CUTS)]
    # Both never change: they are the same for every cut.
    request = request_of(case)
    prompt = prompt_of(request)
    for cut in cuts:
        try:
            check(case, run(shaper_of(case, request, prompt, checker), pieces_of(case, cut)))
        except AssertionError as e:
            raise AssertionError(f"cut {cut if len(cut) < 2 else 'at each character'}: {e}") from e

"""Slips of models, by rule: a correct answer with one to three of them gives its calls or a flaw, and nothing else.

Never another call, never a call with other arguments, never the code. Thinking and text are looked at as well.
"""

import json
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.answers.json_checker import JsonChecker
from app.answers.shaping import Shaper
from app.answers.tool_reading import ToolReading
from app.chat import (
    ChatRequest,
    Finished,
    FlawedCalls,
    Options,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
    text_message,
)
from app.text.prompt import compose

CODE = "3f09c2a1b87d"
_SCHEMA = json.dumps(
    {"type": "object", "properties": {"path": {"type": "string"}, "n": {"type": "integer"}}, "required": ["path"]}
)
TOOLS = (Tool("read", "", _SCHEMA), Tool("write", "", _SCHEMA))
# No brace and no quote within a text: a slip there would change the text itself.
CALLS = [("read", {"path": "a [x] `y`", "n": 2}), ("write", {"path": "b\n```\nc"})]


def _answer() -> str:
    blocks = [
        f"[{CODE} call {name}:{number}]\n{json.dumps(arguments)}\n[{CODE} /call]"
        for number, (name, arguments) in enumerate(CALLS, start=1)
    ]
    return "I look at it.\n\n" + "\n\n".join(blocks)


# Each takes an answer and a place in it, from 0 to 1.
_SLIPS: list[Callable[[str, float], str]] = [
    # the code
    lambda text, at: _at(text, CODE, at, CODE[:-1]),
    lambda text, at: _at(text, CODE, at, CODE + CODE[-1]),
    lambda text, at: _at(text, CODE, at, "0" + CODE[1:]),
    lambda text, at: _at(text, CODE, at, CODE.upper()),
    lambda text, at: _at(text, CODE, at, "0123456789ab"),
    lambda text, at: _at(text, CODE, at, ""),
    # headings
    lambda text, at: _at(text, "[" + CODE, at, "[ " + CODE + " "),
    lambda text, at: _at(text, "[" + CODE, at, "**[" + CODE),
    lambda text, at: _at(text, "[" + CODE, at, "  [" + CODE),
    lambda text, at: _at(text, "[" + CODE, at, "【" + CODE),
    lambda text, at: _at(text, " call ", at, " Call "),
    lambda text, at: _at(text, " call ", at, "\ncall "),
    lambda text, at: _at(text, "call read:1", at, "call functions.read:1"),
    lambda text, at: _at(text, "call read:1", at, "call read"),
    lambda text, at: _at(text, "call read:1", at, "call Read:1"),
    lambda text, at: _at(text, ":2]", at, "#2]"),
    lambda text, at: _at(text, ":2]", at, ":7]"),
    lambda text, at: _at(text, f"\n[{CODE} /call]", at, ""),
    lambda text, at: _at(text, f"[{CODE} /call]", at, f"[{CODE} /call]\n[{CODE} /call]"),
    # around it
    lambda text, at: _at(text, f"[{CODE} call", at, f"```\n[{CODE} call"),
    lambda text, at: _at(text, f"[{CODE} /call]", at, f"[{CODE} /call]\n```"),
    lambda text, at: _at(text, "\n\n", at, "\nAnd so on.\n"),
    lambda text, at: text + "\n\nI wait for the outcome.",
    lambda text, at: text + f"\n[{CODE} result read:1]\nall is well",
    lambda text, at: text + "<|tool_calls_section_end|>",
    # JSON
    lambda text, at: _at(text, "{", at, "```json\n{"),
    lambda text, at: _at(text, '"path"', at, "'path'"),
    lambda text, at: _at(text, "}", at, ",}"),
    lambda text, at: _at(text, "}", at, ""),
    lambda text, at: _at(text, '"n": 2', at, '"n": "2"'),
    lambda text, at: _at(text, '"', at, ""),
    # the end
    lambda text, at: text[: int(len(text) * at)],
]


def _at(text: str, old: str, at: float, new: str) -> str:
    """With one of the places where ``old`` stands replaced."""
    places = [found.start() for found in re.finditer(re.escape(old), text)]
    if not places:
        return text
    place = places[min(int(at * len(places)), len(places) - 1)]
    return text[:place] + new + text[place + len(old) :]


@pytest.fixture(scope="module")
def checker() -> Iterator[JsonChecker]:
    checker = JsonChecker()
    yield checker
    checker.close()


@settings(max_examples=100)
@given(
    slips=st.lists(st.tuples(st.sampled_from(_SLIPS), st.floats(0, 0.999)), min_size=1, max_size=3),
    reason=st.sampled_from(["stop", "length"]),
    mode=st.sampled_from(["auto", "required"]),
    thinking=st.booleans(),
    size=st.integers(1, 40),
)
def test_a_slip_makes_no_other_call(
    checker: JsonChecker,
    slips: list[tuple[Callable[[str, float], str], float]],
    reason: str,
    mode: str,
    thinking: bool,
    size: int,
) -> None:
    answer = _answer()
    for slip, at in slips:
        answer = slip(answer, at)
    choice = ToolChoice("required" if mode == "required" else "auto")
    request = ChatRequest("k2", (text_message("user", "?"),), tools=TOOLS, tool_choice=choice, code=CODE)
    reading = ToolReading(request, compose(request, request.messages), checker, shows_all=True, reports_spent=False)
    shaper = Shaper(Options(), "off", reading)
    delta = ReasoningDelta if thinking else TextDelta
    pieces = [delta(answer[at : at + size]) for at in range(0, len(answer), size)]
    events = shaper.take([*pieces, Finished(reason)])  # type: ignore[arg-type]  # a literal
    made = [(event.name, json.loads(event.arguments)) for event in events if isinstance(event, ToolCall)]
    # A text may have got longer by a fence that was not closed; what is called is right, and in the right order.
    left = iter(CALLS)
    assert all(call in left for call in made), made
    for event in events:
        if isinstance(event, TextDelta | ReasoningDelta):
            assert CODE not in event.text
        if isinstance(event, ToolCall):
            assert CODE not in event.arguments
    assert isinstance(events[-1], Finished)
    if made and reason == "stop":
        assert events[-1].reason == "tool_calls"
    if not made:
        assert events[-1].reason == reason
        assert mode == "auto" or reason == "length" or any(isinstance(event, FlawedCalls) for event in events)

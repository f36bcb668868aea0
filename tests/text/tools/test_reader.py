"""Properties of reading, whatever is read: no cut matters, no code leaves, nothing is made up, time is linear."""

import itertools
import json
import os
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.chat import ChatRequest, Message, TextPart, Tool, ToolCall, text_message
from app.text.prompt import compose
from app.text.tools.foreign import ForeignCall
from app.text.tools.names import Names
from app.text.tools.reader import MAX_CALL_CHARS, Block, CallReader, Flaw, Item, Spent, Stop
from tests.running.each_case import check_each

# As many made-up answers in a test that takes the most. TOOL_EXAMPLES=20000 is a thorough look.
EXAMPLES = int(os.environ.get("TOOL_EXAMPLES", "250"))

CODE = "3f09c2a1b87d"
TOOLS = (Tool("read"), Tool("write"), Tool("patch", kind="text"))


def reader(*, foreign: bool = True, thinking: bool = False) -> CallReader:
    judge = (lambda _raw, _calls: "call") if foreign else None
    return CallReader(CODE, Names(TOOLS), judge, is_thinking=thinking)  # type: ignore[arg-type]  # a literal


def read(text: str, cuts: Sequence[int] = (), *, whole: bool = True, **how: bool) -> list[Item]:
    one = reader(**how)
    items: list[Item] = []
    for start, end in itertools.pairwise([0, *cuts, len(text)]):
        piece = text[start:end]
        items += [piece] if piece and one.passes_unchanged(piece) else one.feed(piece)
    return joined(items + one.flush(is_whole=whole))


def joined(items: Sequence[Item]) -> list[Item]:
    out: list[Item] = []
    for item in items:
        if isinstance(item, str) and out and isinstance(out[-1], str):
            out[-1] += item
        elif not isinstance(item, Spent):
            out.append(item)
    return out


def shown(items: Sequence[Item]) -> str:
    return "".join(item for item in items if isinstance(item, str))


# What answers are made of, so that the interesting things happen next to one another.
_PARTS = st.sampled_from(
    [
        *(
            "\n",
            "\n\n",
            " ",
            "   ",
            "x",
            "words of a sentence",
            "[",
            "]",
            "`",
            "``",
            "```",
            "```json",
            "~~~",
            "*",
            "**",
            "<",
        ),
        *("{", "}", '"', "\\", '{"a": 1}', '{"a": "}', "{}", "[x]", "- item", "functions.read:0", "【", "】"),
        f"[{CODE} call read:1]",
        f"[{CODE} call write:2]",
        f"[{CODE} call patch:1]",
        f"[{CODE} call nobody:1]",
        f"[{CODE} /call]",
        f"[{CODE} value content]",
        f"[{CODE} result read:1]",
        f"[{CODE} user]",
        f"[{CODE[:-1]} /call]",
        f"[{CODE}",
        CODE,
        CODE[:7],
        "[0123456789ab call read:1]",
        "<tool_call>",
        '<tool_call>{"name": "read", "arguments": {}}</tool_call>',
        "</tool_call>",
        "<|tool_call_begin|>functions.read:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
        "<|tool_calls_section_end|>",
        "<|open|>call ",
        '<invoke name="read">',
        "</invoke>",
        "<｜DSML｜",
    ]
)
_ANSWERS = st.lists(_PARTS, max_size=14).map("".join)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    text=_ANSWERS,
    data=st.data(),
    whole=st.booleans(),
    foreign=st.booleans(),
    thinking=st.booleans(),
)
def test_cuts_do_not_matter(text: str, data: st.DataObject, whole: bool, foreign: bool, thinking: bool) -> None:
    expected = read(text, whole=whole, foreign=foreign, thinking=thinking)
    some = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    for cuts in (range(1, len(text)), some):
        assert read(text, cuts, whole=whole, foreign=foreign, thinking=thinking) == expected


@settings(max_examples=EXAMPLES, deadline=None)
@given(text=_ANSWERS, foreign=st.booleans(), thinking=st.booleans())
def test_the_code_never_leaves_and_nothing_is_made_up(text: str, foreign: bool, thinking: bool) -> None:
    items = read(text, foreign=foreign, thinking=thinking)
    assert CODE not in shown(items)
    for item in items:
        if isinstance(item, Block):
            assert CODE not in item.body
            assert all(CODE not in value for _, value in item.values)
            assert item.form or f"[{CODE}" in text or CODE[:-1] in text
    # What is shown stands in the answer, in this order.
    left = iter(text)
    assert all(character in left for character in shown(items).replace("…", ""))


@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(text=_ANSWERS.filter(lambda text: CODE[:-1] not in text))
def test_without_a_code_the_text_is_as_it_was_written(text: str) -> None:
    items = read(text, foreign=False)
    assert items == ([text] if text else [])


_ARGUMENTS = st.dictionaries(
    st.text(max_size=5), st.one_of(st.text(max_size=20), st.integers(), st.lists(st.text(max_size=3))), max_size=3
)
_WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(
    lambda text: text.strip() == text and text[0] not in "[【［`~*<f"
)


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(
    text=st.one_of(st.just(""), _WORDS),
    calls=st.lists(
        st.one_of(
            st.tuples(st.just("read"), _ARGUMENTS.map(json.dumps)),
            st.tuples(st.just("patch"), st.text(st.characters(exclude_categories=["Cs"]), max_size=40)),
        ),
        min_size=1,
        max_size=3,
    ),
    style=st.sampled_from([None, 2]),
)
def test_history_is_written_as_answers_are_read(text: str, calls: list[tuple[str, str]], style: int | None) -> None:
    """So a model that imitates its history makes a correct call."""
    written = [
        (name, json.dumps(json.loads(arguments), indent=style) if name == "read" else arguments)
        for name, arguments in calls
    ]
    made = tuple(
        ToolCall("", name, arguments, "text" if name == "patch" else "function") for name, arguments in written
    )
    said = Message("assistant", (TextPart(text),) if text else (), tool_calls=made)
    request = ChatRequest("k2", (text_message("user", "?"), said), tools=TOOLS, code=CODE)
    prompt = compose(request, request.messages).text
    start = prompt.rindex(f"[{CODE} assistant]\n") + len(f"[{CODE} assistant]\n")
    items = read(prompt[start : prompt.rindex(f"\n[{CODE} end]")])
    assert shown(items) == text
    blocks = [item for item in items if isinstance(item, Block)]
    assert [(block.named.label, block.body) for block in blocks] == written
    assert not any(isinstance(item, Flaw | Stop) for item in items)


def test_a_long_call_is_read_whole() -> None:
    content = "".join(f'line {n}: [x] {{y}} "z"\n' for n in range(40_000))
    assert 900_000 < len(content) < MAX_CALL_CHARS
    text = f'[{CODE} call write:1]\n{{"path":"a"}}\n[{CODE} value content]\n{content}[{CODE} /call]'
    began = time.process_time()
    items = read(text, range(4, len(text), 4))
    assert [item.values for item in items if isinstance(item, Block)] == [(("content", content[:-1]),)]
    assert time.process_time() - began < 10


def test_a_call_without_end_is_given_up() -> None:
    items = read(f"[{CODE} call patch:1]\n" + "x" * (MAX_CALL_CHARS + 10))
    assert [type(item) for item in items] == [Flaw, Stop]
    assert isinstance(items[0], Flaw) and items[0].kind == "too-long"


def test_a_call_is_given_at_its_end_and_words_flow() -> None:
    one = reader()
    assert one.feed("Let me lo") == ["Let me lo"]
    assert one.feed("ok.\n\n[3f") == ["ok."]
    assert one.holds
    assert one.feed(f"{CODE[2:]} call read:1]\n{{}}") == []
    (block,) = one.feed(f"\n[{CODE} /call]")
    assert isinstance(block, Block) and block.named.tool == TOOLS[0]
    assert one.feed(f"\n[{CODE} call read:2]\n") == []


# A megabyte of normal text takes some 0.05 s.
HOSTILE_CHARS = 30_000


def check_time(text: str) -> None:
    """A twentieth of a second at most, or not much more than ten times that of a tenth of the text."""
    for size in (len(text), 100):
        spent_s = time_of(text, size)
        assert spent_s < 0.05 or spent_s < 25 * time_of(text[: len(text) // 10], size), size


def check_lines(start: str, lines: Sequence[str]) -> None:
    """Each of the lines, when it follows ``start`` again and again."""
    texts = ((line, start + line * (HOSTILE_CHARS // len(line))) for line in lines)
    check_each(texts, check_time)


def time_of(text: str, size: int) -> float:
    one = reader()
    began = time.process_time()
    for at in range(0, len(text), size):
        one.feed(text[at : at + size])
    one.flush(is_whole=True)
    return time.process_time() - began


HOSTILE_LINES = (
    "[\n",
    "[3f09\n",
    f"[{CODE}\n",
    f"[{CODE} user]\n",
    f"[{CODE} value x]\n",
    f"[{CODE} /call]\n",
    "[0123456789ab call x]\n",
    "```\n",
    "`\n",
    "*\n",
    "<\n",
    "<|tool_call_begin|>",
    "<tool_call>\n",
    "<|open|>argument key=<|sep|>",
    '<parameter name="a">',
    "functions.read:0\n",
    "\n",
    " ",
    "`",
    "<|a|>",
    CODE,
)


@pytest.mark.parametrize(
    "start",
    ["", f"[{CODE} call read:1]\n", f'[{CODE} call read:1]\n{{"a": "', f"[{CODE} call read:1]\n{{}}", "```\n"],
)
def test_hostile_text_takes_linear_time(start: str) -> None:
    check_lines(start, HOSTILE_LINES)


FOREIGN_LINES = (
    '<|open|>call tool="read"<|sep|>',
    '<|open|>argument key="a"<|sep|>',
    '<invoke name="read">',
    '<parameter name="a">',
    "</tool_call>",
    "<|tool_call_end|>",
    "{",
)


@pytest.mark.parametrize(
    "opening", ["<|open|>tools<|sep|>", "<function_calls>", "<tool_call>", "<|tool_calls_section_begin|>"]
)
def test_foreign_text_takes_linear_time(opening: str) -> None:
    check_lines(opening, FOREIGN_LINES)


def test_a_verdict_is_asked_for_once_the_calls_are_known() -> None:
    seen: list[tuple[str, list[str]]] = []

    def judge(raw: str, calls: list[ForeignCall]) -> str:
        seen.append((raw, [call.name for call in calls]))
        return "text"

    one = CallReader(CODE, Names(TOOLS), judge)  # type: ignore[arg-type]  # a literal
    text = '<tool_call>{"name": "read", "arguments": {}}</tool_call>'
    assert joined(one.feed(text) + one.flush(is_whole=True)) == [text]
    assert seen == [(text, ["read"])]

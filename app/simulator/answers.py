"""What the simulated Kimi says: text, thinking, search results, a title; all decided before the first byte.

Knows nothing of any wire: the same answer is sent by both generations. Deterministic: the same prompt in the
same chat gives the same answer.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.simulator.knobs import Knobs
from app.simulator.tooling import Spoken

_CJK = re.compile(r"[\u3400-\u9fff]")
_RECALL = re.compile(r"what did i say|我刚才说了什么|recall", re.IGNORECASE)
_QUOTE_CHARS = 400
_TITLE_CHARS = 20
_FILLER = "The quick brown fox jumps over the lazy dog while the gateway passes every word along. "


@dataclass(frozen=True, slots=True)
class Page:
    """One search result."""

    title: str
    url: str
    site: str
    date: str
    snippet: str


@dataclass(frozen=True, slots=True)
class Question:
    """What the answer depends on besides the knobs."""

    prompt: str
    earlier: Sequence[str]
    """The user's earlier texts in this chat, oldest first."""
    file_names: Sequence[str]
    thinks: bool
    searches: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; the token tuples are sent one event each."""

    title: str
    thoughts: tuple[str, ...]
    pages: tuple[Page, ...]
    tokens: tuple[str, ...]
    own_tool: str = ""
    """The name of a tool of Kimi's own that is used before the text."""


def compose(question: Question, knobs: Knobs, spoken: Spoken | None = None) -> Answer:
    """The answer to a question. ``spoken``: what is said because of functions in it."""
    size = max(1, knobs.token_chars)
    if spoken is not None:
        thinking = _thinking(question, knobs) if spoken.thinking is None else spoken.thinking
        return Answer(
            title=_title(question.prompt),
            thoughts=_pieces(thinking, size),
            pages=_pages(question, knobs.search) if question.searches else (),
            tokens=_pieces(spoken.text, size),
            own_tool=spoken.own_tool,
        )
    return Answer(
        title=_title(question.prompt),
        thoughts=_pieces(_thinking(question, knobs), size),
        pages=_pages(question, knobs.search) if question.searches else (),
        tokens=_filler(knobs.tokens, size)
        if knobs.say is None and knobs.tokens is not None
        else _said(question, knobs, size),
    )


def _said(question: Question, knobs: Knobs, size: int) -> tuple[str, ...]:
    if knobs.recite and knobs.say is None:
        return _pieces(_recital(question, knobs.recite), size)
    return _pieces(_text(question) if knobs.say is None else knobs.say, size)


def _thinking(question: Question, knobs: Knobs) -> str:
    if knobs.think is not None:
        return knobs.think
    if not question.thinks:
        return ""
    if _is_chinese(question.prompt):
        return f"用户发来了 {len(question.prompt)} 个字，我先想一想再回答。"
    return f"The user wrote {len(question.prompt)} characters. Let me think before I answer."


def _text(question: Question) -> str:
    if _RECALL.search(question.prompt):
        return _recollection(question)
    quote = _shortened(question.prompt)
    files = "、".join(question.file_names) if _is_chinese(question.prompt) else ", ".join(question.file_names)
    if _is_chinese(question.prompt):
        return f"你好，我是 Kimi（模拟器）。你说：“{quote}”。" + (f"我看到了文件：{files}。" if files else "")
    return f'Hello, this is Kimi (simulated). You said: "{quote}".' + (f" I see the files: {files}." if files else "")


def _recital(question: Question, pattern: str) -> str:
    """What was said and matches, each once; a sentence where nothing does."""
    found = [word for text in (*question.earlier, question.prompt) for word in re.findall(pattern, text)]
    return " ".join(dict.fromkeys(found)) or "Nothing was said."


def _recollection(question: Question) -> str:
    quotes = [f"{number}. {text}" for number, text in enumerate(question.earlier, start=1)]
    if _is_chinese(question.prompt):
        return "你之前说过：\n" + "\n".join(quotes) if quotes else "在这个会话里，你之前还没有说过话。"
    return "You said before:\n" + "\n".join(quotes) if quotes else "You have not said anything in this chat before."


def _pages(question: Question, how_many: int) -> tuple[Page, ...]:
    topic = _title(question.prompt)
    return tuple(
        Page(
            title=f"{topic} ({number})",
            url=f"https://site{number}.example/page",
            site=f"site{number}.example",
            date="2025-07-12",
            snippet=f"{topic}: result {number}",
        )
        for number in range(1, how_many + 1)
    )


def _title(prompt: str) -> str:
    return prompt.strip().partition("\n")[0][:_TITLE_CHARS] or "Untitled"


def _shortened(prompt: str) -> str:
    return prompt if len(prompt) <= _QUOTE_CHARS else prompt[:_QUOTE_CHARS] + "…"


def _is_chinese(text: str) -> bool:
    return _CJK.search(text) is not None


def _pieces(text: str, size: int) -> tuple[str, ...]:
    return tuple(text[start : start + size] for start in range(0, len(text), size))


@functools.lru_cache(maxsize=64)
def _filler(how_many: int, size: int) -> tuple[str, ...]:
    text = _FILLER * (how_many * size // len(_FILLER) + 1)
    return _pieces(text, size)[:how_many]

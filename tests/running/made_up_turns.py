"""Turns that hypothesis makes up: any text, in any order of events that the protocols allow."""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.running.wire import connect_turn, said


@dataclass(frozen=True)
class MadeUpTurn:
    """The bytes of a stream, and what they say."""

    body: bytes
    content: str
    reasoning: str


def same_every_time(examples: int) -> settings:
    """Hypothesis, with the same examples in every run, and no limit of time for each."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )


# Any text that JSON can carry; surrogates have a wire file of their own.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_SEARCH = st.fixed_dictionaries(
    {"type": st.sampled_from(["start", "start_res", "get_res", "answer"]), "title": _TEXT}
)
_SIDE_EVENTS = st.one_of(
    st.builds(lambda t: {"event": "rename", "text": t}, _TEXT),
    st.builds(lambda m: {"event": "search_plus", "msg": m}, _SEARCH),
    st.builds(lambda t: {"event": "debug", "message": {"search_target": t}}, _TEXT),
    st.builds(
        lambda k, t: {"event": k, "text": t}, st.sampled_from(["zone_set", "loading", "ref_card", "novel"]), _TEXT
    ),
    st.sampled_from([{"event": "ping"}, {"event": "done"}, {"event": "ref_docs", "ref_cards": []}, None]),
)
_SPOKEN = st.builds(lambda k, t: {"event": k, "text": t}, st.sampled_from(["cmpl", "cmpl", "k1"]), _TEXT)


@st.composite
def sse_turns(draw: st.DrawFn) -> MadeUpTurn:
    events = draw(st.lists(st.one_of(_SPOKEN, _SPOKEN, _SIDE_EVENTS), max_size=14))
    events = [{"event": "req", "id": "x", "content": draw(_TEXT)}, {"event": "resp", "id": "y"}, *events]
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    start = draw(st.sampled_from(["data: ", "data:"]))
    ascii_only = draw(st.booleans())
    body = b""
    for event in [*events, {"event": "all_done"}]:
        line = ": a comment" if event is None else start + json.dumps(event, ensure_ascii=ascii_only)
        body += f"{line}{end}{end}".encode()
    return MadeUpTurn(body, _text_of(events, "cmpl"), _text_of(events, "k1"))


def _text_of(events: list[Any], kind: str) -> str:
    return "".join(event["text"] for event in events if event is not None and event["event"] == kind)


_QUIET_FRAMES = st.sampled_from(
    [
        {"heartbeat": {}},
        {"op": "set", "mask": "chat.name", "chat": {"name": "a title"}},
        {
            "op": "set",
            "block": {"id": "t", "tool": {"name": "web_search", "args": "{}", "contents": [{"text": "no"}]}},
        },
        {"op": "append", "mask": "block.tool.args", "block": {"id": "t", "tool": {"args": "no"}}},
        {"op": "append", "mask": "block.search.keywords", "block": {"id": "s", "search": {"keywords": ["no"]}}},
        {"op": "set", "mask": "block.stage", "block": {"id": "g", "stage": {"name": "no", "status": "no"}}},
        {"op": "set", "ref": {"id": "1", "search": {"base": {"title": "no"}}}},
        {
            "op": "set",
            "mask": ["no"],
            "block": {"id": [], "messageId": {}},
            "message": [],
            "chat": 3,
            "notification": None,
        },
        {"op": {}, "message": {"id": {}, "role": [], "status": {}, "blocks": {}}, "chat": {"id": []}},
        {"op": "set", "message": {"id": {}, "status": {}, "scenario": [], "blocks": [[], {}]}, "chat": {"id": []}},
        {"op": "set", "mask": "block.novel", "block": {"id": "n", "novel": {"content": "no"}}},
        {
            "op": "set",
            "mask": "message",
            "message": {"id": "m-1", "role": "user", "blocks": [{"text": {"content": "no"}}]},
        },
        b"",
    ]
)


@st.composite
def connect_turns(draw: st.DrawFn) -> MadeUpTurn:
    """Blocks that grow by `append` and by `set`, with quiet frames between."""
    frames: list[Any] = []
    texts = {"text": "", "think": ""}
    block, content, part = 0, "", "text"
    for _ in range(draw(st.integers(0, 12))):
        step = draw(st.sampled_from(["grow", "grow", "set", "block", "quiet"]))
        if step == "quiet":
            frames.append(draw(_QUIET_FRAMES))
            continue
        if step == "block" or not block:
            block, content, part = block + 1, "", draw(st.sampled_from(["text", "text", "think"]))
        new = draw(_TEXT)
        content += new
        texts[part] += new
        if step == "grow":
            frames.append(said(part, new, str(block)))
        else:
            mask = draw(st.sampled_from([f"block.{part}", f"block.{part}.content", "block", None]))
            fields = {"op": "set", "block": {"id": str(block), part: {"content": content}}}
            frames.append(fields if mask is None else {**fields, "mask": mask})
    return MadeUpTurn(connect_turn(frames), texts["text"], texts["think"])

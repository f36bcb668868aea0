"""The text that arrives is what Kimi's events carried, however the network cuts the bytes."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.running import (
    CANARY,
    CONNECT_ONLY,
    EACH_GENERATION,
    EVERY_PROFILE,
    Answer,
    Gateway,
    Profile,
    Running,
    Simulator,
    ask,
    read_stream,
    wait_until,
)
from tests.running.wire import ALL_CASES, ALL_DONE, CASES, CONNECT_CASES, WireCase, check, cmpl, connect_turn, said


def cuts_by_line(body: bytes) -> list[int]:
    return [i + 1 for i, byte in enumerate(body) if byte == 0x0A]


def cuts_nowhere(_body: bytes) -> list[int]:
    return []


def cuts_everywhere(_body: bytes) -> str:
    return "each_byte"


def cuts_at_random(body: bytes, seed: int) -> list[int]:
    chance = random.Random(seed)
    return sorted(chance.sample(range(1, len(body)), min(len(body) - 1, chance.randint(1, 40))))


CUTTINGS: list[Callable[[bytes], Sequence[int] | str]] = [
    cuts_nowhere,
    cuts_by_line,
    cuts_everywhere,
    *(partial(cuts_at_random, seed=seed) for seed in range(4)),
]


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize(
    ("profile", "case"),
    [*(("sse-2025", case) for case in CASES), *(("connect-2026", case) for case in CONNECT_CASES)],
    ids=lambda value: value.name if isinstance(value, WireCase) else value,
    indirect=["profile"],
)
def test_a_wire_file_gives_its_answer_under_every_cutting(
    blunt: Gateway, simulator: Simulator, case: WireCase, framing: str
) -> None:
    for cut in CUTTINGS:
        for stream in (True, False):
            if cut is cuts_everywhere and len(case.streams[0]) > 5000:
                continue
            for body in case.streams:
                simulator.script(body, cuts=cut(body), framing=framing)
            if case.expected["error"]:
                blunt.wake_accounts()
            check(case, ask(blunt, stream), stream)


@dataclass
class _Cuts:
    """How many cuts the test below has made; hypothesis calls it many times."""

    made: int = 0


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
def _turns(draw: st.DrawFn) -> tuple[list[Any], bytes]:
    """Events in an order that the protocol allows, and their bytes."""
    events = draw(st.lists(st.one_of(_SPOKEN, _SPOKEN, _SIDE_EVENTS), max_size=14))
    events = [{"event": "req", "id": "x", "content": draw(_TEXT)}, {"event": "resp", "id": "y"}, *events]
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    start = draw(st.sampled_from(["data: ", "data:"]))
    ascii_only = draw(st.booleans())
    body = b""
    for event in [*events, {"event": "all_done"}]:
        line = ": a comment" if event is None else start + json.dumps(event, ensure_ascii=ascii_only)
        body += f"{line}{end}{end}".encode()
    return events, body


def test_any_text_in_any_order_under_any_cutting_is_the_same_answer(blunt: Gateway, simulator: Simulator) -> None:
    count = _Cuts()
    session = requests.Session()

    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(turn=_turns(), each_byte=st.booleans(), seed=st.integers(0, 2**32), stream=st.booleans(), data=st.data())
    def same_answer(turn: tuple[list[Any], bytes], each_byte: bool, seed: int, stream: bool, data: Any) -> None:
        events, body = turn
        cuts = "each_byte" if each_byte else cuts_at_random(body, seed)
        simulator.script(body, cuts=cuts, framing=data.draw(st.sampled_from(["chunked", "close"])))
        message = {"role": "user", "content": CANARY}
        response = session.post(
            f"{blunt.url}/v1/chat/completions",
            json={"model": "k2", "messages": [message], "stream": stream},
            timeout=30,
        )
        count.made += len(body) - 1 if each_byte else len(cuts)
        if not spoken(events, "cmpl") and not spoken(events, "k1"):
            # E23: an answer without a word is none.
            assert response.status_code == 502
            return
        answer = read_stream(response) if stream else Answer.of_completion(response)
        assert answer.error is None
        assert answer.content == spoken(events, "cmpl")
        assert answer.reasoning == spoken(events, "k1")
        assert answer.finish_reason == "stop"

    with session:
        same_answer()
    assert count.made >= 10_000, count.made


def spoken(events: list[Any], kind: str) -> str:
    return "".join(event["text"] for event in events if event is not None and event["event"] == kind)


@pytest.mark.parametrize(
    ("profile", "name", "framing", "end"),
    [
        *(
            ("sse-2025", "t2-thinking", framing, end)
            for framing in ("chunked", "close")
            for end in ("close", "reset")
        ),
        ("connect-2026", "short-connect", "chunked", "close"),
        ("connect-2026", "short-connect", "close", "reset"),
    ],
    indirect=["profile"],
)
def test_a_stream_cut_at_any_byte_is_never_a_finished_answer(
    blunt: Gateway, simulator: Simulator, name: str, framing: str, end: str
) -> None:
    case = next(case for case in ALL_CASES if case.name == name)
    (body,) = case.streams
    # Every byte once per framing, in one mode or the other; a reset, which may also eat what came before it, at
    # every third.
    for offset in range(0, len(body), 3 if end == "reset" and name == "t2-thinking" else 1):
        stream = offset % 2 == (framing == "chunked")
        simulator.script(body[:offset], cuts=[offset // 2], framing=framing, end=end)
        answer = ask(blunt, stream)
        assert answer.finish_reason is None, (offset, answer)
        assert answer.error is not None and answer.error["code"] == "upstream_error", (offset, answer)
        assert case.expected["content"].startswith(answer.content)
        assert case.expected["reasoning"].startswith(answer.reasoning)
        assert answer.done


@EVERY_PROFILE
def test_tokens_leave_as_they_come_and_not_later(gateway: Gateway, simulator: Simulator) -> None:
    """With either framing: a token that Kimi has sent arrives while Kimi still holds the next one back."""
    for framing in ("chunked", "close"):
        gate = f"hold-{framing}"
        simulator.knobs(framing=framing, say="first second", token_chars=6, gate=gate, gate_after=1)
        with gateway.say("hello", stream=True) as response:
            got = b""
            for piece in response.iter_content(None):
                got += piece
                if b'"first "' in got and b'"second"' not in got:
                    simulator.open_gate(gate)
            assert b'"second"' in got and got.endswith(b"data: [DONE]\n\n")


@EACH_GENERATION
def test_a_large_answer_is_whole(gateway: Gateway, simulator: Simulator, profile: Profile) -> None:
    text = "".join(chr(0x4E00 + i % 20000) for i in range(200_000))
    body = connect_turn([said("text", text)]) if profile.speaks_connect else cmpl(text) + cmpl("") + ALL_DONE
    simulator.script(body, cuts=[100, 65536, 65537])
    assert ask(gateway, True).content == text


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
def _connect_answers(draw: st.DrawFn) -> tuple[list[Any], str, str]:
    """Frames whose blocks grow by `append` and by `set`, with quiet ones between; the text, the thinking."""
    frames: list[Any] = []
    told = {"text": "", "think": ""}
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
        told[part] += new
        if step == "grow":
            frames.append(said(part, new, str(block)))
        else:
            mask = draw(st.sampled_from([f"block.{part}", f"block.{part}.content", "block", None]))
            fields = {"op": "set", "block": {"id": str(block), part: {"content": content}}}
            frames.append(fields if mask is None else {**fields, "mask": mask})
    return frames, told["text"], told["think"]


@CONNECT_ONLY
def test_any_blocks_in_any_order_under_any_cutting_are_the_same_answer(blunt: Gateway, simulator: Simulator) -> None:
    session = requests.Session()

    @settings(
        max_examples=100,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(answer=_connect_answers(), each_byte=st.booleans(), seed=st.integers(0, 2**32), data=st.data())
    def same_answer(answer: tuple[list[Any], str, str], each_byte: bool, seed: int, data: Any) -> None:
        frames, text, thinking = answer
        body = connect_turn(frames)
        stream = data.draw(st.booleans())
        cuts = "each_byte" if each_byte and len(body) < 2000 else cuts_at_random(body, seed)
        simulator.script(body, cuts=cuts, framing=data.draw(st.sampled_from(["chunked", "close"])))
        message = {"role": "user", "content": CANARY}
        response = session.post(
            f"{blunt.url}/v1/chat/completions",
            json={"model": blunt.model, "messages": [message], "stream": stream},
            timeout=30,
        )
        if not text and not thinking:
            # E23: an answer without a word is none.
            assert response.status_code == 502
            return
        got = read_stream(response) if stream else Answer.of_completion(response)
        assert got.error is None
        assert (got.content, got.reasoning, got.finish_reason) == (text, thinking, "stop")

    with session:
        same_answer()


_SHELL = {"id": "m-2", "role": "assistant"}


@CONNECT_ONLY
def test_frames_that_cannot_be_read_are_counted_and_harm_no_answer(gateway: Gateway, simulator: Simulator) -> None:
    blocks = [{"id": "2", "text": {"content": "ab"}}, {"id": "3", "think": {"content": "t"}}]
    appended = {"op": "append", "mask": "message.blocks"}
    frames: list[dict[str, Any]] = [
        {**appended, "message": {"blocks": blocks}},
        said("think", "t", "0"),
        said("text", "a"),
        {"op": "append", "mask": "block.text.content", "block": "b"},
        {"op": "set", "mask": "message", "message": [_SHELL]},
        {"op": "set", "mask": "chat", "chat": 3},
        {**appended, "message": {**_SHELL, "blocks": blocks}},
    ]
    simulator.script(connect_turn(frames))
    answer = ask(gateway, True)
    assert (answer.content, answer.reasoning, answer.finish_reason) == ("a", "t", "stop")
    wanted = {(f"{kind} (no object)",) for kind in ("block", "message", "chat")}
    wanted |= {("appended blocks of nobody",), ("appended blocks in text",), ("appended blocks in think",)}
    asked = "SELECT kind FROM unrecognised WHERE upstream = 'kimi_connect'"
    # Counted when the turn is over, which its client does not wait for.
    wait_until("all of it is counted", lambda: wanted <= set(gateway.database.execute(asked)))


@CONNECT_ONLY
def test_blocks_that_are_appended_before_a_word_was_said_are_the_answer(
    gateway: Gateway, simulator: Simulator
) -> None:
    message = {**_SHELL, "blocks": [{"id": "1", "text": {"content": "a"}}]}
    simulator.script(
        connect_turn([{"op": "append", "mask": "message.blocks", "message": message}, said("text", "b")])
    )
    assert ask(gateway, True).content == "ab"


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_cut_at_the_length_limit_is_continued(gateway: Gateway, simulator: Simulator, stream: bool) -> None:
    simulator.knobs(say="one two three four", token_chars=4, length_after=1, length_times=2)
    answer = ask(gateway, stream, model="k1.5")
    assert (answer.content, answer.finish_reason) == ("one two three four", "stop")
    bodies = [r["json"] for r in simulator.requests("/completion/stream")]
    assert [b.get("action") for b in bodies] == [None, "continue", "continue"]
    assert [b["messages"][0]["content"] for b in bodies[1:]] == [" ", " "]
    assert len({b["segment_id"] for b in bodies[1:]}) == 1
    assert {b["model"] for b in bodies} == {"k1.5"}


@pytest.mark.parametrize("stream", [True, False])
def test_length_is_reported_when_the_continuations_are_used_up(
    running: Running, simulator: Simulator, stream: bool
) -> None:
    simulator.knobs(say="a b c d e f g h", token_chars=2, length_after=1, length_times=20)
    with running.gateway(simulator.url, MAX_CONTINUATIONS="2") as gateway:
        answer = ask(gateway, stream)
    assert (answer.content, answer.finish_reason) == ("a b c ", "length")
    assert len(simulator.requests("/completion/stream")) == 3


@pytest.mark.parametrize("stream", [True, False])
def test_a_continuation_that_kimi_refuses_leaves_an_honest_length(
    gateway: Gateway, simulator: Simulator, stream: bool
) -> None:
    case = next(case for case in CASES if case.name == "t5-length")
    simulator.script(case.streams[0])
    simulator.script(
        b'{"error_type":"chat.user_stream_pushing"}', headers={"Content-Type": "application/json"}, status=429
    )
    answer = ask(gateway, stream)
    assert (answer.content, answer.finish_reason) == ("第一章……（写到一半", "length")


@pytest.mark.parametrize("stream", [True, False])
def test_half_a_pair_whose_continuation_kimi_refuses_is_told_before_the_length(
    gateway: Gateway, simulator: Simulator, stream: bool
) -> None:
    case = next(case for case in CASES if case.name == "surrogates-length")
    simulator.script(case.streams[0])
    simulator.script(
        b'{"error_type":"chat.user_stream_pushing"}', headers={"Content-Type": "application/json"}, status=429
    )
    answer = ask(gateway, stream)
    assert (answer.content, answer.reasoning, answer.finish_reason) == ("x\ufffd", "t\ufffd", "length")


@pytest.mark.parametrize("stream", [True, False])
def test_a_continuation_that_breaks_off_is_an_error(blunt: Gateway, simulator: Simulator, stream: bool) -> None:
    case = next(case for case in CASES if case.name == "t5-length")
    simulator.script(case.streams[0])
    simulator.script(case.streams[1][:200], end="close")
    answer = ask(blunt, stream)
    assert answer.finish_reason is None and answer.error is not None

"""The text that arrives is what Kimi's events carried, however the network cuts the bytes."""

from functools import partial
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from tests.running import (
    CANARY,
    CONNECT_ONLY,
    EACH_GENERATION,
    EVERY_PROFILE,
    Answer,
    Gateway,
    Profile,
    Share,
    Simulator,
    ask,
    read_stream,
    wait_until,
)
from tests.running.each_case import check_each
from tests.running.made_up_turns import MadeUpTurn, connect_turns, same_every_time, sse_turns
from tests.running.wire import (
    ALL_CASES,
    ALL_DONE,
    CASES,
    CONNECT_CASES,
    WireCase,
    check,
    cmpl,
    connect_turn,
    cuts_at_random,
    cuts_by_line,
    said,
)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@EACH_GENERATION
def test_a_wire_file_gives_its_answer(blunt: Gateway, simulator: Simulator, profile: Profile, stream: bool) -> None:
    """In pieces and in one, with chunks and without; ``test_decoding`` tries all ways to cut it."""
    cases = CONNECT_CASES if profile.speaks_connect else CASES
    check_each(((case.name, case) for case in cases), partial(_gives_its_answer, blunt, simulator, stream))


def _gives_its_answer(blunt: Gateway, simulator: Simulator, stream: bool, case: WireCase) -> None:
    simulator.reset()
    # The next form of the model is refused, too.
    times = 2 if case.expected["error"] == "request_refused" else 1
    for body in case.streams:
        cuts = cuts_by_line(body) if stream else ()
        simulator.script(body, cuts=cuts, framing="chunked" if stream else "close", times=times)
    if case.expected["error"]:
        blunt.tables.forget_what_accounts_did()
    check(case, ask(blunt, stream), stream)


def test_any_text_in_any_order_arrives_as_it_was_sent(blunt: Gateway, simulator: Simulator) -> None:
    _check_made_up_turns(blunt, simulator, sse_turns(), 50)


@pytest.mark.parametrize(
    ("profile", "name", "framing", "end"),
    [
        ("sse-2025", "t2-thinking", "chunked", "close"),
        ("sse-2025", "t2-thinking", "chunked", "reset"),
        ("sse-2025", "t2-thinking", "close", "close"),
        ("sse-2025", "t2-thinking", "close", "reset"),
        ("connect-2026", "short-connect", "chunked", "close"),
        ("connect-2026-09", "short-connect", "close", "reset"),
    ],
    indirect=["profile"],
)
def test_a_stream_that_breaks_off_is_never_a_finished_answer(
    blunt: Gateway, simulator: Simulator, name: str, framing: str, end: str
) -> None:
    """However its connection ends; ``test_decoding`` cuts it everywhere."""
    case = next(case for case in ALL_CASES if case.name == name)
    (body,) = case.streams
    # Some bytes of every frame, in one mode or the other.
    for offset in range(0, len(body), 37):
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


@CONNECT_ONLY
def test_any_blocks_in_any_order_arrive_as_they_were_sent(blunt: Gateway, simulator: Simulator) -> None:
    _check_made_up_turns(blunt, simulator, connect_turns(), 30)


def _check_made_up_turns(
    gateway: Gateway, simulator: Simulator, turns: st.SearchStrategy[MadeUpTurn], examples: int
) -> None:
    session = requests.Session()

    @same_every_time(examples)
    @given(
        turn=turns, seed=st.integers(0, 2**32), stream=st.booleans(), framing=st.sampled_from(["chunked", "close"])
    )
    def arrives(turn: MadeUpTurn, seed: int, stream: bool, framing: str) -> None:
        simulator.script(turn.body, cuts=cuts_at_random(turn.body, seed), framing=framing)
        message = {"role": "user", "content": CANARY}
        response = session.post(
            f"{gateway.url}/v1/chat/completions",
            json={"model": gateway.model, "messages": [message], "stream": stream},
            timeout=30,
        )
        if not turn.content and not turn.reasoning:
            # E23: an answer without a word is none.
            assert response.status_code == 502
            return
        answer = read_stream(response) if stream else Answer.of_completion(response)
        assert answer.error is None
        assert (answer.content, answer.reasoning, answer.finish_reason) == (turn.content, turn.reasoning, "stop")

    with session:
        arrives()


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
    kinds = {f"{kind} (no object)" for kind in ("block", "message", "chat")}
    kinds |= {"appended blocks of nobody", "appended blocks in text", "appended blocks in think"}
    wanted = {("kimi_connect", kind) for kind in kinds}
    # Counted when the turn is over, which its client does not wait for.
    wait_until("all of it is counted", lambda: wanted <= gateway.tables.unrecognised())


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
    shared_gateway: Share, simulator: Simulator, stream: bool
) -> None:
    simulator.knobs(say="a b c d e f g h", token_chars=2, length_after=1, length_times=20)
    answer = ask(shared_gateway(MAX_CONTINUATIONS="2"), stream)
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

"""Where an answer ends before Kimi ends it: stop sequences and a number of tokens."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.text import token_count
from tests.running import (
    CANARY,
    EACH_GENERATION,
    SHIPPED,
    Answer,
    Gateway,
    Profile,
    Share,
    Simulator,
    ask,
    read_stream,
    wait_until,
)


def deltas(response: requests.Response) -> Iterator[str]:
    """The text of a running stream, as it comes."""
    for line in response.iter_lines(chunk_size=1, decode_unicode=True):
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                yield choice["delta"].get("content") or ""


@pytest.mark.parametrize("stream", [True, False])
@EACH_GENERATION
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_text_ends_before_the_stop_sequence(
    gateway: Gateway, simulator: Simulator, profile: Profile, size: int, stream: bool
) -> None:
    simulator.knobs(say="one two STOP three END", token_chars=size)
    for stop in ("STOP", ["END", "STOP"], ["never", "STOP three"]):
        answer = ask(gateway, stream, stop=stop)
        assert (answer.content, answer.finish_reason) == ("one two ", "stop")


@pytest.mark.parametrize("stream", [True, False])
def test_what_only_began_like_a_stop_sequence_is_passed_on(
    gateway: Gateway, simulator: Simulator, stream: bool
) -> None:
    simulator.knobs(say="aaab aab", token_chars=1)
    answer = ask(gateway, stream, stop=["aabc", "bb"])
    assert (answer.content, answer.finish_reason) == ("aaab aab", "stop")


def test_thinking_does_not_stop(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(think="I could STOP here", say="but I STOP here")
    answer = ask(gateway, True, stop=["STOP"])
    assert (answer.reasoning, answer.content) == ("I could STOP here", "but I ")


@EACH_GENERATION
def test_kimi_is_told_to_stop_at_once_and_the_turn_counts(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    # Kimi stands still behind the stop sequence: only a gateway that leaves gets to an end.
    simulator.knobs(say="one two STOP and a lot more", token_chars=4, stall_after=4)
    response = gateway.say("hello", name, stream=True, stop=["STOP"])
    answer = read_stream(response)
    assert (answer.content, answer.finish_reason) == ("one two ", "stop")
    simulator.wait("open_streams", equals=0)
    if profile.speaks_connect:
        wait_until("Kimi is told", lambda: len(simulator.requests("CancelChat")) == 1)
    assert gateway.get(f"/v1/chat/completions/{name}").json()["turns"] == 1
    simulator.knobs(stall_after=None, say="the second answer")
    assert Answer.of_completion(gateway.say("and now?", name)).content == "the second answer"
    chats = {turn.chat for turn in simulator.turns()}
    assert len(chats) == 1


def test_the_chat_of_a_stateless_answer_that_was_stopped_is_deleted(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="one STOP two", token_chars=2, stall_after=5)
    assert ask(gateway, False, stop="STOP").content == "one "
    simulator.wait("deleted_chats", equals=1)


def test_only_the_beginning_of_a_stop_sequence_is_held_back(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="ab ST ab XYZ", token_chars=1, gate="here", gate_after=11)
    got = ""
    with gateway.say("hello", stream=True, stop=["XYZ!", "STOP"]) as response:
        for text in deltas(response):
            got += text
            if got == "ab ST ab ":
                simulator.open_gate("here")
    assert got == "ab ST ab XYZ"


def _stopped(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text up to the stop sequence that is complete first, one character after another."""
    for end in range(len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))], True
    return text, False


def test_any_stop_sequence_is_found_in_any_pieces(gateway: Gateway, simulator: Simulator) -> None:
    session = requests.Session()
    some = st.text("ab\n字", min_size=1, max_size=4)

    @settings(
        max_examples=100,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(
        said=st.text("ab\n字", min_size=1, max_size=30),
        stops=st.lists(some, min_size=1, max_size=4),
        seed=st.integers(0, 2**32),
        stream=st.booleans(),
    )
    def same_answer(said: str, stops: list[str], seed: int, stream: bool) -> None:
        chance = random.Random(seed)
        events: list[dict[str, Any]] = []
        at = 0
        while at < len(said):
            size = chance.randint(1, 4)
            events.append({"event": "cmpl", "text": said[at : at + size]})
            at += size
        body = b"".join(
            b"data: " + json.dumps(event).encode() + b"\n\n" for event in [*events, {"event": "all_done"}]
        )
        simulator.script(body, cuts=sorted(chance.sample(range(1, len(body)), 5)))
        message = {"role": "user", "content": CANARY}
        response = session.post(
            f"{gateway.url}/v1/chat/completions",
            json={"model": gateway.model, "messages": [message], "stop": stops, "stream": stream},
            timeout=30,
        )
        answer = read_stream(response) if stream else Answer.of_completion(response)
        assert answer.error is None
        assert (answer.content, answer.finish_reason) == (_stopped(said, stops)[0], "stop")

    with session:
        same_answer()


_LONG = "The quick brown fox jumps over the lazy dog, 敏捷的棕色狐狸跳过了懒狗。 x = f(1234567) {'a': [1, 2]}\n" * 3


@pytest.mark.parametrize("stream", [True, False])
@EACH_GENERATION
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_answer_has_as_many_tokens_as_are_allowed(
    gateway: Gateway, simulator: Simulator, profile: Profile, size: int, stream: bool
) -> None:
    simulator.knobs(say=_LONG, think="", token_chars=size)
    limits: list[dict[str, Any]] = [{"max_tokens": 1}, {"max_completion_tokens": 17}, {"max_tokens": 60}]
    for limit in limits:
        (most,) = limit.values()
        answer = ask(gateway, stream, **limit)
        assert answer.finish_reason == "length"
        assert _LONG.startswith(answer.content)
        assert token_count.estimate(answer.content) == most
        # Not one character more would have done.
        assert token_count.estimate(_LONG[: len(answer.content) + 1]) == most + 1


def test_an_answer_that_fits_exactly_is_whole(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=_LONG, token_chars=3)
    answer = ask(gateway, True, max_tokens=token_count.estimate(_LONG))
    assert (answer.content, answer.finish_reason) == (_LONG, "stop")


@pytest.mark.parametrize("stream", [True, False])
def test_thinking_counts_too(gateway: Gateway, simulator: Simulator, stream: bool) -> None:
    simulator.knobs(think="I think about it for a while", say=_LONG, token_chars=3)
    thought = token_count.estimate("I think about it for a while")
    answer = ask(gateway, stream, max_tokens=thought + 5)
    assert answer.reasoning == "I think about it for a while"
    assert token_count.estimate(answer.content) == 5 and answer.finish_reason == "length"
    answer = ask(gateway, stream, max_tokens=3)
    assert answer.content == "" and token_count.estimate(answer.reasoning) == 3
    assert "I think about it for a while".startswith(answer.reasoning) and answer.finish_reason == "length"


def test_usage_never_tells_more_than_was_allowed(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(think="Hm. Let me see", say=_LONG, token_chars=3)
    for most in (4, 9, 30):
        usage = gateway.say("hello", max_tokens=most).json()["usage"]
        assert usage["completion_tokens"] == most


def test_no_token_waits_for_the_limit(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="one two three four", token_chars=1, gate="here", gate_after=9)
    got = ""
    with gateway.say("hello", stream=True, max_tokens=50) as response:
        for text in deltas(response):
            got += text
            if got == "one two t":
                simulator.open_gate("here")
    assert got == "one two three four"


@EACH_GENERATION
def test_kimi_is_told_to_stop_at_the_limit_and_the_turn_counts(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    simulator.knobs(say="one two three four five", token_chars=1, stall_after=18)
    answer = read_stream(gateway.say("hello", name, stream=True, max_tokens=3))
    assert (answer.content, answer.finish_reason) == ("one two three", "length")
    simulator.wait("open_streams", equals=0)
    assert gateway.get(f"/v1/chat/completions/{name}").json()["turns"] == 1


@pytest.mark.parametrize("joined", ["👨‍👩‍👧‍👦", "e\u0301\u0323", "👍🏽", "कि", "🇩🇪"])
def test_no_character_is_cut_from_what_belongs_to_it(gateway: Gateway, simulator: Simulator, joined: str) -> None:
    text = "a b " + joined * 5
    simulator.knobs(say=text, token_chars=1000)
    seen = set()
    for most in range(1, token_count.estimate(text)):
        answer = ask(gateway, True, max_tokens=most)
        assert answer.finish_reason == "length"
        rest = answer.content.removeprefix("a b ")
        assert rest in {joined * n for n in range(5)} or "a b ".startswith(answer.content), ascii(rest)
        seen.add(rest)
    assert len(seen) >= 3


def test_a_stop_sequence_is_looked_for_in_what_the_client_gets(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(search=1, say="It rains[^1^]. It snows[^1^].", token_chars=2)
    response = gateway.say("hello", stop=["snows[1]"])
    choice = response.json()["choices"][0]
    link = "[1](https://site1.example/page)"
    assert (choice["message"]["content"], choice["finish_reason"]) == (f"It rains{link}. It ", "stop")
    (annotation,) = choice["message"]["annotations"]
    place = annotation["url_citation"]
    assert choice["message"]["content"][place["start_index"] : place["end_index"]] == link


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_is_cut_while_kimi_thinks_says_so(
    shared_gateway: Share, simulator: Simulator, profile: Profile, stream: bool
) -> None:
    simulator.knobs(think="hm " * 200, say="The answer.")
    model = profile.thinking_model
    gateway = shared_gateway(**SHIPPED)
    answer = ask(gateway, stream, model=model, max_tokens=20)
    assert (answer.content, answer.finish_reason) == ("", "length")
    assert "kind=cut-while-thinking" in gateway.log()
    if not stream:
        whole = gateway.say("hello", model=model, max_tokens=20)
        assert whole.headers["x-kimi-notice"] == "cut-while-thinking"
    lenient = shared_gateway(**SHIPPED, MAX_TOKENS_INCLUDES_THINKING="0")
    answer = ask(lenient, stream, model=model, max_tokens=20)
    assert (answer.content, answer.finish_reason, len(answer.reasoning)) == ("The answer.", "stop", 600)

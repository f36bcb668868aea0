"""``n``: several answers to one question, each from a chat of its own."""

import json

import openai
import pytest

from tests.running import CANARY, Gateway, RawClient, Share, Simulator, read_stream

BOTH_MODES = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def client_of(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0)


@pytest.mark.parametrize("n", [2, 4])
def test_so_many_choices_come_from_so_many_chats(forgetful: Gateway, simulator: Simulator, n: int) -> None:
    simulator.knobs(say="Tea, 茶.")
    one = forgetful.say("hello").json()["usage"]
    body = forgetful.say("hello", n=n).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(n))
    assert {choice["message"]["content"] for choice in body["choices"]} == {"Tea, 茶."}
    assert {choice["finish_reason"] for choice in body["choices"]} == {"stop"}
    assert body["usage"]["prompt_tokens"] == one["prompt_tokens"]
    assert body["usage"]["completion_tokens"] == n * one["completion_tokens"]
    simulator.wait("deleted_chats", equals=n + 1)


def test_choices_are_streamed_with_their_index(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="one two three four", token_chars=4)
    response = gateway.say("hello", n=3, stream=True, stream_options={"include_usage": True})
    chunks = [json.loads(block[6:]) for block in response.content.split(b"\n\n") if block.startswith(b"data: {")]
    assert response.content.endswith(b"data: [DONE]\n\n") and len({chunk["id"] for chunk in chunks}) == 1
    *deltas, last = chunks
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0
    for index in range(3):
        mine = [choice for chunk in deltas for choice in chunk["choices"] if choice["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in mine) == "one two three four"
        assert [choice["finish_reason"] for choice in mine] == [None] * (len(mine) - 1) + ["stop"]


def test_the_sdks_helper_puts_the_choices_together(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="one two three", token_chars=4)
    with (
        client_of(gateway) as client,
        client.chat.completions.stream(
            model="k2", n=2, messages=[{"role": "user", "content": CANARY}], stream_options={"include_usage": True}
        ) as stream,
    ):
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["one two three"] * 2
    assert final.usage is not None


@BOTH_MODES
def test_one_that_cannot_begin_is_everybodys_error(gateway: Gateway, simulator: Simulator, stream: bool) -> None:
    # Another account would refuse it too, so none is asked.
    simulator.knobs(fail="too_long", fail_times=1, tokens=400, delay_s=0.05)
    response = gateway.say("hello", n=3, stream=stream)
    assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"
    simulator.wait("open_streams", equals=0)
    simulator.wait("deleted_chats", equals=3)


def test_one_that_fails_on_its_way_ends_the_others(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="error_unknown", fail_times=1, fail_after=5, tokens=400, delay_s=0.05)
    answer = read_stream(gateway.say("hello", n=3, stream=True))
    assert answer.error is not None
    assert answer.done and answer.finish_reason is None and answer.content
    simulator.wait("open_streams", equals=0)
    simulator.wait("deleted_chats", equals=3)


@pytest.mark.parametrize(
    ("server", "profile", "stream", "how"),
    [
        ("forked", "all", True, "reset"),
        ("forked", "all", False, "close"),
        ("gthread", "sse-2025", True, "close"),
        ("threads", "sse-2025", False, "reset"),
    ],
    indirect=["profile"],
)
def test_all_end_when_the_client_leaves(
    shared_gateway: Share, simulator: Simulator, server: str, stream: bool, how: str
) -> None:
    simulator.knobs(stall_after=3)
    # The same gateway as in test_liveness.
    gateway = shared_gateway(WEB_CONCURRENCY="2", server=server, HEARTBEAT_S="0.3", COMMIT_AFTER_S="0.3")
    client = RawClient(gateway, stream, n=3)
    simulator.wait("open_streams", equals=3)
    client.leave(how)
    simulator.wait("open_streams", equals=0)


def test_a_conversation_goes_on_with_one_answer(gateway: Gateway, simulator: Simulator, name: str) -> None:
    for door in ({"conversation": name}, {"conversation_id": name}):
        response = gateway.say("hello", n=2, **door)
        assert response.status_code == 400 and response.json()["error"]["param"] == "n"
    assert not simulator.turns() and gateway.say("hello", conversation=name, n=1).ok


def test_a_repetition_gets_the_same_choices(gateway: Gateway, simulator: Simulator, name: str) -> None:
    body = {"model": "k2", "n": 2, "messages": [{"role": "user", "content": CANARY}]}
    first, again = (
        gateway.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": name}) for _ in range(2)
    )
    assert first.ok and again.json() == {**first.json(), "created": again.json()["created"]}
    assert len(simulator.turns()) == 2

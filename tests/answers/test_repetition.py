"""Requests that are sent again: with an Idempotency-Key they are answered once, and the answer is given again."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from openai import OpenAI

from tests.running import (
    BOTH_DATABASES,
    CANARY,
    ON_POSTGRESQL,
    Answer,
    Gateway,
    Running,
    Share,
    Simulator,
    SqliteDatabase,
    read_stream,
    wait_until,
)

BOTH_MODES = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def post(
    gateway: Gateway,
    key: str,
    text: str = "hello",
    api_key: str = "",
    path: str = "/v1/chat/completions",
    **body: Any,
) -> requests.Response:
    headers = {"Idempotency-Key": key, **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
    message = {"role": "user", "content": f"{text} {CANARY}"}
    return requests.post(
        gateway.url + path,
        json={"model": gateway.model, "messages": [message], **body},
        headers=headers,
        stream=bool(body.get("stream")),
        timeout=60,
    )


def told(response: requests.Response, stream: bool) -> Answer:
    assert response.ok, response.text
    return read_stream(response) if stream else Answer.of_completion(response)


@BOTH_DATABASES
def test_a_finished_answer_is_given_again(quick: Gateway, simulator: Simulator, name: str) -> None:
    simulator.knobs(say="the one answer", think="well", tokens=None)
    first = post(quick, name, model="k1.5-thinking")
    again = post(quick, name, model="k1.5-thinking")
    assert first.json() == {**again.json(), "created": first.json()["created"]}
    assert first.json()["choices"][0]["message"]["reasoning_content"] == "well"
    streamed = read_stream(post(quick, name, model="k1.5-thinking", stream=True))
    assert (streamed.content, streamed.reasoning, streamed.finish_reason) == ("the one answer", "well", "stop")
    assert len(simulator.turns()) == 1


def test_all_that_came_with_an_answer_comes_again(quick: Gateway, simulator: Simulator, name: str) -> None:
    """Its sources and what ended it; which wish was not met, and that its conversation was rebuilt."""
    simulator.knobs(cite=True)
    first, again = (post(quick, f"{name}-cited").json() for _ in range(2))
    assert first == {**again, "created": first["created"]} and first["choices"][0]["message"]["annotations"]
    simulator.knobs(cite=False, say="one STOP two")
    wish: dict[str, Any] = {"max_tokens": 9, "stop_sequences": ["STOP"]}
    first, again = (post(quick, f"{name}-stopped", path="/v1/messages", **wish).json() for _ in range(2))
    assert first["stop_sequence"] == again["stop_sequence"] == "STOP" and first["usage"] == again["usage"]
    assert quick.say("one", conversation=name, model="k1.5").ok
    simulator.reset()
    history = [{"role": role, "content": CANARY} for role in ("user", "assistant", "user")]
    wish = {"model": "k1.5-thinking", "enable_search": True, "messages": history}
    for response in (post(quick, name, path=f"/v1/chat/completions/{name}", **wish) for _ in range(2)):
        assert response.headers["x-kimi-notice"] == "search-unavailable"
        assert response.headers["x-conversation-rebuilt"] == "history"
    assert len(simulator.prompts()) == 2


@ON_POSTGRESQL
def test_a_repetition_joins_the_running_answer_wherever_it_runs(
    running: Running, simulator: Simulator, database: str
) -> None:
    shared = running.new_database()
    with (
        running.gateway(simulator.url, database=shared) as gateway,
        running.gateway(simulator.url, database=shared, COMMIT_AFTER_S="0.1", HEARTBEAT_S="0.2") as other,
        ThreadPoolExecutor(2) as pool,
    ):
        for stream in (False, True):
            simulator.reset()
            simulator.knobs(gate="join", gate_after=1, say="only once", token_chars=4)
            first = pool.submit(post, gateway, f"k{stream}", stream=stream)
            simulator.wait("gate_waiting:join", equals=1)
            second = pool.submit(lambda: told(post(other, f"k{stream}", stream=stream), stream))  # noqa: B023  # at once
            simulator.open_gate("join")
            assert told(first.result(), stream).content == second.result().content == "only once"
            assert len(simulator.turns()) == 1


@BOTH_MODES
def test_an_answer_whose_client_left_is_there_when_it_asks_again(
    gateway: Gateway, simulator: Simulator, name: str, stream: bool
) -> None:
    """What an SDK does when its own time is up."""
    simulator.knobs(gate="leave", gate_after=1, say="kept for you", token_chars=4)
    with ThreadPoolExecutor(1) as pool:
        if stream:
            with post(gateway, name, stream=True):
                simulator.wait("gate_waiting:leave", equals=1)
        else:
            with pytest.raises(requests.ReadTimeout):
                requests.post(
                    f"{gateway.url}/v1/chat/completions",
                    json={"model": gateway.model, "messages": [{"role": "user", "content": f"hello {CANARY}"}]},
                    headers={"Idempotency-Key": name},
                    timeout=0.7,
                )
        again = pool.submit(lambda: told(post(gateway, name), False))
        simulator.open_gate("leave")
        assert again.result().content == "kept for you"
    assert len(simulator.turns()) == 1


@BOTH_MODES
def test_the_end_of_an_answer_is_not_shown_before_it_is_kept(
    running: Running, simulator: Simulator, name: str, stream: bool
) -> None:
    """Whoever has seen it and asks again must get it, also where the database cannot be used in that moment."""
    simulator.knobs(gate="end", gate_after=1, say="kept for you", token_chars=4)
    with running.gateway(simulator.url) as gateway, ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: told(post(gateway, name, stream=stream), stream))
        simulator.wait("gate_waiting:end", equals=1)
        assert isinstance(gateway.database, SqliteDatabase)
        with gateway.database.while_nobody_writes():
            simulator.open_gate("end")
            # Longer than anything is tried again before an answer goes on without it.
            with pytest.raises(TimeoutError):
                first.result(4)
        assert first.result().content == "kept for you"
        gateway.kill()
    with running.gateway(simulator.url, database=gateway.database) as again:
        assert told(post(again, name), False).content == "kept for you"
    assert len(simulator.turns()) == 1


def test_the_sdks_own_repetition_makes_no_second_turn(gateway: Gateway, simulator: Simulator, name: str) -> None:
    simulator.knobs(gate="sdk", gate_after=1, say="once")
    with ThreadPoolExecutor(1) as pool:
        client = OpenAI(base_url=f"{gateway.url}/v1", api_key="k", timeout=1.5, max_retries=5)
        ask: Any = client.chat.completions.create
        answer = pool.submit(
            ask,
            model="k2",
            messages=[{"role": "user", "content": f"hello {CANARY}"}],
            extra_headers={"Idempotency-Key": name},
        )
        simulator.wait("gate_waiting:sdk", equals=1)
        wait_until("the SDK asks again", lambda: "client_closed_request" in gateway.log())
        simulator.open_gate("sdk")
        assert answer.result().choices[0].message.content == "once"
        client.close()
    assert len(simulator.turns()) == 1


def test_a_failure_that_kimi_may_have_heard_is_told_again(quick: Gateway, simulator: Simulator, name: str) -> None:
    simulator.knobs(fail="drop", fail_after=1, say="one two three", token_chars=4)
    first = post(quick, name)
    simulator.knobs(fail="", fail_after=None)
    again = post(quick, name)
    assert first.status_code == again.status_code == 502
    assert first.json() == again.json() and again.headers["x-should-retry"] == "false"
    assert len(simulator.turns()) == 1
    assert post(quick, f"{name}-2").ok


def test_a_failure_in_a_conversation_is_told_again_with_its_wait(
    quick: Gateway, simulator: Simulator, name: str
) -> None:
    assert quick.say("one", conversation=name).ok
    simulator.knobs(fail="overloaded", fail_times=1)
    for response in (post(quick, name, path=f"/v1/chat/completions/{name}") for _ in range(2)):
        assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
        assert response.headers["x-should-retry"] == "false"
    assert len(simulator.turns()) == 2


def test_a_failure_before_kimi_has_heard_anything_may_be_repeated(
    quick: Gateway, simulator: Simulator, name: str
) -> None:
    simulator.knobs(fail="http_429", fail_at="create")
    assert post(quick, name).status_code == 429
    simulator.knobs(fail="")
    quick.tables.forget_what_accounts_did()
    assert post(quick, name).ok


def test_a_key_belongs_to_one_request_of_one_owner(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, GATEWAY_API_KEYS="first-key,second-key") as gateway:
        assert post(gateway, "k", "mine", "first-key").ok
        other = post(gateway, "k", "something else", "first-key")
        assert other.status_code == 400 and other.json()["error"]["code"] == "idempotency_key_reused"
        assert other.json()["error"]["param"] == "Idempotency-Key"
        assert post(gateway, "k", "mine", "second-key").ok
        # Both ask for a model that thinks.
        assert post(gateway, "effort", "mine", "first-key", reasoning_effort="low").ok
        other = post(gateway, "effort", "mine", "first-key", reasoning_effort="high")
        assert other.status_code == 400 and other.json()["error"]["code"] == "idempotency_key_reused"
        for bad in ("x" * 256, ""):
            response = post(gateway, bad, "mine", "first-key")
            assert response.status_code == 400 and response.json()["error"]["param"] == "Idempotency-Key"
    assert len(simulator.turns()) == 3


@BOTH_DATABASES
def test_an_answer_that_died_with_its_gateway_is_not_asked_for_twice(
    running: Running, simulator: Simulator, database: str
) -> None:
    simulator.knobs(gate="die", gate_after=1)
    shared = running.new_database()
    with running.gateway(simulator.url, database=shared, LEASE_S="1") as gateway:
        with post(gateway, "k", stream=True):
            simulator.wait("gate_waiting:die", equals=1)
            gateway.kill()
        simulator.knobs(gate="")
    with running.gateway(simulator.url, database=shared, LEASE_S="1") as gateway:
        response = post(gateway, "k")
        assert response.status_code == 409 and response.json()["error"]["code"] == "answer_lost"
        assert response.headers["x-should-retry"] == "false"
        assert post(gateway, "another").ok
    assert len(simulator.turns()) == 2


def test_several_choices_and_turns_of_a_conversation_are_repeated_too(
    quick: Gateway, simulator: Simulator, name: str
) -> None:
    one = post(quick, f"{name}-n").json()
    first, again = (post(quick, f"{name}-n", n=2).json() for _ in range(2))
    # What was given once is not asked for again where more is wanted.
    assert first["choices"] == again["choices"] and len(simulator.turns()) == 2
    assert first["choices"][0] == one["choices"][0]
    path = f"/v1/chat/completions/{name}"
    for text in ("one", "two"):
        first, again = (post(quick, f"{name}-{text}", text, path=path).json() for _ in range(2))
        assert first["choices"] == again["choices"]
    assert quick.get(path).json()["turns"] == 2
    assert len(simulator.turns()) == 4


def test_a_turn_whose_json_cannot_be_mended_is_not_said_again(
    quick: Gateway, simulator: Simulator, name: str
) -> None:
    simulator.knobs(say="no json")
    path = f"/v1/chat/completions/{name}"
    errors = [post(quick, name, path=path, response_format={"type": "json_object"}).json()["error"] for _ in range(2)]
    assert errors[0] == errors[1] and errors[0]["code"] == "invalid_json_answer"
    assert len(simulator.turns()) == 2


@pytest.mark.parametrize(
    ("path", "body", "first"),
    [
        ("responses", {"input": CANARY, "store": False}, "response.created"),
        ("messages", {"messages": [{"role": "user", "content": CANARY}], "max_tokens": 9}, "message_start"),
    ],
)
def test_a_stream_that_fails_at_once_has_its_beginning(
    shared_gateway: Share, simulator: Simulator, name: str, path: str, body: dict[str, Any], first: str
) -> None:
    simulator.knobs(fail="too_long", gate="failure", gate_after=0)
    gateway = shared_gateway(COMMIT_AFTER_S="0.05")
    url, headers = f"{gateway.url}/v1/{path}", {"Idempotency-Key": name}
    sent = {"model": gateway.model, "stream": True, **body}
    with requests.post(url, json=sent, headers=headers, stream=True, timeout=60) as response:
        # After the status was certain, and before anything else was to be sent.
        simulator.open_gate("failure")
        text = response.text
    assert text.startswith(f"event: {first}\n") and "event: error\n" in text


def test_who_joined_a_request_that_was_never_made_may_make_it(
    shared_gateway: Share, simulator: Simulator, name: str
) -> None:
    simulator.knobs(gate="full", gate_after=1)
    gateway = shared_gateway(users="alice", ACCOUNT_MAX_STREAMS="1", QUEUE_WAIT_S="3")
    with gateway.say("first", stream=True) as first, ThreadPoolExecutor(2) as clients:
        simulator.wait("gate_waiting:full", equals=1)
        # Which of them comes first, nobody knows.
        replies = [reply.result() for reply in [clients.submit(post, gateway, name) for _ in range(2)]]
        refused, joined = sorted(replies, key=lambda reply: -reply.status_code)
        assert (refused.status_code, joined.status_code) == (429, 409)
        assert joined.json()["error"]["code"] == "first_request_failed"
        assert joined.headers["Retry-After"] == "1" and "x-should-retry" not in joined.headers
        simulator.open_gate("full")
        assert read_stream(first).finish_reason == "stop"


def test_what_is_kept_cannot_be_read_without_the_key(running: Running, simulator: Simulator) -> None:
    simulator.knobs(say=f"secret {CANARY}")
    with running.gateway(simulator.url) as gateway:
        key = "a-key-of-the-client"
        assert post(gateway, key).ok and post(gateway, key).ok
        content = gateway.database.content()
        assert CANARY.encode() not in content and key.encode() not in content
        (sealed,) = gateway.tables.kept_answers()
        assert sealed and not sealed.startswith("{")


def test_old_answers_are_dropped(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        assert post(gateway, "old").ok
        gateway.tables.let_answers_age(90_000)
        database = gateway.database
    with running.gateway(simulator.url, database=database) as gateway:
        gateway.wait_for_workers()
        wait_until("it is gone", lambda: not gateway.tables.kept_answers())


def test_responses_are_repeated_and_so_are_those_that_go_on_from_them(
    quick: Gateway, simulator: Simulator, name: str
) -> None:
    body = {"model": quick.model, "input": f"hello {CANARY}"}
    one, two = (
        requests.post(f"{quick.url}/v1/responses", json=body, headers={"Idempotency-Key": name}, timeout=60).json()
        for _ in range(2)
    )
    assert one["id"] == two["id"] and one["output"] == two["output"], json.dumps(two)
    further = {**body, "previous_response_id": one["id"]}
    for _ in range(2):
        response = requests.post(
            f"{quick.url}/v1/responses", json=further, headers={"Idempotency-Key": f"{name}-2"}, timeout=60
        )
        assert response.ok, response.text
    assert len(simulator.turns()) == 2

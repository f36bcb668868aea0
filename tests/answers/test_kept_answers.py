"""How much of the answers to requests with an Idempotency-Key is kept for one API key."""

from typing import Any

import requests

from tests.running import BOTH_DATABASES, CANARY, Gateway, Running, Simulator, wait_until


def _ask(gateway: Gateway, key: str, text: str = "hello", api_key: str = "first-key") -> requests.Response:
    body = {"model": "k2", "messages": [{"role": "user", "content": f"{text} {CANARY}"}]}
    headers = {"Idempotency-Key": key, "Authorization": f"Bearer {api_key}"}
    return gateway.post("/v1/chat/completions", json=body, headers=headers)


@BOTH_DATABASES
def test_the_oldest_answers_of_an_api_key_go_first_and_those_of_others_stay(
    running: Running, simulator: Simulator, database: str
) -> None:
    settings: dict[str, Any] = {"MAX_IDEMPOTENT_ANSWERS": "2", "GATEWAY_API_KEYS": "first-key,second-key"}
    with running.gateway(simulator.url, users="alice", **settings) as gateway:
        other = _ask(gateway, "other", api_key="second-key").json()["choices"]
        answers = [_ask(gateway, f"key-{number}").json()["choices"] for number in range(4)]
        wait_until("two of each key are kept", lambda: len(gateway.tables.kept_answers()) == 3)
        asked = len(simulator.turns())
        assert [_ask(gateway, f"key-{number}").json()["choices"] for number in (2, 3)] == answers[2:]
        assert _ask(gateway, "other", api_key="second-key").json()["choices"] == other
        assert len(simulator.turns()) == asked == 5
        assert _ask(gateway, "key-0").ok
        assert len(simulator.turns()) == asked + 1, "it was not kept, so Kimi was asked again"


def test_an_answer_that_is_too_large_to_be_kept_is_given_once_and_never_asked_for_again(
    running: Running, simulator: Simulator
) -> None:
    simulator.knobs(tokens=500)
    with running.gateway(simulator.url, users="alice", MAX_IDEMPOTENT_BYTES="1024") as gateway:
        assert _ask(gateway, "large").ok
        again = _ask(gateway, "large")
        assert not again.ok and "MAX_IDEMPOTENT_BYTES" in again.json()["error"]["message"]
    assert len(simulator.turns()) == 1


def test_what_is_kept_of_a_request_does_not_grow_with_its_prompt(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, users="alice") as gateway:
        first = _ask(gateway, "long", "word " * 100_000).json()
        (kept,) = gateway.tables.kept_answers()
        assert kept is not None and len(kept) < 20_000
        again = _ask(gateway, "long", "word " * 100_000).json()
    assert again["usage"] == first["usage"] and first["usage"]["prompt_tokens"] > 50_000
    assert again["choices"] == first["choices"]

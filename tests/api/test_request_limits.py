"""Limits of what a request may hold, so that none of them keeps its worker from the others."""

import orjson
import pytest
import requests

from tests.running import CANARY, Gateway, Running, Simulator

USER = {"role": "user", "content": CANARY}
CHAT, MESSAGES, RESPONSES, COMPLETIONS = "chat/completions", "messages", "responses", "completions"


@pytest.mark.parametrize(
    ("path", "field", "item"),
    [
        (CHAT, "messages", USER),
        (MESSAGES, "messages", USER),
        (RESPONSES, "input", USER),
        (COMPLETIONS, "prompt", CANARY[0]),
        (CHAT, "not_a_field", 1),
    ],
)
def test_a_list_has_at_most_so_many_items(gateway: Gateway, path: str, field: str, item: object) -> None:
    body = {"model": gateway.model, "max_tokens": 9, "messages": [USER], field: [item] * 10_001}
    response = gateway.post(f"/v1/{path}", json=body)
    assert response.status_code == 400, response.text
    message = response.json()["error"]["message"]
    assert field in message and "at most 10000 items" in message and "MAX_MESSAGES" in message
    if path != MESSAGES:
        assert response.json()["error"]["param"] == field
        assert response.json()["error"]["code"] == "too_many_items"


@pytest.mark.parametrize(
    "values",
    [[1] * 99_990, [[]] * 60_000, [{}] * 60_000, {f"a{number}": [] for number in range(60_000)}],
    ids=["numbers", "lists", "objects", "fields"],
)
def test_a_body_has_at_most_so_many_values(gateway: Gateway, values: object) -> None:
    body = {"model": gateway.model, "messages": [USER], "metadata": {"a": values, "b": [1] * 1000}}
    response = gateway.post(f"/v1/{CHAT}", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["code"] == "too_many_values"


def test_text_that_looks_like_many_values_is_one(gateway: Gateway, simulator: Simulator) -> None:
    text = '[{"a": [1, 2, {}]}, \\"' * 30_000
    assert gateway.say(text).ok
    assert text in simulator.prompts()[0]


def test_limits_are_settings(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, MAX_MESSAGES="2", MAX_JSON_VALUES="1000", MAX_TEXT_CHARS="2000") as gateway:
        assert gateway.chat({"model": gateway.model, "messages": [USER] * 2}).ok
        assert gateway.chat({"model": gateway.model, "messages": [USER] * 3}).status_code == 400
        body = {"model": gateway.model, "messages": [USER], "metadata": {"a": [1] * 1100}}
        assert gateway.chat(body).json()["error"]["code"] == "too_many_values"
        before = len(simulator.turns())
        assert gateway.say("x" * 1900).ok
        assert gateway.say("x" * 2000).json()["error"]["code"] == "context_length_exceeded"
        assert len(simulator.turns()) == before + 1


@pytest.mark.parametrize("character", ["a", "é", "字", "😀"])
def test_texts_have_together_at_most_so_many_characters(
    gateway: Gateway, simulator: Simulator, character: str
) -> None:
    response = send_texts(gateway, [character * 1_000_000] * 4)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded" and "MAX_TEXT_CHARS" in error["message"]
    assert "4000" in error["message"] and not simulator.turns()


def test_a_long_text_is_refused_before_it_is_read(gateway: Gateway, simulator: Simulator) -> None:
    for text in ("a" * 4_100_000, "🦊" * 4_100_000, '"' * 4_100_000):
        error = send_texts(gateway, [text]).json()["error"]
        assert error["code"] == "context_length_exceeded" and "have at least 4" in error["message"], error
    assert not simulator.turns()


def test_a_text_below_the_limit_reaches_kimi_whole(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="ready")
    response = send_texts(gateway, ["字" * 2_000_000, "a" * 1_990_000, CANARY])
    assert response.ok, response.text
    (turn,) = simulator.control("GET", "turns")
    assert (turn["text"].count("字"), turn["text"].count("a" * 1_990_000)) == (2_000_000, 1)


def send_texts(gateway: Gateway, texts: list[str]) -> requests.Response:
    """In UTF-8: with escapes such texts would be larger than a body may be."""
    messages = [{"role": "user", "content": text} for text in texts]
    body = orjson.dumps({"model": gateway.model, "messages": messages})
    return gateway.post(f"/v1/{CHAT}", data=body, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("path", "field", "stops"),
    [(CHAT, "stop", "a" * 1001), (CHAT, "stop", ["a" * 1001]), (MESSAGES, "stop_sequences", ["a"] * 257)],
)
def test_stop_sequences_have_a_length_and_a_number(gateway: Gateway, path: str, field: str, stops: object) -> None:
    body = {"model": gateway.model, "max_tokens": 9, "messages": [USER], field: stops}
    response = gateway.post(f"/v1/{path}", json=body)
    assert response.status_code == 400 and field in response.json()["error"]["message"], response.text


def test_a_request_of_many_short_messages_is_answered(gateway: Gateway, simulator: Simulator) -> None:
    assert gateway.chat({"model": gateway.model, "messages": [USER] * 10_000}).ok
    assert simulator.prompts()[0].count(CANARY) == 10_000

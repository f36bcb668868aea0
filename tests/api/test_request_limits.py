"""Limits of what a request may hold, so that none of them keeps its worker from the others."""

import pytest

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
    with running.gateway(simulator.url, MAX_MESSAGES="2", MAX_JSON_VALUES="1000") as gateway:
        assert gateway.chat({"model": gateway.model, "messages": [USER] * 2}).ok
        assert gateway.chat({"model": gateway.model, "messages": [USER] * 3}).status_code == 400
        body = {"model": gateway.model, "messages": [USER], "metadata": {"a": [1] * 1100}}
        assert gateway.chat(body).json()["error"]["code"] == "too_many_values"


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

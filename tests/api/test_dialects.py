"""What all dialects have in common: what is done with parameters."""

from typing import Any

import pytest

from tests.running import CANARY, EACH_GENERATION, Gateway, Profile, Share, Simulator

BODIES: dict[str, dict[str, Any]] = {
    "completions": {"prompt": CANARY},
    "responses": {"input": CANARY},
    "messages": {"messages": [{"role": "user", "content": CANARY}], "max_tokens": 100},
}
SCHEMAS = {
    "responses": (lambda schema: {"text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}}),
    "messages": (lambda schema: {"output_config": {"format": {"type": "json_schema", "schema": schema}}}),
}
EVERY = pytest.mark.parametrize("dialect", list(BODIES))


@pytest.fixture
def strict(shared_gateway: Share) -> Gateway:
    return shared_gateway(STRICT_PARAMS="1")


def said(error: dict[str, Any]) -> str:
    return f"{error.get('param')} {error['message']}"


@EVERY
@pytest.mark.parametrize("name", ["temperature", "unknown_thing"])
def test_strict_refuses_what_has_no_effect(strict: Gateway, simulator: Simulator, dialect: str, name: str) -> None:
    body = {"model": strict.model, **BODIES[dialect]}
    assert strict.post(f"/v1/{dialect}", json=body).ok
    response = strict.post(f"/v1/{dialect}", json={**body, name: 0.5})
    assert response.status_code == 400 and name in said(response.json()["error"])
    assert response.headers["x-should-retry"] == "false"
    assert len(simulator.turns()) == 1


@pytest.mark.parametrize("dialect", list(SCHEMAS))
@pytest.mark.parametrize(
    ("schema", "wrong"), [({"type": "thing"}, ".type"), ({"$ref": "https://example.com/schema"}, "references")]
)
def test_a_json_schema_that_is_none_is_a_400(
    gateway: Gateway, simulator: Simulator, dialect: str, schema: dict[str, Any], wrong: str
) -> None:
    body = {"model": gateway.model, **BODIES[dialect], **SCHEMAS[dialect](schema)}
    response = gateway.post(f"/v1/{dialect}", json=body)
    message = said(response.json()["error"])
    assert response.status_code == 400 and "format.schema" in message and wrong in message
    assert not simulator.turns()


@pytest.mark.parametrize(
    ("dialect", "wish", "model", "searches"),
    [
        ("responses", {}, "k1.5", True),
        ("responses", {"reasoning": {"effort": "medium"}}, "k1.5-thinking", False),
        ("responses", {"reasoning": {"effort": "none"}}, "k1.5", True),
        ("responses", {"reasoning": {"summary": "auto"}}, "k1.5", True),
        ("responses", {"model": "k1.5-nosearch", "tools": [{"type": "web_search_preview"}]}, "k1.5", True),
        ("responses", {"tools": [{"type": "web_search"}], "tool_choice": "none"}, "k1.5", False),
        ("messages", {}, "k1.5", True),
        ("messages", {"thinking": {"type": "enabled", "budget_tokens": 2000}}, "k1.5-thinking", False),
        ("messages", {"model": "k1.5-thinking", "thinking": {"type": "disabled"}}, "k1.5", False),
        ("messages", {"output_config": {"effort": "high"}}, "k1.5-thinking", False),
        ("messages", {"output_config": {"effort": "low"}}, "k1.5", True),
        ("messages", {"model": "k1.5-nosearch", "tools": [{"type": "web_search_20250305"}]}, "k1.5", True),
        ("messages", {"tools": [{"type": "web_search_20250305"}], "tool_choice": {"type": "none"}}, "k1.5", False),
    ],
)
def test_a_wish_to_think_or_to_search_chooses_the_form_of_the_model(
    gateway: Gateway, simulator: Simulator, dialect: str, wish: dict[str, Any], model: str, searches: bool
) -> None:
    response = gateway.post(f"/v1/{dialect}", json={"model": "k1.5", **BODIES[dialect], **wish})
    assert response.ok and response.headers.get("x-ignored-params") in (None, "thinking.budget_tokens")
    (turn,) = simulator.turns()
    assert (turn.body["model"], turn.body["use_search"]) == (model, searches)


@EACH_GENERATION
@EVERY
def test_each_generation_answers_and_thinks(
    gateway: Gateway, simulator: Simulator, profile: Profile, dialect: str
) -> None:
    simulator.knobs(say="forty-two", think="a long thought", token_chars=99)
    wish = {"messages": {"thinking": {"type": "adaptive"}}}.get(dialect, {})
    body = {"model": profile.thinking_model, **BODIES[dialect], **wish}
    for stream in (False, True):
        response = gateway.post(f"/v1/{dialect}", json={**body, "stream": stream})
        assert response.ok and "forty-two" in response.text
        # The legacy API has no place for it.
        assert ("a long thought" in response.text) is (dialect != "completions")


@EVERY
def test_a_repetition_gets_the_answer_that_was_given(gateway: Gateway, simulator: Simulator, dialect: str) -> None:
    body = {"model": gateway.model, **BODIES[dialect]}
    headers = {"Idempotency-Key": f"again {dialect}"}
    first, again = (gateway.post(f"/v1/{dialect}", json=body, headers=headers).json() for _ in range(2))
    assert (first["id"], told(first)) == (again["id"], told(again))
    assert len(simulator.turns()) == 1


def told(body: dict[str, Any]) -> Any:
    content = body.get("choices") or body.get("output") or body["content"]
    assert content
    return content


def test_a_repetition_of_a_later_turn_is_no_branch(gateway: Gateway, simulator: Simulator) -> None:
    body = {"model": gateway.model, "input": CANARY}
    body["previous_response_id"] = gateway.post("/v1/responses", json=body).json()["id"]
    headers = {"Idempotency-Key": "a later turn"}
    first, again = (gateway.post("/v1/responses", json=body, headers=headers).json() for _ in range(2))
    assert first["id"] == again["id"] and first["output"] == again["output"] != []
    assert len(simulator.turns()) == 2
    other = gateway.post("/v1/responses", json=body, headers={"Idempotency-Key": "a branch"})
    assert other.status_code == 409 and len(simulator.turns()) == 2


def test_a_repetition_in_a_named_conversation_is_one_too(gateway: Gateway, simulator: Simulator, name: str) -> None:
    body = {"model": gateway.model, "input": CANARY, "conversation": name}
    headers = {"Idempotency-Key": name}
    first, again = (gateway.post("/v1/responses", json=body, headers=headers).json() for _ in range(2))
    assert first["id"] == again["id"] and first["output"] == again["output"] != []
    assert len(simulator.turns()) == 1


@EVERY
def test_a_model_is_not_guessed(gateway: Gateway, simulator: Simulator, dialect: str) -> None:
    response = gateway.post(f"/v1/{dialect}", json={"model": "gpt-9", **BODIES[dialect]})
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (404, "not_found_error")
    assert "k1.5-thinking" in error["message"] and response.headers["x-should-retry"] == "false"

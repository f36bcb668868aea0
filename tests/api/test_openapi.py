"""The OpenAPI document and its page: they say what the gateway does, and need nobody else."""

import re
from typing import Any

import jsonschema_rs
import pytest
import requests

from app.api.chat_completions.body import Body
from tests.running import CANARY, Gateway, Share, Simulator


@pytest.fixture
def document(gateway: Gateway) -> dict[str, Any]:
    response = gateway.get("/openapi.json")
    assert response.ok and response.headers["Content-Type"] == "application/json"
    document: dict[str, Any] = response.json()
    return document


def test_every_operation_is_there_and_needs_what_it_says(gateway: Gateway, document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        options = requests.options(gateway.url + re.sub(r"{\w+}", "x", path), timeout=30)
        assert {method.upper() for method in operations} <= set(options.headers["Allow"].split(", ")), path
        for operation in operations.values():
            assert operation["summary"] and "200" in operation["responses"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/models/{model_id}",
        "/healthz",
        "/readyz",
        "/docs",
    ],
)
def test_every_endpoint_is_described(document: dict[str, Any], path: str) -> None:
    assert path in document["paths"]


def test_the_schema_of_a_body_says_what_the_validation_does(
    gateway: Gateway, simulator: Simulator, document: dict[str, Any]
) -> None:
    content = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
    validator = jsonschema_rs.Draft202012Validator({**document, **content["application/json"]["schema"]})
    good: dict[str, Any] = {"model": gateway.model, "messages": [{"role": "user", "content": CANARY}]}
    right: list[dict[str, Any]] = [{}, {"temperature": 2}, {"stop": ["a"]}, {"thinking": {"type": "auto"}}, {"x": 1}]
    for more in right:
        assert validator.is_valid({**good, **more}) and gateway.post("/v1/chat/completions", json={**good, **more}).ok
    wrong: list[dict[str, Any]] = [
        {"model": 1},
        {"messages": []},
        {"messages": [{"role": "boss"}]},
        {"temperature": 3},
        {"stop": list("abcde")},
        {"thinking": {"type": "perhaps"}},
        {"n": 0},
    ]
    for more in wrong:
        assert not validator.is_valid({**good, **more}), more
        assert gateway.post("/v1/chat/completions", json={**good, **more}).status_code == 400, more


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "messages"])
def test_what_may_be_null_may_be_null(
    gateway: Gateway, simulator: Simulator, document: dict[str, Any], path: str
) -> None:
    """Many clients send every field that they know."""
    schema = document["paths"][f"/v1/{path}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    body = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    nulls = {name: None for name, field in body["properties"].items() if {"type": "null"} in field.get("anyOf", [])}
    assert len(nulls) > 9
    messages = [{"role": "user", "content": CANARY}]
    good = {"model": gateway.model, "messages": messages, "prompt": CANARY, "input": CANARY, "max_tokens": 99}
    response = gateway.post(f"/v1/{path}", json={**nulls, **{name: good[name] for name in body["required"]}})
    assert response.ok, response.text


def test_answers_and_failures_are_as_described(
    gateway: Gateway, simulator: Simulator, document: dict[str, Any]
) -> None:
    body = {"model": gateway.model, "messages": [{"role": "user", "content": CANARY}]}
    for method, path, arguments in (
        ("post", "/v1/chat/completions", {"json": body}),
        ("post", "/v1/chat/completions", {"json": {}}),
        ("post", "/v1/messages", {"json": {**body, "max_tokens": 100}}),
        ("post", "/v1/messages", {"json": {}}),
        ("get", "/v1/models", {}),
        ("get", "/readyz", {}),
    ):
        response = getattr(gateway, method)(path, **arguments)
        described = document["paths"][path][method]["responses"][str(response.status_code)]
        schema = described["content"]["application/json"]["schema"]
        jsonschema_rs.Draft202012Validator({**document, **schema}).validate(response.json())


def test_the_page_shows_everything_and_loads_nothing(gateway: Gateway, document: dict[str, Any]) -> None:
    response = gateway.get("/docs")
    page = response.text
    assert response.ok and response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert not re.search(r"<script|<link|<img|<iframe|(src|href)=\"(https?:)?//|url\(|@import", page)
    for path in document["paths"]:
        assert path in page
    for name in Body.model_fields:
        assert f"<code>{name}</code>" in page
    assert "Kimi gives no probabilities" in page


def test_both_are_open_and_reachable_behind_keys(shared_gateway: Share, simulator: Simulator) -> None:
    keyed = shared_gateway(GATEWAY_API_KEYS="key-one-123,key-two-456")
    assert keyed.get("/docs").ok and keyed.get("/openapi.json").ok

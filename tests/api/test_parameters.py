"""What a chat's parameters do: honoured, named as ignored, or refused by name."""

from typing import Any

import pytest

from tests.running import CANARY, Gateway, Share, Simulator
from tests.running.each_case import check_rows

IGNORED: dict[str, Any] = {
    "temperature": 0.2,
    "top_p": 0.5,
    "frequency_penalty": 1,
    "presence_penalty": -1,
    "top_k": 40,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "seed": 0,
    "user": "someone",
    "metadata": {"a": "b"},
    "store": True,
    "service_tier": "flex",
    "safety_identifier": "x",
    "prompt_cache_key": "x",
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"ttl": "30m"},
    "verbosity": "low",
    "prediction": {"type": "content", "content": "x"},
    "moderation": {"model": "x"},
    "unknown_thing": 3,
}

# What asks for nothing, and what clients send without being asked.
WITHOUT_MEANING: dict[str, Any] = {
    "temperature": 1,
    "top_p": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "user": "",
    "metadata": {},
    "store": False,
    "service_tier": "auto",
    "verbosity": "medium",
    "tools": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "stop": [],
    "n": 1,
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "audio": None,
    "unknown_thing": None,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
}


def names(header: str) -> set[str]:
    return set(header.split(", "))


def test_what_has_no_effect_is_named(gateway: Gateway, simulator: Simulator) -> None:
    response = gateway.say("hello", **IGNORED)
    assert response.ok and names(response.headers["x-ignored-params"]) == set(IGNORED)
    for stream in (True, False):
        response = gateway.say("hello", stream=stream, **WITHOUT_MEANING)
        assert response.ok and "x-ignored-params" not in response.headers


def test_a_part_of_an_honoured_parameter_is_named_too(gateway: Gateway, simulator: Simulator) -> None:
    response = gateway.say(
        "hello",
        web_search_options={"search_context_size": "low"},
        thinking={"type": "disabled", "budget_tokens": 9},
        stream_options={"include_obfuscation": True},
    )
    assert names(response.headers["x-ignored-params"]) == {
        "web_search_options.search_context_size",
        "thinking.budget_tokens",
        "stream_options.include_obfuscation",
    }


def test_what_has_no_effect_within_a_field_is_named(gateway: Gateway, simulator: Simulator) -> None:
    """Moonshot's own platform goes on writing a message that is partial, if it is the last one."""
    said = [{"role": "user", "content": CANARY}, {"role": "assistant", "content": "It", "partial": True}]
    response = gateway.chat({"model": gateway.model, "messages": [*said, said[0]]})
    assert response.headers["x-ignored-params"] == "messages.partial"
    for path, tool, named in (
        ("responses", {"type": "web_search", "filters": {"allowed_domains": ["a.example"]}}, "tools.filters"),
        ("messages", {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}, "tools.max_uses"),
    ):
        body = {"input": CANARY} if path == "responses" else {"messages": said[:1], "max_tokens": 99}
        response = gateway.post(f"/v1/{path}", json={"model": gateway.model, "tools": [tool], **body})
        assert response.ok and response.headers["x-ignored-params"] == named


def test_what_clients_repeat_of_an_answer_is_no_wish(shared_gateway: Share, simulator: Simulator) -> None:
    """Histories hold what OpenAI's and Anthropic's answers have, and OpenAI demands some of it."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = [
        {"role": "user", "content": CANARY},
        {"role": "assistant", "content": None, "tool_calls": [call], "annotations": [{"type": "url_citation"}]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ]
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    turns = [
        {"role": "user", "content": CANARY},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "It"}]},
        {"role": "user", "content": CANARY},
    ]
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "It", "annotations": [], "logprobs": []}]}  # fmt: skip
    gateway = shared_gateway(STRICT_PARAMS="1")
    for path, body in (
        ("chat/completions", {"messages": history}),
        ("messages", {"messages": turns, "max_tokens": 99}),
        ("responses", {"input": [{"role": "user", "content": CANARY}, item, {"role": "user", "content": "x"}]}),
    ):
        response = gateway.post(f"/v1/{path}", json={"model": gateway.model, **body})
        assert response.ok and "x-ignored-params" not in response.headers, response.text


def test_a_type_that_is_not_known_is_not_repeated(gateway: Gateway, simulator: Simulator) -> None:
    response = gateway.chat({"model": gateway.model, "messages": [{"role": "user", "content": [{"type": CANARY}]}]})
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == "messages[0].content[0]"
    assert "should be one of 'text', 'refusal'" in error["message"] and CANARY not in gateway.log()


def test_names_that_are_none_stay_out_of_the_header(gateway: Gateway, simulator: Simulator) -> None:
    odd: dict[str, Any] = {"x\r\nSet-Cookie: a=b": 1, "y" * 80: 1, "ok": 1}
    response = gateway.say("hello", **odd)
    assert response.headers["x-ignored-params"] == "ok" and "Set-Cookie" not in response.headers


@pytest.fixture
def strict(shared_gateway: Share) -> Gateway:
    return shared_gateway(STRICT_PARAMS="1")


def test_strict_refuses_what_has_no_effect(strict: Gateway, simulator: Simulator) -> None:
    def check(name: str) -> None:
        outer, _, inner = name.partition(".")
        sent: dict[str, Any] = {outer: {inner: {"x": 1}} if inner else IGNORED[name]}
        response = strict.say("hello", **sent)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", name)
        assert response.headers["x-should-retry"] == "false"

    check_rows([(name,) for name in (*IGNORED, "web_search_options.user_location")], check)
    assert not simulator.turns()


def test_strict_takes_what_asks_for_nothing(strict: Gateway, simulator: Simulator) -> None:
    assert strict.say("hello", **WITHOUT_MEANING).ok


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 5),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"50256": -100}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("parent_id", "x"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    gateway: Gateway, simulator: Simulator, field: str, value: Any
) -> None:
    for stream in (True, False):
        response = gateway.say("hello", **{"stream": stream, field: value})
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (400, field, "unsupported_parameter")
    assert simulator.state()["total_chats"] == 0


_SCHEMA_PLACE = "response_format.json_schema.schema"


def _schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


BAD_VALUES: list[tuple[Any, ...]] = [
    ("temperature", 2.1, "temperature"),
    ("temperature", "0.5", "temperature"),
    ("temperature", True, "temperature"),
    ("top_p", -0.1, "top_p"),
    ("frequency_penalty", 3, "frequency_penalty"),
    ("presence_penalty", -3, "presence_penalty"),
    ("seed", "x", "seed"),
    ("max_tokens", 0, "max_tokens"),
    ("max_tokens", 1.5, "max_tokens"),
    ("max_completion_tokens", -2, "max_completion_tokens"),
    ("n", 0, "n"),
    ("n", "two", "n"),
    ("stop", ["a", "b", "c", "d", "e"], "stop"),
    ("stop", [1], "stop[0]"),
    ("stop", {"a": 1}, "stop"),
    ("reasoning_effort", "enormous", "reasoning_effort"),
    ("reasoning", {"effort": 3}, "reasoning.effort"),
    ("thinking", {"type": "perhaps"}, "thinking.type"),
    ("thinking", "yes", "thinking"),
    ("enable_thinking", "yes", "enable_thinking"),
    ("enable_search", 1, "enable_search"),
    ("web_search_options", True, "web_search_options"),
    ("verbosity", "shouting", "verbosity"),
    ("tools", "f", "tools"),
    ("tools", ["f"], "tools[0]"),
    ("response_format", "json", "response_format"),
    ("response_format", {"type": "xml"}, "response_format"),
    ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
    ("response_format", {"type": "json_schema", "json_schema": {}}, "response_format.json_schema.name"),
    ("response_format", _schema([]), _SCHEMA_PLACE),
    ("response_format", _schema({"type": "sausage"}), _SCHEMA_PLACE),
    ("response_format", _schema({"properties": {"a": {"$ref": "http://127.0.0.1:1/x"}}}), _SCHEMA_PLACE),
    (
        "response_format",
        _schema({"$schema": "http://json-schema.org/draft-04/schema#", "type": 7}),
        _SCHEMA_PLACE,
    ),
]


def test_a_value_that_is_none_is_a_400_that_names_it(gateway: Gateway, simulator: Simulator) -> None:
    def check(field: str, value: Any, param: str) -> None:
        response = gateway.say("hello", **{field: value})
        error = response.json()["error"]
        assert (response.status_code, error["type"]) == (400, "invalid_request_error")
        assert error["param"] == param and param in error["message"]

    check_rows(BAD_VALUES, check)
    assert not simulator.turns()


def test_a_schema_nested_without_end_is_a_400(gateway: Gateway, simulator: Simulator) -> None:
    schema: dict[str, Any] = {}
    for _ in range(900):
        schema = {"not": schema}
    response = gateway.say("hello", response_format=_schema(schema))
    assert response.status_code == 400 and response.json()["error"]["param"] == _SCHEMA_PLACE


_HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
# As many as MAX_MESSAGES lets pass: more are refused before their fields are read.
_MANY = 10_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": [{}] * _MANY}),
        ("chat/completions", {"messages": [{"role": "user", "content": [{}] * _MANY}]}),
        ("chat/completions", {**_HELLO, "tools": [1] * _MANY}),
        ("messages", {"messages": [{}] * _MANY}),
        ("messages", {"messages": [{"role": "user", "content": [{}] * _MANY}]}),
        ("messages", {**_HELLO, "stop_sequences": [1] * _MANY}),
        ("responses", {"input": [{}] * _MANY}),
        ("responses", {"input": "hello", "include": [1] * _MANY}),
        ("responses", {"input": "hello", "metadata": {str(number): 1 for number in range(_MANY)}}),
        ("completions", {"prompt": [{}] * _MANY}),
        ("completions", {"prompt": [[""] * _MANY]}),
    ],
)
def test_many_faults_take_no_longer_than_one(gateway: Gateway, path: str, body: dict[str, Any]) -> None:
    """Everybody else in the worker waits: a megabyte of them took ten seconds."""

    def took_s(body: dict[str, Any]) -> float:
        response = gateway.post(f"/v1/{path}", json={"model": "k2", "max_tokens": 5, **body})
        assert response.status_code == 400
        return response.elapsed.total_seconds()

    gateway.wait_for_workers()
    # The shortest of several: a busy machine makes any one of them longer.
    assert min(took_s(body) for _ in range(5)) < 5 * min(took_s({"unknown_thing": body}) for _ in range(5))

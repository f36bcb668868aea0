"""Anthropic's Messages: shapes, events, errors of their own, and Anthropic's SDK against it."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
import requests
from anthropic.types import Message, MessageParam, MessageTokensCount, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from pydantic import TypeAdapter

from tests.running import CANARY, Gateway, Share, Simulator, read_stream
from tests.running.each_case import check_rows

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
HELLO: list[MessageParam] = [{"role": "user", "content": f"hello {CANARY}"}]
THINK = "k1.5-thinking"


def send(gateway: Gateway, content: Any = f"hello {CANARY}", **body: Any) -> requests.Response:
    headers = {"x-api-key": body.pop("key", "any"), "anthropic-version": "2023-06-01"}
    messages = [{"role": "user", "content": content}]
    sent = {"model": gateway.model, "max_tokens": 1000, "messages": messages, **body}
    return gateway.post("/v1/messages?beta=true", json=sent, headers=headers)


def events(response: requests.Response) -> list[dict[str, Any]]:
    """The events of a stream, each valid, its name the same as its type; pings are left out."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("text/event-stream")
    found = []
    for block in response.content.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] not in ("ping", "error"):
            EVENT.validate_json(data.removeprefix("data: "), strict=True)
        if event["type"] != "ping":
            found.append(event)
    return found


def error_of(response: requests.Response) -> tuple[int, str, str]:
    """Status, type and message of an error, which has this API's shape."""
    body = response.json()
    # Documented, and not in the SDK's list.
    if response.status_code != 413:
        ErrorResponse.model_validate_json(response.content, strict=True)
    assert set(body) == {"type", "error", "request_id"} and set(body["error"]) == {"type", "message"}
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    return response.status_code, body["error"]["type"], body["error"]["message"]


@pytest.fixture
def client(gateway: Gateway, simulator: Simulator) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="sk-anything", max_retries=0) as client:
        yield client


# Shapes


def test_a_whole_answer_has_anthropics_shape(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="Tea is ready.", think="hm")
    response = send(gateway, model=THINK, thinking={"type": "enabled", "budget_tokens": 1024})
    Message.model_validate_json(response.content, strict=True)
    body = response.json()
    assert body["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Tea is ready.", "citations": None},
    ]
    assert (body["stop_reason"], body["stop_sequence"], body["model"]) == ("end_turn", None, THINK)
    assert body["id"].startswith("msg_") and body["usage"]["input_tokens"] > 2
    assert body["usage"]["output_tokens"] > body["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    assert response.headers["request-id"] == response.headers["x-request-id"]


def test_a_stream_has_anthropics_sequence_of_events(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="one two ", think="abcdefgh", token_chars=4)
    got = events(send(gateway, model=THINK, thinking={"type": "adaptive"}, stream=True))
    assert [(event["type"], event.get("index")) for event in got] == [
        ("message_start", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert [event["delta"].get("thinking") for event in got[2:4]] == ["abcd", "efgh"]
    assert [event["delta"].get("text") for event in got[6:8]] == ["one ", "two "]
    assert got[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert got[-2]["usage"]["output_tokens"] > 0
    assert got[0]["message"]["usage"]["input_tokens"] == got[-2]["usage"]["input_tokens"] > 2


@pytest.mark.parametrize(
    "thinking", [None, {"type": "disabled"}, {"type": "enabled", "budget_tokens": 2000, "display": "omitted"}]
)
def test_thinking_that_was_not_asked_for_is_not_told(gateway: Gateway, simulator: Simulator, thinking: Any) -> None:
    """Many programs take the first block for the answer."""
    simulator.knobs(say="42", think="a long thought")
    body = send(gateway, model=THINK, thinking=thinking).json()
    assert [block["type"] for block in body["content"]] == ["text"]
    got = events(send(gateway, model=THINK, thinking=thinking, stream=True))
    assert [event["content_block"]["type"] for event in got if "content_block" in event] == ["text"]


def test_an_answer_cut_at_its_length_says_so(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="a b c d e f g h", token_chars=2, length_after=1, length_times=20)
    assert send(gateway).json()["stop_reason"] == "max_tokens"
    assert events(send(gateway, stream=True))[-2]["delta"]["stop_reason"] == "max_tokens"


def test_a_stop_sequence_is_named(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="one two three four", token_chars=3)
    body = send(gateway, stop_sequences=["never", " three"]).json()
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", " three")
    assert body["content"][0]["text"] == "one two"
    got = events(send(gateway, stop_sequences=["never", " three"], stream=True))
    assert got[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": " three"}
    assert "".join(event["delta"].get("text", "") for event in got if "delta" in event) == "one two"


def test_max_tokens_ends_the_answer(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(tokens=200)
    body = send(gateway, max_tokens=10).json()
    assert body["stop_reason"] == "max_tokens" and body["usage"]["output_tokens"] <= 10


def test_an_answer_without_words_has_an_empty_text(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="stop at once")
    wish = {"stop_sequences": ["stop"]}
    assert send(gateway, **wish).json()["content"] == [{"type": "text", "text": "", "citations": None}]
    kinds = [event["type"] for event in events(send(gateway, **wish, stream=True))]
    assert kinds == ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]


# The SDK


def test_the_sdk_gets_a_whole_answer(client: anthropic.Anthropic, simulator: Simulator) -> None:
    simulator.knobs(say="你好, tea?")
    message = client.messages.create(model="k2", max_tokens=1000, messages=HELLO)
    assert message.content[0].type == "text" and message.content[0].text == "你好, tea?"
    assert message._request_id


def test_the_sdk_streams_raw_and_with_its_helper(client: anthropic.Anthropic, simulator: Simulator) -> None:
    simulator.knobs(say="one two three", think="hm", token_chars=4)
    raw = client.messages.create(model="k2", max_tokens=1000, messages=HELLO, stream=True)
    assert [event.type for event in raw][-1] == "message_stop"
    with client.messages.stream(
        model=THINK, max_tokens=4000, messages=HELLO, thinking={"type": "enabled", "budget_tokens": 2000}
    ) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(texts) == "one two three"
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.usage.output_tokens > 0 and final.stop_reason == "end_turn"


def test_the_sdk_counts_tokens(client: anthropic.Anthropic, simulator: Simulator) -> None:
    count = client.messages.count_tokens(model="k2", messages=HELLO, system="Be kind.")
    MessageTokensCount.model_validate(count.model_dump(), strict=True)
    message = client.messages.create(model="k2", max_tokens=9, messages=HELLO, system="Be kind.")
    # The code in the headings is drawn anew for each request, and counts.
    assert count.input_tokens == pytest.approx(message.usage.input_tokens, rel=0.25)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="claude-opus-5", messages=HELLO)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        ("token_invalid", "api_error", anthropic.InternalServerError),
        ("account_abnormal", "permission_error", anthropic.PermissionDeniedError),
        ("stream_pushing", "rate_limit_error", anthropic.RateLimitError),
        ("too_long", "invalid_request_error", anthropic.BadRequestError),
        ("not_found", "not_found_error", anthropic.NotFoundError),
        ("overloaded", "overloaded_error", anthropic.InternalServerError),
        ("http_500", "api_error", anthropic.InternalServerError),
    ],
)
def test_errors_have_their_class_and_type(
    client: anthropic.Anthropic,
    simulator: Simulator,
    fault: str,
    status: str,
    error: type[anthropic.APIStatusError],
    stream: bool,
) -> None:
    simulator.knobs(fail=fault)
    with pytest.raises(error) as raised:
        client.messages.create(model="k2", max_tokens=9, messages=HELLO, stream=stream)
    body: Any = raised.value.body
    assert body["error"]["type"] == status and raised.value.request_id == body["request_id"]


def test_an_error_in_mid_stream_is_raised(client: anthropic.Anthropic, simulator: Simulator) -> None:
    simulator.knobs(fail="drop", fail_after=2, say="one two three", token_chars=4)
    got = ""
    with pytest.raises(anthropic.APIStatusError) as raised:
        for event in client.messages.create(model="k2", max_tokens=9, messages=HELLO, stream=True):
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                got += event.delta.text
    body: Any = raised.value.body
    assert got == "one two " and body["error"]["type"] == "api_error"


def test_a_permanent_failure_is_not_repeated_by_the_sdk(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="not_found")
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="k", max_retries=2) as client,
        pytest.raises(anthropic.NotFoundError),
    ):
        client.messages.create(model="k2", max_tokens=9, messages=HELLO)
    assert len(simulator.turns()) == 1


# What is sent


def test_every_block_counts(gateway: Gateway, simulator: Simulator) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": f"USER-2 {CANARY}"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "SECRET", "signature": "x"},
                {"type": "redacted_thinking", "data": "SECRET"},
                {"type": "text", "text": "ASSISTANT-3"},
                {"type": "tool_use", "id": "toolu_4", "name": "weather_4", "input": {"x": 5}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_4", "content": "RESULT-6"},
                {"type": "tool_result", "tool_use_id": "toolu_5", "content": [{"type": "text", "text": "RESULT-7"}]},
                {"type": "text", "text": "USER-8", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ]
    system = [{"type": "text", "text": "SYSTEM-1", "cache_control": {"type": "ephemeral"}}]
    assert send(gateway, messages=messages, system=system).ok
    (prompt,) = simulator.prompts()
    wanted = [
        "SYSTEM-1",
        "USER-2",
        "ASSISTANT-3",
        "weather_4",
        '{"x":5}',
        "RESULT-6",
        "RESULT-7",
        "USER-8",
    ]
    places = [prompt.index(part) for part in wanted]
    assert places == sorted(places) and "SECRET" not in prompt


def test_a_system_text_may_be_a_string(gateway: Gateway, simulator: Simulator) -> None:
    assert send(gateway, system=f"SYSTEM-1 {CANARY}").ok and send(gateway, system="").ok
    first, second = simulator.prompts()
    assert "SYSTEM-1" in first and second == f"hello {CANARY}"


def test_what_has_no_effect_is_accepted_and_named(gateway: Gateway, simulator: Simulator) -> None:
    sent = {
        "temperature": 0.3,
        "top_p": 0.9,
        "top_k": 5,
        "metadata": {"user_id": "u"},
        "context_management": {"edits": []},
        "output_config": {"effort": "medium"},
        "service_tier": "auto",
        "unknown_thing": 1,
    }
    response = send(gateway, **sent)
    assert response.ok
    named = set(response.headers["x-ignored-params"].split(", "))
    assert named >= {"temperature", "top_p", "top_k", "metadata", "unknown_thing"}
    assert "x-ignored-params" not in send(gateway).headers


def test_what_claude_code_sends_is_taken_at_once(gateway: Gateway, simulator: Simulator) -> None:
    """Observed of 2.1.330; what it is refused, it sends again in up to five other forms."""
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    sent = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "R", **cached}, {"type": "text", "text": CANARY}]},
            {"role": "system", "content": [{"type": "text", "text": "mid-conversation"}]},
        ],
        "system": [{"type": "text", "text": "You are Claude Code.", **cached}],
        "tools": [{"name": "Bash", "description": "", "input_schema": {"type": "object"}}],
        "metadata": {"user_id": "{}"},
        "max_tokens": 32000,
        "thinking": {"type": "adaptive", "display": "updates"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
    }
    got = events(send(gateway, model=THINK, **sent, stream=True))
    assert [event["content_block"]["type"] for event in got if "content_block" in event] == ["thinking", "text"]


BAD_FIELDS: list[tuple[Any, ...]] = [
    ({"model": None}, "model"),
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [1]}, "messages[0]"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "dance"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": "  \n"}]}, "messages"),
    ({"system": [{"type": "image"}]}, "system[0].type"),
    ({"system": 3}, "system"),
    ({"stop_sequences": "x"}, "stop_sequences"),
    ({"stop_sequences": [" "]}, "stop_sequences"),
    ({"stream": "yes"}, "stream"),
    ({"thinking": {"type": "deep"}}, "thinking.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": "many"}}, "thinking.budget_tokens"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"temperature": 1.5}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"tools": {}}, "tools"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
]


def test_a_bad_field_is_named(gateway: Gateway, simulator: Simulator) -> None:
    def check(body: dict[str, Any], place: str) -> None:
        status, kind, message = error_of(send(gateway, **body))
        assert (status, kind) == (400, "invalid_request_error")
        assert message.startswith(place) and message[len(place)] in ": ", message

    check_rows(BAD_FIELDS, check)
    assert not simulator.turns()


# Keys, paths, conversations, time


def test_a_key_is_taken_from_either_header(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(GATEWAY_API_KEYS="key-one-123,key-two-456")
    assert send(gateway, key="key-one-123").ok
    status, kind, message = error_of(send(gateway, key="key-three-789"))
    assert (status, kind) == (401, "authentication_error") and "Incorrect API key" in message
    with anthropic.Anthropic(base_url=gateway.url, auth_token="key-one-123", max_retries=0) as client:
        assert client.messages.count_tokens(model="k2", messages=HELLO).input_tokens > 0


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("DELETE", "/messages/", 405, "invalid_request_error"),
        ("GET", "/v1/messages/count_tokens", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("GET", "/v1/messages/batches/b1/results", 404, "not_found_error"),
    ],
)
def test_unknown_routes_and_wrong_methods_are_told_in_this_shape(
    gateway: Gateway, method: str, path: str, status: int, kind: str
) -> None:
    response = requests.request(method, gateway.url + path, timeout=30)
    assert error_of(response)[:2] == (status, kind)
    assert response.headers.get("Allow") == ("POST" if status == 405 else None)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/", "/messages"])
def test_the_paths(gateway: Gateway, simulator: Simulator, path: str) -> None:
    assert gateway.post(path, json={"model": gateway.model, "max_tokens": 9, "messages": HELLO}).ok
    count = gateway.post(path.rstrip("/") + "/count_tokens", json={"model": gateway.model, "messages": HELLO})
    assert count.json()["input_tokens"] > 0


def test_a_body_that_cannot_be_read_is_told_in_this_shape(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(MAX_BODY_BYTES="2000")
    for data, status, kind in ((b"{", 400, "invalid_request_error"), (b"x" * 3000, 413, "request_too_large")):
        assert error_of(gateway.post("/v1/messages", data=data))[:2] == (status, kind)


def test_a_conversation_goes_on_behind_its_base_url(gateway: Gateway, simulator: Simulator, name: str) -> None:
    """Claude's clients send the whole history: only what is new is said again."""
    history: list[dict[str, str]] = []
    for text in ("I like tea", "what did I say"):
        history.append({"role": "user", "content": text})
        body = {"model": gateway.model, "max_tokens": 1000, "messages": history}
        reply = gateway.post(f"/v1/conversations/{name}/messages", json=body).json()
        history.append({"role": "assistant", "content": reply["content"][0]["text"]})
    assert simulator.prompts() == ["I like tea", "what did I say"]
    assert len(simulator.state()["chats"]) == 1


def test_silence_is_filled_with_pings(shared_gateway: Share, simulator: Simulator) -> None:
    """Thinking that is not told is silence too."""
    gateway = shared_gateway(HEARTBEAT_S="0.2", COMMIT_AFTER_S="0.2")
    simulator.knobs(delay_s=0.2, think="x" * 40, say="one", token_chars=4)
    before, _, _ = send(gateway, model=THINK, stream=True).content.partition(b"event: content_block_start")
    assert before.count(b'event: ping\ndata: {"type":"ping"}\n\n') >= 4


def test_what_was_sent_is_counted_when_it_is_known(shared_gateway: Share, simulator: Simulator, name: str) -> None:
    """A turn that stands in the line of its conversation has begun to stream before it is known what will be said."""
    simulator.knobs(gate="counted", gate_after=1)
    gateway = shared_gateway(HEARTBEAT_S="0.2", COMMIT_AFTER_S="0.2")
    with gateway.say("first", conversation=name, stream=True) as first:
        simulator.wait("gate_waiting:counted", equals=1)
        body = {"model": gateway.model, "max_tokens": 1000, "messages": HELLO, "stream": True}
        with gateway.post(f"/v1/conversations/{name}/messages", json=body, stream=True) as second:
            simulator.open_gate("counted")
            assert read_stream(first).finish_reason == "stop"
            *_, end, _ = events(second)
    assert end["type"] == "message_delta" and end["usage"]["input_tokens"] > 2


def test_a_client_that_leaves_ends_the_answer(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(stall_after=1)
    body = {"model": gateway.model, "max_tokens": 9, "messages": HELLO, "stream": True}
    response = gateway.post("/v1/messages", json=body, stream=True)
    next(response.iter_content(None))
    simulator.wait("open_streams", equals=1)
    response.close()
    simulator.wait("open_streams", equals=0)

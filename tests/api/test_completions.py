"""Legacy completions: what a client sends and gets, and OpenAI's SDK against it."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests
from openai.types import Completion

from tests.running import CANARY, Gateway, Share, Simulator
from tests.running.each_case import check_rows


def complete(gateway: Gateway, prompt: Any = f"Say: {CANARY}", **body: Any) -> requests.Response:
    return gateway.post("/v1/completions", json={"model": gateway.model, "prompt": prompt, **body})


def chunks(response: requests.Response) -> list[dict[str, Any]]:
    assert response.ok, response.text
    blocks = [block for block in response.content.split(b"\n\n") if block.startswith(b"data: {")]
    return [json.loads(block[6:]) for block in blocks]


@pytest.fixture
def client(gateway: Gateway, simulator: Simulator) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-anything", max_retries=0) as client:
        yield client


def test_the_sdk_gets_a_whole_answer(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.knobs(say="Tea is ready.", think="hm")
    completion = client.completions.create(model="k1.5-thinking", prompt=f"hello {CANARY}")
    Completion.model_validate(completion.model_dump(), strict=True)
    choice = completion.choices[0]
    assert (choice.text, choice.finish_reason, choice.index) == ("Tea is ready.", "stop", 0)
    assert completion.usage is not None and completion.usage.completion_tokens_details is not None
    assert completion.usage.completion_tokens_details.reasoning_tokens
    assert completion._request_id


def test_the_sdk_streams(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.knobs(say="Tea is 好了.", think="not told", token_chars=2)
    stream = client.completions.create(model="k1.5-thinking", prompt=[f"hello {CANARY}"], stream=True)
    got = list(stream)
    assert "".join(chunk.choices[0].text for chunk in got) == "Tea is 好了."
    Completion.model_validate(got[-1].model_dump(exclude_unset=True), strict=True)
    assert [chunk.choices[0].finish_reason for chunk in got] == [None] * (len(got) - 1) + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in got}) == 1
    assert simulator.prompts() == [f"hello {CANARY}"]


def test_usage_comes_once_and_only_when_asked_for(gateway: Gateway, simulator: Simulator) -> None:
    response = complete(gateway, stream=True)
    assert not any("usage" in chunk for chunk in chunks(response))
    assert response.content.endswith(b"\n\ndata: [DONE]\n\n")
    got = chunks(complete(gateway, stream=True, stream_options={"include_usage": True}))
    assert [chunk["usage"] for chunk in got[:-1]] == [None] * (len(got) - 1)
    assert got[-1]["choices"] == [] and got[-1]["usage"]["completion_tokens"] > 0


def test_stops_and_max_tokens_end_the_answer(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="one two three four", token_chars=3)
    for stop in (" three", ["never", " three"]):
        choice = complete(gateway, stop=stop).json()["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == ("one two", "stop")
    simulator.knobs(say=None, tokens=200)
    body = complete(gateway, max_tokens=10).json()
    assert body["choices"][0]["finish_reason"] == "length" and body["usage"]["completion_tokens"] <= 10
    last = chunks(complete(gateway, max_tokens=10, stream=True))[-1]["choices"][0]
    assert (last["text"], last["finish_reason"]) == ("", "length")


def test_a_conversation_goes_on_behind_its_doors(gateway: Gateway, simulator: Simulator, name: str) -> None:
    body = {"model": gateway.model, "prompt": f"I like tea {CANARY}"}
    for path, more in (
        (f"/v1/conversations/{name}/completions", {}),
        (f"/conversations/{name}/completions", {}),
        ("/v1/completions", {"conversation_id": name}),
    ):
        assert gateway.post(path, json={**body, **more}).ok
    assert [chat["turns"] for chat in simulator.state()["chats"].values()] == [3]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("suffix", "the end"),
        ("echo", True),
        ("best_of", 2),
        ("logprobs", 0),
        ("logprobs", 5),
        ("logit_bias", {"50256": -100}),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    gateway: Gateway, simulator: Simulator, field: str, value: Any
) -> None:
    response = complete(gateway, **{field: value})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, field, "unsupported_parameter")
    assert not simulator.turns()


def test_what_asks_for_nothing_is_accepted(gateway: Gateway, simulator: Simulator) -> None:
    harmless = {"suffix": "", "echo": False, "best_of": 1, "logprobs": None, "logit_bias": {}, "n": 1, "stop": [""]}
    response = complete(gateway, **harmless)
    assert response.ok and "x-ignored-params" not in response.headers
    named = complete(gateway, temperature=0.1, seed=3, user="me", unknown_thing={"a": 1}).headers["x-ignored-params"]
    assert set(named.split(", ")) == {"temperature", "seed", "user", "unknown_thing"}


BAD_FIELDS: list[tuple[Any, ...]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": ["one", "two"]}, "prompt"),
    ({"prompt": [1, 2, 3]}, "prompt"),
    ({"prompt": [[1, 2], [3]]}, "prompt"),
    ({"prompt": {"text": "hi"}}, "prompt"),
    ({"prompt": [None]}, "prompt[0]"),
    ({"model": 3}, "model"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": "1"}, "top_p"),
    ({"presence_penalty": -3}, "presence_penalty"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": 7}, "stop"),
    ({"stream": 1}, "stream"),
    ({"stream_options": []}, "stream_options"),
    ({"n": 0}, "n"),
    ({"conversation_id": "a b"}, "conversation_id"),
]


def test_a_bad_field_is_named(gateway: Gateway, simulator: Simulator) -> None:
    def check(body: dict[str, Any], param: str) -> None:
        response = gateway.post("/v1/completions", json={"model": gateway.model, "prompt": "hi", **body})
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error"), error

    check_rows(BAD_FIELDS, check)
    assert not simulator.turns()


def test_a_failure_has_its_status_and_in_mid_stream_its_place(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator
) -> None:
    simulator.knobs(fail="overloaded")
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model="k2", prompt=CANARY)
    simulator.knobs(fail="drop", fail_after=2, say="one two three", token_chars=4)
    got = ""
    with pytest.raises(openai.APIError, match="broke off"):
        for chunk in client.completions.create(model="k2", prompt=CANARY, stream=True):
            got += chunk.choices[0].text
    assert got == "one two "
    assert complete(gateway, stream=True).content.endswith(b"}}\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize(("heartbeat_s", "at_least"), [("0.2", 3), ("30", 1)])
def test_a_silent_answer_gets_its_headers_at_once_and_heartbeats(
    shared_gateway: Share, simulator: Simulator, heartbeat_s: str, at_least: int
) -> None:
    gateway = shared_gateway(HEARTBEAT_S=heartbeat_s, COMMIT_AFTER_S="0.2")
    simulator.knobs(gate=f"late-{at_least}", gate_after=0)
    body = {"model": gateway.model, "prompt": CANARY, "stream": True}
    response = requests.post(f"{gateway.url}/v1/completions", json=body, stream=True, timeout=10)
    pieces = response.iter_content(None)
    assert [next(pieces) for _ in range(at_least)] == [b": keep-alive\n\n"] * at_least
    simulator.open_gate(f"late-{at_least}")
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/completions/", "/completions"])
def test_the_paths(gateway: Gateway, simulator: Simulator, path: str) -> None:
    assert gateway.post(path, json={"model": gateway.model, "prompt": CANARY}).ok
    refused = gateway.get(path)
    assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")

"""A request with several faults gets the same error in every dialect: the checks have one order."""

import itertools
from typing import Any

import pytest

from tests.running import Gateway

# A request of each dialect that nothing is wrong with, and a parameter in it that cannot be served.
DIALECTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "chat/completions": ({"messages": [{"role": "user", "content": "hello"}]}, {"logprobs": True}),
    "completions": ({"prompt": "hello"}, {"echo": True}),
    "responses": ({"input": "hello", "store": False}, {"background": True}),
    "messages": (
        {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9},
        {"thread": {"id": "thread_1"}},
    ),
}

# In the order in which they are found: what the error says.
FAULTS = {
    "idempotency key": "an Idempotency-Key is made of 1 to 255 printable ASCII characters",
    "type of a field": "stream: Input should be a valid boolean",
    "parameter": "Unsupported parameter: ",
    "conversation": "a conversation id is made of 1 to 128 of the characters",
    "model": "The model 'no-such-model' does not exist (model_not_found)",
    "text": "there is no text to send",
}


def post(gateway: Gateway, dialect: str, faults: tuple[str, ...]) -> tuple[int, str]:
    """Status and message of a request that has these faults."""
    body, refused = DIALECTS[dialect]
    body = {"model": "no-such-model" if "model" in faults else gateway.model, **body}
    if "type of a field" in faults:
        body["stream"] = "yes"
    if "parameter" in faults:
        body |= refused
    if "text" in faults:
        field = next(name for name in ("messages", "prompt", "input") if name in body)
        body[field] = [{"role": "user", "content": " "}] if field == "messages" else " "
    headers = {"Idempotency-Key": "x" * 256} if "idempotency key" in faults else {}
    prefix = "/v1/conversations/not%20an%20id" if "conversation" in faults else "/v1"
    response = gateway.post(f"{prefix}/{dialect}", json=body, headers=headers)
    return response.status_code, response.json()["error"]["message"]


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(FAULTS, 2)))
def test_of_two_faults_the_same_one_is_named_in_every_dialect(gateway: Gateway, first: str, second: str) -> None:
    status = 404 if first == "model" else 400
    for dialect in DIALECTS:
        found, message = post(gateway, dialect, (first, second))
        assert (found, FAULTS[first] in message) == (status, True), (dialect, message)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_alone_in_every_dialect(gateway: Gateway, fault: str) -> None:
    assert {FAULTS[fault] in post(gateway, dialect, (fault,))[1] for dialect in DIALECTS} == {True}


@pytest.mark.parametrize(
    ("dialect", "kind", "place", "part"),
    [
        ("chat/completions", "input_audio", "messages[0].content[1]", {"input_audio": {}}),
        ("chat/completions", "video_url", "messages[0].content[1]", {"video_url": {"url": "https://x.example"}}),
        ("responses", "input_audio", "input[0].content[1]", {}),
        ("messages", "container_upload", "messages[0].content[1]", {"file_id": "file-1"}),
    ],
)
def test_content_that_nobody_takes_is_refused_with_its_place_in_every_dialect(
    gateway: Gateway, dialect: str, kind: str, place: str, part: dict[str, Any]
) -> None:
    text = {"type": "input_text" if dialect == "responses" else "text", "text": "what is this?"}
    message = {"role": "user", "content": [text, {"type": kind, **part}]}
    body, _ = DIALECTS[dialect]
    body = {"model": gateway.model, **body, "input" if dialect == "responses" else "messages": [message]}
    response = gateway.post(f"/v1/{dialect}", json=body)
    assert response.status_code == 400
    expected = f"{place}: content of type '{kind}' is not supported: this model takes text, images, files"
    assert response.json()["error"]["message"] == expected

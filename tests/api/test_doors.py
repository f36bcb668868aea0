"""The three doors to a conversation lead to the same one: the path, the body, the base URL."""

from typing import Any

import openai
import pytest
import requests

from tests.running import CANARY, Gateway, Simulator


def _body(gateway: Gateway, text: str, **more: Any) -> dict[str, Any]:
    return {"model": gateway.model, "messages": [{"role": "user", "content": f"{text} {CANARY}"}], **more}


def test_every_door_leads_to_the_same_conversation(gateway: Gateway, simulator: Simulator, name: str) -> None:
    for path, more in (
        (f"/v1/chat/completions/{name}", {}),
        ("/v1/chat/completions", {"conversation_id": name}),
        (f"/v1/chat/completions/{name}", {"conversation_id": name}),
        (f"/v1/conversations/{name}/chat/completions", {}),
        (f"/conversations/{name}/chat/completions", {"stream": True}),
        (f"/v1/conversations/{name}/chat/completions/{name}", {"conversation_id": name}),
    ):
        assert gateway.post(path, json=_body(gateway, path, **more)).ok, path
    assert [chat["turns"] for chat in simulator.state()["chats"].values()] == [6]
    assert gateway.get(f"/v1/chat/completions/{name}").json()["turns"] == 6


def test_a_base_url_is_enough_for_an_unmodified_client(gateway: Gateway, simulator: Simulator, name: str) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1/conversations/{name}", api_key="any", max_retries=0)
    for text in ("one", "two"):
        client.chat.completions.create(
            model=gateway.model, messages=[{"role": "user", "content": f"{text} {CANARY}"}]
        )
    assert gateway.get(f"/v1/chat/completions/{name}").json()["turns"] == 2
    assert gateway.model in [model.id for model in client.models.list()]
    assert client.models.retrieve(gateway.model).id == gateway.model


@pytest.mark.parametrize(
    ("path", "in_body", "code"),
    [
        ("/v1/chat/completions/one", "two", "conversation_mismatch"),
        ("/v1/conversations/one/chat/completions", "two", "conversation_mismatch"),
        ("/v1/conversations/one/chat/completions/two", None, "conversation_mismatch"),
        ("/v1/chat/completions", "", "invalid_conversation_id"),
        ("/v1/chat/completions", "a b", "invalid_conversation_id"),
        ("/v1/conversations/a%20b/chat/completions", None, "invalid_conversation_id"),
        ("/v1/chat/completions", 7, None),
    ],
)
def test_doors_that_disagree_or_lead_nowhere_are_a_400(
    gateway: Gateway, simulator: Simulator, path: str, in_body: Any, code: str | None
) -> None:
    response = gateway.post(path, json=_body(gateway, "hi", conversation_id=in_body))
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "conversation_id", code)
    assert response.headers["x-should-retry"] == "false"
    assert not simulator.turns()


def test_two_conversations_in_one_path_are_refused_whatever_the_method(gateway: Gateway, name: str) -> None:
    """The one at the end of the path is not looked at, and not deleted, either."""
    one, two = f"{name[-90:]}-one", f"{name[-90:]}-two"
    assert gateway.say("hello", two).ok
    for method in ("POST", "GET", "DELETE"):
        for path in (f"/v1/conversations/{one}", f"/conversations/{one}/v1", f"/conversations/{one}"):
            body = {"model": gateway.model, "messages": [{"role": "user", "content": "x"}]}
            response = requests.request(method, f"{gateway.url}{path}/chat/completions/{two}", json=body, timeout=60)
            assert (response.status_code, response.json()["error"]["code"]) == (400, "conversation_mismatch")
    assert gateway.get(f"/v1/chat/completions/{two}").json()["turns"] == 1
    same = f"/v1/conversations/{two}/chat/completions/{two}"
    assert gateway.get(same).json()["id"] == two and gateway.delete(same).ok

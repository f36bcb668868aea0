"""An upstream and a public API are added by a folder and a line each (docs/adding.md)."""

from collections.abc import Iterator

import pytest
import requests

from tests.running import Gateway, Running, Simulator, wait_until


@pytest.fixture(scope="module")
def extended(running: Running, shared_simulator: Simulator) -> Iterator[Gateway]:
    """A gateway with the toy upstream and the toy public API."""
    with running.gateway(shared_simulator.url, server="toy", KIMI_PROTOCOL="auto") as gateway:
        yield gateway


def test_the_models_of_a_new_upstream_are_offered_beside_kimis(extended: Gateway) -> None:
    ids = [model["id"] for model in extended.get("/v1/models").json()["data"]]
    assert ids[-1] == "parrot-1" and {"k2", "kimi-k2.6"} < set(ids)
    assert extended.get("/v1/models/parrot-1").json()["name"] == "Parrot"


def test_a_new_upstream_answers_through_every_public_api(extended: Gateway) -> None:
    chat = {"model": "parrot-1", "messages": [{"role": "user", "content": "good day"}]}
    assert extended.chat(chat).json()["choices"][0]["message"]["content"] == "good day "
    answer = extended.post("/v1/messages", json={**chat, "max_tokens": 99}).json()
    assert answer["content"][0]["text"] == "good day "
    answer = extended.post("/v1/responses", json={"model": "parrot-1", "input": "good day"}).json()
    assert answer["output"][0]["content"][0]["text"] == "good day "
    answer = extended.post("/v1/completions", json={"model": "parrot-1", "prompt": "good day"}).json()
    assert answer["choices"][0]["text"] == "good day "


def test_an_upstream_gets_pictures_and_no_files_if_it_supports_no_more(extended: Gateway) -> None:
    text = {"type": "text", "text": "see"}
    picture = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlhAQABAAAAADs="}}
    file = {"type": "file", "file": {"file_data": "data:text/plain,hello"}}
    chat = {"model": "parrot-1", "messages": [{"role": "user", "content": [text, picture]}]}
    assert extended.chat(chat).json()["choices"][0]["message"]["content"] == "see <image/gif:14> "
    refused = extended.chat({**chat, "messages": [{"role": "user", "content": [text, file]}]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages[0].content[1]")


def test_a_new_upstream_holds_conversations_and_says_what_it_cannot_meet(extended: Gateway) -> None:
    turn = {"model": "parrot-1", "messages": [{"role": "user", "content": "once"}]}
    assert extended.chat(turn, "with-a-parrot").status_code == 200
    thinking = extended.chat({**turn, "enable_thinking": True}, "with-a-parrot")
    assert thinking.headers["x-kimi-notice"] == "thinking-unavailable"
    known = extended.get("/v1/chat/completions/with-a-parrot").json()
    assert (known["turns"], known["model"]) == (2, "parrot-1")
    other = extended.chat({**turn, "model": "k2"}, "with-a-parrot")
    assert other.json()["error"]["code"] == "model_not_in_conversation"


def test_a_new_public_api_serves_kimi_streams_and_stands_in_the_documentation(
    extended: Gateway, simulator: Simulator
) -> None:
    whole = extended.post("/v1/shout", json={"model": "k2", "say": "hello"})
    assert whole.status_code == 200 and whole.json()["shout"].isupper()
    stream = requests.post(
        f"{extended.url}/shout", json={"model": "parrot-1", "say": "hi all", "stream": True}, timeout=30
    )
    assert stream.text == "data: (shouts)\n\ndata: HI \n\ndata: ALL \n\ndata: (3 tokens)\n\n"
    assert "/v1/shout" in extended.get("/openapi.json").json()["paths"]


def test_a_new_public_api_passes_the_same_checks(extended: Gateway) -> None:
    assert extended.post("/v1/shout", json={"model": "k2"}).json()["error"]["param"] == "say"
    assert extended.post("/v1/shout", json={"model": "no", "say": "x"}).json()["error"]["code"] == "model_not_found"
    wrong = extended.post("/v1/conversations/a%20b/shout", json={"model": "k2", "say": "x"})
    assert wrong.json()["error"]["code"] == "invalid_conversation_id"


def test_the_log_names_the_new_upstream(extended: Gateway) -> None:
    extended.chat({"model": "parrot-1", "messages": [{"role": "user", "content": "logged"}]})
    wait_until("the turn is logged", lambda: "turn model=parrot-1 upstream=parrot" in extended.log())

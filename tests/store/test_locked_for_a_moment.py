"""What clients and owners do while SQLite is locked for a moment, as by a checkpoint, another worker, or a backup."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.running import CANARY, SHIPPED, Gateway, Share, Simulator, SqliteDatabase, wait_until
from tests.running.commands import run_command
from tests.running.console import signed_in

# How long the lock is held. Seconds; much longer than a checkpoint takes, much shorter than anybody waits.
_LOCKED_S = 0.3


@pytest.fixture
def gateway(shared_gateway: Share) -> Gateway:
    return shared_gateway(**SHIPPED, GATEWAY_API_KEYS="ann=key-of-ann-000")


def send(gateway: Gateway, path: str, method: str = "POST", **arguments: Any) -> requests.Response:
    headers = {"Authorization": "Bearer key-of-ann-000", **arguments.pop("headers", {})}
    response = requests.request(method, gateway.url + path, headers=headers, timeout=60, **arguments)
    assert response.ok, response.text
    return response


def chat(gateway: Gateway, conversation: str = "", idempotency_key: str = "", **more: Any) -> requests.Response:
    message = {"role": "user", "content": f"hello {CANARY}"}
    path = "/v1/chat/completions" + (f"/{conversation}" if conversation else "")
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    return send(gateway, path, json={"model": gateway.model, "messages": [message], **more}, headers=headers)


def respond(gateway: Gateway, **more: Any) -> str:
    """The id of a new response."""
    body = {"model": gateway.model, "input": f"hello {CANARY}", **more}
    return str(send(gateway, "/v1/responses", json=body).json()["id"])


def upload(gateway: Gateway) -> str:
    """The id of a new file."""
    file = {"file": ("note.txt", b"a note", "text/plain")}
    return str(send(gateway, "/v1/files", files=file, data={"purpose": "user_data"}).json()["id"])


# What is done before the lock is held, and returns what is done while it is.
Act = Callable[[Gateway, Simulator, str], Callable[[], object]]


def _new_conversation(gateway: Gateway, _simulator: Simulator, name: str) -> Callable[[], object]:
    return lambda: chat(gateway, name)


def _next_turn(gateway: Gateway, simulator: Simulator, name: str) -> Callable[[], object]:
    chat(gateway, name)

    def act() -> None:
        chat(gateway, name)
        first, second = simulator.turns()
        assert first.chat == second.chat

    return act


def _next_response(gateway: Gateway, simulator: Simulator, _name: str) -> Callable[[], object]:
    before = respond(gateway)

    def act() -> None:
        respond(gateway, previous_response_id=before)
        first, second = simulator.turns()
        assert first.chat == second.chat

    return act


def _next_of_a_history(gateway: Gateway, simulator: Simulator, _name: str) -> Callable[[], object]:
    gateway.tables.forget_open_chats()
    said = chat(gateway).json()["choices"][0]["message"]["content"]
    question = {"role": "user", "content": f"hello {CANARY}"}
    history = [question, {"role": "assistant", "content": said}, {**question, "content": f"and then? {CANARY}"}]

    def act() -> None:
        again = chat(gateway, messages=history)
        first, second = simulator.turns()
        assert first.chat == second.chat and again.headers["x-conversation"] == "continued"

    return act


def _repetition(gateway: Gateway, simulator: Simulator, name: str) -> Callable[[], object]:
    def once() -> str:
        return str(chat(gateway, idempotency_key=name).json()["id"])

    before = once()

    def act() -> None:
        assert once() == before
        assert len(simulator.turns()) == 1

    return act


def _deleted_conversation(gateway: Gateway, _simulator: Simulator, name: str) -> Callable[[], object]:
    chat(gateway, name)
    return lambda: send(gateway, f"/v1/chat/completions/{name}", "DELETE")


def _deleted_file(gateway: Gateway, _simulator: Simulator, _name: str) -> Callable[[], object]:
    before = upload(gateway)
    return lambda: send(gateway, f"/v1/files/{before}", "DELETE")


def _key(gateway: Gateway, _simulator: Simulator, _name: str) -> Callable[[], object]:
    def act() -> None:
        for arguments in (("add", "bob"), ("revoke", "bob")):
            code, output = run_command(gateway.database, "keys", *arguments)
            assert code == 0, output

    return act


def _console(gateway: Gateway, _simulator: Simulator, _name: str) -> Callable[[], object]:
    browser = signed_in(gateway)

    def act() -> None:
        assert browser.post("/appearance", {"language": "en", "theme": "dark"}).status_code == 200
        assert browser.post("/keys", {"name": "from-the-console"}).status_code == 200
        assert browser.post("/keys/from-the-console/revoke").status_code == 200
        assert browser.post("/access/sign-out-others").status_code == 200
        for path in ("/", "/accounts", "/keys", "/requests", "/conversations", "/health"):
            assert browser.get(path).status_code == 200
        assert browser.post("/access/sign-out").status_code == 200

    return act


def _sign_in(gateway: Gateway, _simulator: Simulator, _name: str) -> Callable[[], object]:
    return lambda: signed_in(gateway)


ACTS: dict[str, Act] = {
    "a question": lambda gateway, *_: lambda: chat(gateway),
    "a stream": lambda gateway, *_: lambda: chat(gateway, stream=True),
    "a new conversation": _new_conversation,
    "the next turn": _next_turn,
    "the next response": _next_response,
    "the next turn of a history": _next_of_a_history,
    "a repetition": _repetition,
    "a conversation that is deleted": _deleted_conversation,
    "a file": lambda gateway, *_: lambda: upload(gateway),
    "a file that is deleted": _deleted_file,
    "whether it is ready": lambda gateway, *_: lambda: send(gateway, "/readyz", "GET"),
    "models": lambda gateway, *_: lambda: send(gateway, "/v1/models", "GET"),
    "a key": _key,
    "a sign-in": _sign_in,
    "the console": _console,
}


@pytest.mark.parametrize("act", ACTS.values(), ids=[*ACTS])
def test_nobody_notices(act: Act, gateway: Gateway, simulator: Simulator, name: str) -> None:
    doing = act(gateway, simulator, name)
    wait_until("the turn before has ended", gateway.tables.nothing_runs_or_waits)
    before = len(gateway.log())
    assert isinstance(gateway.database, SqliteDatabase)
    with ThreadPoolExecutor(1) as pool:
        with gateway.database.while_nobody_writes():
            done = pool.submit(doing)
            threading.Event().wait(_LOCKED_S)
        done.result()
    wait_until("its lease is released", gateway.tables.nothing_runs_or_waits)
    log = gateway.log()[before:]
    assert " WARNING " not in log and " ERROR " not in log, log

"""The database and the .env of commit cf81da5, opened by this gateway: nothing that they promised is lost.

``tests/data/cf81da5`` holds what a gateway of that commit left behind when it was stopped; its README says how it was
made. Each test takes one promise; all of them use one gateway per kind of database, so each touches rows of its own.
"""

import json
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from dotenv import dotenv_values

from tests.running import CANARY, Database, Gateway, PostgresDatabase, Running, Simulator, SqliteDatabase
from tests.running.commands import run_flask
from tests.running.tables import Tables

DATA = Path(__file__).parents[1] / "data/cf81da5"
KINDS = ("sqlite", "postgresql")

# How long before the test the old gateway is said to have stopped: its chats to delete are due after a minute.
_STOPPED_AGO_S = 120.0
# The user's two messages in every old conversation.
_SAID = ("My number is 7461.", "And my colour is green.")


@dataclass
class Upgraded:
    """This gateway on an old database. ``left``: what the old one and its Kimi left behind, see ``left.json``."""

    gateway: Gateway
    simulator: Simulator
    left: dict[str, Any]
    desk_key: str

    def post(self, path: str, body: dict[str, Any], key: str = "", **headers: str) -> requests.Response:
        """``key``: the old settings' own key unless another one is given."""
        return self.gateway.post(
            path, json=body, headers={"Authorization": f"Bearer {key or self.desk_key}", **headers}
        )

    def say(
        self, model: str, text: str, conversation: str | None = None, key: str = "", **headers: str
    ) -> requests.Response:
        path = "/v1/chat/completions" + (f"/{conversation}" if conversation else "")
        body = {"model": model, "messages": [{"role": "user", "content": f"{text} {CANARY}"}]}
        return self.post(path, body, key, **headers)

    def turns(self, text: str) -> list[dict[str, Any]]:
        """What Kimi was asked since the upgrade, and in which chat: the questions that contain ``text``."""
        turns: list[dict[str, Any]] = self.simulator.control("GET", "turns")
        return [turn for turn in turns if text in turn["text"]]

    def conversation(self, name: str) -> dict[str, Any]:
        (found,) = (row for row in self.left["conversations"] if row["id"] == name)
        return dict(found)


@pytest.fixture(scope="module", params=KINDS)
def upgraded(
    request: pytest.FixtureRequest, running: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upgraded]:
    left = json.loads((DATA / "left.json").read_text())[request.param]
    database = old_database(running, request.param, tmp_path_factory.mktemp("upgrade"))
    as_if_stopped_just_now(database, left["stopped_at"])
    settings = old_settings()
    with running.simulator() as simulator:
        spend_first_refresh_tokens(simulator, settings)
        kept = [chat for chat in left["chats"] if chat["id"] not in chats_to_lose(left)]
        simulator.control("POST", "chats", json={"chats": kept})
        # Whatever is offered beside our own models comes from the old database.
        simulator.script(b"", match="GetAvailableModels", status=503, times=1000)
        with running.gateway(simulator.url, database=database, **settings) as gateway:
            yield Upgraded(gateway, simulator, left, settings["GATEWAY_API_KEYS"].partition("=")[2])


def old_database(running: Running, kind: str, folder: Path) -> Database:
    """A copy of the old database."""
    if kind == "sqlite":
        file = SqliteDatabase(folder / "gateway.db")
        shutil.copy(DATA / "gateway.db", file)
        file.path.chmod(0o600)
        return file
    database = PostgresDatabase.create(running.postgres, f"upgrade_{secrets.token_hex(4)}")
    database.run((DATA / "gateway.sql").read_text())
    return database


def old_settings() -> dict[str, str]:
    """The old .env, but for the addresses that every test has its own of."""
    values = dotenv_values(DATA / "dotenv")
    others = ("DATABASE_URL", "KIMI_BASE_URL", "KIMI_AUTH_URL")
    return {name: value for name, value in values.items() if value is not None and name not in others}


def as_if_stopped_just_now(database: Database, stopped_at: float) -> None:
    """Moves the three times of the old tables that a day brings to nothing: what was kept a minute before the stop
    is a minute older than the stop again, however many years ago that was. Nothing else is changed."""
    Tables(database).make_times_later(time.time() - _STOPPED_AGO_S - stopped_at)


def spend_first_refresh_tokens(simulator: Simulator, settings: dict[str, str]) -> None:
    """The refresh tokens of the .env are worth nothing any more: the old gateway has used them."""
    for entry in settings["KIMI_TOKENS"].split(",")[:2]:
        token = entry.partition("=")[2]
        refresh = f"{simulator.url}/api/auth/token/refresh"
        assert requests.get(refresh, headers={"Authorization": f"Bearer {token}"}, timeout=30).ok


def chats_to_lose(left: dict[str, Any]) -> list[str]:
    """Those that Kimi knows no more when the new gateway asks."""
    return [row["chat_id"] for row in left["conversations"] if row["id"].startswith("lost-")]


def flask(database: Database, *arguments: str, **settings: str) -> str:
    """What a command prints that is run with the old settings on this database."""
    done = run_flask(*arguments, **{**old_settings(), "DATABASE_URL": database.url, **settings})
    assert done.code == 0, done
    return done.output


@pytest.mark.parametrize("name", ["talk-sse", "talk-connect"])
def test_a_conversation_goes_on_in_its_chat_with_its_account(upgraded: Upgraded, name: str) -> None:
    old = upgraded.conversation(name)
    response = upgraded.say(old["model"], f"three of {name}", name)
    assert response.ok and "x-conversation-rebuilt" not in response.headers
    (turn,) = upgraded.turns(f"three of {name}")
    assert (turn["chat"], turn["account"]) == (old["chat_id"], old["account"])
    # Only what is new is said in it.
    assert turn["text"] == f"three of {name} {CANARY}"
    if old["message_id"] is not None:
        # The answer that the turn goes on from is the last one that the old gateway got.
        frame = upgraded.simulator.requests("ChatService/Chat")[-1]["frames"][0]
        assert frame["message"]["parent_id"] == old["message_id"]
    path = f"/v1/chat/completions/{name}"
    told = upgraded.gateway.get(path, headers={"Authorization": f"Bearer {upgraded.desk_key}"}).json()
    assert (told["turns"], told["model"]) == (3, old["model"])


def test_a_response_goes_on_from_an_old_one(upgraded: Upgraded) -> None:
    previous = upgraded.left["previous_response_id"]
    (old,) = (row for row in upgraded.left["conversations"] if row["id"] in previous)
    body = {"model": "k2", "input": f"three of a response {CANARY}", "previous_response_id": previous}
    assert upgraded.post("/v1/responses", body).ok
    (turn,) = upgraded.turns("three of a response")
    assert (turn["chat"], turn["account"]) == (old["chat_id"], old["account"])


@pytest.mark.parametrize("name", ["lost-sse", "lost-connect"])
def test_a_lost_chat_is_rebuilt_from_the_old_transcript(upgraded: Upgraded, name: str) -> None:
    old = upgraded.conversation(name)
    response = upgraded.say(old["model"], f"three of {name}", name)
    assert response.ok and response.headers["x-conversation-rebuilt"] == "transcript"
    (turn,) = upgraded.turns(f"three of {name}")
    assert turn["chat"] != old["chat_id"]
    # Both turns with their answers, which quote them, and then what is new.
    places = [turn["text"].index(text) for text in (*_SAID, f"three of {name}")]
    assert places == sorted(places)
    assert [turn["text"].count(text) for text in _SAID] == [2, 2]


def test_tokens_are_renewed_from_the_old_pair(upgraded: Upgraded) -> None:
    """The access tokens in the database have expired, and the refresh tokens of the .env are spent."""
    for user in ("alice", "bob"):
        # The first one was the test's own.
        upgraded.simulator.wait(f"accounts.{user}.refreshes", at_least=2)
    accounts = upgraded.simulator.state()["accounts"]
    assert [accounts[user]["stale_refreshes"] for user in ("alice", "bob")] == [0, 0]
    assert upgraded.gateway.get("/readyz").json()["status"] == "ready"


def test_the_added_key_works_with_its_limits_and_its_conversation(upgraded: Upgraded) -> None:
    key, old = upgraded.left["keys"]["laptop"], upgraded.conversation("talk-laptop")
    response = upgraded.say("k2", "three of the laptop", "talk-laptop", key)
    assert response.ok and response.headers["x-ratelimit-limit-requests"] == "600"
    (turn,) = upgraded.turns("three of the laptop")
    assert (turn["chat"], turn["account"]) == (old["chat_id"], old["account"])
    # It is nobody else's.
    path = "/v1/chat/completions/talk-laptop"
    headers = {"Authorization": f"Bearer {upgraded.desk_key}"}
    assert upgraded.gateway.get(path, headers=headers).status_code == 404


def test_the_revoked_key_stays_revoked(upgraded: Upgraded) -> None:
    response = upgraded.say("k2", "hello", key=upgraded.left["keys"]["phone"])
    assert response.status_code == 401 and "'phone' was revoked" in response.json()["error"]["message"]


def test_a_kept_answer_is_given_again(upgraded: Upgraded) -> None:
    response = upgraded.say("k2", "How is the weather?", **{"Idempotency-Key": "kept-answer"})
    assert response.ok, response.text
    answer, old = response.json(), upgraded.left["kept_answer"]
    assert (answer["id"], answer["model"], answer["usage"]) == (old["id"], old["model"], old["usage"])
    (choice,) = answer["choices"]
    link = "[1](https://site1.example/page)"
    assert choice["message"]["content"] == f"It rains{link}. {CANARY}"
    assert choice["message"]["reasoning_content"] == f"The sky is grey. {CANARY}"
    (annotation,) = choice["message"]["annotations"]
    place = (annotation["url_citation"]["start_index"], annotation["url_citation"]["end_index"])
    assert place == (len("It rains"), len(f"It rains{link}")) and choice["finish_reason"] == "stop"
    assert upgraded.turns("How is the weather?") == []


@pytest.mark.parametrize("number", [0, 1])
def test_a_kept_failure_is_told_again(upgraded: Upgraded, number: int) -> None:
    old = upgraded.left["kept_failures"][number]
    response = upgraded.say("k2", "Is it over?", old["conversation"], **{"Idempotency-Key": old["key"]})
    told, before = response.json()["error"], old["body"]["error"]
    assert response.status_code == old["status"] and told | {"message": ""} == before | {"message": ""}
    # Since then the message says when to try again.
    wait_s = old["retry_after"]
    says = before["message"].replace("try again later", f"try again in {wait_s} seconds") if wait_s else ""
    assert told["message"] == (says or before["message"])
    assert response.headers.get("Retry-After") == wait_s
    assert response.headers["x-should-retry"] == "false"
    assert upgraded.turns("Is it over?") == []


def test_chats_that_were_to_be_deleted_are_deleted(upgraded: Upgraded) -> None:
    of_conversations = {row["chat_id"] for row in upgraded.left["conversations"]}
    pending = [chat["id"] for chat in upgraded.left["chats"] if chat["id"] not in of_conversations]
    assert len(pending) == 2
    for chat_id in pending:
        upgraded.simulator.wait(f"chats.{chat_id}.deleted", equals=True)
    # Whatever a conversation needs is there.
    chats = upgraded.simulator.state()["chats"]
    assert not any(chats[chat_id]["deleted"] for chat_id in of_conversations & set(chats))


def test_an_account_in_cooldown_stays_in_it(upgraded: Upgraded) -> None:
    for _ in range(4):
        assert upgraded.say("k2", "Who serves?").ok
    # Its turn is longest ago, so it would be the first.
    assert {turn["account"] for turn in upgraded.turns("Who serves?")} == {"alice", "bob"}


def test_models_of_the_old_catalogue_are_offered(upgraded: Upgraded) -> None:
    headers = {"Authorization": f"Bearer {upgraded.desk_key}"}
    models = [model["id"] for model in upgraded.gateway.get("/v1/models", headers=headers).json()["data"]]
    assert "k2d6-agent" in models and "k2d6-agent-ultra" in models


def test_the_doctor_knows_the_old_settings_and_what_was_counted(upgraded: Upgraded) -> None:
    url = upgraded.simulator.url
    report = json.loads(flask(upgraded.gateway.database, "doctor", "--json", KIMI_BASE_URL=url, KIMI_AUTH_URL=url))
    told = {
        check: [f for f in report["findings"] if f["check"] == check] for check in ("settings", "store", "unknown")
    }
    assert [f["mark"] for f in told["settings"] + told["store"]] == ["ok", "ok"]
    assert "encrypted with GATEWAY_SECRET" in told["store"][0]["found"]
    # Frames of both protocols.
    for kind in ("event zone_set", "mask block.canvas"):
        assert any(f"'{kind}', 1 times" in f["found"] for f in told["unknown"]), told["unknown"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_migration_loses_nothing(running: Running, tmp_path: Path, kind: str) -> None:
    """Every row of the old database is part of a row of the new one, whatever that and its table are called.

    A command migrates the database as a gateway does, and changes nothing else in it.
    """
    database = old_database(running, kind, tmp_path)
    before = rows_of(database)
    keys = flask(database, "keys", "list")
    after = rows_of(database)
    assert [row for row in before if not any(row <= other for other in after)] == []
    assert re.search(r"^laptop +added .* 600 a minute, 20 at once$", keys, re.MULTILINE)
    assert re.search(r"^phone +revoked ", keys, re.MULTILINE)
    # The old database is what its README says.
    assert len(before) == 59


def rows_of(database: Database) -> list[Counter[object]]:
    """The values of each row of each table, without those that say nothing."""
    return [Counter(value for value in row if value) for row in database.rows()]

"""Conversations that outlive their Kimi chat, their account, and their gateway's memory."""

import os
import signal
from typing import Any

import pytest
import requests

from tests.running import (
    BOTH_DATABASES,
    CANARY,
    EACH_GENERATION,
    ON_POSTGRESQL,
    Gateway,
    Profile,
    Running,
    Share,
    Simulator,
    mint,
    read_stream,
    wait_until,
)
from tests.running.databases import SqliteDatabase
from tests.running.wire import say_in_turn

SECRET = "a secret of twelve or more"


def talk(gateway: Gateway, conversation: str, *said: str, **body: Any) -> requests.Response:
    """Sends a history: user and assistant messages by turns."""
    messages = [
        {"role": "assistant" if number % 2 else "user", "content": f"{text} {CANARY}"}
        for number, text in enumerate(said)
    ]
    path = f"/v1/chat/completions/{conversation}"
    return requests.post(
        gateway.url + path,
        json={"model": gateway.model, "messages": messages, **body},
        stream=bool(body.get("stream")),
        timeout=60,
    )


def turns(gateway: Gateway, name: str) -> int:
    return int(gateway.get(f"/v1/chat/completions/{name}").json()["turns"])


@EACH_GENERATION
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_lost_chat_is_replaced_from_the_history_that_the_client_sends(
    quick: Gateway, simulator: Simulator, name: str, stream: bool
) -> None:
    assert talk(quick, name, "one").ok
    simulator.reset()
    response = talk(quick, name, "one", "first answer", "two", stream=stream)
    assert response.ok and response.headers["x-conversation-rebuilt"] == "history"
    if stream:
        assert read_stream(response).finish_reason == "stop"
    # All of it was said in the new chat, which is the conversation's from now on.
    lost, new = simulator.turns()
    assert all(text in new.text for text in ("one", "first answer", "two"))
    response = talk(quick, name, "three")
    assert response.ok and "x-conversation-rebuilt" not in response.headers
    last = simulator.turns()[-1]
    assert (last.chat, last.account) == (new.chat, new.account) and last.text == f"three {CANARY}"
    assert turns(quick, name) == 3 and lost.chat != new.chat


def test_a_lost_chat_in_which_nothing_was_answered_needs_no_history(
    patient: Gateway, simulator: Simulator, name: str
) -> None:
    simulator.knobs(gate="leave", gate_after=1)
    with talk(patient, name, "one", stream=True):
        simulator.wait("gate:leave", at_least=1)
    simulator.wait("open_streams", equals=0)
    wait_until("it is free", lambda: not patient.get(f"/v1/chat/completions/{name}").json()["busy"])
    simulator.reset()
    response = talk(patient, name, "one")
    assert response.ok and response.headers["x-conversation-rebuilt"] == "request"


@ON_POSTGRESQL
def test_a_conversation_whose_account_is_gone_goes_on_with_another(
    running: Running, simulator: Simulator, database: str
) -> None:
    both = f"alice={mint('alice')},bob={mint('bob')}"
    with running.gateway(simulator.url, KIMI_TOKENS=both) as gateway:
        assert gateway.say("one", "talk").ok
        owner = simulator.turns()[0].account
        kept = gateway.database
    other = {"alice": "bob", "bob": "alice"}[owner]
    with running.gateway(simulator.url, KIMI_TOKENS=f"{other}={mint(other)}", database=kept) as gateway:
        response = gateway.say("two", "talk")
        assert (response.status_code, response.json()["error"]["code"]) == (409, "conversation_lost")
        assert "add it again" in response.json()["error"]["message"]
        assert response.headers["x-should-retry"] == "false"
        response = talk(gateway, "talk", "one", "answer", "two")
        assert response.ok and response.headers["x-conversation-rebuilt"] == "history"
        assert gateway.say("three", "talk").ok
    assert [turn.account for turn in simulator.turns()] == [owner, other, other]
    assert simulator.state()["deleted_chats"] == 0
    with running.gateway(simulator.url, KIMI_TOKENS=both, database=kept) as gateway:
        # The account is back: its chat, which nobody continues, does not stay in its list.
        wait_until(
            "it is deleted", lambda: [c["deleted"] for c in simulator.state()["chats"].values()] == [True, False]
        )


def test_a_conversation_goes_on_elsewhere_when_its_account_is_refused(
    gateway: Gateway, simulator: Simulator, name: str
) -> None:
    assert gateway.say("one", name).ok
    owner = simulator.turns()[0].account
    simulator.knobs(fail="token_invalid", fail_for=owner)
    # Without its history there is nothing to go on with, and the status says what to do.
    response = gateway.say("two", name)
    assert response.status_code == 503 and "accounts add" in response.json()["error"]["message"]
    response = talk(gateway, name, "one", "answer", "two")
    assert response.ok and response.headers["x-conversation-rebuilt"] == "history"
    assert simulator.turns()[-1].account != owner


def test_a_limited_account_keeps_its_conversations(quick: Gateway, simulator: Simulator, name: str) -> None:
    """A limit passes; the conversation is not torn away from its account for it."""
    assert talk(quick, name, "one").ok
    owner = simulator.turns()[0].account
    simulator.knobs(fail="http_429", fail_at="turn", fail_for=owner, retry_after="30")
    response = talk(quick, name, "one", "answer", "two")
    assert response.status_code == 429 and int(response.headers["Retry-After"]) >= 30
    simulator.knobs(fail="")
    quick.tables.forget_what_accounts_did()
    assert talk(quick, name, "one", "answer", "two").ok
    assert {turn.account for turn in simulator.turns()} == {owner}
    assert len({turn.chat for turn in simulator.turns()}) == 1


def test_a_short_limit_is_waited_out_in_the_same_chat(gateway: Gateway, simulator: Simulator, name: str) -> None:
    assert gateway.say("one", name).ok
    simulator.knobs(fail="http_429", fail_at="turn", fail_times=1, retry_after="1")
    assert gateway.say("two", name).ok
    assert len({(turn.chat, turn.account) for turn in simulator.turns()}) == 1


def test_a_rebuilt_turn_that_fails_leaves_the_conversation_as_it_was(
    quick: Gateway, simulator: Simulator, name: str
) -> None:
    assert talk(quick, name, "one").ok
    simulator.reset()
    simulator.knobs(fail="drop", fail_after=1, say="one two three", token_chars=4)
    assert talk(quick, name, "one", "answer", "two").status_code == 502
    assert turns(quick, name) == 1
    wait_until("the new chat is deleted", lambda: simulator.state()["deleted_chats"] == 1)
    simulator.knobs(fail="", fail_after=None)
    response = talk(quick, name, "one", "answer", "two")
    assert response.ok and response.headers["x-conversation-rebuilt"] == "history"
    assert turns(quick, name) == 2


@pytest.fixture
def transcribing(shared_gateway: Share) -> Gateway:
    return shared_gateway(STORE_TRANSCRIPTS="1", GATEWAY_SECRET=SECRET)


@BOTH_DATABASES
def test_transcripts_rebuild_a_conversation_that_sends_no_history(
    transcribing: Gateway, simulator: Simulator, database: str, name: str
) -> None:
    simulator.knobs(say="Kimi's words")
    gateway = transcribing
    instructions = {"role": "system", "content": f"be brief {CANARY}"}
    first = [instructions, {"role": "user", "content": f"one {CANARY}"}]
    assert gateway.say("one", name, messages=first).ok and gateway.say("two", name, stream=True).text
    simulator.reset()
    response = gateway.say("three", name)
    assert response.ok and response.headers["x-conversation-rebuilt"] == "transcript"
    text = simulator.turns()[-1].text
    places = [text.index(f"{words} {CANARY}") for words in ("be brief", "one", "two", "three")]
    assert places == sorted(places)
    assert text.count("Kimi's words") == 2
    assert b"Kimi's words" not in gateway.database.content()
    # What is forgotten is forgotten.
    assert gateway.tables.transcript_lines(name) > 0
    assert gateway.delete(f"/v1/chat/completions/{name}").ok
    assert gateway.tables.transcript_lines(name) == 0


def test_an_answer_that_was_mended_is_in_the_transcript_with_what_was_wrong(
    transcribing: Gateway, simulator: Simulator, name: str
) -> None:
    say_in_turn(simulator, "no JSON at all", '{"a": 1}')
    assert transcribing.say("an object, please", name, response_format={"type": "json_object"}).ok
    simulator.reset()
    assert transcribing.say("and now?", name).ok
    text = simulator.prompts()[-1]
    said = ("an object, please", "no JSON at all", "could not be used", '{"a": 1}', "and now?")
    places = [text.index(words) for words in said]
    assert places == sorted(places)


def test_transcripts_are_not_kept_unasked(gateway: Gateway, simulator: Simulator, name: str) -> None:
    assert gateway.say("one", name).ok
    assert gateway.tables.transcript_lines(name) == 0


def test_transcripts_are_never_kept_unsealed(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, STORE_TRANSCRIPTS="1") as gateway:
        wait_until("it does not start", lambda: not gateway.process.runs)
        assert "STORE_TRANSCRIPTS=1 stores messages, which are encrypted with GATEWAY_SECRET" in gateway.log()


def test_a_key_may_have_so_many_conversations(running: Running, simulator: Simulator) -> None:
    with running.gateway(
        simulator.url, MAX_CONVERSATIONS="2", GATEWAY_API_KEYS="first-key,second-key", WEB_CONCURRENCY="2"
    ) as gateway:

        def say(name: str, key: str = "first-key") -> requests.Response:
            return gateway.post(
                f"/v1/chat/completions/{name}",
                json={"model": "k2", "messages": [{"role": "user", "content": CANARY}]},
                headers={"x-api-key": key, "Connection": "close"},
            )

        assert [say(name).status_code for name in ("a", "b", "a", "c")] == [200, 200, 200, 429]
        error = say("c").json()["error"]
        assert error["code"] == "conversation_limit" and "MAX_CONVERSATIONS" in error["message"]
        assert say("c", "second-key").ok
        assert gateway.delete("/v1/chat/completions/a", headers={"x-api-key": "first-key"}).ok
        assert say("c").ok


def test_old_conversations_are_forgotten_with_their_chats(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        assert gateway.say("one", "old").ok and gateway.say("one", "young").ok
        gateway.tables.let_conversation_age("old", 90_000)
        kept = gateway.database
    with running.gateway(simulator.url, database=kept, CONVERSATION_MAX_AGE_DAYS="1") as gateway:
        wait_until("the old one is gone", lambda: gateway.get("/v1/chat/completions/old").status_code == 404)
        simulator.wait("deleted_chats", equals=1)
        assert gateway.say("two", "young").ok
    assert [chat["deleted"] for chat in simulator.state()["chats"].values()].count(False) == 1


def test_a_turn_that_was_taken_over_is_no_part_of_the_transcript(running: Running, simulator: Simulator) -> None:
    """Its process was frozen for longer than it was believed to live."""
    settings: dict[str, Any] = {
        "KIMI_TOKENS": f"{mint('alice')},{mint('bob')}",
        "STORE_TRANSCRIPTS": "1",
        "GATEWAY_SECRET": SECRET,
        "LEASE_S": "1",
        "CONVERSATION_WAIT_S": "20",
    }
    simulator.knobs(slot_scope="none", say="first answer", token_chars=40)
    with (
        running.gateway(simulator.url, **settings) as frozen,
        running.gateway(simulator.url, database=frozen.database, **settings) as other,
    ):
        assert frozen.say("first question", "c").ok
        simulator.knobs(gate="ice", gate_after=1, say="frozen answer")
        with frozen.say("frozen question", "c", stream=True) as response:
            simulator.wait("gate_waiting:ice", equals=1)
            workers = frozen.process.children()
            assert isinstance(frozen.database, SqliteDatabase)
            with frozen.database.while_nobody_writes():
                for pid in workers:
                    os.kill(pid, signal.SIGSTOP)
            try:
                simulator.knobs(gate="", say="good answer")
                assert other.say("good question", "c").ok
                simulator.open_gate("ice")
            finally:
                for pid in workers:
                    os.kill(pid, signal.SIGCONT)
            answer = read_stream(response)
            assert answer.error is not None and answer.error["code"] == "conversation_taken"
        simulator.reset()
        response = other.say("third question", "c")
        assert response.ok and response.headers["x-conversation-rebuilt"] == "transcript"
    text = simulator.turns()[-1].text
    said = ("first question", "first answer", "good question", "good answer", "third question")
    assert all(text.count(words) == 1 for words in said) and "frozen" not in text


def test_a_chat_that_replaces_a_lost_one_is_never_noted_for_deletion_once_it_counts(
    running: Running, simulator: Simulator
) -> None:
    """Kimi keeps the stream open behind the answer: its client has it, and the gateway may be stopped."""
    with running.gateway(simulator.url) as gateway:
        assert talk(gateway, "kept", "one").ok
        simulator.reset()
        simulator.knobs(end="stall")
        with talk(gateway, "kept", "one", "first answer", "two", stream=True) as response:
            lines = response.iter_lines()
            assert b"data: [DONE]" in lines
            noted = gateway.tables.conversations_whose_chat_is_to_be_deleted()
        assert noted == 0


def test_a_note_that_cannot_be_made_keeps_no_account(running: Running, simulator: Simulator) -> None:
    settings: dict[str, Any] = {"KIMI_TOKENS": mint("alice"), "ACCOUNT_MAX_STREAMS": "1", "QUEUE_WAIT_S": "1"}
    with running.gateway(simulator.url, **settings) as gateway:
        gateway.wait_for_workers()
        gateway.tables.forbid_notes_of_chats()
        simulator.knobs(fail="too_long")
        response = gateway.say("one", "unlucky")
        assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"
        wait_until("the chat is deleted", lambda: all(c["deleted"] for c in simulator.state()["chats"].values()))
        gateway.tables.allow_notes_of_chats()
        simulator.knobs(fail="")
        assert gateway.say("two", "unlucky").ok


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
def test_a_chat_that_can_be_neither_noted_nor_deleted_is_deleted_later(
    running: Running, simulator: Simulator, profile: Profile
) -> None:
    with running.gateway(simulator.url, users="alice", LEASE_S="1") as gateway:
        gateway.wait_for_workers()
        gateway.tables.forbid_notes_of_chats()
        simulator.knobs(fail="overloaded", fail_after=2, say="one two three", token_chars=4)
        simulator.script(b"{}", match="DeleteChat", status=503, framing="length")
        assert not gateway.say("one", "unlucky").ok
        wait_until("its deletion fails", lambda: "deletion_not_noted " in gateway.log())
        assert not any(chat["deleted"] for chat in simulator.state()["chats"].values())
        gateway.tables.allow_notes_of_chats()
        wait_until("it is noted", gateway.tables.chats_to_delete)
        # As if the time that an answer may take had passed.
        gateway.tables.let_deletions_be_due()
        gateway.kill()
        database = gateway.database
    with running.gateway(simulator.url, users="alice", database=database):
        simulator.wait("deleted_chats", equals=1)


def test_a_conversation_is_not_forgotten_before_its_chat_is_noted(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        assert gateway.say("one", "kept").ok
        gateway.tables.forbid_notes_of_chats()
        refused = gateway.delete("/v1/chat/completions/kept")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
        assert turns(gateway, "kept") == 1
        gateway.tables.allow_notes_of_chats()
        assert gateway.delete("/v1/chat/completions/kept").json()["deleted"] is True
        assert gateway.get("/v1/chat/completions/kept").status_code == 404
        wait_until("so is its chat", lambda: all(c["deleted"] for c in simulator.state()["chats"].values()))


def test_a_transcript_of_another_secret_is_none(running: Running, simulator: Simulator) -> None:
    """Access tokens are not kept, so that nothing tells of a changed secret at the start."""
    kept: dict[str, Any] = {"STORE_TRANSCRIPTS": "1", "GATEWAY_SECRET": SECRET}
    changed: dict[str, Any] = {"STORE_TRANSCRIPTS": "1", "GATEWAY_SECRET": "another secret, as long"}
    with running.gateway(simulator.url, **kept) as gateway:
        for name in ("changed", "removed"):
            assert gateway.say("one", name).ok
        database = gateway.database
    simulator.reset()
    for name, settings in (("changed", changed), ("removed", {})):
        with running.gateway(simulator.url, database=database, **settings) as gateway:
            response = gateway.say("two", name)
            assert (response.status_code, response.json()["error"]["code"]) == (409, "conversation_lost")
            assert gateway.log().count("transcript_unreadable") == 1 and "Traceback" not in gateway.log()
            response = talk(gateway, name, "one", "first answer", "two")
            assert response.ok and response.headers["x-conversation-rebuilt"] == "history"

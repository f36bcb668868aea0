"""Conversations that Kimi holds: the same chat, the same account, only what is new; through restarts and kills."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.running import (
    BOTH_DATABASES,
    CANARY,
    EACH_GENERATION,
    EACH_GENERATION_AND_POSTGRESQL,
    EVERY_PROFILE,
    ON_POSTGRESQL,
    Answer,
    Gateway,
    Profile,
    Running,
    Share,
    Simulator,
    mint,
    read_stream,
    wait_until,
)

BOTH_MODES = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": f"{text} {CANARY}"}


def turns(simulator: Simulator) -> list[tuple[str, str, str]]:
    """Chat, account and text of each turn that Kimi was sent, in order."""
    return [(turn.chat, turn.account, turn.text.replace(f" {CANARY}", "")) for turn in simulator.turns()]


def overloaded(profile: Profile) -> int:
    """The status of the simulator's `overloaded`: Connect turns free accounts away (E15), SSE is tired (E9)."""
    return 429 if profile.speaks_connect else 503


@EVERY_PROFILE
def test_a_conversation_from_its_first_turn_to_its_end(
    quick: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    """The years of a generation differ in their frames: once through all that a conversation does."""
    path = f"/v1/chat/completions/{name}"
    assert quick.get(path).status_code == 404
    simulator.knobs(fail="overloaded", fail_after=1)
    assert quick.say("one", conversation=name).status_code == overloaded(profile)
    assert quick.get(path).status_code == 404
    simulator.wait("deleted_chats", equals=1)
    simulator.knobs(fail="", fail_after=None)
    history = [message("system", "be brief"), message("user", "one")]
    answer = Answer.of_completion(quick.chat({"model": quick.model, "messages": history}, name))
    history += [{"role": "assistant", "content": answer.content}, message("user", "I like tea")]
    response = quick.chat({"model": quick.model, "messages": history, "stream": True}, name, stream=True)
    assert read_stream(response).finish_reason == "stop"
    simulator.knobs(fail="overloaded", fail_after=1)
    quick.tables.forget_what_accounts_did()
    assert quick.say("does not count", conversation=name).status_code == overloaded(profile)
    quick.tables.forget_what_accounts_did()
    # Whatever comes first, the client's leaving or the silence of Kimi: the rest of the answer cannot be had.
    resuming = {"resume": "absent", "get_message": "absent"}
    simulator.knobs(fail="", fail_after=None, gate="leave", gate_after=1, **resuming)
    with quick.say("I leave", conversation=name, stream=True):
        simulator.wait("gate:leave", at_least=1)
    simulator.wait("open_streams", equals=0)
    simulator.knobs(gate="")
    wait_until("the conversation is free", lambda: not quick.get(path).json()["busy"])
    told = Answer.of_completion(quick.say("what did I say", name, model=profile.other_model))
    assert "I like tea" in told.content
    # The failed first turn had a chat of its own.
    (_, *sent) = turns(simulator)
    assert len({(chat, account) for chat, account, _ in sent}) == 1
    assert "be brief" in sent[0][2] and sent[1][2] == "I like tea"
    known = quick.get(path).json()
    assert (known["turns"], known["model"], known["busy"]) == (3, profile.other_model, False)
    assert quick.delete(path).json()["deleted"] is True
    simulator.wait("deleted_chats", equals=2)
    assert quick.get(path).status_code == 404


@EACH_GENERATION_AND_POSTGRESQL
@BOTH_MODES
def test_a_conversation_stays_in_its_chat_with_its_account(
    gateway: Gateway, simulator: Simulator, stream: bool, name: str
) -> None:
    for text in ("I like tea", "and also cake", "what did I say"):
        response = gateway.say(text, conversation=name, stream=stream)
        answer = read_stream(response) if stream else Answer.of_completion(response)
        assert answer.finish_reason == "stop"
    assert "I like tea" in answer.content and "and also cake" in answer.content
    sent = turns(simulator)
    assert len({(chat, account) for chat, account, _ in sent}) == 1
    assert [text for *_, text in sent] == ["I like tea", "and also cake", "what did I say"]
    assert simulator.state()["deleted_chats"] == 0


@EACH_GENERATION_AND_POSTGRESQL
def test_only_what_is_new_is_sent_when_the_client_sends_its_whole_history(
    gateway: Gateway, simulator: Simulator, name: str
) -> None:
    history = [message("system", "be brief"), message("user", "one")]
    for text in ("two", "three"):
        answer = Answer.of_completion(gateway.chat({"model": gateway.model, "messages": history}, name))
        history += [{"role": "assistant", "content": answer.content}, message("user", text)]
    gateway.chat({"model": gateway.model, "messages": history}, name)
    sent = [text for *_, text in turns(simulator)]
    assert "be brief" in sent[0] and "one" in sent[0]
    assert sent[1:] == ["two", "three"]


@EACH_GENERATION_AND_POSTGRESQL
def test_a_conversation_that_begins_with_a_history_sends_all_of_it(
    gateway: Gateway, simulator: Simulator, name: str
) -> None:
    history = [message("user", "one"), message("assistant", "first"), message("user", "two")]
    gateway.chat({"model": gateway.model, "messages": history}, name)
    assert all(text in turns(simulator)[0][2] for text in ("one", "first", "two"))


@EACH_GENERATION_AND_POSTGRESQL
def test_instructions_are_sent_again_only_when_they_changed(
    gateway: Gateway, simulator: Simulator, name: str
) -> None:
    for system, text in (
        ("be brief", "one"),
        ("be brief", "two"),
        ("be verbose", "three"),
        (None, "four"),
        ("be verbose", "five"),
    ):
        messages = [message("system", system)] if system else []
        gateway.chat({"model": gateway.model, "messages": [*messages, message("user", text)]}, name)
    sent = [text for *_, text in turns(simulator)]
    assert "be brief" in sent[0]
    assert sent[1] == "two"
    assert "be verbose" in sent[2] and "three" in sent[2]
    # Instructions that are left out once are not forgotten.
    assert sent[3:] == ["four", "five"]


# The roles and texts of a turn's messages behind the first exchange, and what Kimi is then sent of them.
BEHIND: dict[str, tuple[list[tuple[str, str]], list[str], list[str]]] = {
    "instructions alone": ([("system", "now in French")], ["now in French"], ["be brief", "first"]),
    "of a developer": ([("developer", "now in French")], ["now in French"], ["be brief"]),
    "before the question": ([("system", "now in French"), ("user", "two")], ["now in French", "two"], ["be brief"]),
    "behind the question": ([("user", "two"), ("system", "now in French")], ["two", "now in French"], ["be brief"]),
    "the same ones, moved to the end": ([("user", "two"), ("system", "be brief")], ["two"], ["first"]),
}


@pytest.mark.parametrize(("behind", "sent", "not_sent"), BEHIND.values(), ids=list(BEHIND))
def test_instructions_behind_the_last_answer_are_new(
    gateway: Gateway,
    simulator: Simulator,
    name: str,
    behind: list[tuple[str, str]],
    sent: list[str],
    not_sent: list[str],
) -> None:
    begin = [message("system", "be brief"), message("user", "one")]
    assert gateway.chat({"model": gateway.model, "messages": begin}, name).ok
    history = [*begin, message("assistant", "first"), *(message(*one) for one in behind)]
    assert gateway.chat({"model": gateway.model, "messages": history}, name).ok
    prompt = simulator.prompts()[-1]
    assert all(text in prompt for text in sent) and not any(text in prompt for text in not_sent)
    again = [*history, message("assistant", "second"), message("user", "three")]
    assert gateway.chat({"model": gateway.model, "messages": again}, name).ok
    assert turns(simulator)[-1][2] == "three"


def test_other_instructions_without_a_history_are_new_too(gateway: Gateway, simulator: Simulator, name: str) -> None:
    for text in ("be brief", "now in French"):
        begin = [message("system", text)] if simulator.turns() else [message("system", text), message("user", "one")]
        assert gateway.chat({"model": gateway.model, "messages": begin}, name).ok
    assert "now in French" in simulator.prompts()[-1]
    repeated = gateway.chat({"model": gateway.model, "messages": [message("system", "now in French")]}, name)
    assert repeated.status_code == 400


@EACH_GENERATION_AND_POSTGRESQL
def test_nothing_new_is_a_400(gateway: Gateway, simulator: Simulator, name: str) -> None:
    gateway.say("one", conversation=name)
    messages = [message("user", "one"), message("assistant", "first")]
    response = gateway.chat({"model": gateway.model, "messages": messages}, name)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")
    assert gateway.say("two", conversation=name).ok


@pytest.mark.parametrize("name", ["a", "A-z_0.9:x", "x" * 128])
def test_ids_of_the_allowed_form_work(gateway: Gateway, simulator: Simulator, name: str) -> None:
    assert gateway.say("one", conversation=name).ok
    assert gateway.get(f"/v1/chat/completions/{name}").json()["id"] == name


@pytest.mark.parametrize("name", ["x" * 129, "a b", "a/b", "ä", "a%0Ab", "a%3Fb", "%00", "a%2Fb", "名"])
def test_other_ids_are_a_400_that_says_so(gateway: Gateway, simulator: Simulator, name: str) -> None:
    for response in (
        gateway.say("one", conversation=name),
        gateway.get(f"/v1/chat/completions/{name}"),
        gateway.delete(f"/v1/chat/completions/{name}"),
    ):
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "invalid_conversation_id")
        assert "1 to 128" in error["message"]
    assert not simulator.requests("")


@EACH_GENERATION_AND_POSTGRESQL
def test_a_conversation_tells_what_is_known_of_it(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    assert gateway.get(f"/v1/chat/completions/{name}").status_code == 404
    gateway.say("one", conversation=name)
    gateway.say("two", conversation=name, model=profile.other_model)
    told = gateway.get(f"/v1/chat/completions/{name}").json()
    assert (told["object"], told["id"], told["model"], told["turns"]) == (
        "conversation",
        name,
        profile.other_model,
        2,
    )
    assert told["created"] <= told["updated"] and told["busy"] is False
    assert CANARY not in str(told)


@EACH_GENERATION_AND_POSTGRESQL
def test_a_deleted_conversation_is_forgotten_here_and_at_kimi(
    gateway: Gateway, simulator: Simulator, name: str
) -> None:
    gateway.say("one", conversation=name)
    deleted = gateway.delete(f"/v1/chat/completions/{name}")
    assert deleted.json() == {"object": "conversation.deleted", "id": name, "deleted": True}
    simulator.wait("deleted_chats", equals=1)
    for response in (gateway.get(f"/v1/chat/completions/{name}"), gateway.delete(f"/v1/chat/completions/{name}")):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "conversation_not_found")
    gateway.say("two", conversation=name)
    assert len({chat for chat, *_ in turns(simulator)}) == 2


@BOTH_DATABASES
@pytest.mark.parametrize(
    ("fails", "status", "code"),
    [(True, 503, "database_unavailable"), (False, 409, "conversation_taken")],
    ids=["the database failed", "taken by another request"],
)
def test_a_conversation_that_could_not_be_deleted_is_not_said_to_be_deleted(
    running: Running, simulator: Simulator, database: str, fails: bool, status: int, code: str
) -> None:
    path = "/v1/chat/completions/c"
    with running.gateway(simulator.url) as gateway:
        assert gateway.say("one", conversation="c").ok
        gateway.tables.forbid_deletions(fails=fails)
        refused = gateway.delete(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        assert gateway.get(path).json()["busy"] is False
        gateway.tables.allow_changes()
        # It goes on in its chat.
        assert gateway.say("two", conversation="c").ok
        assert len({chat for chat, *_ in turns(simulator)}) == 1
        assert gateway.delete(path).json()["deleted"] is True
        assert gateway.get(path).status_code == 404
        simulator.wait("deleted_chats", equals=1)


@EACH_GENERATION_AND_POSTGRESQL
def test_a_failed_turn_does_not_count(quick: Gateway, simulator: Simulator, profile: Profile, name: str) -> None:
    quick.say("one", conversation=name)
    simulator.knobs(fail="overloaded", fail_after=1)
    assert quick.say("two", conversation=name).status_code == overloaded(profile)
    quick.tables.forget_what_accounts_did()
    assert read_stream(quick.say("two", conversation=name, stream=True)).error
    quick.tables.forget_what_accounts_did()
    simulator.knobs(fail="", fail_after=None)
    assert quick.get(f"/v1/chat/completions/{name}").json()["turns"] == 1
    assert quick.say("two", conversation=name).ok
    assert quick.get(f"/v1/chat/completions/{name}").json()["turns"] == 2
    assert len({(chat, account) for chat, account, _ in turns(simulator)}) == 1


@EACH_GENERATION
@pytest.mark.parametrize(
    "knobs",
    [{"fail": "http_500"}, {"fail": "empty_close"}, {"fail": "drop", "fail_after": 0, "end": "reset"}],
    ids=lambda knobs: knobs["fail"],
)
def test_what_kimi_may_have_heard_is_not_said_to_it_again(
    quick: Gateway, simulator: Simulator, knobs: dict[str, Any], name: str
) -> None:
    """It would stand in the chat twice, also where a second try would have gone well."""
    assert quick.say("one", conversation=name).ok
    simulator.knobs(**knobs, fail_at="turn", fail_times=1)
    response = quick.say("two", conversation=name)
    assert response.status_code == 502 and response.headers["x-should-retry"] == "false"
    assert [text for *_, text in turns(simulator)] == ["one", "two"]


@EACH_GENERATION_AND_POSTGRESQL
def test_a_failed_first_turn_leaves_nothing_behind(
    quick: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    simulator.knobs(fail="overloaded", fail_after=1)
    assert quick.say("one", conversation=name).status_code == overloaded(profile)
    assert quick.get(f"/v1/chat/completions/{name}").status_code == 404
    simulator.wait("deleted_chats", equals=1)
    simulator.knobs(fail="", fail_after=None)
    assert quick.say("one", conversation=name).ok


@EACH_GENERATION_AND_POSTGRESQL
def test_a_chat_that_kimi_has_lost_is_a_409_that_says_what_to_do(
    quick: Gateway, simulator: Simulator, name: str
) -> None:
    quick.say("one", conversation=name)
    simulator.reset()
    error = quick.say("two", conversation=name).json()["error"]
    assert error["code"] == "conversation_lost" and "send all earlier messages" in error["message"]


@EACH_GENERATION_AND_POSTGRESQL
def test_a_second_turn_waits_and_then_is_told_that_the_conversation_is_busy(
    gateway: Gateway, simulator: Simulator, name: str
) -> None:
    simulator.knobs(gate="busy", gate_after=1)
    with gateway.say("one", conversation=name, stream=True) as first:
        simulator.wait("gate:busy", at_least=1)
        second = gateway.say("two", conversation=name)
        error = second.json()["error"]
        assert (second.status_code, error["type"], error["code"]) == (409, "conflict_error", "conversation_busy")
        assert second.headers["Retry-After"] == "5"
        assert gateway.get(f"/v1/chat/completions/{name}").json()["busy"] is True
        assert gateway.delete(f"/v1/chat/completions/{name}").status_code == 409
        simulator.open_gate("busy")
        assert read_stream(first).finish_reason == "stop"
    simulator.knobs(gate="")
    assert gateway.say("three", conversation=name).ok
    assert simulator.state()["max_open_streams"] == 1


@pytest.mark.parametrize(
    ("profile", "database"), [("sse-2025", "sqlite"), ("connect-2026-09", "postgresql")], indirect=True
)
def test_turns_at_the_same_time_follow_one_another(shared_gateway: Share, simulator: Simulator) -> None:
    """Eight at once, over two workers: each waits for its turn, none meets another in the chat."""
    gateway = shared_gateway(WEB_CONCURRENCY="2", CONVERSATION_WAIT_S="20")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: gateway.say(f"turn {i}", conversation="queue"), range(8)))
    assert [a.status_code for a in answers] == [200] * 8
    assert gateway.get("/v1/chat/completions/queue").json()["turns"] == 8
    assert len({(chat, account) for chat, account, _ in turns(simulator)}) == 1
    assert simulator.state()["max_open_streams"] == 1


@BOTH_DATABASES
def test_a_conversation_survives_a_restart(running: Running, simulator: Simulator, database: str) -> None:
    with running.gateway(simulator.url) as gateway:
        gateway.say("I like tea", conversation="restart")
        kept = gateway.database
    with running.gateway(simulator.url, database=kept) as gateway:
        answer = gateway.say("what did I say", conversation="restart").json()
        assert "I like tea" in answer["choices"][0]["message"]["content"]
    assert len({(chat, account) for chat, account, _ in turns(simulator)}) == 1


@pytest.mark.parametrize(
    ("profile", "victim", "first_turns"),
    [
        ("sse-2025", "worker", 0),
        ("sse-2025", "gateway", 1),
        ("connect-2026-09", "worker", 1),
        ("connect-2026-09", "gateway", 0),
    ],
    indirect=["profile"],
)
def test_a_conversation_survives_a_kill_in_mid_answer(
    running: Running, simulator: Simulator, profile: Profile, first_turns: int, victim: str
) -> None:
    """SIGKILL while the answer comes: after the restart the conversation goes on, in its chat, with its account.

    What was asked in the killed turn stays in the chat. Connect goes on after the last answer that counts, so
    that a later turn leaves it aside on a branch of its own; SSE has no such way.
    """
    with running.gateway(simulator.url, LEASE_S="1") as gateway:
        for number in range(first_turns):
            assert gateway.say(f"before {number}", conversation="killed").ok
        simulator.knobs(gate="kill", gate_after=1)
        with gateway.say("I like tea", conversation="killed", stream=True) as cut:
            simulator.wait("gate:kill", at_least=1)
            if victim == "gateway":
                gateway.kill()
            else:
                for pid in gateway.process.children():
                    os.kill(pid, signal.SIGKILL)
            with pytest.raises(requests.RequestException):
                assert b"[DONE]" not in cut.content
        simulator.wait("open_streams", equals=0)
        simulator.knobs(gate="")
        if victim == "worker":
            after = gateway.say("what did I say", conversation="killed")
            told = gateway.get("/v1/chat/completions/killed").json()
    if victim == "gateway":
        with running.gateway(simulator.url, database=gateway.database, LEASE_S="1") as restarted:
            after = restarted.say("what did I say", conversation="killed")
            told = restarted.get("/v1/chat/completions/killed").json()
    assert after.status_code == 200, after.text
    answer = after.json()["choices"][0]["message"]["content"]
    assert ("I like tea" in answer) is not (profile.speaks_connect and first_turns > 0)
    assert all(f"before {number}" in answer for number in range(first_turns))
    assert told["turns"] == first_turns + 1
    assert len({(chat, account) for chat, account, _ in turns(simulator)}) == 1


def test_what_a_killed_gateway_held_is_free_while_others_live(running: Running, simulator: Simulator) -> None:
    """The living one has conversations, too: whether a process lives is asked of each by itself."""
    with (
        running.gateway(simulator.url, LEASE_S="1") as killed,
        running.gateway(simulator.url, LEASE_S="1", database=killed.database) as living,
    ):
        assert living.say("hello", conversation="of-the-living").ok
        simulator.knobs(gate="kill", gate_after=1)
        with killed.say("hello", conversation="of-the-killed", stream=True):
            simulator.wait("gate:kill", at_least=1)
            killed.kill()
        simulator.open_gate("kill")
        assert living.say("and now", conversation="of-the-killed").ok


@EACH_GENERATION
def test_chats_of_killed_workers_are_deleted_later(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, TOTAL_TIMEOUT_S="1000") as gateway:
        simulator.knobs(gate="kill", gate_after=1)
        with gateway.say("hello", stream=True):
            simulator.wait("gate:kill", at_least=1)
            gateway.kill()
    # As if the time that an answer may take had passed.
    assert gateway.tables.let_deletions_be_due() == 1
    with running.gateway(simulator.url, database=gateway.database):
        simulator.wait("deleted_chats", equals=1)


def test_a_chat_whose_deletion_a_stop_cuts_is_deleted_by_the_next_process(
    running: Running, simulator: Simulator
) -> None:
    """And not when the longest answer must have ended, half an hour later."""
    match = "DeleteChat" if simulator.profile.speaks_connect else "/api/chat/"
    with running.gateway(simulator.url, CONTINUE_CHATS="0") as gateway:
        assert gateway.say("hello", conversation="cut").ok
        simulator.script(b"{}", match=match, headers=JSON, wait_for="deletion")
        assert gateway.delete("/v1/chat/completions/cut").ok
        simulator.wait("gate_waiting:deletion", equals=1)
        gateway.tables.put_deletions_off()
        kept = gateway.database
    with running.gateway(simulator.url, database=kept):
        simulator.wait("deleted_chats", equals=1)


def test_the_chat_of_a_running_answer_is_left_alone(running: Running, simulator: Simulator) -> None:
    """Whoever starts beside it deletes what is due, and that has been noted for later."""
    simulator.knobs(fail="http_503", fail_at="delete")
    with running.gateway(simulator.url, CONTINUE_CHATS="0") as gateway:
        assert gateway.say("over").ok
        wait_until("it has been tried", lambda: tries(gateway) == [1])
        simulator.knobs(fail="", gate="running", gate_after=1, say="one two three")
        with gateway.say("hello", stream=True) as response:
            simulator.wait("gate_waiting:running", equals=1)
            over, runs = (turn.chat for turn in simulator.turns())
            # The last of all that could be due.
            gateway.tables.let_deletion_be_due(over)
            with running.gateway(simulator.url, database=gateway.database):
                simulator.wait(f"chats.{over}.deleted", equals=True)
                assert not simulator.state()["chats"][runs]["deleted"]
            simulator.open_gate("running")
            assert read_stream(response).content == "one two three"
        simulator.wait("deleted_chats", equals=2)


def test_a_chat_that_cannot_be_deleted_is_given_up_after_days_only(running: Running, simulator: Simulator) -> None:
    """Each wait is longer, up to a day. The tries before are noted as if they had been made."""
    simulator.knobs(fail="http_503", fail_at="delete")
    with running.gateway(simulator.url, CONTINUE_CHATS="0") as gateway:
        assert gateway.say("hello").ok
        wait_until("it has been tried", lambda: next_try(gateway) == (1, 60))
    for made, wait_s in ((5, 32 * 60), (14, 86_400)):
        gateway.tables.let_deletions_be_due(tries=made)
        with running.gateway(simulator.url, database=gateway.database) as again:
            wait_until("it has been tried again", lambda: next_try(again) == (made + 1, wait_s))  # noqa: B023  # at once
    gateway.tables.let_deletions_be_due()
    with running.gateway(simulator.url, database=gateway.database) as last:
        wait_until("it is given up", lambda: "chat_not_deleted" in last.log() and "tries=16" in last.log())
        wait_until("its note is gone", lambda: next_try(last) is None)


HTML, JSON = {"Content-Type": "text/html"}, {"Content-Type": "application/json"}
PAGE = b"<html><title>Just a moment...</title></html>"
NOT_DELETED: list[tuple[int, dict[str, str], bytes]] = [
    (200, HTML, PAGE),
    (200, {}, PAGE),
    (404, HTML, PAGE),
    (200, JSON, b'{"code":"unauthenticated"}'),
    (200, JSON, b'{"error_type":"auth.token.invalid"}'),
    (200, JSON, b'{"error_type":"chat.something_new"}'),
]
DELETED: list[tuple[int, dict[str, str], bytes]] = [
    (200, JSON, b"{}"),
    (200, JSON, b'{"chat_id":"1"}'),
    (204, {}, b""),
    (200, JSON, b'{"code":"not_found"}'),
    (404, JSON, b'{"error_type":"chat.not_found"}'),
]


def delete(gateway: Gateway, simulator: Simulator, name: str, answer: tuple[int, dict[str, str], bytes]) -> None:
    """A conversation is deleted, and Kimi says this to the deletion of its chat."""
    status, headers, body = answer
    assert gateway.say("one", conversation=name).ok
    # Turns have these parts of the path, too, but this one is over.
    match = "DeleteChat" if simulator.profile.speaks_connect else "/api/chat/"
    simulator.script(body, match=match, status=status, headers=headers, framing="length")
    assert gateway.delete(f"/v1/chat/completions/{name}").ok


@EACH_GENERATION
def test_a_chat_is_deleted_only_where_kimi_says_so(running: Running, simulator: Simulator, profile: Profile) -> None:
    with running.gateway(simulator.url) as gateway:
        for number, answer in enumerate(NOT_DELETED, 1):
            delete(gateway, simulator, f"not-{number}", answer)
            wait_until(f"{answer} is seen", lambda: gateway.log().count("chat_not_deleted ") == number)  # noqa: B023  # at once
            gateway.tables.put_deletions_off()
        assert tries(gateway) == [1] * len(NOT_DELETED)
        gone = [*DELETED, *([] if profile.speaks_connect else [(404, {}, b"")])]
        for number, answer in enumerate(gone):
            delete(gateway, simulator, f"gone-{number}", answer)
            wait_until(f"{answer} is believed", lambda: len(tries(gateway)) == len(NOT_DELETED))
        assert tries(gateway) == [1] * len(NOT_DELETED)


def tries(gateway: Gateway) -> list[int]:
    """How often the deletion of each chat has been tried that is still to be deleted."""
    return [chat.tries for chat in gateway.tables.chats_to_delete()]


def next_try(gateway: Gateway) -> tuple[int, float] | None:
    """Of the one chat to delete: how often it was tried, and in how many seconds it is tried again, to the minute."""
    chats = gateway.tables.chats_to_delete()
    return (chats[0].tries, round(chats[0].due_in_s / 60) * 60) if chats else None


@ON_POSTGRESQL
def test_a_chat_to_delete_waits_until_its_protocol_is_switched_on_again(
    running: Running, simulator: Simulator, database: str
) -> None:
    with running.gateway(simulator.url) as gateway:
        assert gateway.say("one", conversation="of-sse").ok
        assert gateway.say("one", conversation="of-connect", model="kimi-k2.6").ok
    simulator.knobs(fail="http_503", fail_at="delete")
    with running.gateway(simulator.url, database=gateway.database, KIMI_PROTOCOL="connect") as without:
        for name in ("of-sse", "of-connect"):
            assert without.delete(f"/v1/chat/completions/{name}").ok
        wait_until("one has been tried", lambda: upstreams_tried(without) == {"kimi_rest": 0, "kimi_connect": 1})
    simulator.knobs(fail="")
    # Both are due, and the one that has to wait is the first.
    gateway.tables.let_deletions_be_due(first="kimi_rest", tries=0)
    with running.gateway(simulator.url, database=gateway.database, KIMI_PROTOCOL="connect") as without:
        simulator.wait("deleted_chats", equals=1)
        wait_until("one is left", lambda: upstreams_tried(without) == {"kimi_rest": 0})
    with running.gateway(simulator.url, database=gateway.database):
        simulator.wait("deleted_chats", equals=2)


def test_a_chat_to_delete_waits_until_its_account_is_there_again(running: Running, simulator: Simulator) -> None:
    simulator.knobs(fail="http_503", fail_at="delete")
    tokens = f"{mint('alice')},{mint('bob')}"
    with running.gateway(simulator.url, KIMI_TOKENS=tokens, CONTINUE_CHATS="0") as gateway:
        for _ in range(2):
            assert gateway.say("hello").ok
        wait_until("both have been tried", lambda: tries(gateway) == [1, 1])
    simulator.knobs(fail="")
    chats = {turn.account: turn.chat for turn in simulator.turns()}
    # Both are due, and the one that has to wait is the first.
    gateway.tables.let_deletions_be_due(first=chats["alice"])
    with running.gateway(simulator.url, database=gateway.database, KIMI_TOKENS=mint("bob")) as without:
        left = {chats["alice"]: 1}
        wait_until("one is left", lambda: {c.chat_id: c.tries for c in without.tables.chats_to_delete()} == left)
    with running.gateway(simulator.url, database=gateway.database, KIMI_TOKENS=mint("alice")):
        simulator.wait("deleted_chats", equals=2)


def upstreams_tried(gateway: Gateway) -> dict[str, int]:
    """How often each upstream was asked for the deletion of its one chat."""
    return {chat.upstream: chat.tries for chat in gateway.tables.chats_to_delete()}


@EACH_GENERATION_AND_POSTGRESQL
def test_a_client_that_leaves_frees_the_conversation(patient: Gateway, simulator: Simulator, name: str) -> None:
    """From its first turn on: the chat that was opened for it is there to go on with."""
    for number in range(2):
        simulator.knobs(gate=f"leave-{number}", gate_after=1)
        with patient.say("I leave", conversation=name, stream=True):
            simulator.wait(f"gate:leave-{number}", at_least=1)
        simulator.wait("open_streams", equals=0)
        simulator.knobs(gate="")
        wait_until("the conversation is free", lambda: not patient.get(f"/v1/chat/completions/{name}").json()["busy"])
        assert patient.get(f"/v1/chat/completions/{name}").json()["turns"] == number
        assert patient.say("I stay", conversation=name).ok
    assert len({(chat, account) for chat, account, _ in turns(simulator)}) == 1
    assert simulator.state()["deleted_chats"] == 0


@BOTH_DATABASES
def test_a_conversation_belongs_to_the_key_that_opened_it(
    shared_gateway: Share, simulator: Simulator, database: str
) -> None:
    def headers(key: str) -> dict[str, Any]:
        return {"headers": {"Authorization": f"Bearer {key}"}}

    body = {"model": "k2", "messages": [message("user", "I like tea")]}
    gateway = shared_gateway(GATEWAY_API_KEYS="key-one,key-two")
    path = "/v1/chat/completions/mine"
    assert gateway.post(path, json=body, **headers("key-one")).ok
    assert gateway.get(path, **headers("key-one")).ok
    assert gateway.get(path, **headers("key-two")).status_code == 404
    assert gateway.delete(path, **headers("key-two")).status_code == 404
    # The other key's conversation of the same name is another one.
    assert gateway.post(path, json=body, **headers("key-two")).ok
    assert gateway.get(path, **headers("key-one")).json()["turns"] == 1
    assert len({chat for chat, *_ in turns(simulator)}) == 2


def test_a_conversation_whose_account_is_gone_says_so(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, KIMI_TOKENS=mint("alice")) as gateway:
        gateway.say("one", conversation="orphan")
    with running.gateway(simulator.url, database=gateway.database, KIMI_TOKENS=mint("bob")) as other:
        response = other.say("two", conversation="orphan")
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (409, "conversation_lost")
        assert "add it again" in error["message"] and response.headers["x-should-retry"] == "false"
    # A new token of the same user is the same account.
    with running.gateway(simulator.url, database=gateway.database, KIMI_TOKENS=mint("alice", 5000)) as again:
        assert again.say("two", conversation="orphan").ok
    assert {account for _, account, _ in turns(simulator)} == {"alice"}


@BOTH_DATABASES
def test_many_workers_may_start_on_a_new_database_at_once(
    running: Running, simulator: Simulator, database: str
) -> None:
    with running.gateway(simulator.url, WEB_CONCURRENCY="4") as gateway:
        gateway.wait_for_workers()
        assert gateway.say("hello").ok
        assert "Traceback" not in gateway.log()

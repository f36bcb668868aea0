"""API keys: given by the settings or added by command, refused by name, limited over all workers."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.running import CANARY, Gateway, Running, Share, Simulator, wait_until
from tests.running.commands import run_keys
from tests.running.databases import SqliteDatabase
from tests.running.tables import Tables

OWN_KEY = "sk-key-of-the-settings"


def add(gateway: Gateway, *arguments: str) -> str:
    """A new key that the gateway knows already."""
    code, key = run_keys(gateway.database, "add", *arguments)
    assert code == 0 and key.startswith("sk-"), key
    wait_until("the key works", lambda: ask(gateway, key, "/v1/models").status_code == 200)
    return key


def ask(gateway: Gateway, key: str, path: str = "/v1/models") -> requests.Response:
    # A connection of its own each, so that all workers get some.
    return gateway.get(path, headers={"Authorization": f"Bearer {key}", "Connection": "close"})


def say(gateway: Gateway, key: str, **body: object) -> requests.Response:
    message = {"role": "user", "content": CANARY}
    return gateway.post(
        "/v1/chat/completions",
        json={"model": gateway.model, "messages": [message], **body},
        headers={"api-key": key},
        stream=bool(body.get("stream")),
    )


@pytest.fixture
def keyed(shared_gateway: Share) -> Gateway:
    """With a key in its settings, and those that other tests have added: each under names of its own. One worker:
    another would learn of a change at another moment."""
    return shared_gateway(GATEWAY_API_KEYS=f"mine={OWN_KEY}", LEASE_S="1")


@contextlib.contextmanager
def two_workers(running: Running, simulator: Simulator, *limits: str) -> Iterator[tuple[Gateway, str]]:
    """Two workers which both know a key with these limits."""
    database = running.new_database()
    code, key = run_keys(database, "add", "ann", *limits)
    assert code == 0, key
    settings = {"WEB_CONCURRENCY": "2", "GATEWAY_API_KEYS": f"mine={OWN_KEY}", "LEASE_S": "1"}
    with running.gateway(simulator.url, database=database, **settings) as gateway:
        gateway.wait_for_workers()
        yield gateway, key


def test_keys_of_the_settings_may_have_names(running: Running, simulator: Simulator, name: str) -> None:
    padded = "dGhlIGtleSBvZiBhIHRlc3Q=="
    with running.gateway(simulator.url, GATEWAY_API_KEYS=f"ann={OWN_KEY}, {padded}") as gateway:
        for key in (OWN_KEY, padded):
            assert ask(gateway, key).ok and say(gateway, key, conversation_id=name).ok
        for wrong in (f"ann={OWN_KEY}", "ann", "dGhlIGtleSBvZiBhIHRlc3Q", "=", ""):
            assert ask(gateway, wrong).status_code == 401
        # Conversations are found by these names; they must stay as they are.
        digests = [hashlib.sha256(key.encode()).hexdigest() for key in (OWN_KEY, padded)]
        assert gateway.tables.owners() == {f"key_{digest[:32]}" for digest in digests}


def test_a_key_can_be_added_listed_and_revoked_while_the_gateway_runs(keyed: Gateway, simulator: Simulator) -> None:
    key = add(keyed, "ann", "--expires", "30d", "--per-minute", "90", "--at-once", "3")
    assert say(keyed, key, conversation_id="of-ann").ok
    code, listed = run_keys(keyed.database, "list", GATEWAY_API_KEYS=f"mine={OWN_KEY}")
    assert code == 0 and key not in listed and OWN_KEY not in listed
    lines = {line.split()[0]: line for line in listed.splitlines()}
    assert lines["mine"].split() == ["mine", "in", "GATEWAY_API_KEYS"]
    ann = lines["ann"]
    assert "expires" in ann and "90 a minute, 3 at once" in ann
    assert run_keys(keyed.database, "revoke", "ann") == (0, "revoked 'ann'")
    wait_until("the key is refused", lambda: ask(keyed, key).status_code == 401)
    error = ask(keyed, key).json()["error"]
    assert "Incorrect API key provided" in error["message"] and "revoked" in error["message"]
    # What belonged to it belongs to nobody else, and its name is free.
    again = add(keyed, "ann")
    assert again != key and ask(keyed, again, "/v1/chat/completions/of-ann").status_code == 404
    assert "revoked" in run_keys(keyed.database, "list")[1]


def test_the_database_holds_no_key(keyed: Gateway) -> None:
    key = add(keyed, "bea")
    assert key.encode() not in keyed.database.content()
    assert key not in keyed.log()


def test_a_key_expires(keyed: Gateway) -> None:
    key = add(keyed, "guest", "--expires", "1h")
    keyed.tables.let_key_expire("guest")
    wait_until("the key has expired", lambda: "expired" in ask(keyed, key).text)
    assert "expired" in run_keys(keyed.database, "list")[1]


def test_a_key_may_expire_when_no_calendar_goes_so_far(tmp_path: Path) -> None:
    """An older version took any period."""
    database = SqliteDatabase(tmp_path / "x.db")
    run_keys(database, "add", "guest", "--expires", "1h")
    run_keys(database, "add", "ann")
    Tables(database).let_key_expire("guest", at=606533270400.0)
    code, listed = run_keys(database, "list")
    guest, ann = listed.splitlines()
    assert code == 0 and guest.split() == ["guest", "expires", "after", "the", "year", "9999"] and "added" in ann


def test_the_first_key_closes_an_open_gateway_and_revoking_it_does_not_open_it(
    running: Running, simulator: Simulator
) -> None:
    with running.gateway(simulator.url) as gateway:
        assert gateway.get("/v1/models").ok
        key = add(gateway, "ann")
        wait_until("a key is needed", lambda: gateway.get("/v1/models").status_code == 401)
        assert ask(gateway, key).ok
        run_keys(gateway.database, "revoke", "ann")
        wait_until("the key is refused", lambda: ask(gateway, key).status_code == 401)
        assert gateway.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add", "a b"], "expected 1 to 64 of the characters"),
        (["add", "mine"], "there is a key called 'mine' already"),
        (["add", "ann", "--expires", "soon"], "expected a period such as"),
        (["add", "ann", "--expires", "0d"], "expected a period such as"),
        (["add", "ann", "--expires", "999999w"], "omit it for a key that does not expire"),
        (["add", "ann", "--per-minute", "0"], "is not in the range"),
        (["add", "ann", "--models", ","], "expected names such as"),
        (["change", "nobody", "--per-minute", "5"], "there is no key called 'nobody'"),
        (["change", "mine", "--per-minute", "5"], "change it there"),
        (["change", "ann", "--per-minute", "0"], "is not in the range"),
        (["change", "ann", "--name", "a b"], "expected 1 to 64 of the characters"),
        (["change", "ann", "--expires", "soon"], "expected a period such as"),
        (["change", "ann", "--models", ","], "expected names such as"),
        (["revoke", "nobody"], "there is no key called 'nobody'"),
        (["revoke", "mine"], "remove it there"),
    ],
)
def test_a_command_that_cannot_be_done_says_why(tmp_path: Path, arguments: list[str], says: str) -> None:
    code, said = run_keys(SqliteDatabase(tmp_path / "x.db"), *arguments, GATEWAY_API_KEYS=f"mine={OWN_KEY}")
    assert code != 0 and says in said and "Traceback" not in said


def test_a_key_is_changed_and_what_is_not_named_stays(keyed: Gateway) -> None:
    key = add(keyed, "changing", "--per-minute", "50", "--expires", "30d")
    code, said = run_keys(keyed.database, "change", "changing", "--at-once", "7", "--per-minute", "1")
    assert code == 0 and said.endswith("1 a minute, 7 at once") and "expires" in said
    wait_until("its limit counts", lambda: say(keyed, key).status_code == 429)
    options = ("--per-minute", "none", "--expires", "none", "--name", "changed", "--models", "k*")
    code, said = run_keys(keyed.database, "change", "changing", *options)
    assert code == 0 and said.startswith("changed  added ") and said.endswith("7 at once, models k*")
    wait_until("it may ask again", lambda: say(keyed, key).status_code == 200)
    add(keyed, "another")
    code, said = run_keys(keyed.database, "change", "another", "--name", "changed")
    assert code == 1 and "there is a key called 'changed' already" in said
    run_keys(keyed.database, "revoke", "changed")
    assert run_keys(keyed.database, "change", "changed", "--at-once", "1")[0] == 1


def test_commands_need_no_token_but_a_database(tmp_path: Path) -> None:
    assert run_keys(SqliteDatabase(tmp_path / "x.db"), "list") == (
        0,
        "no keys: programs on this machine need none, and all others are refused",
    )
    code, said = run_keys(SqliteDatabase(tmp_path / "x.db"), "list", DATABASE_URL="nonsense")
    assert code != 0 and "DATABASE_URL" in said and "Traceback" not in said
    key = run_keys(SqliteDatabase(tmp_path / "x.db"), "add", "ann")[1]
    assert key.startswith("sk-") and "already" in run_keys(SqliteDatabase(tmp_path / "x.db"), "add", "ann")[1]


def test_requests_per_minute_are_counted_over_all_workers(running: Running, simulator: Simulator) -> None:
    with two_workers(running, simulator, "--per-minute", "7") as (gateway, key):
        remaining = []
        for _ in range(7):
            response = ask(gateway, key)
            assert response.ok and response.headers["x-ratelimit-limit-requests"] == "7"
            assert 20 <= int(response.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
            remaining.append(int(response.headers["x-ratelimit-remaining-requests"]))
        assert remaining == [6, 5, 4, 3, 2, 1, 0]
        for stream in (True, False):
            refused = say(gateway, key, stream=stream)
            error = refused.json()["error"]
            assert (refused.status_code, error["type"]) == (429, "rate_limit_error")
            assert error["code"] == "rate_limit_exceeded" and "7 requests per minute" in error["message"]
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
            assert "x-should-retry" not in refused.headers
        assert not simulator.turns()
        assert "x-ratelimit-limit-requests" not in ask(gateway, OWN_KEY).headers
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as client:
            pytest.raises(openai.RateLimitError, client.models.list)


def test_requests_at_once_are_counted_until_their_end(running: Running, simulator: Simulator) -> None:
    with two_workers(running, simulator, "--at-once", "2") as (gateway, key):
        simulator.knobs(gate="hold", gate_after=1, tokens=5)
        first, second = (say(gateway, key, stream=True) for _ in range(2))
        refused = say(gateway, key)
        assert refused.status_code == 429 and "2 requests at once" in refused.json()["error"]["message"]
        assert int(refused.headers["Retry-After"]) >= 1 and "x-ratelimit-limit-requests" not in refused.headers
        assert say(gateway, OWN_KEY, stream=True).ok
        # One ends because its client leaves, the other because it is complete.
        first.close()
        wait_until("there is room again", lambda: ask(gateway, key).ok)
        simulator.open_gate("hold")
        assert second.content.endswith(b"[DONE]\n\n")
        wait_until("both have ended", lambda: ask(gateway, key).ok and say(gateway, key).ok)


def test_a_stream_that_fails_before_its_first_word_has_ended(keyed: Gateway, simulator: Simulator) -> None:
    """Its response was begun while Kimi thought, and another one is sent."""
    key = add(keyed, "dora", "--at-once", "1", "--per-minute", "90")
    simulator.knobs(fail="too_long")
    for left in ("88", "87"):
        refused = say(keyed, key, stream=True)
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "context_length_exceeded"
        assert refused.headers["x-ratelimit-remaining-requests"] == left
        assert refused.headers["Content-Type"] == "application/json" and refused.headers["x-request-id"]


def test_requests_of_a_killed_worker_do_not_run_for_ever(running: Running, simulator: Simulator) -> None:
    settings: dict[str, Any] = {"GATEWAY_API_KEYS": OWN_KEY, "LEASE_S": "1"}
    with running.gateway(simulator.url, **settings) as gateway:
        key = add(gateway, "ann", "--at-once", "1")
        simulator.knobs(gate="hold", gate_after=1, tokens=5)
        held = say(gateway, key, stream=True)
        # Longer than a lease: it is renewed.
        with pytest.raises(AssertionError):
            wait_until("there is room", lambda: ask(gateway, key).ok, timeout_s=2.5)
        gateway.kill()
        held.close()
    with running.gateway(simulator.url, database=gateway.database, **settings) as next_one:
        wait_until("there is room again", lambda: ask(next_one, key).ok)

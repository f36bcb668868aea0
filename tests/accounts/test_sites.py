"""Accounts of kimi.com and of kimi.ai, side by side in one gateway."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.running import BOTH_DATABASES, Gateway, Running, Simulator, ask, mint, read_stream, wait_until
from tests.running.databases import Database

SEPTEMBER = pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)


def at_com(simulator: Simulator) -> str:
    return simulator.url


def at_ai(simulator: Simulator) -> str:
    """The same simulator, which is kimi.ai under this name (``site=by_host``)."""
    return simulator.url.replace("127.0.0.1", "localhost")


@contextmanager
def two_sites(
    running: Running,
    simulator: Simulator,
    database: Database | None = None,
    accounts: str = "alice bob",
    **settings: str,
) -> Iterator[Gateway]:
    simulator.knobs(site="by_host")
    entries = {
        "alice": f"alice={mint('alice', site='kimi.com')}@{at_com(simulator)}",
        "bob": f"bob={mint('bob', site='kimi.ai')}@{at_ai(simulator)}",
    }
    tokens = ",".join(entries[name] for name in accounts.split())
    with running.gateway(
        simulator.url, database=database, KIMI_TOKENS=tokens, KIMI_BASE_URL="", **settings
    ) as gateway:
        yield gateway


@SEPTEMBER
@BOTH_DATABASES
def test_accounts_of_both_sites_serve_side_by_side(running: Running, simulator: Simulator, database: str) -> None:
    with two_sites(running, simulator) as gateway:
        wait_until("both lists are there", lambda: hosts_asked(simulator) == {"127.0.0.1", "localhost"})
        wait_until("they are known", lambda: gateway.get("/v1/models/k3-agent").ok)
        for stream in (True, False, True, False):
            assert ask(gateway, stream).finish_reason == "stop"
    sent = {(turn.account, turn.body["scenario"]) for turn in simulator.turns()}
    # Each site is asked in its own way.
    assert sent == {("alice", "SCENARIO_K2D5"), ("bob", "SCENARIO_CHAT")}
    hosts = {(r["account"], r["headers"]["host"].split(":")[0]) for r in simulator.requests("ChatService/Chat")}
    assert hosts == {("alice", "127.0.0.1"), ("bob", "localhost")}


@SEPTEMBER
def test_a_conversation_stays_on_its_site(running: Running, simulator: Simulator) -> None:
    """Also where its own account is gone and it is rebuilt from its history: with another account of that site."""
    history = [{"role": "user", "content": "I like tea"}]
    with two_sites(running, simulator, accounts="bob") as gateway:
        answer = ask(gateway, False, "I like tea", conversation="tea")
        database = gateway.database
    history += [
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": "what did I say"},
    ]
    body = {"model": "kimi-k2.6", "messages": history}
    with two_sites(running, simulator, database, "alice") as gateway:
        lost = gateway.chat(body, "tea")
        assert (lost.status_code, lost.json()["error"]["code"]) == (409, "conversation_lost")
        assert f"kept at {at_ai(simulator).removeprefix('http://')}" in lost.json()["error"]["message"]
        assert gateway.say("hello").ok
    carol = f"carol={mint('carol', site='kimi.ai')}@{at_ai(simulator)}"
    alice = f"alice={mint('alice', site='kimi.com')}@{at_com(simulator)}"
    with running.gateway(
        simulator.url, database=database, KIMI_TOKENS=f"{alice},{carol}", KIMI_BASE_URL=""
    ) as gateway:
        rebuilt = gateway.chat({**body, "stream": True}, "tea")
        assert read_stream(rebuilt).finish_reason == "stop"
        assert rebuilt.headers["x-conversation-rebuilt"] == "history"
    last = simulator.turns()[-1]
    assert last.account == "carol" and "I like tea" in last.text


@SEPTEMBER
def test_a_model_of_one_site_is_served_by_its_accounts(running: Running, simulator: Simulator) -> None:
    """The other site's list says nothing of it."""
    with two_sites(running, simulator) as gateway:
        wait_until("the lists are there", lambda: gateway.get("/v1/models/k3-agent").ok)
        database = gateway.database
        name = f"models@{at_com(simulator).removeprefix('http://')}"
        database.run(f"DELETE FROM kept WHERE name = '{name}'")  # noqa: S608  # our own address
    before = len(simulator.requests("GetAvailableModels"))
    simulator.script(b"{}", match="GetAvailableModels", headers={"Content-Type": "application/json"}, times=1)
    with two_sites(running, simulator, database) as gateway:
        wait_until("the other list is asked for", lambda: "127.0.0.1" in hosts_asked(simulator, before))
        for _ in range(4):
            assert gateway.say("hello", model="k3-agent").ok
    assert {turn.account for turn in simulator.turns()} == {"bob"}


def hosts_asked(simulator: Simulator, since: int = 0) -> set[str]:
    """Which were asked for their lists; ``since``: without so many of the first requests."""
    return {r["headers"]["host"].split(":")[0] for r in simulator.requests("GetAvailableModels")[since:]}


@SEPTEMBER
def test_a_generation_that_is_gone_at_one_site_is_not_gone_at_the_other(
    running: Running, simulator: Simulator
) -> None:
    simulator.script(b"", match="/api/chat", status=410, account="alice", times=1)
    simulator.knobs(profile="all", site="by_host")
    with two_sites(running, simulator, KIMI_PROTOCOL="auto") as gateway:
        for _ in range(6):
            assert gateway.say("hello", model="k2").ok
        assert gateway.log().count("upstream_unavailable upstream=kimi_rest") == 1
    turns = [(r["account"], "completion" in r["path"]) for r in simulator.requests("") if is_turn(r["path"])]
    assert {is_sse for account, is_sse in turns if account == "bob"} == {True}
    assert {is_sse for account, is_sse in turns if account == "alice"} == {False}


def is_turn(path: str) -> bool:
    return path.endswith(("/completion/stream", "ChatService/Chat"))


@SEPTEMBER
def test_tokens_are_renewed_at_their_own_site(running: Running, simulator: Simulator) -> None:
    simulator.knobs(site="by_host")
    refresh = mint("bob", 7_776_000, "refresh", site="kimi.ai")
    entry = f"bob={refresh}@{at_ai(simulator)}"
    with running.gateway(
        simulator.url, KIMI_TOKENS=entry, KIMI_BASE_URL="", KIMI_AUTH_URL=at_ai(simulator)
    ) as gateway:
        assert gateway.say("hello").ok
    renewals = simulator.requests("RefreshToken")
    assert renewals and all(r["headers"]["host"].startswith("localhost") for r in renewals)

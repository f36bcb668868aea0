"""Accounts that come and go while gateways run: by command, seen by all workers and machines."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.running import BOTH_DATABASES, ROOT, Database, Gateway, Running, Simulator, ask, mint, seldom, wait_until
from tests.running.commands import run_command

SECRET = "a long enough password"


def refresh(user: str) -> str:
    return mint(user, 7_776_000, "refresh")


class Owner:
    """Who runs ``flask accounts`` on the database of a gateway."""

    def __init__(self, simulator: Simulator, database: Database, **settings: str) -> None:
        sites = {"KIMI_BASE_URL": simulator.url, "KIMI_AUTH_URL": simulator.url}
        self._settings = {**sites, "GATEWAY_SECRET": SECRET, **settings}
        self._database = database

    def __call__(self, *arguments: str, code: int = 0) -> str:
        ended, said = run_command(self._database, "accounts", *arguments, **self._settings)
        assert ended == code, said
        return said


def served(simulator: Simulator) -> Counter[str]:
    return Counter(turn.account for turn in simulator.turns())


@BOTH_DATABASES
def test_an_account_is_used_by_all_workers_and_machines_within_seconds(
    running: Running, simulator: Simulator, database: str, record_property: Callable[[str, object], None]
) -> None:
    """Both gateways start without any, and say what to do. The figure is 3 s; the machine of the tests is busy."""
    kept = running.new_database()
    with (
        running.gateway(
            simulator.url, database=kept, WEB_CONCURRENCY="2", KIMI_TOKENS="", GATEWAY_SECRET=SECRET
        ) as one,
        running.gateway(simulator.url, database=kept, KIMI_TOKENS="", GATEWAY_SECRET=SECRET) as other,
    ):
        one.wait_for_workers()
        other.wait_for_workers()
        for gateway in (one, other):
            not_ready = gateway.get("/readyz")
            assert not_ready.status_code == 503 and "no Kimi account yet" in not_ready.text
            refused = gateway.say("hello")
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "no_account"
            assert "accounts add" in refused.json()["error"]["message"]
            assert gateway.get("/v1/models").ok
        owner = Owner(simulator, kept)
        owner("add", "--name", "home", mint("alice"))
        began = time.monotonic()
        wait_until("all use it", seldom(lambda: all(g.say("hello").ok for g in (one, one, one, one, other))))
        took_s = time.monotonic() - began
        record_property("all_use_it_after_s", round(took_s, 2))
        # A worker that got none of those requests may not have looked yet.
        wait_until("all are ready", seldom(lambda: all(g.get("/readyz").ok for g in (one, one, one, one, other))))
        # One of several forms, and one that is renewed by whichever gateway asks first.
        owner("add", "--name", "work", f"Cookie: theme=dark; kimi-auth={mint('bob')}")
        owner("add", f'{{"refresh_token": "{refresh("carol")}"}}')
        all_three = {"alice", "bob", "carol"}
        wait_until("all of them answer", seldom(lambda: one.say("hi").ok and set(served(simulator)) >= all_three))
        assert simulator.state()["refreshes"] == 1
        assert owner("remove", "home") == "removed 'home'"
        assert "work: You paused this account" in owner("pause", "work")
        owner("remove", "account-3")
        wait_until("no worker has one", seldom(lambda: not any(g.say("x").ok for g in (one, one, one, one, other))))
        assert "You paused this account" in other.say("hello").json()["error"]["message"]
        owner("resume", "work")
        wait_until("it is used again", seldom(lambda: one.say("hello").ok and other.say("hello").ok))


def test_a_pause_ends_no_answer_and_keeps_conversations(running: Running, simulator: Simulator) -> None:
    tokens = f"alice={mint('alice')}"
    with running.gateway(simulator.url, KIMI_TOKENS=tokens) as gateway:
        owner = Owner(simulator, gateway.database, KIMI_TOKENS=tokens, GATEWAY_SECRET="")
        assert gateway.say("one", conversation="talk").ok
        simulator.knobs(gate="mid", gate_after=2)
        with ThreadPoolExecutor(1) as pool:
            running_answer = pool.submit(ask, gateway, True)
            simulator.wait("open_streams", at_least=1)
            owner("pause", "alice")
            wait_until("it gets no more", seldom(lambda: gateway.get("/readyz").status_code == 503))
            refused = gateway.say("two", conversation="talk")
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "account_unavailable"
            simulator.open_gate("mid")
            assert running_answer.result(20).finish_reason == "stop"
        simulator.knobs(gate="", gate_after=0)
        assert "You paused this account" in owner("list", "--quick")
        owner("resume", "alice")
        wait_until("the conversation goes on", seldom(lambda: gateway.say("two", conversation="talk").ok))
        # It was no failure: nothing cools down.
        assert gateway.tables.cooldowns() == [] and gateway.tables.refused_accounts() == []


def test_a_conversation_of_a_removed_account_says_so(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, KIMI_TOKENS="", GATEWAY_SECRET=SECRET) as gateway:
        owner = Owner(simulator, gateway.database)
        owner("add", "--name", "home", mint("alice"))
        wait_until("it is used", seldom(lambda: gateway.say("one", conversation="talk").ok))
        owner("add", "--name", "work", mint("bob"))
        owner("remove", "home")
        wait_until("it is gone", seldom(lambda: gateway.say("two", conversation="talk").status_code == 409))
        error = gateway.say("two", conversation="talk").json()["error"]
        assert error["code"] == "conversation_lost" and "add it again" in error["message"]
        # The same user again is the same account.
        owner("add", mint("alice", 5000))
        wait_until("it goes on", seldom(lambda: gateway.say("two", conversation="talk").ok))


def test_a_check_spends_no_refresh_token(running: Running, simulator: Simulator) -> None:
    kept = running.new_database()
    owner = Owner(simulator, kept)
    token = refresh("alice")
    said = owner("add", "--check", token)
    assert "a refresh token" in said and "the gateway renews it" in said and token not in said
    assert owner("list") == "no Kimi account yet: flask --app wsgi accounts add"
    state = simulator.state()
    assert (state["refreshes"], simulator.requests("RefreshToken")) == (0, [])
    said = owner("add", "--check", mint("alice", 600))
    assert "an access token" in said and "nothing renews it" in said and "Kimi refuses it" not in said
    simulator.knobs(fail="token_invalid", fail_at="other")
    assert "Kimi refuses it" in owner("add", "--check", mint("alice", 600))
    simulator.knobs(fail="", fail_at="")
    owner("add", "--name", "home", token)
    # A command renews it, as a gateway would, and keeps the new pair.
    assert "ok       answer" in owner("test", "home")
    state = simulator.state()
    assert (state["refreshes"], state["stale_refreshes"]) == (1, 0)
    assert "ok       token" in owner("test", "home") and simulator.state()["refreshes"] == 1


def test_a_trial_says_what_is_wrong(running: Running, simulator: Simulator) -> None:
    owner = Owner(simulator, running.new_database())
    owner("add", "--name", "home", mint("alice"))
    simulator.knobs(fail="http_429", fail_at="turn")
    said = owner("test", "home", code=1)
    assert "problem  answer" in said and "ok       token" in said
    simulator.knobs(fail="", fail_at="")
    assert "there is no account called 'nobody'; there is 'home'" in owner("test", "nobody", code=1)


def test_an_account_of_a_new_site_is_asked_there(running: Running, simulator: Simulator) -> None:
    """The gateway had no account of that site when it started."""
    with (
        running.simulator() as elsewhere,
        running.gateway(simulator.url, users="alice") as gateway,
    ):
        owner = Owner(simulator, gateway.database, GATEWAY_SECRET="")
        owner("add", "--name", "other", f"{refresh('bob')}@{elsewhere.url}")
        wait_until("it answers", seldom(lambda: gateway.say("hello").ok and elsewhere.turns() != []))
        assert {turn.account for turn in elsewhere.turns()} == {"bob"}
        assert elsewhere.url.removeprefix("http://") in owner("list", "--quick")
        assert "bob" not in served(simulator)


def test_a_token_is_read_from_standard_input_where_no_history_keeps_it(
    running: Running, simulator: Simulator
) -> None:
    kept = running.new_database()
    settings = {"DATABASE_URL": kept.url, "KIMI_BASE_URL": simulator.url, "GATEWAY_SECRET": SECRET}
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "accounts", "add"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **settings},
        input=f"home={mint('alice')}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and "added 'home'" in done.stdout, done.stderr


def test_the_accounts_of_kimi_tokens_can_be_paused_but_not_removed(running: Running, simulator: Simulator) -> None:
    tokens = f"alice={mint('alice')},bob={mint('bob')}"
    with running.gateway(simulator.url, KIMI_TOKENS=tokens) as gateway:
        owner = Owner(simulator, gateway.database, KIMI_TOKENS=tokens, GATEWAY_SECRET="")
        assert "'alice' stands in KIMI_TOKENS" in owner("remove", "alice", code=1)
        owner("pause", "alice")
        assert "You paused this account" in owner("list", "--quick")
        wait_until("bob alone answers", lambda: _serves_alone(gateway, simulator, "bob"))


def _serves_alone(gateway: Gateway, simulator: Simulator, user: str) -> bool:
    turns = len(simulator.turns())
    for _ in range(3):
        assert ask(gateway, True).finish_reason == "stop"
    return {turn.account for turn in simulator.turns()[turns:]} == {user}

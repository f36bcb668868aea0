"""Tokens that live for minutes: renewed ahead of time, after a rejection, once for all workers, through kills."""

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import requests

from tests.running import (
    CANARY,
    ON_POSTGRESQL,
    Gateway,
    Running,
    Share,
    Simulator,
    ask,
    mint,
    read_stream,
    seldom,
    wait_until,
)
from tests.running.commands import run_keys, start
from tests.running.databases import SqliteDatabase
from tests.running.processes import pause
from tests.running.running import renewals
from tests.running.tables import Tables


def refresh(user: str) -> str:
    return mint(user, 7_776_000, "refresh")


def end_renewals(gateway: Gateway) -> None:
    """Kills the processes that renew a token of this gateway just now."""
    for pid in renewals(gateway.database):
        os.kill(pid, signal.SIGKILL)


def test_a_refresh_token_is_enough_in_every_form_that_people_paste(running: Running, simulator: Simulator) -> None:
    tokens = {user: refresh(user) for user in ("alice", "bob", "carol", "dave", "erin")}
    array = {
        user: json.dumps({"refresh_token": tokens[user].split("."), "other": [1, {"a": "b,c"}]}) for user in tokens
    }
    pasted = [
        tokens["alice"],
        f"home={tokens['bob']}",
        json.dumps({"access_token": mint("carol", -5), "refresh_token": tokens["carol"], "theme": "dark"}),
        array["dave"],
        f"work='{array['erin']}'",
        f"plain={mint('frank')}",
    ]
    with running.gateway(simulator.url, KIMI_TOKENS=",".join(pasted)) as gateway:
        for number in range(2 * len(pasted)):
            assert ask(gateway, stream=number % 2 == 0).finish_reason == "stop"
    state = simulator.state()
    assert (state["refreshes"], state["stale_refreshes"]) == (5, 0)
    assert {name: a["turns"] for name, a in state["accounts"].items()} == dict.fromkeys([*tokens, "frank"], 2)


# Baidu's cookie holds the times of the last visits, with commas between them.
_HM = "Hm_lvt_358cae4815e85d48f7e8ab7f3680a74b=1700000000,1701234567,1709876543"
_COOKIES = (
    "Cookie: _ga=GA1.1; kimi-auth={}; theme=dark",
    f"{_HM}; kimi-auth={{}}; theme=dark",
    f"theme=dark; {_HM}; kimi-auth={{}}",
    f"kimi-auth={{}}; {_HM}",
    f"Cookie: {_HM}; last=Mon, 01 Jan 2024 00:00:00 GMT; kimi-auth={{}};",
)


def test_cookies_are_understood_with_and_without_labels(running: Running, simulator: Simulator) -> None:
    entries, users, labels = [], [], []
    for number, cookies in enumerate(_COOKIES):
        bare, home, work, last = (f"{name}{number}" for name in ("alice", "bob", "carol", "dave"))
        entries += [cookies.format(mint(bare)), f"{home}={cookies.format(mint(home))}"]
        entries += [f"{work} = '{cookies.format(mint(work))}'", mint(last)]
        users += [bare, home, work, last]
        labels += [f"account {4 * number + 1}", home, work, f"account {4 * number + 4}"]
    with running.gateway(simulator.url, KIMI_TOKENS=",".join(entries)) as gateway:
        for _ in entries:
            assert ask(gateway, True).finish_reason == "stop"
        log = gateway.log()
    assert f" accounts={len(entries)} " in log
    for label in labels:
        assert f"{label}: Works for" in log
    # Other gateways of these tests may ask for the catalogue meanwhile.
    assert set(simulator.state()["accounts"]) >= set(users)


def test_a_token_is_renewed_ahead_of_its_expiry(running: Running, simulator: Simulator) -> None:
    """No request ever waits: by the time of the next one the pair has been renewed in the background."""
    simulator.knobs(access_lifetime_s=3)
    with running.gateway(simulator.url, WEB_CONCURRENCY="2", KIMI_TOKENS=refresh("alice")) as gateway:
        simulator.wait("refreshes", at_least=4)
        assert ask(gateway, True).finish_reason == "stop"
        assert "token_rejected" not in gateway.log()
    assert simulator.state()["stale_refreshes"] == 0


# One token for as long as the tests run: the gateways that have it are the same one.
_ALICE = refresh("alice")


@pytest.fixture
def renewing(shared_gateway: Share) -> Gateway:
    """A gateway with one account, whose token has been renewed."""
    gateway = shared_gateway(KIMI_TOKENS=_ALICE)
    assert ask(gateway, True).finish_reason == "stop"
    return gateway


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("place", ["create", "turn"])
def test_a_rejected_token_is_renewed_and_the_request_repeated_once(
    renewing: Gateway, simulator: Simulator, place: str, stream: bool
) -> None:
    before = simulator.state()["refreshes"]
    simulator.knobs(fail="token_invalid", fail_at=place, fail_times=1)
    answer = ask(renewing, stream)
    assert answer.finish_reason == "stop" and answer.error is None
    assert simulator.state()["refreshes"] == before + 1
    # The chat that was opened before the rejection is the one that is used.
    assert simulator.state()["total_chats"] == 2
    simulator.knobs(fail="token_invalid", fail_at=place, fail_times=0)
    assert renewing.say("hello", stream=stream).status_code == 503
    simulator.knobs(fail="")
    renewing.tables.forget_what_accounts_did()
    assert ask(renewing, stream).finish_reason == "stop"
    assert simulator.state()["stale_refreshes"] == 0


def test_a_token_that_is_refused_in_mid_answer_does_not_begin_it_anew(
    renewing: Gateway, simulator: Simulator
) -> None:
    simulator.script(
        b'data: {"event":"cmpl","text":"first half"}\n\n'
        b'data: {"event":"error","error":{"error_type":"auth.token.invalid"}}\n\n'
    )
    answer = ask(renewing, True)
    assert answer.content == "first half" and answer.finish_reason is None
    assert answer.error is not None and answer.error["code"] == "account_token_rejected"
    assert len(simulator.turns()) == 2


@ON_POSTGRESQL
def test_many_requests_renew_a_token_once(running: Running, simulator: Simulator, database: str) -> None:
    simulator.knobs(refresh_delay_s=0.5)
    with (
        running.gateway(simulator.url, WEB_CONCURRENCY="2", KIMI_TOKENS=refresh("alice")) as gateway,
        ThreadPoolExecutor(20) as pool,
    ):
        answers = list(pool.map(lambda i: ask(gateway, i % 2 == 0), range(20)))
    assert [a.finish_reason for a in answers] == ["stop"] * 20
    state = simulator.state()
    assert (state["refreshes"], state["stale_refreshes"]) == (1, 0)


@ON_POSTGRESQL
def test_the_newest_pair_survives_a_restart(running: Running, simulator: Simulator, database: str) -> None:
    """The entry of KIMI_TOKENS was used up long ago; the store knows better."""
    simulator.knobs(access_lifetime_s=2)
    entry = refresh("alice")
    with running.gateway(simulator.url, KIMI_TOKENS=entry) as gateway:
        simulator.wait("refreshes", at_least=2)
    simulator.knobs(access_lifetime_s=900)
    for _ in range(2):
        with running.gateway(simulator.url, KIMI_TOKENS=entry, database=gateway.database) as gateway:
            assert ask(gateway, True).finish_reason == "stop"
    assert simulator.state()["stale_refreshes"] == 0


def test_a_changed_entry_wins_over_the_store(running: Running, simulator: Simulator) -> None:
    """``tests/store`` tries the same on both databases."""
    dead = refresh("alice")
    simulator.knobs(fail="token_invalid", fail_at="refresh")
    with running.gateway(simulator.url, KIMI_TOKENS=dead) as gateway:
        response = gateway.say("hello")
        assert response.status_code == 503
        message = response.json()["error"]["message"]
        assert "account 1: Kimi refuses to renew this login" in message and "accounts add" in message
        assert gateway.get("/readyz").status_code == 503
    simulator.knobs(fail="")
    # Unchanged, it stays refused without being tried again; changed, it works.
    with running.gateway(simulator.url, KIMI_TOKENS=dead, database=gateway.database) as same:
        assert same.say("hello").status_code == 503
    assert simulator.state()["refreshes"] == 0
    with running.gateway(simulator.url, KIMI_TOKENS=refresh("alice"), database=gateway.database) as changed:
        assert ask(changed, True).finish_reason == "stop"


def test_a_dead_account_is_passed_over(running: Running, simulator: Simulator) -> None:
    expired = mint("alice", -5, "refresh")
    with running.gateway(simulator.url, WEB_CONCURRENCY="2", KIMI_TOKENS=f"{expired},{refresh('bob')}") as gateway:
        wait_until("alice is found dead", lambda: "token_not_renewed" in gateway.log())
        wait_until("both workers know", lambda: all(gateway.say("hello").ok for _ in range(6)))
        assert gateway.get("/readyz").status_code == 200


@ON_POSTGRESQL
def test_a_dead_account_is_seldom_looked_at(running: Running, simulator: Simulator, database: str) -> None:
    """PostgreSQL counts how often a table is read, with a delay of a second: the answer takes more than two."""
    expired = mint("alice", -5, "refresh")
    with running.gateway(simulator.url, KIMI_TOKENS=f"{expired},{mint('bob')}") as gateway:
        wait_until("alice is found dead", lambda: "token_not_renewed" in gateway.log())
        simulator.knobs(tokens=25, delay_s=0.1)
        wait_until("nobody reads its tokens while an answer comes", lambda: reads_of_tokens(gateway) == 0)


def reads_of_tokens(gateway: Gateway) -> int:
    """How often they are read while an answer comes."""
    before = gateway.tables.reads_of_tokens()
    assert ask(gateway, True).finish_reason == "stop"
    return gateway.tables.reads_of_tokens() - before


def test_the_older_refresh_service_is_the_fall_back(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, KIMI_TOKENS=refresh("alice"), KIMI_AUTH_URL="http://127.0.0.1:9") as gateway:
        assert ask(gateway, True).finish_reason == "stop"
    simulator.knobs(profile="sse-2025")
    with running.gateway(simulator.url, KIMI_TOKENS=refresh("bob")) as gateway:
        assert ask(gateway, True).finish_reason == "stop"
    assert len(simulator.requests("/api/auth/token/refresh")) == 2


def test_a_refresh_that_fails_for_now_is_tried_again(running: Running, simulator: Simulator) -> None:
    """Also where what refuses is something between us and Kimi; ``test_token_refresh`` has all kinds of refusals."""
    headers = {"Content-Type": "text/plain"}
    for match in ("RefreshToken", "/api/auth/token/refresh"):
        simulator.script(b"error code: 1020", match=match, status=403, headers=headers, framing="length", times=100)
    with running.gateway(simulator.url, KIMI_TOKENS=refresh("alice")) as gateway:
        response = gateway.say("hello")
        assert response.status_code == 502 and "could not be renewed" in response.json()["error"]["message"]
        assert simulator.state()["refreshes"] == 0
        simulator.reset()
        gateway.tables.let_cooldowns_end()
        wait_until("it works again", seldom(lambda: gateway.say("hello").ok))
    assert simulator.state()["stale_refreshes"] == 0


@pytest.mark.long
def test_a_renewal_that_hangs_takes_no_request_with_it(running: Running, simulator: Simulator) -> None:
    """Those that wait for it are answered by the other account in time, later ones do not even try."""
    simulator.knobs(fail="silent_headers", fail_at="refresh")
    tokens = f"{refresh('alice')},bob={mint('bob')}"
    with running.gateway(simulator.url, KIMI_TOKENS=tokens) as gateway, ThreadPoolExecutor(4) as pool:
        began = time.monotonic()
        answers = list(pool.map(lambda i: ask(gateway, i % 2 == 0), range(4)))
        assert [a.finish_reason for a in answers] == ["stop"] * 4
        assert time.monotonic() - began < 60
        assert len(gateway.tables.cooldowns()) == 1
        began = time.monotonic()
        assert [ask(gateway, True).finish_reason for _ in range(3)] == ["stop"] * 3
        # A wait for the renewal takes 25 s.
        assert time.monotonic() - began < 20
        # It would hang on, and so would the next one; the end of the gateway waits for both.
        simulator.knobs(fail="")
        end_renewals(gateway)
    assert {turn.account for turn in simulator.turns()} == {"bob"}


def test_a_renewal_that_fails_has_failed_for_all_who_wait_for_it(running: Running, simulator: Simulator) -> None:
    """A second renewal would get no answer until they all have theirs."""
    for gate, times in (("first", 1), ("later", 100)):
        simulator.script(b"no", match="RefreshToken", status=503, framing="length", wait_for=gate, times=times)
    # The service that is asked after the first one has failed.
    simulator.script(b"no", match="/api/auth/token/refresh", status=503, framing="length", times=100)
    with (
        running.gateway(
            simulator.url, KIMI_TOKENS=refresh("alice"), ACCOUNT_MAX_STREAMS="0", QUEUE_WAIT_S="0"
        ) as gateway,
        ThreadPoolExecutor(8) as pool,
    ):
        responses = [pool.submit(gateway.say, "hello") for _ in range(8)]
        simulator.wait("gate_waiting:first", at_least=1)
        simulator.open_gate("first")
        for future in responses:
            response = future.result()
            assert response.status_code == 502 and "could not be renewed" in response.json()["error"]["message"]
        simulator.open_gate("later")


def test_a_token_that_has_expired_when_it_comes_is_not_renewed_for_ever(
    running: Running, simulator: Simulator
) -> None:
    """So it looks to a machine whose clock is ahead."""
    simulator.knobs(access_lifetime_s=-5)
    with running.gateway(simulator.url, KIMI_TOKENS=refresh("alice"), QUEUE_WAIT_S="1") as gateway:
        simulator.wait("refreshes", at_least=1)
        response = gateway.say("hello")
        assert response.status_code == 502
        assert "is this machine's clock right?" in response.json()["error"]["message"]
        assert simulator.state()["refreshes"] < 10, "it is renewed in a circle"
        assert "is this machine's clock right?" in gateway.log()


def test_a_renewal_that_cannot_be_started_takes_neither_the_request_nor_the_thread(
    running: Running, simulator: Simulator
) -> None:
    """The longest variable that the system allows; the one of the new process is longer, and exec refuses it."""
    longest = "x" * (32 * os.sysconf("SC_PAGESIZE") - len("PYTHONPATH=") - 1)
    tokens = f"{refresh('alice')},bob={mint('bob')}"
    with running.gateway(simulator.url, KIMI_TOKENS=tokens, PYTHONPATH=longest) as gateway:
        for _ in range(2):
            assert ask(gateway, True).finish_reason == "stop"
        edge = "renewal_failed account="
        wait_until("the thread has tried again", lambda: gateway.log().count(edge) >= 2)
        assert "the process that renews a token could not be started: Argument list too long" in gateway.log()
    assert simulator.state()["refreshes"] == 0


def test_a_token_without_a_refresh_token_says_early_that_it_will_end(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, KIMI_TOKENS=f"alice={mint('alice', 900)}") as gateway:
        assert ask(gateway, True).finish_reason == "stop"
        assert "alice: Works for 15 minutes more" in gateway.log()
        assert "15 minutes more" in gateway.get("/readyz").json()["warnings"][0]


def test_one_process_renews_the_tokens_of_all_accounts_for_all_workers(
    running: Running, simulator: Simulator
) -> None:
    """``python -m bench.renewals`` does the same with 500 accounts, and measures it."""
    users = [f"user{number}" for number in range(40)]
    simulator.knobs(refresh_delay_s=0.1)
    at_once: set[int] = set()
    tokens = ",".join(refresh(user) for user in users)
    with running.gateway(simulator.url, WEB_CONCURRENCY="2", KIMI_TOKENS=tokens) as gateway:

        def all_renewed() -> bool:
            at_once.add(len(renewals(gateway.database)))
            return bool(simulator.state()["refreshes"] >= len(users))

        wait_until("all are renewed", all_renewed, 60)
        assert ask(gateway, True).finish_reason == "stop"
    state = simulator.state()
    assert (state["refreshes"], state["stale_refreshes"]) == (len(users), 0)
    assert max(at_once) == 1


# Kills


@pytest.mark.parametrize(
    ("victim", "database"), [("worker", "sqlite"), ("gateway", "postgresql")], indirect=["database"]
)
def test_a_worker_killed_in_mid_refresh_does_not_lose_the_chain(
    running: Running, simulator: Simulator, victim: str, database: str
) -> None:
    """The refresh runs in a process of its own, which outlives whoever asked for it."""
    simulator.knobs(refresh_delay_s=1.5)
    token = refresh("alice")
    with running.gateway(simulator.url, WEB_CONCURRENCY="2", KIMI_TOKENS=token) as gateway:
        wait_until("the refresh has been asked for", lambda: simulator.requests("RefreshToken"))
        if victim == "gateway":
            gateway.kill()
        else:
            for pid in gateway.process.children():
                os.kill(pid, signal.SIGKILL)
        wait_until("the pair is stored", lambda: gateway.tables.token_version() == 2)
        if victim == "worker":
            assert ask(gateway, True).finish_reason == "stop"
    simulator.knobs(refresh_delay_s=0, access_lifetime_s=2)
    with running.gateway(simulator.url, KIMI_TOKENS=token, database=gateway.database) as restarted:
        assert ask(restarted, True).finish_reason == "stop"
    assert simulator.state()["stale_refreshes"] == 0


def test_a_refresh_killed_before_kimi_acted_is_done_again(running: Running, simulator: Simulator) -> None:
    simulator.knobs(fail="silent_headers", fail_at="refresh")
    with running.gateway(simulator.url, KIMI_TOKENS=refresh("alice")) as gateway:
        wait_until("the refresh has been asked for", lambda: simulator.requests("RefreshToken"))
        simulator.knobs(fail="")
        end_renewals(gateway)
        # As if its hold had run out, and what the failure did to the account.
        gateway.tables.let_renewals_time_out()
        gateway.tables.let_cooldowns_end()
        wait_until("it works again", seldom(lambda: gateway.say("hello").ok))
    assert simulator.state()["stale_refreshes"] == 0


@pytest.mark.long
def test_a_renewed_pair_waits_for_a_database_that_is_away(running: Running, simulator: Simulator) -> None:
    """Kimi has given it once: nobody may ask with the old token meanwhile, and what it gave must not be lost."""
    # Long enough for the database to go, on a busy machine, too.
    simulator.knobs(refresh_delay_s=4)
    with running.gateway(simulator.url, KIMI_TOKENS=refresh("alice")) as gateway:
        wait_until("the refresh has been asked for", lambda: simulator.requests("RefreshToken"))
        with closing(sqlite3.connect(gateway.database.url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN IMMEDIATE")
            wait_until("it has found no database", lambda: "token_not_stored" in gateway.log())
        wait_until("the pair is stored", lambda: gateway.tables.token_version() == 2)
        assert ask(gateway, True).finish_reason == "stop"
        wait_until("nobody renews", lambda: not renewals(gateway.database))
    state = simulator.state()
    assert (state["refreshes"], state["stale_refreshes"]) == (1, 0)


def test_stop_signals_do_not_end_a_refresh(running: Running, simulator: Simulator) -> None:
    simulator.knobs(refresh_delay_s=1)
    with running.gateway(simulator.url, KIMI_TOKENS=refresh("alice")) as gateway:
        wait_until("the refresh has been asked for", lambda: simulator.requests("RefreshToken"))
        for pid in renewals(gateway.database):
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        wait_until("the pair is stored", lambda: gateway.tables.token_version() == 2)


@pytest.mark.long
def test_traffic_through_expiries_and_kills(
    running: Running, simulator: Simulator, record_property: Callable[[str, object], None]
) -> None:
    """Three accounts, tokens of a few seconds, a worker killed again and again: only what the killed worker
    itself was serving may fail, and no refresh uses a token that is not the newest."""
    seconds = float(os.environ.get("TOKEN_RUN_S", "9"))
    lifetime_s, kill_every_s = (6, 3) if seconds < 60 else (15, 10)
    simulator.knobs(access_lifetime_s=lifetime_s, profile="all")
    tokens = ",".join(refresh(user) for user in ("alice", "bob", "carol"))
    with running.gateway(simulator.url, WEB_CONCURRENCY="2", KIMI_TOKENS=tokens) as gateway:
        gateway.wait_for_workers()
        refused, served = traffic(gateway, seconds, kill_every_s)
    state = simulator.state()
    for name, figure in (("served", served), ("refreshes", state["refreshes"]), ("stale", state["stale_refreshes"])):
        record_property(name, figure)
    assert refused == []
    assert state["stale_refreshes"] == 0
    assert state["refreshes"] >= 3 * (seconds / lifetime_s)
    # On a busy machine each new worker takes seconds to start.
    assert served > seconds / 4
    assert set(state["accounts"]) == {"alice", "bob", "carol"}


def traffic(gateway: Gateway, seconds: float, kill_every_s: float) -> tuple[list[str], int]:
    """Steady requests while workers are killed; what was refused, kills apart, and how many were served."""
    refused: list[str] = []
    served = 0
    end = time.monotonic() + seconds
    next_kill = time.monotonic() + kill_every_s
    while time.monotonic() < end:
        # Not as fast as possible: others test beside it.
        pause()
        if time.monotonic() > next_kill:
            os.kill(gateway.process.children()[0], signal.SIGKILL)
            next_kill += kill_every_s
        try:
            answer = read_stream(gateway.say("hello", stream=True))
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            continue
        except AssertionError as e:
            refused.append(str(e)[:300])
            continue
        served += 1
        if answer.finish_reason != "stop":
            refused.append(str(answer.error))
    return refused, served


# At rest


SECRET = "a long enough password"


def test_sealed_tokens_are_not_in_the_database(running: Running, simulator: Simulator) -> None:
    """``tests/store`` tries both databases."""
    token = refresh("alice")
    with running.gateway(simulator.url, KIMI_TOKENS=token, GATEWAY_SECRET=SECRET) as gateway:
        assert ask(gateway, True).finish_reason == "stop"
    # All tokens begin alike.
    assert token.partition(".")[0].encode() not in gateway.database.content()
    with running.gateway(simulator.url, database=gateway.database, KIMI_TOKENS=token, GATEWAY_SECRET=SECRET) as again:
        assert ask(again, True).finish_reason == "stop"
    assert simulator.state()["refreshes"] == 1


def test_a_missing_secret_stops_the_start(running: Running, simulator: Simulator, tmp_path: Path) -> None:
    """``tests/store`` has a wrong one."""
    token = refresh("alice")
    with running.gateway(simulator.url, KIMI_TOKENS=token, GATEWAY_SECRET=SECRET) as gateway:
        assert ask(gateway, True).finish_reason == "stop"
    code, output = start(tmp_path, KIMI_TOKENS=token, DATABASE_URL=gateway.database.url)
    assert code != 0 and "but GATEWAY_SECRET is not set" in output
    assert "Traceback" not in output and token not in output


def test_a_secret_that_is_set_later_seals_what_is_there(running: Running, simulator: Simulator) -> None:
    token = refresh("alice")
    with running.gateway(simulator.url, KIMI_TOKENS=token) as gateway:
        assert ask(gateway, True).finish_reason == "stop"
    assert token.partition(".")[0].encode() in gateway.database.content()
    with running.gateway(
        simulator.url, database=gateway.database, KIMI_TOKENS=token, GATEWAY_SECRET=SECRET
    ) as sealed:
        assert ask(sealed, True).finish_reason == "stop"
    assert simulator.state()["refreshes"] == 1
    assert gateway.tables.refresh_token().startswith("fernet1:")


def test_after_a_clean_stop_the_file_alone_has_the_newest_pair(
    running: Running, simulator: Simulator, tmp_path: Path
) -> None:
    with running.gateway(simulator.url, WEB_CONCURRENCY="2", KIMI_TOKENS=refresh("alice")) as gateway:
        assert ask(gateway, True).finish_reason == "stop"
    file = Path(gateway.database.url.removeprefix("sqlite:///"))
    assert Tables(SqliteDatabase(Path(shutil.copy(file, tmp_path)))).token_version() == 2


def test_commands_with_a_new_secret_leave_the_running_gateway_alone(running: Running, simulator: Simulator) -> None:
    """It is set in .env, and a command is run before the gateway is restarted."""
    with running.gateway(simulator.url, KIMI_TOKENS=refresh("alice")) as gateway:
        assert ask(gateway, True).finish_reason == "stop"
        assert run_keys(gateway.database, "list", GATEWAY_SECRET=SECRET)[0] == 0
        assert not gateway.tables.refresh_token().startswith("fernet1:")


def test_a_gateway_that_lacks_the_others_secret_says_so(running: Running, simulator: Simulator) -> None:
    simulator.knobs(access_lifetime_s=6)
    token = refresh("alice")
    with running.gateway(simulator.url, KIMI_TOKENS=token) as old:
        assert ask(old, True).finish_reason == "stop"
        settings = {"KIMI_TOKENS": token, "GATEWAY_SECRET": SECRET}
        with running.gateway(simulator.url, database=old.database, **settings) as new:
            wait_until("it cannot renew it", lambda: "renewal_failed" in old.log())
            wait_until("its token has expired", seldom(lambda: not old.get("/readyz").ok))
            assert ask(new, True).finish_reason == "stop"
            says = "holds sealed tokens, but GATEWAY_SECRET is not set"
            wait_until("it has seen that", seldom(lambda: says in old.get("/readyz").text))
            response = old.say("hello")
            assert response.status_code == 503 and says in response.json()["error"]["message"]
            # What cannot be done is said in a line, and not tried again at once.
            assert "Traceback" not in old.log() and old.log().count("renewal_failed") < 15
    assert simulator.state()["stale_refreshes"] == 0


def test_labels_and_four_characters_at_most_are_shown() -> None:
    from app.settings.credentials import parse_credentials

    token = refresh("alice")
    (credential,) = parse_credentials(f"home={token}")
    assert credential.hint == f"home (…{token[-4:]})"
    assert token not in repr(credential) and token[:20] not in repr(credential)
    assert CANARY not in repr(credential)

"""A token that Kimi has rejected: tried again after a while, longer each time, or when a person says so."""

import re
import time

import pytest

from app.accounts import scheduling
from app.store.leases import REJECTED
from tests.running import BOTH_DATABASES, Gateway, Running, Share, Simulator, ask, mint
from tests.running.commands import run_command


def cooldowns(gateway: Gateway) -> list[tuple[str, float, int]]:
    """Cause, seconds from now, failures in a row."""
    rows = gateway.database.run("SELECT cause, until, strikes FROM rests")
    return [(cause, until - time.time(), strikes) for cause, until, strikes in rows]


def let_time_pass(gateway: Gateway) -> None:
    """As if the cooldowns were over."""
    gateway.database.run("UPDATE rests SET until = 1")


def rejected(gateway: Gateway) -> str:
    """The message of the 503 that a request gets."""
    response = gateway.say("hello")
    assert (response.status_code, response.headers["x-should-retry"]) == (503, "false")
    message: str = response.json()["error"]["message"]
    return message


@BOTH_DATABASES
def test_it_is_tried_again_later_each_time_and_a_success_ends_that(
    running: Running, simulator: Simulator, database: str
) -> None:
    tokens = f"alice={mint('alice')}"
    simulator.knobs(fail="token_invalid")
    with running.gateway(simulator.url, KIMI_TOKENS=tokens) as gateway:
        for number, shortest_s in enumerate((600, 1200, 2400), 1):
            rejected(gateway)
            ((cause, seconds, failures),) = cooldowns(gateway)
            assert (cause, failures) == ("rejected", number)
            assert shortest_s - 30 < seconds < shortest_s * 1.25
            # Nobody asks Kimi before that.
            asked = len(simulator.turns())
            rejected(gateway)
            assert len(simulator.turns()) == asked == number
            assert gateway.get("/readyz").status_code == 503
            let_time_pass(gateway)
        simulator.knobs(fail="")
        assert ask(gateway, True).finish_reason == "stop"
        assert cooldowns(gateway) == []
        assert gateway.database.run("SELECT refused FROM accounts") == [(None,)]
        # The next rejection is a first one again.
        simulator.knobs(fail="token_invalid")
        rejected(gateway)
        assert cooldowns(gateway)[0][2] == 1
        other = gateway.database
    # It holds over a restart, but not for another token.
    simulator.knobs(fail="")
    with running.gateway(simulator.url, KIMI_TOKENS=tokens, database=other) as gateway:
        rejected(gateway)
    with running.gateway(simulator.url, KIMI_TOKENS=f"alice={mint('alice', 50_000)}", database=other) as gateway:
        assert ask(gateway, True).finish_reason == "stop"


def test_it_grows_to_hours() -> None:
    longest = max(scheduling.cooldown_s(20, 600.0, None, REJECTED) for _ in range(100))
    assert 6 * 3600 <= longest <= 6 * 3600 * 1.2


def test_another_token_that_is_rejected_begins_anew(running: Running, simulator: Simulator) -> None:
    simulator.knobs(fail="token_invalid")
    with running.gateway(simulator.url, KIMI_TOKENS=f"alice={mint('alice')}") as gateway:
        rejected(gateway)
        let_time_pass(gateway)
        rejected(gateway)
        database = gateway.database
    with running.gateway(simulator.url, KIMI_TOKENS=f"alice={mint('alice', 50_000)}", database=database) as gateway:
        rejected(gateway)
        ((_, seconds, failures),) = cooldowns(gateway)
        assert failures == 1 and seconds < 750


def test_one_of_an_older_version_is_tried_again(running: Running, simulator: Simulator) -> None:
    """There it was out of use for ever."""
    with running.gateway(simulator.url, KIMI_TOKENS=f"alice={mint('alice')}") as gateway:
        simulator.knobs(fail="token_invalid")
        rejected(gateway)
        gateway.database.run("DELETE FROM rests")
        simulator.knobs(fail="")
        assert ask(gateway, True).finish_reason == "stop"
        assert gateway.database.run("SELECT refused FROM accounts") == [(None,)]


def test_only_one_request_tries_it(shared_gateway: Share, simulator: Simulator) -> None:
    """The others are served by other accounts meanwhile, and so is it, when it has failed."""
    simulator.knobs(fail="token_invalid", fail_for="alice")
    gateway = shared_gateway()
    for _ in range(3):
        assert gateway.say("hello").ok
    let_time_pass(gateway)
    for _ in range(6):
        assert gateway.say("again").ok
    assert [turn.account for turn in simulator.turns() if "again" in turn.text].count("alice") == 1


@BOTH_DATABASES
def test_a_person_can_have_it_tried_at_once(running: Running, simulator: Simulator, database: str) -> None:
    tokens = f"home={mint('alice')}"
    simulator.knobs(fail="token_invalid")
    with running.gateway(simulator.url, KIMI_TOKENS=tokens) as gateway:
        message = rejected(gateway)
        assert "accounts add" in message
        simulator.knobs(fail="")
        message = rejected(gateway)
        assert re.search(
            r"tried again in 1[0-2] minutes, or at once after `flask --app wsgi accounts wake NAME`", message
        )
        (problem,) = gateway.get("/readyz").json()["problems"]
        assert problem.startswith("home: ") and "`flask --app wsgi accounts wake home`" in problem
        code, output = run_command(gateway.database, "accounts", "wake", "nobody", KIMI_TOKENS=tokens)
        assert (code, output) == (1, "Error: there is no account called 'nobody'; there is 'home'")
        code, output = run_command(gateway.database, "accounts", "wake", "home", KIMI_TOKENS=tokens)
        assert code == 0 and output.startswith("home: Works for"), output
        assert gateway.get("/readyz").ok
        assert ask(gateway, True).finish_reason == "stop"


def test_a_refresh_token_that_was_refused_can_be_tried_again(running: Running, simulator: Simulator) -> None:
    tokens = f"home={mint('alice', 7_776_000, 'refresh')}"
    simulator.knobs(fail="token_invalid", fail_at="refresh")
    with running.gateway(simulator.url, KIMI_TOKENS=tokens) as gateway:
        assert "Kimi refuses to renew this login" in rejected(gateway)
        database = gateway.database
    simulator.knobs(fail="")
    code, output = run_command(database, "accounts", "wake", "home", KIMI_TOKENS=tokens)
    assert code == 0 and output.startswith("home: Ready."), output
    with running.gateway(simulator.url, KIMI_TOKENS=tokens, database=database) as gateway:
        assert ask(gateway, True).finish_reason == "stop"


# The list of accounts, and what Kimi says of them


def stats_asked(simulator: Simulator) -> int:
    return len(simulator.requests("GetSubscriptionStats"))


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
def test_the_list_shows_what_kimi_says_and_asks_seldom(running: Running, simulator: Simulator) -> None:
    simulator.knobs(stats="paid", used_ratio=0.25)
    entries = [f"{label}={mint(user, site='kimi.ai')}" for label, user in (("home", "alice"), ("work", "bob"))]
    settings = {
        "KIMI_TOKENS": ",".join(entries),
        "KIMI_BASE_URL": simulator.url,
        "KIMI_AUTH_URL": simulator.url,
    }
    site = simulator.url.removeprefix("http://")
    says = (
        "Kimi says: 75% of the credits left (renews 2030-01-14), 80% of the limit for 5 hours left, "
        "95% of the limit for 7 days left"
    )
    with running.gateway(simulator.url, KIMI_TOKENS=settings["KIMI_TOKENS"]) as gateway:
        for _ in range(2):
            code, output = run_command(gateway.database, "accounts", "list", **settings)
            assert code == 0
            for label, line in zip(("home", "work"), output.splitlines(), strict=True):
                assert line.startswith(f"{label}: {site}; free; {says}; Works for 24 hours more, until 20")
        assert stats_asked(simulator) == 2
        simulator.knobs(fail="token_invalid", fail_for="alice", fail_at="turn")
        for _ in range(3):
            assert gateway.say("hello").ok
        _, output = run_command(gateway.database, "accounts", "list", **settings)
        first, second = output.splitlines()
        assert "; Kimi has rejected the token. It is tried again in 1" in first and "Works for" in second
        # Ten minutes later.
        gateway.database.run("UPDATE kept SET kept_at = kept_at - 601")
        run_command(gateway.database, "accounts", "list", **settings)
        assert stats_asked(simulator) == 3


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
def test_an_account_about_which_kimi_says_nothing_is_listed_too(running: Running, simulator: Simulator) -> None:
    simulator.knobs(stats="absent")
    settings = {
        "KIMI_TOKENS": f"home={mint('alice', site='kimi.ai')}",
        "KIMI_BASE_URL": simulator.url,
        "KIMI_AUTH_URL": simulator.url,
    }
    database = running.new_database()
    code, output = run_command(database, "accounts", "list", **settings)
    assert code == 0 and "Kimi does not say what is left (" in output and "Works for" in output
    code, output = run_command(database, "accounts", "list", **settings)
    assert code == 0 and "free; Works for" in output
    assert stats_asked(simulator) == 1

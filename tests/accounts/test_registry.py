"""KIMI_TOKENS and added accounts, in every order of change and restart; and what the manager of accounts refuses."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from app.accounts.management import (
    InSettings,
    LabelInvalid,
    LabelTaken,
    NotRenewable,
    ProxyInvalid,
    SecretNeeded,
    UnknownAccount,
)
from app.settings.credentials import CredentialError
from app.store import Store, StoreUnusable
from tests.accounts.house import SECRET, House, refresh
from tests.running import BOTH_DATABASES, ROOT, Database, Running, SqliteDatabase, mint
from tests.running.tables import Tables


@pytest.fixture
def kept(running: Running, database: str) -> Database:
    return running.new_database()


A, B, C = (refresh() for _ in range(3))

# What happens to one account, and whose token counts then. A start gives KIMI_TOKENS, "" for none.
ORDERS: Sequence[tuple[Sequence[str], str]] = (
    (("start A", "add B"), "B"),
    (("start A", "add B", "start A"), "B"),
    (("start A", "add B", "start A", "start A"), "B"),
    (("start A", "add B", "start C"), "C"),
    (("start A", "add B", "start C", "add B"), "B"),
    (("start A", "add B", "start C", "start A"), "A"),
    (("start A", "add B", "start "), "B"),
    (("start ", "add B", "start A"), "A"),
    (("start ", "add B", "start A", "add C", "start A"), "C"),
    (("start ", "add B", "add C", "start "), "C"),
    (("start ", "add B", "remove", "start A"), "A"),
    (("start A", "pause", "start A"), "A"),
    (("start A", "pause", "add B", "start A"), "B"),
    (("start A", "pause", "add B", "start C", "resume"), "C"),
)


# On PostgreSQL some of them, in which each kind of event is met.
ON_POSTGRESQL_TOO = [ORDERS[number][0] for number in (6, 8, 10, 13)]
EACH_ORDER = [
    pytest.param(kind, events, counts, id=f"{kind}: {', '.join(events)}")
    for kind in ("sqlite", "postgresql")
    for events, counts in ORDERS
    if kind == "sqlite" or events in ON_POSTGRESQL_TOO
]


@pytest.mark.parametrize(("database", "events", "counts"), EACH_ORDER, indirect=["database"])
def test_the_last_change_of_a_token_counts(kept: Database, events: Sequence[str], counts: str) -> None:
    tokens = {"A": A, "B": B, "C": C, "": ""}
    house: House | None = None
    for event in events:
        what, _, which = event.partition(" ")
        if what == "start":
            if house is not None:
                house.close()
            house = House(kept.url, f"home={tokens[which]}" if which else "")
            continue
        assert house is not None
        if what == "add":
            house.manager.add(tokens[which], label="home")
        else:
            getattr(house.manager, what)("home")
    assert house is not None
    with closing(house):
        assert house.tokens() == [f"home {tokens[counts][-6:]}"]
        (status,) = house.manager.all()
        assert status.paused_at is None or events[-1] != "resume"


@BOTH_DATABASES
def test_a_gateway_that_runs_beside_it_keeps_what_was_added_elsewhere(kept: Database) -> None:
    """Two machines: one has the account in its KIMI_TOKENS, the other has none. What was added at the second one is
    newer than what the first one had then."""
    with closing(House(kept.url, f"home={A}")) as first, closing(House(kept.url)) as second:
        second.manager.add(B, label="home")
        assert first.tokens() == second.tokens() == [f"home {B[-6:]}"]
        with closing(House(kept.url, f"home={A}")) as restarted:
            assert restarted.tokens() == [f"home {B[-6:]}"]
        with closing(House(kept.url, f"home={C}")) as changed:
            assert changed.tokens() == [f"home {C[-6:]}"]
        # The account was the second one's only because of the entry, which the change has replaced.
        assert second.tokens() == []


@BOTH_DATABASES
def test_a_command_changes_nothing_by_looking(kept: Database) -> None:
    """KIMI_TOKENS was edited and the gateway was not restarted yet."""
    with closing(House(kept.url, f"home={A}")) as gateway:
        gateway.manager.add(B)
        with closing(House(kept.url, f"home={C}", settles=False)) as command:
            assert [status.token_from for status in command.manager.all()] == ["settings"]
        assert gateway.tokens() == [f"home {B[-6:]}"]


@BOTH_DATABASES
def test_the_same_token_again_keeps_its_newest_pair(kept: Database) -> None:
    with closing(House(kept.url)) as house:
        (account,) = house.manager.add(A, label="home")
        store = house.store.tokens
        assert store.acquire(account.id, 1, "a process", 0.0, 9.0) is not None
        assert store.save(account.id, 1, mint("alice"), "the-next-refresh-token", None)
        (checked,) = house.manager.check(A)
        assert checked.same_token and checked.known_as == "home" and checked.refused is None
        house.manager.add(A)
        assert house.tokens() == ["home -token"]
        house.manager.add(B)
        assert house.tokens() == [f"home {B[-6:]}"]


@BOTH_DATABASES
def test_an_access_token_replaces_a_refresh_token_and_the_other_way_round(kept: Database) -> None:
    with closing(House(kept.url)) as house:
        access = mint("alice")
        house.manager.add(A, label="home")
        house.manager.add(access)
        assert house.tokens() == [f"home {access[-6:]}"]
        assert not house.manager.find("home").renewable
        with pytest.raises(NotRenewable):
            house.manager.renew("home")
        house.manager.add(B)
        assert house.tokens() == [f"home {B[-6:]}"]
        house.manager.renew("home")
        assert house.renewals.asked[-1] == "home 1"


def test_what_cannot_be_done_is_said(running: Running) -> None:
    database = running.new_database()
    with closing(House(database.url, f"home={A}")) as house:
        manager = house.manager
        (work,) = manager.add(refresh("bob"), label="work")
        with pytest.raises(LabelTaken) as error:
            manager.add(refresh("carol"), label="work")
        assert error.value.values == {"label": "work"} and error.value.code == "label_taken"
        for label in ("home", "work"):
            with pytest.raises(LabelTaken):
                manager.add(refresh("carol"), label=label)
        for label in ("two words", "x" * 33, "a/b"):
            with pytest.raises(LabelInvalid):
                manager.add(refresh("carol"), label=label)
        with pytest.raises(LabelInvalid):
            manager.add(f"{refresh('carol')},{refresh('dave')}", label="both")
        with pytest.raises(ProxyInvalid) as wrong:
            manager.add(refresh("carol"), proxy="ftp://user:hidden-pw@proxy")
        assert "hidden-pw" not in str(wrong.value) + str(wrong.value.values)
        with pytest.raises(CredentialError):
            manager.add("two words")
        for name in ("remove", "change"):
            with pytest.raises(InSettings):
                manager.remove("home") if name == "remove" else manager.change("home", label="other")
        with pytest.raises(UnknownAccount) as unknown:
            manager.pause("nobody")
        assert "'home', 'work'" in str(unknown.value)
        assert [status.label for status in manager.all()] == ["home", "work"]
        assert manager.change("work", label="lab").id == work.id == manager.find(work.id).id
        manager.remove("lab")
        assert [status.label for status in manager.all()] == ["home"]
        assert Tables(database).chains_without_account() == 1


def test_several_accounts_get_free_names(running: Running) -> None:
    with closing(House(running.new_database().url, f"account-2={A}")) as house:
        added = house.manager.add("\n".join(refresh(user) for user in ("bob", "carol", "dave")))
        assert [status.label for status in added] == ["account-3", "account-4", "account-5"]
        (checked,) = house.manager.check(refresh("erin"))
        assert checked.label == "account-6" and checked.kind == "refresh" and checked.sealed


def test_a_name_of_kimi_tokens_stays_that_of_kimi_tokens(running: Running) -> None:
    database = running.new_database()
    with closing(House(database.url)) as house:
        house.manager.add(refresh("bob"), label="home")
    with closing(House(database.url, f"home={A}")) as house:
        assert [status.label for status in house.manager.all()] == ["home", "home-2"]
        assert house.manager.remove("home-2").token_from == "added"


def test_tokens_and_proxies_are_sealed_now_or_when_there_is_a_secret(running: Running) -> None:
    database = running.new_database()
    assert isinstance(database, SqliteDatabase)
    access, password = mint("bob"), "proxy-password"
    with closing(House(database.url, secret="")) as house:
        house.manager.add(A)
        house.manager.add(access, proxy=f"http://me:{password}@127.0.0.1:3128")
    assert access.encode() in database.content() and password.encode() in database.content()
    with closing(Store(database.url, SECRET)) as store:
        store.seal()
    for secret in (A, access, password):
        assert secret.encode() not in database.content()
    with closing(House(database.url, secret=SECRET)) as house:
        assert sorted(status.proxy for status in house.manager.all()) == ["", "http://127.0.0.1:3128"]
        assert len(house.tokens()) == 2
    for wrong in ("", "another long password"):
        with pytest.raises(StoreUnusable, match="GATEWAY_SECRET"):
            Store(database.url, wrong)


@BOTH_DATABASES
def test_tokens_on_a_server_are_added_only_where_they_are_sealed(kept: Database, database: str) -> None:
    with closing(House(kept.url, secret="")) as house:
        if database == "postgresql":
            with pytest.raises(SecretNeeded):
                house.manager.add(A)
            assert house.manager.all() == []
        else:
            assert len(house.manager.add(A)) == 1


# For each line that it reads, a process that adds accounts until it is killed.
_ADDER = """
import os, sys
from tests.accounts.house import House, refresh
for _ in sys.stdin:
    if adder := os.fork():
        os.waitpid(adder, 0)
        print("ended", flush=True)
        continue
    house = House(sys.argv[1])
    house.manager.add(refresh("user0"))
    print(os.getpid(), flush=True)
    for number in range(1, 100_000):
        house.manager.add(refresh(f"user{number % 50}"))
"""


def test_a_kill_while_accounts_are_added_leaves_no_half_account(running: Running) -> None:
    """Again and again, at any moment. ``KILLS`` says how often."""
    database = running.new_database()
    assert isinstance(database, SqliteDatabase)
    with closing(House(database.url)):
        pass
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-c", _ADDER, database.url], cwd=ROOT, **pipes) as adders:
        assert adders.stdin is not None and adders.stdout is not None
        for number in range(int(os.environ.get("KILLS", "3"))):
            adders.stdin.write("add\n")
            adder = int(adders.stdout.readline())
            time.sleep(0.05 + 0.037 * (number % 13))
            os.kill(adder, signal.SIGKILL)
            assert adders.stdout.readline() == "ended\n"
            added = Tables(database).added_accounts()
            assert added and all(begun and sealed for _, begun, sealed in added)
            assert Tables(database).chains_without_account() == 0
            with closing(House(database.url)) as house:
                assert len(house.tokens()) == len(added)


def test_standings_follow_what_is_known(running: Running) -> None:
    with closing(House(running.new_database().url)) as house:
        (account,) = house.manager.add(A, label="home")
        kinds = [standing.kind for standing in account.standings]
        assert kinds == ["serving"] and account.capacity == 2 and not account.has_access_token
        assert house.manager.pause("home").standings[0].kind == "paused"
        paused_at = house.manager.find("home").paused_at
        assert paused_at is not None and house.manager.pause("home").paused_at == paused_at
        assert house.manager.resume("home").standings[0].kind == "serving"
        assert house.manager.rest("home", 60).standings[0].kind == "cooling"
        assert house.manager.wake("home").standings[0].kind == "serving"
        house.store.tokens.save_error(account.id, 1, "Kimi answers 401", True)
        revoked = house.manager.find("home")
        assert revoked.revoked and revoked.standings[0].kind == "needs_login"
        assert not house.manager.wake("home").revoked


def test_a_renewal_is_due_once_whatever_the_token_says_of_its_beginning(running: Running) -> None:
    """A token without ``iat`` that lives for less than the gateway renews ahead was renewed in a circle."""
    with closing(House(running.new_database().url)) as house:
        (account,) = house.manager.add(A, label="home")
        for version, lifetime_s in enumerate((20.0, 90.0, 900.0), start=1):
            began = time.time()
            assert house.store.tokens.save(account.id, version, f"opaque-{version}", A, began + lifetime_s)
            row = house.store.tokens.find(account.id)
            status = house.manager.find("home")
            assert row is not None and row.expires_at is not None and status.renews_at is not None
            # Not at once, and while a good part of its life is left.
            assert began + lifetime_s * 0.6 < status.renews_at < time.time() + lifetime_s * 0.7 + 1

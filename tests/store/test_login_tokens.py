"""The pairs of login tokens in the store, on both databases."""

from contextlib import closing

import pytest

from app.store import Store, StoreUnusable
from tests.running import BOTH_DATABASES, Database, Running

SECRET = "a long enough password"


def begin(store: Store, source: str, refresh_token: str) -> None:
    store.tokens.begin("alice", source, None, refresh_token, None)


@BOTH_DATABASES
def test_a_changed_entry_begins_a_new_chain_and_an_unchanged_one_goes_on(running: Running, database: str) -> None:
    with closing(Store(running.new_database().url)) as store:
        begin(store, "first entry", "first")
        assert store.tokens.acquire("alice", 1, "a process", 0.0, 9.0) is not None
        assert store.tokens.save("alice", 1, "access", "second", 99.0)
        begin(store, "first entry", "first")
        row = store.tokens.find("alice")
        assert row is not None and (row.version, row.refresh_token, row.expires_at) == (2, "second", 99.0)
        store.tokens.save_error("alice", 2, "expired", True)
        begin(store, "another entry", "third")
        row = store.tokens.find("alice")
        assert row is not None and (row.version, row.refresh_token, row.access_token) == (3, "third", None)
        # What was wrong with the old one is not wrong with the new one.
        assert store.tokens.acquire("alice", 3, "a process", 0.0, 9.0) is not None


@BOTH_DATABASES
def test_one_process_at_a_time_may_renew_a_pair(running: Running, database: str) -> None:
    with closing(Store(running.new_database().url)) as store:
        begin(store, "an entry", "first")
        assert store.tokens.acquire("alice", 1, "one", 0.0, 9.0) is not None
        assert store.tokens.acquire("alice", 1, "other", 8.0, 17.0) is None
        store.tokens.extend("alice", "one", 20.0)
        assert store.tokens.acquire("alice", 1, "other", 19.0, 28.0) is None
        assert store.tokens.acquire("alice", 1, "other", 20.0, 29.0) is not None
        # Who had it before may still have the next pair: the first one that comes is kept.
        assert store.tokens.save("alice", 1, "access", "second", 99.0)
        assert not store.tokens.save("alice", 1, "access", "another second", 99.0)
        assert store.tokens.acquire("alice", 1, "one", 99.0, 108.0) is None


@BOTH_DATABASES
def test_a_renewal_that_one_machine_does_not_do_may_be_asked_of_another(running: Running, database: str) -> None:
    with closing(Store(running.new_database().url)) as store:
        begin(store, "an entry", "first")

        def asked() -> list[int]:
            return [len(store.tokens.wanted(role)) for role in ("one machine", "another")]

        store.tokens.want("alice", 1, "one machine", "{}")
        assert asked() == [1, 0]
        # It was stopped, or cannot read the pair.
        store.tokens.want("alice", 1, "another", "{}")
        assert asked() == [0, 1]
        now = store.database.now()
        assert store.tokens.acquire("alice", 1, "a process", now, now + 9) is not None
        store.tokens.want("alice", 1, "one machine", "{}")
        assert asked() == [0, 1], "it is just being renewed"


@BOTH_DATABASES
def test_a_secret_seals_what_is_there_and_what_comes(running: Running, database: str) -> None:
    kept: Database = running.new_database()
    with closing(Store(kept.url)) as store:
        begin(store, "an entry", "a plain refresh token")
    assert b"a plain refresh token" in kept.content()
    with closing(Store(kept.url, SECRET)) as store:
        store.tokens.seal()
        begin(store, "an entry", "ignored")
        row = store.tokens.find("alice")
        assert row is not None and row.refresh_token == "a plain refresh token"
        assert store.tokens.acquire("alice", 1, "a process", 0.0, 9.0) is not None
        assert store.tokens.save("alice", 1, "an access token", "the next refresh token", 99.0)
        row = store.tokens.find("alice")
        assert row is not None and row.refresh_token == "the next refresh token"
    assert not any(token in kept.content() for token in (b"the next refresh token", b"an access token"))


@BOTH_DATABASES
@pytest.mark.parametrize(
    ("secret", "says"), [(None, "but GATEWAY_SECRET is not set"), ("another long password", "another GATEWAY_SECRET")]
)
def test_who_lacks_the_secret_cannot_open_the_store(
    running: Running, database: str, secret: str | None, says: str
) -> None:
    kept = running.new_database()
    with closing(Store(kept.url, SECRET)) as store:
        begin(store, "an entry", "a refresh token")
    with pytest.raises(StoreUnusable, match=says):
        Store(kept.url, secret)

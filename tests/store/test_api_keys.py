"""What an API key has used, by the store itself: exact over a moving minute, and as cheap after many requests."""

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import sqlalchemy as sa

from app.store import KeyRow, Store
from tests.running import BOTH_DATABASES, Running

_KEY = KeyRow("digest", "ann", 0.0, None, None, per_minute=20, at_once=None)


@pytest.fixture
def store(running: Running, database: str) -> Iterator[Store]:
    with closing(Store(running.new_database().url)) as store:
        yield store


def use(store: Store, key: KeyRow, now: float, number: int = 0) -> bool:
    """Whether a request is counted that begins now."""
    process = store.database.process_id
    return store.keys.begin_use(key, f"{now}-{number}", window_s=60, process_id=process, now=now, ends_at=now + 1000)[
        1
    ]


def rows(store: Store) -> int:
    row = store.database.row(sa.text("SELECT count(*) AS n FROM api_key_seconds"))
    assert row is not None
    return int(row["n"])


@BOTH_DATABASES
def test_no_minute_has_more_requests_than_were_allowed(store: Store, database: str) -> None:
    dice, now, counted = random.Random(5), 1_000_000.25, list[float]()
    for number in range(600):
        now += dice.choice((0.001, 0.3, 1.0, 2.9, 7.0))
        if use(store, _KEY, now, number):
            counted.append(now)
        in_window = [at for at in counted if at > now - 60]
        assert len(in_window) <= 20
        # Nor are they refused for long because they are counted by the second.
        assert len([at for at in counted if at > now - 61]) >= 20 or counted[-1] == now


@BOTH_DATABASES
def test_what_is_kept_of_a_key_does_not_grow_with_its_requests(store: Store, database: str) -> None:
    key = replace(_KEY, per_minute=1_000_000)
    for number in range(600):
        assert use(store, key, 1_000_000 + number * 0.25, number)
    assert (kept := rows(store)) <= 61
    # And nothing of it once it makes no more.
    assert store.keys.delete_forgotten(1_001_000, 40) == 40
    assert store.keys.delete_forgotten(1_001_000, 40) == kept - 40
    assert rows(store) == 0


@BOTH_DATABASES
def test_a_clock_that_is_set_back_keeps_no_key_from_asking(store: Store, database: str) -> None:
    now = 1_000_000.0
    for number in range(20):
        assert use(store, _KEY, now, number)
    assert not use(store, _KEY, now, 20)
    assert use(store, _KEY, now - 3600, 21)


@BOTH_DATABASES
def test_changes_are_found_by_their_number(store: Store, database: str) -> None:
    for name in ("ann", "bob"):
        assert store.keys.add(replace(_KEY, digest=name, name=name))
    assert [row.name for row in store.keys.changed_since(-1)] == ["ann", "bob"]
    (newest,) = store.keys.changed_since(1)
    assert newest.name == "bob" and store.keys.changed_since(newest.version) == []
    assert store.keys.revoke("ann", 5.0, str) and not store.keys.revoke("ann", 6.0, str)
    (changed,) = store.keys.changed_since(newest.version)
    assert (changed.name, changed.revoked_at) == ("ann", 5.0)
    assert [row.name for row in store.keys.after("", 1)] == ["ann"]
    assert [row.name for row in store.keys.after("ann", 9)] == ["bob"]

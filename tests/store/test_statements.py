"""Statements that must not read a whole table: what SQLite says about how it executes them."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from app.store import Store, chat_cleanup, conversations, files, idempotency, leases, processes, uploads
from app.store import accounts as accounts_store
from app.store.dialects import Statement
from tests.running import Running, SqliteDatabase

LIMITS = {"now": 1.0, "max_streams": 1, "latest_next_at": 2.0}
STATEMENTS: Mapping[str, tuple[Statement, dict[str, Any]]] = {
    "accounts in use": (accounts_store._SEE, {"ids": "[]", "now": 1.0}),
    "the best free account": (leases._FREE_FIRST, {"scope": "k2", "most": 8, **LIMITS}),
    "the best account of some": (leases._FREE_OF_WISH, {"scope": "k2", "ids": "[]", **LIMITS}),
    "one account": (leases._FREE_ONE, {"scope": "k2", "of_id": "a", **LIMITS}),
    "an account that is free at once": (leases._SOME_AT_ONCE, {"scope": "k2", "most": 8, **LIMITS}),
    "an account of some that is free at once": (
        leases._OF_WISH_AT_ONCE,
        {"scope": "k2", "ids": "[]", "most": 8, **LIMITS},
    ),
    "one account, at once": (leases._ONE_AT_ONCE, {"scope": "k2", "of_id": "a", **LIMITS}),
    "room on any account": (leases._SOME_MAY_START, LIMITS),
    "a lease more": (leases._ONE_MORE_STREAM, {"of_id": "a", "next_at": 1.0}),
    "a lease less": (leases._ONE_STREAM_LESS, {"of_id": "a"}),
    "requests that wait no more": (leases._DECIDED, {"of_process": "p"}),
    "leases that were delivered": (leases._DELIVERED, {"ids": "[]"}),
    "the queue of a wish": (leases._TICKETS_OF_WISH, {"of_wish": "w", "most": 10}),
    "the places of a dead process": (processes._DELETE_LEFTOVERS[1], {"of_process": "p"}),
    "held conversations": (conversations._HELD_AMONG, {"keys": "[]"}),
    "conversations of a key": (conversations._COUNT, {"of_owner": "o", "most": 10}),
    "unused conversations": (
        conversations._DELETE_UNUSED,
        {"of_kind": "response", "before": 1.0, "most": 9, "now": 1.0},
    ),
    "running answers": (idempotency._RUNNING_AMONG, {"ids": "[]"}),
    "sizes of a key's answers": (idempotency._SUM, {"of_owner": "o"}),
    "expired answers": (idempotency._OLDER, {"before": 1.0, "most": 10}),
    "deleted answers": (idempotency._DELETE_MANY, {"ids": "[]"}),
    "files of a key": (files._USED, {"of_owner": "o"}),
    "a page of files": (
        files._NEWEST,
        {"of_owner": "o", "purpose": "", "at": 1.0, "after": "", "most": 9, "now": 1.0},
    ),
    "files of several ids": (files._KNOWN, {"ids": "[]"}),
    "expired files": (files._EXPIRED, {"now": 1.0, "most": 9}),
    "old uploads": (uploads._DELETE_OLD, {"before": 1.0}),
    "a chat to delete": (
        chat_cleanup._CLAIM,
        {"now": 1.0, "again_at": 2.0, "upstreams": "[]", "accounts": "[]"},
    ),
}


def test_a_statement_reads_by_an_index(running: Running) -> None:
    database = running.new_database()
    assert isinstance(database, SqliteDatabase)
    with closing(Store(database.url)) as store:
        prepared = {name: store.database._statements.prepared(*one) for name, one in STATEMENTS.items()}
    with closing(sqlite3.connect(database.url.removeprefix("sqlite:///"))) as connection:
        plans = {
            name: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
            for name, (sql, parameters) in prepared.items()
        }
    assert {name: plan for name, plan in plans.items() if any(reads_a_whole_table(step) for step in plan)} == {}
    assert all(plans.values())


def reads_a_whole_table(step: str) -> bool:
    """Or sorts what it has read."""
    if "TEMP B-TREE FOR ORDER BY" in step:
        return True
    return step.startswith("SCAN") and not any(word in step for word in ("VIRTUAL TABLE", "INDEX", "anon_"))

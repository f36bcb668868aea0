"""Streams that run on accounts, the queue of requests that wait for one, and cooldowns. Knows not who is next.

Whatever depends on what others do at the same time takes a Transaction of ``Database.in_exclusive_transaction``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from app.store.database import Database, Row, Transaction
from app.store.dialects import listed, one_of, per_dialect
from app.store.processes import is_alive
from app.store.tables import accounts as account_table
from app.store.tables import cooldowns, leases, queue

# The scope of a cooldown that concerns the whole account. Other scopes are model ids.
WHOLE_ACCOUNT = ""
# The cause of a cooldown that ends with another token: Kimi has rejected this one.
REJECTED = "rejected"
# The account id of a cooldown that concerns a model of all accounts.
ALL_ACCOUNTS = ""


@dataclass(frozen=True, slots=True)
class Cooldown:
    """An account gets no requests before ``until``, after ``failures`` failures in a row. ``cause``: of the last one,
    where it matters."""

    until: float
    failures: int
    cause: str = ""


@dataclass(slots=True)
class AccountState:
    """An account as the database knows it.

    ``last_turn``: number of its latest stream, counted over all accounts. ``next_at``: the earliest start of its next
    stream. ``refused``: digest of the token that Kimi has rejected. ``active``: model → number of running streams.
    ``newest_at``: model → when the latest of them began. ``cooldowns``: model or WHOLE_ACCOUNT → cooldown, also
    those that are over.
    """

    id: str
    last_turn: int
    next_at: float
    refused: str | None
    active: dict[str, int] = field(default_factory=dict)
    newest_at: dict[str, float] = field(default_factory=dict)
    cooldowns: dict[str, Cooldown] = field(default_factory=dict)

    @property
    def streams(self) -> int:
        return sum(self.active.values())

    def cooldowns_for(self, scope: str, token: str) -> dict[str, Cooldown]:
        """Those that concern a request for this model with the token of this digest."""
        return {
            name: cooldown
            for name, cooldown in self.cooldowns.items()
            if name in (WHOLE_ACCOUNT, scope) and (cooldown.cause != REJECTED or self.refused == token)
        }


@dataclass(frozen=True, slots=True)
class Accounts:
    """All accounts. ``models``: model → cooldown of it on all of them, also one that is over."""

    states: Sequence[AccountState]
    models: Mapping[str, Cooldown] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that wants an account.

    ``owner``: its API key. ``scope``: its model. ``accounts``: id of each account that may serve it → digest of the
    account's token. ``position``: in the queue; several tickets may share one.
    """

    id: str
    owner: str
    scope: str
    accounts: Mapping[str, str]
    position: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """``ticket`` gets a stream on ``account_id``, which may start its next one at ``next_at``.

    ``is_probe``: the first stream after a cooldown of the account.
    """

    ticket: Ticket
    account_id: str
    last_turn: int
    next_at: float
    is_probe: bool


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A stream that may run on an account. ``id``: that of its ticket."""

    id: str
    account_id: str
    scope: str
    is_probe: bool


_P = sa.bindparam

_running = (
    sa.select(
        leases.c.account_id,
        leases.c.scope,
        sa.func.count().label("streams"),
        sa.func.max(leases.c.started_at).label("newest_at"),
    )
    .where(leases.c.ends_at > _P("now"), is_alive(leases.c.process_id))
    .group_by(leases.c.account_id, leases.c.scope)
    .subquery()
)
# One row per account and model with running streams. It also says whether the other two tables hold anything, which
# is rare: reading an empty table costs as much as this whole statement.
_ACCOUNTS = sa.select(
    *account_table.c,
    _running.c.scope,
    _running.c.streams,
    _running.c.newest_at,
    sa.exists(sa.select(cooldowns.c.account_id)).label("has_cooldowns"),
    sa.exists(sa.select(queue.c.id)).label("has_queue"),
).select_from(account_table.outerjoin(_running, _running.c.account_id == account_table.c.id))
_COOLDOWNS = sa.select(*cooldowns.c)
_QUEUE = (
    sa.select(*queue.c)
    .where(queue.c.ends_at > _P("now"), is_alive(queue.c.process_id))
    .order_by(queue.c.place, queue.c.joined_at, queue.c.id)
)
_GRANT = per_dialect(
    lambda insert: (
        insert(leases)
        .values({column: _P(column.name) for column in leases.c})
        .on_conflict_do_nothing(index_elements=["id"])
    )
)
_SET_TURN = (
    sa.update(account_table)
    .where(account_table.c.id == _P("of_id"))
    .values(last_turn=_P("last_turn"), next_at=_P("next_at"))
)
_ENQUEUE = per_dialect(
    lambda insert: (
        insert(queue)
        .values({column: _P(column.name) for column in queue.c})
        .on_conflict_do_nothing(index_elements=["id"])
    )
)
_DEQUEUE = sa.delete(queue).where(queue.c.id == _P("of_id"))
_DEQUEUE_RETURNING = _DEQUEUE.returning(queue.c.process_id)
_RELEASE = sa.delete(leases).where(leases.c.id == _P("of_id"))
_LEASE_COLUMNS = (leases.c.id, leases.c.account_id, leases.c.scope, leases.c.is_probe)
_GRANTED = sa.select(*_LEASE_COLUMNS).where(leases.c.process_id == _P("of_process"), leases.c.waited)
_FIND = sa.select(*_LEASE_COLUMNS).where(leases.c.id == _P("of_id"))
_FIND_COOLDOWN = sa.select(*cooldowns.c).where(
    cooldowns.c.account_id == _P("of_id"), cooldowns.c.scope == _P("of_scope")
)
_SET_COOLDOWN = per_dialect(
    lambda insert: (
        insert(cooldowns)
        .values({column: _P(column.name) for column in cooldowns.c})
        .on_conflict_do_update(
            index_elements=["account_id", "scope"],
            set_={"until": _P("until"), "strikes": _P("strikes"), "cause": _P("cause")},
        )
    )
)
_DELETE_COOLDOWNS = sa.delete(cooldowns).where(cooldowns.c.account_id == _P("of_id"))
_DELETE_COOLDOWN = _DELETE_COOLDOWNS.where(cooldowns.c.scope == _P("of_scope"))
_CLEAR_COOLDOWNS = sa.delete(cooldowns).where(
    one_of(cooldowns.c.account_id, "accounts"),
    one_of(cooldowns.c.scope, "scopes"),
    cooldowns.c.until <= _P("now"),
)


class LeaseRows:
    """The tables ``leases``, ``line`` (the queue) and ``rests`` (the cooldowns)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def snapshot(self, tx: Transaction, now: float) -> tuple[Accounts, list[Ticket]]:
        """All accounts with their streams and cooldowns, and the queue in its order."""
        rows = tx.rows(_ACCOUNTS, now=now)
        found: dict[str, AccountState] = {}
        for row in rows:
            state = found.get(row["id"])
            if state is None:
                state = found[row["id"]] = AccountState(row["id"], row["last_turn"], row["next_at"], row["refused"])
            if row["streams"]:
                state.active[row["scope"]] = row["streams"]
                state.newest_at[row["scope"]] = row["newest_at"]
        models: dict[str, Cooldown] = {}
        for row in tx.rows(_COOLDOWNS) if rows and rows[0]["has_cooldowns"] else ():
            cooldown = Cooldown(row["until"], row["strikes"], row["cause"])
            if row["account_id"] == ALL_ACCOUNTS:
                models[row["scope"]] = cooldown
            elif row["account_id"] in found:
                found[row["account_id"]].cooldowns[row["scope"]] = cooldown
        tickets = [
            Ticket(row["id"], row["owner"], row["scope"], json.loads(row["accounts"]), row["place"])
            for row in (tx.rows(_QUEUE, now=now) if rows and rows[0]["has_queue"] else ())
        ]
        return Accounts(list(found.values()), models), tickets

    def grant(self, tx: Transaction, grant: Grant, process_id: str | None, now: float, ends_at: float) -> None:
        """Makes a ticket a lease. ``process_id``: None for a ticket in the queue, whose process is stored there."""
        ticket, waited = grant.ticket, process_id is None
        if waited:
            # In one step: a request that leaves the queue meanwhile must find either its place in it or its lease.
            row = tx.row(_DEQUEUE_RETURNING, of_id=ticket.id)
            if row is None:
                return
            process_id = row["process_id"]
        tx.run(
            _GRANT,
            id=ticket.id,
            process_id=process_id,
            account_id=grant.account_id,
            scope=ticket.scope,
            is_probe=grant.is_probe,
            waited=waited,
            started_at=now,
            ends_at=ends_at,
        )
        tx.run(_SET_TURN, of_id=grant.account_id, last_turn=grant.last_turn, next_at=grant.next_at)

    def find(self, tx: Transaction, ticket_id: str) -> LeaseRow | None:
        """The lease of a ticket, if it has one."""
        row = tx.row(_FIND, of_id=ticket_id)
        return None if row is None else _lease(row)

    def enqueue(self, tx: Transaction, ticket: Ticket, process_id: str, now: float, ends_at: float) -> None:
        """Adds a ticket to the queue. It is valid until ``ends_at``, or until its process is dead."""
        tx.run(
            _ENQUEUE,
            id=ticket.id,
            process_id=process_id,
            owner=ticket.owner,
            scope=ticket.scope,
            accounts=json.dumps(dict(ticket.accounts)),
            place=ticket.position,
            joined_at=now,
            ends_at=ends_at,
        )

    def dequeue(self, tx: Transaction, ticket_id: str) -> None:
        """Removes a ticket from the queue."""
        tx.run(_DEQUEUE, of_id=ticket_id)

    def withdraw(self, ticket_id: str) -> None:
        """Removes a ticket from the queue, and its lease if it has got one."""
        self._database.run(_DEQUEUE, of_id=ticket_id)
        self._database.run(_RELEASE, of_id=ticket_id)

    def granted(self, process_id: str) -> list[LeaseRow]:
        """The leases that requests of this process have got by waiting in the queue."""
        return [_lease(row) for row in self._database.rows(_GRANTED, of_process=process_id)]

    def release(self, lease_id: str) -> None:
        self._database.run(_RELEASE, of_id=lease_id)

    def cooldown(self, tx: Transaction, account_id: str, scope: str) -> Cooldown | None:
        """The cooldown of an account, also if it is over."""
        row = tx.row(_FIND_COOLDOWN, of_id=account_id, of_scope=scope)
        return None if row is None else Cooldown(row["until"], row["strikes"], row["cause"])

    def set_cooldown(self, tx: Transaction, account_id: str, scope: str, cooldown: Cooldown) -> None:
        tx.run(
            _SET_COOLDOWN,
            account_id=account_id,
            scope=scope,
            until=cooldown.until,
            strikes=cooldown.failures,
            cause=cooldown.cause,
        )

    def delete_cooldown(self, tx: Transaction, account_id: str, scope: str) -> None:
        tx.run(_DELETE_COOLDOWN, of_id=account_id, of_scope=scope)

    def delete_cooldowns(self, account_id: str) -> None:
        """All of an account, over or not."""
        self._database.run(_DELETE_COOLDOWNS, of_id=account_id)

    def clear_cooldowns(self, account_id: str, scopes: Sequence[str], now: float) -> None:
        """Deletes the cooldowns that are over, and with them the counts of failures; those of models of all accounts,
        too."""
        accounts = listed((account_id, ALL_ACCOUNTS))
        self._database.run(_CLEAR_COOLDOWNS, accounts=accounts, scopes=listed(scopes), now=now)


def _lease(row: Row) -> LeaseRow:
    # SQLite has no booleans of its own.
    return LeaseRow(**{**row, "is_probe": bool(row["is_probe"])})

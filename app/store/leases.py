"""Running streams, the line of requests that wait for one, and resting accounts. Must never know who is next.

Everything that depends on what others do at the same time takes a ``Transaction`` of ``Database.exclusively``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.dialects import listed, one_of, per_dialect
from app.store.processes import lives
from app.store.tables import accounts, cooldowns, leases, queue

# The scope of a rest that concerns the whole account; others are model ids.
WHOLE_ACCOUNT = ""


@dataclass(frozen=True, slots=True)
class Rest:
    """An account is left alone until ``until``, after ``strikes`` failures in a row."""

    until: float
    strikes: int


@dataclass(slots=True)
class AccountState:
    """What the store knows of an account. ``active``: running streams by scope; ``newest_at``: when the last of them
    began. ``refused``: the digest of the token that Kimi has rejected."""

    id: str
    last_turn: int
    next_at: float
    refused: str | None
    active: dict[str, int] = field(default_factory=dict)
    newest_at: dict[str, float] = field(default_factory=dict)
    rests: dict[str, Rest] = field(default_factory=dict)

    @property
    def streams(self) -> int:
        return sum(self.active.values())

    def rest_of(self, scope: str) -> list[Rest]:
        return [self.rests[name] for name in {WHOLE_ACCOUNT, scope} if name in self.rests]

    def rests_until(self, scope: str) -> float:
        return max((rest.until for rest in self.rest_of(scope)), default=0.0)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that wants an account. ``accounts``: those that will do, with the digests of their tokens."""

    id: str
    owner: str
    scope: str
    accounts: Mapping[str, str]
    place: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """``ticket`` is served by ``account_id``, which may start its next stream at ``next_at``. ``is_probe``: the
    account's rest has just ended."""

    ticket: Ticket
    account_id: str
    last_turn: int
    next_at: float
    is_probe: bool


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A stream that may run on an account."""

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
    .where(leases.c.ends_at > _P("now"), lives(leases.c.process_id))
    .group_by(leases.c.account_id, leases.c.scope)
    .subquery()
)
# And whether the other two tables hold anything, which is seldom: a statement costs as much as its transaction.
_ACCOUNTS = sa.select(
    *accounts.c,
    _running.c.scope,
    _running.c.streams,
    _running.c.newest_at,
    sa.exists(sa.select(cooldowns.c.account_id)).label("some_rest"),
    sa.exists(sa.select(queue.c.id)).label("some_wait"),
).select_from(accounts.outerjoin(_running, _running.c.account_id == accounts.c.id))
_RESTS = sa.select(*cooldowns.c)
_LINE = (
    sa.select(*queue.c)
    .where(queue.c.ends_at > _P("now"), lives(queue.c.process_id))
    .order_by(queue.c.place, queue.c.joined_at, queue.c.id)
)
_GRANT = per_dialect(
    lambda insert: (
        insert(leases)
        .values({column: _P(column.name) for column in leases.c})
        .on_conflict_do_nothing(index_elements=["id"])
    )
)
_TAKE_TURN = (
    sa.update(accounts).where(accounts.c.id == _P("of_id")).values(last_turn=_P("last_turn"), next_at=_P("next_at"))
)
_JOIN = per_dialect(
    lambda insert: (
        insert(queue)
        .values({column: _P(column.name) for column in queue.c})
        .on_conflict_do_nothing(index_elements=["id"])
    )
)
_LEAVE = sa.delete(queue).where(queue.c.id == _P("of_id"))
_TAKE_OUT = _LEAVE.returning(queue.c.process_id)
_RELEASE = sa.delete(leases).where(leases.c.id == _P("of_id"))
_GRANTED = sa.select(leases.c.id, leases.c.account_id, leases.c.scope, leases.c.is_probe).where(
    leases.c.process_id == _P("of_process"), leases.c.waited
)
_FIND_LEASE = sa.select(leases.c.id, leases.c.account_id, leases.c.scope, leases.c.is_probe).where(
    leases.c.id == _P("of_id")
)
_REST_OF = sa.select(*cooldowns.c).where(cooldowns.c.account_id == _P("of_id"), cooldowns.c.scope == _P("of_scope"))
_PUT_TO_REST = per_dialect(
    lambda insert: (
        insert(cooldowns)
        .values({column: _P(column.name) for column in cooldowns.c})
        .on_conflict_do_update(
            index_elements=["account_id", "scope"], set_={"until": _P("until"), "strikes": _P("strikes")}
        )
    )
)
_WAKE = sa.delete(cooldowns).where(
    cooldowns.c.account_id == _P("of_id"),
    one_of(cooldowns.c.scope, "scopes"),
    cooldowns.c.until <= _P("now"),
)


class LeaseRows:
    """The tables of leases, of the line, and of rests."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def snapshot(self, tx: Transaction, now: float) -> tuple[list[AccountState], list[Ticket]]:
        """Every account with what runs on it and its rests; and who waits, in order."""
        rows = tx.rows(_ACCOUNTS, now=now)
        found: dict[str, AccountState] = {}
        for row in rows:
            state = found.get(row["id"])
            if state is None:
                state = found[row["id"]] = AccountState(row["id"], row["last_turn"], row["next_at"], row["refused"])
            if row["streams"]:
                state.active[row["scope"]] = row["streams"]
                state.newest_at[row["scope"]] = row["newest_at"]
        for row in tx.rows(_RESTS) if rows and rows[0]["some_rest"] else ():
            if row["account_id"] in found:
                found[row["account_id"]].rests[row["scope"]] = Rest(row["until"], row["strikes"])
        line = [
            Ticket(row["id"], row["owner"], row["scope"], json.loads(row["accounts"]), row["place"])
            for row in (tx.rows(_LINE, now=now) if rows and rows[0]["some_wait"] else ())
        ]
        return list(found.values()), line

    def grant(self, tx: Transaction, grant: Grant, process_id: str | None, now: float, ends_at: float) -> None:
        """A ticket becomes a lease. ``process_id``: None for that which waits in the line."""
        ticket, waited = grant.ticket, process_id is None
        if waited:
            # In one step: whoever leaves the line meanwhile must find either its place there or its lease.
            row = tx.row(_TAKE_OUT, of_id=ticket.id)
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
        tx.run(_TAKE_TURN, of_id=grant.account_id, last_turn=grant.last_turn, next_at=grant.next_at)

    def lease(self, tx: Transaction, ticket_id: str) -> LeaseRow | None:
        """What a ticket has become already."""
        row = tx.row(_FIND_LEASE, of_id=ticket_id)
        return None if row is None else LeaseRow(**{**row, "is_probe": bool(row["is_probe"])})

    def join(self, tx: Transaction, ticket: Ticket, process_id: str, now: float, ends_at: float) -> None:
        """To the line."""
        tx.run(
            _JOIN,
            id=ticket.id,
            process_id=process_id,
            owner=ticket.owner,
            scope=ticket.scope,
            accounts=json.dumps(dict(ticket.accounts)),
            place=ticket.place,
            joined_at=now,
            ends_at=ends_at,
        )

    def leave_line(self, tx: Transaction, ticket_id: str) -> None:
        tx.run(_LEAVE, of_id=ticket_id)

    def leave(self, ticket_id: str) -> None:
        """Neither in the line nor with a lease any more."""
        self._database.run(_LEAVE, of_id=ticket_id)
        self._database.run(_RELEASE, of_id=ticket_id)

    def granted(self, process_id: str) -> list[LeaseRow]:
        """What requests of this process have got after waiting."""
        rows = self._database.rows(_GRANTED, of_process=process_id)
        return [LeaseRow(**{**row, "is_probe": bool(row["is_probe"])}) for row in rows]

    def release(self, lease_id: str) -> None:
        self._database.run(_RELEASE, of_id=lease_id)

    def rest_of(self, tx: Transaction, account_id: str, scope: str) -> Rest | None:
        row = tx.row(_REST_OF, of_id=account_id, of_scope=scope)
        return None if row is None else Rest(row["until"], row["strikes"])

    def put_to_rest(self, tx: Transaction, account_id: str, scope: str, until: float, strikes: int) -> None:
        tx.run(_PUT_TO_REST, account_id=account_id, scope=scope, until=until, strikes=strikes)

    def wake(self, account_id: str, scopes: Sequence[str], now: float) -> None:
        """Rests that are over are forgotten, with their strikes."""
        self._database.run(_WAKE, of_id=account_id, scopes=listed(scopes), now=now)

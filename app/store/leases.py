"""Streams that run on accounts, the queue of requests that wait for one, and cooldowns. Knows not who is next.

Nothing is read whole: each step reads a few rows by an index, whatever the number of accounts, streams and requests
that wait. Whatever depends on what others do at the same time takes a Transaction of
``Database.in_exclusive_transaction``.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import sqlalchemy as sa

from app.store.database import Database, Row, Transaction
from app.store.dialects import listed, one_of, per_dialect
from app.store.tables import accounts, cooldowns, leases, queue, wishes

T = TypeVar("T")

# The scope of a cooldown that concerns the whole account. Other scopes are model ids.
WHOLE_ACCOUNT = ""
# The cause of a cooldown that ends with another token: Kimi has rejected this one.
REJECTED = "rejected"
# The cause of a cooldown that the owner wanted.
BY_HAND = "by hand"
# The account id of a cooldown that concerns a model of all accounts.
ALL_ACCOUNTS = ""


@dataclass(frozen=True, slots=True)
class Cooldown:
    """An account gets no requests before ``until``, after ``failures`` failures in a row. ``cause``: of the last one,
    where it matters."""

    until: float
    failures: int
    cause: str = ""


@dataclass(frozen=True, slots=True)
class FreeAccount:
    """An account on which a stream may begin now, unless Kimi has rejected its token.

    ``refused``: digest of the token that Kimi has rejected. ``may_retry``: a stream may begin also with that token,
    because its cooldown is over. ``is_probe``: the stream will be the first after another cooldown.
    """

    id: str
    refused: str | None
    may_retry: bool
    is_probe: bool


@dataclass(frozen=True)
class Wish:
    """What a request wants. Requests that want the same share it.

    ``scope``: the model. ``accounts``: id of each account that may serve it → digest of the account's token.
    """

    scope: str
    accounts: Mapping[str, str]

    @cached_property
    def listed(self) -> str:
        """``accounts`` as it is stored."""
        return json.dumps(dict(self.accounts), sort_keys=True)

    @cached_property
    def ids(self) -> str:
        """The ids, for ``one_of``."""
        return listed(list(self.accounts))

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(f"{self.scope}\0{self.listed}".encode()).hexdigest()

    @cached_property
    def lines(self) -> str:
        """A line ``id=digest`` for each account, between line ends, in which a database finds one quickly."""
        return "\n".join(("", *(f"{id_}={digest}" for id_, digest in self.accounts.items()), ""))

    @property
    def only_account(self) -> tuple[str | None, str | None]:
        """The account and its digest, if there is one only."""
        return next(iter(self.accounts.items())) if len(self.accounts) == 1 else (None, None)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that wants an account. ``owner``: its API key. ``question``: digests of what it will ask in a new
    chat (see ``lost_chats``); None if it opens none."""

    id: str
    owner: str
    wish: Wish
    question: str | None = None


@dataclass(frozen=True, slots=True)
class QueuedTicket:
    """A ticket in the queue. ``position``: several tickets may share one."""

    id: str
    process_id: str
    owner: str
    position: int
    joined_at: float
    question: str | None

    @property
    def order(self) -> tuple[int, float, str]:
        """By this the queue is sorted."""
        return self.position, self.joined_at, self.id


@dataclass(frozen=True, slots=True)
class Load:
    """Streams that run, requests that wait for an account, and since when the first of these waits."""

    running: int
    waiting: int
    waiting_since: float | None


@dataclass(frozen=True, slots=True)
class QueueState:
    """``head``: the first position, None if the queue is empty. ``last_of_owner``: the last position of an API key,
    None if it has none. ``waiting``: the number of tickets. ``some_may_start``: False if no account has room for a
    stream. ``some_cool_down``: False if nothing keeps an account from a model.
    """

    head: int | None
    last_of_owner: int | None
    waiting: int
    some_may_start: bool
    some_cool_down: bool


@dataclass(frozen=True, slots=True)
class Grant:
    """A stream on ``account_id``, which may start its next one at ``next_at``.

    ``is_probe``: the first stream after a cooldown of the account. ``ends_at``: it is not valid after that.
    """

    account_id: str
    scope: str
    is_probe: bool
    now: float
    next_at: float
    ends_at: float


@dataclass(frozen=True, slots=True)
class FreeLimits:
    """Which accounts are free at ``now``: those with fewer than ``max_streams``, which may start a stream. Their
    ``next_at`` is past, or beyond ``latest_next_at``: then it was written before the clock was set back.
    """

    now: float
    max_streams: int
    latest_next_at: float


@dataclass(frozen=True, slots=True)
class CooldownRow:
    """A cooldown of an account, or of a model on ALL_ACCOUNTS. ``refused``: digest of the account's token that Kimi
    has rejected.
    """

    account_id: str
    cooldown: Cooldown
    refused: str | None


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A stream that may run on an account. ``id`` and ``question``: those of its ticket."""

    id: str
    account_id: str
    scope: str
    is_probe: bool
    started_at: float
    question: str | None


_P = sa.bindparam

# The cooldowns of an account and of the model on it.
_whole, _model = cooldowns.alias("whole"), cooldowns.alias("model")


def _is_over(cooldown: Any, *of_stream: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Whether there is no such cooldown, or it is over and its probe does not run already: a stream that began after
    it. Earlier streams say nothing about it.
    """
    probe = sa.select(leases.c.id).where(
        leases.c.account_id == accounts.c.id, leases.c.started_at >= cooldown.c.until, *of_stream
    )
    return sa.or_(cooldown.c.account_id.is_(None), sa.and_(cooldown.c.until <= _P("now"), sa.not_(sa.exists(probe))))


def _with_cooldowns(source: Any, scope: sa.ColumnElement[str]) -> Any:
    return source.outerjoin(
        _whole, sa.and_(_whole.c.account_id == accounts.c.id, _whole.c.scope == WHOLE_ACCOUNT)
    ).outerjoin(_model, sa.and_(_model.c.account_id == accounts.c.id, _model.c.scope == scope))


# The cooldown of a model on all accounts.
_everywhere = cooldowns.alias("everywhere")


def _of_all(scope: sa.ColumnElement[str]) -> sa.Select[Any]:
    return sa.select(_everywhere.c.scope).where(
        _everywhere.c.account_id == ALL_ACCOUNTS, _everywhere.c.scope == scope
    )


def _is_served(scope: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether the model cools down on no account, or that is over and its probe does not run already."""
    # Whatever starts after it is a probe for as long as the cooldown is there.
    probe = sa.select(leases.c.id).where(
        leases.c.scope == scope, leases.c.started_at >= _everywhere.c.until, leases.c.is_probe == sa.true()
    )
    return sa.not_(sa.exists(_of_all(scope).where(sa.or_(_everywhere.c.until > _P("now"), sa.exists(probe)))))


_MAY_START = (
    accounts.c.streams < _P("max_streams"),
    sa.or_(accounts.c.next_at <= _P("now"), accounts.c.next_at > _P("latest_next_at")),
)


def _is_free(
    scope: sa.ColumnElement[str], is_rejection: sa.ColumnElement[bool]
) -> tuple[sa.ColumnElement[bool], ...]:
    """``is_rejection``: whether the cooldown of the account is that of a token, and is looked at elsewhere."""
    return (
        *_MAY_START,
        sa.or_(is_rejection, _is_over(_whole)),
        _is_over(_model, leases.c.scope == scope),
        _is_served(scope),
    )


_FREE = (
    sa.select(
        accounts.c.id,
        accounts.c.refused,
        _is_over(_whole).label("may_retry"),
        sa.or_(
            sa.and_(_whole.c.account_id.is_not(None), _whole.c.cause != REJECTED),
            _model.c.account_id.is_not(None),
            sa.exists(_of_all(_P("scope"))),
        ).label("is_probe"),
    )
    .select_from(_with_cooldowns(accounts, _P("scope")))
    .where(*_is_free(_P("scope"), _whole.c.cause == REJECTED))
)
# The one with the fewest streams first; among equals the one whose latest stream is the longest ago.
_BY_USE = (accounts.c.streams, accounts.c.last_turn, accounts.c.id)
_FREE_FIRST = _FREE.order_by(*_BY_USE).limit(_P("most"))
_FREE_ONE = _FREE.where(accounts.c.id == _P("of_id"))
_FREE_OF_WISH = _FREE.where(one_of(accounts.c.id.concat(""), "ids")).order_by(*_BY_USE)
# What _FREE finds where nobody waits, without those that cool down. ``cools_down``: more must be known of it, because
# a cooldown is over, or may be that of another token.
_COOLDOWNS_NOW = sa.select(cooldowns.c.scope).where(
    cooldowns.c.account_id == accounts.c.id,
    sa.or_(cooldowns.c.scope == WHOLE_ACCOUNT, cooldowns.c.scope == _P("scope")),
    cooldowns.c.until > _P("now"),
)
_FREE_AT_ONCE = sa.select(
    accounts.c.id,
    accounts.c.refused,
    sa.exists(sa.select(queue.c.id)).label("some_wait"),
    sa.exists(_COOLDOWNS_NOW.where(cooldowns.c.cause == REJECTED)).label("may_be_rejected"),
    sa.exists(
        sa.select(cooldowns.c.scope).where(
            sa.or_(cooldowns.c.account_id == accounts.c.id, cooldowns.c.account_id == ALL_ACCOUNTS),
            sa.or_(cooldowns.c.scope == WHOLE_ACCOUNT, cooldowns.c.scope == _P("scope")),
        )
    ).label("cools_down"),
).where(*_MAY_START, sa.not_(sa.exists(_COOLDOWNS_NOW.where(cooldowns.c.cause != REJECTED))))
_ONE_AT_ONCE = _FREE_AT_ONCE.where(accounts.c.id == _P("of_id"))
_SOME_AT_ONCE = _FREE_AT_ONCE.order_by(*_BY_USE).limit(_P("most"))
# Where the first ones are not those of the wish. Not the id itself, or the accounts would not be read in their order.
_OF_WISH_AT_ONCE = _FREE_AT_ONCE.where(one_of(accounts.c.id.concat(""), "ids")).order_by(*_BY_USE).limit(_P("most"))
# On a server: the same, with the lease, in one round trip (``migrations``).
_take_lease = sa.func.take_lease(
    _P("ticket"),
    _P("process"),
    _P("model"),
    sa.cast(_P("only_id"), sa.String),
    _P("wanted"),
    _P("now"),
    _P("max_streams"),
    _P("latest_next_at"),
    _P("next_at"),
    _P("ends_at"),
    sa.cast(_P("question"), sa.String),
)
_TAKE_LEASE = sa.select(_take_lease.label("account_id"))
_END_LEASE = sa.select(sa.func.end_lease(_P("of_id")))
_join_queue = sa.func.join_line(
    _P("ticket"),
    _P("process"),
    _P("owner"),
    _P("wish"),
    _P("now"),
    _P("max_streams"),
    _P("latest_next_at"),
    _P("queued_until"),
    _P("most"),
    sa.cast(_P("question"), sa.String),
)
_JOIN_QUEUE = sa.select(_join_queue.label("has_joined"))
# The first, and the second only if that gave nothing. A subquery with OFFSET is not merged into its query, so the
# first is called once.
_taken = sa.select(_take_lease.label("account_id")).offset(sa.literal_column("0")).subquery()
_TAKE_LEASE_OR_JOIN = sa.select(
    _taken.c.account_id, sa.case((_taken.c.account_id.is_(None), _join_queue)).label("has_joined")
)
# The cooldowns that keep accounts, or all of them, from a model.
_COOLDOWNS_FOR = (
    sa.select(*cooldowns.c, accounts.c.refused)
    .select_from(cooldowns.outerjoin(accounts, accounts.c.id == cooldowns.c.account_id))
    .where(
        cooldowns.c.until > _P("now"), sa.or_(cooldowns.c.scope == WHOLE_ACCOUNT, cooldowns.c.scope == _P("scope"))
    )
)

_WAITS = queue.c.dropped == sa.false()
_QUEUE_STATE = sa.select(
    sa.select(sa.func.min(queue.c.place)).where(_WAITS).scalar_subquery().label("head"),
    sa.select(sa.func.max(queue.c.place))
    .where(_WAITS, queue.c.owner == _P("of_owner"))
    .scalar_subquery()
    .label("last_of_owner"),
    sa.select(sa.func.count()).select_from(queue).where(_WAITS).scalar_subquery().label("waiting"),
    sa.exists(sa.select(accounts.c.id).where(*_MAY_START)).label("some_may_start"),
    sa.exists(sa.select(cooldowns.c.scope).where(cooldowns.c.until > _P("now"))).label("some_cool_down"),
)
_SOME_MAY_START = sa.select(accounts.c.id).where(*_MAY_START).limit(1)
_TICKETS = sa.select(
    queue.c.id,
    queue.c.process_id,
    queue.c.owner,
    queue.c.place.label("position"),
    queue.c.joined_at,
    queue.c.question,
).where(_WAITS)
_ORDER = (queue.c.place, queue.c.joined_at, queue.c.id)
_TICKETS_OF_WISH = _TICKETS.where(queue.c.wish_id == _P("of_wish")).order_by(*_ORDER).limit(_P("most"))
_head = (
    sa.select(sa.func.min(queue.c.place)).where(_WAITS, queue.c.wish_id == wishes.c.id).correlate(wishes)
).scalar_subquery()
_heads = sa.select(wishes.c.id, wishes.c.scope, _head.label("head"))
_SHARED_WISHES = (
    sa.select(_head_row := _heads.where(wishes.c.account_id.is_(None)).subquery())
    .where(_head_row.c.head.is_not(None))
    .order_by(_head_row.c.head)
)
# Those whose only account is free.
_SERVABLE_WISHES = (
    sa.select(
        _head_row := _heads.select_from(
            _with_cooldowns(wishes.join(accounts, accounts.c.id == wishes.c.account_id), wishes.c.scope)
        )
        .where(
            *_is_free(
                wishes.c.scope,
                sa.and_(_whole.c.cause == REJECTED, accounts.c.refused.is_distinct_from(wishes.c.token)),
            ),
        )
        # Not merged, or the head of each wish would be looked up before its account.
        .offset(sa.literal_column("0"))
        .subquery()
    )
    .where(_head_row.c.head.is_not(None))
    .order_by(_head_row.c.head)
    .limit(_P("most"))
)
_FIND_WISH = sa.select(wishes.c.scope, wishes.c.accounts).where(wishes.c.id == _P("of_wish"))
_HAS_WISH = sa.select(wishes.c.id).where(wishes.c.id == _P("of_wish"))
_ADD_WISH = sa.insert(wishes).values({column: _P(column.name) for column in wishes.c})

_GRANT = per_dialect(
    lambda insert: (
        insert(leases)
        .values({column: _P(column.name) for column in leases.c})
        .on_conflict_do_nothing(index_elements=["id"])
    )
)
_ONE_MORE_STREAM = (
    sa.update(accounts)
    .where(accounts.c.id == _P("of_id"))
    .values(
        streams=accounts.c.streams + 1,
        last_turn=sa.select(sa.func.max(accounts.alias("any").c.last_turn) + 1).scalar_subquery(),
        next_at=_P("next_at"),
    )
)
_ONE_STREAM_LESS = (
    sa.update(accounts)
    .where(accounts.c.id == _P("of_id"), accounts.c.streams > 0)
    .values(streams=accounts.c.streams - 1)
)
_ENQUEUE = per_dialect(
    lambda insert: (
        insert(queue)
        .values({column: _P(column.name) for column in queue.c})
        .on_conflict_do_nothing(index_elements=["id"])
    )
)
_DEQUEUE = sa.delete(queue).where(queue.c.id == _P("of_id"))
_BUSIEST = (
    sa.select(queue.c.owner, sa.func.count().label("tickets"))
    .where(_WAITS)
    .group_by(queue.c.owner)
    .order_by(sa.desc("tickets"), queue.c.owner)
    .limit(1)
)
_COUNT_OF_OWNER = (
    sa.select(sa.func.count().label("tickets")).select_from(queue).where(_WAITS, queue.c.owner == _P("of_owner"))
)
_DROP_LAST = (
    sa.update(queue)
    .where(
        queue.c.id
        == sa.select(queue.c.id)
        .where(_WAITS, queue.c.owner == _P("of_owner"))
        .order_by(*(sa.desc(column) for column in _ORDER))
        .limit(1)
        .scalar_subquery()
    )
    .values(dropped=sa.true())
)
_LOAD = sa.select(
    sa.select(sa.func.count()).select_from(leases).scalar_subquery().label("running"),
    sa.select(sa.func.count()).select_from(queue).where(_WAITS).scalar_subquery().label("waiting"),
    sa.select(sa.func.min(queue.c.joined_at)).where(_WAITS).scalar_subquery().label("waiting_since"),
)
_STREAMS = sa.select(leases.c.account_id, sa.func.count().label("streams")).group_by(leases.c.account_id)
_SET_QUESTION = sa.update(leases).where(leases.c.id == _P("of_id")).values(question=_P("question"))
_RELEASE = sa.delete(leases).where(leases.c.id == _P("of_id")).returning(leases.c.account_id)
_LEASE_COLUMNS = tuple(leases.c[name] for name in LeaseRow.__slots__)
# What became of requests that wait: they have a lease, or (account_id: NULL) were dropped.
_DECIDED = sa.union_all(
    sa.select(*_LEASE_COLUMNS).where(leases.c.process_id == _P("of_process"), leases.c.waited == sa.true()),
    sa.select(queue.c.id, sa.null(), sa.null(), sa.false(), sa.null(), sa.null()).where(
        queue.c.process_id == _P("of_process"), queue.c.dropped == sa.true()
    ),
)
_DELIVERED = sa.update(leases).where(one_of(leases.c.id, "ids")).values(waited=sa.false())
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


# How many free accounts are read at first: the first one suits nearly always.
_FIRST_FREE = 8
# How many wishes are kept in memory: with 500 accounts each takes 100 KB.
_MOST_WISHES = 100


class LeaseRows:
    """The tables ``leases``, ``line`` (the queue) and ``rests`` (the cooldowns)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wishes: dict[str, Wish] = {}

    # Accounts

    def free_accounts(self, tx: Transaction, wish: Wish, limits: FreeLimits) -> Iterator[FreeAccount]:
        """The accounts on which a stream of this model may begin now, the best one first. Others than those of the
        wish may be among them, and those with a rejected token.
        """
        values = _values(wish, limits)
        only, _ = wish.only_account
        if only is not None:
            yield from map(_free, tx.rows(_FREE_ONE, of_id=only, **values))
            return
        first = tx.rows(_FREE_FIRST, most=_FIRST_FREE, **values)
        yield from map(_free, first)
        if len(first) == _FIRST_FREE:
            yield from map(_free, tx.rows(_FREE_OF_WISH, ids=wish.ids, **values))

    def lease_at_once(
        self, tx: Transaction, ticket: Ticket, process_id: str, limits: FreeLimits, grant: Grant
    ) -> str | None:
        """Gives the ticket the first account of its wish that is free: the one that ``free_accounts`` and
        ``scheduling`` would find, in a third of the time. ``grant``: without an account. Returns the account's id.
        None where somebody is in the queue, or where more must be known of the account: it has cooled down, or its
        token was rejected. Called in ``in_lease_transaction``. Safe to call again.
        """
        if not self._database.is_server:
            # There is no connection to lose, so no earlier call can have been committed.
            account_id = self._first_free(tx, ticket.wish, limits)
            if account_id is not None:
                self.grant(tx, ticket, process_id, replace(grant, account_id=account_id), waited=False)
            return account_id
        row = tx.row(_TAKE_LEASE, **_lease_values(ticket, process_id, limits, grant))
        return None if row is None else row["account_id"]

    def join_at_once(
        self, tx: Transaction, ticket: Ticket, process_id: str, limits: FreeLimits, queued_until: float, most: int
    ) -> bool:
        """Puts the ticket at the end of the queue, as ``scheduling.next_position`` has it, where that is certain
        without a look at the accounts: none has room, and none cools down. ``most``: tickets that may wait. False
        where more must be known, and always where the database is a file. Called in ``in_lease_transaction``. Safe
        to call again.
        """
        if not self._database.is_server:
            # There it takes no round trips to find out.
            return False
        row = tx.row(
            _JOIN_QUEUE,
            ticket=ticket.id,
            process=process_id,
            question=ticket.question,
            **_start_values(limits),
            **_queue_values(ticket, queued_until, most),
        )
        return row is not None and bool(row["has_joined"])

    def lease_or_join_at_once(
        self,
        tx: Transaction,
        ticket: Ticket,
        process_id: str,
        limits: FreeLimits,
        grant: Grant,
        queued_until: float,
        most: int,
    ) -> tuple[str | None, bool]:
        """On a server: ``lease_at_once``, and ``join_at_once`` if that gave nothing, in one round trip."""
        row = tx.row(
            _TAKE_LEASE_OR_JOIN,
            **_lease_values(ticket, process_id, limits, grant),
            **_queue_values(ticket, queued_until, most),
        )
        return (None, False) if row is None else (row["account_id"], bool(row["has_joined"]))

    def in_lease_transaction(self, work: Callable[[Transaction], T]) -> T:
        """For ``lease_at_once``, ``join_at_once`` and both in one, which take the lock themselves on a server: there
        each is one statement, and one round trip.
        """
        if self._database.is_server:
            return self._database.with_retries(work)
        return self._database.in_exclusive_transaction(work)

    def _first_free(self, tx: Transaction, wish: Wish, limits: FreeLimits) -> str | None:
        values = _values(wish, limits)
        only, _ = wish.only_account
        if only is not None:
            rows = tx.rows(_ONE_AT_ONCE, of_id=only, **values)
        else:
            rows = tx.rows(_SOME_AT_ONCE, most=_FIRST_FREE, **values)
            if len(rows) == _FIRST_FREE and not any(row["id"] in wish.accounts for row in rows):
                rows = tx.rows(_OF_WISH_AT_ONCE, ids=wish.ids, most=_FIRST_FREE, **values)
        for row in rows:
            token = wish.accounts.get(row["id"])
            is_rejected = row["refused"] == token
            if token is None or (is_rejected and row["may_be_rejected"]):
                continue
            return None if row["some_wait"] or row["cools_down"] or is_rejected else row["id"]
        return None

    def cooldowns_for(self, tx: Transaction, scope: str, now: float) -> list[CooldownRow]:
        """The cooldowns that keep accounts from this model now, or all of them."""
        return [
            CooldownRow(row["account_id"], Cooldown(row["until"], row["strikes"], row["cause"]), row["refused"])
            for row in tx.rows(_COOLDOWNS_FOR, scope=scope, now=now)
        ]

    def grant(
        self, tx: Transaction, ticket: Ticket | QueuedTicket, process_id: str, grant: Grant, *, waited: bool
    ) -> None:
        """Makes a ticket a lease. ``waited``: it is in the queue."""
        if waited:
            tx.run(_DEQUEUE, of_id=ticket.id)
        added = tx.run(
            _GRANT,
            id=ticket.id,
            process_id=process_id,
            account_id=grant.account_id,
            scope=grant.scope,
            is_probe=grant.is_probe,
            waited=waited,
            started_at=grant.now,
            ends_at=grant.ends_at,
            question=ticket.question,
        )
        if added:
            tx.run(_ONE_MORE_STREAM, of_id=grant.account_id, next_at=grant.next_at)

    def find(self, tx: Transaction, ticket_id: str) -> LeaseRow | None:
        """The lease of a ticket, if it has one."""
        row = tx.row(_FIND, of_id=ticket_id)
        return None if row is None else _lease(row)

    def set_question(self, lease_id: str, question: str) -> None:
        """The stream asks this in a new chat, and not what its ticket says."""
        self._database.run(_SET_QUESTION, of_id=lease_id, question=question)

    def release(self, lease_id: str) -> None:
        """Safe to call again."""
        if self._database.is_server:
            self._database.row(_END_LEASE, of_id=lease_id)
        else:
            self._database.in_exclusive_transaction(lambda tx: self._release(tx, lease_id))

    @staticmethod
    def _release(tx: Transaction, lease_id: str) -> None:
        row = tx.row(_RELEASE, of_id=lease_id)
        if row is not None:
            tx.run(_ONE_STREAM_LESS, of_id=row["account_id"])

    def load(self) -> Load:
        """What all processes do now."""
        row = self._database.row(_LOAD)
        assert row is not None
        return Load(**row)

    def streams(self) -> dict[str, int]:
        """Account id → the streams that run on it, for those with any."""
        return {row["account_id"]: int(row["streams"]) for row in self._database.rows(_STREAMS)}

    # The queue

    def queue_state(self, tx: Transaction, owner: str, limits: FreeLimits) -> QueueState:
        (row,) = tx.rows(_QUEUE_STATE, of_owner=owner, **_start_values(limits))
        return QueueState(**row)

    def may_start(self, tx: Transaction, limits: FreeLimits) -> bool:
        """Whether any account has room for a stream."""
        return tx.row(_SOME_MAY_START, **_start_values(limits)) is not None

    def enqueue(
        self, tx: Transaction, ticket: Ticket, position: int, process_id: str, now: float, ends_at: float
    ) -> None:
        """Adds a ticket to the queue. It is valid until ``ends_at``, or until its process is dead."""
        wish = ticket.wish
        if tx.row(_HAS_WISH, of_wish=wish.id) is None:
            account_id, token = wish.only_account
            tx.run(_ADD_WISH, id=wish.id, scope=wish.scope, account_id=account_id, token=token, accounts=wish.listed)
        tx.run(
            _ENQUEUE,
            id=ticket.id,
            process_id=process_id,
            owner=ticket.owner,
            wish_id=wish.id,
            place=position,
            joined_at=now,
            ends_at=ends_at,
            dropped=False,
            question=ticket.question,
        )

    def dequeue(self, tx: Transaction, ticket_id: str) -> None:
        """Removes a ticket from the queue."""
        tx.run(_DEQUEUE, of_id=ticket_id)

    def withdraw(self, ticket_id: str) -> None:
        """Removes a ticket from the queue, and its lease if it has got one."""

        def work(tx: Transaction) -> None:
            tx.run(_DEQUEUE, of_id=ticket_id)
            self._release(tx, ticket_id)

        if self._database.is_server:
            self._database.row(_END_LEASE, of_id=ticket_id)
        else:
            self._database.in_exclusive_transaction(work)

    def servable_wishes(self, tx: Transaction, limits: FreeLimits, most: int) -> list[str]:
        """Ids of what tickets in the queue want, the first in the queue first: of those for one account, at most so
        many whose account is free; and all others.
        """
        own = tx.rows(_SERVABLE_WISHES, most=most, **_start_values(limits))
        rows = sorted([*own, *tx.rows(_SHARED_WISHES)], key=lambda row: row["head"])
        return [row["id"] for row in rows]

    def wish(self, tx: Transaction, wish_id: str) -> Wish | None:
        wish = self._wishes.get(wish_id)
        if wish is None and (row := tx.row(_FIND_WISH, of_wish=wish_id)) is not None:
            if len(self._wishes) >= _MOST_WISHES:
                self._wishes.clear()
            wish = self._wishes[wish_id] = Wish(row["scope"], json.loads(row["accounts"]))
        return wish

    def tickets(self, tx: Transaction, wish_id: str, most: int) -> list[QueuedTicket]:
        """The first tickets with this wish, in the order of the queue."""
        return [QueuedTicket(**row) for row in tx.rows(_TICKETS_OF_WISH, of_wish=wish_id, most=most)]

    def busiest_owner(self, tx: Transaction) -> tuple[str, int]:
        """The API key with the most tickets in the queue, and their number."""
        row = tx.row(_BUSIEST)
        return ("", 0) if row is None else (row["owner"], row["tickets"])

    def tickets_of(self, tx: Transaction, owner: str) -> int:
        """How many tickets of this API key are in the queue."""
        row = tx.row(_COUNT_OF_OWNER, of_owner=owner)
        return 0 if row is None else int(row["tickets"])

    def drop_last(self, tx: Transaction, owner: str) -> None:
        """The last ticket of this API key is not served any more. Its process finds out with ``decided``."""
        tx.run(_DROP_LAST, of_owner=owner)

    def decided(self, process_id: str) -> tuple[list[LeaseRow], list[str]]:
        """What became of requests of this process that wait in the queue: the leases that they have got, until
        ``delivered``; and the tickets that are not served any more.
        """
        rows = self._database.rows(_DECIDED, of_process=process_id)
        granted = [_lease(row) for row in rows if row["account_id"] is not None]
        return granted, [row["id"] for row in rows if row["account_id"] is None]

    def delivered(self, lease_ids: Sequence[str]) -> None:
        self._database.run(_DELIVERED, ids=listed(lease_ids))

    # Cooldowns

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
        ids = listed((account_id, ALL_ACCOUNTS))
        self._database.run(_CLEAR_COOLDOWNS, accounts=ids, scopes=listed(scopes), now=now)


def _start_values(limits: FreeLimits) -> Row:
    return {"now": limits.now, "max_streams": limits.max_streams, "latest_next_at": limits.latest_next_at}


def _values(wish: Wish, limits: FreeLimits) -> Row:
    return {"scope": wish.scope, **_start_values(limits)}


def _lease_values(ticket: Ticket, process_id: str, limits: FreeLimits, grant: Grant) -> Row:
    only, _ = ticket.wish.only_account
    return {
        "ticket": ticket.id,
        "process": process_id,
        "model": grant.scope,
        "only_id": only,
        "wanted": ticket.wish.lines,
        "next_at": grant.next_at,
        "ends_at": grant.ends_at,
        "question": ticket.question,
        **_start_values(limits),
    }


def _queue_values(ticket: Ticket, queued_until: float, most: int) -> Row:
    return {"owner": ticket.owner, "wish": ticket.wish.id, "queued_until": queued_until, "most": most}


def _lease(row: Row) -> LeaseRow:
    # SQLite has no booleans of its own.
    return LeaseRow(**{**row, "is_probe": bool(row["is_probe"])})


def _free(row: Row) -> FreeAccount:
    return FreeAccount(row["id"], row["refused"], bool(row["may_retry"]), bool(row["is_probe"]))

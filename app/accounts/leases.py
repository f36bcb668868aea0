"""The right to run a stream on an account, and the queue of requests that wait for one.

Both live in the store, shared by all workers and machines; ``scheduling`` decides. What a killed process held is free
when its ``process_lease`` expires. Knows neither how an account is used nor SQL.
"""

import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from app.accounts import scheduling
from app.accounts.scheduling import Limits
from app.accounts.standings import Standing, sentence
from app.concurrency.background import Cancellation
from app.concurrency.periodic import Periodic, every
from app.errors import AccountRejected, ModelUnavailable, NoAccountFree, QuotaSpent, RateLimit
from app.store import Store, StoreError, Transaction
from app.store.leases import (
    REJECTED,
    WHOLE_ACCOUNT,
    Cooldown,
    FreeLimits,
    Grant,
    LeaseRow,
    QueuedTicket,
    Ticket,
    Wish,
)
from app.store.process_lease import ProcessLease
from app.upstreams.account import duration

log = logging.getLogger(__name__)

# The first cooldown of an account whose token Kimi has rejected: it may have been a fault of Kimi's. Seconds.
REJECTED_COOLDOWN_S = 600.0
# How often the queue is served while a request of this process is in it. Seconds.
_SERVE_EVERY_S = 0.1
# How many requests get an account in one transaction: all others wait for its end.
_GRANTS_AT_ONCE = 10
# How many wishes are kept in memory: with 500 accounts each takes 150 KB.
_MOST_WISHES = 50
# Retry-After where the end of the running streams cannot be predicted. Seconds.
_RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one stream to an account, since ``began_at``. ``is_probe``: its success ends the account's
    cooldown. ``question``: see ``Ticket``."""

    id: str
    account_id: str
    scope: str
    is_probe: bool
    began_at: float
    question: str | None


@dataclass(slots=True)
class _Waiting:
    ticket: Ticket
    delivered: threading.Event = field(default_factory=threading.Event)
    lease: Lease | None = None
    # Others needed its place.
    is_dropped: bool = False


class Leases:
    """All leases of this process. Every decision is taken in an exclusive transaction of the store."""

    def __init__(
        self,
        store: Store,
        process_lease: ProcessLease,
        limits: Limits,
        *,
        max_waiting: int,
        wait_s: float,
        longest_s: float,
    ) -> None:
        """``max_waiting``: requests in the queue, of all API keys together. ``wait_s``: how long one stays in it.
        ``longest_s``: a lease ends after this, even if it was not released.
        """
        self._store = store
        self._process_lease = process_lease
        self._limits = limits
        self._max_waiting = max_waiting
        self._wait_s = wait_s
        self._longest_s = longest_s
        # Model → what a request for it wanted last. The next one usually wants the same, and a wish of hundreds of
        # accounts takes long to write down.
        self._wishes: dict[str, Wish] = {}
        self._waiting: dict[str, _Waiting] = {}
        # The leases of this process, until they are released.
        self._held: dict[str, Lease] = {}
        self._lock = threading.Lock()
        # Set while a request of this process is in the queue. Otherwise the thread that serves the queue sleeps.
        self._some_wait = threading.Event()
        self._server: Periodic | None = None
        # The last request had to wait, and so will the next one probably. Never so where the database is a file.
        self._joined_last = False
        process_lease.when_lost(self._process_lease_lost)

    def lease(
        self,
        accounts: Mapping[str, str],
        scope: str,
        owner: str,
        cancellation: Cancellation,
        question: str | None = None,
    ) -> Lease:
        """The right to one stream on one of ``accounts`` (id → digest of its token; must never change), at once or
        after waiting in the queue. ``scope``: the model, because some cooldowns concern one model only.
        ``question``: see ``Ticket``.

        Raises NoAccountFree: if the queue is full, or no account was free in time, or none will be.
        Raises AccountRejected: if Kimi has rejected the tokens of all of them.
        Raises QuotaSpent, ModelUnavailable: if that is why none will be.
        Raises Cancelled.
        """
        deadline = time.monotonic() + self._wait_s
        ticket = Ticket(secrets.token_hex(16), owner, self._wish(scope, accounts), question)
        lease = self._acquire_now(ticket)
        if lease is not None:
            self._held[lease.id] = lease
            return lease
        waiting = self._waits(ticket)
        log.info("account_awaited accounts=%d waits_s=%.0f", len(accounts), self._wait_s)
        try:
            while waiting.lease is None:
                if waiting.is_dropped:
                    raise self._refusal(accounts, "too many requests of this API key wait already", _RETRY_AFTER_S)
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise self._refusal(accounts, "every account stayed busy for {wait:.0f} s", _RETRY_AFTER_S)
                cancellation.wait(waiting.delivered, left_s)
                waiting.delivered.clear()
        except BaseException:
            self._leave(waiting)
            raise
        self._forget(waiting)
        return waiting.lease

    def lease_now(self, accounts: Mapping[str, str], scope: str, owner: str) -> Lease | None:
        """As ``lease``, but None where the request would have to wait, or to fail."""
        ticket = Ticket(secrets.token_hex(16), owner, Wish(scope, accounts))
        lease = self._decide(ticket, self._grant_if_nobody_waits)
        if lease is not None:
            self._held[lease.id] = lease
        return lease

    def will_ask(self, lease: Lease, question: str) -> None:
        """What the stream asks may be something else than its ticket said (see ``Ticket``). Never raises: it matters
        only if this process dies."""
        known = (lease.question or "").split(" ")
        if lease.id in self._held and not all(digest in known for digest in question.split(" ")):
            self._held[lease.id] = replace(lease, question=question)
            self._process_lease.run_or_retry(lambda: self._store.leases.set_question(lease.id, question))

    def release(self, lease: Lease) -> None:
        """Gives the account back. Safe to call again."""
        self._held.pop(lease.id, None)
        self._process_lease.run_or_retry(lambda: self._store.leases.release(lease.id))
        self._serve_soon()

    def cool_down(self, account_id: str, scope: str, base_s: float, asked_s: float | None, cause: str) -> float:
        """The account, or a model on ALL_ACCOUNTS, failed: it cools down for ``asked_s``, or from ``base_s`` on
        longer with each failure in a row. ``cause``: one of ``scheduling``, or "". Returns the seconds.
        """
        return self._store.database.in_exclusive_transaction(
            lambda tx: self._cool_down(tx, account_id, scope, base_s, asked_s, cause, self._store.database.now())
        )

    def recovered(self, lease: Lease) -> None:
        """The account has served a request, so its cooldowns are over."""
        if lease.is_probe:
            now = self._store.database.now()
            self._store.accounts.clear_refused(lease.account_id)
            self._store.leases.clear_cooldowns(lease.account_id, (WHOLE_ACCOUNT, lease.scope), now)

    def reject(self, account_id: str, token: str) -> float:
        """Kimi has rejected the token with this digest: the account cools down, longer with each rejection in a row,
        unless it gets another token. Returns the seconds."""

        def reject(tx: Transaction) -> float:
            if self._store.accounts.set_refused(tx, account_id, token):
                self._store.leases.delete_cooldown(tx, account_id, WHOLE_ACCOUNT)
            now = self._store.database.now()
            return self._cool_down(tx, account_id, WHOLE_ACCOUNT, REJECTED_COOLDOWN_S, None, REJECTED, now)

        return self._store.database.in_exclusive_transaction(reject)

    # The queue

    def _wish(self, scope: str, accounts: Mapping[str, str]) -> Wish:
        known = self._wishes.get(scope)
        if known is not None and known.accounts is accounts:
            return known
        wish = Wish(scope, accounts)
        if len(accounts) > 1:
            if len(self._wishes) >= _MOST_WISHES:
                self._wishes.clear()
            self._wishes[scope] = wish
        return wish

    def _acquire_now(self, ticket: Ticket) -> Lease | None:
        """A lease at once, or None: then the ticket is in the queue. Raises NoAccountFree, AccountRejected."""
        return self._decide(ticket, self._grant_or_enqueue, may_join=True)

    def _decide(
        self, ticket: Ticket, decide: Callable[[Transaction, Ticket, int], Lease | None], *, may_join: bool = False
    ) -> Lease | None:
        """A lease at once, if that is certain, or a place in the queue, with ``may_join``. Else what ``decide`` says
        in an exclusive transaction."""
        tries, joins, runs = itertools.count(), itertools.count(), itertools.count()
        try:
            if may_join and self._joined_last:
                lease, has_joined = self._lease_or_join_at_once(ticket, tries)
            else:
                lease = self._lease_at_once(ticket, tries)
                has_joined = lease is None and may_join and self._join_at_once(ticket, joins)
            if may_join:
                self._joined_last = has_joined
            if lease is not None or has_joined:
                return lease
            if next(tries) > 1 or next(joins) > 1:
                # An earlier try may still run in the database.
                next(runs)
            return self._store.database.in_exclusive_transaction(lambda tx: decide(tx, ticket, next(runs)))
        except Exception as e:
            # An earlier run may have been committed; so may this one, if the connection was lost before the result
            # came.
            if next(runs) > 1 or (isinstance(e, StoreError) and e.may_have_run):
                self._process_lease.retry_later(lambda: self._store.leases.withdraw(ticket.id))
            raise

    def _lease_at_once(self, ticket: Ticket, tries: Iterator[int]) -> Lease | None:
        store, grant, limits = self._store.leases, *self._grant_now(ticket)

        def work(tx: Transaction) -> str | None:
            next(tries)
            return store.lease_at_once(tx, ticket, self._process_lease.id, limits, grant)

        return _lease_on(store.in_lease_transaction(work), ticket, grant)

    def _join_at_once(self, ticket: Ticket, tries: Iterator[int]) -> bool:
        store, now = self._store.leases, self._store.database.now()
        limits, queued_until = scheduling.free_limits(self._limits, now), self._queued_until(now)

        def work(tx: Transaction) -> bool:
            next(tries)
            return store.join_at_once(tx, ticket, self._process_lease.id, limits, queued_until, self._max_waiting)

        return store.in_lease_transaction(work)

    def _lease_or_join_at_once(self, ticket: Ticket, tries: Iterator[int]) -> tuple[Lease | None, bool]:
        store, grant, limits = self._store.leases, *self._grant_now(ticket)
        queued_until, most = self._queued_until(grant.now), self._max_waiting

        def work(tx: Transaction) -> tuple[str | None, bool]:
            next(tries)
            return store.lease_or_join_at_once(tx, ticket, self._process_lease.id, limits, grant, queued_until, most)

        account_id, has_joined = store.in_lease_transaction(work)
        return _lease_on(account_id, ticket, grant), has_joined

    def _grant_now(self, ticket: Ticket) -> tuple[Grant, FreeLimits]:
        """A grant without an account, and which accounts are free."""
        now = self._store.database.now()
        next_at = scheduling.next_start_at(self._limits, now)
        grant = Grant("", ticket.wish.scope, False, now, next_at, now + self._longest_s)
        return grant, scheduling.free_limits(self._limits, now)

    def _queued_until(self, now: float) -> float:
        """How long a ticket stays in the queue whose request does not take it back."""
        return now + self._wait_s + 60

    def _grant_if_nobody_waits(self, tx: Transaction, ticket: Ticket, run: int) -> Lease | None:
        store, now = self._store.leases, self._store.database.now()
        row = store.find(tx, ticket.id) if run else None
        if row is not None:
            # An earlier run was committed.
            return _lease_of(row)
        if store.queue_state(tx, ticket.owner, scheduling.free_limits(self._limits, now)).head is not None:
            return None
        return self._grant(tx, ticket, self._process_lease.id, ticket.wish, now, waited=False)

    def _grant_or_enqueue(self, tx: Transaction, ticket: Ticket, run: int) -> Lease | None:
        store, now = self._store.leases, self._store.database.now()
        wish = ticket.wish
        if run:
            # An earlier run may have been committed: with a lease, …
            row = store.find(tx, ticket.id)
            if row is not None:
                return _lease_of(row)
            # … or with the ticket in the queue, which is decided anew.
            store.dequeue(tx, ticket.id)
        limits = scheduling.free_limits(self._limits, now)
        queue = store.queue_state(tx, ticket.owner, limits)
        position = scheduling.next_position(queue.last_of_owner, queue.head)
        if queue.some_may_start:
            # First those before it: an account may be free that nobody has noticed yet.
            is_its_turn = queue.head is None or self._serve(tx, now, position) < _GRANTS_AT_ONCE
            if is_its_turn and (lease := self._grant(tx, ticket, self._process_lease.id, wish, now, waited=False)):
                return lease
        cooldowns = store.cooldowns_for(tx, wish.scope, now) if queue.some_cool_down else []
        earliest = scheduling.earliest_available(cooldowns, wish)
        wait_s = earliest.until - now
        if wait_s > self._wait_s:
            if earliest.cause == REJECTED:
                rejected = Standing("needs_login", "", "NAME", "rejected", until=earliest.until)
                raise AccountRejected(sentence(rejected))
            if earliest.cause == scheduling.NEEDS_PLAN:
                raise QuotaSpent(
                    f"no account has credits or a plan for this model; the next one is tried in {duration(wait_s)}",
                    reached_upstream=False,
                )
            if earliest.cause == scheduling.NOT_SERVED:
                raise ModelUnavailable(
                    f"Kimi does not serve this model now; it is tried again in {duration(wait_s)}",
                    retry_after_s=wait_s,
                    reached_upstream=False,
                )
            raise self._refusal(wish.accounts, "every account is cooling down after a failure", wait_s)
        if queue.waiting >= self._max_waiting:
            owner, most = store.busiest_owner(tx)
            own = store.tickets_of(tx, ticket.owner)
            if not scheduling.may_displace(own, most):
                raise self._refusal(wish.accounts, "too many requests wait already", _RETRY_AFTER_S)
            store.drop_last(tx, owner)
        store.enqueue(tx, ticket, position, self._process_lease.id, now, self._queued_until(now))
        return None

    def _grant(
        self, tx: Transaction, ticket: Ticket | QueuedTicket, process_id: str, wish: Wish, now: float, *, waited: bool
    ) -> Lease | None:
        """Gives the ticket an account, if one is free. ``waited``: it is in the queue."""
        free = self._store.leases.free_accounts(tx, wish, scheduling.free_limits(self._limits, now))
        account = scheduling.choose(free, wish)
        if account is None:
            return None
        next_at = scheduling.next_start_at(self._limits, now)
        grant = Grant(account.id, wish.scope, account.is_probe, now, next_at, now + self._longest_s)
        self._store.leases.grant(tx, ticket, process_id, grant, waited=waited)
        return Lease(ticket.id, account.id, wish.scope, account.is_probe, now, ticket.question)

    def _serve(self, tx: Transaction, now: float, last_position: int | None = None) -> int:
        """Gives accounts to requests in the queue, in its order, up to ``last_position``, but not to all at once.
        Returns how many got one: if these are ``_GRANTS_AT_ONCE``, there may be more.
        """
        store = self._store.leases
        limits = scheduling.free_limits(self._limits, now)
        tickets: list[tuple[QueuedTicket, Wish]] = []
        for wish_id in store.servable_wishes(tx, limits, _GRANTS_AT_ONCE):
            wish = store.wish(tx, wish_id)
            if wish is not None and scheduling.choose(store.free_accounts(tx, wish, limits), wish) is not None:
                tickets += ((ticket, wish) for ticket in store.tickets(tx, wish_id, _GRANTS_AT_ONCE))
        granted, exhausted = 0, set()
        for ticket, wish in sorted(tickets, key=lambda pair: pair[0].order):
            if granted == _GRANTS_AT_ONCE or (last_position is not None and ticket.position > last_position):
                break
            if wish.id in exhausted:
                continue
            if self._grant(tx, ticket, ticket.process_id, wish, now, waited=True) is None:
                exhausted.add(wish.id)
            else:
                granted += 1
        return granted

    def _can_serve(self, tx: Transaction) -> bool:
        """Whether a request in the queue could get an account. Locks nothing."""
        store, limits = self._store.leases, scheduling.free_limits(self._limits, self._store.database.now())
        if not store.may_start(tx, limits):
            return False
        wishes = (store.wish(tx, wish_id) for wish_id in store.servable_wishes(tx, limits, 1))
        return any(
            scheduling.choose(store.free_accounts(tx, wish, limits), wish) is not None
            for wish in wishes
            if wish is not None
        )

    def _waits(self, ticket: Ticket) -> _Waiting:
        waiting = _Waiting(ticket)
        with self._lock:
            self._waiting[ticket.id] = waiting
            self._some_wait.set()
            if self._server is None:
                self._server = every(_SERVE_EVERY_S, self._serve_queue, "account-queue")
        return waiting

    def _forget(self, waiting: _Waiting) -> None:
        with self._lock:
            self._waiting.pop(waiting.ticket.id, None)
            if not self._waiting:
                self._some_wait.clear()

    def _leave(self, waiting: _Waiting) -> None:
        """Leaves the queue. A lease that was granted at the last moment is given back."""
        self._forget(waiting)
        self._process_lease.run_or_retry(lambda: self._store.leases.withdraw(waiting.ticket.id))
        self._serve_soon()

    def _serve_soon(self) -> None:
        if self._server is not None:
            self._server.wake()

    def _serve_queue(self) -> float | None:
        """Serves the queue once. Waits first until a request of this process is in it."""
        if not self._some_wait.is_set():
            self._some_wait.wait()
            # The request that has just joined has tried to serve it. The next call does.
            return None
        return 0.0 if self.look() else None

    def look(self) -> bool:
        """Serves the queue of all processes, and finds out what became of the requests of this one. Returns whether
        there may be more to do.
        """
        granted = 0
        if self._store.database.with_retries(self._can_serve):
            granted = self._store.database.in_exclusive_transaction(
                lambda tx: self._serve(tx, self._store.database.now())
            )
        rows, dropped = self._store.leases.decided(self._process_lease.id)
        # A request is in the queue a moment before it is known here: then it gets its lease next time.
        if delivered := [row.id for row in rows if self._deliver(row.id, row)]:
            self._store.leases.delivered(delivered)
        for ticket_id in dropped:
            self._deliver(ticket_id, None)
        return granted == _GRANTS_AT_ONCE

    def _deliver(self, ticket_id: str, row: LeaseRow | None) -> bool:
        """``row``: None if the ticket was dropped. Returns whether its request is known."""
        with self._lock:
            waiting = self._waiting.get(ticket_id)
        if waiting is not None and waiting.lease is None:
            if row is None:
                waiting.is_dropped = True
            else:
                waiting.lease = self._held[row.id] = _lease_of(row)
            waiting.delivered.set()
        return waiting is not None

    def _process_lease_lost(self, database_answers: bool) -> None:
        if database_answers:
            self._process_lease.run_or_retry(self._restore)

    def _restore(self) -> None:
        """Others thought that this process was dead, and have deleted its leases and its places in the queue. Its
        streams go on, and its requests wait.
        """
        held = list(self._held.values())
        with self._lock:
            waiting = [waiting.ticket for waiting in self._waiting.values() if waiting.lease is None]

        def work(tx: Transaction) -> None:
            store, now = self._store.leases, self._store.database.now()
            process_id = self._process_lease.id
            for lease in held:
                if lease.id in self._held:
                    began, ends = lease.began_at, now + self._longest_s
                    grant = Grant(lease.account_id, lease.scope, lease.is_probe, began, now, ends)
                    ticket = Ticket(lease.id, "", Wish(lease.scope, {}), lease.question)
                    store.grant(tx, ticket, process_id, grant, waited=False)
            for ticket in waiting:
                if store.find(tx, ticket.id) is None:
                    queue = store.queue_state(tx, ticket.owner, scheduling.free_limits(self._limits, now))
                    position = scheduling.next_position(queue.last_of_owner, queue.head)
                    store.enqueue(tx, ticket, position, process_id, now, self._queued_until(now))

        self._store.database.in_exclusive_transaction(work)

    def _cool_down(
        self,
        tx: Transaction,
        account_id: str,
        scope: str,
        base_s: float,
        asked_s: float | None,
        cause: str,
        now: float,
    ) -> float:
        before = self._store.leases.cooldown(tx, account_id, scope) or Cooldown(0.0, 0)
        if REJECTED in (cause, before.cause) and cause != before.cause:
            before = Cooldown(before.until, 0)
        # A stream that fails during a cooldown began before it: that is the same failure, noticed again.
        failures = max(1, before.failures if before.until > now else before.failures + 1)
        until = max(now + scheduling.cooldown_s(failures, base_s, asked_s, cause), before.until)
        self._store.leases.set_cooldown(tx, account_id, scope, Cooldown(until, failures, cause))
        return until - now

    def _refusal(self, accounts: Mapping[str, str], why: str, retry_after_s: float) -> NoAccountFree:
        capacity = self._limits.capacity(len(accounts))
        return NoAccountFree(
            f"no Kimi account is free: {why.format(wait=self._wait_s)}; try again later, or add an account",
            retry_after_s=retry_after_s,
            rate_limit=None if capacity is None else RateLimit(capacity, 0, retry_after_s),
        )


def _lease_on(account_id: str | None, ticket: Ticket, grant: Grant) -> Lease | None:
    if account_id is None:
        return None
    return Lease(ticket.id, account_id, grant.scope, False, grant.now, ticket.question)


def _lease_of(row: LeaseRow) -> Lease:
    return Lease(row.id, row.account_id, row.scope, row.is_probe, row.started_at, row.question)

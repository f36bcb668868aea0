"""The right to run a stream on an account, and the line of requests that wait for one.

Both live in the store, shared by all workers and machines; ``schedule`` decides. A killed process gives back what it
held when its ``presence`` runs out. Must never know how an account is used, nor SQL text.
"""

import itertools
import logging
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.accounts import scheduling
from app.accounts.scheduling import Limits
from app.concurrency.background import Cancellation
from app.concurrency.periodic import Periodic, every
from app.errors import AccountRejected, NoAccountFree, RateLimit
from app.store import Store, StoreError, Transaction
from app.store.leases import WHOLE_ACCOUNT, Grant, Ticket
from app.store.process_lease import Presence

log = logging.getLogger(__name__)

# How often the line is looked at while somebody of this process waits in it. Seconds.
_LOOK_EVERY_S = 0.1
# What a client is told to wait where nobody knows how long streams will run.
_RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Lease:
    """One stream's right to an account. ``is_probe``: its success ends the account's rest."""

    id: str
    account_id: str
    scope: str
    is_probe: bool


@dataclass(slots=True)
class _Waiting:
    ticket: Ticket
    looked_at: threading.Event = field(default_factory=threading.Event)
    lease: Lease | None = None


class Leases:
    """All leases of this process. Every decision is taken in the store, under its lock."""

    def __init__(
        self,
        store: Store,
        presence: Presence,
        limits: Limits,
        *,
        max_waiting: int,
        wait_s: float,
        longest_s: float,
    ) -> None:
        """``max_waiting``: requests in the line, all keys together; ``wait_s``: how long one stays in it;
        ``longest_s``: after which a lease ends, whoever still has it."""
        self._store = store
        self._presence = presence
        self._limits = limits
        self._max_waiting = max_waiting
        self._wait_s = wait_s
        self._longest_s = longest_s
        self._waiting: dict[str, _Waiting] = {}
        self._lock = threading.Lock()
        # Set while a request of this process is in the line. The server of the line sleeps otherwise.
        self._some_wait = threading.Event()
        self._server: Periodic | None = None

    def lease(self, accounts: Mapping[str, str], scope: str, owner: str, cancellation: Cancellation) -> Lease:
        """The right to one stream on one of ``accounts`` (ids, with digests of their tokens), at once or after
        waiting in line. ``scope``: the model, for limits that concern one only.

        Raises NoAccountFree when the line is full, the wait was in vain or would be, AccountRejected where the
        tokens of all of them were, and Cancelled.
        """
        deadline = time.monotonic() + self._wait_s
        ticket = Ticket(secrets.token_hex(16), owner, scope, accounts)
        lease = self._take(ticket)
        if lease is not None:
            return lease
        waiting = self._waits(ticket)
        try:
            while waiting.lease is None:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise self._refusal(accounts, "every account stayed busy for {wait:.0f} s", _RETRY_AFTER_S)
                cancellation.wait(waiting.looked_at, left_s)
                waiting.looked_at.clear()
        except BaseException:
            self._leave(waiting)
            raise
        self._forget(waiting)
        return waiting.lease

    def release(self, lease: Lease) -> None:
        """Gives the account back; safe to call again."""
        self._presence.give_back(lambda: self._store.leases.release(lease.id))
        self._serve_soon()

    def rest(self, lease: Lease, scope: str, base_s: float, told_s: float | None) -> float:
        """The account failed: it rests, for ``told_s`` or longer with each failure. Returns the seconds."""
        return self._store.database.exclusively(
            lambda tx: self._rest(tx, lease.account_id, scope, base_s, told_s, self._store.database.now())
        )

    def recovered(self, lease: Lease) -> None:
        """The account has served a request: whatever it rested from is over."""
        if lease.is_probe:
            now = self._store.database.now()
            self._store.leases.wake(lease.account_id, (WHOLE_ACCOUNT, lease.scope), now)

    def refuse(self, account_id: str, token: str) -> None:
        """Kimi has rejected the token with this digest: the account is not used until it has another one."""
        self._store.accounts.refuse(account_id, token)

    # The line

    def _take(self, ticket: Ticket) -> Lease | None:
        """A lease at once, or None: the ticket waits now. Raises NoAccountFree."""
        runs = itertools.count()
        try:
            return self._store.database.exclusively(lambda tx: self._take_or_join(tx, ticket, next(runs)))
        except Exception as e:
            # An earlier run may have been committed, or this one where its result was lost: neither undoes itself.
            if next(runs) > 1 or (isinstance(e, StoreError) and e.may_have_run):
                self._presence.owe(lambda: self._store.leases.leave(ticket.id))
            raise

    def _take_or_join(self, tx: Transaction, ticket: Ticket, run: int) -> Lease | None:
        store, now = self._store.leases, self._store.database.now()
        if run:
            # Done already, where the connection was lost at the last moment.
            row = store.lease(tx, ticket.id)
            if row is not None:
                return Lease(row.id, row.account_id, row.scope, row.is_probe)
            # Or half done: it is decided anew, and stands in the line once.
            store.leave_line(tx, ticket.id)
        accounts, line = store.snapshot(tx, now)
        head = line[0].place if line else None
        own = [waiting.place for waiting in line if waiting.owner == ticket.owner]
        place = scheduling.next_place(max(own, default=None), head)
        ticket = Ticket(ticket.id, ticket.owner, ticket.scope, ticket.accounts, place)
        # Behind those that came before it to the same place.
        line.insert(sum(1 for waiting in line if waiting.place <= place), ticket)
        lease = self._grant(tx, scheduling.assign(accounts, line, self._limits, now), now, ticket.id)
        if lease is not None:
            return lease
        wakes_at = scheduling.wakes_at(accounts, ticket)
        if wakes_at is not None and wakes_at - now > self._wait_s:
            raise self._refusal(ticket.accounts, "every account rests after a failure", wakes_at - now)
        if wakes_at is None:
            raise AccountRejected("Kimi does not accept the token any more; paste a new one into KIMI_TOKENS")
        if len(line) > self._max_waiting:
            raise self._refusal(ticket.accounts, "too many requests wait already", _RETRY_AFTER_S)
        store.join(tx, ticket, self._presence.id, now, now + self._wait_s + 60)
        return None

    def _grant(self, tx: Transaction, grants: list[Grant], now: float, ticket_id: str = "") -> Lease | None:
        """Writes what was decided; the lease of ``ticket_id`` where it is among them."""
        own = None
        for grant in grants:
            is_own = grant.ticket.id == ticket_id
            # Whoever waits finds its lease under the id of its ticket, with the process that it waits in.
            self._store.leases.grant(tx, grant, self._presence.id if is_own else None, now, now + self._longest_s)
            if is_own:
                own = Lease(ticket_id, grant.account_id, grant.ticket.scope, grant.is_probe)
        return own

    def _waits(self, ticket: Ticket) -> _Waiting:
        waiting = _Waiting(ticket)
        with self._lock:
            self._waiting[ticket.id] = waiting
            self._some_wait.set()
            if self._server is None:
                self._server = every(_LOOK_EVERY_S, self._look, "account-queue")
        return waiting

    def _forget(self, waiting: _Waiting) -> None:
        with self._lock:
            self._waiting.pop(waiting.ticket.id, None)
            if not self._waiting:
                self._some_wait.clear()

    def _leave(self, waiting: _Waiting) -> None:
        """Out of the line; a lease that came at the last moment is given back."""
        self._forget(waiting)
        self._presence.give_back(lambda: self._store.leases.leave(waiting.ticket.id))
        self._serve_soon()

    def _serve_soon(self) -> None:
        if self._server is not None:
            self._server.wake()

    def _look(self) -> None:
        """Serves the line once, for all processes; first waits until a request of this process is in it."""
        if not self._some_wait.is_set():
            self._some_wait.wait()
            # Whoever has just joined has tried it. Next time.
            return
        self._store.database.exclusively(self._serve)
        for row in self._store.leases.granted(self._presence.id):
            self._tell(row.id, Lease(row.id, row.account_id, row.scope, row.is_probe))

    def _tell(self, ticket_id: str, lease: Lease) -> None:
        with self._lock:
            waiting = self._waiting.get(ticket_id)
        if waiting is not None and waiting.lease is None:
            waiting.lease = lease
            waiting.looked_at.set()

    def _serve(self, tx: Transaction) -> None:
        now = self._store.database.now()
        accounts, line = self._store.leases.snapshot(tx, now)
        if line:
            self._grant(tx, scheduling.assign(accounts, line, self._limits, now), now)

    def _rest(
        self, tx: Transaction, account_id: str, scope: str, base_s: float, told_s: float | None, now: float
    ) -> float:
        rest = self._store.leases.rest_of(tx, account_id, scope)
        # What fails while the account rests already began before that: one failure, however many noticed it.
        strikes = rest.strikes if rest is not None and rest.until > now else (rest.strikes if rest else 0) + 1
        seconds = scheduling.rest_s(strikes, base_s, told_s)
        until = max(now + seconds, rest.until if rest is not None else 0.0)
        self._store.leases.put_to_rest(tx, account_id, scope, until, strikes)
        return until - now

    def _refusal(self, accounts: Mapping[str, str], why: str, retry_after_s: float) -> NoAccountFree:
        capacity = self._limits.capacity(len(accounts))
        error = NoAccountFree(
            f"no Kimi account is free: {why.format(wait=self._wait_s)}; try again later, or add an account",
            retry_after_s=retry_after_s,
        )
        if capacity is not None:
            error.rate_limit = RateLimit(capacity, 0, retry_after_s)
        return error

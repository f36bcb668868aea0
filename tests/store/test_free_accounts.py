"""Two ways find a free account, or a place in the queue.

One step is certain of nearly all; the other one knows everything.
"""

import random
from contextlib import closing, suppress

from app.accounts import scheduling
from app.store import Store
from app.store.database import Transaction
from app.store.leases import (
    ALL_ACCOUNTS,
    REJECTED,
    WHOLE_ACCOUNT,
    Cooldown,
    FreeAccount,
    FreeLimits,
    Grant,
    QueuedTicket,
    Ticket,
    Wish,
)
from tests.running import BOTH_DATABASES, ON_POSTGRESQL, Running

NOW = 1000.0
MODELS = ("k2", "k3")


def fill(store: Store, dice: random.Random) -> dict[str, str]:
    """Accounts with streams, cooldowns and rejected tokens; in some cases a queue. Returns the tokens' digests."""
    tokens = {f"account-{n}": f"token-{n}" for n in range(dice.choice((1, 3, 20)))}
    store.accounts.add(list(tokens), NOW)

    def work(tx: Transaction) -> None:
        for number, id_ in enumerate(tokens):
            for stream in range(dice.choice((0, 0, 1, 2))):
                at = NOW - dice.choice((5, 50))
                grant = Grant(id_, dice.choice(MODELS), False, at, NOW + dice.choice((-1, 0, 1, 1e6)), NOW + 1e4)
                ticket = Ticket(f"{number}-{stream}", "key", Wish("k2", {}))
                store.leases.grant(tx, ticket, store.database.process_id, grant, waited=False)
            if dice.random() < 0.2:
                cause = dice.choice(("", REJECTED))
                until = NOW + dice.choice((-20, 20))
                scope = WHOLE_ACCOUNT if cause else dice.choice((WHOLE_ACCOUNT, *MODELS))
                store.leases.set_cooldown(tx, id_, scope, Cooldown(until, 1, cause))
                if cause:
                    store.accounts.set_refused(tx, id_, dice.choice((tokens[id_], "an older token")))
        if dice.random() < 0.1:
            store.leases.set_cooldown(tx, ALL_ACCOUNTS, dice.choice(MODELS), Cooldown(NOW + dice.choice((-9, 9)), 1))
        if dice.random() < 0.2:
            wish = Wish("k2", tokens)
            store.leases.enqueue(tx, Ticket("waits", "key", wish), 0, store.database.process_id, NOW, NOW + 60)

    store.database.in_exclusive_transaction(work)
    return tokens


@BOTH_DATABASES
def test_the_account_that_is_leased_at_once_is_the_one_that_is_chosen_with_all_that_is_known(
    running: Running, database: str
) -> None:
    at_once = 0
    dice = random.Random(1)
    for _ in range(20):
        with closing(Store(running.new_database().url)) as store:
            tokens = fill(store, dice)
            for number in range(8):
                limits = FreeLimits(NOW, dice.choice((1, 2, 100)), NOW + 100)
                names = dice.sample(sorted(tokens), dice.choice((1, len(tokens), dice.randint(1, len(tokens)))))
                wish = Wish(dice.choice(MODELS), {name: tokens[name] for name in names})
                at_once += compare(store, Ticket(f"ticket-{number}", "key", wish), limits)
    assert at_once > 30


def compare(store: Store, ticket: Ticket, limits: FreeLimits) -> bool:
    """Leases, and gives back. Whether there was a lease at once."""
    wish, rows = ticket.wish, store.leases

    def choose(tx: Transaction) -> tuple[FreeAccount | None, bool]:
        is_free = rows.queue_state(tx, "key", limits).head is None
        return scheduling.choose(rows.free_accounts(tx, wish, limits), wish), is_free

    def lease(tx: Transaction) -> str | None:
        grant = Grant("", wish.scope, False, NOW, NOW, NOW + 1e4)
        return rows.lease_at_once(tx, ticket, store.database.process_id, limits, grant)

    chosen, nobody_waits = store.database.in_exclusive_transaction(choose)
    streams = rows.streams()
    account_id = rows.in_lease_transaction(lease)
    if account_id is None:
        assert rows.streams() == streams
        return False
    assert chosen is not None and nobody_waits
    assert (chosen.id, chosen.is_probe) == (account_id, False)
    assert rows.streams() == {**streams, account_id: streams.get(account_id, 0) + 1}
    rows.release(ticket.id)
    assert rows.streams() == streams
    return True


@BOTH_DATABASES
def test_what_cools_down_for_sure_does_not_keep_others_from_a_lease_at_once(running: Running, database: str) -> None:
    with closing(Store(running.new_database().url)) as store:
        tokens = {'a "b\\c': "1", "x,{y}": "2"}
        store.accounts.add(list(tokens), NOW)
        first, second = sorted(tokens)

        def cool(tx: Transaction) -> None:
            store.leases.set_cooldown(tx, first, WHOLE_ACCOUNT, Cooldown(NOW + 60, 1))

        store.database.in_exclusive_transaction(cool)
        ticket, limits = Ticket("ticket", "key", Wish("k2", tokens)), FreeLimits(NOW, 5, NOW + 100)
        grant = Grant("", "k2", False, NOW, NOW, NOW + 1e4)
        leased = store.leases.in_lease_transaction(
            lambda tx: store.leases.lease_at_once(tx, ticket, store.database.process_id, limits, grant)
        )
        assert leased == second


@BOTH_DATABASES
def test_a_ticket_joins_the_queue_at_once_where_everything_that_is_known_says_the_same(
    running: Running, database: str
) -> None:
    joined = 0
    dice = random.Random(2)
    for _ in range(20):
        with closing(Store(running.new_database().url)) as store:
            # Of nearly all cases that ``fill`` makes more must be known: an account is free, or cools down.
            wish = Wish("k2", fill(store, dice) if dice.random() < 0.3 else fill_up(store, dice))
            for number in range(8):
                ticket = Ticket(f"ticket-{number}", dice.choice(("key", "another key")), wish)
                joined += join(store, ticket, FreeLimits(NOW, dice.choice((1, 1, 2)), NOW + 100), dice)
    # There are no round trips to a file that could be saved.
    assert joined > 10 if database == "postgresql" else joined == 0


@ON_POSTGRESQL
def test_an_account_or_a_place_in_one_step_are_those_of_two_steps(running: Running, database: str) -> None:
    leased, joined = 0, 0
    dice = random.Random(3)
    for _ in range(5):
        with closing(Store(running.new_database().url)) as store:
            tokens = fill(store, dice) if dice.random() < 0.5 else fill_up(store, dice)
            for number in range(16):
                names = dice.sample(sorted(tokens), dice.choice((1, len(tokens))))
                ticket = Ticket(f"ticket-{number}", "key", Wish("k2", {name: tokens[name] for name in names}))
                limits = FreeLimits(NOW, dice.choice((1, 1, 2)), NOW + 100)
                is_leased, has_joined = lease_or_join(store, ticket, limits, dice.choice((1, 3)))
                leased, joined = leased + is_leased, joined + has_joined
    assert leased > 10
    assert joined > 5


def lease_or_join(store: Store, ticket: Ticket, limits: FreeLimits, most: int) -> tuple[bool, bool]:
    """Gets an account, a place or neither, in two steps that are taken back, and in one; and gives it back."""
    rows, process_id = store.leases, store.database.process_id
    grant = Grant("", ticket.wish.scope, False, NOW, NOW, NOW + 1e4)
    expected: list[tuple[str | None, bool, list[QueuedTicket]]] = []

    def in_two_steps(tx: Transaction) -> None:
        account_id, has_joined = rows.lease_at_once(tx, ticket, process_id, limits, grant), False
        if account_id is None:
            has_joined = rows.join_at_once(tx, ticket, process_id, limits, NOW + 60, most)
        expected.append((account_id, has_joined, rows.tickets(tx, ticket.wish.id, 100)))
        raise _TakenBack

    def in_one_step(tx: Transaction) -> tuple[str | None, bool]:
        return rows.lease_or_join_at_once(tx, ticket, process_id, limits, grant, NOW + 60, most)

    streams = rows.streams()
    with suppress(_TakenBack):
        store.database.in_exclusive_transaction(in_two_steps)
    assert rows.streams() == streams
    ((account_id, has_joined, queued),) = expected
    new = {} if account_id is None else {account_id: streams.get(account_id, 0) + 1}
    assert rows.in_lease_transaction(in_one_step) == (account_id, has_joined)
    for _ in range(2):
        assert store.database.with_retries(lambda tx: rows.tickets(tx, ticket.wish.id, 100)) == queued
        assert rows.streams() == {**streams, **new}
        # After a lost connection nobody knows whether the first call was committed. Then more may have to be known.
        assert rows.in_lease_transaction(in_one_step) in ((account_id, has_joined), (None, False))
    rows.withdraw(ticket.id)
    return account_id is not None, has_joined


class _TakenBack(Exception):
    """Ends a transaction without a commit."""


def fill_up(store: Store, dice: random.Random) -> dict[str, str]:
    """Accounts with a stream each, a queue, and sometimes a cooldown. Returns the tokens' digests."""
    tokens = {f"account-{n}": f"token-{n}" for n in range(dice.choice((1, 3)))}
    store.accounts.add(list(tokens), NOW)

    def work(tx: Transaction) -> None:
        for id_ in tokens:
            grant = Grant(id_, "k2", False, NOW, NOW, NOW + 1e4)
            store.leases.grant(tx, Ticket(id_, "key", Wish("k2", {})), store.database.process_id, grant, waited=False)
        if dice.random() < 0.4:
            store.leases.set_cooldown(tx, "account-0", WHOLE_ACCOUNT, Cooldown(NOW + dice.choice((-20, 20)), 1))
        ticket = Ticket("waits", "key", Wish("k2", tokens))
        store.leases.enqueue(tx, ticket, dice.randint(0, 5), store.database.process_id, NOW, NOW + 60)

    store.database.in_exclusive_transaction(work)
    return tokens


def join(store: Store, ticket: Ticket, limits: FreeLimits, dice: random.Random) -> bool:
    """Joins the queue, and sometimes leaves it. Whether it did so at once."""
    rows, process_id = store.leases, store.database.process_id
    most = dice.choice((1, 3, 100))
    state = store.database.with_retries(lambda tx: rows.queue_state(tx, ticket.owner, limits))
    position = scheduling.next_position(state.last_of_owner, state.head)
    # Again: after a lost connection nobody knows whether the first call was committed.
    for _ in range(2):
        has_joined = rows.in_lease_transaction(
            lambda tx: rows.join_at_once(tx, ticket, process_id, limits, NOW + 60, most)
        )
    queued = store.database.with_retries(lambda tx: rows.tickets(tx, ticket.wish.id, 100))
    own = [one for one in queued if one.id == ticket.id]
    assert len(own) == has_joined
    mine = own[0] if own else None
    if mine is not None:
        assert not state.some_may_start and not state.some_cool_down and state.waiting < most
        assert (mine.position, mine.owner, mine.process_id) == (position, ticket.owner, process_id)
        if dice.random() < 0.3:
            rows.withdraw(ticket.id)
    return has_joined

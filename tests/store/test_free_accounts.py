"""Two ways find a free account: one read that is certain of nearly all, and the one that knows everything."""

import random
from contextlib import closing
from functools import partial

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
    Ticket,
    Wish,
)
from tests.running import Running

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
                store.leases.grant(tx, f"{number}-{stream}", store.database.process_id, grant, waited=False)
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


def test_the_account_that_is_found_at_once_is_the_one_that_is_chosen_with_all_that_is_known(
    running: Running,
) -> None:
    found: list[FreeAccount] = []
    dice = random.Random(1)
    for _ in range(20):
        with closing(Store(running.new_database().url)) as store:
            tokens = fill(store, dice)
            for _ in range(5):
                limits = FreeLimits(NOW, dice.choice((1, 2, 100)), NOW + 100)
                names = dice.sample(sorted(tokens), dice.randint(1, len(tokens)))
                wish = Wish(dice.choice(MODELS), {name: tokens[name] for name in names})
                store.database.in_exclusive_transaction(partial(compare, store, wish, limits, found))
    assert len(found) > 20


def compare(store: Store, wish: Wish, limits: FreeLimits, found: list[FreeAccount], tx: Transaction) -> None:
    at_once = scheduling.choose(store.leases.free_at_once(tx, wish, limits), wish)
    if at_once is not None:
        assert at_once == scheduling.choose(store.leases.free_accounts(tx, wish, limits), wish)
        assert store.leases.queue_state(tx, "key").head is None
        found.append(at_once)

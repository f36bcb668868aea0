"""Whose turn it is: which account serves which waiting request. Pure policy, over a snapshot of the store.

Accounts: the least busy first, among equals the one whose turn is longest ago; never more streams than the limit,
never sooner after the last start than the spacing, never while the account rests. An account whose rest has just
ended is half open: it serves one request, and is itself again when that has gone well.

Requests: fair between API keys, first come, first served within one. Each gets a ``place`` when it joins the line:
one behind the last that its key has there, or level with the head of the line where its key has none (start-time fair
queueing). A request that cannot be served now (its conversation's account is busy) holds nobody up behind it.

Must never know SQL, Kimi, or what a request is about. Times are Unix seconds.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from app.store.leases import WHOLE_ACCOUNT, AccountState, Grant, Rest, Ticket

# A rest grows with every failure in a row, and never beyond this.
LONGEST_REST_S = 3600.0
_SHORTEST_CAP_S = 600.0
_SHORTEST_REST_S = 1.0

# How far apart two starts on one account are, as multiples of the spacing: at least, and at most.
_SPREAD = (1.0, 1.5)


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_streams`` at once per account, 0 for any number; ``min_interval_s`` between two starts on one."""

    max_streams: int
    min_interval_s: float

    def capacity(self, accounts: int) -> int | None:
        """How many requests that many accounts serve at once; None where there is no limit."""
        return accounts * self.max_streams if self.max_streams else None


def assign(accounts: Sequence[AccountState], line: Sequence[Ticket], limits: Limits, now: float) -> list[Grant]:
    """Who of the ``line`` (in its order) is served now, and by whom. Changes ``accounts`` accordingly."""
    by_id = {account.id: account for account in accounts}
    turn = max((account.last_turn for account in accounts), default=0)
    grants = []
    for ticket in line:
        free = [
            account
            for account_id, token in ticket.accounts.items()
            if (account := by_id.get(account_id)) is not None
            and account.refused != token
            and _is_free(account, ticket.scope, limits, now)
        ]
        if not free:
            continue
        chosen = min(free, key=lambda account: (account.streams, account.last_turn, account.id))
        turn += 1
        is_probe = bool(chosen.rest_of(ticket.scope))
        chosen.last_turn = turn
        chosen.next_at = now + limits.min_interval_s * random.uniform(*_SPREAD)
        chosen.active[ticket.scope] = chosen.active.get(ticket.scope, 0) + 1
        chosen.newest_at[ticket.scope] = now
        grants.append(Grant(ticket, chosen.id, turn, chosen.next_at, is_probe))
    return grants


def _is_free(account: AccountState, scope: str, limits: Limits, now: float) -> bool:
    if limits.max_streams and account.streams >= limits.max_streams:
        return False
    # One that is further ahead was written before the clock was set back.
    if 0 < account.next_at - now <= limits.min_interval_s * _SPREAD[1]:
        return False
    if account.rests_until(scope) > now:
        return False
    return not any(
        _is_tried(account, name, rest) for name, rest in account.rests.items() if name in (WHOLE_ACCOUNT, scope)
    )


def _is_tried(account: AccountState, scope: str, rest: Rest) -> bool:
    """Whether a request tries already if the rest has helped: one that began before it says nothing of that."""
    began = account.newest_at.values() if scope == WHOLE_ACCOUNT else [account.newest_at.get(scope, 0.0)]
    return any(began_at >= rest.until for began_at in began)


def next_place(owner_last: int | None, head: int | None) -> int:
    """The place of a new request: ``owner_last`` is the last of its key in the line, ``head`` the first of all."""
    return (head or 0) if owner_last is None else owner_last + 1


def wakes_at(accounts: Sequence[AccountState], ticket: Ticket) -> float | None:
    """When the first of the ticket's accounts ends its rest, 0 where one does not rest; None where none will do."""
    ends = [
        account.rests_until(ticket.scope)
        for account in accounts
        if account.id in ticket.accounts and account.refused != ticket.accounts[account.id]
    ]
    return min(ends, default=None)


def rest_s(strikes: int, base_s: float, told_s: float | None) -> float:
    """How long an account rests after its ``strikes``-th failure in a row: as long as it was told, otherwise twice
    as long each time, from ``base_s`` on."""
    if told_s is not None:
        return max(_SHORTEST_REST_S, told_s) * random.uniform(1.0, 1.05)
    cap_s = min(LONGEST_REST_S, max(_SHORTEST_CAP_S, base_s))
    return min(cap_s, base_s * 2.0 ** min(strikes - 1, 20)) * random.uniform(1.0, 1.2)

"""Which account serves which request, and how long an account cools down. Pure policy over a snapshot of the store.

Accounts: the one with the fewest streams first; among equals the one whose latest stream is the longest ago. Never
more streams than the limit, never sooner after the latest start than the interval, never during a cooldown. An
account whose cooldown has just ended is half open (as a circuit breaker): it serves one request, the probe, and is
itself again when that has succeeded.

Requests: fair between API keys, first come, first served within one. A request gets a ``position`` when it joins the
queue: one behind the last of its key, or that of the head of the queue if its key has none there (start-time fair
queueing). A request that cannot be served now, because the account of its conversation is busy, does not hold up
those behind it.

Knows no SQL, no Kimi, and nothing of what a request is about. Times are Unix seconds.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from app.store.leases import REJECTED, WHOLE_ACCOUNT, Accounts, AccountState, Cooldown, Grant, Ticket

# A cooldown grows with every failure in a row, but never beyond this.
MAX_COOLDOWN_S = 3600.0
# The same for an account whose token Kimi has rejected.
MAX_REJECTED_S = 6 * 3600.0
# The cap is lower than that for short first cooldowns, but never lower than this.
_MIN_CAP_S = 600.0
_MIN_COOLDOWN_S = 1.0

# Causes of a cooldown that a client is told: the model needs a plan or credits, or Kimi does not serve it.
NEEDS_PLAN = "needs a plan"
NOT_SERVED = "not served"

_NO_COOLDOWN = Cooldown(0.0, 0)

# The time between two starts on one account, as multiples of the interval: at least, and at most.
_SPREAD = (1.0, 1.5)


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_streams``: at once per account, 0 for any number. ``min_interval_s``: between two starts on one."""

    max_streams: int
    min_interval_s: float

    def capacity(self, accounts: int) -> int | None:
        """How many requests that many accounts serve at once; None if there is no limit."""
        return accounts * self.max_streams if self.max_streams else None


def assign(accounts: Accounts, queue: Sequence[Ticket], limits: Limits, now: float) -> list[Grant]:
    """The grants for those tickets of the ``queue`` (in its order) that are served now. Changes ``accounts``
    accordingly.
    """
    by_id = {account.id: account for account in accounts.states}
    turn = max((account.last_turn for account in accounts.states), default=0)
    grants = []
    for ticket in queue:
        model = accounts.models.get(ticket.scope)
        if model is not None and (model.until > now or _is_model_probed(accounts.states, ticket.scope, model)):
            continue
        free = [
            account
            for account_id, token in ticket.accounts.items()
            if (account := by_id.get(account_id)) is not None and _is_free(account, ticket.scope, token, limits, now)
        ]
        if not free:
            continue
        chosen = min(free, key=lambda account: (account.streams, account.last_turn, account.id))
        turn += 1
        token = ticket.accounts[chosen.id]
        is_probe = model is not None or chosen.refused == token or bool(chosen.cooldowns_for(ticket.scope, token))
        chosen.last_turn = turn
        chosen.next_at = now + limits.min_interval_s * random.uniform(*_SPREAD)
        chosen.active[ticket.scope] = chosen.active.get(ticket.scope, 0) + 1
        chosen.newest_at[ticket.scope] = now
        grants.append(Grant(ticket, chosen.id, turn, chosen.next_at, is_probe))
    return grants


def _is_free(account: AccountState, scope: str, token: str, limits: Limits, now: float) -> bool:
    if limits.max_streams and account.streams >= limits.max_streams:
        return False
    # A time further ahead was written before the clock was set back.
    if 0 < account.next_at - now <= limits.min_interval_s * _SPREAD[1]:
        return False
    return not any(
        cooldown.until > now or _is_probed(account, name, cooldown)
        for name, cooldown in account.cooldowns_for(scope, token).items()
    )


def _is_probed(account: AccountState, scope: str, cooldown: Cooldown) -> bool:
    """Whether a probe runs already: a stream that began after the cooldown. Earlier streams say nothing about it."""
    began = account.newest_at.values() if scope == WHOLE_ACCOUNT else [account.newest_at.get(scope, 0.0)]
    return any(began_at >= cooldown.until for began_at in began)


def _is_model_probed(accounts: Sequence[AccountState], model: str, cooldown: Cooldown) -> bool:
    """The same for a model that all accounts have failed to serve."""
    return any(account.newest_at.get(model, 0.0) >= cooldown.until for account in accounts)


def next_position(last_of_owner: int | None, head: int | None) -> int:
    """The position of a new request. ``last_of_owner``: the last position of its API key in the queue, None if it has
    none there. ``head``: the first position of the queue, None if it is empty.
    """
    return (head or 0) if last_of_owner is None else last_of_owner + 1


def earliest_available(accounts: Accounts, ticket: Ticket) -> Cooldown:
    """The cooldown that ends first, of those that keep the ticket's accounts from it; one that ended at 0 if there is
    none. One of a rejected token only where Kimi has rejected the tokens of all of them.
    """
    candidates = [
        max(
            account.cooldowns_for(ticket.scope, ticket.accounts[account.id]).values(),
            key=lambda cooldown: cooldown.until,
            default=_NO_COOLDOWN,
        )
        for account in accounts.states
        if account.id in ticket.accounts
    ]
    first = min(candidates, key=lambda cooldown: (cooldown.cause == REJECTED, cooldown.until), default=_NO_COOLDOWN)
    if first.cause == REJECTED:
        return first
    return max(first, accounts.models.get(ticket.scope, _NO_COOLDOWN), key=lambda cooldown: cooldown.until)


def cooldown_s(failures: int, base_s: float, asked_s: float | None, cause: str = "") -> float:
    """How long an account cools down after its ``failures``-th failure in a row, of this cause.

    ``asked_s``: what Kimi has asked for, if anything. Otherwise ``base_s``, doubled with each failure.
    """
    if asked_s is not None:
        return max(_MIN_COOLDOWN_S, asked_s) * random.uniform(1.0, 1.05)
    cap_s = MAX_REJECTED_S if cause == REJECTED else min(MAX_COOLDOWN_S, max(_MIN_CAP_S, base_s))
    return min(cap_s, base_s * 2.0 ** min(failures - 1, 20)) * random.uniform(1.0, 1.2)

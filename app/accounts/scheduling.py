"""Which account serves which request, and how long an account cools down. Pure policy.

Accounts: the one with the fewest streams first; among equals the one whose latest stream is the longest ago. Never
more streams than the limit, never sooner after the latest start than the interval, never during a cooldown. An
account whose cooldown has just ended is half open (as a circuit breaker): it serves one request, the probe, and is
itself again when that has succeeded. ``app.store.leases`` reads the accounts in that order.

Requests: fair between API keys, first come, first served within one. A request gets a ``position`` when it joins the
queue: one behind the last of its key, or that of the head of the queue if its key has none there (start-time fair
queueing). A request that cannot be served now, because the account of its conversation is busy, does not hold up
those behind it. If the queue is full, the key with the most requests in it loses its last one, unless that of the new
request would have as many then.

Knows no SQL, no Kimi, and nothing of what a request is about. Times are Unix seconds.
"""

import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from app.store.leases import ALL_ACCOUNTS, REJECTED, Cooldown, CooldownRow, FreeAccount, FreeLimits, Wish

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
# Others: Kimi limits the account, has stopped it, or its token could not be renewed.
LIMITED = "limited"
FORBIDDEN = "forbidden"
NOT_RENEWED = "renewal"

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


def free_limits(limits: Limits, now: float) -> FreeLimits:
    """Which accounts are free at ``now``."""
    # A time further ahead was written before the clock was set back.
    latest_next_at = now + limits.min_interval_s * _SPREAD[1]
    return FreeLimits(now, limits.max_streams or sys.maxsize >> 33, latest_next_at)


def next_start_at(limits: Limits, now: float) -> float:
    """When an account on which a stream begins now may begin the next one."""
    return now + limits.min_interval_s * random.uniform(*_SPREAD)


def choose(free: Iterable[FreeAccount], wish: Wish) -> FreeAccount | None:
    """The first of the free accounts that may serve this. One whose token Kimi has rejected is a probe."""
    for account in free:
        token = wish.accounts.get(account.id)
        if token is None:
            continue
        if account.refused != token:
            return account
        if account.may_retry:
            return replace(account, is_probe=True)
    return None


def may_displace(own: int, most: int) -> bool:
    """Whether a new request takes the place of another one in a full queue. ``own``: how many of its API key wait.
    ``most``: how many of the key with the most.
    """
    return own + 1 < most


def next_position(last_of_owner: int | None, head: int | None) -> int:
    """The position of a new request. ``last_of_owner``: the last position of its API key in the queue, None if it has
    none there. ``head``: the first position of the queue, None if it is empty.
    """
    return (head or 0) if last_of_owner is None else last_of_owner + 1


def earliest_available(rows: Iterable[CooldownRow], wish: Wish) -> Cooldown:
    """The cooldown that ends first, of those that keep the accounts from this; one that ended at 0 if there is none.
    One of a rejected token only where Kimi has rejected the tokens of all of them.
    """
    of_accounts: dict[str, Cooldown] = {}
    everywhere = _NO_COOLDOWN
    for row in rows:
        token, cooldown = wish.accounts.get(row.account_id), row.cooldown
        if row.account_id == ALL_ACCOUNTS:
            everywhere = cooldown
        elif token is not None and (cooldown.cause != REJECTED or row.refused == token):
            known = of_accounts.get(row.account_id, _NO_COOLDOWN)
            of_accounts[row.account_id] = max(known, cooldown, key=lambda one: one.until)
    if len(of_accounts) < len(wish.accounts):
        first = _NO_COOLDOWN
    else:
        first = min(of_accounts.values(), key=lambda one: (one.cause == REJECTED, one.until), default=_NO_COOLDOWN)
    return first if first.cause == REJECTED else max(first, everywhere, key=lambda one: one.until)


def cooldown_s(failures: int, base_s: float, asked_s: float | None, cause: str = "") -> float:
    """How long an account cools down after its ``failures``-th failure in a row, of this cause.

    ``asked_s``: what Kimi has asked for, if anything. Otherwise ``base_s``, doubled with each failure.
    """
    if asked_s is not None:
        return max(_MIN_COOLDOWN_S, asked_s) * random.uniform(1.0, 1.05)
    cap_s = MAX_REJECTED_S if cause == REJECTED else min(MAX_COOLDOWN_S, max(_MIN_CAP_S, base_s))
    return min(cap_s, base_s * 2.0 ** min(failures - 1, 20)) * random.uniform(1.0, 1.2)

"""What Kimi says of an account's credits and rate limits (``kimi-protocol-2.md`` 5.6), for people to read.

Read tolerantly: each part may be missing, and numbers may be text. Must never decide which account serves a request.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from app.errors import UpstreamError
from app.store import Store
from app.upstreams.account import Account

# An account is not asked more often than this. Seconds.
_EVERY_S = 600.0

# Fields of the answer, and what people call them.
_WINDOWS = {"ratelimit5h": "5 hours", "ratelimit7d": "7 days"}


@dataclass(frozen=True, slots=True)
class Quota:
    """``left``: the part of the credits that is left, 0 to 1; None where Kimi does not say. ``windows``: name of a
    period → the part of its limit that is left. ``renews``: when the credits are renewed, in Kimi's words."""

    left: float | None
    renews: str
    windows: dict[str, float]

    @property
    def is_spent(self) -> bool:
        return self.left is not None and self.left <= 0

    def __str__(self) -> str:
        parts = []
        if self.left is not None:
            renewal = f" (renews {self.renews[:10]})" if self.renews else ""
            parts.append(f"{self.left:.0%} of the credits left{renewal}")
        parts += [f"{left:.0%} of the limit for {name} left" for name, left in self.windows.items()]
        return "Kimi says: " + (", ".join(parts) or "nothing about credits")


def parse_quota(stats: object) -> Quota:
    """The answer of GetSubscriptionStats. What it does not contain is left out."""
    balance = _object(stats, "subscriptionBalance")
    used = _number(balance.get("amountUsedRatio", 0)) if balance else None
    renews = balance.get("expireTime")
    windows = {}
    for name, title in _WINDOWS.items():
        window = _object(stats, name)
        if window and window.get("enabled") is not False:
            ratio = _number(window.get("ratio", 0))
            if ratio is not None:
                windows[title] = _left(ratio)
    return Quota(None if used is None else _left(used), renews if isinstance(renews, str) else "", windows)


@dataclass(frozen=True, slots=True)
class KeptQuota:
    """``quota``: None if Kimi did not say. ``asked_at``: Unix seconds."""

    quota: Quota | None
    asked_at: float


def kept_quota(store: Store, account_id: str) -> KeptQuota | None:
    """What Kimi said when it was last asked. None if it was not asked. Raises StoreError."""
    kept = store.facts.get(_name(account_id))
    return None if kept is None else KeptQuota(parse_quota(orjson.loads(kept[0])) if kept[0] else None, kept[1])


def _name(account_id: str) -> str:
    return f"quota@{account_id}"


class Quotas:
    """The quotas of accounts, kept in the store between two questions."""

    def __init__(self, store: Store | None, ask: Callable[[Account], object]) -> None:
        """``ask``: the answer of GetSubscriptionStats for an account. Raises UpstreamError. ``store``: None where
        nothing can be kept."""
        self._store = store
        self._ask = ask

    def of(self, account: Account) -> Quota | None:
        """None where Kimi was asked a short time ago and did not say. Raises UpstreamError."""
        if self._store is None:
            return parse_quota(self._ask(account))
        name, now = _name(account.id), self._store.database.now()
        kept = self._store.facts.get(name)
        if kept is not None and 0 <= now - kept[1] < _EVERY_S:
            return parse_quota(orjson.loads(kept[0])) if kept[0] else None
        answer: object = None
        try:
            answer = self._ask(account)
        except UpstreamError:
            self._store.facts.put(name, "", now)
            raise
        self._store.facts.put(name, orjson.dumps(_kept(answer)).decode(), now)
        return parse_quota(answer)


def _kept(answer: object) -> dict[str, Any]:
    """What is read of an answer, and nothing else of it."""
    return {name: _object(answer, name) for name in ("subscriptionBalance", *_WINDOWS) if _object(answer, name)}


def _object(fields: object, name: str) -> dict[str, Any]:
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            number = float(value)
            return number if 0 <= number < 1e9 else None
    return None


def _left(used: float) -> float:
    return max(0.0, 1.0 - used)

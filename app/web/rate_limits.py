"""The limits of an API key: requests in any minute, and requests at the same time, over all workers.

The count is kept in the store. Libraries for this (``limits``) keep it in the process, where each worker would count
for itself, or in Redis and the like, which this gateway does not need otherwise. The window moves, so no minute has
more requests than were allowed. Must never know who a key belongs to.
"""

import math
import uuid
from collections.abc import Callable

from app.concurrency.periodic import every, in_steps
from app.errors import KeyLimited
from app.store import KeyRow, Store
from app.store.api_keys import Usage
from app.store.process_lease import ProcessLease

_WINDOW_S = 60.0
_DAY_S = 86_400
# Retry-After where another request of the key must end first: how long that takes is not known. Seconds.
_RETRY_AFTER_S = 2.0
# How often the counts of keys that make no requests any more are deleted, in seconds, and how many at a time.
_CLEAN_EVERY_S = 60.0
_CLEAN_BATCH = 200


class Admission:
    """One request of a key that has limits. ``refusal``: why it may not continue, if so."""

    def __init__(self, headers: dict[str, str], refusal: KeyLimited | None, end: Callable[[], None]) -> None:
        self.headers = headers
        self.refusal = refusal
        # To be called when the request has ended. Safe to call again.
        self.end = end


class RateLimits:
    """Counts the requests of all keys that have limits. Requests of a killed process count until its lease ends."""

    def __init__(self, store: Store, process_lease: ProcessLease, longest_s: float) -> None:
        """``longest_s``: a request that runs longer than this is counted as lost."""
        self._store = store
        self._process_lease = process_lease
        self._longest_s = longest_s

    def start_cleaning(self) -> None:
        every(_CLEAN_EVERY_S, lambda: in_steps(self._delete_forgotten, _CLEAN_BATCH), "key-limits-cleaning")

    def _delete_forgotten(self) -> int:
        return self._store.keys.delete_forgotten(self._store.database.now() - 2 * _WINDOW_S, _CLEAN_BATCH)

    def check_tokens(self, key: KeyRow, owner: str) -> None:
        """Raises KeyLimited: if the key has used its tokens of this day. What runs is not counted before its end, so
        the requests that reach the limit are answered."""
        if key.tokens_per_day is None:
            return
        now = self._store.database.now()
        day = int(now // _DAY_S)
        if self._store.ledger.tokens_of_day(owner, day) >= key.tokens_per_day:
            raise KeyLimited(
                f"Rate limit reached for this API key: {key.tokens_per_day} tokens a day, by our estimate; the next "
                "day begins at 00:00 UTC",
                code="tokens_per_day",
                retry_after_s=(day + 1) * _DAY_S - now,
            )

    def admit(self, key: KeyRow) -> Admission:
        use_id = uuid.uuid4().hex
        now = self._store.database.now()
        usage, fits = self._store.keys.begin_use(
            key, use_id, window_s=_WINDOW_S, process_id=self._process_lease.id, now=now, ends_at=now + self._longest_s
        )
        headers = _headers(key, usage, now, fits)
        if not fits:
            return Admission(headers, _refusal(key, usage, now), lambda: None)
        if key.at_once is None:
            # Where only requests per minute are counted, nothing is written at the end of one.
            return Admission(headers, None, lambda: None)
        return Admission(
            headers, None, lambda: self._process_lease.run_or_retry(lambda: self._store.keys.end_use(use_id))
        )


def _headers(key: KeyRow, usage: Usage, now: float, counted: bool) -> dict[str, str]:
    """OpenAI's names, with true numbers; none where the key has no limit per minute."""
    if key.per_minute is None:
        return {}
    done = usage.requests + counted
    newest_at = now if counted else usage.newest_at
    return {
        "x-ratelimit-limit-requests": str(key.per_minute),
        "x-ratelimit-remaining-requests": str(max(0, key.per_minute - done)),
        # Until the whole limit is available again.
        "x-ratelimit-reset-requests": f"{max(0, math.ceil(newest_at + _WINDOW_S - now))}s",
    }


def _refusal(key: KeyRow, usage: Usage, now: float) -> KeyLimited:
    if key.per_minute is not None and usage.requests >= key.per_minute:
        return KeyLimited(
            f"Rate limit reached for this API key: {key.per_minute} requests per minute",
            retry_after_s=usage.oldest_at + _WINDOW_S - now,
        )
    return KeyLimited(
        f"Rate limit reached for this API key: {key.at_once} requests at once; wait for one to end",
        retry_after_s=_RETRY_AFTER_S,
    )

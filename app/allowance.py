"""How much an API key may ask: so many requests in any minute, and so many at once, over all workers.

The count is kept in the store. Libraries for this (``limits``) keep it in the process, where each worker would
count for itself, or in Redis and the like, which this gateway does not need otherwise. A moving window counts
exactly: in no minute are there more requests than were allowed. Must never know who a key is.
"""

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from app.errors import KeyLimited
from app.store import KeyRow
from app.store.keys import KeyRows, Usage

log = logging.getLogger(__name__)

_WINDOW_S = 60.0
# What a client is told to wait for another of its requests to end, which nobody can know.
_PATIENCE_S = 2.0


class Use:
    """One request of a key that has limits. ``refusal``: why it may not go on, if so."""

    def __init__(self, headers: dict[str, str], refusal: KeyLimited | None, end: Callable[[], None]) -> None:
        self.headers = headers
        self.refusal = refusal
        # The request no longer runs. Safe to call again.
        self.end = end


class Allowances:
    """Counts the requests of all keys that have limits. A killed worker's requests stop running after ``lease_s``."""

    def __init__(self, rows: KeyRows, now: Callable[[], float], lease_s: float) -> None:
        """``now``: Unix seconds, the same in all workers."""
        self._rows = rows
        self._now = now
        self._lease_s = lease_s
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._renewing = False

    def begin(self, key: KeyRow) -> Use:
        use_id = uuid.uuid4().hex
        now = self._now()
        # Where only requests are counted, none of them is held, and nothing is written at its end.
        held_until = 0.0 if key.at_once is None else now + self._lease_s
        usage, fits = self._rows.begin_use(key, use_id, since=now - _WINDOW_S, now=now, held_until=held_until)
        if fits and key.at_once is not None:
            self._hold(use_id)
        return Use(
            _headers(key, usage, now, fits), None if fits else _refusal(key, usage, now), lambda: self._end(use_id)
        )

    def _hold(self, use_id: str) -> None:
        with self._lock:
            self._running.add(use_id)
            if not self._renewing:
                threading.Thread(target=self._renew, name="key-uses", daemon=True).start()
                self._renewing = True

    def _end(self, use_id: str) -> None:
        with self._lock:
            if use_id not in self._running:
                return
            self._running.discard(use_id)
        try:
            self._rows.end_use(use_id)
        except SQLAlchemyError:
            log.exception("the end of a request could not be noted; it counts as running for %.0f s", self._lease_s)

    def _renew(self) -> None:
        while True:
            time.sleep(self._lease_s / 3)
            with self._lock:
                running = list(self._running)
                if not running:
                    self._renewing = False
                    return
            try:
                self._rows.renew_uses(running, self._now() + self._lease_s)
            except SQLAlchemyError:
                log.exception("running requests could not be renewed")


def _headers(key: KeyRow, usage: Usage, now: float, counted: bool) -> dict[str, str]:
    """OpenAI's names; true numbers, or none."""
    if key.per_minute is None:
        return {}
    done = usage.requests + counted
    newest_at = now if counted else usage.newest_at
    return {
        "x-ratelimit-limit-requests": str(key.per_minute),
        "x-ratelimit-remaining-requests": str(max(0, key.per_minute - done)),
        # Until all of it is there again.
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
        retry_after_s=_PATIENCE_S,
    )

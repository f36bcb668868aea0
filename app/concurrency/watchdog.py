"""One thread per process that checks everything that waits for a time limit.

With one timer per wait, gevent's event loop would start and stop a timer for each token of each stream. That was a
fifth of the cost of a token. One thread that checks all waits costs a stream almost nothing, and notices a limit a
little late. Works with and without gevent.
"""

import logging
import math
import threading
import time
from typing import Protocol

from app.concurrency.periodic import Periodic, every

log = logging.getLogger(__name__)

# The longest and the shortest pause between two checks. Seconds.
_MAX_PAUSE_S = 0.25
_MIN_PAUSE_S = 0.01
# How many objects are checked at once: that takes less than half a millisecond.
_PER_STEP = 250


class Watched(Protocol):
    def check(self, now: float) -> None:
        """Called in the watchdog's thread with the monotonic time. Must not block."""
        ...


class Watchdog:
    """Checks objects until ``forget`` is called. One per process. Its thread starts with the first object, and sleeps
    while there is none. Many objects are checked in steps, spread over the pause between two checks of one object: to
    check thousands at once would hold up all streams.
    """

    def __init__(self) -> None:
        # Object → how late a time limit of it may be noticed, in seconds.
        self._watched: dict[Watched, float] = {}
        self._lock = threading.Lock()
        self._loop: Periodic | None = None
        # Between two checks of one object.
        self._pause_s = _MAX_PAUSE_S
        # Of the present round: in how many steps its objects are checked, and those that are still to be checked.
        self._steps = 1
        self._left: list[Watched] = []
        self._some_watched = threading.Event()

    def __repr__(self) -> str:
        return f"<Watchdog of {len(self._watched)}, pause {self._pause_s:g} s>"

    def watch(self, watched: Watched, within_s: float = _MAX_PAUSE_S) -> None:
        """``within_s``: how late a time limit of the object may be noticed, with many objects up to twice that. The
        shortest one applies to all."""
        self._watched[watched] = within_s
        if not self._some_watched.is_set():
            self._some_watched.set()
            with self._lock:
                if self._loop is None:
                    self._loop = every(_MAX_PAUSE_S, self._check_some, "watchdog")
        if within_s < self._pause_s and self._loop is not None:
            # The current pause is too long for this object.
            self._pause_s = max(within_s, _MIN_PAUSE_S)
            self._loop.wake()

    def forget(self, watched: Watched) -> None:
        """Stops checking the object. Does nothing if it is not watched."""
        self._watched.pop(watched, None)

    def _check_some(self) -> float:
        """Waits until there is an object, does one step, and returns the pause until the next one, in seconds."""
        self._some_watched.wait()
        if not self._left:
            self._begin_round()
        now = time.monotonic()
        some = self._left[-_PER_STEP:]
        del self._left[-_PER_STEP:]
        for watched in some:
            if watched not in self._watched:
                continue
            try:
                watched.check(now)
            except Exception:  # one object that fails must not keep the others from being checked
                log.exception("watchdog_check_failed object=%r", watched)
                self.forget(watched)
        if not self._watched:
            self._left = []
            self._some_watched.clear()
            # An object that was added just before clear() found the event still set.
            if self._watched:
                self._some_watched.set()
        return self._pause_s / self._steps

    def _begin_round(self) -> None:
        self._pause_s = max(min(self._watched.values(), default=_MAX_PAUSE_S), _MIN_PAUSE_S)
        # Not the items: thousands of tuples would be as many objects for the garbage collector.
        self._left = list(self._watched)
        self._steps = max(1, math.ceil(len(self._left) / _PER_STEP))

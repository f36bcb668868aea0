"""One clock per process, which looks after everything that waits.

A time limit of its own for each wait is a timer of the event loop, set and taken back for each token of each stream:
a fifth of what a token cost. One thread that looks at all of them in turn costs a stream as good as nothing, and is a
little late. Works the same with and without gevent. Knows nothing of what it looks after.
"""

import logging
import threading
import time
from typing import Protocol

from app.concurrency.periodic import every

log = logging.getLogger(__name__)

# How often it looks where nobody needs it oftener, and at most. Seconds.
_SELDOM_S = 0.25
_OFTEN_S = 0.01


class Watched(Protocol):
    def look(self, now: float) -> None:
        """Called in the clock's thread, with the monotonic time; must not block."""
        ...


class Clock:
    """Starts its thread when it first has something to look after; without anything, the thread sleeps."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._lock = threading.Lock()
        self._runs = False
        self._every_s = _SELDOM_S
        self._wanted = threading.Event()

    def watch(self, watched: Watched, within_s: float = _SELDOM_S) -> None:
        """``within_s``: how late what is over may be noticed; the most impatient sets the pace for all."""
        self._watched.add(watched)
        if within_s < self._every_s:
            self._every_s = max(within_s, _OFTEN_S)
        if not self._wanted.is_set():
            self._wanted.set()
            with self._lock:
                if not self._runs:
                    self._runs = True
                    every(_SELDOM_S, self._run, "watchdog")

    def forget(self, watched: Watched) -> None:
        """Safe to call again."""
        self._watched.discard(watched)

    def _run(self) -> float:
        """Looks at all of them once; first waits until there is one. Returns the pause until the next look."""
        self._wanted.wait()
        now = time.monotonic()
        for watched in list(self._watched):
            try:
                watched.look(now)
            except Exception:  # one that fails must not keep the others from being looked at
                log.exception("something that waits could not be looked after")
                self.forget(watched)
        if not self._watched:
            self._wanted.clear()
            # Whoever came in between has found the event set.
            if self._watched:
                self._wanted.set()
        return self._every_s


CLOCK = Clock()

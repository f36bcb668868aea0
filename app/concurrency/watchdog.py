"""One clock per process, which looks after everything that waits.

A time limit of its own for each wait is a timer of the event loop, set and taken back for each token of each stream:
a fifth of what a token cost. One thread that looks at all of them in turn costs a stream as good as nothing, and is a
little late. Works the same with and without gevent. Knows nothing of what it looks after.
"""

import logging
import threading
import time
from typing import Protocol

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
                    threading.Thread(target=self._run, name="clock", daemon=True).start()

    def forget(self, watched: Watched) -> None:
        """Safe to call again."""
        self._watched.discard(watched)

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            time.sleep(self._every_s)
            now = time.monotonic()
            for watched in list(self._watched):
                try:
                    watched.look(now)
                except Exception:  # the edge of the thread: one fault must not stop the clock for all
                    log.exception("something that waits could not be looked after")
                    self.forget(watched)
            if not self._watched:
                self._wanted.clear()
                # Whoever came in between has found the event set.
                if self._watched:
                    self._wanted.set()


CLOCK = Clock()

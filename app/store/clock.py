"""One clock for all machines that share a database: the database's, known here by its distance from one of ours.

Must never know how a database is asked.
"""

import _thread
import logging
import threading
import time
from collections.abc import Callable

from app.store.errors import StoreError

log = logging.getLogger(__name__)

# How far a distance may move before that is said.
_REMARKABLE_S = 1.0

# Linux's counts on while the machine sleeps, its CLOCK_MONOTONIC does not; that of macOS does.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady() -> float:
    """Seconds since some moment, by a clock that nobody sets."""
    return time.clock_gettime(_STEADY)


class Clock:
    """``distance`` asks the database how many seconds it is ahead of ``ours``; again after ``fresh_s``."""

    def __init__(
        self, distance: Callable[[], float], ours: Callable[[], float] = steady, fresh_s: float = 60.0
    ) -> None:
        """Measures, and raises what ``distance`` raises."""
        self._distance = distance
        self._ours = ours
        self._fresh_s = fresh_s
        self._measuring = threading.Lock()
        self._differ_s = 0.0
        self._measure()

    def now(self) -> float:
        """Unix seconds. Never waits: a distance that has grown old is measured beside."""
        if time.monotonic() - self._measured_at > self._fresh_s and self._measuring.acquire(blocking=False):
            # Not a threading.Thread, whose start waits until it runs: whoever asks may be in the middle of a
            # transaction, and under gevent all others would run into its lock meanwhile.
            _thread.start_new_thread(self._measure_again, ())
        return self._ours() + self._offset_s

    def _measure_again(self) -> None:
        try:
            self._measure()
        except StoreError as e:
            # Whoever needs the database now says so.
            log.debug("the database's clock could not be read (%s)", e.driver_error)
        except Exception:  # the edge of the thread
            log.exception("the database's clock could not be read")
        finally:
            # Also after a failure: measured again when this is old, and not at every question.
            self._measured_at = time.monotonic()
            self._measuring.release()

    def _measure(self) -> None:
        self._offset_s = self._distance()
        self._measured_at = time.monotonic()
        differ_s = self._ours() + self._offset_s - time.time()
        if abs(differ_s - self._differ_s) > _REMARKABLE_S:
            log.warning("the clocks of this machine and of the database differ by %.1f s", differ_s)
        self._differ_s = differ_s

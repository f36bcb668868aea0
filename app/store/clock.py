"""One clock for all machines that share a database: the database's, computed from a local clock and an offset.

Knows no SQL.
"""

import _thread
import logging
import threading
import time
from collections.abc import Callable

from app.store.errors import StoreError

log = logging.getLogger(__name__)

# A larger change of the difference between the two clocks is logged.
_LOGGED_CHANGE_S = 1.0

# On Linux, CLOCK_BOOTTIME also counts the time in which the machine is suspended, CLOCK_MONOTONIC does not. On macOS,
# CLOCK_MONOTONIC does.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady() -> float:
    """Seconds of a monotonic clock, which also runs while the machine is suspended."""
    return time.clock_gettime(_STEADY)


class Clock:
    """The database's clock.

    ``measure``: asks the database how many seconds its clock is ahead of ``local_clock``. ``max_age_s``: an offset
    older than this is measured again.
    """

    def __init__(
        self, measure: Callable[[], float], local_clock: Callable[[], float] = steady, max_age_s: float = 60.0
    ) -> None:
        """Measures once, and raises what ``measure`` raises."""
        self._ask = measure
        self._local_clock = local_clock
        self._max_age_s = max_age_s
        self._measuring = threading.Lock()
        self._difference_s = 0.0
        self._measure()

    def now(self) -> float:
        """Unix seconds. Never blocks: an old offset is measured again in a background thread."""
        if time.monotonic() - self._measured_at > self._max_age_s and self._measuring.acquire(blocking=False):
            # Not threading.Thread: its start() waits until the thread runs. The caller may be in a transaction, and
            # under gevent other greenlets would run during that wait and would block on the database's lock.
            _thread.start_new_thread(self._measure_again, ())
        return self._local_clock() + self._offset_s

    def _measure_again(self) -> None:
        try:
            self._measure()
        except StoreError as e:
            # Requests that need the database log their own failures.
            log.debug("clock_not_measured error=%s", e.driver_error)
        except Exception:  # the outermost call of the thread
            log.exception("clock_not_measured")
        finally:
            # Also after a failure, so that the next attempt is after max_age_s and not in the next call of now().
            self._measured_at = time.monotonic()
            self._measuring.release()

    def _measure(self) -> None:
        self._offset_s = self._ask()
        self._measured_at = time.monotonic()
        difference_s = self._local_clock() + self._offset_s - time.time()
        if abs(difference_s - self._difference_s) > _LOGGED_CHANGE_S:
            log.warning("clock_differs database_ahead_s=%.1f", difference_s)
        self._difference_s = difference_s

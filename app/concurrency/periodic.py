"""Background threads that do the same work again and again, whatever it raises.

Under gevent a thread is a greenlet; this works with and without. Knows nothing of the work.

Where something wakes the process every second anyway (gunicorn's heartbeat), long pauses end together with it, so
that an idle process is not woken for each of them. Each process has a beat of its own: if all processes of a machine
woke at the same moment, they would wait for each other's writes.
"""

import logging
import math
import threading
import time
from collections.abc import Callable

from app.concurrency.yielding import NEXT_ROUND_S

log = logging.getLogger(__name__)

# Between two steps of a long work: longer than a step, or whoever waits for it would wait for many. Seconds.
_PAUSE_BETWEEN_STEPS_S = 0.02
# The shortest pause after work that failed: a failure that lasts must neither fill the log nor use a core. Seconds.
_PAUSE_AFTER_FAILURE_S = 0.1
# Pauses of at least this length end with a beat, where there is one. Seconds.
_LONG_PAUSE_S = 2.0
# From one beat to the next, and how late a long pause may end. Seconds.
_BEAT_S = 1.0
_LATE_S = 0.1


class Beat:
    """Ends long pauses when it is called, once a second, by whatever wakes the process then."""

    def __init__(self) -> None:
        # Event of a pause → when the pause ends, in monotonic time.
        self._pauses: dict[threading.Event, float] = {}
        self._last = -math.inf

    def __repr__(self) -> str:
        return f"<Beat of {len(self._pauses)} pauses>"

    def __call__(self, now: float) -> None:
        """``now``: the monotonic time. Ends the pauses that would end before the next beat."""
        self._last = now
        for event, until in list(self._pauses.items()):
            if until <= now + _BEAT_S - _LATE_S:
                event.set()

    def wait(self, event: threading.Event, seconds: float) -> None:
        """Until ``event`` is set, for ``seconds`` at most. A long pause ends at a beat, up to 0.9 s early and up to
        0.1 s late; without beats in time."""
        now = time.monotonic()
        if seconds < _LONG_PAUSE_S or now - self._last > 2 * _BEAT_S:
            event.wait(seconds)
            return
        self._pauses[event] = now + seconds
        # The beats may end meanwhile.
        event.wait(seconds + _BEAT_S)
        del self._pauses[event]


# Of this process. The worker of gunicorn calls it.
beat = Beat()


class Periodic:
    """A daemon thread that calls ``work`` until ``stop`` or the end of the process.

    After each call it pauses for ``seconds``, or for as many seconds as ``work`` returned; see ``Beat.wait``. An
    exception is logged, with its traceback unless it has an attribute ``is_transient`` that is true, and ``work`` is
    called again after the pause. ``first_after_s``: the pause before the first call.
    """

    def __init__(self, seconds: float, work: Callable[[], float | None], name: str, first_after_s: float) -> None:
        self._seconds = seconds
        self._work = work
        self._name = name
        self._first_after_s = first_after_s
        self._stopped = False
        self._woken = threading.Event()

    def __repr__(self) -> str:
        return f"<Periodic {self._name} every {self._seconds:g} s{', stopped' if self._stopped else ''}>"

    def start(self) -> None:
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def wake(self) -> None:
        """Ends the pause; during a call of ``work``, the next pause. Safe from any thread."""
        self._woken.set()

    def stop(self) -> None:
        """No call of ``work`` begins any more; one that runs is not waited for."""
        self._stopped = True
        self._woken.set()

    def _run(self) -> None:
        pause_s = self._first_after_s
        while True:
            # Never without a pause: under gevent, work that does not block would let nothing else run.
            beat.wait(self._woken, max(pause_s, NEXT_ROUND_S))
            self._woken.clear()
            # Looked at after the flag was cleared: a stop in between has set it again, or is seen here.
            if self._stopped:
                return
            pause_s = self._call()

    def _call(self) -> float:
        try:
            wanted_s = self._work()
        except Exception as e:  # the border of the thread
            pause_s = max(self._seconds, _PAUSE_AFTER_FAILURE_S)
            if getattr(e, "is_transient", False):
                # A database that is away for an hour: one line each time.
                log.warning("background_work_failed work=%s retry_in_s=%.1f error=%s", self._name, pause_s, e)
            else:
                log.exception("background_work_failed work=%s retry_in_s=%.1f", self._name, pause_s)
            return pause_s
        return self._seconds if wanted_s is None else wanted_s


def every(seconds: float, work: Callable[[], float | None], name: str, *, first_after_s: float = 0.0) -> Periodic:
    """Starts a thread that calls ``work`` now and again ``seconds`` after each call has returned; see Periodic.

    ``name``: of the thread, also in the log.
    """
    periodic = Periodic(seconds, work, name, first_after_s)
    periodic.start()
    return periodic


def in_steps(step: Callable[[], int], full: int) -> None:
    """Calls ``step``, which returns how much it has done, until that is less than ``full``.

    Pauses in between, so that everything else of the process goes on, and other processes get at what it works on.
    """
    while step() >= full:
        time.sleep(_PAUSE_BETWEEN_STEPS_S)

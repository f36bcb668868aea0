"""Background threads that do the same work again and again, whatever it raises.

Under gevent a thread is a greenlet; this works with and without. Knows nothing of the work.
"""

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

# Between two steps of a long work: longer than a step, or whoever waits for it would wait for many. Seconds.
_PAUSE_BETWEEN_STEPS_S = 0.02
# The shortest pause after work that failed: a failure that lasts must neither fill the log nor use a core. Seconds.
_PAUSE_AFTER_FAILURE_S = 0.1
# Not 0: after that gevent looks at its sockets and timers only every fifty times (gevent 26.9, CALLBACK_CHECK_COUNT).
_SHORTEST_PAUSE_S = 1e-6


class Periodic:
    """A daemon thread that calls ``work`` until ``stop`` or the end of the process.

    After each call it pauses for ``seconds``, or for as many seconds as ``work`` returned. An exception is logged,
    with its traceback unless it has an attribute ``is_transient`` that is true, and ``work`` is called again after
    the pause. ``first_after_s``: the pause before the first
    call.
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
            self._woken.wait(max(pause_s, _SHORTEST_PAUSE_S))
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

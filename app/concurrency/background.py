"""Runs work that blocks in the background, so that whoever waits for what it tells can do so with a time limit.

A reader thread (under gevent: a greenlet) fills a bounded list; the consumer takes what is there, all of
it at once, and gets an empty list when nothing came. Works the same with and without gevent, because it
uses nothing but threads and events. Knows nothing of what flows through it.
"""

import _thread
import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from app.concurrency.watchdog import CLOCK

T = TypeVar("T")

# Items that may wait for a slow consumer before the reader stops reading, so that TCP slows the sender.
_HIGH_WATER = 1000


class Cancelled(Exception):
    """The work was called off; raised in the reader, and of no interest to the consumer."""


class Cancellation:
    """Calls off work that runs in another thread, also while it blocks on a socket."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abort: Callable[[], None] | None = None
        self.cancelled = False

    def check(self) -> None:
        """Raises Cancelled where the work has been called off."""
        if self.cancelled:
            raise Cancelled

    def attach(self, abort: Callable[[], None]) -> None:
        """``abort`` ends, from another thread, what the work is about to block on. Raises Cancelled."""
        with self._lock:
            self.check()
            self._abort = abort

    def detach(self) -> None:
        with self._lock:
            self._abort = None

    def wait(self, event: threading.Event, timeout_s: float) -> None:
        """Waits for ``event``, at most ``timeout_s``. Raises Cancelled as soon as the work is called off."""
        self.attach(event.set)
        try:
            event.wait(timeout_s)
        finally:
            self.detach()
        self.check()

    def sleep(self, seconds: float) -> None:
        """Raises Cancelled as soon as the work is called off."""
        self.wait(threading.Event(), seconds)

    def cancel(self) -> None:
        """Ends the work at once. Safe from any thread, any number of times."""
        with self._lock:
            self.cancelled = True
            abort, self._abort = self._abort, None
            if abort is not None:
                abort()


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Pump(Generic[T]):
    """``source`` is called in the background, with a Cancellation and the function that it tells its items to; they
    are taken with ``take``. That function raises Cancelled where nobody wants any more of them.

    Told, and not yielded: an item would climb through each generator between the socket and here, and all of them
    would lie on the stack that is put aside while the source waits.

    After ``longest_s`` a source that waits for its consumer is ended: nobody may hold it for ever by not reading.
    ``within_s``: how late a ``take`` may be that waits in vain.
    """

    def __init__(
        self,
        source: Callable[[Cancellation, Callable[[T], None]], None],
        longest_s: float,
        within_s: float = 0.25,
    ) -> None:
        self._source = source
        self._overdue_at = time.monotonic() + longest_s
        self._cancellation = Cancellation()
        # Not a queue: that has 2 KB of room from the beginning, and gives one item at a time. Each step that is taken
        # with it is one of the interpreter's, so that nothing is lost between two threads.
        self._items: list[T] = []
        self._news = threading.Event()
        # When the consumer does not want to wait any longer.
        self._wake_at = math.inf
        # There is one while the reader waits for the consumer.
        self._room: threading.Event | None = None
        self._end: _End | None = None
        CLOCK.watch(self, within_s)
        # Not a threading.Thread: nobody asks for its name or waits for its end, and a stream has thousands of peers.
        _thread.start_new_thread(self._run, ())

    def take(self, timeout_s: float) -> list[T]:
        """The items that have come, at least one unless ``timeout_s`` passes (and up to ``within_s`` more);
        raises what the source raised.

        StopIteration is never raised: after the last item, the source having ended without an error, the
        answer is an EndOfSource.
        """
        if not self._items and self._end is None:
            self._wait(timeout_s)
        # Looked at before the items: what comes after the last one comes after it here too.
        end = self._end
        items = self._items[:]
        del self._items[: len(items)]
        if self._room is not None:
            self._room.set()
        if end is not None and not items:
            raise end.error or EndOfSource
        return items

    def _wait(self, timeout_s: float) -> None:
        self._wake_at = time.monotonic() + timeout_s
        while True:
            self._news.clear()
            # The clock has woken us where there is no time any more to be woken at.
            if self._items or self._end is not None or self._wake_at == math.inf:
                break
            self._news.wait()
        self._wake_at = math.inf

    def cancel(self) -> None:
        self._cancellation.cancel()
        if self._room is not None:
            self._room.set()

    def look(self, now: float) -> None:
        """Called by the clock."""
        if now >= self._wake_at:
            self._wake_at = math.inf
            self._news.set()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._source(self._cancellation, self._tell)
        except BaseException as e:  # noqa: BLE001  # handed to the consumer, which raises it
            error = e
        self._end = _End(error)
        self._news.set()
        CLOCK.forget(self)

    def _tell(self, item: T) -> None:
        self._items.append(item)
        if not self._news.is_set():
            self._news.set()
        if len(self._items) > _HIGH_WATER:
            self._wait_for_room()
        if self._cancellation.cancelled:
            raise Cancelled

    def _wait_for_room(self) -> None:
        room = self._room = threading.Event()
        # Looked at again now that it is known who waits: the consumer may have emptied the queue in between.
        if len(self._items) > _HIGH_WATER and not self._cancellation.cancelled:
            left_s = self._overdue_at - time.monotonic()
            if not room.wait(max(0.0, left_s)):
                raise PumpOverdue
        self._room = None


class EndOfSource(Exception):
    """The source has ended, without an error."""


class PumpOverdue(Cancelled):
    """The consumer has not taken anything for so long that the source was ended."""

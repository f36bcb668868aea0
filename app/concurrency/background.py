"""Runs blocking work in the background, so that its consumer can wait for results with a time limit.

A thread (under gevent: a greenlet) appends items to a list. The consumer takes all items that are there at once, and
gets an empty list if none came in time. Works with and without gevent, because it uses threads and events only.
"""

import _thread
import math
import threading
import time
import traceback
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from app.concurrency.watchdog import Watchdog

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

# If the items weigh more than this the producer waits for its consumer. It then reads no more, so that TCP slows the
# sender. A short event weighs 1, so that what waits has some 100 KB.
_HIGH_WATER = 1000


class Cancelled(Exception):
    """The work was cancelled. Raised in the background thread; the consumer has cancelled it, and does not see it."""


class Cancellation:
    """Cancels work that runs in another thread, also while it blocks on a socket."""

    # Without a dictionary: there is one for each stream.
    __slots__ = ("_abort", "_lock", "cancelled")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abort: Callable[[], None] | None = None
        self.cancelled = False

    def __repr__(self) -> str:
        return f"<Cancellation {'cancelled' if self.cancelled else 'not cancelled'}>"

    def check(self) -> None:
        """Raises Cancelled if the work was cancelled."""
        if self.cancelled:
            raise Cancelled

    def attach(self, abort: Callable[[], None]) -> None:
        """``abort`` is called by ``cancel``, in another thread. It ends what the work is about to block on.

        Raises Cancelled.
        """
        with self._lock:
            self.check()
            self._abort = abort

    def detach(self) -> None:
        with self._lock:
            self._abort = None

    def wait(self, event: threading.Event, timeout_s: float) -> None:
        """Waits for ``event``, at most ``timeout_s``. Raises Cancelled as soon as the work is cancelled."""
        self.attach(event.set)
        try:
            event.wait(timeout_s)
        finally:
            self.detach()
        self.check()

    def sleep(self, seconds: float) -> None:
        """Raises Cancelled as soon as the work is cancelled."""
        self.wait(threading.Event(), seconds)

    def cancel(self) -> None:
        """Cancels the work at once. Safe from any thread, any number of times."""
        with self._lock:
            self.cancelled = True
            abort, self._abort = self._abort, None
            if abort is not None:
                abort()


class EndOfSource(Exception):
    """The source has returned, and all its items were taken."""


class ConsumerStalled(Cancelled):
    """The source was ended because its consumer has not taken anything for too long."""


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Emit(Protocol[T_contra]):
    def __call__(self, item: T_contra, weight: int = 1) -> None:
        """``weight``: how many short items it is as large as."""
        ...


class Background(Generic[T]):
    """Calls ``source(cancellation, emit)`` in the background. The consumer gets the emitted items with ``take``.

    ``emit`` raises Cancelled after ``cancel``. It blocks while too many items wait for the consumer, and raises
    ConsumerStalled if they still do ``longest_s`` after the start: a consumer must not hold a source for ever by not
    reading. ``within_s``: how late ``take`` may notice the end of its time limit.

    Items are passed to a callback instead of yielded. With generators every item would cross each frame between the
    socket and this class, and gevent would save all those frames at every switch (docs/performance.md).
    """

    # Without a dictionary: there is one for each stream.
    __slots__ = (
        *("_cancellation", "_changed", "_deadline", "_end", "_items", "_more_weight", "_room", "_source", "_wake_at"),
        *("_watchdog",),
    )

    def __init__(
        self,
        source: "Callable[[Cancellation, Emit[T]], None]",
        watchdog: Watchdog,
        *,
        longest_s: float,
        within_s: float = 0.25,
    ) -> None:
        self._source = source
        self._watchdog = watchdog
        self._deadline = time.monotonic() + longest_s
        self._cancellation = Cancellation()
        # Not a queue.Queue, which allocates 2 KB at once and gives one item at a time. Each operation on the list is
        # one of the interpreter's own, so nothing is lost between two threads.
        self._items: list[T] = []
        # What the items weigh beyond their number. Counted by the producer, forgotten by the consumer.
        self._more_weight = 0
        # Set when there are items, when the source has ended, and when the consumer has waited for long enough.
        self._changed = threading.Event()
        # When the consumer does not want to wait any longer, in monotonic time.
        self._wake_at = math.inf
        # Exists while the producer waits for the consumer.
        self._room: threading.Event | None = None
        self._end: _End | None = None
        watchdog.watch(self, within_s)
        # Not a threading.Thread: its name and its end are not needed, and there may be thousands of streams. Not in
        # the context of the caller, which would keep its whole request for as long as the source runs.
        _thread.start_new_thread(self._run, ())

    def __repr__(self) -> str:
        state = "running" if self._end is None else f"ended by {self._end.error!r}" if self._end.error else "ended"
        return f"<Background {state}, {len(self._items)} items>"

    def take(self, timeout_s: float) -> list[T]:
        """The items that have come. Empty if none came within ``timeout_s`` (and up to ``within_s`` more).

        Raises EndOfSource: after the last item, if the source has returned.
        Raises whatever the source has raised: after the last item, and once.
        """
        if not self._items and self._end is None:
            self._wait(timeout_s)
        # Read before the items: an end that is seen here came after all items.
        end = self._end
        items = self._items[:]
        del self._items[: len(items)]
        self._more_weight = 0
        if self._room is not None:
            self._room.set()
        if end is not None and not items:
            error = end.error or EndOfSource()
            self._end = _End(None)
            try:
                raise error
            finally:
                # It gets a traceback that leads to this frame and to this object: nothing here may lead back to it.
                del error, end
        return items

    def _wait(self, timeout_s: float) -> None:
        self._wake_at = time.monotonic() + timeout_s
        while True:
            self._changed.clear()
            # The watchdog sets the time to infinity when it has passed.
            if self._items or self._end is not None or self._wake_at == math.inf:
                break
            self._changed.wait()
        self._wake_at = math.inf

    def cancel(self) -> None:
        self._cancellation.cancel()
        if self._room is not None:
            self._room.set()

    def check(self, now: float) -> None:
        """Called by the watchdog."""
        if now >= self._wake_at:
            self._wake_at = math.inf
            self._changed.set()

    def _run(self) -> None:
        try:
            self._source(self._cancellation, self._emit)
            self._end = _End(None)
        except BaseException as e:  # noqa: BLE001  # the consumer raises it
            # Its frames hold all that the source has worked on, and some of them hold the exception: all of it would
            # stay until the next full garbage collection. The lines of the traceback are kept.
            traceback.clear_frames(e.__traceback__)
            self._end = _End(e)
        self._changed.set()
        self._watchdog.forget(self)

    def _emit(self, item: T, weight: int = 1) -> None:
        self._items.append(item)
        if weight > 1:
            self._more_weight += weight
        if not self._changed.is_set():
            self._changed.set()
        if len(self._items) + self._more_weight > _HIGH_WATER:
            self._wait_for_room()
        if self._cancellation.cancelled:
            raise Cancelled

    def _wait_for_room(self) -> None:
        room = self._room = threading.Event()
        # Looked at again now that the consumer can see the event: it may have taken the items in between.
        if len(self._items) + self._more_weight > _HIGH_WATER and not self._cancellation.cancelled:
            left_s = self._deadline - time.monotonic()
            if not room.wait(max(0.0, left_s)):
                raise ConsumerStalled
        self._room = None

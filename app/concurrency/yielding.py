"""Pauses in long work, so that the streams of the same worker go on meanwhile.

Under gevent a worker is one thread: while one request computes, all streams of the worker stand still, and its leases
are not renewed. So work that may take long calls ``pause`` between its steps, and the reading of requests does, too.

All such work together gets ``_SLICE_S`` of each round of the event loop. What is left waits, first come first served,
for the next round. In a round each stream that has something to pass on does so. So a token is late by one slice and
one step, however many requests compute, and no step may take longer than some 20 ms. Who has waited may go on for
``_TURN_S`` before the next one: forty fast streams that take turns after each read of 2 KB would also write as little
at once, and a write costs as much as the reading of some tokens. Without gevent threads are switched by the
interpreter, and nothing here does anything.
"""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

# The time for work that pauses, in each round of the event loop. Seconds.
_SLICE_S = 0.005
# The time of one of those who wait, of that.
_TURN_S = 0.001
# A sleep until the next round. Not 0: gevent would look at its sockets and timers only after fifty rounds (gevent
# 26.9, CALLBACK_CHECK_COUNT). Seconds.
NEXT_ROUND_S = 1e-6

_T = TypeVar("_T")


class _Worker(Protocol):
    def pause(self) -> None: ...


def pause() -> None:
    """Lets others run if the work of this round has taken its time. Costs less than a microsecond if it has not."""
    (_worker or _find_worker()).pause()


def in_slices(items: Iterable[_T], count: int = 1) -> Iterator[_T]:
    """The items, with a ``pause`` after every ``count`` of them."""
    for number, item in enumerate(items, 1):
        yield item
        if number % count == 0:
            pause()


def in_rounds(items: Sequence[_T], count: int) -> Iterator[Sequence[_T]]:
    """The items in parts of ``count``, with a round of the event loop between two parts, however little time they
    take: for work that no client waits for."""
    for at in range(0, len(items), count):
        if at:
            time.sleep(NEXT_ROUND_S)
        yield items[at : at + count]


class _GeventWorker:
    """The greenlets of one event loop that pause."""

    def __init__(self, hub: Any) -> None:
        from gevent import getcurrent
        from gevent.hub import Waiter

        self._hub = hub
        self._loop = hub.loop
        self._new_waiter = Waiter
        self._current = getcurrent
        self._waiting: deque[Any] = deque()
        self._timer = self._loop.timer(NEXT_ROUND_S)
        # The round that is known, and when the first work in it began.
        self._round = -1
        self._began = 0.0
        # When the one that waited longest went on.
        self._turn_began = 0.0

    def pause(self) -> None:
        now, number = time.perf_counter(), self._loop.iteration
        if number != self._round:
            self._round, self._began = number, now
        if now - self._began < _SLICE_S and (not self._waiting or now - self._turn_began < _TURN_S):
            return
        # Never in the loop itself, where nothing can wait.
        if self._current() is not self._hub:
            self._wait()

    def _wait(self) -> None:
        waiter: Any = self._new_waiter(self._hub)
        if not self._waiting:
            self._timer.start(self._resume)
        self._waiting.append(waiter)
        try:
            waiter.get()
        except BaseException:
            # The greenlet was killed, or its time limit has passed.
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def _resume(self) -> None:
        """Runs in the loop: one after another, until the time of this round is over."""
        now = time.perf_counter()
        self._round, self._began = self._loop.iteration, now
        # Those that pause again meanwhile wait for another round.
        for _ in range(len(self._waiting)):
            if not self._waiting:
                return
            self._turn_began = now
            self._waiting.popleft().switch(None)
            now = time.perf_counter()
            if now - self._began >= _SLICE_S:
                break
        if self._waiting:
            self._timer.start(self._resume)


class _Threads:
    def pause(self) -> None:
        pass


_worker: _Worker | None = None


def _find_worker() -> _Worker:
    """Whether gevent runs this process, which is certain when the first request comes."""
    global _worker
    if "gevent.monkey" in sys.modules and sys.modules["gevent.monkey"].is_module_patched("threading"):
        from gevent import get_hub

        _worker = _GeventWorker(get_hub())
    else:
        _worker = _Threads()
    return _worker

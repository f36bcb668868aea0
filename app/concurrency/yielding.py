"""Lets other requests run while a long computation goes on.

Under gevent a worker is one thread: while one request computes, no stream of the worker moves, and no lease is
renewed.
"""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

# Not 0: after a sleep of 0, gevent looks at its sockets and timers only every fifty times (gevent 26.9,
# CALLBACK_CHECK_COUNT).
_PAUSE_S = 1e-6

_T = TypeVar("_T")


def yielding_every(count: int, items: Iterable[_T]) -> Iterator[_T]:
    """The items. Before each ``count`` of them, except the first ones, other greenlets or threads can run."""
    for number, item in enumerate(items):
        if number and number % count == 0:
            time.sleep(_PAUSE_S)
        yield item

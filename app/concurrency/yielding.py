"""Pauses in a long computation, so that other greenlets of the same worker run meanwhile.

Under gevent a worker is one thread: while one request computes, all streams of the worker stand still, and its leases
are not renewed.
"""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

# Not 0: after a sleep of 0, gevent looks at its sockets and timers only every fifty times (gevent 26.9,
# CALLBACK_CHECK_COUNT).
_PAUSE_S = 1e-6

_T = TypeVar("_T")


def yielding_every(items: Iterable[_T], count: int) -> Iterator[_T]:
    """The items, with a pause after every ``count`` of them."""
    for number, item in enumerate(items):
        if number and number % count == 0:
            time.sleep(_PAUSE_S)
        yield item

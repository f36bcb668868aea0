"""Pauses in work that takes long, so that everybody else in the same worker has a turn meanwhile.

Under gevent a worker is one thread: as long as one request computes, all streams of its worker stand still, and
what it holds is not renewed. Must never know what is worked on.
"""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

# Not 0: after that gevent looks at its sockets and timers only every fifty times (gevent 26.9, CALLBACK_CHECK_COUNT).
_PAUSE_S = 1e-6

_T = TypeVar("_T")


def with_pauses(items: Iterable[_T], every: int) -> Iterator[_T]:
    """The items, with a pause before each one whose number can be divided by ``every``."""
    for number, item in enumerate(items):
        if number and number % every == 0:
            time.sleep(_PAUSE_S)
        yield item

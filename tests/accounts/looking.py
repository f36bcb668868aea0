"""For what comes after a second or more, and has no event to wait for."""

import threading
from collections.abc import Callable


def seldom(condition: Callable[[], object]) -> Callable[[], object]:
    """The same for ``wait_until``, which then looks a few times a second: each look costs a request."""

    def look() -> object:
        threading.Event().wait(0.15)
        return condition()

    return look

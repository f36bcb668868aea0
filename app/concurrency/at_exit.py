"""What is done when a process ends."""

import atexit
import os
from collections.abc import Callable


def at_exit(work: Callable[[], object]) -> None:
    """Calls ``work`` when this process ends, the last one first. It is not called in processes that were forked from
    this one: there a lock may be held for ever, by a thread that the fork does not have."""
    process = os.getpid()

    def run() -> None:
        if os.getpid() == process:
            work()

    atexit.register(run)

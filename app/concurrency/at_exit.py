"""What is done when a process ends."""

import atexit
import os
from collections.abc import Callable


def at_exit(work: Callable[[], object]) -> None:
    """Calls ``work`` when this process ends, the last one first. It is not called in processes that were forked from
    this one: there a lock may be held for ever, by a thread that the fork does not have.

    ``work`` must bear to be called again: gunicorn's gevent worker may raise the SystemExit of a SIGQUIT in this
    thread 0.1 s after the signal, when the worker has already ended by itself and ``work`` runs.
    """
    process = os.getpid()

    def run() -> None:
        if os.getpid() == process:
            try:
                work()
            except SystemExit:
                work()

    atexit.register(run)

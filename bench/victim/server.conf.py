"""gunicorn's configuration of the version in the working directory, and a gauge of what holds its worker.

The gauge wants to run every 2 ms, and notes how much CPU time the worker has used instead: unlike the lateness of a
token, that says the same on a machine with other work.
"""

import os
import time
from pathlib import Path

exec(compile(Path("gunicorn.conf.py").read_text(), "gunicorn.conf.py", "exec"))  # it is ours

_EVERY_S = 0.002
# What is not worth a line.
_SHORT_S = 0.01

_post_worker_init = globals().get("post_worker_init")


def post_worker_init(worker):  # type: ignore[no-untyped-def]  # gunicorn's hook; its types are not published
    if _post_worker_init is not None:
        _post_worker_init(worker)
    import gevent

    gevent.spawn(_gauge, Path(os.environ["VICTIM_HOLDS"]))


def _gauge(notes: Path) -> None:
    """Writes lines: when, in monotonic nanoseconds, and how long the worker was held, in ms of CPU time."""
    import gevent

    with notes.open("a", buffering=1) as out:
        before = time.thread_time()
        while True:
            gevent.sleep(_EVERY_S)
            held_s = time.thread_time() - before
            if held_s > _SHORT_S:
                out.write(f"{time.monotonic_ns()} {held_s * 1000:.1f}\n")
            before = time.thread_time()

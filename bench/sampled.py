"""gunicorn's configuration as shipped, and in each worker a sampler: ``gunicorn -c python:bench.sampled``.

As often as the kernel's clock allows (250 times in a second of processor time, mostly; waiting is never counted) a
signal notes the Python stack. A call into C is noted at the Python line that made it; what the event loop itself does
is gevent's ``Hub.run``. The notes go to the file that ``BENCH_SAMPLES`` names when the worker ends.
"""

import collections
import os
import runpy
import signal
from pathlib import Path
from types import FrameType
from typing import Any

globals().update(runpy.run_path("gunicorn.conf.py"))

_EVERY_S = 0.001

_stacks: collections.Counter[tuple[tuple[str, str], ...]] = collections.Counter()

_shipped_init = globals().get("post_worker_init")


def post_worker_init(worker: Any) -> None:
    if _shipped_init is not None:
        _shipped_init(worker)
    signal.signal(signal.SIGPROF, _note)
    # Counts from the first answer on, so that the start is no part of it.
    signal.signal(signal.SIGUSR2, _begin)


def worker_exit(_server: Any, _worker: Any) -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    lines = [
        ";".join(f"{name} ({file})" for file, name in reversed(stack)) + f" {count}"
        for stack, count in _stacks.items()
    ]
    Path(os.environ["BENCH_SAMPLES"]).write_text("\n".join(lines))


def _begin(_number: int, _frame: FrameType | None) -> None:
    signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)


def _note(_number: int, frame: FrameType | None) -> None:
    stack = []
    while frame is not None:
        stack.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    _stacks[tuple(stack)] += 1

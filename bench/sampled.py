"""gunicorn's default configuration with a sampler in each worker: ``gunicorn -c python:bench.sampled``.

A signal records the Python stack as often as the kernel's clock allows: usually 250 times per second of CPU time.
Waiting is never counted. A call into C counts for the calling Python function, and the event loop itself for gevent's
``Hub.run``. When the worker ends, the samples are written to the file ``BENCH_SAMPLES``.
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
    signal.signal(signal.SIGPROF, _record)
    # The profiler starts the sampler by SIGUSR2 after the warm-up.
    signal.signal(signal.SIGUSR2, _start_sampling)


def worker_exit(_server: Any, _worker: Any) -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    lines = [
        ";".join(f"{name} ({file})" for file, name in reversed(stack)) + f" {count}"
        for stack, count in _stacks.items()
    ]
    Path(os.environ["BENCH_SAMPLES"]).write_text("\n".join(lines))


def _start_sampling(_number: int, _frame: FrameType | None) -> None:
    signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)


def _record(_number: int, frame: FrameType | None) -> None:
    stack = []
    while frame is not None:
        stack.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    _stacks[tuple(stack)] += 1

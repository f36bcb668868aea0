"""What the tests of helper processes call: ``python -m tests.concurrency.helper_functions [idle_s]``."""

import os
import time
from pathlib import Path
from typing import Any

from app.concurrency import helper_process


def echo(value: Any) -> Any:
    return value


def pid() -> int:
    return os.getpid()


def environment() -> dict[str, str]:
    return dict(os.environ)


def fail(text: str) -> None:
    raise LookupError(text)


def compute() -> None:
    while True:
        pass


def compute_in_c() -> int:
    """Holds the GIL all the time."""
    return len(str(sum(range(10**12))))


def allocate() -> int:
    return len(bytearray(1 << 33))


def crash() -> None:
    os.abort()


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


if __name__ == "__main__":
    functions = (echo, pid, environment, fail, compute, compute_in_c, allocate, crash, wait_for)
    helper_process.serve({f.__name__: f for f in functions}, cpu_s=0.2, memory_bytes=1 << 30)

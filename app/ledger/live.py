"""What a process is doing now, as it is kept beside its lease, for people who look. Knows no SQL.

A process writes its state whenever it renews its lease, which it does anyway: nothing is written per request.
"""

import json
import math
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from app import __version__
from app.concurrency.periodic import Periodic, every
from app.concurrency.yielding import in_rounds
from app.request_record import RequestRecord

# Requests of a process that are shown, the oldest first.
_MOST_REQUESTS = 50
# How many are counted at once: of thousands, some are always waiting to pass on a token.
_PER_STEP = 250
# How often it is looked how late a thread runs that wanted to run, while there is a request. Seconds.
_LOOK_EVERY_S = 0.25
# The pause while there is none. Seconds.
_REST_S = 3600.0


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """A request that runs. ``phase``: queued, sent, thinking, answering. ``chars``: of the answer so far."""

    request_id: str
    api: str
    owner: str
    model: str
    account_id: str
    phase: str
    age_s: float
    chars: int
    chars_thought: int


@dataclass(frozen=True, slots=True)
class LiveProcess:
    """A process as it was at ``at`` in Unix seconds. ``loop_pause_s``: the longest time since its state before in
    which nothing ran that wanted to, while there were requests. ``write_s``: how long the last write of its request
    log took. ``phases``: of all its requests. ``requests``: the oldest of them."""

    process_id: str
    at: float
    host: str
    pid: int
    version: str
    started_at: float
    memory_bytes: int
    open_files: int
    loop_pause_s: float
    write_s: float
    phases: dict[str, int] = field(default_factory=dict)
    # How many requests of an account are in a phase.
    streams: list[tuple[str, str, int]] = field(default_factory=list)
    requests: list[LiveRequest] = field(default_factory=list)


class ProcessState:
    """The state of this process. ``running``: its requests, the oldest first."""

    def __init__(self, running: Iterable[RequestRecord], write_s: Callable[[], float]) -> None:
        self._running = running
        self._write_s = write_s
        self._host = socket.gethostname()
        self._started_at: float | None = None
        self._longest_pause_s = 0.0
        # When the next look is due, in monotonic time; infinity while no request runs.
        self._due = math.inf
        self._rests = False
        self._lock = threading.Lock()
        self._looks: Periodic | None = None

    def start(self) -> None:
        self._looks = every(_LOOK_EVERY_S, self._look, "loop-pauses", first_after_s=_LOOK_EVERY_S)

    def stop_resting(self) -> None:
        """A request has begun."""
        if self._rests and self._looks is not None:
            self._rests = False
            self._looks.wake()

    def _look(self) -> float:
        """Returns the seconds until the next look."""
        # Set before the look at the requests: one that begins in between wakes this thread.
        self._rests = True
        if any(True for _ in self._running):
            self._rests = False
        now = time.monotonic()
        with self._lock:
            self._longest_pause_s = max(self._longest_pause_s, now - self._due)
            self._due = math.inf if self._rests else now + _LOOK_EVERY_S
        return _REST_S if self._rests else _LOOK_EVERY_S

    def as_json(self, at: float) -> str:
        """``at``: now, in Unix seconds."""
        if self._started_at is None:
            self._started_at = at
        with self._lock:
            pause_s, self._longest_pause_s = self._longest_pause_s, 0.0
        records = [record for record in list(self._running) if record.is_answer]
        streams = Counter[tuple[str, str]]()
        for some in in_rounds(records, _PER_STEP):
            streams.update([(record.account_id, record.phase) for record in some])
        phases = Counter[str]()
        for (_, phase), n in streams.items():
            phases[phase] += n
        now = time.monotonic()
        state = {
            "at": at,
            "host": self._host,
            "pid": os.getpid(),
            "version": __version__,
            "started_at": self._started_at,
            "memory_bytes": _memory_bytes(),
            "open_files": _open_files(),
            "loop_pause_s": round(pause_s, 4),
            "write_s": round(self._write_s(), 5),
            "phases": phases,
            "streams": [(*key, n) for key, n in streams.items()],
            "requests": [_live(record, now) for record in records[:_MOST_REQUESTS]],
        }
        return json.dumps(state)


def parse(process_id: str, state: str | None) -> LiveProcess | None:
    """None for a gateway that writes no state, or another one."""
    if state is None:
        return None
    try:
        values: dict[str, Any] = json.loads(state)
        values["requests"] = [LiveRequest(**request) for request in values["requests"]]
        return LiveProcess(process_id, **values)
    except (ValueError, TypeError, KeyError):
        return None


def _live(record: RequestRecord, now: float) -> dict[str, str | float]:
    """The fields of a LiveRequest."""
    return {
        "request_id": record.request_id,
        "api": record.api,
        "owner": record.owner,
        "model": record.model,
        "account_id": record.account_id,
        "phase": record.phase,
        "age_s": round(now - record.began, 1),
        "chars": record.chars_out,
        "chars_thought": record.chars_thought,
    }


def _memory_bytes() -> int:
    """Resident; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return _most_memory_bytes()


def _most_memory_bytes() -> int:
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _open_files() -> int:
    """0 where the system does not say."""
    try:
        # Linux 6.2 and newer say how many there are, without a list of thousands.
        if count := os.stat("/proc/self/fd").st_size:
            return count
    except OSError:
        pass
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder))
        except OSError:
            continue
    return 0

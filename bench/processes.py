"""Processes under measurement: pinned to one core, ended by pid, their CPU time and memory read from outside.

Must never know what a process serves.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Servers under test run on the last, the load on the first, the simulator on a third where there is one and
# beside the load where there is none.
_CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE, SERVER_CORE = _CORES[0], _CORES[-1]
SIMULATOR_CORE = _CORES[1] if len(_CORES) > 2 else LOAD_CORE

_PAGE_KB = os.sysconf("SC_PAGE_SIZE") / 1024


class Failed(Exception):
    """A run that counts for nothing; the text says why."""


class Process:
    """A child that runs on one core, its output in a file, and its own children included in every figure."""

    def __init__(
        self,
        command: Sequence[str],
        core: int,
        log: Path,
        env: Mapping[str, str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        """``folder``: where it runs."""
        self.log = log
        # A child is born with its parent's cores: nothing of its start happens elsewhere.
        own_cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})
        try:
            with log.open("ab") as out:
                self._popen = subprocess.Popen(
                    command,
                    cwd=folder,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                )
        finally:
            os.sched_setaffinity(0, own_cores)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def check_alive(self) -> None:
        if self._popen.poll() is not None:
            raise Failed(f"{self._popen.args!r} ended with {self._popen.returncode}:\n{tail(self.log)}")

    def children(self) -> list[int]:
        """Pids: of a gunicorn, its workers."""
        return _tree(self._popen.pid)[1:]

    def children_of(self, pid: int) -> list[int]:
        """Pids of what descends from one of its processes."""
        return _tree(pid)[1:]

    def cpu_s(self) -> float:
        """Processor time used so far."""
        return sum(_cpu_s(pid) for pid in _tree(self._popen.pid))

    def waited_s(self) -> float:
        """Time for which it could have run, but somebody else had its core."""
        return sum(_waited_s(pid) for pid in _tree(self._popen.pid))

    def memory_kb(self) -> float:
        """Resident memory. What processes share is counted in each, so only differences mean something."""
        return sum(
            int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_KB for pid in _tree(self._popen.pid)
        )

    def open_files(self) -> int:
        """File descriptors of all of it."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in _tree(self._popen.pid))

    def stop(self) -> None:
        pids = _tree(self._popen.pid)
        self._popen.terminate()
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            for pid in pids:
                if _tree(pid):
                    os.kill(pid, 9)
            self._popen.wait(10)


def allow_many_files() -> None:
    """For this process and its children: thousands of streams need as many descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def settle(processes: Sequence[Process], timeout_s: float = 20.0) -> None:
    """Returns when they have nothing left to do: together they used under 3 % of a core for a moment."""
    deadline = time.monotonic() + timeout_s
    busy = True
    while busy and time.monotonic() < deadline:
        before = sum(process.cpu_s() for process in processes)
        time.sleep(0.15)
        busy = sum(process.cpu_s() for process in processes) - before > 0.15 * 0.03


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def _tree(pid: int) -> list[int]:
    """A process and all that descend from it; empty if it is gone."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(descendant for child in children for descendant in _tree(int(child)))]


def _cpu_s(pid: int) -> float:
    # The number of a process' CPU clock, as clock_getcpuclockid(3) makes it: nanoseconds, where
    # /proc/PID/stat counts in steps of 10 ms.
    return time.clock_gettime((~pid << 3) | 2)


def _waited_s(pid: int) -> float:
    stats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(stat.read_text().split()[1]) for stat in stats) / 1e9

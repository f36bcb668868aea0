"""Child processes of the tests, and waiting for what has no event to wait for."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.running.fork_server import Forked, ForkServer

ROOT = Path(__file__).parents[2]


class Process:
    """A child process with its output in a file."""

    popen: subprocess.Popen[bytes] | Forked

    def __init__(
        self, arguments: Sequence[str], env: dict[str, str], log: Path, fds: Sequence[int] = (), folder: Path = ROOT
    ) -> None:
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env={**bare_environment(), **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=fds,
            )

    @property
    def runs(self) -> bool:
        return self.popen.poll() is None

    def children(self) -> list[int]:
        """Pids of the children: gunicorn's workers. None where the process has ended."""
        try:
            children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(pid) for pid in children.split()]

    def stop(self, sig: int = signal.SIGINT) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(sig)
        try:
            self.popen.wait(60)
        except subprocess.TimeoutExpired:
            children = self.children()
            self.popen.kill()
            self.popen.wait(10)
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"a process did not end:\n{self.log.read_text()[-2000:]}") from None


class ForkedProcess(Process):
    """A gateway that was forked."""

    def __init__(
        self, server: ForkServer, arguments: Sequence[str], env: dict[str, str], log: Path, listener: int
    ) -> None:
        self.log = log
        self.popen = server.start(arguments, {**bare_environment(), **env}, log, listener)


def wait_until(what: str, condition: Any, timeout_s: float = 120) -> None:
    """For what has no event to wait for: the disappearance of a row, a line in a log.

    The limit is for a machine on which much else runs.
    """
    began = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - began
        assert waited_s < timeout_s, f"did not come true: {what}"
        # The longer it takes, the less a moment more matters, and each look costs.
        pause(max(0.02, min(0.1, waited_s / 10)))


def seldom(condition: Callable[[], object]) -> Callable[[], object]:
    """The same for ``wait_until``, which then looks a few times a second.

    For what comes after a second or more, where each look costs a request.
    """

    def look() -> object:
        threading.Event().wait(0.15)
        return condition()

    return look


def pause(seconds: float = 0.02) -> None:
    """Between two looks at what nobody announces: long enough to leave the processor to the others."""
    threading.Event().wait(seconds)


def bare_environment() -> dict[str, str]:
    """Nothing of the developer's own settings; warnings of ours are errors there too."""
    keep = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in keep if name in os.environ} | {"PYTHONUNBUFFERED": "1"}


def wait_for_line(process: Process, start: str) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.popen.poll() is None:
        for line in process.log.read_text().splitlines():
            if line.startswith(start):
                return line.removeprefix(start)
        pause()
    raise AssertionError(f"the process did not start:\n{process.log.read_text()}")

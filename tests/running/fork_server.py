"""Gateways that start within a tenth of a second: forked from a process that has imported everything already.

Four fifths of a start are imports. What is forked runs all the rest as the command ``gunicorn`` does: it reads
gunicorn.conf.py, checks the database, starts its workers, and each builds its application. What is different: the
standard library is patched by gevent in gunicorn's master too. Tests of the start itself use the command.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parents[2]


class ForkServer:
    """The process that forks. Thread-safe."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        self._socket, other = socket.socketpair()
        self._lock = threading.Lock()
        with other, log.open("ab") as out:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "tests/running/forking_process.py", str(other.fileno())],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=[other.fileno()],
            )

    def start(self, arguments: Sequence[str], env: dict[str, str], log: Path, listener: int) -> "Forked":
        """``gunicorn`` with these arguments, in which ``{fd}`` stands for the listening socket."""
        with os.fdopen(os.memfd_create("gateway"), "w+") as file, log.open("ab") as out:
            json.dump({"arguments": list(arguments), "env": env}, file)
            file.flush()
            file.seek(0)
            return Forked(self, self._ask("start", [file.fileno(), out.fileno(), listener]))

    def exit_code(self, pid: int) -> int | None:
        """None: it runs. Negative: the signal that has ended it."""
        return cast("int | None", self._ask(str(pid), []))

    def stop(self) -> None:
        self._socket.close()
        self._popen.wait(20)

    def _ask(self, message: str, fds: Sequence[int]) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [message.encode()], fds)
            answer = self._socket.recv(1024)
        assert answer, "the process that forks gateways has ended"
        return json.loads(answer)


class Forked:
    """A child of the ForkServer; the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        # Readable when the process has ended.
        self._fd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        if self.returncode is None and self._has_ended(0):
            self.returncode = self._server.exit_code(self.pid)
            if self.returncode is not None:
                os.close(self._fd)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Raises subprocess.TimeoutExpired."""
        code = self.poll()
        if code is None and self._has_ended(timeout):
            code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(f"gateway {self.pid}", timeout)
        return code

    def _has_ended(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._fd, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

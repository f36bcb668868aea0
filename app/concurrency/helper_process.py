"""Runs functions whose running time depends on a client's input in a child process, which can be killed.

Under gevent all streams of a worker share one thread, and neither Python code nor a C extension that holds the GIL
can be interrupted there. In a thread of its own pure Python code delays every other stream by some 8 ms at each step;
an extension stops them completely. A child process does neither, and the kernel ends it at its limit of CPU time.

The child is started by the first call, serves one call at a time, is replaced after it was killed, and ends by itself
when nothing has come for a while or when its parent is gone. Requests and replies are lines of JSON on a socket pair:

    [function, [argument, ...]]  →  {"result": ...} or {"error": "name of the exception"}
"""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# How long a caller waits for earlier calls, and for the reply where the machine has no time for the child. Seconds.
_QUEUE_S = 30.0
_REPLY_S = 30.0

_ROOT = Path(__file__).parent.parent.parent
# The child gets these and what begins with PYTHON: it works on strangers' input and needs no setting, no secret.
_ENVIRONMENT = frozenset({"PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"})


class LimitExceeded(Exception):
    """The call needed more CPU time or memory than it may have."""


class CallFailed(Exception):
    """The function raised an exception. The text is the name of its class."""


class HelperUnavailable(Exception):
    """No process could be started, or too many calls are waiting for it."""


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this application with the Python that runs it now."""
    # Servers that embed Python, such as uWSGI, are their own sys.executable.
    python = Path(sys.prefix) / "bin" / "python3"
    return [str(python if python.exists() else sys.executable), "-m", module, *arguments]


def python_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` with a PYTHONPATH that finds this application from any working directory."""
    path = os.pathsep.join(part for part in (str(_ROOT), environment.get("PYTHONPATH")) if part)
    return {**environment, "PYTHONPATH": path}


class HelperProcess:
    """Calls functions of ``module``, which passes them to ``serve`` when it is run with ``python -m``."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def call(self, function: str, *arguments: Any) -> Any:
        """The result of the function, as JSON gives it back.

        Raises LimitExceeded: if the call exceeds the limits that the module sets.
        Raises CallFailed: if the function raises an exception.
        Raises HelperUnavailable: if no process can be started, or earlier calls take too long.
        """
        request = json.dumps([function, arguments]).encode() + b"\n"
        if not self._lock.acquire(timeout=_QUEUE_S):
            raise HelperUnavailable("too many calls are waiting")
        try:
            reply = self._exchange(request)
        except BaseException:
            # Also where the caller was cancelled: the next one must not read this one's reply.
            self._kill()
            raise
        finally:
            self._lock.release()
        if reply.get("error") == MemoryError.__name__:
            raise LimitExceeded
        if "error" in reply:
            raise CallFailed(reply["error"])
        return reply["result"]

    def close(self) -> None:
        """Ends the child. A later call starts another one."""
        with self._lock:
            self._kill()

    def _exchange(self, request: bytes) -> Any:
        for _ in range(2):
            process, connection = self._started()
            try:
                connection.settimeout(_REPLY_S)
                connection.sendall(request)
                if reply := _read_line(connection):
                    return json.loads(reply)
            except (BrokenPipeError, ConnectionResetError):
                pass
            except TimeoutError:
                raise LimitExceeded from None
            status = process.wait()
            self._kill()
            if status < 0:
                raise LimitExceeded
            if status > 0:
                raise HelperUnavailable(f"the process ended with status {status}")
            # It had just ended because it was idle.
        raise HelperUnavailable("the process ends at once")

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._process is not None and self._process.poll() is not None:
            self._kill()
        if self._process is None or self._socket is None:
            ours, theirs = socket.socketpair()
            kept = {n: v for n, v in os.environ.items() if n in _ENVIRONMENT or n.startswith("PYTHON")}
            try:
                self._process = subprocess.Popen(
                    python_command(self._module),
                    env=python_environment(kept),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                )
            except OSError as e:
                ours.close()
                raise HelperUnavailable(f"the process could not be started: {e.strerror}") from e
            finally:
                theirs.close()
            self._socket = ours
        return self._process, self._socket

    def _kill(self) -> None:
        process, self._process = self._process, None
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            process.wait()


def _read_line(connection: socket.socket) -> bytes:
    """One line, or nothing where the other end has closed the connection."""
    line = bytearray()
    while not line.endswith(b"\n"):
        received = connection.recv(65_536)
        if not received:
            return b""
        line += received
    return bytes(line)


def serve(
    functions: Mapping[str, Callable[..., Any]], *, cpu_s: float, memory_bytes: int, idle_s: float = 60.0
) -> None:
    """In the child: serves calls until the parent is gone, or none has come for ``idle_s`` seconds.

    The kernel kills the process when a call takes longer than ``cpu_s`` seconds of CPU time. The process cannot use
    more than ``memory_bytes`` of memory (except on macOS).
    """
    # The parent decides when it ends, also where Ctrl-C is sent to both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Streams come first where the two share a core.
    os.nice(5)
    with contextlib.suppress(ValueError, OSError):
        # Not on macOS.
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    with socket.socket(fileno=0) as parent:
        # What a library prints when it crashes may contain what it worked on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        parent.settimeout(idle_s)
        try:
            while line := _read_line(parent):
                name, arguments = json.loads(line)
                signal.setitimer(signal.ITIMER_PROF, cpu_s)
                reply = _reply(functions[name], arguments)
                signal.setitimer(signal.ITIMER_PROF, 0)
                parent.sendall(json.dumps(reply).encode() + b"\n")
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            return


def _reply(function: Callable[..., Any], arguments: list[Any]) -> dict[str, Any]:
    try:
        return {"result": function(*arguments)}
    except Exception as e:  # noqa: BLE001  # its text may contain what was worked on; the name may be logged
        return {"error": type(e).__name__}

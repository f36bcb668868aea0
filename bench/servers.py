"""The servers that are compared: how each is started, where it listens, what it speaks.

To compare another one (a plain proxy, the same in another language) add a Server to ``servers``: everything
else follows. The first of them is what all are compared with.
"""

import base64
import contextlib
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from app.config import describe_settings
from app.simulator import tokens
from bench.dialects import Dialect, Kimi, OpenAI
from bench.processes import LOAD_CORE, SERVER_CORE, Failed, Process, python, tail

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Server:
    """``command`` and ``env`` may hold {port}, {upstream} and {folder}; no command: the simulator itself."""

    name: str
    dialect: Callable[[], Dialect]
    command: Sequence[str] = ()
    env: dict[str, str] = field(default_factory=dict)


def servers() -> list[Server]:
    token = tokens.mint("bench", "access", 86_400)
    # As shipped: every setting at its default, whatever a .env here says, but for these.
    settings = {name: default or "" for name, default, _ in describe_settings()} | {
        "KIMI_TOKENS": token,
        "KIMI_BASE_URL": "{upstream}",
        "DATABASE_URL": "sqlite:///{folder}/gateway.db",
        "PORT": "{port}",
        "WEB_CONCURRENCY": "1",
    }
    return [
        Server("no gateway", lambda: Kimi(token)),
        Server("gateway", OpenAI, python("-m", "gunicorn"), settings),
    ]


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers; ``process`` is None where it is the simulator itself."""

    name: str
    dialect: Dialect
    port: int
    process: Process | None


class Simulator:
    """The running simulator and its knobs."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self._session = requests.Session()
        self._session.trust_env = False

    def turn(self, **knobs: object) -> None:
        """Forgets all that was, then turns these knobs."""
        self._post("reset", {})
        self._post("knobs", knobs)

    def play(self, body: bytes, times: int) -> None:
        """The next turns are answered with a chunked body that is ready to be sent: it costs nothing to make."""
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"}
        reply = {"match": "/completion/stream", "times": times, "framing": "close", "headers": headers}
        self._post("script", {**reply, "body_base64": base64.b64encode(body).decode()})

    def owed_deletions(self) -> int:
        """Chats that nobody has deleted (yet)."""
        state = self._session.get(f"{self.url}/_sim/state", timeout=30).json()
        return int(state["total_chats"] - state["deleted_chats"])

    def _post(self, path: str, body: Any) -> None:
        reply = self._session.post(f"{self.url}/_sim/{path}", json=body, timeout=30)
        if not reply.ok:
            raise Failed(f"the simulator refused {path} {body}: {reply.text}")


@contextlib.contextmanager
def simulator(folder: Path) -> Iterator[Simulator]:
    port = _free_port()
    command = python("-m", "app.simulator", "--port", str(port), "--set", "record=0")
    process = Process(command, LOAD_CORE, folder / "simulator.log")
    try:
        _wait_for_port(process, port)
        yield Simulator(process, port)
    finally:
        process.stop()


@contextlib.contextmanager
def running(server: Server, upstream: Simulator, folder: Path) -> Iterator[Running]:
    if not server.command:
        yield Running(server.name, server.dialect(), upstream.port, None)
        return
    home = folder / server.name.replace(" ", "-")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    port = _free_port()
    places = {"port": port, "upstream": upstream.url, "folder": home}
    command = [part.format(**places) for part in server.command]
    env = {name: value.format(**places) for name, value in server.env.items()}
    process = Process(command, SERVER_CORE, folder / f"{home.name}.log", env)
    try:
        _wait_for_port(process, port)
        yield Running(server.name, server.dialect(), port, process)
    finally:
        process.stop()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_for_port(process: Process, port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        process.check_alive()
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        if time.monotonic() > deadline:
            raise Failed(f"nothing listens on port {port}:\n{tail(process.log)}")
        time.sleep(0.02)

"""The compared servers: how each is started, where it listens, which API it serves.

To compare another server, add a ``Server`` to ``servers``. Added latencies are relative to the first one.
"""

import base64
import contextlib
import shutil
import socket
import string
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests

from app.settings.config import describe_settings
from app.simulator import tokens
from bench.dialects import Dialect, Generation, OpenAI
from bench.ports import reserved_port
from bench.processes import ROOT, SERVER_CORE, SIMULATOR_CORE, Failed, Process, python, tail

HOST = "127.0.0.1"

NO_GATEWAY, NGINX, GATEWAY, NODE, FASTAPI = "no gateway", "nginx", "gateway", "node", "fastapi"
BEFORE = "before"
GATEWAY_POSTGRES = "PostgreSQL"
GATEWAY_TOOLS = "with functions"
# Compared only in the scenarios that name them.
SPECIAL = (GATEWAY_POSTGRES, GATEWAY_TOOLS)

_RELAYS = Path(__file__).parent / "relays"


@dataclass(frozen=True, slots=True)
class Server:
    """A server to compare.

    ``command`` and ``env`` may contain {port}, {upstream} and {folder}; without a command it is the simulator itself.
    ``speak`` returns its dialect for a generation. ``missing`` returns what is not installed and where to get it, or
    "". ``prepare`` is called before the start with the values of the placeholders. ``is_ours``: a wrong answer fails
    the whole run. ``home``: the working directory of its command.
    """

    name: str
    speak: Callable[[Generation], Dialect]
    command: Sequence[str] = ()
    env: dict[str, str] = field(default_factory=dict)
    missing: Callable[[], str] = str
    prepare: Callable[[dict[str, Any]], None] = lambda _: None
    is_ours: bool = False
    home: Path = ROOT


def servers(database_url: str = "", before: Path | None = None) -> list[Server]:
    """All servers.

    ``database_url``: of a PostgreSQL; without it, the gateway on PostgreSQL is left out. ``before``: the folder of an
    earlier version of this repository, with a virtual environment in ``.venv``.
    """
    token = tokens.mint("bench", "access", 86_400)
    relay = {"PORT": "{port}", "UPSTREAM": "{upstream}", "TOKEN": token}
    directly: Callable[[Generation], Dialect] = lambda generation: generation.speak(token)  # noqa: E731
    as_openai: Callable[[Generation], Dialect] = lambda generation: OpenAI(generation.model)  # noqa: E731
    found = [
        Server(NO_GATEWAY, directly),
        Server(
            NGINX,
            directly,
            ("nginx", "-p", "{folder}", "-c", "{folder}/nginx.conf"),
            missing=_missing_nginx,
            prepare=_write_nginx_conf,
        ),
        _gateway(GATEWAY, token, "sqlite:///{folder}/gateway.db"),
        Server(NODE, as_openai, ("node", str(_RELAYS / "relay.js")), relay, _missing_node, _install_node_relay),
        Server(FASTAPI, as_openai, python("-m", "bench.relays.relay"), relay),
    ]
    if before is not None:
        earlier = (str(before / ".venv/bin/python"), "-m", "gunicorn")
        found.append(_gateway(BEFORE, token, "sqlite:///{folder}/gateway.db", earlier, before))
    with_functions = _gateway(GATEWAY_TOOLS, token, "sqlite:///{folder}/gateway.db")
    found.append(replace(with_functions, speak=lambda g: OpenAI(g.model, offers_functions=True)))
    return [*found, *([_gateway(GATEWAY_POSTGRES, token, database_url)] if database_url else [])]


def _gateway(
    name: str, token: str, database_url: str, command: Sequence[str] = python("-m", "gunicorn"), home: Path = ROOT
) -> Server:
    # All other settings have their defaults, whatever the .env of this folder says.
    settings = {setting.name: setting.default or "" for setting in describe_settings()} | {
        "KIMI_TOKENS": token,
        "KIMI_BASE_URL": "{upstream}",
        "KIMI_AUTH_URL": "{upstream}",
        "DATABASE_URL": database_url,
        "PORT": "{port}",
        "WEB_CONCURRENCY": "1",
        # One account serves all streams: the simulator accepts that, and the other servers have no limit either.
        "ACCOUNT_MAX_STREAMS": "0",
        # Each answer creates and deletes its chat, as with the other servers and with earlier versions.
        "CONTINUE_CHATS": "0",
    }
    return Server(name, lambda generation: OpenAI(generation.model), command, settings, is_ours=True, home=home)


def _missing_nginx() -> str:
    return "" if shutil.which("nginx") else "nginx is not on PATH (Debian, Ubuntu: apt-get install nginx-light)"


def _write_nginx_conf(places: dict[str, Any]) -> None:
    template = string.Template((_RELAYS / "nginx.conf").read_text())
    address = str(places["upstream"]).removeprefix("http://")
    (places["folder"] / "nginx.conf").write_text(template.substitute(places, upstream_address=address))


def _missing_node() -> str:
    missing = [name for name in ("node", "npm") if not shutil.which(name)]
    return f"{' and '.join(missing)} not on PATH (Node 20 or newer: nodejs.org)" if missing else ""


def _install_node_relay(_: dict[str, Any]) -> None:
    installed = _RELAYS / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= (_RELAYS / "package-lock.json").stat().st_mtime:
        return
    done = subprocess.run(["npm", "ci"], cwd=_RELAYS, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise Failed(f"npm ci in {_RELAYS} failed:\n{done.stderr[-2000:]}")


@dataclass(frozen=True, slots=True)
class Running:
    """A running server. ``process``: None for the simulator itself."""

    server: Server
    port: int
    process: Process | None

    @property
    def name(self) -> str:
        return self.server.name


class Simulator:
    """The running simulator and its knobs."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self._session = requests.Session()
        self._session.trust_env = False

    def set_knobs(self, **knobs: object) -> None:
        """Resets the simulator, then sets these knobs."""
        self._post("reset", {})
        self._post("knobs", knobs)

    def change_knobs(self, **knobs: object) -> None:
        """Sets these knobs for new requests. Those that run go on as they began."""
        self._post("knobs", knobs)

    def play(self, generation: Generation, body: bytes, times: int) -> None:
        """Answers the next ``times`` turns with this chunked body, so that the simulator needs almost no CPU time."""
        headers = {"Content-Type": generation.stream_type, "Transfer-Encoding": "chunked"}
        reply = {"match": generation.stream_path, "times": times, "framing": "close", "headers": headers}
        self._post("script", {**reply, "body_base64": base64.b64encode(body).decode()})

    def undeleted_chats(self) -> int:
        """The number of chats that have not been deleted yet."""
        state = self.state()
        return int(state["total_chats"] - state["deleted_chats"])

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._session.get(f"{self.url}/_sim/state", timeout=30).json()
        return state

    def _post(self, path: str, body: Any) -> None:
        reply = self._session.post(f"{self.url}/_sim/{path}", json=body, timeout=30)
        if not reply.ok:
            raise Failed(f"the simulator refused {path} {body}: {reply.text}")


@contextlib.contextmanager
def simulator(folder: Path) -> Iterator[Simulator]:
    port = reserved_port()
    command = python("-m", "bench.upstream", "--port", str(port), "--set", "record=0")
    process = Process(command, SIMULATOR_CORE, folder / "simulator.log")
    try:
        _wait_for_port(process, port)
        yield Simulator(process, port)
    finally:
        process.stop()


@contextlib.contextmanager
def running(server: Server, upstream: Simulator, folder: Path) -> Iterator[Running]:
    if not server.command:
        yield Running(server, upstream.port, None)
        return
    home = folder / server.name.replace(" ", "-")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    port = reserved_port()
    places = {"port": port, "upstream": upstream.url, "folder": home}
    server.prepare(places)
    command = [part.format(**places) for part in server.command]
    env = {name: value.format(**places) for name, value in server.env.items()}
    process = Process(command, SERVER_CORE, folder / f"{home.name}.log", env, server.home)
    try:
        _wait_for_port(process, port)
        yield Running(server, port, process)
    finally:
        process.stop()


def _wait_for_port(process: Process, port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        process.check_alive()
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        if time.monotonic() > deadline:
            raise Failed(f"nothing listens on port {port} after 20 s:\n{tail(process.log)}")
        time.sleep(0.02)

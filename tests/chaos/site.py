"""The processes of a chaos run: the simulator, the database, and gateways that can be killed and started again.

Knows how they are started and ended. Must never know who asks them what.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.chaos.plan import ACCOUNTS, RENEWABLE
from tests.running import SERVERS, Process, Simulator, mint, wait_until
from tests.running.databases import Database, PostgresDatabase, SqliteDatabase
from tests.running.fork_server import ForkServer
from tests.running.postgres import Cluster
from tests.running.processes import ForkedProcess, bare_environment
from tests.running.tables import Tables

WORKERS = 2
KEYS = ("sk-chaos-one", "sk-chaos-two")
SECRET = "chaos seals what it keeps"
COMMIT_AFTER_S = 10.0
LEASE_S = 6.0
CONTINUE_IDLE_S = 60.0
# Few, so that some are given up for others.
CONTINUE_MAX = 25
TOTAL_TIMEOUT_S = 45.0

# gunicorn gives running answers 30 s before it ends them.
_STOPS_IN_S = 60.0

_SETTINGS = {
    "GATEWAY_API_KEYS": ",".join(KEYS),
    "GATEWAY_SECRET": SECRET,
    "STORE_TRANSCRIPTS": "1",
    "KIMI_PROTOCOL": "auto",
    "WEB_CONCURRENCY": str(WORKERS),
    "HEARTBEAT_S": "2",
    "FIRST_EVENT_TIMEOUT_S": "5",
    "IDLE_TIMEOUT_S": "5",
    "COMMIT_AFTER_S": f"{COMMIT_AFTER_S:g}",
    "TOTAL_TIMEOUT_S": f"{TOTAL_TIMEOUT_S:g}",
    "CONVERSATION_WAIT_S": "3",
    "QUEUE_WAIT_S": "12",
    "FAILOVER_S": "20",
    "RETRY_BACKOFF_S": "0.2",
    "LEASE_S": f"{LEASE_S:g}",
    "CONTINUE_CHATS": "1",
    "CONTINUE_IDLE_S": f"{CONTINUE_IDLE_S:g}",
    "CONTINUE_MAX": f"{CONTINUE_MAX}",
    "LOG_LEVEL": "INFO",
}


class Gateway:
    """One gateway on one port. Its socket listens also while it is down, as that of a supervised service does."""

    _process: Process

    def __init__(self, name: str, env: dict[str, str], log: Path, fork_server: ForkServer | None) -> None:
        """``fork_server``: starts it at a tenth of the cost of the command."""
        self.log = log
        self._env = env
        self._fork_server = fork_server
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.name = name
        self.start()

    def start(self) -> None:
        fd = self._listener.fileno()
        if self._fork_server is None:
            self._process = Process([part.format(fd=fd) for part in SERVERS["gevent"]], self._env, self.log, [fd])
        else:
            self._process = ForkedProcess(self._fork_server, SERVERS["forked"], self._env, self.log, fd)

    @property
    def runs(self) -> bool:
        return self._process.runs

    def answers(self) -> bool:
        """Whether all its workers run, and one can serve."""
        if not self.runs or len(self.workers()) < WORKERS:
            return False
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/readyz", timeout=5).ok
        return False

    def workers(self) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return self._process.children()
        return []

    def kill_worker(self, number: int) -> bool:
        workers = self.workers()
        if not workers:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(workers[number % len(workers)], signal.SIGKILL)
        return True

    def kill(self) -> None:
        """All of it. The master first: it must not start new workers for the killed ones."""
        workers = self.workers()
        self._process.popen.kill()
        self._process.popen.wait(20)
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> float:
        """In good order; returns how many seconds that took. What does not stop is killed."""
        began = time.monotonic()
        self._process.popen.send_signal(signal.SIGTERM)
        try:
            self._process.popen.wait(_STOPS_IN_S)
        except subprocess.TimeoutExpired:
            self.kill()
        return time.monotonic() - began

    def close(self) -> None:
        self.kill()
        self._listener.close()


@dataclass
class Site:
    """Everything that runs. ``cluster`` is None on SQLite."""

    simulator: Simulator
    gateways: list[Gateway]
    database: Database
    cluster: Cluster | None
    tokens: dict[str, str]
    secrets: list[str]
    logs: list[Path]

    @property
    def tables(self) -> Tables:
        return Tables(self.database)


@contextlib.contextmanager
def site(folder: Path, kind: str, *, forks: bool) -> Iterator[Site]:
    """All of it, started and ready; ended at the end, in whatever state it is. ``kind``: of the database. ``forks``:
    gateways are forked instead of started by their command."""
    with contextlib.ExitStack() as stack:
        cluster: Cluster | None = None
        database: Database = SqliteDatabase(folder / "chaos.db")
        if kind == "postgresql":
            cluster = Cluster.create(folder / "cluster")
            stack.callback(_end, cluster)
            database = PostgresDatabase.create(cluster, "chaos")
            # The cluster of the tests does not care for what a crash loses; here a promise is a promise.
            cluster.execute("ALTER DATABASE chaos SET synchronous_commit = on")
        # Access tokens that live shorter than the run; a renewal whose answer was lost may be asked for again (Q12).
        knobs = ("access_lifetime_s=45", "refresh_grace_s=120", "ping_s=1", "heartbeat_s=1")
        simulator = _simulator(folder / "simulator.log", knobs)
        stack.callback(simulator.process.stop)
        tokens = {user: mint(user, kind="refresh" if user in RENEWABLE else "access") for user in ACCOUNTS}
        env = {
            **_SETTINGS,
            "KIMI_TOKENS": ",".join(f"{user}={token}" for user, token in tokens.items()),
            "KIMI_BASE_URL": simulator.url,
            "KIMI_AUTH_URL": simulator.url,
            "DATABASE_URL": database.url,
        }
        fork_server = None
        if forks:
            fork_server = ForkServer(bare_environment(), folder / "fork-server.log")
            stack.callback(fork_server.stop)
        gateways = []
        for name in ("one", "two"):
            gateway = Gateway(name, env, folder / f"gateway-{name}.log", fork_server)
            stack.callback(gateway.close)
            gateways.append(gateway)
        secrets = [*KEYS, SECRET, *tokens.values(), *([cluster.password] if cluster else [])]
        wait_until("both gateways are ready", lambda: all(g.answers() for g in gateways), 60)
        yield Site(simulator, gateways, database, cluster, tokens, secrets, [g.log for g in gateways])


def _end(cluster: Cluster) -> None:
    if cluster.runs:
        cluster.stop("immediate")


def _simulator(log: Path, knobs: Sequence[str]) -> Simulator:
    settings = [part for knob in knobs for part in ("--set", knob)]
    process = Process(["-m", "app.simulator", "--port", "0", *settings], {}, log)
    start = "listening on "
    wait_until("the simulator listens", lambda: start in log.read_text(), 30)
    line = next(line for line in log.read_text().splitlines() if line.startswith(start))
    return Simulator(line.removeprefix(start), process)

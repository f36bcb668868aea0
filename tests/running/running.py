"""The processes that tests talk to: the simulator, and the gateway under a real server, on free ports.

Every process is started here, writes into a log file that is kept until the end of the run (the last test
searches them for secrets), and is ended by its pid.
"""

import contextlib
import functools
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from app.store import Store
from tests.running.databases import Database, PostgresDatabase, SqliteDatabase
from tests.running.fork_server import ForkServer
from tests.running.gateway import SERVERS, Gateway
from tests.running.leaks import leaks_in, secrets_in
from tests.running.postgres import Cluster, one_for_all
from tests.running.processes import ForkedProcess, Process, bare_environment, wait_for_line, wait_until
from tests.running.profiles import PROFILES
from tests.running.simulator import Simulator, mint
from tests.running.tables import Tables

D = TypeVar("D", SqliteDatabase, PostgresDatabase)


class Running:
    """Starts processes and ends them; remembers every log and database that they wrote."""

    def __init__(self, folder: Path, folder_of_the_run: Path) -> None:
        """``folder_of_the_run``: where the PostgreSQL is that all processes of the run share."""
        self.folder = folder
        self.logs: list[Path] = []
        self.databases: list[Database] = []
        # What kind of database a gateway gets that is not given one.
        self.kind_of_database = "sqlite"
        self._folder_of_the_run = folder_of_the_run
        self.profile = PROFILES["all"]
        self._number = 0

    @contextlib.contextmanager
    def simulator(self, *arguments: str) -> Iterator[Simulator]:
        log = self._new_file("simulator", "log")
        process = Process(["-m", "app.simulator", "--port", "0", *arguments], {}, log)
        try:
            yield Simulator(wait_for_line(process, "listening on "), process)
        finally:
            process.stop()

    @contextlib.contextmanager
    def gateway(
        self,
        upstream: str,
        *,
        users: str = "alice,bob,carol",
        server: str = "forked",
        database: Database | None = None,
        **settings: str,
    ) -> Iterator[Gateway]:
        """A gateway with an account for each of ``users`` and one worker, unless ``settings`` say otherwise.

        The socket listens before the process starts, so the first request waits instead of failing.
        """
        if database is None:
            # One that is started by its command creates its tables.
            database = self.new_database() if server == "forked" else self.new_empty_database()
        log = self.new_log("gateway")
        if database not in self.databases:
            self.databases.append(database)
        env = {
            "KIMI_TOKENS": ",".join(f"{user}={self.mint(user)}" for user in users.split(",")),
            "KIMI_BASE_URL": upstream,
            "KIMI_AUTH_URL": upstream,
            "DATABASE_URL": database.url,
            "LOG_LEVEL": "DEBUG",
            "KIMI_PROTOCOL": self.profile.protocol,
            "WEB_CONCURRENCY": "1",
            **settings,
        }
        workers = 1 if server == "threads" else int(env["WEB_CONCURRENCY"])
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            process = self._start(server, env, log, listener.fileno())
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        has_children = server not in ("threads", "preloaded", "container")
        gateway = Gateway(url, process, database, workers, self.profile.model, has_children=has_children)
        try:
            yield gateway
            # gunicorn loses a signal that comes while a worker is being started, and then waits for long.
            gateway.wait_for_workers()
        finally:
            # werkzeug's server knows no stopping in order, and was seen to miss an interrupt. In gunicorn's threaded
            # worker the handler of an interrupt may wait for a lock that the thread it has interrupted holds.
            process.stop(signal.SIGTERM if server in ("threads", "gthread", "preloaded") else signal.SIGINT)
            # They outlive their gateway on purpose; the next test is to see nothing of them.
            wait_until("nobody renews a token of it", lambda: not renewals(database), 60)

    def _start(self, server: str, env: dict[str, str], log: Path, listener: int) -> Process:
        if server == "forked":
            return ForkedProcess(self._fork_server, SERVERS[server], env, log, listener)
        return Process([part.format(fd=listener) for part in SERVERS[server]], env, log, [listener])

    @functools.cached_property
    def _fork_server(self) -> ForkServer:
        return ForkServer(bare_environment(), self._new_file("fork-server", "log"))

    def close(self) -> None:
        if "_fork_server" in vars(self):
            self._fork_server.stop()

    def mint(self, user: str) -> str:
        """A token of the time that the Kimi of this test is of."""
        return mint(user, site=self.profile.site)

    def leaks(self, secrets: Sequence[str] = ()) -> list[str]:
        """What no log and no database may hold and one of this run does hold: file and kind."""
        found = []
        passwords = {d.cluster.password for d in self.databases if isinstance(d, PostgresDatabase)}
        for log in self.logs:
            kinds = secrets_in(log.read_bytes(), [*secrets, *passwords])
            found += [f"{log.name}: {kind}" for kind in kinds]
        for database in self.databases:
            found += leaks_in(database, secrets)
        return found

    def leaks_of(self, cluster: Cluster) -> list[str]:
        """The same for the databases of a cluster that does not live until the end of the run."""
        own = [d for d in self.databases if isinstance(d, PostgresDatabase) and d.cluster == cluster]
        self.databases = [database for database in self.databases if database not in own]
        return [leak for database in own for leak in leaks_in(database, [])]

    def new_database(self) -> Database:
        """A fresh one, of the kind that the test runs on. It has its tables: creating them takes ten times as long
        as copying them."""
        if self.kind_of_database == "sqlite":
            return self.copy_tables_to(self._new_file("gateway", "db"))
        return self._database_with_tables.copy(self._new_name())

    def copy_tables_to(self, path: Path) -> SqliteDatabase:
        """A fresh one with its tables, in a file of that name."""
        return self._file_with_tables.copy(path)

    def new_empty_database(self) -> Database:
        """The same without tables."""
        if self.kind_of_database == "sqlite":
            return SqliteDatabase(self._new_file("gateway", "db"))
        return PostgresDatabase.create(self.postgres, self._new_name())

    @functools.cached_property
    def _file_with_tables(self) -> SqliteDatabase:
        return _with_tables(SqliteDatabase(self._new_file("tables", "db")))

    @functools.cached_property
    def _database_with_tables(self) -> PostgresDatabase:
        return _with_tables(PostgresDatabase.create(self.postgres, self._new_name()))

    def _new_name(self) -> str:
        self._number += 1
        return f"gateway_{os.getpid()}_{self._number}"

    def new_log(self, name: str) -> Path:
        """Of a process that a test starts by itself; searched for secrets at the end, too."""
        log = self._new_file(name, "log")
        self.logs.append(log)
        return log

    @property
    def postgres(self) -> Cluster:
        """The PostgreSQL of the run; not to be stopped."""
        return one_for_all(self._folder_of_the_run)

    def _new_file(self, name: str, ending: str) -> Path:
        self._number += 1
        return self.folder / f"{self._number:03}-{name}.{ending}"


def _with_tables(database: D) -> D:
    Store(database.url).close()
    # Its name, and the salt of its secret: each has its own.
    Tables(database).forget_facts()
    return database


def renewals(database: Database) -> list[int]:
    """Pids of the processes that renew a token which is kept there."""
    own = f"DATABASE_URL={database.url}".encode()
    renewing = (
        pid for pid in os.listdir("/proc") if pid.isdigit() and b"app.accounts.renewal" in _words(pid, "cmdline")
    )
    return [int(pid) for pid in renewing if own in _words(pid, "environ")]


def _words(pid: str, name: str) -> list[bytes]:
    """None where the process has ended. Without Path and a buffer: each gateway's end looks at all processes."""
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return file.read().split(b"\0")
    except OSError:
        return []

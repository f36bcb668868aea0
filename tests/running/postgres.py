"""A PostgreSQL of the tests' own: made in a fresh folder, on a free port, by whatever user runs the tests.

One per run is shared by all its processes; a test that stops its database starts one for itself. Needs the server's
programs (``make servers`` installs them) and never skips a test for want of them.
"""

import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

# No power cut need be survived; a crash of the server is, as tests want to see.
_CAREFREE = (
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=32MB",
    "max_connections=200",
)
# PostgreSQL refuses to run as root; these users exist where root does.
_UNPRIVILEGED = ("postgres", "nobody")


class MissingServer(Exception):
    """There is no PostgreSQL here. Its tests then fail: what is not run must not look like a success."""


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL server that can be stopped and started again, with a password that no log may show."""

    folder: Path
    port: int
    password: str

    @classmethod
    def create(cls, folder: Path) -> "Cluster":
        """Makes the folder's server, and starts it."""
        password = secrets.token_hex(12)
        folder.mkdir(mode=0o755)
        (folder / "password").write_text(password)
        for path in (folder, folder / "password"):
            os.chown(path, *_owner())
        access = ("-U", "gateway", "-A", "scram-sha-256", "--pwfile", str(folder / "password"))
        _run(folder, "initdb", *access, "-E", "UTF8", "--locale", "C", "--no-sync", "-D", str(folder / "data"))
        cluster = cls(folder, _reserved_port(), password)
        cluster.start()
        return cluster

    @classmethod
    def in_folder(cls, folder: Path) -> "Cluster":
        """The server that another process has created there."""
        port = int((folder / "data/postmaster.pid").read_text().splitlines()[3])
        return cls(folder, port, (folder / "password").read_text())

    @property
    def runs(self) -> bool:
        return (self.folder / "data/postmaster.pid").exists()

    def start(self) -> None:
        settings = (f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}")
        options = " ".join(f"-c {setting}" for setting in (*settings, *_CAREFREE))
        self._control("start", "-l", str(self.folder / "log"), "-o", options)

    def stop(self, mode: str = "fast") -> None:
        """``immediate`` is a crash."""
        self._control("stop", "-m", mode)

    def create_database(self, name: str, template: str = "template0") -> None:
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://gateway:{self.password}@127.0.0.1:{self.port}/{name}"

    def execute(self, sql: str, database: str = "postgres", values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """What the statement gives; each ``%s`` in it stands for one of the values."""
        with self.connect(database) as db:
            db.autocommit = True
            cursor = db.execute(sql.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def connect(self, database: str) -> psycopg.Connection:
        """As a context manager: commits and closes at its end."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="gateway", password=self.password, dbname=database
        )

    def _control(self, command: str, *arguments: str) -> None:
        _run(self.folder, "pg_ctl", command, "-D", str(self.folder / "data"), "-w", "-t", "60", *arguments)


def one_for_all(folder: Path) -> Cluster:
    """The server of the run: created by the first process that asks. ``folder_of_a_run`` ends it."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        inner = folder / "cluster"
        return Cluster.in_folder(inner) if inner.exists() else Cluster.create(inner)


@contextlib.contextmanager
def folder_of_a_run() -> Iterator[Path]:
    """Where ``one_for_all`` puts its server; it is stopped and the folder removed at the end, also of a run that is
    killed: by a process that sees the pipe close."""
    folder = Path(tempfile.mkdtemp(prefix="kimi-gateway-tests-"))
    folder.chmod(0o755)
    command = [sys.executable, "-P", __file__, str(folder)]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert guard.stdin is not None
    try:
        yield folder
    finally:
        guard.stdin.close()
        guard.wait(60)


def _guard(folder: Path) -> None:
    sys.stdin.read()
    cluster, deadline = folder / "cluster", time.monotonic() + 60
    # Again and again: a server that is only being made when the run is killed cannot be stopped, and writes on.
    while folder.exists() and time.monotonic() < deadline:
        if (cluster / "data/postmaster.pid").exists():
            with contextlib.suppress(AssertionError):
                _run(cluster, "pg_ctl", "stop", "-D", str(cluster / "data"), "-m", "immediate", "-t", "10")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


def _run(folder: Path, program: str, *arguments: str) -> None:
    uid, gid = _owner()
    other: dict[str, Any] = {"user": uid, "group": gid, "extra_groups": []} if os.geteuid() == 0 else {}
    command = [str(programs() / program), *arguments]
    # A file and not a pipe: the server inherits it, and a pipe would be open for as long as the server runs.
    with (folder / "commands").open("a") as out:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False, **other
        )
    assert done.returncode == 0, f"{program} failed:\n" + "\n".join(
        path.read_text()[-2000:] for path in (folder / "commands", folder / "log") if path.exists()
    )


def _owner() -> tuple[int, int]:
    """Whom the server runs as."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    users = {user.pw_name: user for user in pwd.getpwall()}
    user = next(users[name] for name in _UNPRIVILEGED if name in users)
    return user.pw_uid, user.pw_gid


def programs() -> Path:
    """The folder of initdb and pg_ctl, which Debian keeps off the PATH; the newest where there are several."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if debian:
        return debian[-1].parent
    config = shutil.which("pg_config")
    if config:
        folder = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
        if Path(folder, "initdb").exists():
            return Path(folder)
    raise MissingServer(
        "the tests need PostgreSQL's server programs (13 or newer): `make servers` as root; apt install postgresql, "
        "dnf install postgresql-server, or brew install postgresql"
    )


def _reserved_port() -> int:
    """As ``bench.ports``, which cannot be imported where this file is run by itself."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port: int = holder.getsockname()[1]
    holder.detach()
    return port


if __name__ == "__main__":
    if sys.argv[1:]:
        _guard(Path(sys.argv[1]))
        sys.exit()
    # For `make servers`: whether there is a PostgreSQL.
    try:
        programs()
    except MissingServer as e:
        sys.exit(str(e))

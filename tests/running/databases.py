"""The databases of gateways, as tests look into them: a SQLite file, or one of the run's PostgreSQL."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.running.postgres import Cluster

Rows = list[tuple[Any, ...]]


class Database(Protocol):
    """What a gateway keeps. ``url`` is its DATABASE_URL."""

    @property
    def url(self) -> str: ...

    @property
    def name(self) -> str: ...

    def run(self, sql: str, *values: object) -> Rows:
        """What this statement gives; each ``?`` in it stands for one of the values."""

    def run_all(self, *statements: str) -> None:
        """One after the other, all of them or none."""

    def rows(self) -> Rows:
        """Those of all tables."""

    def content(self) -> bytes:
        """All that is in it, for a search."""


@dataclass(frozen=True)
class SqliteDatabase(os.PathLike[str]):
    """A file; may be opened as one."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    @property
    def name(self) -> str:
        return self.path.name

    def run(self, sql: str, *values: object) -> Rows:
        with closing(sqlite3.connect(self.path, timeout=10)) as db, db:
            return db.execute(sql, values).fetchall()

    def run_all(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path, timeout=10)) as db, db:
            for sql in statements:
                db.execute(sql)

    def copy(self, path: Path) -> "SqliteDatabase":
        """Nobody may have this one open."""
        return SqliteDatabase(Path(shutil.copy(self.path, path)))

    @contextmanager
    def while_nobody_writes(self) -> Iterator[None]:
        """A process that is stopped meanwhile does not hold the lock for as long as it stands still."""
        with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            yield

    def rows(self) -> Rows:
        names = [name for (name,) in self.run("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [row for name in names for row in self.run(" ".join(("SELECT * FROM", f'"{name}"')))]

    def content(self) -> bytes:
        found = b""
        for file in self.path.parent.glob(f"{self.path.name}*"):
            try:
                found += file.read_bytes()
            except FileNotFoundError:
                continue  # SQLite's helper files come and go
        return found


@dataclass(frozen=True)
class PostgresDatabase:
    """One database of a cluster."""

    cluster: Cluster
    name: str

    @classmethod
    def create(cls, cluster: Cluster, name: str) -> "PostgresDatabase":
        cluster.create_database(name)
        return cls(cluster, name)

    def copy(self, name: str) -> "PostgresDatabase":
        """Nobody may be connected to this one."""
        self.cluster.create_database(name, self.name)
        return PostgresDatabase(self.cluster, name)

    @property
    def url(self) -> str:
        return self.cluster.url(self.name)

    def run(self, sql: str, *values: object) -> Rows:
        return self.cluster.execute(sql.replace("?", "%s"), self.name, values)

    def run_all(self, *statements: str) -> None:
        with self.cluster.connect(self.name) as db:
            for sql in statements:
                db.execute(sql.encode())

    def count(self, activity: str = "true") -> int:
        """The connections of the gateways of which this is true, in the words of pg_stat_activity."""
        mine = "application_name = 'kimi-gateway' AND datname = current_database()"
        ((count,),) = self.run(" ".join(("SELECT count(*) FROM pg_stat_activity WHERE", mine, "AND", activity)))
        return int(count)

    def rows(self) -> Rows:
        # Over one connection: each costs as much as the rows of many tables.
        with self.cluster.connect(self.name) as db:
            names = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            return [row for (name,) in names for row in db.execute(f'TABLE "{name}"'.encode()).fetchall()]

    def content(self) -> bytes:
        return repr(self.rows()).encode()

"""What ``database`` needs to know about a kind of database."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa


class Upkeep(Protocol):
    """What a database needs from time to time. Neither method raises."""

    def __call__(self) -> None:
        """After each use of the database, with no connection."""

    def close(self) -> None:
        """Before the connections are closed."""


@dataclass(frozen=True, slots=True)
class DatabaseKind:
    """One kind of database.

    ``open_engine(url, durable)``: on its connections each statement is a transaction of its own. ``durable``: a
    commit returns only when the data is on the disk.
    ``upkeep(url)``: of a database; None where there is nothing to do.
    ``begin``: SQL that opens a transaction that writes.
    ``begin_exclusive``: SQL that opens a transaction and waits until no other such transaction is open.
    ``clock``: a query for the Unix seconds of the database; None if the clock is this machine's.
    ``bytes_type``: the name of the type for bytes.
    ``adapt_values``: replaces what the database cannot store; None where it can store every text.
    ``is_server``: it may be unreachable for a while; a file is only locked, and not for long.
    ``is_transient(error, is_connecting, is_lost)``: whether the same statement may succeed later. The arguments: a
    driver's error; whether it was raised while a connection was opened; whether the connection was lost.
    ``serves_nobody(error)``: whether a driver's error says that the server is not there, or not ready, for anybody.
    ``is_unwritable(error)``: whether a driver's error says that nothing can be written now.
    ``retry_for_s``: how long a transient failure is retried, in seconds.
    ``retry_every_s``: the first and the longest pause between two tries, in seconds. It doubles, and chance makes it
    up to a half shorter.
    """

    open_engine: Callable[[sa.URL, bool], sa.Engine]
    upkeep: Callable[[sa.URL], Upkeep | None]
    begin: str
    begin_exclusive: str
    clock: sa.ClauseElement | None
    bytes_type: str
    adapt_values: Callable[[dict[str, Any]], dict[str, Any]] | None
    is_server: bool
    is_transient: Callable[[Exception, bool, bool], bool]
    serves_nobody: Callable[[Exception], bool]
    is_unwritable: Callable[[Exception], bool]
    retry_for_s: float
    retry_every_s: tuple[float, float]

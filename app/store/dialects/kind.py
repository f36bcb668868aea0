"""What ``database`` must be told about a kind of database."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of database.

    ``open_engine`` gets the URL and whether what is written must have reached the disk; each statement of its
    connections is a transaction of its own until ``begin_exclusively``, which waits until it is the only one.
    ``clock`` asks for the Unix seconds, None where the clock is this machine's.
    ``storable`` makes values fit for it.
    ``may_be_away``: it is a server, which may be out of reach for a while; a file is only locked, and not for long.
    ``is_passing`` gets a driver's error, whether it came from opening a connection, and whether the connection was
    lost. True: the error comes from the moment and not from the statement, which is worth repeating for
    ``patience_s`` with pauses between these two. Seconds.
    """

    open_engine: Callable[[sa.URL, bool], sa.Engine]
    begin_exclusively: str
    clock: sa.ClauseElement | None
    storable: Callable[[dict[str, Any]], dict[str, Any]]
    may_be_away: bool
    is_passing: Callable[[Exception, bool, bool], bool]
    patience_s: float
    pause_s: tuple[float, float]

"""Numbers about what the store holds now, for ``/metrics``. Each is one query that reads few rows or an index."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database
from app.store.tables import cooldowns, pending_deletions, queue


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """``oldest_at``: when the first of those that wait began to, in Unix seconds; 0 if none waits."""

    waiting: int
    oldest_at: float


@dataclass(frozen=True, slots=True)
class DeletionFigures:
    """Chats of an account that should be gone, and those of them that were tried ``_IN_VAIN`` times or more."""

    account_id: str
    due: int
    failing: int


@dataclass(frozen=True, slots=True)
class CooldownFigures:
    """As in the table: an empty account is all of them, an empty scope is the whole account."""

    account_id: str
    scope: str
    until: float


_IN_VAIN = 3
_MOST = 1000

_P = sa.bindparam
_QUEUE = sa.select(
    sa.func.count().label("waiting"), sa.func.coalesce(sa.func.min(queue.c.joined_at), 0.0).label("oldest_at")
)
_DELETIONS = (
    sa.select(
        pending_deletions.c.account_id,
        sa.func.count().label("due"),
        sa.func.coalesce(sa.func.sum(sa.case((pending_deletions.c.tries >= _IN_VAIN, 1), else_=0)), 0).label(
            "failing"
        ),
    )
    # Those of chats that are in use are due much later.
    .where(sa.or_(pending_deletions.c.due_at <= _P("now"), pending_deletions.c.tries > 0))
    .group_by(pending_deletions.c.account_id)
)
_COOLDOWNS = (
    sa.select(cooldowns.c.account_id, cooldowns.c.scope, cooldowns.c.until)
    .where(cooldowns.c.until > _P("now"))
    .limit(_MOST)
)


class FigureRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    def queue(self) -> QueueFigures:
        row = self._database.row(_QUEUE)
        assert row is not None, "an aggregate has one row"
        return QueueFigures(**row)

    def deletions(self, now: float) -> Sequence[DeletionFigures]:
        return [DeletionFigures(**row) for row in self._database.rows(_DELETIONS, now=now)]

    def cooldowns(self, now: float) -> Sequence[CooldownFigures]:
        """Those that run, a thousand at most."""
        return [CooldownFigures(**row) for row in self._database.rows(_COOLDOWNS, now=now)]

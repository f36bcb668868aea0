"""Answers that are stored for a repetition of their request. Their content is sealed by the caller."""

from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database
from app.store.dialects import per_dialect
from app.store.processes import is_alive
from app.store.tables import idempotent_answers


@dataclass(frozen=True, slots=True)
class IdempotentAnswerRow:
    """An answer.

    ``request``: digest of the request. ``content``: None until the answer is complete. ``is_running``: the process
    that makes the answer is alive.
    """

    request: str
    content: str | None
    is_running: bool


_P = sa.bindparam

_BEGIN = per_dialect(
    lambda insert: (
        insert(idempotent_answers)
        .values(
            id=_P("id"),
            request=_P("request"),
            process_id=_P("process_id"),
            holder=_P("holder"),
            content=sa.null(),
            begun_at=_P("now"),
        )
        # The same holder again: its first try was committed, and its connection was lost before the result came.
        .on_conflict_do_update(
            index_elements=["id"],
            set_={"holder": _P("holder")},
            where=idempotent_answers.c.holder == _P("holder"),
        )
    )
)
_OF_ID = idempotent_answers.c.id == _P("of_id")
_FIND = sa.select(
    idempotent_answers.c.request,
    idempotent_answers.c.content,
    is_alive(idempotent_answers.c.process_id).label("is_running"),
).where(_OF_ID)
_FINISH = sa.update(idempotent_answers).where(_OF_ID).values(content=_P("content"))
_DELETE = sa.delete(idempotent_answers).where(_OF_ID)
_DELETE_OLD = sa.delete(idempotent_answers).where(idempotent_answers.c.begun_at < _P("before"))


class IdempotentAnswerRows:
    """The table ``recordings``: one row per Idempotency-Key of an API key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, answer_id: str, request: str, process_id: str, holder: str, now: float) -> bool:
        """True if this request is the first with this id. ``holder``: a random id of this request."""
        values = {"id": answer_id, "request": request, "process_id": process_id, "now": now}
        return self._database.run(_BEGIN, **values, holder=holder) > 0

    def find(self, answer_id: str, now: float) -> IdempotentAnswerRow | None:
        row = self._database.row(_FIND, of_id=answer_id, now=now)
        # SQLite has no booleans of its own.
        return None if row is None else IdempotentAnswerRow(**{**row, "is_running": bool(row["is_running"])})

    def finish(self, answer_id: str, content: str) -> None:
        """The answer is complete, or its failure is final."""
        self._database.run(_FINISH, of_id=answer_id, content=content)

    def delete(self, answer_id: str) -> None:
        self._database.run(_DELETE, of_id=answer_id)

    def delete_older(self, before: float) -> None:
        self._database.run(_DELETE_OLD, before=before)

"""Answers that are kept for a repetition of their request. Must never know what is in them: they come sealed."""

from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database
from app.store.dialects import per_dialect
from app.store.processes import lives
from app.store.tables import idempotent_answers


@dataclass(frozen=True, slots=True)
class RecordingRow:
    """``content`` is None while the answer is on its way; ``is_running``: the process that asks for it lives."""

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
        # Again where it was done already and only the word of it was lost.
        .on_conflict_do_update(
            index_elements=["id"],
            set_={"holder": _P("holder")},
            where=idempotent_answers.c.holder == _P("holder"),
        )
    )
)
_THIS = idempotent_answers.c.id == _P("of_id")
_FIND = sa.select(
    idempotent_answers.c.request,
    idempotent_answers.c.content,
    lives(idempotent_answers.c.process_id).label("is_running"),
).where(_THIS)
_FINISH = sa.update(idempotent_answers).where(_THIS).values(content=_P("content"))
_DROP = sa.delete(idempotent_answers).where(_THIS)
_DROP_OLD = sa.delete(idempotent_answers).where(idempotent_answers.c.begun_at < _P("before"))


class RecordingRows:
    """The table of recordings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, recording_id: str, request: str, process_id: str, holder: str, now: float) -> bool:
        """True where nobody has begun this one; ``request`` is a digest of what was asked."""
        values = {"id": recording_id, "request": request, "process_id": process_id, "now": now}
        return self._database.run(_BEGIN, **values, holder=holder) > 0

    def find(self, recording_id: str, now: float) -> RecordingRow | None:
        row = self._database.row(_FIND, of_id=recording_id, now=now)
        return None if row is None else RecordingRow(**{**row, "is_running": bool(row["is_running"])})

    def finish(self, recording_id: str, content: str) -> None:
        self._database.run(_FINISH, of_id=recording_id, content=content)

    def drop(self, recording_id: str) -> None:
        self._database.run(_DROP, of_id=recording_id)

    def drop_older(self, before: float) -> None:
        self._database.run(_DROP_OLD, before=before)

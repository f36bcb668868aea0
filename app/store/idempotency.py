"""Answers that are stored for a repetition of their request. Their content is sealed by the caller."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database
from app.store.dialects import listed, one_of, per_dialect
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


# How many answers, and of which size together, are deleted at a time: freed pages are overwritten.
_BATCH = 20
_BATCH_BYTES = 1 << 20

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
            owner=_P("owner"),
            bytes=0,
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
_RUNNING_AMONG = sa.select(idempotent_answers.c.id).where(
    one_of(idempotent_answers.c.id, "ids"),
    idempotent_answers.c.content.is_(None),
    is_alive(idempotent_answers.c.process_id),
)
_FINISH = sa.update(idempotent_answers).where(_OF_ID).values(content=_P("content"), bytes=_P("bytes"))
_DELETE = sa.delete(idempotent_answers).where(_OF_ID)
_DELETE_UNFINISHED = _DELETE.where(
    idempotent_answers.c.holder == _P("of_holder"), idempotent_answers.c.content.is_(None)
)
_SUM = sa.select(
    sa.func.count().label("answers"), sa.func.coalesce(sa.func.sum(idempotent_answers.c.bytes), 0).label("bytes")
).where(idempotent_answers.c.owner == _P("of_owner"))
_SIZES = sa.select(idempotent_answers.c.id, idempotent_answers.c.bytes).order_by(idempotent_answers.c.begun_at)
_OLDEST_OF_OWNER = _SIZES.where(idempotent_answers.c.owner == _P("of_owner")).limit(_P("most"))
_OLDER = _SIZES.where(idempotent_answers.c.begun_at < _P("before")).limit(_P("most"))
_DELETE_MANY = sa.delete(idempotent_answers).where(one_of(idempotent_answers.c.id, "ids"))


class IdempotentAnswerRows:
    """The table ``recordings``: one row per Idempotency-Key of an API key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, answer_id: str, owner: str, request: str, process_id: str, holder: str, now: float) -> bool:
        """True if this request is the first with this id. ``holder``: a random id of this request."""
        values = {"id": answer_id, "owner": owner, "request": request, "process_id": process_id, "now": now}
        return self._database.run(_BEGIN, **values, holder=holder) > 0

    def find(self, answer_id: str) -> IdempotentAnswerRow | None:
        row = self._database.row(_FIND, of_id=answer_id)
        # SQLite has no booleans of its own.
        return None if row is None else IdempotentAnswerRow(**{**row, "is_running": bool(row["is_running"])})

    def running_among(self, ids: Sequence[str]) -> set[str]:
        """Those of these answers that are neither complete nor lost with their process."""
        return {row["id"] for row in self._database.rows(_RUNNING_AMONG, ids=listed(ids))}

    def finish(self, answer_id: str, content: str) -> None:
        """The answer is complete, or its failure is final."""
        self._database.run(_FINISH, of_id=answer_id, content=content, bytes=len(content))

    def delete(self, answer_id: str) -> None:
        self._database.run(_DELETE, of_id=answer_id)

    def delete_unfinished(self, answer_id: str, holder: str) -> None:
        """Deletes what ``begin`` may have added."""
        self._database.run(_DELETE_UNFINISHED, of_id=answer_id, of_holder=holder)

    def size(self, owner: str) -> tuple[int, int]:
        """How many answers of this API key there are, and the sum of their sizes."""
        row = self._database.row(_SUM, of_owner=owner)
        return (0, 0) if row is None else (int(row["answers"]), int(row["bytes"]))

    def delete_oldest(self, owner: str, answers: int, size: int) -> None:
        """Deletes the oldest answers of this API key: ``answers`` of them, and more until their sizes add up to
        ``size``. Not all of that at once if there are many.
        """
        ids: list[str] = []
        for row in self._database.rows(_OLDEST_OF_OWNER, of_owner=owner, most=_BATCH):
            if len(ids) >= answers and size <= 0:
                break
            ids.append(row["id"])
            size -= row["bytes"]
        self._database.run(_DELETE_MANY, ids=listed(ids))

    def delete_older(self, before: float) -> int:
        """Deletes answers from before ``before``: as many as takes a few milliseconds. Returns how many."""
        ids: list[str] = []
        size = 0
        for row in self._database.rows(_OLDER, before=before, most=_BATCH):
            ids.append(row["id"])
            size += row["bytes"]
            if size >= _BATCH_BYTES:
                break
        return self._database.run(_DELETE_MANY, ids=listed(ids)) if ids else 0

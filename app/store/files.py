"""The files that API keys have uploaded, and, where they are kept in the database, their bytes.

Knows neither what a file is for nor how long it is kept. A file of another key is as unknown as one that never was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.dialects import listed, one_of
from app.store.tables import file_pieces, files


@dataclass(frozen=True, slots=True)
class FileRow:
    """An uploaded file. ``digest``: SHA-256 of its bytes. ``in_database``: its bytes are in ``file_pieces``, else in
    a folder. ``expires_at``: None for never. Times are Unix seconds."""

    owner: str
    id: str
    name: str
    purpose: str
    media_type: str
    bytes: int
    digest: str
    in_database: bool
    created_at: float
    expires_at: float | None


_P = sa.bindparam
_NOT_EXPIRED = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > _P("now"))
_OF_OWNER = files.c.owner == _P("of_owner")

_USED = sa.select(
    sa.func.count().label("count"), sa.func.coalesce(sa.func.sum(files.c.bytes), 0).label("bytes")
).where(_OF_OWNER)
_ADD = sa.insert(files).values({column: _P(column.name) for column in files.c})
_FIND = sa.select(*files.c).where(_OF_OWNER, files.c.id == _P("of_id"), _NOT_EXPIRED)
_DELETE = sa.delete(files).where(_OF_OWNER, files.c.id == _P("of_id"))
# In the order of their creation. The id decides between those of one moment.
_PURPOSE = sa.or_(_P("purpose") == "", files.c.purpose == _P("purpose"))
_NEWEST = (
    sa.select(*files.c)
    .where(
        _OF_OWNER,
        _NOT_EXPIRED,
        _PURPOSE,
        sa.or_(files.c.created_at < _P("at"), sa.and_(files.c.created_at == _P("at"), files.c.id < _P("after"))),
    )
    .order_by(files.c.created_at.desc(), files.c.id.desc())
    .limit(_P("most"))
)
_OLDEST = (
    sa.select(*files.c)
    .where(
        _OF_OWNER,
        _NOT_EXPIRED,
        _PURPOSE,
        sa.or_(files.c.created_at > _P("at"), sa.and_(files.c.created_at == _P("at"), files.c.id > _P("after"))),
    )
    .order_by(files.c.created_at, files.c.id)
    .limit(_P("most"))
)
_EXPIRED = sa.select(*files.c).where(files.c.expires_at <= _P("now")).limit(_P("most"))
_KNOWN = sa.select(files.c.id).where(one_of(files.c.id, "ids"))

_ADD_PIECE = sa.insert(file_pieces).values({column: _P(column.name) for column in file_pieces.c})
_PIECE = sa.select(file_pieces.c.data).where(
    file_pieces.c.file_id == _P("of_id"), file_pieces.c.number == _P("of_number")
)
_DELETE_PIECES = sa.delete(file_pieces).where(file_pieces.c.file_id == _P("of_id"))
_LOST_PIECES = (
    sa.select(file_pieces.c.file_id)
    .where(file_pieces.c.number == 0, file_pieces.c.put_at < _P("before"))
    .where(~sa.exists().where(files.c.id == file_pieces.c.file_id))
    .limit(_P("most"))
)
# Before every moment, and after every one.
_FIRST, _LAST = -1.0, 1e12


class FileRows:
    """The tables ``files`` and ``file_pieces``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def used(self, owner: str) -> tuple[int, int]:
        """How many files a key has, and their bytes."""
        row = self._database.row(_USED, of_owner=owner)
        assert row is not None
        return int(row["count"]), int(row["bytes"])

    def add(self, row: FileRow, max_count: int, max_bytes: int) -> bool:
        """False if the key would have more than these then."""

        def add_in(tx: Transaction) -> bool:
            used = tx.row(_USED, of_owner=row.owner)
            assert used is not None
            if used["count"] + 1 > max_count or used["bytes"] + row.bytes > max_bytes:
                return False
            tx.run(_ADD, **{column.name: getattr(row, column.name) for column in files.c})
            return True

        return self._database.in_exclusive_transaction(add_in)

    def find(self, owner: str, file_id: str) -> FileRow | None:
        row = self._database.row(_FIND, of_owner=owner, of_id=file_id, now=self._database.now())
        return None if row is None else _row(row)

    def page(
        self, owner: str, purpose: str, after: tuple[float, str] | None, most: int, *, newest_first: bool
    ) -> list[FileRow]:
        """Those behind ``after`` in this order: when a file was created, and its id; it need not be there any more.
        ``purpose``: empty for any."""
        at, after_id = after or (_LAST if newest_first else _FIRST, "")
        rows = self._database.rows(
            _NEWEST if newest_first else _OLDEST,
            of_owner=owner,
            purpose=purpose,
            at=at,
            after=after_id,
            most=most,
            now=self._database.now(),
        )
        return [_row(row) for row in rows]

    def delete(self, owner: str, file_id: str) -> bool:
        """Whether there was one. Its bytes in a folder stay."""

        def delete_in(tx: Transaction) -> bool:
            found = tx.run(_DELETE, of_owner=owner, of_id=file_id) > 0
            if found:
                tx.run(_DELETE_PIECES, of_id=file_id)
            return found

        return self._database.in_exclusive_transaction(delete_in)

    def expired(self, most: int) -> list[FileRow]:
        return [_row(row) for row in self._database.rows(_EXPIRED, now=self._database.now(), most=most)]

    def known_among(self, ids: Sequence[str]) -> set[str]:
        return {row["id"] for row in self._database.rows(_KNOWN, ids=listed(ids))}

    def add_piece(self, file_id: str, number: int, data: bytes) -> None:
        self._database.run(_ADD_PIECE, file_id=file_id, number=number, data=data, put_at=self._database.now())

    def piece(self, file_id: str, number: int) -> bytes | None:
        row = self._database.row(_PIECE, of_id=file_id, of_number=number)
        return None if row is None else bytes(row["data"])

    def delete_pieces(self, file_id: str) -> None:
        self._database.run(_DELETE_PIECES, of_id=file_id)

    def lost_pieces(self, older_than_s: float, most: int) -> list[str]:
        """Ids of files that were never completed."""
        rows = self._database.rows(_LOST_PIECES, before=self._database.now() - older_than_s, most=most)
        return [row["file_id"] for row in rows]


def _row(row: dict[str, object]) -> FileRow:
    # SQLite has no booleans.
    return FileRow(**{**row, "in_database": bool(row["in_database"])})  # type: ignore[arg-type]

"""Which files the upstreams have of each account. Holds digests of files, never a name or content."""

import sqlalchemy as sa

from app.store.database import Database, Transaction
from app.store.dialects import per_dialect
from app.store.tables import uploads

_P = sa.bindparam
_KEY = ("upstream", "account_id", "digest")
_OF_FILE = tuple(uploads.c[column] == _P(f"of_{column}") for column in _KEY)

_FIND = sa.select(uploads.c.file_id).where(*_OF_FILE)
_PUT = per_dialect(
    lambda insert: (
        insert(uploads)
        .values({column: _P(column.name) for column in uploads.c})
        .on_conflict_do_update(
            index_elements=list(_KEY), set_={"file_id": _P("file_id"), "uploaded_at": _P("uploaded_at")}
        )
    )
)
_DELETE = sa.delete(uploads).where(*_OF_FILE, uploads.c.file_id == _P("of_file_id"))
_DELETE_OF_ACCOUNT = sa.delete(uploads).where(uploads.c.account_id == _P("of_account_id"))
_DELETE_OLD = sa.delete(uploads).where(uploads.c.uploaded_at < _P("before"))


class UploadRows:
    """The table ``uploads``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, upstream: str, account_id: str, digest: str) -> str | None:
        """The upstream's id of a file."""
        row = self._database.row(_FIND, of_upstream=upstream, of_account_id=account_id, of_digest=digest)
        return None if row is None else row["file_id"]

    def put(self, upstream: str, account_id: str, digest: str, file_id: str) -> None:
        self._database.run(
            _PUT,
            upstream=upstream,
            account_id=account_id,
            digest=digest,
            file_id=file_id,
            uploaded_at=self._database.now(),
        )

    def delete(self, upstream: str, account_id: str, digest: str, file_id: str) -> None:
        """Deletes nothing if another file has taken its place."""
        self._database.run(
            _DELETE,
            of_upstream=upstream,
            of_account_id=account_id,
            of_digest=digest,
            of_file_id=file_id,
        )

    def delete_in(self, tx: Transaction, account_id: str) -> None:
        """All of an account."""
        tx.run(_DELETE_OF_ACCOUNT, of_account_id=account_id)

    def delete_older_than(self, seconds: float) -> None:
        self._database.run(_DELETE_OLD, before=self._database.now() - seconds)

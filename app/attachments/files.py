"""Files that clients upload once and name by an id: who owns them, how long they are kept, where their bytes are.

    receive → bytes are there → row is there      a kill in between leaves bytes without a row: ``clean`` deletes them
    delete  → row is gone     → bytes are gone    the same

A file belongs to the API key that uploaded it. For all others it does not exist, in the same time. Must never know
HTTP.
"""

import contextlib
import hashlib
import io
import logging
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from app.attachments.content import PIECE_BYTES
from app.attachments.folder import Folder
from app.attachments.media_types import Unusable, recognise
from app.attachments.names import clean_name, file_name
from app.concurrency.periodic import every, in_steps
from app.concurrency.yielding import in_slices, pause
from app.errors import FileLost, FileTooLarge, InvalidRequest, StorageFull, TooManyFiles, UnknownFile
from app.store import FileRow, Store
from app.store.files import FileRows

log = logging.getLogger(__name__)

_CLEAN_EVERY_S = 600.0
_BATCH = 50
# So much of a disk is left free: the database needs room to write, also in order to delete. Bytes.
_LEFT_FREE_BYTES = 64 << 20
# A key that has expired may be made valid again for so long. Seconds.
_EXPIRED_KEY_S = 30 * 86_400.0
# What has no row after so long was left by a killed process: no upload takes longer. Seconds, and one second more for
# each of so many bytes that a file may have, as slowly as a client may send them (``hosting.client_socket``).
_LOST_AFTER_S, _SLOWEST_BYTES_PER_S = 3600.0, 4096


@dataclass(frozen=True, slots=True)
class FileLimits:
    # Bytes of one file.
    max_bytes: int
    # Of one API key: files, and their bytes together.
    max_count: int
    max_total_bytes: int
    # How long a file is kept; None: for ever.
    max_age_s: float | None


@dataclass(frozen=True, slots=True)
class AboutFile:
    """What a client says of a file."""

    purpose: str
    expires_after_s: float | None = None


class Files:
    """The uploaded files of all API keys. One object per process."""

    def __init__(
        self,
        store: Store,
        folder: Folder | None,
        limits: FileLimits,
        owner_of: Callable[[str], str] | None = None,
        free_bytes: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """``folder``: where new files go; None: into the database. ``owner_of``: the owner of the files of a key, by
        its digest; None if no keys expire. ``free_bytes``: of the disk of the files."""
        self._free_bytes = free_bytes
        self._keys = store.keys
        self._owner_of = owner_of
        self._rows: FileRows = store.files
        self._now: Callable[[], float] = store.database.now
        self._folder = folder
        self.limits = limits
        self._lost_after_s = _LOST_AFTER_S + limits.max_bytes / _SLOWEST_BYTES_PER_S
        # Bytes of the files that this process receives now, by owner.
        self._receiving: Counter[str] = Counter()

    def start(self) -> None:
        """Starts to delete what is too old, and what killed processes have left."""
        if self._folder is not None:
            self._folder.clean()
        every(_CLEAN_EVERY_S, self.clean, "files-expiry")

    def check_room(self, owner: str) -> None:
        """Before anything is read. Raises TooManyFiles."""
        count, size = self._rows.used(owner)
        if count >= self.limits.max_count or size >= self.limits.max_total_bytes:
            raise self._too_many()

    def receive(
        self, owner: str, name: str, pieces: Iterator[bytes], about: Callable[[], AboutFile], field: str
    ) -> FileRow:
        """A new file of the bytes in ``pieces``, each of which is written as it comes. ``about`` is called when all
        have come. ``field``: for errors.

        Raises FileTooLarge, InvalidRequest, TooManyFiles, StorageFull, StorageUnavailable, StoreError, and what
        ``pieces`` and ``about`` raise; nothing is stored then.
        """
        file_id = f"file-{secrets.token_hex(16)}"
        self._check_disk()
        digest, size = hashlib.sha256(), 0
        _, stored = self._rows.used(owner)

        def counted() -> Iterator[bytes]:
            nonlocal size
            for piece in pieces:
                size += len(piece)
                self._receiving[owner] += len(piece)
                # At the end only one of many that come at once would be refused, when all are on the disk.
                if stored + self._receiving[owner] > self.limits.max_total_bytes:
                    raise self._too_many()
                if size > self.limits.max_bytes:
                    raise FileTooLarge(
                        f"{field} has more than {self.limits.max_bytes} bytes (FILE_MAX_BYTES)", param=field
                    )
                self._check_disk()
                digest.update(piece)
                yield piece
                pause()

        try:
            self._write(file_id, counted())
            wanted = about()
            with self._open(file_id, self._folder is None, size) as file:
                try:
                    media_type = recognise(file, size, name)
                except Unusable as e:
                    raise InvalidRequest(f"{field} {e}", code="invalid_attachment", param=field) from None
            now = self._now()
            row = FileRow(
                owner,
                file_id,
                clean_name(name) or file_name(name, digest.hexdigest(), media_type),
                wanted.purpose,
                media_type.name,
                size,
                digest.hexdigest(),
                self._folder is None,
                now,
                self._end(now, wanted.expires_after_s),
            )
            if not self._rows.add(row, self.limits.max_count, self.limits.max_total_bytes):
                raise self._too_many()
        except BaseException:
            self._delete_bytes(file_id, in_database=self._folder is None)
            raise
        finally:
            self._receiving[owner] -= size
            if not self._receiving[owner]:
                del self._receiving[owner]
        log.info("file_stored id=%s bytes=%d type=%s purpose=%s", file_id, size, row.media_type, row.purpose)
        return row

    def find(self, owner: str, file_id: str) -> FileRow:
        """Raises UnknownFile."""
        row = self._rows.find(owner, file_id)
        if row is None:
            raise UnknownFile("no file with this id is known for this API key")
        return row

    def page(
        self, owner: str, purpose: str, after: tuple[float, str] | None, most: int, *, newest_first: bool
    ) -> list[FileRow]:
        """``after``: when the last file before them was created, and its id."""
        return self._rows.page(owner, purpose, after, most, newest_first=newest_first)

    def open(self, row: FileRow) -> BinaryIO:
        """Raises FileLost."""
        return self._open(row.id, row.in_database, row.bytes)

    def delete(self, owner: str, file_id: str) -> None:
        """Raises UnknownFile."""
        if not self._rows.delete(owner, file_id):
            raise UnknownFile("no file with this id is known for this API key")
        self._delete_bytes(file_id, in_database=False)

    def _check_disk(self) -> None:
        """Raises StorageFull."""
        if self._free_bytes() < _LEFT_FREE_BYTES:
            raise StorageFull(
                f"the disk of the gateway is full: uploads leave {_LEFT_FREE_BYTES >> 20} MB of it free; nothing was "
                "stored (FILES_DIR)"
            )

    def _write(self, file_id: str, pieces: Iterator[bytes]) -> None:
        if self._folder is not None:
            with self._folder.writing(file_id) as file:
                for piece in pieces:
                    file.write(piece)
            return
        number, held = 0, bytearray()
        for piece in pieces:
            held += piece
            while len(held) >= PIECE_BYTES:
                self._rows.add_piece(file_id, number, bytes(held[:PIECE_BYTES]))
                del held[:PIECE_BYTES]
                number += 1
        if held:
            self._rows.add_piece(file_id, number, bytes(held))

    def _open(self, file_id: str, in_database: bool, size: int) -> BinaryIO:
        if in_database:
            return io.BufferedReader(_Pieces(self._rows, file_id, size), PIECE_BYTES)
        if self._folder is None:
            raise FileLost("this file is in a folder, and FILES_DIR names none")
        return self._folder.open(file_id)

    def _delete_bytes(self, file_id: str, *, in_database: bool) -> None:
        if in_database:
            self._rows.delete_pieces(file_id)
        elif self._folder is not None:
            self._folder.delete(file_id)

    def _end(self, now: float, wanted_s: float | None) -> float | None:
        ages = [age for age in (wanted_s, self.limits.max_age_s) if age is not None]
        return now + min(ages) if ages else None

    def _too_many(self) -> TooManyFiles:
        return TooManyFiles(
            f"this API key may have {self.limits.max_count} files with {self.limits.max_total_bytes} bytes together "
            "(FILES_MAX_COUNT, FILES_MAX_TOTAL_BYTES); delete some"
        )

    def clean(self) -> None:
        """Deletes what is too old, and what killed processes have left."""
        if self._owner_of is not None:
            self._keys.expire_files(_EXPIRED_KEY_S, self._owner_of)
        in_steps(self._delete_expired, _BATCH)
        for file_id in self._rows.lost_pieces(self._lost_after_s, _BATCH):
            self._rows.delete_pieces(file_id)
        if self._folder is None:
            return
        self._folder.clean()
        old = [*in_slices(self._folder.old_files(self._lost_after_s), 100)]
        for at in range(0, len(old), _BATCH):
            ids = old[at : at + _BATCH]
            for file_id in set(ids) - self._rows.known_among(ids):
                self._folder.delete(file_id)

    def _delete_expired(self) -> int:
        rows = self._rows.expired(_BATCH)
        for row in rows:
            with contextlib.suppress(UnknownFile):
                self.delete(row.owner, row.id)
        return len(rows)


class _Pieces(io.RawIOBase):
    """The bytes of a file that is in the database."""

    def __init__(self, rows: FileRows, file_id: str, size: int) -> None:
        self._rows = rows
        self._id = file_id
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, begin + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # of typeshed's Buffer
        if self._at >= self._size:
            return 0
        number, offset = divmod(self._at, PIECE_BYTES)
        piece = self._rows.piece(self._id, number)
        if piece is None or len(piece) <= offset:
            raise FileLost("the content of this file is gone")
        part = piece[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

"""Files in a folder: written under a name of their own, then renamed, so that no half file is ever read.

A file that is being written is locked. A process that is killed loses its locks, so what it left is known at once and
deleted, by whichever process looks first.
"""

import contextlib
import errno
import fcntl
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from app.errors import FileLost, StorageFull, StorageUnavailable

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_ID = re.compile(r"file-[0-9a-f]{32}")
# What is being written, and what is about to be.
_UNFINISHED, _UNLOCKED = ".part", ".new"
_UNLOCKED_S = 3600.0


class Folder:
    """A folder of files by their ids. It is made when it is first written to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def writing(self, file_id: str) -> Iterator[BinaryIO]:
        """A new file. It is there under its id when the block ends, and gone if the block raises.

        Raises StorageFull, StorageUnavailable.
        """
        new, part = self._path / f"{file_id}{_UNLOCKED}", self._path / f"{file_id}{_UNFINISHED}"
        with translated():
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = new.open("xb")
        try:
            with file, translated():
                new.chmod(0o600)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Not before it is locked: else it would look as if its process had been killed.
                new.rename(part)
                yield file
                file.flush()
                part.rename(self._path / file_id)
        except BaseException:
            for path in (new, part):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise

    def open(self, file_id: str) -> BinaryIO:
        """Raises FileLost."""
        try:
            return (self._path / file_id).open("rb")
        except OSError as e:
            raise FileLost(f"the content of this file is gone ({type(e).__name__})") from None

    def delete(self, file_id: str) -> None:
        """One that is gone is no error."""
        with contextlib.suppress(OSError):
            (self._path / file_id).unlink(missing_ok=True)

    def clean(self) -> None:
        """Deletes what killed processes have left unfinished."""
        with contextlib.suppress(OSError):
            for part in self._path.glob(f"*{_UNFINISHED}"):
                with contextlib.suppress(OSError), part.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    part.unlink(missing_ok=True)
            before = time.time() - _UNLOCKED_S
            for new in self._path.glob(f"*{_UNLOCKED}"):
                with contextlib.suppress(OSError):
                    if new.stat().st_mtime < before:
                        new.unlink(missing_ok=True)

    def old_files(self, older_than_s: float) -> Iterator[str]:
        """The ids of the files that were written so long ago."""
        before = time.time() - older_than_s
        with contextlib.suppress(OSError), os.scandir(self._path) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if _ID.fullmatch(entry.name) and entry.stat().st_mtime < before:
                        yield entry.name


def free_bytes_at(path: Path) -> float:
    """Those of its disk that may be written; infinity where that cannot be seen."""
    for place in (path, *path.parents):
        try:
            state = os.statvfs(place)
        except FileNotFoundError:
            # It is made when it is first written to.
            continue
        except OSError:
            break
        # 0: of a file system that does not count.
        return state.f_bavail * state.f_frsize if state.f_blocks else math.inf
    return math.inf


@contextlib.contextmanager
def translated(setting: str = "FILES_DIR") -> Iterator[None]:
    """Around writing. ``setting``: says where. Raises StorageFull, StorageUnavailable."""
    try:
        yield
    except OSError as e:
        if e.errno in _FULL:
            raise StorageFull(f"the disk of the gateway is full; nothing was stored ({setting})") from e
        raise StorageUnavailable(
            f"the gateway cannot write files ({type(e).__name__}): check {setting} and its permissions"
        ) from e

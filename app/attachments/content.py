"""The bytes of an attachment, and their size and digest."""

import binascii
import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_to_bytes

from app.concurrency.yielding import in_slices, pause

# What is read or hashed between two pauses. Bytes.
PIECE_BYTES = 262_144
# What is decoded between two pauses. A multiple of 4, for base64.
_PART_CHARS = 65_536

_DATA_URL = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)


class BadContent(Exception):
    """The content cannot be read. The text says why: it continues a sentence that names its place."""


class TooLarge(Exception):
    """The content has more bytes than are allowed."""


class OnDisk:
    """Content in a temporary file that has no name: it is gone with this object, and with this process."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  # ``close`` and ``__del__``
        self.size = 0

    def write(self, piece: bytes) -> None:
        """Raises OSError."""
        self._file.write(piece)
        self.size += len(piece)

    def complete(self) -> None:
        """After the last ``write``. Raises OSError."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:
        # Not there if the constructor has failed.
        if file := self.__dict__.get("_file"):
            file.close()

    def open(self) -> BinaryIO:
        return io.BufferedReader(_Reader(self), PIECE_BYTES)

    def read(self, count: int, at: int) -> bytes:
        return os.pread(self._file.fileno(), count, at)


class _Reader(io.RawIOBase):
    """Reads a file that others read, too."""

    def __init__(self, content: OnDisk) -> None:
        self._content = content
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._content.size}[whence]
        self._at = max(0, begin + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._content.read(len(buffer), self._at)
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def digest_of(file: BinaryIO) -> str:
    """SHA-256 in hex, of what is left to read."""
    digest = hashlib.sha256()
    for piece in pieces_of(file):
        digest.update(piece)
        pause()
    return digest.hexdigest()


def pieces_of(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def from_data_url(url: str, most: int) -> bytes:
    """The content of a ``data:`` URL (RFC 2397). Raises BadContent, TooLarge: if it has more than ``most`` bytes."""
    # Not the whole URL: it may have 16 MB.
    head = _DATA_URL.match(url[:1024])
    if head is None:
        raise BadContent("is not a valid data: URL")
    if not head[2].lower().endswith(";base64"):
        if len(url) > 4 * most:
            raise TooLarge
        data = _unquoted(url, head.end())
        if len(data) > most:
            raise TooLarge
        return data
    return from_base64(url, most, head.end())


def from_base64(text: str, most: int, begin: int = 0) -> bytes:
    """Standard base64 from ``begin`` on; white space in it does not count. Raises as ``from_data_url``."""
    if (len(text) - begin) // 2 > most + 2:
        raise TooLarge
    try:
        data = _decoded(text, begin)
    except ValueError:
        # With line ends, as mail has them. Most content has none.
        packed = "".join("".join(part.split()) for part in _parts(text, begin))
        if len(packed) == len(text) - begin:
            raise BadContent("is not valid base64") from None
        try:
            data = _decoded(packed, 0)
        except ValueError:
            raise BadContent("is not valid base64") from None
    if len(data) > most:
        raise TooLarge
    return data


def decoded_to_disk(data: bytes, begin: int, end: int) -> OnDisk | None:
    """Base64 that stands in a JSON text, between these places: without white space, and with a slash perhaps as
    ``\\/``. None if it is none, or if the disk does not take it."""
    content = None
    try:
        content = OnDisk()
        rest = b""
        for at in in_slices(range(begin, end, _PART_CHARS)):
            part = rest + data[at : min(end, at + _PART_CHARS)]
            # What is cut belongs to the next part: an escape, and characters that make no whole bytes yet.
            escape = b"\\" if part.endswith(b"\\") else b""
            part = part.removesuffix(escape).replace(b"\\/", b"/")
            cut = len(part) if at + _PART_CHARS >= end else len(part) - len(part) % 4
            part, rest = part[:cut], part[cut:] + escape
            if part.endswith(b"=") and at + _PART_CHARS < end:
                break
            content.write(binascii.a2b_base64(part, strict_mode=True))
        else:
            if not rest:
                content.complete()
                return content
    except (ValueError, OSError):
        pass
    if content is not None:
        content.close()
    return None


def _unquoted(url: str, begin: int) -> bytes:
    decoded, rest = io.BytesIO(), ""
    for part in _parts(url, begin):
        part = rest + part
        # An escape that is cut belongs to the next part.
        cut = part.find("%", -2)
        part, rest = (part, "") if cut < 0 else (part[:cut], part[cut:])
        decoded.write(unquote_to_bytes(part))
    decoded.write(unquote_to_bytes(rest))
    return decoded.getvalue()


def _parts(text: str, begin: int) -> Iterator[str]:
    """The text from ``begin`` on, with a pause after each part: its escapes or words are many objects."""
    return (text[at : at + _PART_CHARS] for at in in_slices(range(begin, len(text), _PART_CHARS)))


def _decoded(text: str, begin: int) -> bytes:
    """Raises ValueError."""
    # Not a list of parts: to join them would take the memory of the content twice.
    decoded = io.BytesIO()
    at = begin
    for part in _parts(text, begin):
        at += len(part)
        if part.endswith("=") and at < len(text):
            raise ValueError("padding in the middle")
        decoded.write(binascii.a2b_base64(part, strict_mode=True))
    return decoded.getvalue()

"""The bytes of an attachment, and their size and digest."""

import binascii
import hashlib
import io
import re
from collections.abc import Iterator
from typing import BinaryIO
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

"""From the bytes of a body to JSON in UTF-8, or to the true reason why they are none.

Clients compress, write other encodings than UTF-8, send forms, and cut strings in the middle of a surrogate pair.
What the standard library can decode is decoded, within a limit. Must never know the fields of any API.
"""

import codecs
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from app.concurrency.yielding import pause
from app.errors import InvalidRequest

# How much is decompressed between two pauses, and how many escapes are looked at. Bytes; a number.
_PART = 1 << 18
_ESCAPES_PER_PAUSE = 4096


class TooLarge(Exception):
    """The decoded body has more bytes than it may have."""


def decompressed(data: bytes, encoding: str, most: int, grow: Callable[[int], None]) -> bytes:
    """``data`` without the compressions that a Content-Encoding header names, the last one first. ``grow`` is called
    with the number of bytes so far.

    Raises TooLarge: if there would be more than ``most`` bytes.
    Raises InvalidRequest: if a name is not known, or the bytes are not what it says.
    """
    for name in reversed([part.strip().lower() for part in encoding.split(",")]):
        if name in ("", "identity"):
            continue
        make = _DECOMPRESSORS.get(name)
        if make is None:
            raise InvalidRequest(
                f"the body has the Content-Encoding '{name[:40]}', which is not supported here; send the body as it "
                f"is, or as {' or '.join(sorted(_DECOMPRESSORS))}",
                code="unsupported_encoding",
                param="Content-Encoding",
            )
        try:
            data = b"".join(_pieces(make(data), data, most, grow))
        except (zlib.error, EOFError, OSError, ValueError) as e:
            raise InvalidRequest(
                f"the body cannot be decompressed as its Content-Encoding says ({name}): {e}",
                code="invalid_body",
                param="Content-Encoding",
            ) from None
    return data


def _gzip(_data: bytes) -> Any:
    return zlib.decompressobj(wbits=31)


def _deflate(data: bytes) -> Any:
    """What HTTP calls deflate is zlib's format; some programs send it without its head (RFC 9110 8.4.1.2)."""
    has_head = len(data) > 1 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return zlib.decompressobj(wbits=15 if has_head else -15)


_DECOMPRESSORS: dict[str, Callable[[bytes], Any]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
}


def _pieces(decompressor: Any, data: bytes, most: int, grow: Callable[[int], None]) -> Iterator[bytes]:
    """Raises TooLarge; EOFError if the data is cut off."""
    came = 0
    while True:
        piece = decompressor.decompress(data, _PART)
        came += len(piece)
        if came > most:
            raise TooLarge
        grow(came)
        yield piece
        if decompressor.eof:
            return
        data = decompressor.unconsumed_tail
        if not data and not piece:
            raise EOFError("it is cut off")
        pause()


# Those that programs were seen to send, or that an editor may have saved a file in. Others may be slow to decode.
_CHARSETS = re.compile(
    r"utf-8|utf-(?:16|32)(?:-[bl]e)?|ascii|iso8859-15?|cp125[0-2]|gb2312|gbk|gb18030|big5|shift_jis|cp932|euc_jp|euc_kr"
    r"|cp949"
)

# Longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


BYTE_ORDER_MARKS = tuple(mark for mark, _ in _MARKS)


def in_utf8(data: bytes, charset: str | None) -> bytes:
    """``data`` in UTF-8, without a byte order mark. ``charset``: what the Content-Type header says.

    Raises InvalidRequest: if the charset is not known, or the bytes are not in it.
    """
    name = charset.strip("\"' ").lower() if charset else ""
    for mark, of_mark in _MARKS:
        if data.startswith(mark):
            data, name = data[len(mark) :], of_mark
            break
    if name in ("", "utf-8", "utf8"):
        return data
    try:
        if not _CHARSETS.fullmatch(codecs.lookup(name).name):
            raise LookupError
        return data.decode(name).encode("utf-8", "surrogatepass")
    except LookupError:
        raise InvalidRequest(
            f"the charset '{name[:40]}' of the Content-Type is not known; send the body in UTF-8",
            code="invalid_body",
            param="Content-Type",
        ) from None
    except UnicodeError as e:
        at = f", byte {e.start + 1}" if isinstance(e, UnicodeDecodeError) else ""
        raise InvalidRequest(f"the body is not in {name}{at}; send it in UTF-8", code="invalid_body") from None


# An escape of a string in JSON. Of the halves of surrogate pairs only those are named that have no other half.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def with_whole_pairs(data: bytes) -> bytes:
    """JSON in which U+FFFD stands for each half of a surrogate pair that is alone. It came as an escape, because a
    program cut a text in the middle of a character, or as three bytes, as some programs encode it."""
    if b"\xed" in data:
        # The three bytes of each half, and the six of a pair that was encoded half by half.
        text = data.decode("utf-8", "surrogatepass")
        data = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    pieces, done = [], 0
    for number, escape in enumerate(_ESCAPE.finditer(data)):
        if escape["half"] is not None:
            pieces += [data[done : escape.start()], b"\\ufffd"]
            done = escape.end()
        if number % _ESCAPES_PER_PAUSE == _ESCAPES_PER_PAUSE - 1:
            pause()
    return b"".join([*pieces, data[done:]])


def load(data: bytes, media_type: str) -> Any:
    """The value of JSON in UTF-8. Raises InvalidRequest: with the reason why it is none."""
    try:
        return orjson.loads(data)
    except ValueError as e:
        error = e
    if "surrogate" in str(error) or b"\xed" in data:
        try:
            return orjson.loads(with_whole_pairs(data))
        except ValueError:
            # The first error says more.
            pass
    raise InvalidRequest(f"the body is not valid JSON: {_reason(data, media_type, error)}", code="invalid_json")


_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


def _reason(data: bytes, media_type: str, error: ValueError) -> str:
    """Why bytes are no JSON, without showing any of them."""
    start = data[:100].lstrip()
    if not start and not data.strip():
        return "it is empty"
    for mark, name in ((_GZIP, "gzip"), (_ZSTD, "zstd")):
        if data.startswith(mark):
            return f"it is compressed ({name}), and no Content-Encoding header says so"
    if media_type == "multipart/form-data" or start.startswith(b"--"):
        return "it is a form (multipart/form-data); send a JSON object"
    if media_type == "application/x-www-form-urlencoded" and re.match(rb"[\w.%+\[\]-]+=", start):
        return "it is a form (name=value); send a JSON object"
    if b"\0" in start:
        return "it is not UTF-8: it looks like UTF-16; send it in UTF-8"
    try:
        data.decode()
    except UnicodeDecodeError as e:
        return f"byte {e.start + 1} (0x{data[e.start]:02x}) is not UTF-8; send it in UTF-8"
    if start[:1] == b"'":
        return 'it begins with a single quote; on Windows put double quotes around the body, and \\" inside'
    return re.sub(r".*?(line \d+ column \d+).*", r"\1", str(error), flags=re.DOTALL)

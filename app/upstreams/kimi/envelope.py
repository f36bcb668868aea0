"""Encodes and decodes Connect's envelopes: a flag byte, four bytes of big-endian length, a payload.

https://connectrpc.com/docs/protocol#streaming-rpcs (read 2026-11). Does no input or output. Must never know what a
payload contains.
"""

import struct
import zlib
from collections.abc import Iterator

from app.errors import UpstreamProtocolError

_COMPRESSED = 0x01
_END_OF_STREAM = 0x02

_PREFIX = struct.Struct(">BI")

# Observed frames are mostly well under 1 KiB (kimi-protocol.md 5.1).
MAX_BYTES = 8 << 20
# Envelopes of one stream without a payload. None was observed.
_MAX_EMPTY = 100_000


# One payload, decompressed, and whether it ends the stream. A stream without such an envelope was cut.
Envelope = tuple[bytes, bool]


def encode(payload: bytes) -> bytes:
    return _PREFIX.pack(0, len(payload)) + payload


class Decoder:
    """Decodes a stream of bytes, which may be cut anywhere, into envelopes. One object per stream."""

    __slots__ = ("_empty", "_incomplete", "_max_bytes")

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        # The beginning of an incomplete envelope.
        self._incomplete = bytearray()
        self._empty = 0

    def decode(self, chunk: bytes) -> Iterator[Envelope]:
        """The envelopes that ``chunk`` completes. Leaves out empty ones, except the last envelope of the stream.

        Raises UpstreamProtocolError: if the flags are unknown, an envelope is too long or cannot be decompressed, or
        too many are empty.
        """
        # Usually a chunk is exactly one envelope. Then the bytes are not copied into a buffer.
        data: bytes | bytearray = chunk
        if self._incomplete:
            self._incomplete += chunk
            data = self._incomplete
        at, size, prefix = 0, len(data), _PREFIX.size
        try:
            while size - at >= prefix:
                flags, length = _PREFIX.unpack_from(data, at)
                if flags or length > self._max_bytes:
                    self._check(flags, length)
                start = at + prefix
                if size - start < length:
                    break
                at = start + length
                payload = bytes(data[start:at])
                if flags & _COMPRESSED and payload:
                    payload = self._decompress(payload)
                if payload or flags & _END_OF_STREAM:
                    yield payload, bool(flags & _END_OF_STREAM)
                else:
                    self._empty += 1
                    if self._empty > _MAX_EMPTY:
                        raise UpstreamProtocolError(f"more than {_MAX_EMPTY} envelopes without a payload came")
        finally:
            if data is self._incomplete:
                del self._incomplete[:at]
            elif at < size:
                self._incomplete += data[at:]

    def _check(self, flags: int, length: int) -> None:
        if flags & ~(_COMPRESSED | _END_OF_STREAM):
            raise UpstreamProtocolError(f"expected an envelope with flags 0 to 3, got 0x{flags:02x}")
        if length > self._max_bytes:
            raise UpstreamProtocolError(f"an envelope declares {length} bytes; the limit is {self._max_bytes} bytes")

    def _decompress(self, payload: bytes) -> bytes:
        """Decompresses gzip, the only codec that Connect prescribes. The gateway requests no other codec."""
        gzip = zlib.decompressobj(wbits=31)
        try:
            plain = gzip.decompress(payload, self._max_bytes)
        except zlib.error:
            raise UpstreamProtocolError(
                f"an envelope of {len(payload)} bytes is compressed, but not with gzip"
            ) from None
        if gzip.unconsumed_tail:
            raise UpstreamProtocolError(f"an envelope decompresses to more than {self._max_bytes} bytes")
        if not gzip.eof:
            raise UpstreamProtocolError(f"the gzip data of an envelope of {len(payload)} bytes is incomplete")
        if gzip.unused_data:
            # A second gzip member, or something else. It may contain text, so it must not be dropped.
            raise UpstreamProtocolError(
                f"an envelope of {len(payload)} bytes has {len(gzip.unused_data)} bytes after its gzip data"
            )
        return plain

"""Connect's envelopes, both directions: a flag byte, four bytes of big-endian length, a payload.

https://connectrpc.com/docs/protocol#streaming-rpcs (read 2026-11). Knows the framing, never what a payload
says; does no reading or writing of its own.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from app.errors import UpstreamProtocolError

_COMPRESSED = 0x01
_END_OF_STREAM = 0x02

_PREFIX = struct.Struct(">BI")

# Observed frames are mostly well under 1 KiB (kimi-protocol.md 5.1).
MAX_BYTES = 8 << 20


class Envelope(NamedTuple):
    """One payload, decompressed. A stream that ends without a ``last`` envelope was cut."""

    payload: bytes
    last: bool


def encode(payload: bytes) -> bytes:
    return _PREFIX.pack(0, len(payload)) + payload


class Decoder:
    """Bytes, cut anywhere, become envelopes. One object per stream."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        # An envelope that is not yet whole.
        self._begun = bytearray()

    def decode(self, chunk: bytes) -> Iterator[Envelope]:
        """The envelopes that ``chunk`` completes; those without a payload are left out, but for the last one.

        Raises UpstreamProtocolError as soon as a prefix declares what cannot be read.
        """
        # Mostly a chunk is one envelope, and nothing has to be copied.
        data: bytes | bytearray = chunk
        if self._begun:
            self._begun += chunk
            data = self._begun
        at, size = 0, len(data)
        try:
            while size - at >= _PREFIX.size:
                flags, length = _PREFIX.unpack_from(data, at)
                self._check(flags, length)
                start = at + _PREFIX.size
                if size - start < length:
                    break
                at = start + length
                payload = bytes(data[start:at])
                if flags & _COMPRESSED and payload:
                    payload = self._decompress(payload)
                if payload or flags & _END_OF_STREAM:
                    yield Envelope(payload, bool(flags & _END_OF_STREAM))
        finally:
            if data is self._begun:
                del self._begun[:at]
            elif at < size:
                self._begun += data[at:]

    def _check(self, flags: int, length: int) -> None:
        if flags & ~(_COMPRESSED | _END_OF_STREAM):
            raise UpstreamProtocolError(f"expected an envelope with flags 0 to 3, got 0x{flags:02x}")
        if length > self._max_bytes:
            raise UpstreamProtocolError(
                f"an envelope declares {length} bytes; more than {self._max_bytes} are not read"
            )

    def _decompress(self, payload: bytes) -> bytes:
        """gzip is the one codec that Connect prescribes. We ask for none, so any other is refused."""
        gzip = zlib.decompressobj(wbits=31)
        try:
            plain = gzip.decompress(payload, self._max_bytes)
        except zlib.error:
            raise UpstreamProtocolError(
                f"an envelope of {len(payload)} bytes is compressed, and not with gzip"
            ) from None
        if gzip.unconsumed_tail:
            raise UpstreamProtocolError(f"an envelope unpacks to more than {self._max_bytes} bytes")
        if not gzip.eof:
            raise UpstreamProtocolError(f"an envelope of {len(payload)} bytes holds only part of its gzip data")
        if gzip.unused_data:
            # A second member, or something else. It may hold text, so it is not dropped.
            raise UpstreamProtocolError(
                f"an envelope of {len(payload)} bytes goes on for {len(gzip.unused_data)} after its gzip data"
            )
        return plain

"""Connect's envelope: a flag byte, four bytes of big-endian length, a payload (connectrpc.com/docs/protocol).

Knows the framing; must never know what a payload says.
"""

from __future__ import annotations

import struct

DATA = 0x00
COMPRESSED = 0x01
END_OF_STREAM = 0x02

_PREFIX = struct.Struct(">BI")
PREFIX_BYTES = _PREFIX.size


def envelope(payload: bytes, flags: int = DATA) -> bytes:
    return _PREFIX.pack(flags, len(payload)) + payload


def bare_prefix(declared_bytes: int) -> bytes:
    """The five bytes of an envelope whose payload is somebody else's worry."""
    return _PREFIX.pack(DATA, declared_bytes)


def open_envelopes(body: bytes) -> list[tuple[int, bytes]]:
    """Flags and payload of each envelope; raises ValueError unless the bytes are whole envelopes only."""
    opened = []
    while body:
        if len(body) < PREFIX_BYTES:
            raise ValueError("the last envelope has no whole prefix")
        flags, length = _PREFIX.unpack_from(body)
        end = PREFIX_BYTES + length
        if len(body) < end:
            raise ValueError(f"an envelope declares {length} bytes and has {len(body) - PREFIX_BYTES}")
        opened.append((flags, body[PREFIX_BYTES:end]))
        body = body[end:]
    return opened


def prefixes_apart(data: bytes) -> list[bytes]:
    """Envelopes cut between prefix and payload; bytes that are no whole envelopes stay as they are."""
    try:
        opened = open_envelopes(data)
    except ValueError:
        return [data]
    return [part for flags, payload in opened for part in (_PREFIX.pack(flags, len(payload)), payload) if part]

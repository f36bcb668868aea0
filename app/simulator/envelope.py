"""Connect's envelope: a flag byte, four bytes of big-endian length, a payload (connectrpc.com/docs/protocol).

Must never know what a payload contains.
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
    """The five bytes before a payload of `declared_bytes`. The caller sends the payload, or not."""
    return _PREFIX.pack(DATA, declared_bytes)


def open_envelopes(body: bytes) -> list[tuple[int, bytes]]:
    """Flags and payload of each envelope. Raises ValueError: if the bytes do not end with a complete envelope."""
    opened = []
    while body:
        if len(body) < PREFIX_BYTES:
            raise ValueError("the prefix of the last envelope is incomplete")
        flags, length = _PREFIX.unpack_from(body)
        end = PREFIX_BYTES + length
        if len(body) < end:
            raise ValueError(f"an envelope declares {length} bytes and has {len(body) - PREFIX_BYTES}")
        opened.append((flags, body[PREFIX_BYTES:end]))
        body = body[end:]
    return opened


def prefixes_apart(data: bytes) -> list[bytes]:
    """Cuts each envelope between prefix and payload. Does not cut bytes that are not complete envelopes."""
    try:
        opened = open_envelopes(data)
    except ValueError:
        return [data]
    return [part for flags, payload in opened for part in (_PREFIX.pack(flags, len(payload)), payload) if part]

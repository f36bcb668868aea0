"""Identifiers in Kimi's two formats: xid, and the UUID of 2026.

Knows only formats and counters. Must never know what an identifier names.
"""

from __future__ import annotations

import time

_BASE32HEX = "0123456789abcdefghijklmnopqrstuv"
_MACHINE = bytes.fromhex("5131460a2c")  # xid's machine and process bytes: constant, so ids reveal nothing


def xid_text(raw: bytes) -> str:
    """A 12-byte xid as 20 characters. The last one is always `0` or `g`."""
    number = int.from_bytes(raw, "big") << 4
    return "".join(_BASE32HEX[(number >> shift) & 31] for shift in range(95, -1, -5))


class Ids:
    """Creates identifiers that are unique within one run."""

    def __init__(self) -> None:
        self._count = 0

    def xid(self) -> str:
        return self.xids(1)[0]

    def xids(self, how_many: int) -> list[str]:
        """Identifiers with one time and consecutive counters, as Kimi gives them to group, request and answer."""
        moment = int(time.time()).to_bytes(4, "big")
        return [xid_text(moment + _MACHINE + self._next().to_bytes(3, "big")) for _ in range(how_many)]

    def uuid(self) -> str:
        """The format of 2026: 11 hex digits of Unix milliseconds, then a counter between fixed version digits."""
        count = self._next()
        stamp = f"{time.time_ns() // 1_000_000:011x}{count & 0xF:x}"
        return f"{stamp[:8]}-{stamp[8:]}-8{count & 0xFFF:03x}-8000-0a{count:010x}"

    def _next(self) -> int:
        self._count = (self._count + 1) & 0xFFFFFF
        return self._count

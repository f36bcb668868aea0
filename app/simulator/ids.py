"""Identifiers in the two shapes Kimi hands out: xid text, and the 2026 UUID text.

Knows only shapes and counters; must never know what an identifier names.
"""

from __future__ import annotations

import time

_BASE32HEX = "0123456789abcdefghijklmnopqrstuv"
_MACHINE = bytes.fromhex("5131460a2c")  # xid's machine and process bytes; constant, so ids say nothing of us


def xid_text(raw: bytes) -> str:
    """The 20 characters of a 12-byte xid; the last one is always `0` or `g`."""
    number = int.from_bytes(raw, "big") << 4
    return "".join(_BASE32HEX[(number >> shift) & 31] for shift in range(95, -1, -5))


class Ids:
    """Issues identifiers that differ within one run."""

    def __init__(self) -> None:
        self._count = 0

    def xid(self) -> str:
        return self.xids(1)[0]

    def xids(self, how_many: int) -> list[str]:
        """Identifiers of one moment with consecutive counters, as group, request and answer have them."""
        moment = int(time.time()).to_bytes(4, "big")
        return [xid_text(moment + _MACHINE + self._next().to_bytes(3, "big")) for _ in range(how_many)]

    def uuid(self) -> str:
        """2026 form: 11 hex digits of Unix milliseconds, then a counter under fixed version digits."""
        count = self._next()
        stamp = f"{time.time_ns() // 1_000_000:011x}{count & 0xF:x}"
        return f"{stamp[:8]}-{stamp[8:]}-8{count & 0xFFF:03x}-8000-0a{count:010x}"

    def _next(self) -> int:
        self._count = (self._count + 1) & 0xFFFFFF
        return self._count

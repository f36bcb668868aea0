"""Text of an answer that is kept until the answer is complete, up to a limit.

An answer that only passes through has no limit of its own.
"""

import sys
from typing import NoReturn

from app.errors import UpstreamProtocolError

# The memory that the text of one answer may need. Of tokens as Kimi sends them these are some 240,000, which is more
# than its models write.
MAX_BYTES = 16 << 20
# What a piece needs besides, in the lists that it is in.
_PER_PIECE = 16

_size_of = sys.getsizeof


class TextLimit:
    """What may still be kept of one answer."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_BYTES

    def add(self, piece: str) -> None:
        """Raises UpstreamProtocolError: if there is too much text."""
        self.left -= _size_of(piece) + _PER_PIECE
        if self.left < 0:
            self.refuse()

    def refuse(self) -> NoReturn:
        raise UpstreamProtocolError(
            f"Kimi's answer needs more than {MAX_BYTES >> 20} MB; no known model writes so much"
        )


class HeldText:
    """Pieces of text, in order. ``limit`` may be shared by several texts of an answer."""

    __slots__ = ("_limit", "pieces")

    def __init__(self, limit: TextLimit | None = None) -> None:
        self.pieces: list[str] = []
        self._limit = limit or TextLimit()

    def __bool__(self) -> bool:
        return bool(self.pieces)

    def __str__(self) -> str:
        if len(self.pieces) > 1:
            # Joined once, however often it is asked for.
            self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""

    def add(self, piece: str) -> None:
        """Raises UpstreamProtocolError: if there is too much text."""
        # As TextLimit.add, without a call for each token.
        limit = self._limit
        limit.left -= _size_of(piece) + _PER_PIECE
        if limit.left < 0:
            limit.refuse()
        self.pieces.append(piece)

"""How the bytes of a body travel: merged, cut into pieces, or ended after an exact count.

Knows pieces of bytes and one connection; must never know what the bytes mean.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from app.simulator.http1 import BodyEnded, Connection
from app.simulator.knobs import Knobs

Splitter = Callable[[bytes], list[bytes]]
_LONGEST_RANDOM_PIECE = 40


class Body:
    """A streamed body. What is given to `send` is whole events; what goes out depends on the knobs."""

    def __init__(self, connection: Connection, knobs: Knobs, lines: Splitter) -> None:
        self._connection = connection
        self._held: list[bytes] = []
        self._merge = knobs.merge
        self._left = knobs.end_after_bytes
        self._dice = random.Random(int(knobs.cut[7:])) if knobs.cut.startswith("random:") else None
        self._split = self._splitter(knobs.cut, lines)
        plain = knobs.cut == "none" and knobs.merge <= 1 and knobs.end_after_bytes is None
        self.send: Callable[[bytes], Awaitable[None]] = connection.write if plain else self._send_shaped

    async def flush(self) -> None:
        """Sends what was held back; called before every wait. Raises BodyEnded at the last byte allowed."""
        if not self._held:
            return
        data = b"".join(self._held)
        self._held.clear()
        for piece in self._split(data):
            await self._send_piece(piece)

    async def _send_shaped(self, data: bytes) -> None:
        self._held.append(data)
        if len(self._held) >= self._merge and not self._holds_by_chance():
            await self.flush()

    def _holds_by_chance(self) -> bool:
        return self._dice is not None and self._dice.random() < 0.3

    async def _send_piece(self, piece: bytes) -> None:
        if self._left is not None:
            piece = piece[: self._left]
            self._left -= len(piece)
        if piece:
            await self._connection.write(piece)
            await asyncio.sleep(0)  # a turn of the loop, so that the next piece is a packet of its own
        if self._left == 0:
            raise BodyEnded

    def _splitter(self, cut: str, lines: Splitter) -> Splitter:
        if cut == "line":
            return lines
        if cut == "byte":
            return _bytes
        return self._random_pieces if self._dice else _whole

    def _random_pieces(self, data: bytes) -> list[bytes]:
        assert self._dice
        pieces = []
        while data:
            size = self._dice.randint(1, _LONGEST_RANDOM_PIECE)
            pieces.append(data[:size])
            data = data[size:]
        return pieces


def _bytes(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def _whole(data: bytes) -> list[bytes]:
    return [data]

"""Sends the bytes of a body: merged, cut into pieces, or ended after an exact number of bytes.

Knows pieces of bytes and one connection. Must never know what the bytes mean.
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
    """A streamed body. `send` takes whole events. The knobs decide how their bytes are cut and merged."""

    def __init__(self, connection: Connection, knobs: Knobs, lines: Splitter) -> None:
        self._connection = connection
        self._held: list[bytes] = []
        self._merge = knobs.merge
        self._bytes_left = knobs.end_after_bytes
        self._random = random.Random(int(knobs.cut[7:])) if knobs.cut.startswith("random:") else None
        self._split = self._splitter(knobs.cut, lines)
        plain = knobs.cut == "none" and knobs.merge <= 1 and knobs.end_after_bytes is None
        self.send: Callable[[bytes], Awaitable[None]] = connection.write if plain else self._send_shaped

    async def flush(self) -> None:
        """Sends the bytes held back. Called before every wait. Raises BodyEnded after the last allowed byte."""
        if not self._held:
            return
        data = b"".join(self._held)
        self._held.clear()
        for piece in self._split(data):
            await self._send_piece(piece)

    async def _send_shaped(self, data: bytes) -> None:
        self._held.append(data)
        if len(self._held) >= self._merge and not self._holds_back_at_random():
            await self.flush()

    def _holds_back_at_random(self) -> bool:
        return self._random is not None and self._random.random() < 0.3

    async def _send_piece(self, piece: bytes) -> None:
        if self._bytes_left is not None:
            piece = piece[: self._bytes_left]
            self._bytes_left -= len(piece)
        if piece:
            await self._connection.write(piece)
            await asyncio.sleep(0)  # lets the event loop run, so that the next piece is a separate packet
        if self._bytes_left == 0:
            raise BodyEnded

    def _splitter(self, cut: str, lines: Splitter) -> Splitter:
        if cut == "line":
            return lines
        if cut == "byte":
            return _each_byte
        return self._random_pieces if self._random else _uncut

    def _random_pieces(self, data: bytes) -> list[bytes]:
        assert self._random
        pieces = []
        while data:
            size = self._random.randint(1, _LONGEST_RANDOM_PIECE)
            pieces.append(data[:size])
            data = data[size:]
        return pieces


def _each_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def _uncut(data: bytes) -> list[bytes]:
    return [data]

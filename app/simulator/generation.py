"""The frames of one answer, kept while it is generated and for some time after, so that a stream that broke can be
taken up again (kimi-protocol-2.md 5.3).

Knows frames with their numbers, as bytes, and who waits for more of them. Must never know what a frame says.
"""

from __future__ import annotations

import asyncio
import time

from app.simulator.envelope import END_OF_STREAM
from app.simulator.knobs import Knobs


class Recording:
    """What was sent of an answer, or would have been sent if its client had stayed."""

    def __init__(self, knobs: Knobs) -> None:
        """``knobs``: those of the turn."""
        self.knobs = knobs
        self.frames: list[tuple[int, bytes]] = []
        """The eventOffset of each frame, and its bytes."""
        self.end: bytes | None = None
        """The end of the stream, once it is reached."""
        self.is_lost = False
        """Kimi itself has lost the answer: it cannot be had any more."""
        self.streams = 1
        self._ended_at: float | None = None
        self._listeners: set[asyncio.Event] = set()

    def add(self, offset: int, data: bytes) -> None:
        """``offset``: of the last frame that was made; the same as before for what is no frame."""
        if data[0] == END_OF_STREAM:
            self.end = data
        elif not self.frames or offset > self.frames[-1][0]:
            self.frames.append((offset, data))
        self._tell()

    def finish(self, *, lost: bool = False) -> None:
        """Nothing more will come."""
        self.is_lost = self.is_lost or lost
        self._ended_at = time.monotonic()
        self._tell()

    @property
    def has_ended(self) -> bool:
        return self._ended_at is not None

    @property
    def is_available(self) -> bool:
        if self.is_lost:
            return False
        return self._ended_at is None or time.monotonic() - self._ended_at < self.knobs.resume_for_s

    async def wait(self, timeout_s: float | None) -> bool:
        """Waits until there is more. False if the time is over."""
        told = asyncio.Event()
        self._listeners.add(told)
        try:
            async with asyncio.timeout(timeout_s):
                await told.wait()
            return True
        except TimeoutError:
            return False
        finally:
            self._listeners.discard(told)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener.set()

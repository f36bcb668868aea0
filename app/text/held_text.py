"""Text of an answer that is kept until the answer is complete, up to a limit: of each answer, and of all together.

An answer that only passes through has no limit of its own.
"""

import sys
import threading

from app.errors import GatewayOverloaded, UpstreamProtocolError

# The memory that one answer may need wherever it is kept. With an emoji in it these are four million characters; of
# tokens that are kept as Kimi sends them, 240,000. Its models write less.
MAX_BYTES = 16 << 20
# An answer may keep so much without taking it from the others: most are short.
_FREE = 4 << 10
# So much is taken at once. Pieces of a few characters need ten times their text, so they are joined as often.
_STEP = 16 << 10
# What a piece needs besides, in the lists that it is in.
_PER_PIECE = 16
# As which a piece of which only the characters are counted is counted besides: its object, and what it needs besides.
_PER_OPEN_PIECE = 80
# When a client that was refused may come again. Seconds.
_RETRY_AFTER_S = 5.0

_size_of = sys.getsizeof

# What adding to a text, and making it one, may raise.
TOO_MUCH_TEXT = (UpstreamProtocolError, GatewayOverloaded)


class TextMemory:
    """A number of bytes that texts share. No text gets more than it leaves to the others."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        # A text that is collected as garbage may give its bytes back while another one takes some.
        self._lock = threading.RLock()

    def take(self, size: int, held: int) -> None:
        """``held``: what the text has already. Raises GatewayOverloaded."""
        with self._lock:
            if held + size > self.total - self.used:
                raise GatewayOverloaded(
                    "the answers that run need all the memory that this gateway may use for them "
                    "(ANSWER_MEMORY_BYTES); try again later",
                    retry_after_s=_RETRY_AFTER_S,
                )
            self.used += size

    def give_back(self, size: int) -> None:
        with self._lock:
            self.used -= size


# Of all answers of this process. Its size is a setting. An answer is kept in up to four places: as its upstream reads
# it, for its chat, for its response, and for a repetition of its request.
MEMORY = TextMemory(128 << 20)


class TextLimit:
    """What may still be kept of one answer. Gives back what it took when it is gone."""

    __slots__ = ("_held", "_memory", "left")

    def __init__(self, memory: TextMemory = MEMORY) -> None:
        self._memory = memory
        # What was taken, and what is left.
        self._held = 0
        self.left = _FREE

    def __del__(self) -> None:
        if self._held:
            self._memory.give_back(self._held)

    def add(self, piece: str) -> None:
        """Raises UpstreamProtocolError: if there is too much text of this answer; GatewayOverloaded: of all."""
        self.left -= _size_of(piece) + _PER_PIECE
        if self.left < 0:
            self.grow()

    def grow(self) -> None:
        """Takes what was used, and one step more. Raises as ``add``."""
        size = _STEP - min(self.left, 0)
        if self._held + size > MAX_BYTES:
            raise UpstreamProtocolError(
                f"Kimi's answer needs more than {MAX_BYTES >> 20} MB; no known model writes so much"
            )
        self._memory.take(size, self._held)
        self._held += size
        self.left += size


class HeldText:
    """Pieces of text, in order. ``limit`` may be shared by several texts of an answer."""

    __slots__ = ("_joined", "_limit", "_pieces")

    def __init__(self, limit: TextLimit | None = None) -> None:
        self._pieces: list[str] = []
        # So many pieces, from the first on, are joined ones, whose size is counted. Of the others only the characters
        # are, because this happens for each token.
        self._joined = 0
        self._limit = limit or TextLimit()

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def __len__(self) -> int:
        """Its characters."""
        return sum(map(len, self._pieces))

    def __str__(self) -> str:
        """Raises as ``add``: the whole needs more than its pieces where one of them has wider characters."""
        if len(self._pieces) > 1:
            # Joined once, however often it is asked for.
            self._join(0)
            if self._limit.left < 0:
                self._limit.grow()
        return self._pieces[0] if self._pieces else ""

    def add(self, piece: str) -> None:
        """Raises UpstreamProtocolError: if there is too much text of this answer; GatewayOverloaded: of all."""
        # As TextLimit.add, without a call for each token.
        limit = self._limit
        limit.left -= len(piece) + _PER_OPEN_PIECE
        self._pieces.append(piece)
        if limit.left < 0:
            self._join(self._joined)
            if limit.left < _STEP // 2:
                limit.grow()

    def _join(self, start: int) -> None:
        """Makes one piece of all from ``start`` on, which is the first one or the first that is not joined."""
        pieces, joined = self._pieces, self._joined
        whole = "".join(pieces[start:])
        counted = sum(_size_of(piece) - len(piece) + _PER_PIECE for piece in pieces[start:joined])
        counted += len(whole) + _PER_OPEN_PIECE * (len(pieces) - joined)
        self._limit.left += counted - _size_of(whole) - _PER_PIECE
        pieces[start:] = [whole]
        self._joined = start + 1

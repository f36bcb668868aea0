"""From what came off a socket, and when, to the texts of an answer; and whether the answer is the right one.

Knows the framings: HTTP chunks, server-sent events, Connect's envelopes.

All of it is done after a run, so that it costs the load generator nothing while it measures.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.processes import Failed

Piece = tuple[int, bytes]
"""Bytes, and the monotonic time at which they came, in ns."""

# Quotes, a line end, two, three and four bytes in UTF-8; no digits, which only stamps are made of.
_PHRASE = (
    'The "quick" brown fox jumps over the lazy dog;\nder flinke Fuchs springt über den Hund. 敏捷的狐狸🦊跳过了懒狗。'
)
TOKEN_CHARS = 4

_STAMP = re.compile(r"(\d{9,});")


def text_of(tokens: int) -> str:
    """What the simulator is told to say: so many tokens of ``TOKEN_CHARS`` characters."""
    chars = tokens * TOKEN_CHARS
    return (_PHRASE * (chars // len(_PHRASE) + 1))[:chars]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the answer: when the simulator wrote it and when it was here, in ns."""

    stamp_ns: int
    came_ns: int

    @property
    def late_ms(self) -> float:
        return (self.came_ns - self.stamp_ns) / 1e6


def tokens_of(payloads: Iterable[Piece], text: Callable[[bytes], str | None], expected: str) -> Sequence[Token]:
    """The stamped tokens of an answer; raises Failed if its text is not exactly what was expected."""
    tokens, said = _read(payloads, text)
    if _digest(said) != _digest(expected):
        raise Failed(f"a wrong answer: {said[:200]!r} instead of {expected[:200]!r}")
    return tokens


def tokens_so_far(payloads: Iterable[Piece], text: Callable[[bytes], str | None], expected: str) -> Sequence[Token]:
    """The same of an answer that was not read to its end; raises Failed if what was expected does not begin so."""
    tokens, said = _read(payloads, text)
    if not expected.startswith(said):
        raise Failed(f"a wrong answer: {said[:200]!r}, where it was to begin like {expected[:200]!r}")
    return tokens


def _read(payloads: Iterable[Piece], text: Callable[[bytes], str | None]) -> tuple[list[Token], str]:
    """The tokens, and the text without their stamps."""
    tokens: list[Token] = []
    said: list[str] = []
    for came_ns, payload in payloads:
        # One event may hold several tokens, if somebody on the way put them together.
        before, *stamped = _STAMP.split(text(payload) or "")
        said.append(before)
        tokens += [Token(int(stamp), came_ns) for stamp in stamped[::2]]
        said += stamped[1::2]
    return tokens, "".join(said)


def envelopes_of(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The payloads of Connect's envelopes: a flag byte, four bytes of length, a payload."""
    buffer = b""
    for came_ns, piece in pieces:
        buffer += piece
        at = 0
        while len(buffer) - at >= 5:
            end = at + 5 + int.from_bytes(buffer[at + 1 : at + 5], "big")
            if end > len(buffer):
                break
            yield came_ns, buffer[at + 5 : end]
            at = end
        buffer = buffer[at:]


def events_of(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The data of SSE events of one line each, as all servers here send them."""
    rest = b""
    for came_ns, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield came_ns, line[6:]


def unchunked(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """A chunked HTTP body without its framing."""
    buffer = b""
    left = 0  # of the current chunk, its CR LF included
    for came_ns, piece in pieces:
        buffer += piece
        at = 0
        while at < len(buffer):
            if left == 0:
                end = buffer.find(b"\r\n", at)
                if end < 0:
                    break
                left = int(buffer[at:end], 16) + 2
                at = end + 2
            taken = buffer[at : at + left]
            at += len(taken)
            left -= len(taken)
            # The last two bytes of a chunk are not its content, even where they come by themselves.
            content = taken[: max(0, len(taken) - max(0, 2 - left))]
            if content:
                yield came_ns, content
        buffer = buffer[at:]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

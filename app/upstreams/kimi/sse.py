"""Server-sent events as Kimi sends them: bytes → whole lines, and lines → the data of each event.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation (read 2026-11).
Knows the framing, never what is inside a message; does no reading of its own. Between the two functions stands
requests' ``iter_lines``, which takes the ends off the lines.
"""

from collections.abc import Iterable, Iterator

from app.errors import UpstreamProtocolError

_BOM = b"\xef\xbb\xbf"

# Of one line, and of the data of one event. Observed events are mostly well under 1 KiB (kimi-protocol.md 3.4).
MAX_BYTES = 8 << 20


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces that end where a line ends (LF, CRLF or CR), each as soon as its line has ended; the
    last one may end anywhere. Raises UpstreamProtocolError: if a line has more than ``MAX_BYTES``.
    """
    unfinished: list[bytes] = []
    size = 0
    after_cr = False
    for piece in pieces:
        if after_cr and piece:
            # The LF of a CRLF that was cut in two ends no other line.
            piece = piece.removeprefix(b"\n")
            after_cr = False
        if piece.endswith(b"\n") and not unfinished:
            yield piece
            continue
        end = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
        if end:
            # Joined once per line: a long one may come in thousands of pieces.
            unfinished.append(piece[:end])
            whole = b"".join(unfinished)
            unfinished.clear()
            size = 0
            after_cr = piece.endswith(b"\r")
            yield whole
        if end < len(piece):
            unfinished.append(piece[end:])
            size += len(piece) - end
            if size > MAX_BYTES:
                raise UpstreamProtocolError(f"Kimi sent a line of more than {MAX_BYTES} bytes")
    if unfinished:
        yield b"".join(unfinished)


class Decoder:
    """Lines without their ends → the data of each event, in order. One object per stream.

    An event counts once its blank line has come: what a connection leaves unfinished is dropped, as the standard
    says. Kimi uses no event names, ids or retry times.
    """

    __slots__ = ("_began", "_data", "_size")

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._size = 0
        self._began = False

    def take(self, line: bytes) -> bytes | None:
        """The data of the event that ``line`` completes; empty for a line that holds no data (a comment, a field),
        which is a sign of life; None for neither. Raises UpstreamProtocolError: if there is too much data."""
        if not self._began:
            line = line.removeprefix(_BOM)
            self._began = True
        data = self._data
        if line.startswith(b"data:"):
            if data:
                # Kimi's events have one line.
                self._size += len(line)
                if self._size > MAX_BYTES:
                    raise UpstreamProtocolError(f"Kimi sent an event of more than {MAX_BYTES} bytes")
            data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line:
            return b""
        elif data:
            value = data[0] if len(data) == 1 else b"\n".join(data)
            data.clear()
            self._size = 0
            return value
        return None

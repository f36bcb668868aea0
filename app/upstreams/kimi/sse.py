"""Server-sent events as Kimi sends them: bytes → whole lines, and lines → the data of each event.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation (read 2026-11).
Knows the framing, never what is inside a message; does no reading of its own. Between the two functions stands
requests' ``iter_lines``, which takes the ends off the lines.
"""

from collections.abc import Iterable, Iterator

_BOM = b"\xef\xbb\xbf"


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces that end where a line ends (LF, CRLF or CR), each as soon as its line has ended; the
    last one may end anywhere.

    For ``iter_lines``, which joins and splits an unfinished line anew with each piece, and reports a line too many
    where a CRLF is cut in two.
    """
    unfinished: list[bytes] = []
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
            after_cr = piece.endswith(b"\r")
            yield whole
        if end < len(piece):
            unfinished.append(piece[end:])
    if unfinished:
        yield b"".join(unfinished)


class Decoder:
    """Lines without their ends → the data of each event, in order. One object per stream.

    An event counts once its blank line has come: what a connection leaves unfinished is dropped, as the standard
    says. Kimi uses no event names, ids or retry times.
    """

    __slots__ = ("_began", "_data")

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._began = False

    def take(self, line: bytes) -> bytes | None:
        """The data of the event that ``line`` completes; empty for a line that holds no data (a comment, a field),
        which is a sign of life; None for neither."""
        if not self._began:
            line = line.removeprefix(_BOM)
            self._began = True
        data = self._data
        if line.startswith(b"data:"):
            data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line:
            return b""
        elif data:
            value = data[0] if len(data) == 1 else b"\n".join(data)
            data.clear()
            return value
        return None

"""Server-sent events as Kimi sends them: bytes → the data of each event.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation (read 2026-11).
Knows the framing, never what is inside a message; does no reading of its own.
"""

from collections.abc import Sequence

_BOM = b"\xef\xbb\xbf"


class Decoder:
    """Bytes, however they were cut → the data of each event, in order. One object per stream.

    A line ends with LF, CRLF or CR. An event counts once its blank line has come: what a connection leaves
    unfinished is dropped, as the standard says. Kimi uses no event names, ids or retry times.
    """

    __slots__ = ("_after_cr", "_began", "_between", "_data", "_line")

    def __init__(self) -> None:
        # The pieces of a line that has not ended yet.
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._began = False
        self._after_cr = False
        # Whether the next line begins with the next chunk, and an event with it.
        self._between = False

    def decode(self, chunk: bytes) -> Sequence[bytes]:
        """The data of the events that ``chunk`` completes. A line that holds no data (a comment, a field) stands
        there as empty data: a sign of life."""
        # Bytes are split at LF, CRLF and CR only.
        lines = chunk.splitlines()
        # Nearly always a chunk is one event, in one line.
        if self._between and len(lines) == 2 and not lines[1] and lines[0].startswith(b"data: "):
            self._after_cr = chunk.endswith(b"\r")
            return (lines[0][6:],)
        found = self._decode_lines(chunk)
        self._between = not self._line and not self._data
        return found

    def _decode_lines(self, chunk: bytes) -> list[bytes]:
        if self._line or self._after_cr:
            chunk = self._continue_line(chunk)
        lines = chunk.splitlines()
        if chunk.endswith(b"\r"):
            self._after_cr = True
        elif lines and not chunk.endswith(b"\n"):
            self._line.append(lines.pop())
        found, data = [], self._data
        for line in lines:
            if not self._began:
                line = line.removeprefix(_BOM)
                self._began = True
            if line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line:
                found.append(b"")
            elif data:
                found.append(data[0] if len(data) == 1 else b"\n".join(data))
                data.clear()
        return found

    def _continue_line(self, chunk: bytes) -> bytes:
        """``chunk`` with the beginning of its first line; empty as long as that has not ended."""
        if self._after_cr and chunk:
            # The LF of a CRLF that was cut in two ends no other line.
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if self._line:
            self._line.append(chunk)
            # Joined once per line: a long one may come in thousands of pieces.
            chunk = b"".join(self._line) if b"\n" in chunk or b"\r" in chunk else b""
            if chunk:
                self._line.clear()
        return chunk

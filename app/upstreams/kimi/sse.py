"""Server-sent events as Kimi sends them: lines → the data of each event.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation (read 2026-11).
Knows the framing, never what is inside a message.
"""

_BOM = b"\xef\xbb\xbf"


class Decoder:
    """Lines without their ends → the data of each event, in order. One object per stream.

    An event counts once its blank line has come: what a connection leaves unfinished is dropped, as the
    standard says. A blank line too many is harmless between events (requests' ``iter_lines`` reports one where
    a CRLF was cut in two); inside an event of several lines, which Kimi has never been seen to send, it is not.
    Kimi uses no event names, ids or retry times.
    """

    __slots__ = ("_began", "_data")

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._began = False

    def take(self, line: bytes) -> bytes | None:
        """The data of the event that ``line`` completes; empty for a sign of life without data, None for neither."""
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

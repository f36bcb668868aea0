"""Server-sent events, both directions.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation (read 2026-11).
Knows the framing, never what is inside a message.
"""

from collections.abc import Iterable, Iterator

COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

_BOM = b"\xef\xbb\xbf"


def decode(lines: Iterable[bytes]) -> Iterator[bytes | None]:
    """Lines without their ends → the data of each event, in order; None for a sign of life without data.

    An event counts once its blank line has come: what a connection leaves unfinished is dropped, as the
    standard says. A blank line too many is harmless between events (requests' ``iter_lines`` reports one where
    a CRLF was cut in two); inside an event of several lines, which Kimi has never been seen to send, it is not.
    Event names, ids and retry times are not used by anybody we talk to.
    """
    data: list[bytes] = []
    first = True
    for line in lines:
        if first:
            line = line.removeprefix(_BOM)
            first = False
        if line.startswith(b"data:"):
            value = line[5:]
            data.append(value[1:] if value.startswith(b" ") else value)
        elif line:
            yield None
        elif data:
            yield data[0] if len(data) == 1 else b"\n".join(data)
            data = []


def encode(data: bytes, name: str = "") -> bytes:
    """One event of one line, with its name where it has one."""
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + data + b"\n\n"

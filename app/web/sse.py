"""Server-sent events as clients get them.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation (read 2026-11).
Knows the framing, never what is inside a message.
"""

COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def encode(data: bytes, name: str = "") -> bytes:
    """One event of one line, with its name where it has one."""
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + data + b"\n\n"

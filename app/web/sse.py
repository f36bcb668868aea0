"""Encodes server-sent events for clients.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation (read 2026-11).
Must never know what a message contains.
"""

COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def encode(data: bytes, name: str = "") -> bytes:
    """One event with one line of data, and a name if there is one."""
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + data + b"\n\n"

"""The body of a response in HTTP chunks (RFC 9112, 7.1), as it comes: all that one read of the socket brings at once.

Kimi sends each event in a chunk of its own. urllib3 reads such a body chunk by chunk, with six calls for each, which
were a quarter of what a token cost in a flood (docs/performance.md). Knows the framing only. Must never know sockets,
or what is in a body.
"""

import io
import re
from collections.abc import Callable, Iterator
from http.client import HTTPException, IncompleteRead

from app.upstreams.kimi.socket_reader import READ_AHEAD_BYTES, TooLarge

# The most that is read at once.
_MANY_BYTES = 16_384

# Sizes, their extensions, and trailers: one line, and all trailers.
_MAX_LINE_BYTES = 65_536
_MAX_TRAILER_BYTES = 262_144

_match_size = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\n]*)?\r?\n").match


class ChunkError(HTTPException):
    """What came is no HTTP chunk."""


def pieces(file: io.BufferedReader, at_end: Callable[[], None] = lambda: None) -> Iterator[bytes]:
    """The body, cut anywhere. Calls ``at_end`` and returns when its end and its trailers have been read.

    Raises ChunkError, TooLarge; IncompleteRead: if the connection was closed before the end; OSError.
    """
    # What came and could not be read yet: the beginning of a line.
    rest = b""
    # What is missing of a chunk: bytes of it, and the end of its line.
    left, is_line_open = 0, False
    is_full = False
    while True:
        if not is_full:
            # Waits, and takes no more memory than the file has anyway.
            file.peek()
        data = file.read1(_MANY_BYTES)
        if not data:
            raise IncompleteRead(b"")
        is_full = len(data) >= READ_AHEAD_BYTES
        if rest:
            data = rest + data
        found: list[bytes] = []
        at, size = 0, len(data)
        while at < size:
            if left:
                found.append(data[at : at + left])
                at += len(found[-1])
                left -= len(found[-1])
                continue
            if is_line_open:
                if size - at < 2:
                    break
                if data[at : at + 2] != b"\r\n":
                    raise ChunkError("an HTTP chunk is longer than its size")
                at += 2
                is_line_open = False
                continue
            header = _match_size(data, at)
            if header is None:
                if data.find(b"\n", at) >= 0:
                    raise ChunkError("an HTTP chunk without a size")
                if size - at > _MAX_LINE_BYTES:
                    raise TooLarge(f"a line of more than {_MAX_LINE_BYTES} bytes between HTTP chunks")
                break
            at = header.end()
            left = int(header[1], 16)
            if not left:
                if found:
                    yield b"".join(found)
                _read_trailers(file, data[at:])
                at_end()
                return
            end = at + left
            if data[end : end + 2] == b"\r\n":
                # Nearly all: it is here as a whole.
                found.append(data[at:end])
                at, left = end + 2, 0
            else:
                is_line_open = True
        rest = data[at:]
        if found:
            yield found[0] if len(found) == 1 else b"".join(found)
        # Not kept while the next read waits, which is most of the time of a slow stream.
        data, header = b"", None
        found.clear()


def _read_trailers(file: io.BufferedReader, data: bytes) -> None:
    """Reads up to the empty line that ends them. ``data``: what came of them."""
    size = len(data)
    while True:
        line, newline, data = data.partition(b"\n")
        if not newline:
            more = file.read1(READ_AHEAD_BYTES)
            if not more:
                # Some servers close the connection without that line.
                return
            size += len(more)
            if len(line) > _MAX_LINE_BYTES or size > _MAX_TRAILER_BYTES:
                raise TooLarge(f"more than {_MAX_TRAILER_BYTES} bytes of trailers between HTTP chunks")
            data = line + more
        elif line in (b"", b"\r"):
            if data:
                raise ChunkError("something comes after the end of the body")
            return

"""The hostile upstream: a Kimi that answers every turn in one way, the worst that can be thought of.

Each behaviour is a function that writes to the connection after the request has been read. One thread per connection.
"""

import argparse
import itertools
import os
import re
import socketserver
import sys
import time
import zlib
from collections.abc import Callable, Iterator

import orjson

from bench.dialects import GENERATIONS, envelope, recorded_answer

Write = Callable[[bytes], None]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_UPLOAD = b"/apiv2-files/file/upload"
_PROGRESS = b"/apiv2-files/kimi.gateway.file.v1.FileService/GetFileParseProgress"
_TYPES = {generation.name: generation.stream_type for generation in GENERATIONS}
_MB = 1 << 20
# Of the body of a request.
_KEPT_BYTES = 65_536


# The framing of what is written


def _head(media_type: str, *more: str) -> bytes:
    lines = ("HTTP/1.1 200 OK", f"Content-Type: {media_type}", "Transfer-Encoding: chunked", *more, "", "")
    return "\r\n".join(lines).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(**fields: object) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"


def _frame(**fields: object) -> bytes:
    return envelope(orjson.dumps(fields))


def _text(text: str, block: str = "1") -> bytes:
    return _frame(op="append", mask="block.text.content", block={"id": block, "text": {"content": text}})


_CHAT = _frame(op="set", mask="chat", chat={"id": "a-chat"})
_MESSAGE = _frame(
    op="set", mask="message", message={"id": "m", "role": "assistant", "status": "MESSAGE_STATUS_GENERATING"}
)
_DONE = (
    _frame(op="set", mask="message.status", message={"id": "m", "status": "MESSAGE_STATUS_COMPLETED"})
    + _frame(done={})
    + envelope(b"{}", 2)
)
_BEGIN = _CHAT + _MESSAGE


# Of Connect, for behaviours that are defined elsewhere


def beginning() -> bytes:
    return _head(_TYPES["connect"]) + _chunk(_BEGIN)


def text_chunk(text: str) -> bytes:
    return _chunk(_text(text))


def ending() -> bytes:
    return _chunk(_DONE) + b"0\r\n\r\n"


# Connect's generation


def _connect(body: Iterator[bytes]) -> Callable[[Write], None]:
    """An answer that begins as it should, goes on with these pieces, each an HTTP chunk, and is then complete."""

    def behave(write: Write) -> None:
        write(beginning())
        for piece in body:
            write(_chunk(piece))
        write(ending())

    return behave


def short(write: Write) -> None:
    write(_head(_TYPES["connect"]) + recorded_answer(GENERATIONS[1], ["All ", "is ", "well."]))


def _say(text: str) -> Callable[[Write], None]:
    return lambda write: write(_head(_TYPES["connect"]) + recorded_answer(GENERATIONS[1], [text]))


def slow_answer(write: Write) -> None:
    """An answer that takes as long as the case."""
    write(beginning())
    while True:
        time.sleep(0.5)
        write(text_chunk("word "))


def huge_chunk(write: Write) -> None:
    write(beginning() + b"%x\r\n" % (2 << 30))
    _endless(write, b"\0" * _MB, 2 << 30)


def gzip_body(write: Write) -> None:
    """3 GB of nothing, which are 3 MB."""
    write(_head(_TYPES["connect"], "Content-Encoding: gzip"))
    packer = zlib.compressobj(9, wbits=31)
    nothing = b"\0" * _MB
    for _ in range(3072):
        if packed := packer.compress(nothing):
            write(_chunk(packed))
    write(_chunk(packer.flush()) + b"0\r\n\r\n")


def gzip_envelopes(write: Write) -> None:
    """Envelopes that unpack to a frame of as many values as an envelope may hold."""
    nested = b'{"op":"set","mask":"x","x":[' + b",".join([b"[]"] * 300_000) + b"]}"
    packed = envelope(zlib.compress(nested, wbits=31), 1)
    _connect(itertools.repeat(packed * 16, 100))(write)


def structured_frames(write: Write) -> None:
    """Frames of 7 MB that are all brackets."""
    frame = envelope(b'{"op":"set","mask":"x","x":[' + b",".join([b"{}"] * 2_300_000) + b"]}")
    _connect(itertools.repeat(frame, 100))(write)


def half_pairs(write: Write) -> None:
    """Frames of 1 MB with half a surrogate pair, which only the slow reader reads."""
    frame = envelope(b'{"op":"set","mask":"x","x":[' + b",".join([b'"\\ud83d"'] * 100_000) + b"]}")
    _connect(itertools.repeat(frame, 1000))(write)


def unknown_kinds(write: Write) -> None:
    pieces = (
        b"".join(_frame(**{f"kind{at + number}": {}}) for number in range(100)) for at in range(0, 100_000, 100)
    )
    _connect(pieces)(write)


def empty_envelopes(write: Write) -> None:
    _connect(itertools.repeat(envelope(b"") * 10_000, 20_000))(write)


def many_chats(write: Write) -> None:
    """Each frame names another chat, and each chat has to be deleted."""
    _connect(_frame(op="set", mask="chat", chat={"id": f"chat-{number}"}) for number in range(100_000))(write)


def many_blocks(write: Write) -> None:
    """Text that jumps between more and more blocks."""
    _connect(b"".join(_text("", str(at + number)) for number in range(100)) for at in range(0, 1_000_000, 100))(write)


def repeated_message(write: Write) -> None:
    """The whole message again after each word."""

    def pieces() -> Iterator[bytes]:
        yield _text("word " * 100_000)
        shown = _frame(
            op="set",
            mask="message",
            message={"id": "m", "role": "assistant", "blocks": [{"id": "1", "text": {"content": "word " * 100_000}}]},
        )
        yield from itertools.repeat(shown, 500)

    _connect(pieces())(write)


def endless_answer(write: Write) -> None:
    piece = b"".join(_text("word word word word ") for _ in range(100))
    _connect(itertools.repeat(piece))(write)


def endless_large_answer(write: Write) -> None:
    _connect(itertools.repeat(_text("🦊" * 100_000)))(write)


def endless_heartbeats(write: Write) -> None:
    _connect(itertools.repeat(_frame(heartbeat={}) * 100))(write)


def markers(write: Write) -> None:
    _connect(itertools.repeat(_text("[^1^]" * 1_000_000), 20))(write)


def marker_chain(write: Write) -> None:
    """One marker that never ends, in small pieces."""
    _connect(itertools.repeat(_text("\ue3a0web_search:1#0") * 50))(write)


def newlines(write: Write) -> None:
    _connect(itertools.repeat(_text("\n`" * 2_500_000), 10))(write)


def same_letter(write: Write) -> None:
    _connect(itertools.repeat(_text("a" * 200) * 20))(write)


def objects_answer(write: Write) -> None:
    """4,000 objects, none like another."""
    _say(orjson.dumps([{"a": number, "b": [number, number]} for number in range(4000)]).decode())(write)


def letters_answer(write: Write) -> None:
    _say(orjson.dumps("a" * 5000 + "!").decode())(write)


def large_json_answer(write: Write) -> None:
    _connect(iter([_text("[" + ",".join(['{"a":"中文"}'] * 40_000) + ",") for _ in range(4)]))(write)


def large_head(write: Write) -> None:
    write(b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: %b\r\n" % (n, b"a" * 65000) for n in range(99)))
    _endless(write, b"x-more: " + b"a" * 60000 + b"\r\n")


def endless_interim(write: Write) -> None:
    _endless(write, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def endless_trailers(write: Write) -> None:
    write(beginning() + b"0\r\n")
    _endless(write, b"a: b\r\n" * 1000)


def endless_trailer(write: Write) -> None:
    write(beginning() + b"0\r\na: ")
    _endless(write, b"b" * 60000)


def endless_chunk_size(write: Write) -> None:
    write(beginning() + b"1;")
    _endless(write, b"b" * 60000)


def endless_json(write: Write) -> None:
    write(_head("application/json") + b"%x\r\n" % (2 << 30))
    _endless(write, b"[1," * 100_000)


# The SSE generation


def sse_endless_line(write: Write) -> None:
    write(_head(_TYPES["sse"]) + _chunk(b"data: "))
    _endless(write, _chunk(b"a" * 4096))


def sse_endless_event(write: Write) -> None:
    write(_head(_TYPES["sse"]))
    _endless(write, _chunk(b"data: " + b"a" * 100 + b"\n") * 100)


def sse_unknown_kinds(write: Write) -> None:
    write(_head(_TYPES["sse"]))
    for at in range(0, 100_000, 100):
        write(_chunk(b"".join(_event(event=f"kind{at + number}") for number in range(100))))
    write(_chunk(_event(event="cmpl", text="x") + _event(event="all_done")) + b"0\r\n\r\n")


def sse_huge_chunk(write: Write) -> None:
    write(_head(_TYPES["sse"]) + b"%x\r\n" % (2 << 30))
    _endless(write, b"\0" * _MB, 2 << 30)


def sse_gzip_body(write: Write) -> None:
    write(_head(_TYPES["sse"], "Content-Encoding: gzip"))
    packer = zlib.compressobj(9, wbits=31)
    for _ in range(3072):
        if packed := packer.compress(b"a" * _MB):
            write(_chunk(packed))
    write(_chunk(packer.flush()) + b"0\r\n\r\n")


def sse_json(write: Write) -> None:
    """An error in JSON that never ends where a stream was announced."""
    write(_head(_TYPES["sse"]) + _chunk(b'{"error_type":"x",\n'))
    _endless(write, _chunk(b'"a": 1,\n' * 500))


def sse_flood(write: Write) -> None:
    write(_head(_TYPES["sse"]))
    _endless(write, _chunk(_event(event="cmpl", idx_s=0, idx_z=0, text="word ", view="cmpl")) * 100)


def sse_close_delimited(write: Write) -> None:
    """A body that ends with the connection, and does not end."""
    write(f"HTTP/1.1 200 OK\r\nContent-Type: {_TYPES['sse']}\r\nConnection: close\r\n\r\n".encode())
    _endless(write, b"data: " + b"a" * 60000)


def _endless(write: Write, piece: bytes, size: int = 1 << 50) -> None:
    for _ in range(0, size, len(piece)):
        write(piece)


BEHAVIOURS: dict[str, Callable[[Write], None]] = {
    name: value
    for name, value in list(globals().items())
    if not name.startswith("_")
    and name[0].islower()
    and callable(value)
    and getattr(value, "__module__", "") == __name__
}


class Handler(socketserver.BaseRequestHandler):
    behaviour: Callable[[Write], None]

    def handle(self) -> None:
        data = b""
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    data += (piece := self.request.recv(65536))
                    if not piece:
                        return
                head, _, rest = data.partition(b"\r\n\r\n")
                length = _LENGTH.search(head + b"\r\n")
                size = int(length[1]) if length else 0
                left = size - len(rest)
                data = rest[left:] if left < 0 else b""
                sent = rest[:size]
                while left > 0:
                    piece = self.request.recv(min(left, _MB))
                    if not piece:
                        return
                    left -= len(piece)
                    if len(sent) < _KEPT_BYTES:
                        sent += piece
                self._answer(head.split(b" ", 2)[1], sent)
        except OSError:
            return

    def _answer(self, path: bytes, sent: bytes) -> None:
        """``sent``: the beginning of the body."""
        if path.endswith((b"/Chat", b"/completion/stream")):
            self.__class__.behaviour(self.request.sendall)
            return
        # It has read a file at once: it names none that it is still reading.
        new_id = f"{time.monotonic_ns()}"
        answers: dict[bytes, object] = {b"/api/chat": {"id": f"chat{new_id}"}, _UPLOAD: {"file": {"id": new_id}}}
        if path == _PROGRESS:
            ids = orjson.loads(sent).get("file_ids", [])
            answers[_PROGRESS] = {"progresses": [{"fileId": one, "status": "PROCESS_STATUS_SUCCESS"} for one in ids]}
        body = orjson.dumps(answers.get(path, {}))
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.request.sendall(head.encode() + body)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 4096

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # passed on as they came


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.victim.hostile", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--behaviour", choices=sorted(BEHAVIOURS), required=True)
    options = parser.parse_args()
    # The victim's stream and its reader come first.
    os.nice(10)
    Handler.behaviour = staticmethod(BEHAVIOURS[options.behaviour])
    with Server(("127.0.0.1", options.port), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()

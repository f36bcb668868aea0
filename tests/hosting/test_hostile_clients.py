"""Clients that send too much, too slowly, or nothing at all: they take no worker, no memory and no place from others.

The larger attacks are those of ``bench.victim``.
"""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.running import CANARY, Gateway, Running, Share, Simulator, wait_until
from tests.running.certificates import own_certificate

MB = 1 << 20
CHAT = "/v1/chat/completions"
SECRET = "sk-hostile-clients-0123456789"


# With limits that tests can wait for, and few connections.
IMPATIENT = "-k tests.hosting.impatient_worker.Worker --worker-connections 40"


@pytest.fixture(scope="module")
def impatient(running: Running, shared_simulator: Simulator) -> Iterator[Gateway]:
    """It waits for no client for longer than 1.5 s, and has 40 connections."""
    with running.gateway(shared_simulator.url, GUNICORN_CMD_ARGS=IMPATIENT, GATEWAY_API_KEYS=SECRET) as gateway:
        gateway.wait_for_workers()
        yield gateway


def connect(gateway: Gateway, receive_buffer: int | None = None) -> socket.socket:
    address = urlsplit(gateway.url)
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(60)
    sock.connect((address.hostname, address.port))
    return sock


def head(method: str, path: str, *more: str, key: str = SECRET) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def read_answer(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one answer with a Content-Length."""
    file = sock.makefile("rb")
    status = int(file.readline().split()[1])
    headers = {}
    while line := file.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, file.read(int(headers["content-length"]))


def send_until_closed(sock: socket.socket, piece: bytes) -> int:
    """How much the server has taken, in bytes."""
    sent = 0
    with contextlib.suppress(OSError):
        while True:
            sent += sock.send(piece)
    return sent


def answers(gateway: Gateway) -> bool:
    """Whether others are answered while something goes on that has no end of its own."""
    return requests.get(f"{gateway.url}/healthz", timeout=60).ok


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", CHAT, 401),
        ("POST", "/nowhere", 404),
        ("PUT", CHAT, 405),
        ("GET", "/healthz", 200),
        ("OPTIONS", CHAT, 0),
    ],
)
@pytest.mark.parametrize(
    ("framing", "piece"),
    [
        (f"Content-Length: {1 << 60}", b"a" * MB),
        ("Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (MB, b"a" * MB)),
        ("Transfer-Encoding: chunked", b"1\r\na\r\n" * 10_000),
    ],
    ids=["length", "chunks", "tiny chunks"],
)
def test_a_body_that_nobody_reads_ends_with_its_answer(
    impatient: Gateway, method: str, path: str, status: int, framing: str, piece: bytes
) -> None:
    (worker,) = impatient.process.children()
    with connect(impatient) as sock:
        sock.sendall(head(method, path, framing, key="sk-wrong"))
        # It sends before it reads, as clients do that do not expect a refusal.
        sender = threading.Thread(target=send_until_closed, args=(sock, piece))
        sender.start()
        found, headers, _ = read_answer(sock)
        assert answers(impatient)
        sender.join(60)
        assert not sender.is_alive(), "the body is still read"
    assert found == status or (not status and found < 400), found
    assert headers["connection"] == "close"
    assert impatient.process.children() == [worker]


def test_a_short_body_that_nobody_reads_does_not_end_the_connection(impatient: Gateway) -> None:
    with connect(impatient) as sock:
        for _ in range(3):
            sock.sendall(head("POST", CHAT, "Content-Length: 60000", key="sk-wrong") + b"a" * 60_000)
            assert read_answer(sock)[0] == 401


def test_requests_that_come_together_do_not_hold_the_worker(impatient: Gateway) -> None:
    with connect(impatient) as sock:
        sender = threading.Thread(
            target=send_until_closed, args=(sock, b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
        )
        sender.start()
        for _ in range(5):
            assert b" 404 " in sock.recv(MB)
            assert answers(impatient)
        sock.shutdown(socket.SHUT_RDWR)
        sender.join(60)


@pytest.mark.parametrize(
    "beginning",
    [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ", head("POST", CHAT, "Content-Length: 10000000") + b"{"],
    ids=["nothing", "half a head", "half a body"],
)
def test_connections_that_wait_lock_nobody_out(impatient: Gateway, beginning: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            sock = stack.enter_context(connect(impatient))
            sock.sendall(beginning)
        assert answers(impatient)


def test_a_client_that_reads_nothing_locks_nobody_out(impatient: Gateway) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            # Full after few answers, which are not made for nobody to read.
            sock = stack.enter_context(connect(impatient, receive_buffer=4096))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.send(head("GET", "/openapi.json") * 500)
        assert answers(impatient)


@pytest.mark.parametrize("later", [b"a", b""], ids=["byte by byte", "silence"])
def test_a_head_has_to_come_in_time(impatient: Gateway, later: bytes) -> None:
    with connect(impatient) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        assert trickle(sock, later) < 55


@pytest.mark.parametrize("later", [b"a", b""], ids=["byte by byte", "silence"])
@pytest.mark.parametrize("framing", ["Content-Length: 5000", "Transfer-Encoding: chunked"])
def test_a_body_has_to_come_in_time(impatient: Gateway, framing: str, later: bytes) -> None:
    with connect(impatient) as sock:
        sock.sendall(head("POST", CHAT, framing) + b"100\r\n")
        trickle(sock, later)
        status, headers, body = read_answer(sock)
        assert status == 408, body
        assert json.loads(body)["error"]["code"] == "body_too_slow"
        assert headers["connection"] == "close"


def trickle(sock: socket.socket, piece: bytes) -> float:
    """Sends byte by byte until something comes or the connection ends; how long it took."""
    began = time.monotonic()
    sock.settimeout(0.1)
    while time.monotonic() - began < 60:
        with contextlib.suppress(TimeoutError):
            sock.recv(1, socket.MSG_PEEK)
            break
        try:
            sock.send(piece)
        except OSError:
            break
    sock.settimeout(60)
    return time.monotonic() - began


def test_a_head_has_a_size(impatient: Gateway) -> None:
    with connect(impatient) as sock:
        sock.sendall(head("GET", "/healthz", *(f"X-{number}: {'a' * 8000}" for number in range(2))))
        assert read_answer(sock)[0] == 200
        sock.sendall(head("GET", "/healthz", *(f"X-{number}: {'a' * 8000}" for number in range(20))))
        assert 400 <= read_answer(sock)[0] < 500


def test_trailers_without_an_end_end_the_connection(impatient: Gateway) -> None:
    with connect(impatient) as sock:
        sock.sendall(head("POST", CHAT, "Transfer-Encoding: chunked") + b"0\r\n")
        assert send_until_closed(sock, b"a: b\r\n" * 10_000) < 100 * MB
    assert answers(impatient)


def test_silent_clients_of_tls_lock_nobody_out_and_are_ended(
    running: Running, shared_simulator: Simulator, tmp_path: Path
) -> None:
    certificate = own_certificate(tmp_path)
    arguments = f"{IMPATIENT} --certfile {certificate} --keyfile {certificate}"
    with running.gateway(shared_simulator.url, GUNICORN_CMD_ARGS=arguments) as gateway:
        gateway.wait_for_workers()
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connect(gateway)) for _ in range(60)]
            context = ssl.create_default_context(cafile=str(certificate))
            with context.wrap_socket(connect(gateway), server_hostname="127.0.0.1") as client:
                client.sendall(head("GET", "/healthz"))
                assert read_answer(client)[0] == 200
            for sock in socks:
                sock.settimeout(60)
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b""


def test_an_answer_is_whole_where_its_request_is_still_being_sent(impatient: Gateway) -> None:
    """A body of more than MAX_BODY_BYTES, from a client that reads only after it has sent it."""
    with connect(impatient) as sock:
        sock.sendall(head("POST", CHAT, f"Content-Length: {20 * MB}"))
        sock.sendall(b"a" * (20 * MB))
        status, _, body = read_answer(sock)
        assert status == 413 and json.loads(body)["error"]["message"]


def test_bodies_wait_for_room_and_one_key_leaves_some_to_the_others(running: Running, simulator: Simulator) -> None:
    settings: dict[str, Any] = {
        "GATEWAY_API_KEYS": "key-one-0123,key-two-0123",
        "REQUEST_MEMORY_BYTES": str(8 * MB),
        "QUEUE_WAIT_S": "1",
    }
    with running.gateway(simulator.url, **settings) as gateway, contextlib.ExitStack() as stack:
        for _ in range(2):
            sock = stack.enter_context(connect(gateway))
            sock.sendall(head("POST", CHAT, f"Content-Length: {MB}", key="key-one-0123") + b"{")
        long = {"model": gateway.model, "messages": [{"role": "user", "content": CANARY + "a" * 900_000}]}
        wait_until(
            "the key has used its share",
            lambda: (
                gateway.post(CHAT, json=long, headers={"Authorization": "Bearer key-one-0123"}).status_code == 503
            ),
        )
        refused = gateway.post(CHAT, json=long, headers={"Authorization": "Bearer key-one-0123"})
        assert refused.json()["error"]["code"] == "gateway_overloaded" and refused.headers["Retry-After"]
        # What is short never waits.
        short = {"model": gateway.model, "messages": [{"role": "user", "content": CANARY}]}
        assert gateway.post(CHAT, json=short, headers={"Authorization": "Bearer key-one-0123"}).ok
        assert gateway.post(CHAT, json=long, headers={"Authorization": "Bearer key-two-0123"}).ok


@pytest.mark.parametrize("kind", ["answered", "repeated", "refused", "cut"])
def test_the_memory_of_a_request_is_given_back(shared_gateway: Share, simulator: Simulator, kind: str) -> None:
    """More of them than there is room for, one after another."""
    gateway = shared_gateway(REQUEST_MEMORY_BYTES=str(8 * MB), QUEUE_WAIT_S="0.3")
    body = {"model": "k2", "messages": [{"role": "user", "content": CANARY + "a" * MB}]}
    for number in range(6):
        if kind == "cut":
            with connect(gateway) as sock:
                sock.sendall(head("POST", CHAT, f"Content-Length: {2 * MB}") + b"a" * MB)
            continue
        headers = {"Idempotency-Key": f"{number // 2}"} if kind == "repeated" else {}
        more = {"model": "nobody"} if kind == "refused" else {}
        response = gateway.post(CHAT, json={**body, **more}, headers=headers)
        assert response.status_code == (404 if kind == "refused" else 200), response.text
    wait_until("there is room again", lambda: gateway.post(CHAT, json=body).ok)

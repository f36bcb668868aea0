"""How a stream is read from its socket: nothing is held back, whatever the pieces, with and without gevent and TLS.

The server sends the next piece when the last one was acknowledged: a reader that holds one back would wait for ever.
"""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.running.certificates import own_certificate

# One token; the read-ahead and its neighbours; a TLS record and its neighbours; several records.
_SIZES = (1, 10, 2047, 2048, 2049, 4096, 16_383, 16_384, 16_385, 50_000, 3)

# Its arguments: "gevent" or "threads", the certificate, the port without TLS, the port with TLS.
_READER = """
import sys
if sys.argv[1] == "gevent":
    from gevent import monkey
    monkey.patch_all()
import socket, ssl
from app.upstreams.kimi.socket_reader import ReadSide

def read(port, certificate):
    sock = socket.create_connection(("127.0.0.1", int(port)), timeout=60)
    if certificate:
        sock = ssl.create_default_context(cafile=certificate).wrap_socket(sock, server_hostname="127.0.0.1")
    sock.settimeout(None)
    with ReadSide(sock).makefile("rb") as file:
        while line := file.readline():
            piece = file.read(int(line))
            assert len(piece) == int(line) and set(piece) == {ord("x")}
            sock.sendall(b".")
        # What is read after its end has ended, too.
        assert file.read() == b""

read(sys.argv[3], None)
print("plain ended")
read(sys.argv[4], sys.argv[2])
print("tls ended")
"""


@contextmanager
def _server(certificate: Path | None) -> Iterator[int]:
    """Sends pieces of all sizes in lockstep, each with its length before it and as two writes; twice, the second time
    with two pieces at once."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(60)

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(60)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            connection = context.wrap_socket(connection, server_side=True)
        with connection, suppress(OSError):
            for at_once in (1, 2):
                for size in _SIZES:
                    for _ in range(at_once):
                        connection.sendall(b"%d\n" % size)
                        connection.sendall(b"x" * size)
                    for _ in range(at_once):
                        assert connection.recv(1) == b"."
            if isinstance(connection, ssl.SSLSocket):
                # TLS's end, and not the connection's: that comes when the reader has ended.
                connection.unwrap()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        thread.join(90)


@pytest.mark.parametrize("concurrency", ["gevent", "threads"])
def test_each_piece_is_there_as_soon_as_it_has_come(tmp_path: Path, concurrency: str) -> None:
    certificate = own_certificate(tmp_path)
    with _server(None) as plain, _server(certificate) as tls:
        read = subprocess.run(
            [sys.executable, "-c", _READER, concurrency, str(certificate), str(plain), str(tls)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (read.returncode, read.stdout) == (0, "plain ended\ntls ended\n"), read.stderr

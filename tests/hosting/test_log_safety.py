"""What gets into the log: of a client's words at most so much, and nothing that it should keep to itself."""

import json
import logging
import math
import re
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from app import logs
from tests.running import CANARY, ROOT, Gateway, Running, Simulator, wait_until

_KEY = "sk-an-api-key-that-nobody-else-has"


def send(gateway: Gateway, head: str, body: bytes = b"") -> bytes:
    """The bytes of the first response to a request that is sent as it is."""
    address = urlsplit(gateway.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        received = b""
        while len(received) < _length(received):
            piece = connection.recv(65536)
            assert piece, received
            received += piece
    return received


def _length(received: bytes) -> float:
    """Of the whole response, as far as it is known."""
    head, separator, _ = received.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return len(head) + 4 + int(found[1]) if separator and found else math.inf


def post(head: str = "") -> str:
    return f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{head}\r\n"


UNREADABLE = {
    "a header without its colon": (post(f"Authorization Bearer {_KEY}\r\n"), b""),
    "a header with a bad name": (post(f"Autho rization: Bearer {_KEY}\r\n"), b""),
    "a bad request line": (f"POST {_KEY}\r\n\r\n", b""),
    "a bad method": (f"{_KEY}(: / HTTP/1.1\r\n\r\n", b""),
    "a chunk with a bad size": (post("Transfer-Encoding: chunked\r\n"), f"{CANARY} {_KEY}".encode() * 99 + b"\r\n"),
    "a chunk without its end": (post("Transfer-Encoding: chunked\r\n"), f"2\r\n{{}}{CANARY} {_KEY}\r\n".encode()),
}


@pytest.mark.parametrize("server", ["forked", "gthread"])
def test_a_request_that_cannot_be_read_is_a_400_and_is_not_quoted_in_the_log(
    running: Running, simulator: Simulator, server: str
) -> None:
    with running.gateway(simulator.url, server=server) as gateway:
        for name, (head, body) in UNREADABLE.items():
            received = send(gateway, head, body)
            assert received.startswith(b"HTTP/1.1 400 "), (name, received)
            if server == "forked" or "chunk" in name:
                # gunicorn's other workers answer with a page, to this client only.
                error = json.loads(received.partition(b"\r\n\r\n")[2])["error"]
                assert error["type"] == "invalid_request_error" and CANARY not in error["message"]
        assert gateway.get("/healthz").ok
    log = gateway.log()
    assert "Traceback" not in log and CANARY not in log and _KEY not in log
    assert "InvalidHeader" in log


def test_what_a_client_calls_a_model_is_echoed_and_logged_up_to_a_length(
    quick: Gateway, simulator: Simulator
) -> None:
    long = "m" * 1_000_000
    before = len(quick.log())
    for path, body in (
        ("/v1/chat/completions", {"model": long, "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/completions", {"model": long, "prompt": "x"}),
        ("/v1/responses", {"model": long, "input": "x"}),
        ("/v1/messages", {"model": long, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/chat/completions", {"model": "k2", "messages": [{"role": "user", "content": {long: 1}}]}),
    ):
        response = quick.post(path, json=body)
        assert response.status_code in (400, 404) and len(response.content) < 5_000
    assert len(quick.get(f"/v1/models/{long[:3000]}").content) < 5_000
    wait_until("it is logged", lambda: quick.log().count("request_refused") >= 6)
    assert len(quick.log()) - before < 30_000


def formatted(message: str, *secrets: str, error: BaseException | None = None) -> str:
    record = logging.LogRecord("app", logging.ERROR, __file__, 1, message, (), None)
    if error is not None:
        record.exc_info = (type(error), error, error.__traceback__)
    return logs.Redacting(secrets).format(record)


def test_a_secret_at_the_place_where_a_message_is_cut_does_not_stay_in_part() -> None:
    for before in range(logs.MAX_MESSAGE - 40, logs.MAX_MESSAGE + 5, 3):
        line = formatted("x" * before + _KEY + "y" * 10_000, _KEY)
        assert "sk-an" not in line and len(line) < logs.MAX_MESSAGE + 200


def test_a_traceback_keeps_its_frames_and_shortens_what_an_exception_quotes() -> None:
    try:
        try:
            raise ValueError(f"{_KEY} {CANARY * 1000}")
        except ValueError as e:
            raise RuntimeError("what was tried") from e
    except RuntimeError as e:
        text = formatted("event key=1", _KEY, error=e)
    assert text.count("Traceback (most recent call last)") == 2
    assert "in test_a_traceback_keeps_its_frames" in text
    assert text.endswith("\nRuntimeError: what was tried")
    assert _KEY not in text and len(text) < 3_000


def test_a_traceback_of_any_depth_has_a_length() -> None:
    def deeper(left: int) -> None:
        if left == 0:
            raise KeyError(_KEY)
        deeper(left - 1) if left % 2 else deeper(left - 1)

    try:
        deeper(400)
    except KeyError as e:
        text = formatted("event", _KEY, error=e)
    assert len(text) < logs.MAX_TRACEBACK + 500 and text.endswith("KeyError: '[secret]'")


_IN_A_THREAD = """
import threading
thread = threading.Thread(target=fail); thread.start(); thread.join()
"""
_IN_A_GREENLET = """
import gevent
from app.hosting.worker import _log_exception
gevent.get_hub().print_exception = _log_exception
gevent.spawn(fail).join()
"""


@pytest.mark.parametrize("code", [_IN_A_THREAD, _IN_A_GREENLET, "fail()"], ids=["thread", "greenlet", "program"])
def test_an_exception_that_no_one_has_caught_is_logged_without_secrets(code: str) -> None:
    prepare = f"from app import logs\nlogs.configure('INFO', ['{_KEY}'])\ndef fail(): raise ValueError('{_KEY}')\n"
    done = subprocess.run(
        [sys.executable, "-c", prepare + code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert "exception_not_caught" in done.stderr and "ValueError: [secret]" in done.stderr
    assert _KEY not in done.stderr

"""Heads of ordinary responses, compared with what http.client reads; and that all others are left to it."""

import io
import socket
from http.client import HTTPResponse
from typing import Any, cast

import pytest
from urllib3._collections import HTTPHeaderDict

from app.upstreams.kimi.http_heads import ordinary_head

ORDINARY = {
    "json": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 57\r\n\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n",
    "until the end of the connection": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
    "no field": b"HTTP/1.1 200 OK\r\n\r\n",
    "no reason": b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
    "ends the connection": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: Close\r\n\r\n",
    "keeps the connection": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: Chunked\r\n\r\n",
    "another encoding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 3\r\n\r\n",
    "a field twice": b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 1\r\n\r\n",
    "a length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "blanks": b"HTTP/1.1 200 OK\r\nA: \t  b c \t\r\nB:\r\nC:d\r\nD: : e: f\r\nContent-Length: 1\r\n\r\n",
    "bytes that are no ASCII": b"HTTP/1.1 200 \xc3\xa4\r\nA: \xe4\xb8\xad\x00\x0b\x85\r\nContent-Length: 1\r\n\r\n",
}

LEFT_TO_HTTP_CLIENT = {
    "incomplete": b"HTTP/1.1 200 OK\r\nContent-Length: 57\r\n",
    "nothing": b"",
    "an interim response": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "another status": b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n",
    "an old version": b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
    "a folded line": b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 1\r\n\r\n",
    "a line without CR": b"HTTP/1.1 200 OK\nA: b\r\n\r\n",
    "a field line without CR": b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 1\r\n\r\n",
    "CR in a value": b"HTTP/1.1 200 OK\r\nA: b\rB: c\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nA b\r\n\r\n",
    "a blank in a name": b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
    "a length that no number has": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n",
    "a length of digits that are no ASCII": b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
}


class _Socket:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(cast(Any, io.BytesIO(self._data)))


@pytest.mark.parametrize("data", ORDINARY.values(), ids=ORDINARY)
def test_an_ordinary_head_is_what_http_client_reads(data: bytes) -> None:
    body = b"body: of it\r\n\r\n"
    expected = HTTPResponse(cast(socket.socket, _Socket(data + body)), method="POST")
    expected.begin()
    head = ordinary_head(data + body)
    assert head is not None
    assert head.size == len(data)
    assert head.fields.items() == expected.headers.items()
    assert list(HTTPHeaderDict(head.fields.items()).items()) == list(HTTPHeaderDict(expected.headers.items()).items())
    assert head.fields.get("content-length") == expected.headers.get("content-length")
    assert (head.reason, head.is_chunked, head.length, head.will_close) == (
        expected.reason,
        expected.chunked,
        expected.length,
        expected.will_close,
    )


@pytest.mark.parametrize("data", LEFT_TO_HTTP_CLIENT.values(), ids=LEFT_TO_HTTP_CLIENT)
def test_any_other_head_is_left_to_http_client(data: bytes) -> None:
    assert ordinary_head(data) is None

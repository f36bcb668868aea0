"""A form with a file is read as it comes: whatever a body is made of, little of it is held."""

import tracemalloc

import pytest
from flask import Flask

from app.errors import InvalidRequest
from app.web.multipart import FileForm

_SIZE = 8 << 20
_HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'


class Body:
    """What a server reads a body from: ``head``, then ``filling`` again and again, then ``tail``."""

    def __init__(self, head: bytes, filling: bytes, tail: bytes = b"") -> None:
        self._parts = [*filter(None, [head]), *[filling * (65_536 // len(filling))] * (_SIZE // 65_536), tail]
        self.size = sum(map(len, self._parts))

    def read(self, size: int = -1) -> bytes:
        part = self._parts.pop(0) if self._parts else b""
        if 0 <= size < len(part):
            self._parts.insert(0, part[size:])
        return part[:size] if size >= 0 else part


def received(body: Body) -> int:
    """The bytes of the file in a form. Fails if much memory is held meanwhile."""
    environ = {
        "wsgi.input": body,
        "CONTENT_LENGTH": str(body.size),
        "CONTENT_TYPE": "multipart/form-data; boundary=b",
    }
    with Flask(__name__).test_request_context("/", method="POST", environ_overrides=environ):
        tracemalloc.start()
        try:
            return sum(map(len, FileForm("file", 2 * _SIZE).file))
        finally:
            held = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert held < 3 << 20


@pytest.mark.parametrize(
    "head",
    [b"", b"--b\r\nContent-Disposition: form-data; name=", _HEAD + b"x\r\n--b--\r\n"],
    ids=["no boundary", "the head of a part", "behind the last boundary"],
)
def test_what_is_no_file_is_not_held(head: bytes) -> None:
    with pytest.raises(InvalidRequest, match="the form cannot be read"):
        received(Body(head, b"x"))


@pytest.mark.parametrize("filling", [b"x", b"\r\n--", b"\r\n--bx", b"\n"], ids=repr)
def test_a_file_may_hold_what_looks_like_a_boundary(filling: bytes) -> None:
    body = Body(_HEAD, filling, b"\r\n--b--\r\n")
    assert received(body) == body.size - len(_HEAD) - len(b"\r\n--b--\r\n")

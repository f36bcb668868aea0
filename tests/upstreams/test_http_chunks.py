"""The body of a response in HTTP chunks, decoded from a file that gives what a test says, read by read."""

import io
from collections.abc import Sequence
from http.client import IncompleteRead

import pytest

from app.upstreams.kimi.http_chunks import ChunkError, pieces
from app.upstreams.kimi.socket_reader import TooLarge


class _Reads(io.RawIOBase):
    """Each read brings the next part, or what fits of it; at last the end of the connection."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = [part for part in parts if part]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._parts:
            return 0
        part = self._parts.pop(0)
        came, left = part[: len(buffer)], part[len(buffer) :]
        if left:
            self._parts.insert(0, left)
        buffer[: len(came)] = came
        return len(came)


def read(*parts: bytes) -> list[bytes]:
    return list(pieces(io.BufferedReader(_Reads(parts), 2048)))


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


BODY = chunk(b"one") + chunk(b"two, longer\r\n", b";a=b") + chunk(b"3") + b"0\r\n\r\n"
TEXT = b"onetwo, longer\r\n3"


def test_a_body_is_the_same_wherever_it_is_cut() -> None:
    for first in range(len(BODY)):
        for second in range(first, len(BODY)):
            assert b"".join(read(BODY[:first], BODY[first:second], BODY[second:])) == TEXT, (first, second)
    assert b"".join(read(*(bytes([byte]) for byte in BODY))) == TEXT


def test_what_one_read_brings_is_passed_on_at_once() -> None:
    begun = chunk(b"four")[:-4]
    assert read(chunk(b"a") + chunk(b"b"), chunk(b"c") + begun, b"ur\r\n0\r\n\r\n") == [b"ab", b"cfo", b"ur"]


def test_a_long_chunk_comes_as_it_is_read() -> None:
    text = b"x" * 100_000
    found = read(chunk(text), b"0\r\n\r\n")
    assert b"".join(found) == text
    assert len(found) > 3


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"0\r\nA: b\r\nC: d\r\n\r\n", b"000\r\n\r\n", b"0;x\n\n", b"0\r\n"])
def test_trailers_and_a_connection_that_closes_in_them_end_a_body(end: bytes) -> None:
    assert b"".join(read(chunk(b"text") + end)) == b"text"


@pytest.mark.parametrize("size", [b"", b"x", b"-1", b"+1", b"0x1", b"1_0", b" 1", b"1" * 17])
def test_what_is_no_size_is_an_error(size: bytes) -> None:
    with pytest.raises(ChunkError):
        read(chunk(b"text") + size + b"\r\na\r\n0\r\n\r\n")


def test_a_chunk_that_is_longer_than_its_size_is_an_error() -> None:
    for body in (b"1\r\nab\r\n0\r\n\r\n", b"1\r\na\nb0\r\n\r\n"):
        with pytest.raises(ChunkError):
            read(body)


def test_what_comes_after_the_end_is_an_error() -> None:
    with pytest.raises(ChunkError):
        read(chunk(b"text") + b"0\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("length", range(len(BODY) - 4))
def test_a_body_without_its_end_is_incomplete(length: int) -> None:
    with pytest.raises(IncompleteRead):
        read(BODY[:length])


def test_lines_and_trailers_without_an_end_are_too_large() -> None:
    for start, more in ((b"1;", b"b"), (b"0\r\na: ", b"b"), (b"0\r\n", b"a: b\r\n")):
        with pytest.raises(TooLarge):
            read(chunk(b"text") + start, *[more * 60_000] * 20)


def test_many_small_chunks_take_no_time_that_grows_with_their_square() -> None:
    found = read(chunk(b"x") * 300_000 + b"0\r\n\r\n")
    assert sum(map(len, found)) == 300_000

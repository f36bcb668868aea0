"""The benchmark's own promise: a server that gives one wrong character, or no end, is found out."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from bench.answers import envelopes_of, text_of, unchunked
from bench.dialects import GENERATIONS, Generation, OpenAI, recorded_answer
from bench.load import Load
from bench.processes import Failed
from bench.servers import Running, Server, simulator

TOKENS = 4


def _chunk(text: str) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"delta": {"content": text}}]}) + b"\n\n"


def _body(*events: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


@contextmanager
def _server(body: bytes) -> Iterator[Running]:
    """Answers every request with this body."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
                connection.recv(65536)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Running(Server("a test", lambda _: OpenAI("any")), listener.getsockname()[1], None)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def _measured(body: bytes, folder: Path) -> list[float]:
    # One answer, which on a busy machine may begin late.
    with simulator(folder) as upstream, _server(body) as server:
        return list(Load(server, upstream, GENERATIONS[0]).one_by_one(1, 60, TOKENS).first_ms)


def _stamped(text: str) -> list[bytes]:
    return [_chunk(f"123456789;{text[at : at + 4]}") for at in range(0, len(text), 4)]


def test_the_right_answer_counts(tmp_path: Path) -> None:
    assert len(_measured(_body(*_stamped(text_of(TOKENS)), b"data: [DONE]\n\n"), tmp_path)) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda text: text[:-1] + "X", id="another character"),
        pytest.param(lambda text: text[:-1], id="a character too few"),
        pytest.param(lambda text: text + " ", id="a character too many"),
    ],
)
def test_one_wrong_character_and_the_run_counts_for_nothing(spoil: Callable[[str], str], tmp_path: Path) -> None:
    with pytest.raises(Failed, match="a wrong answer"):
        _measured(_body(*_stamped(spoil(text_of(TOKENS))), b"data: [DONE]\n\n"), tmp_path)


def test_an_answer_without_its_end_counts_for_nothing(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="without its end"):
        _measured(_body(*_stamped(text_of(TOKENS))), tmp_path)


def test_an_error_in_the_stream_counts_for_nothing(tmp_path: Path) -> None:
    error = b'data: {"error": {"message": "no"}}\n\n'
    with pytest.raises(Failed, match="an error in the stream"):
        _measured(_body(*_stamped(text_of(TOKENS)), error, b"data: [DONE]\n\n"), tmp_path)


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda g: g.name)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_answers_are_read_however_their_bytes_were_cut(generation: Generation, size: int) -> None:
    text = text_of(5)
    body = recorded_answer(generation, [text[at : at + 4] for at in range(0, len(text), 4)])
    pieces = [(at, body[at : at + size]) for at in range(0, len(body), size)]
    dialect = generation.speak("a token")
    payloads = [payload for _, payload in dialect.payloads(unchunked(pieces))]
    assert "".join(dialect.text(payload) or "" for payload in payloads) == text
    assert dialect.is_last(payloads[-1])


def test_an_envelope_that_was_cut_is_not_read() -> None:
    assert list(envelopes_of([(1, b"\0\0\0\0\x02{"), (2, b"}\0\0\0")])) == [(2, b"{}")]

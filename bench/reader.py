"""Reads streams in each way that ``requests`` offers. ``reading.py`` starts this as a process.

    python -m gevent.monkey --module bench.reader PORT TOKEN

Threads are greenlets, as in the gateway. Reads one job per line of standard input, writes one result per line.
"""

import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from bench.answers import Piece, events_of, text_of, tokens_of
from bench.dialects import KimiSse, turn_body, turn_request
from bench.servers import HOST

Ready = Callable[[], None]
Way = Callable[["_Upstream", str, Ready], Iterator[bytes]]


class _Upstream:
    """A client of the simulator."""

    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self.token = token
        self.url = f"http://{HOST}:{port}/api/chat"
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Bearer {token}"
        self.session.mount("http://", HTTPAdapter(pool_maxsize=1000))
        self.chat_id = ""

    def new_chat(self) -> None:
        self.chat_id = self.session.post(self.url, json={"name": "bench"}, timeout=10).json()["id"]


def _bare_socket(upstream: _Upstream, prompt: str, ready: Ready) -> Iterator[bytes]:
    """The lower limit: raw bytes of the socket. The SSE parser ignores the framing of HTTP chunks."""
    with socket.create_connection((HOST, upstream.port), timeout=30) as sock:
        sock.sendall(turn_request(upstream.chat_id, upstream.token, prompt, "Connection: close\r\n"))
        data = sock.recv(65536)
        ready()
        while data:
            yield data
            data = sock.recv(65536)


def _with_requests(read: Callable[[requests.Response], Iterator[bytes]]) -> Way:
    def way(upstream: _Upstream, prompt: str, ready: Ready) -> Iterator[bytes]:
        url = f"{upstream.url}/{upstream.chat_id}/completion/stream"
        with upstream.session.post(url, data=turn_body(prompt), stream=True, timeout=30) as response:
            response.raise_for_status()
            ready()
            yield from read(response)

    return way


def _lines(chunk_size: int | None) -> Way:
    def read(response: requests.Response) -> Iterator[bytes]:
        for line in response.iter_lines(chunk_size=chunk_size):
            yield line + b"\n"

    return _with_requests(read)


def _read1(response: requests.Response) -> Iterator[bytes]:
    while data := response.raw.read1(65536):
        yield data


WAYS: dict[str, Way] = {
    "bare socket": _bare_socket,
    "iter_lines()": _lines(512),
    "iter_lines(None)": _lines(None),
    "iter_lines(1)": _lines(1),
    "iter_content(None)": _with_requests(lambda response: response.iter_content(None)),
    "raw.read1(65536)": _with_requests(_read1),
}


class _Job:
    """Reads several streams at the same time in one way. All are open before the first token arrives."""

    def __init__(self, upstream: _Upstream, way: Way, streams: int, lead_s: float) -> None:
        self._upstream = upstream
        self._way = way
        self._min_delay_s = lead_s
        self._to_open = streams
        self._opened_cpu_s = 0.0
        self._opened_ns = 0
        self.streams: list[list[Piece]] = [[] for _ in range(streams)]

    def run(self) -> float:
        """Returns the CPU time in seconds after all streams were open."""
        self._upstream.new_chat()
        dice = random.Random(1)
        threads = [
            # The prompt tells the simulator how long to wait, so that the streams do not send at the same moments.
            threading.Thread(target=self._read, args=(pieces, self._min_delay_s + dice.random() * 0.2), daemon=True)
            for pieces in self.streams
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return time.process_time() - self._opened_cpu_s

    def _read(self, pieces: list[Piece], first_delay_s: float) -> None:
        prompt = f"[[sim first_delay_s={first_delay_s:.4f}]] hello"
        for data in self._way(self._upstream, prompt, self._on_opened):
            pieces.append((time.monotonic_ns(), data))

    def _on_opened(self) -> None:
        self._to_open -= 1
        if self._to_open == 0:
            self._opened_cpu_s = time.process_time()
            self._opened_ns = time.monotonic_ns()

    def check_lead(self, first_stamp_ns: int) -> None:
        if not 0 < self._opened_ns < first_stamp_ns:
            raise RuntimeError("the first token arrived before all streams were open")


def _do(upstream: _Upstream, job: dict[str, Any]) -> dict[str, Any]:
    run = _Job(upstream, WAYS[job["way"]], job["streams"], job["lead_s"])
    cpu_s = run.run()
    dialect, expected = KimiSse(upstream.token), text_of(job["tokens"])
    tokens = [token for s in run.streams for token in tokens_of(events_of(s), dialect.text, expected)]
    run.check_lead(min(token.stamp_ns for token in tokens))
    return {"late_ms": [token.late_ms for token in tokens], "cpu_us": cpu_s * 1e6 / len(tokens)}


def main(arguments: Sequence[str]) -> None:
    upstream = _Upstream(int(arguments[0]), arguments[1])
    for line in sys.stdin:
        print(json.dumps(_do(upstream, json.loads(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

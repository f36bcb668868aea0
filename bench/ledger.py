"""``python -m bench.ledger``: what the request log and its sums cost, per token and per answer, in CPU time.

Per token: the part of ``ChatStream`` that looks at each event, beside the same loop without the ledger's lines. Per
answer: the whole application in this process, called as a server calls it, with the ledger and without it in
alternating blocks; a block ends with the write that the ledger's thread makes once a second. Asserts nothing.
"""

import argparse
import gc
import itertools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flask import Flask

from app.answers.stream import ChatStream
from app.chat import Event, Finished, Heartbeat, Notice, ReasoningDelta, Started, TextDelta, ToolCall, Unrecognised
from app.factory import create_app
from app.ledger.ledger import Ledger
from app.request_record import RequestRecord
from app.settings.config import Config
from app.simulator import tokens
from bench.servers import simulator

_TOKENS = 200_000
_WARM_UP = 200


class _NoLedger:
    """In the place of the ledger: nothing is noted, and nothing is written."""

    def begin(self, *_: str) -> RequestRecord:
        return RequestRecord()


class _Stream(ChatStream):
    """What ``_filter`` needs of a stream."""

    def __init__(self) -> None:
        self._record = RequestRecord()
        self._first_answer_s: float | None = None
        self._began = self._last_part_at = 0.0
        self._calls = 0

    def filter(self, batch: list[Event], now: float) -> list[Event]:
        return self._filter(batch, now)

    def filter_without(self, batch: list[Event], now: float) -> list[Event]:
        """``_filter`` without what it notes for the ledger."""
        kept: list[Event] = []
        for event in batch:
            kind = event.__class__
            if kind is not TextDelta and kind is not ReasoningDelta:
                match event:
                    case Heartbeat() | Started() | Unrecognised():
                        continue
                    case Notice(notice):
                        self._add_notice(notice)
                        continue
                    case ToolCall():
                        self._calls += 1
                    case Finished(reason):
                        self._reason = reason
            kept.append(event)
        if not kept:
            return [Heartbeat()]
        if self._first_answer_s is None:
            self._first_answer_s = now - self._began
        return kept


def per_token(text: str, rounds: int) -> tuple[float, float]:
    """Microseconds per token with and without the ledger; tokens that come alone."""
    batch: list[Event] = [TextDelta(text)]
    stream = _Stream()
    kinds = (stream.filter, stream.filter_without)
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(2 * rounds):
        call = kinds[number % 2]
        began = time.process_time()
        for now in range(_TOKENS):
            call(batch, now)
        found[number % 2].append((time.process_time() - began) / _TOKENS * 1e6)
    return min(found[0]), min(found[1])


def per_answer(app: Flask, model: str, seconds: float, block: int) -> tuple[list[float], list[float]]:
    """Milliseconds of CPU time per answer, a figure per block, with and without the ledger: two blocks are a pair."""
    ledger: Ledger = app.extensions["ledger"]
    ask = _asker(app, model)
    kinds = {True: ledger, False: _NoLedger()}
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(_WARM_UP):
        ask()
    # As a worker of gunicorn does.
    gc.collect()
    gc.freeze()
    ends_at = time.monotonic() + seconds
    # On, off, off, on: what changes slowly concerns both.
    for is_on in itertools.cycle((True, False, False, True)):
        app.extensions["ledger"] = kinds[is_on]
        began = time.process_time()
        for _ in range(block):
            ask()
        if is_on:
            ledger.write()
        found[is_on].append((time.process_time() - began) / block * 1000)
        if time.monotonic() > ends_at and len(found[True]) == len(found[False]):
            return found[True], found[False]
    raise AssertionError("never")


def _asker(app: Flask, model: str) -> Callable[[], None]:
    client = app.test_client()
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": True})
    headers = {"Content-Type": "application/json", "User-Agent": "OpenAI/Python 3.54.0"}

    def ask() -> None:
        response = client.post("/v1/chat/completions", data=body, headers=headers, buffered=True)
        assert response.status_code == 200 and b"[DONE]" in response.data, response.data
        response.close()

    return ask


def _settings(folder: Path, upstream: str) -> Iterator[tuple[str, str]]:
    yield "DATABASE_URL", f"sqlite:///{folder}/ledger.db"
    yield "KIMI_TOKENS", f"bench={tokens.mint('bench', 'access', 86_400)}"
    yield from (("KIMI_BASE_URL", upstream), ("KIMI_AUTH_URL", upstream), ("KIMI_PROTOCOL", "sse"))
    yield from (("ACCOUNT_MAX_STREAMS", "0"), ("CONSOLE", "0"), ("LOG_LEVEL", "ERROR"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the comparison of whole answers")
    parser.add_argument("--block", type=int, default=100, help="answers of one block")
    parser.add_argument("--rounds", type=int, default=9, help="of the comparison of tokens")
    arguments = parser.parse_args()
    for name, text in (("a token of ASCII", " word"), ("a Chinese token", "你好")):
        on, off = per_token(text, arguments.rounds)
        print(f"{name}: {on:.3f} us with the ledger, {off:.3f} without: {on - off:+.3f}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with simulator(folder) as upstream:
            upstream.set_knobs(say="one two three four five six seven eight", delay_s=0, record=False)
            app = create_app(Config.from_env({**os.environ, **dict(_settings(folder, upstream.url))}))
            on_ms, off_ms = per_answer(app, "k2", arguments.seconds, arguments.block)
    with_ms, without_ms = statistics.median(on_ms), statistics.median(off_ms)
    pairs = [a - b for a, b in zip(on_ms, off_ms, strict=True)]
    error = statistics.stdev(pairs) / math.sqrt(len(pairs))
    mean = statistics.mean(pairs)
    print(
        f"a short answer, {len(pairs)} pairs of {arguments.block}: {with_ms:.3f} ms with the ledger, "
        f"{without_ms:.3f} without; difference {mean * 1000:.0f} +- {error * 1000:.0f} us "
        f"(median {statistics.median(pairs) * 1000:.0f}): {mean / statistics.mean(off_ms):.1%}"
    )
    os._exit(0)


if __name__ == "__main__":
    main()

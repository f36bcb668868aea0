"""``python -m bench.soak``: hundreds of streams with clients that connect and disconnect, for half an hour.

At the end it checks that every complete answer was right, that no stream is open at Kimi, and that no file descriptor
and no row of a table is left over. It prints the growth of memory, and checks it if the run was long enough.
"""

import argparse
import asyncio
import contextlib
import io
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from bench.answers import text_of, tokens_of
from bench.client import Connection, Reply
from bench.dialects import GENERATIONS, PROMPT, OpenAI, request
from bench.processes import LOAD_CORE, Failed, Process, allow_many_files, tail
from bench.servers import GATEWAY, HOST, Running, Server, Simulator, running, servers, simulator

_STREAMS = 300
_TOKENS = 120
_PER_S = 20

# The first part of the run, which does not count for the growth: memory grows until all code was used once.
_WARM = 0.25
# Shorter runs do not check the growth of memory.
_LONG_MIN = 10.0
_MOST_GROWTH = 0.05

# This difference between two idle moments is not a leak: connections to the database are pooled.
_FEW_FILES = 40


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    memory_kb: float
    files: int
    open_streams: int


# The request log: it keeps a row for each request for REQUEST_LOG_DAYS, and sums.
_LOG = frozenset({"requests", "attempts", "usage_days", "usage_hours", "tallies"})


@dataclass(frozen=True, slots=True)
class _Idle:
    """The state without requests. ``files``: open file descriptors, without keep-alive connections to Kimi."""

    files: int
    rows: dict[str, int]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--streams", type=int, default=_STREAMS)
    options = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    allow_many_files()
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        try:
            with simulator(folder) as upstream, running(_gateway(), upstream, folder) as one:
                _Soak(one, upstream, folder).run(options.minutes * 60, options.streams)
        except Failed as failure:
            print(f"soak: {failure}\n--- end of the gateway's log:\n{tail(folder / 'gateway.log')}", file=sys.stderr)
            return 1
    print("no leak was found")
    return 0


def _gateway() -> Server:
    """The gateway with its default settings, also the number of workers."""
    gateway = next(server for server in servers() if server.name == GATEWAY)
    env = {name: value for name, value in gateway.env.items() if name != "WEB_CONCURRENCY"}
    # So that all chats are gone soon after the clients.
    return replace(gateway, env={**env, "CONTINUE_IDLE_S": "20"})


class _Soak:
    def __init__(self, one: Running, upstream: Simulator, folder: Path) -> None:
        assert one.process
        self._process: Process = one.process
        self._port = one.port
        self._upstream = upstream
        self._database = folder / GATEWAY / "gateway.db"
        self._answer = text_of(_TOKENS)
        self._dialects = [OpenAI(generation.model) for generation in GENERATIONS]
        self._visits: Counter[str] = Counter()

    def run(self, seconds: float, streams: int) -> None:
        self._upstream.set_knobs(say=self._answer, stamp=True, record=False, delay_s=1 / _PER_S)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            # A first wave, so that pools and modules are there before anything is counted.
            runner.run(self._clients(streams, 2 * _TOKENS / _PER_S, []))
            before = self._wait_until_idle()
            samples: list[_Sample] = []
            runner.run(self._clients(streams, seconds, samples))
        after = self._wait_until_idle()
        print(", ".join(f"{count} {kind}" for kind, count in sorted(self._visits.items())))
        print(f"idle before: {before}\nidle after:  {after}")
        self._check_leaks(before, after, samples, seconds)

    def _check_leaks(self, before: _Idle, after: _Idle, samples: Sequence[_Sample], seconds: float) -> None:
        warm = [sample for sample in samples if sample.at_s >= seconds * _WARM]
        slope = statistics.linear_regression([s.at_s / 60 for s in warm], [s.memory_kb for s in warm]).slope
        size = statistics.median(s.memory_kb for s in warm)
        grown = slope * (seconds * (1 - _WARM)) / 60 / size
        print(f"memory {size / 1024:.1f} MB, slope {slope:+.0f} KB/min, {grown:+.1%} over the run")
        if after.files > before.files + _FEW_FILES:
            raise Failed(f"file descriptors have leaked: {before.files} before, {after.files} after")
        grew = {table: (before.rows.get(table, 0), rows) for table, rows in after.rows.items()}
        if grew := {table: pair for table, pair in grew.items() if pair[1] > pair[0] and table not in _LOG}:
            raise Failed(f"tables have grown (rows before, after): {grew}")
        if seconds >= _LONG_MIN * 60 and grown > _MOST_GROWTH:
            raise Failed(f"memory grows: {grown:+.1%} over the run")

    def _wait_until_idle(self) -> _Idle:
        """Waits until all streams are closed and all chats deleted. Raises Failed: if that takes over a minute."""
        deadline = time.monotonic() + 60
        while True:
            state = self._upstream.state()
            undeleted = state["total_chats"] - state["deleted_chats"]
            if not state["open_streams"] and not undeleted:
                break
            if time.monotonic() > deadline:
                raise Failed(f"{state['open_streams']} streams are open at Kimi, {undeleted} chats are not deleted")
            time.sleep(0.2)
        # Workers notice a closed keep-alive connection only at their next check.
        files = self._process.open_files() - state["open_connections"]
        while time.monotonic() < deadline:
            time.sleep(1)
            now = self._process.open_files() - self._upstream.state()["open_connections"]
            if now == files:
                break
            files = now
        return _Idle(files, self._rows())

    def _rows(self) -> dict[str, int]:
        with contextlib.closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as db:
            names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {n: db.execute(f'SELECT count(*) FROM "{n}"').fetchone()[0] for n in names}  # noqa: S608  # its own names

    async def _clients(self, streams: int, seconds: float, samples: list[_Sample]) -> None:
        until = time.monotonic() + seconds
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(streams):
                    group.create_task(self._client(random.Random(number), until))
                group.create_task(self._watch(until, seconds, samples))
        except* Failed as failures:
            raise failures.exceptions[0] from None
        except* OSError as failures:
            raise Failed(f"a connection failed: {failures.exceptions[0]}") from None

    async def _watch(self, until: float, seconds: float, samples: list[_Sample]) -> None:
        began = time.monotonic()
        while (now := time.monotonic()) < until:
            state = await asyncio.to_thread(self._upstream.state)
            sample = _Sample(
                now - began, self._process.memory_kb(), self._process.open_files(), state["open_streams"]
            )
            samples.append(sample)
            print(
                f"{sample.at_s:7.0f} s  {sample.memory_kb / 1024:7.1f} MB  {sample.files:5} files  "
                f"{sample.open_streams:4} streams open"
            )
            await asyncio.sleep(max(2.0, seconds / 60))

    async def _client(self, dice: random.Random, until: float) -> None:
        await asyncio.sleep(dice.random() * _TOKENS / _PER_S)
        while time.monotonic() < until:
            kind, visit = dice.choices(
                (
                    ("whole answers", self._read_answer),
                    ("left in the middle", self._leave),
                    ("conversations of two turns", self._conversation),
                ),
                weights=(5, 4, 1),
            )[0]
            connection = await Connection.open(HOST, self._port)
            try:
                await visit(connection, dice)
            finally:
                connection.close()
            self._visits[kind] += 1

    async def _read_answer(self, connection: Connection, dice: random.Random) -> None:
        dialect = dice.choice(self._dialects)
        self._check(dialect, await dialect.turn(connection))

    async def _leave(self, connection: Connection, dice: random.Random) -> None:
        """Disconnects some time after the start of the answer.

        Before that, the gateway may not know yet that Kimi has created a chat.
        """
        begun = asyncio.Event()
        dialect = dice.choice(self._dialects)
        answer = asyncio.ensure_future(dialect.turn(connection, lambda _: begun.set()))
        answer.add_done_callback(lambda _: begun.set())
        await begun.wait()
        await asyncio.wait([answer], timeout=dice.random() * 0.9 * _TOKENS / _PER_S)
        if answer.done():
            # This client was late, on a busy machine.
            self._check(dialect, await answer)
            return
        connection.close()
        with contextlib.suppress(Failed):
            await answer

    async def _conversation(self, connection: Connection, dice: random.Random) -> None:
        dialect = dice.choice(self._dialects)
        conversation = f"soak-{time.monotonic_ns()}"
        messages: list[dict[str, str]] = []
        for turn in range(2):
            messages.append({"role": "user", "content": f"{turn}: {PROMPT}"})
            self._check(dialect, await connection.ask(dialect.request(messages, conversation)))
            messages.append({"role": "assistant", "content": self._answer})
        await connection.ask(request("DELETE", f"/v1/chat/completions/{conversation}", "sk-soak"))

    def _check(self, dialect: OpenAI, reply: Reply) -> None:
        payloads = list(dialect.payloads(reply.pieces()))
        if not payloads or not dialect.is_last(payloads[-1][1]):
            raise Failed(f"an answer without its end: {payloads[-1:]}")
        tokens_of(payloads, dialect.text, self._answer)


if __name__ == "__main__":
    sys.exit(main())

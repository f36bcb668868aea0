"""``python -m bench.crowd``: what a request costs in a full gateway, beside an empty one.

The full one has 500 accounts, 1,000,000 conversations and 10,000 API keys in its database, and 2,000 open streams;
the empty one has one account and one key. Both run at once on one core, and do the same work in turn: short answers
for eight clients, and the mix of stateless answers and conversations. The cost is CPU time per answer; what the open
streams cost meanwhile is measured before, and taken off. On SQLite and on PostgreSQL, whose own CPU time is
not part of the figures. Exits with 1 if an answer costs more than 1.2 times as much as in the empty gateway.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa
import uvloop

from app.simulator import tokens
from app.store import Store
from app.store.tables import api_keys, conversations
from app.web.api_keys import digest_of, owner_of
from bench.answers import text_of
from bench.client import Connection
from bench.databases import postgresql
from bench.dialects import GENERATIONS, PROMPT, OpenAI
from bench.load import Load
from bench.processes import LOAD_CORE, ROOT, Failed, allow_many_files, tail
from bench.servers import GATEWAY, HOST, Running, Server, Simulator, running, servers, simulator

# The goal of issue 14: this many times the cost in an empty gateway.
_GOAL = 1.2

_GENERATION = GENERATIONS[1]
_TOKENS = 8
_CLIENTS = 8
# The key that all clients of the bench send.
_KEY = "sk-bench"
# An open stream gets a token so often. Seconds.
_TOKEN_EVERY_S = 20.0
# How long what follows the answers is waited for. Seconds.
_SETTLE_S = 15.0
# How many streams are opened at once: one more when another has got its first token, however slow that is.
_OPENED_AT_ONCE = 10
# The longest time without a new stream. Seconds.
_OPENS_WITHIN_S = 60.0


@dataclasses.dataclass(frozen=True)
class Sizes:
    accounts: int = 500
    conversations: int = 1_000_000
    keys: int = 10_000
    streams: int = 2000


_EMPTY = Sizes(1, 0, 1, 0)


def fill(url: str, sizes: Sizes) -> None:
    """Adds API keys, and conversations that belong to all of them evenly."""
    with contextlib.closing(Store(url)):
        engine = sa.create_engine(url)
    digests = [digest_of(_KEY), *(digest_of(uuid.uuid4().hex) for _ in range(1, sizes.keys))]
    owners = [owner_of(digest) for digest in digests]
    now = time.time()
    keys = (
        {"digest": digest, "name": f"key-{n}", "created_at": now, "version": n} for n, digest in enumerate(digests, 1)
    )
    talk = {
        "model": _GENERATION.model,
        "turns": 1,
        "created_at": now,
        "updated_at": now,
        "holder": "",
        "held_until": 0,
    }
    talks = ({**talk, "owner": owners[n % len(owners)], "id": f"talk-{n}"} for n in range(sizes.conversations))
    with engine.begin() as connection:
        for table, rows in ((api_keys, keys), (conversations, talks)):
            while batch := [row for _, row in zip(range(5000), rows, strict=False)]:
                connection.execute(sa.insert(table), batch)
    engine.dispose()


def _server(url: str, sizes: Sizes, folder: Path) -> Server:
    """The gateway on this database, from a copy with a ``.env`` of its own: so many tokens are too long for the
    environment."""
    home = folder / f"home-{sizes.accounts}"
    home.mkdir()
    for name in ("gunicorn.conf.py", "wsgi.py"):
        shutil.copy(ROOT / name, home)
    shutil.copytree(ROOT / "app", home / "app", ignore=shutil.ignore_patterns("__pycache__"))
    minted = [tokens.mint(f"bench-{n}", "access", 86_400) for n in range(sizes.accounts)]
    (home / ".env").write_text(f"KIMI_TOKENS='{','.join(minted)}'\n")
    gateway = next(server for server in servers() if server.name == GATEWAY)
    env = {name: value for name, value in gateway.env.items() if name != "KIMI_TOKENS"}
    most = -(-2 * sizes.streams // sizes.accounts)
    name = f"{GATEWAY} {sizes.accounts}"
    return dataclasses.replace(
        gateway, name=name, home=home, env={**env, "DATABASE_URL": url, "ACCOUNT_MAX_STREAMS": str(most)}
    )


class _Streams:
    """Open streams, read by a thread of their own until the end of the context."""

    def __init__(self, server: Running, simulator: Simulator, number: int) -> None:
        self._server = server
        self._number = number
        self._open = 0
        self._ended: list[Exception] = []
        self._is_over = False
        self._dialect = OpenAI(_GENERATION.model)
        simulator.set_knobs(say=text_of(1000), stamp=True, record=False, delay_s=_TOKEN_EVERY_S)

    def __enter__(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()
        found, deadline = 0, time.monotonic() + _OPENS_WITHIN_S
        while self._open < self._number:
            self.check()
            if self._open > found:
                found, deadline = self._open, time.monotonic() + _OPENS_WITHIN_S
            if time.monotonic() > deadline:
                raise Failed(
                    f"{found} of {self._number} streams were open, and no other one in {_OPENS_WITHIN_S:.0f} s"
                )
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.check()
        # The server, which stops now, ends them.
        self._is_over = True

    def check(self) -> None:
        if self._ended:
            raise Failed(f"an open stream ended: {self._ended[0]}")

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._hold())

    async def _hold(self) -> None:
        opening = asyncio.Semaphore(_OPENED_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._number):
                await opening.acquire()
                group.create_task(self._stream(opening))

    async def _stream(self, opening: asyncio.Semaphore) -> None:
        seen = False

        def on_bytes(data: bytes) -> None:
            nonlocal seen
            if not seen and b'"content":"' in data:
                seen = True
                self._open += 1
                opening.release()

        try:
            connection = await Connection.open(HOST, self._server.port)
            reply = await connection.ask(self._dialect.request([{"role": "user", "content": PROMPT}]), on_bytes)
            raise Failed(f"its answer was complete: {reply.body()[-300:]!r}")
        except (Failed, OSError) as e:
            if not self._is_over:
                self._ended.append(e)


class _Gateway:
    """A running gateway under measurement."""

    def __init__(self, server: Running, simulator: Simulator) -> None:
        self.load = Load(server, simulator, _GENERATION)
        self._simulator = simulator

    def warm_up(self) -> None:
        self._answer_short()
        self.load.mix(_CLIENTS, 1.0, _TOKENS)

    def short(self, seconds: float) -> float:
        """Milliseconds of CPU time per answer, with all that follows it and without what open streams cost."""
        return self._measure(seconds, lambda: len(self.load.closed_loop(_CLIENTS, seconds, _TOKENS).first_ms))

    def mix(self, seconds: float) -> float:
        return self._measure(seconds, lambda: self.load.mix(_CLIENTS, seconds, _TOKENS)[0])

    def _rate(self, seconds: float) -> float:
        """CPU seconds per second, without requests."""
        begin = self.load.moment()
        time.sleep(seconds)
        end = self.load.moment()
        return (end.server_s - begin.server_s) / (end.at_ns - begin.at_ns) * 1e9

    def _answer_short(self) -> None:
        # Not set_knobs, which would end the open streams.
        self._simulator.change_knobs(say=text_of(_TOKENS), stamp=True, record=False, delay_s=0)

    def _measure(self, seconds: float, work: Callable[[], int]) -> float:
        self._answer_short()
        before = self._rate(seconds / 2)
        begin = self.load.moment()
        answers = work()
        # Until the chats are deleted.
        deadline = time.monotonic() + _SETTLE_S
        while self._rate(0.5) > 1.5 * before + 0.02 and time.monotonic() < deadline:
            pass
        end = self.load.moment()
        streams_s = (before + self._rate(seconds / 2)) / 2 * (end.at_ns - begin.at_ns) / 1e9
        return (end.server_s - begin.server_s - streams_s) * 1e3 / answers


def measure(
    url: Mapping[str, str], sizes: Sizes, rounds: int, seconds: float, folder: Path
) -> dict[str, list[float]]:
    """Milliseconds per answer: in the empty gateway and in the full one, of each round. ``url``: their databases."""
    figures: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(simulator(folder))
        gateways = {}
        for name, size in (("full", sizes), ("empty", _EMPTY)):
            fill(url[name], size)
            server = stack.enter_context(running(_server(url[name], size, folder), upstream, folder))
            gateways[name] = _Gateway(server, upstream)
            if size.streams:
                stack.enter_context(_Streams(server, upstream, size.streams))
        for gateway in gateways.values():
            gateway.warm_up()
        for _ in range(rounds):
            for name, gateway in gateways.items():
                for load in (gateway.short, gateway.mix):
                    figures.setdefault(f"{load.__name__}, {name}", []).append(load(seconds))
    return figures


@contextlib.contextmanager
def _databases(folder: Path) -> Iterator[dict[str, Mapping[str, str]]]:
    found: dict[str, Mapping[str, str]] = {
        "SQLite": {name: f"sqlite:///{folder}/{name}.db" for name in ("full", "empty")}
    }
    with postgresql() as url:
        if url:
            engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                for name in ("full", "empty"):
                    connection.execute(sa.text(f"DROP DATABASE IF EXISTS crowd_{name}"))
                    connection.execute(sa.text(f"CREATE DATABASE crowd_{name}"))
            engine.dispose()
            made = sa.make_url(url)
            found["PostgreSQL"] = {
                name: made.set(database=f"crowd_{name}").render_as_string(hide_password=False)
                for name in ("full", "empty")
            }
        yield found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Sizes):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load (default: 4)")
    parser.add_argument("--only", choices=("SQLite", "PostgreSQL"), help="only this database")
    parser.add_argument("--json", type=Path, help="write the figures of every round to this file")
    options = parser.parse_args()
    sizes = Sizes(*(getattr(options, field.name) for field in dataclasses.fields(Sizes)))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    allow_many_files()
    os.sched_setaffinity(0, {LOAD_CORE})
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="crowd-") as name, _databases(Path(name)) as databases:
        print(f"load average before: {os.getloadavg()[0]:.2f}; {sizes}")
        print("| database | load | empty, ms | full, ms | full / empty |\n|---|---|---:|---:|---:|")
        for database, urls in databases.items():
            if options.only in (None, database):
                folder = Path(name) / database
                folder.mkdir()
                try:
                    found[database] = measure(urls, sizes, options.rounds, options.seconds, folder)
                except Failed as failure:
                    logs = "\n".join(tail(log) for log in folder.glob("*.log"))
                    print(f"crowd: {failure}\n{logs}", file=sys.stderr)
                    return 1
                for load, empty, full, ratio in _rows(found[database]):
                    print(f"| {database} | {load} | {empty:.2f} | {full:.2f} | {ratio:.2f} |")
    if options.json:
        options.json.write_text(json.dumps({"sizes": dataclasses.asdict(sizes), "ms_per_answer": found}, indent=1))
    return int(any(ratio > _GOAL for figures in found.values() for *_, ratio in _rows(figures)))


def _rows(figures: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, float, float, float]]:
    """Load, medians, and the median of the ratios of the rounds."""
    for load in ("short", "mix"):
        empty, full = figures[f"{load}, empty"], figures[f"{load}, full"]
        ratio = statistics.median(b / a for a, b in zip(empty, full, strict=True))
        yield load, statistics.median(empty), statistics.median(full), ratio


if __name__ == "__main__":
    sys.exit(main())

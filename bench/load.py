"""The load: answers one after another, or many at once, on the load core; what is checked and counted of them.

Must never know which server it talks to, but for its port and its dialect.
"""

import asyncio
import gc
import random
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bench.answers import Token, payloads_of, text_of, tokens_of
from bench.client import Connection, Reply
from bench.dialects import Dialect
from bench.processes import Failed, settle
from bench.servers import HOST, Running, Simulator

T = TypeVar("T")

# No run may take longer, whatever happens. Seconds.
_HARD_LIMIT_S = 120

# The first token of an answer as any dialect writes it: its text begins with the stamp.
_FIRST_TOKEN = re.compile(rb'"(?:text|content)":"\d')


class TooSlow(Exception):
    """All answers were right, but the load could not be put on the server."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Processor time of everybody, at one time; two of them make a measurement."""

    at_ns: int
    server_s: float
    simulator_s: float
    load_s: float
    server_kb: float
    server_waited_s: float


@dataclass(slots=True)
class Streams:
    """Many streams at once, between ``begin`` (the last of them has its first token) and ``end`` (the first
    of them has ended)."""

    begin: Moment
    end: Moment
    tokens: Sequence[Token]


class Load:
    """Runs against one server; everything raises Failed when one answer was not exactly right."""

    def __init__(self, server: Running, simulator: Simulator) -> None:
        self._server = server
        self._simulator = simulator

    @property
    def _dialect(self) -> Dialect:
        return self._server.dialect

    def moment(self) -> Moment:
        process = self._server.process
        return Moment(
            time.monotonic_ns(),
            process.cpu_s() if process else 0.0,
            self._simulator.process.cpu_s(),
            time.process_time(),
            process.memory_kb() if process else 0.0,
            process.waited_s() if process else 0.0,
        )

    def settle(self) -> None:
        """Returns when what the last run left to do has been done."""
        processes = [process for process in (self._server.process, self._simulator.process) if process]
        for process in processes:
            process.check_alive()
        settle(processes)

    def one_by_one(self, answers: int, tokens: int) -> Sequence[float]:
        """One answer at a time over one connection: milliseconds from the request to the first token."""
        replies = _run(self._closed_loop(1, lambda done: done < answers))
        return [(self._check(reply, tokens)[0].came_ns - reply.sent_ns) / 1e6 for reply in replies]

    def closed_loop(self, clients: int, seconds: float, tokens: int) -> tuple[int, Moment]:
        """As many clients, each asking again as soon as it was answered: how many answers, and when it ended."""
        until = time.monotonic() + seconds
        replies = _run(self._closed_loop(clients, lambda _: time.monotonic() < until))
        ended = self.moment()
        for reply in replies:
            self._check(reply, tokens)
        return len(replies), ended

    def flood(self, streams: int, tokens: int) -> float:
        """All streams at once, one answer each: seconds from the first request to the last byte."""
        replies = _run(self._flood(streams))
        for reply in replies:
            self._check(reply, tokens)
        return (max(reply.raw[-1][0] for reply in replies) - min(reply.sent_ns for reply in replies)) / 1e9

    def streams(self, streams: int, tokens: int, spread_s: float) -> Streams:
        """Streams at the simulator's pace, begun at (seeded) random moments within ``spread_s``."""
        return _run(self._streams(streams, tokens, spread_s))

    async def _streams(self, streams: int, tokens: int, spread_s: float) -> Streams:
        dice = random.Random(1)
        connections = await self._connect(streams)
        waiting = set(connections)
        begun: list[Moment] = []
        ended: list[Moment] = []

        def watch(connection: Connection) -> Callable[[bytes], None]:
            def on_bytes(data: bytes) -> None:
                if connection in waiting and _FIRST_TOKEN.search(data):
                    waiting.discard(connection)
                    if not waiting:
                        begun.append(self.moment())

            return on_bytes

        async def stream(connection: Connection) -> Reply:
            await asyncio.sleep(dice.random() * spread_s)
            reply = await self._dialect.turn(connection, watch(connection))
            if not ended:
                ended.append(self.moment())
            return reply

        replies = await _together(stream(connection) for connection in connections)
        for connection in connections:
            await self._dialect.clean_up(connection)
            connection.close()
        (begin,), (end,) = begun, ended
        if begin.at_ns >= end.at_ns:
            raise TooSlow(f"{self._server.name} never had all {streams} streams open at once")
        found = [token for reply in replies for token in self._check(reply, tokens)]
        return Streams(begin, end, [t for t in found if begin.at_ns <= t.stamp_ns < end.at_ns])

    async def _closed_loop(self, clients: int, again: Callable[[int], bool]) -> list[Reply]:
        async def client(connection: Connection) -> list[Reply]:
            replies: list[Reply] = []
            while again(len(replies)):
                replies.append(await self._dialect.turn(connection, None))
                await self._dialect.clean_up(connection)
            return replies

        connections = await self._connect(clients)
        found = await _together(client(connection) for connection in connections)
        for connection in connections:
            connection.close()
        return [reply for replies in found for reply in replies]

    async def _flood(self, streams: int) -> list[Reply]:
        connections = await self._connect(streams)
        replies = await _together(self._dialect.turn(connection, None) for connection in connections)
        for connection in connections:
            connection.close()
        return replies

    async def _connect(self, how_many: int) -> list[Connection]:
        return [await Connection.open(HOST, self._server.port) for _ in range(how_many)]

    def _check(self, reply: Reply, tokens: int) -> Sequence[Token]:
        payloads = list(payloads_of(reply.pieces()))
        if not payloads or not self._dialect.is_last(payloads[-1][1]):
            raise Failed(f"an answer of {self._server.name} without its end: {payloads[-1:]}")
        return tokens_of(payloads, self._dialect.text, text_of(tokens))


def quantile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of the values stay under."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


async def _together(work: Any) -> list[Any]:
    """All of it at once; the first failure ends the rest."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
    return [task.result() for task in tasks]


def _run(run: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(_HARD_LIMIT_S):
            return await run

    # No collection in the middle of a run: what it keeps, it needs.
    gc.collect()
    gc.disable()
    try:
        return asyncio.run(limited())
    except* Failed as failures:
        raise _first(failures) from None
    except* TimeoutError:
        raise Failed(f"a run took longer than {_HARD_LIMIT_S} s") from None
    finally:
        gc.enable()


def _first(failures: BaseExceptionGroup[Any]) -> BaseException:
    found = failures.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found

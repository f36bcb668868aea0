"""The load generator: requests answers one after another, or many at once, and checks and counts them.

Of the server it knows only the port and the dialect.
"""

import asyncio
import gc
import random
import re
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
import uvloop

from bench.answers import Token, text_of, tokens_of
from bench.client import Connection, Reply
from bench.dialects import PROMPT, Generation, OpenAI, request
from bench.processes import Failed, settle
from bench.servers import HOST, Running, Simulator

T = TypeVar("T")

# The first token of an answer in any dialect. Its text begins with the time stamp.
_FIRST_TOKEN = re.compile(rb'"(?:text|content)": ?"\d')

# Turns of one conversation in the stateful mix.
_TURNS = 3


@dataclass(frozen=True, slots=True)
class Moment:
    """The CPU times of all processes at one moment. The difference of two moments is a measurement.

    ``server_waited_s``: how long the server could have run, but another process used its core.
    """

    at_ns: int
    server_s: float
    simulator_s: float
    load_s: float
    server_kb: float
    server_waited_s: float


@dataclass(slots=True)
class Streams:
    """The time in which all streams ran: from the first token of the last to the end of the first.

    ``tokens``: the tokens that were sent in this time.
    """

    begin: Moment
    end: Moment
    tokens: Sequence[Token]


@dataclass(slots=True)
class Answers:
    """The result of a loop of complete answers. ``first_ms``: for each, the time from request to first token."""

    first_ms: Sequence[float]
    begin: Moment
    end: Moment


class Load:
    """Runs loads on one server over one generation.

    All methods that request answers raise Failed: if one answer is wrong, incomplete or takes too long.
    """

    def __init__(self, server: Running, simulator: Simulator, generation: Generation) -> None:
        self._server = server
        self._simulator = simulator
        self.generation = generation
        self._dialect = server.server.speak(generation)

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
        """Waits until all processes are idle, so that nothing of the last run is still being done."""
        processes = [process for process in (self._server.process, self._simulator.process) if process]
        for process in processes:
            process.check_alive()
        settle(processes)

    def one_by_one(self, answers: int, seconds: float, tokens: int) -> Answers:
        """One answer at a time over one connection, until ``answers`` or ``seconds`` is reached."""
        until = time.monotonic() + seconds
        return self._answers(
            self._closed_loop(1, lambda done: done < answers and time.monotonic() < until), tokens, seconds + 10
        )

    def closed_loop(self, clients: int, seconds: float, tokens: int) -> Answers:
        """``clients`` clients. Each sends its next request as soon as its answer is complete."""
        until = time.monotonic() + seconds
        return self._answers(self._closed_loop(clients, lambda _: time.monotonic() < until), tokens, seconds + 20)

    def burst(self, per_s: int, seconds: float, tokens: int) -> Answers:
        """``per_s`` new clients per second at random times (with a seed), even if earlier clients still wait."""
        return self._answers(self._burst(int(per_s * seconds), seconds), tokens, seconds + 15)

    def flood(self, streams: int, tokens: int) -> float:
        """One answer on each of ``streams`` streams. Returns the seconds from the first request to the last byte."""
        replies = _run(self._flood(streams), 60)
        for reply in replies:
            self._check(reply, tokens)
        return (max(reply.raw[-1][0] for reply in replies) - min(reply.sent_ns for reply in replies)) / 1e9

    def streams(self, streams: int, tokens: int, spread_s: float, limit_s: float) -> Streams:
        """Streams at the simulator's speed, started at random times (with a seed) within ``spread_s`` seconds."""
        return _run(self._streams(streams, tokens, spread_s), limit_s)

    def mix(self, clients: int, seconds: float, tokens: int) -> tuple[int, Moment, Moment]:
        """Clients that request a stateless answer and a conversation of three turns, again and again.

        Returns the number of answers, the start and the end.
        """
        assert isinstance(self._dialect, OpenAI)
        until = time.monotonic() + seconds
        begin = self.moment()
        replies = _run(self._mix(self._dialect, clients, until, text_of(tokens)), seconds + 20)
        end = self.moment()
        for reply in replies:
            self._check(reply, tokens)
        return len(replies), begin, end

    def _answers(self, run: Coroutine[Any, Any, list[Reply]], tokens: int, limit_s: float) -> Answers:
        begin = self.moment()
        replies = _run(run, limit_s)
        end = self.moment()
        first_ms = [(self._check(reply, tokens)[0].came_ns - reply.sent_ns) / 1e6 for reply in replies]
        return Answers(first_ms, begin, end)

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
            raise Failed(f"{self._server.name}: not all {streams} streams were open at the same time")
        found = [token for reply in replies for token in self._check(reply, tokens)]
        return Streams(begin, end, [t for t in found if begin.at_ns <= t.stamp_ns < end.at_ns])

    async def _closed_loop(self, clients: int, again: Callable[[int], bool]) -> list[Reply]:
        async def client(connection: Connection) -> list[Reply]:
            replies: list[Reply] = []
            while again(len(replies)):
                replies.append(await self._dialect.turn(connection))
                await self._dialect.clean_up(connection)
            return replies

        connections = await self._connect(clients)
        found = await _together(client(connection) for connection in connections)
        for connection in connections:
            connection.close()
        return [reply for replies in found for reply in replies]

    async def _burst(self, arrivals: int, seconds: float) -> list[Reply]:
        dice = random.Random(1)

        async def client() -> Reply:
            await asyncio.sleep(dice.random() * seconds)
            arrived_ns = time.monotonic_ns()
            connection = await Connection.open(HOST, self._server.port)
            reply = await self._dialect.turn(connection)
            reply.sent_ns = arrived_ns
            await self._dialect.clean_up(connection)
            connection.close()
            return reply

        return await _together(client() for _ in range(arrivals))

    async def _flood(self, streams: int) -> list[Reply]:
        connections = await self._connect(streams)
        replies = await _together(self._dialect.turn(connection) for connection in connections)
        for connection in connections:
            connection.close()
        return replies

    async def _mix(self, dialect: OpenAI, clients: int, until: float, answer: str) -> list[Reply]:
        async def client(number: int, connection: Connection) -> list[Reply]:
            replies: list[Reply] = []
            while time.monotonic() < until:
                replies.append(await dialect.turn(connection))
                conversation = f"bench-{time.monotonic_ns()}-{number}"
                messages: list[dict[str, str]] = []
                for turn in range(_TURNS):
                    messages.append({"role": "user", "content": f"{turn}: {PROMPT}"})
                    replies.append(await connection.ask(dialect.request(messages, conversation)))
                    messages.append({"role": "assistant", "content": answer})
                path = f"/v1/chat/completions/{conversation}"
                known = await connection.ask(request("GET", path, "sk-bench"))
                if orjson.loads(known.body())["id"] != conversation:
                    raise Failed(f"expected the conversation {conversation}, got: {known.body()[:300]!r}")
                await connection.ask(request("DELETE", path, "sk-bench"))
            return replies

        connections = await self._connect(clients)
        found = await _together(client(number, connection) for number, connection in enumerate(connections))
        for connection in connections:
            connection.close()
        return [reply for replies in found for reply in replies]

    async def _connect(self, how_many: int) -> list[Connection]:
        return [await Connection.open(HOST, self._server.port) for _ in range(how_many)]

    def _check(self, reply: Reply, tokens: int) -> Sequence[Token]:
        payloads = list(self._dialect.payloads(reply.pieces()))
        if not payloads or not self._dialect.is_last(payloads[-1][1]):
            raise Failed(f"an answer of {self._server.name} without its end: {payloads[-1:]}")
        return tokens_of(payloads, self._dialect.text, text_of(tokens))


def quantile(values: Sequence[float], percent: float) -> float:
    """The percentile: ``percent`` % of the values are below it."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs all coroutines at the same time and returns their results. The first failure cancels the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
    return [task.result() for task in tasks]


def _run(run: Coroutine[Any, Any, T], limit_s: float) -> T:
    # No garbage collection during a run, because the run needs all the data that it keeps.
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_ended_by_signals(asyncio.wait_for(run, limit_s)))
    except TimeoutError:
        raise Failed(f"not finished after {limit_s:.0f} s") from None
    except OSError as failure:
        raise _broken(failure) from None
    except BaseExceptionGroup as failures:
        # Later failures are often consequences of the first. A wrong answer is reported before a lost connection.
        found = list(_leaves(failures))
        raise next((one for one in found if isinstance(one, Failed)), None) or _broken(found[0]) from None
    finally:
        gc.enable()


async def _ended_by_signals(run: Coroutine[Any, Any, T]) -> T:
    """Cancels the run when SIGTERM or SIGALRM arrives, then lets Python's handler end the process.

    Without this, uvloop would not run Python's own signal handlers.
    """
    ended_by: list[int] = []
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(run)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}

    def end(number: int) -> None:
        ended_by.append(number)
        task.cancel()

    for number, handler in handlers.items():
        if callable(handler):
            loop.add_signal_handler(number, end, number)
    try:
        return await task
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                loop.remove_signal_handler(number)
                signal.signal(number, handler)
        if ended_by:
            signal.raise_signal(ended_by[0])


def _leaves(failures: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for one in failures.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one


def _broken(error: BaseException) -> BaseException:
    return Failed(f"a connection failed: {error}") if isinstance(error, OSError) else error

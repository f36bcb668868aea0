"""Giving one answer over time: pace, gates, stalls, keep-alives, a client that leaves, a call that cancels.

Knows when things are sent. Must never know how: a Voice of either generation turns steps into bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from app.simulator.delivery import Body, Splitter
from app.simulator.generation import Recording
from app.simulator.http1 import BodyEnded
from app.simulator.knobs import Knobs
from app.simulator.simulation import Exchange
from app.simulator.world import Account, Chat, Message

_BREATH_TOKENS = 32  # an answer without delays lets the others run after so many tokens


class Thought(str):
    """A token of thinking."""

    __slots__ = ()


Step = bytes | str
"""Bytes are sent as they are (empty: the content begins here); text is a token, encoded when it is sent."""


class Voice(Protocol):
    """One generation's way of telling an answer."""

    headers: Mapping[str, str]
    ping_s: float
    offset: int
    """The number of the last frame that was made, in a generation that numbers them."""

    def steps(self) -> Iterator[Step]: ...
    def text(self, token: str) -> bytes: ...
    def thought(self, token: str) -> bytes: ...
    def ping(self) -> bytes: ...
    def farewell(self) -> Iterable[bytes]: ...
    def lines(self, data: bytes) -> list[bytes]: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer to be given."""

    account: Account
    chat: Chat
    message: Message
    """The assistant's, which gets the text that was really sent."""
    tokens: tuple[str, ...]
    knobs: Knobs
    fault: str
    recording: Recording | None = None
    """Where the answer goes on when its client has left; None: it ends with its stream."""


# Faults after which Kimi itself does not go on.
_LOST = ("drop", "empty_close")

# Answers that go on without a client, so that the garbage collector leaves them alone.
_going_on: set[asyncio.Task[None]] = set()


async def perform(exchange: Exchange, turn: Turn, voice: Voice) -> None:
    """Gives the answer; returns when it has ended, raises CancelledError when the client left."""
    sim, chat = exchange.sim, turn.chat
    performance = _Performance(exchange, turn, voice)
    slot = sim.slot(chat, turn.knobs)
    if sim.knobs.record:
        asked = chat.messages[turn.message.parent_id]
        sim.records.add_turn(chat.id, turn.account.name, asked.id, asked.text)
    with sim.streaming(turn.account), sim.occupying(slot, turn.knobs.slot_free_delay_s):
        chat.streaming, chat.listening, chat.cancel = True, True, performance.cancel
        exchange.connection.watch()
        try:
            await performance.run()
        finally:
            chat.listening = False
            exchange.connection.unwatch()
            if performance.goes_on:
                _go_on(performance, turn)
            else:
                _end(performance, turn)


def _end(performance: _Performance, turn: Turn) -> None:
    turn.chat.streaming, turn.chat.cancel = False, None
    turn.message.cancelled |= turn.recording is not None and turn.fault == "cancelled"
    is_whole = turn.recording is not None and not turn.message.cancelled and turn.fault not in _LOST
    turn.message.text += "".join(turn.tokens if is_whole else turn.tokens[: performance.sent])
    turn.message.complete = True
    if turn.recording is not None:
        turn.recording.finish(lost=turn.fault in _LOST)


def _go_on(performance: _Performance, turn: Turn) -> None:
    """The answer is generated to its end, for whoever asks for it later."""

    async def generate() -> None:
        try:
            await performance.run_alone()
        finally:
            _end(performance, turn)

    task = asyncio.create_task(generate())
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)


async def tell(
    exchange: Exchange, knobs: Knobs, headers: Mapping[str, str], events: Iterable[bytes], lines: Splitter
) -> None:
    """Sends a stream that changes nothing in the world: a refusal in the shape of an answer."""
    body = Body(exchange.connection, knobs, lines)
    with exchange.sim.streaming(exchange.account):
        exchange.connection.watch()
        try:
            exchange.connection.begin(200, headers, _framing(exchange, knobs))
            for event in events:
                await body.send(event)
            await body.flush()
            await exchange.connection.end(knobs.end)
        except BodyEnded:
            await exchange.connection.end("close" if knobs.end == "clean" else knobs.end)
        finally:
            exchange.connection.unwatch()


def _framing(exchange: Exchange, knobs: Knobs) -> str:
    return "close" if exchange.request.version == "HTTP/1.0" else knobs.framing


class _Performance:
    """The state of one answer while it is given."""

    def __init__(self, exchange: Exchange, turn: Turn, voice: Voice) -> None:
        self.sent = 0
        self._exchange = exchange
        self._turn = turn
        self._knobs = turn.knobs
        self._voice = voice
        self._body = Body(exchange.connection, turn.knobs, voice.lines)
        self._steps = iter(voice.steps())
        # The client has left, or its connection was cut.
        self._is_alone = False
        self._stops = (turn.knobs.gate_after if turn.knobs.gate else None, turn.knobs.stall_after)
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._begun = False
        self._cancelled = False
        self._due = 0.0
        self._next_ping = self._loop.time() + voice.ping_s

    @property
    def goes_on(self) -> bool:
        """Whether the answer is generated further although its stream has ended."""
        recording = self._turn.recording
        is_unfinished = recording is not None and recording.end is None
        return is_unfinished and self._turn.fault not in _LOST and not self._cancelled

    def cancel(self) -> None:
        """Ends the answer early, as the service's own cancel call does."""
        self._cancelled = True
        self._turn.message.cancelled = self._turn.recording is not None
        assert self._task
        self._task.cancel()

    async def run(self) -> None:
        try:
            await self._open()
            await self._play()
            await self._body.flush()
            if self._knobs.linger_s:
                await asyncio.sleep(self._knobs.linger_s)
            await self._exchange.connection.end(self._ending())
        except BodyEnded:
            await self._exchange.connection.end("close" if self._knobs.end == "clean" else self._knobs.end)
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            await self._say_farewell()

    async def run_alone(self) -> None:
        """Generates the rest, which nobody is sent."""
        self._is_alone, self._task = True, asyncio.current_task()
        try:
            await self._play()
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            assert self._task
            self._task.uncancel()
            for data in self._voice.farewell():
                self._record(data)

    async def _send(self, data: bytes) -> None:
        self._record(data)
        if not self._is_alone:
            await self._body.send(data)

    def _record(self, data: bytes) -> None:
        if self._turn.recording is not None and data:
            self._turn.recording.add(self._voice.offset, data)

    async def _open(self) -> None:
        if self._turn.fault == "silent_headers":
            await self._silence()
        if self._knobs.gate and self._knobs.gate_after == -1:
            await self._pass_gate(pings=False)
        self._begin()
        if self._turn.fault == "silent_body":
            await self._silence()

    def _begin(self) -> None:
        self._begun = True
        framing = _framing(self._exchange, self._knobs)
        self._exchange.connection.begin(200, self._voice.headers, framing)

    async def _play(self) -> None:
        voice, stamp = self._voice, self._knobs.stamp
        send = self._body.send if self._turn.recording is None else self._send
        for step in self._steps:
            if isinstance(step, bytes):
                await (send(step) if step else self._begin_content())
                continue
            await self._keep_pace()
            if isinstance(step, Thought):
                await send(voice.thought(step))
                continue
            await send(voice.text(f"{time.monotonic_ns()};{step}" if stamp else step))
            self.sent += 1
            if self.sent in self._stops:
                await self._stop_at(self.sent)

    async def _begin_content(self) -> None:
        delay_s = self._knobs.first_delay_s + self._knobs.read_us * self._characters_read() / 1e6
        if delay_s:
            await self._flush()
            await self._sleep(delay_s)
        await self._stop_at(0)

    def _characters_read(self) -> int:
        turn = self._turn
        asked = turn.chat.messages.get(turn.message.parent_id)
        return len(asked.text) if asked is not None else 0

    async def _stop_at(self, tokens: int) -> None:
        if self._knobs.gate and self._knobs.gate_after == tokens:
            await self._pass_gate(pings=True)
        if self._knobs.stall_after == tokens and not self._is_alone:
            await self._silence()

    async def _flush(self) -> None:
        if not self._is_alone:
            await self._body.flush()

    async def _keep_pace(self) -> None:
        delay = self._knobs.delay_s
        if not delay:
            if self.sent % _BREATH_TOKENS == 0:
                await asyncio.sleep(0)
            return
        now = self._loop.time()
        # The first token goes at once; after a gate the pace starts anew instead of catching up.
        wait = self._due - now
        self._due = (self._due if wait > -delay else now) + delay
        await self._sleep(max(wait, 0.0))

    async def _sleep(self, seconds: float) -> None:
        if not self._voice.ping_s:
            await asyncio.sleep(seconds)
            return
        until = self._loop.time() + seconds
        while self._next_ping < until:
            await asyncio.sleep(self._next_ping - self._loop.time())
            await self._ping()
        await asyncio.sleep(until - self._loop.time())

    async def _pass_gate(self, *, pings: bool) -> None:
        await self._flush()
        gates = self._exchange.sim.gates
        gate = gates.arrive(self._knobs.gate)
        try:
            while not gate.opened.is_set():
                try:
                    async with asyncio.timeout(self._voice.ping_s if pings and self._voice.ping_s else None):
                        await gate.opened.wait()
                except TimeoutError:
                    await self._ping()
        finally:
            gates.leave(gate)

    async def _ping(self) -> None:
        self._next_ping = self._loop.time() + self._voice.ping_s
        if not self._is_alone:
            await self._body.send(self._voice.ping())
            await self._body.flush()

    async def _silence(self) -> None:
        await self._body.flush()
        await asyncio.Event().wait()

    def _ending(self) -> str:
        breaks_off = self._turn.fault == "drop" and self._knobs.end == "clean"
        return "close" if breaks_off else self._knobs.end

    async def _say_farewell(self) -> None:
        assert self._task
        self._task.uncancel()
        if not self._begun:
            self._begin()
        for data in self._voice.farewell():
            await self._send(data)
        await self._body.flush()
        await self._exchange.connection.end("clean")

"""One case on one version of the gateway: the victim's streams, the attack beside them, and what it did to them."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import uvloop

from app.simulator import tokens as simulator_tokens
from bench.answers import Piece, events_of, text_of, tokens_so_far, unchunked
from bench.client import Connection
from bench.dialects import GENERATIONS, PROMPT, OpenAI, request
from bench.ports import reserved_port
from bench.processes import LOAD_CORE, SERVER_CORE, Failed, Process, python, tail
from bench.servers import HOST, Simulator
from bench.victim.cases import Case

_STREAMS = 3
PER_S = 50
# What comes later than this after the end of an attack counts as if it never came. Seconds.
_PATIENCE_S = 3.0
_KEYS = {"victim": "sk-victim-0123456789abcdef", "attacker": "sk-attacker-0123456789abcdef"}


@dataclass(frozen=True, slots=True)
class Version:
    """A clone of the repository, at some commit."""

    name: str
    folder: Path

    @property
    def python(self) -> str:
        own = self.folder / ".venv/bin/python"
        return str(own) if own.exists() else python()[0]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the victim and the worker went through. Times in ms, memory in MB.

    ``held_ms``: the most CPU time that the worker used before something else could run. ``new_ms``: the longest time
    that a new request for ``/healthz`` took. ``added_mb``: the worker's peak, above what it had before.
    ``helper_mb``: of its child processes. ``replaced``: workers that were ended. ``attack_mb``: what the attack has
    sent and received.
    """

    p50: float
    p99: float
    gap: float
    held_ms: float
    attack_mb: float
    new_ms: float
    added_mb: float
    helper_mb: float
    log_kb: float
    replaced: int
    missing: int


def measure(case: Case, version: Version, seconds: float, folder: Path) -> Figures:
    """Raises Failed where the victim's answer was wrong, or where the rig does not work."""
    folder = folder / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        ports = {name: reserved_port() for name in ("simulator", "hostile", "relay", "gateway")}
        upstreams = {
            name: _started(stack, Process(command, LOAD_CORE, folder / f"{name}.log"), ports[name])
            for name, command in _upstreams(case, ports).items()
        }
        # The relay has most to do, and must not hold the others. 0 is this process, which reads the victim's streams.
        _put_first(upstreams["relay"].pid, 1)
        for pid in (upstreams["simulator"].pid, 0):
            _put_first(pid, 2)
        stack.callback(_put_first, 0, 0)
        command = [version.python, "-m", "gunicorn", "-c", str(Path(__file__).with_name("server.conf.py"))]
        settings = _settings(case, ports, folder)
        gateway = Process(command, SERVER_CORE, folder / "gateway.log", settings, version.folder)
        _started(stack, gateway, ports["gateway"])
        upstream = Simulator(upstreams["simulator"], ports["simulator"])
        return _Run(case, gateway, ports["gateway"], upstream, folder, stack).run(seconds)


def _put_first(pid: int, priority: int) -> None:
    """Has a process run before those of its core that have a lower priority; 0 is that of usual ones.

    A token that waits there would count as late. What the process starts has priority 0. Only root can ask for this,
    and only on Linux.
    """
    with contextlib.suppress(PermissionError, AttributeError):
        policy = (os.SCHED_FIFO if priority else os.SCHED_OTHER) | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(pid, policy, os.sched_param(priority))


def _upstreams(case: Case, ports: dict[str, int]) -> dict[str, list[str]]:
    port = {name: str(number) for name, number in ports.items()}
    return {
        "simulator": python("-m", "bench.upstream", "--port", port["simulator"], "--set", "record=0"),
        "hostile": python("-m", "bench.victim.hostile", "--port", port["hostile"], "--behaviour", case.behaviour),
        "relay": python(
            *("-m", "bench.victim.relay", "--port", port["relay"], "--simulator", port["simulator"]),
            *("--hostile", port["hostile"], "--hostile-generation", case.generation),
        ),
    }


def _settings(case: Case, ports: dict[str, int], folder: Path) -> dict[str, str]:
    upstream = f"http://{HOST}:{ports['relay']}"
    return {
        "KIMI_TOKENS": simulator_tokens.mint("bench", "access", 86_400),
        "KIMI_BASE_URL": upstream,
        "KIMI_AUTH_URL": upstream,
        "DATABASE_URL": f"sqlite:///{folder}/gateway.db",
        "GATEWAY_API_KEYS": ",".join(f"{name}={key}" for name, key in _KEYS.items()),
        "PORT": str(ports["gateway"]),
        "WEB_CONCURRENCY": "1",
        "ACCOUNT_MAX_STREAMS": "0",
        "VICTIM_HOLDS": str(folder / "holds"),
        **case.settings,
    }


def _started(stack: contextlib.ExitStack, process: Process, port: int) -> Process:
    """The process, when it listens. It is ended with the stack."""
    stack.callback(_end, process)
    deadline = time.monotonic() + 60
    while True:
        process.check_alive()
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return process
        if time.monotonic() > deadline:
            raise Failed(f"nothing listens on port {port}:\n{tail(process.log)}")
        time.sleep(0.02)


def _end(process: Process) -> None:
    """At once: a worker that is held does not hear a polite signal."""
    pids = [process.pid, *process.children()]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.stop()


class _Run:
    def __init__(
        self, case: Case, gateway: Process, port: int, upstream: Simulator, folder: Path, stack: contextlib.ExitStack
    ) -> None:
        self._case = case
        self._gateway = gateway
        self._port = port
        self._upstream = upstream
        self._folder = folder
        self._stack = stack
        # Of each stream of the victim: what came, and when.
        self._raw: list[list[Piece]] = []

    def run(self, seconds: float) -> Figures:
        tokens = int((seconds + _PATIENCE_S + 4) * PER_S)
        self._upstream.set_knobs(say=text_of(tokens), stamp=True, delay_s=1 / PER_S, record=False)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._measure(seconds, tokens))

    async def _measure(self, seconds: float, tokens: int) -> Figures:
        streams = [asyncio.ensure_future(self._stream()) for _ in range(_STREAMS)]
        try:
            return await self._beside(streams, seconds, tokens)
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)

    async def _beside(self, streams: Sequence["asyncio.Future[None]"], seconds: float, tokens: int) -> Figures:
        await self._until_all_run(streams)
        worker = self._worker()
        before_mb = _resident_mb(worker)
        Path(f"/proc/{worker}/clear_refs").write_text("5")
        attack = self._attack()
        # The body of its requests has to be made first.
        await asyncio.to_thread(_wait_for_line, attack)
        begin_ns = time.monotonic_ns()
        watching = asyncio.ensure_future(self._watch(worker, seconds))
        probing = asyncio.ensure_future(self._probe(begin_ns / 1e9 + seconds))
        await asyncio.sleep(seconds)
        end_ns = time.monotonic_ns()
        helper_mb = await watching
        replaced = worker not in self._gateway.children()
        added_mb = 0.0 if replaced else _peak_mb(worker) - before_mb
        attack_mb = float(attack.log.read_text().rstrip("\n").rpartition("\n")[2])
        # In a thread: the victim's tokens that are on their way are read meanwhile.
        await asyncio.to_thread(attack.stop)
        new_ms = await probing
        await asyncio.sleep(_PATIENCE_S if self._is_behind(streams) else 0.1)
        late_ms, gap_ms, missing = self._judge(begin_ns, end_ns, tokens)
        ranked = sorted(late_ms)
        return Figures(
            p50=ranked[len(ranked) // 2],
            p99=ranked[min(len(ranked) - 1, len(ranked) * 99 // 100)],
            gap=gap_ms,
            held_ms=self._held_ms(begin_ns, end_ns),
            attack_mb=attack_mb,
            new_ms=new_ms,
            added_mb=added_mb,
            helper_mb=helper_mb,
            log_kb=(self._folder / "gateway.log").stat().st_size / 1024,
            replaced=int(replaced),
            missing=missing,
        )

    # The victim

    async def _stream(self) -> None:
        """One stream of the victim; what comes is kept in ``_raw``."""
        raw: list[Piece] = []
        self._raw.append(raw)
        model = next(g.model for g in GENERATIONS if g.name != self._case.generation)
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
        ask = request("POST", "/v1/chat/completions", _KEYS["victim"], orjson.dumps(body))
        connection = await Connection.open(HOST, self._port)
        try:
            await connection.ask(ask, lambda data: raw.append((time.monotonic_ns(), data)))
        finally:
            connection.close()

    async def _until_all_run(self, streams: Sequence["asyncio.Future[None]"]) -> None:
        deadline = time.monotonic() + 60
        while sum(len(raw) > 10 for raw in self._raw) < _STREAMS:
            for stream in streams:
                if stream.done():
                    stream.result()
            if time.monotonic() > deadline:
                raise Failed(f"the victim's streams do not begin:\n{tail(self._gateway.log)}")
            await asyncio.sleep(0.05)

    def _is_behind(self, streams: Sequence["asyncio.Future[None]"]) -> bool:
        now = time.monotonic_ns()
        return any(
            not stream.done() and now - raw[-1][0] > 1e9 / PER_S * 3
            for stream, raw in zip(streams, self._raw, strict=True)
        )

    def _judge(self, begin_ns: int, end_ns: int, tokens: int) -> tuple[list[float], float, int]:
        """How late each token of that time was, the longest time in which a stream stood still (ms), and how many
        tokens never came."""
        dialect = OpenAI("any")
        late_ms: list[float] = []
        gaps_ms: list[float] = []
        missing = 0
        for raw in self._raw:
            came_tokens = tokens_so_far(events_of(unchunked(raw)), dialect.text, text_of(tokens))
            found = [token for token in came_tokens if begin_ns <= token.stamp_ns < end_ns]
            late_ms += [token.late_ms for token in found]
            came = [begin_ns, *(token.came_ns for token in found if token.came_ns >= begin_ns)]
            if len(came) == 1 or came[-1] < end_ns:
                came.append(end_ns)
            gaps_ms += [(after - before) / 1e6 for before, after in zip(came, came[1:], strict=False)]
            # What never came: as late as the end of the attack is after the time at which it was to come.
            expected = int((end_ns - begin_ns) / 1e9 * PER_S * 0.9)
            absent = max(0, expected - len(found))
            missing += absent
            late_ms += [(absent - number) * 1000 / PER_S + _PATIENCE_S * 1000 for number in range(absent)]
        return late_ms, max(gaps_ms), missing

    # The attack, and what it does to the worker

    def _attack(self) -> Process:
        model = next(g.model for g in GENERATIONS if g.name == self._case.generation)
        command = python(
            *("-m", "bench.victim.attacks", self._case.attack, "--port", str(self._port)),
            *("--key", _KEYS["attacker"], "--model", model),
        )
        attack = Process(command, LOAD_CORE, self._folder / "attack.log")
        self._stack.callback(attack.stop)
        return attack

    def _held_ms(self, begin_ns: int, end_ns: int) -> float:
        notes = (line.split() for line in (self._folder / "holds").read_text().splitlines())
        return max((float(ms) for at_ns, ms in notes if begin_ns <= int(at_ns) <= end_ns), default=0.0)

    def _worker(self) -> int:
        workers = self._gateway.children()
        if not workers:
            raise Failed(f"no worker runs:\n{tail(self._gateway.log)}")
        return workers[0]

    async def _watch(self, worker: int, seconds: float) -> float:
        """The most that the worker's children have used together, in MB."""
        until, most = time.monotonic() + seconds - 0.1, 0.0
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                most = max(most, sum(map(_resident_mb, self._gateway.children_of(worker))))
            await asyncio.sleep(0.1)
        return most

    async def _probe(self, until: float) -> float:
        """New connections of a stranger, one after another: the longest time that one had to wait, in ms."""
        longest = 0.0
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                await asyncio.wait_for(_health(self._port), max(0.1, until + 1 - began))
            except (TimeoutError, OSError, Failed):
                longest = max(longest, (until - began) * 1000)
            else:
                longest = max(longest, (time.monotonic() - began) * 1000)
            await asyncio.sleep(0.3)
        return longest


async def _health(port: int) -> None:
    connection = await Connection.open(HOST, port)
    try:
        await connection.ask(request("GET", "/healthz", "none"))
    finally:
        connection.close()


def _wait_for_line(process: Process) -> None:
    deadline = time.monotonic() + 60
    while "\n" not in process.log.read_text():
        process.check_alive()
        if time.monotonic() > deadline:
            raise Failed("the attack does not begin")
        time.sleep(0.01)


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024

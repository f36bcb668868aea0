"""The scenarios: one function per kind of load, which sets the simulator's knobs and returns figures.

The name of a figure is its row in the table. Figures that a load cannot give are left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bench.answers import TOKEN_CHARS, text_of
from bench.dialects import recorded_answer
from bench.load import Load, Moment, quantile
from bench.servers import BEFORE, FASTAPI, GATEWAY, GATEWAY_POSTGRES, GATEWAY_TOOLS, NO_GATEWAY, Simulator

Figures = dict[str, float]

# Rows that other files use.
FIRST_P50 = "first token p50, ms"
ONE_WAY_P50, ONE_WAY_P99, ONE_WAY_P999 = (f"one-way latency {p}, ms" for p in ("p50", "p99", "p99.9"))
CPU_TOKEN = "CPU per token, µs"
CPU_ANSWER = "CPU per answer, ms"
PER_S = "answers/s"
TOKENS_PER_S = "tokens/s"
MEMORY = "memory per stream, KB"

_SHORT_TOKENS = 8

# The servers that support conversations.
_STATEFUL = (GATEWAY, BEFORE, GATEWAY_POSTGRES)
# The cost of functions: requests without any, here and in an earlier version, and requests with 20 of them.
_TOOLS = (GATEWAY, BEFORE, GATEWAY_TOOLS)
# The servers of the scenario with few streams: the FastAPI relay, with a client per call, cannot hold more.
_FEW = (NO_GATEWAY, GATEWAY, BEFORE, FASTAPI)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of all loads: QUICK only shows that the benchmark works, FULL gives reliable figures."""

    rounds: int
    fresh_rounds: int
    ttft_answers: int
    ttft_s: float
    streams: int
    many_streams: int
    ramp_per_s: int
    few_streams: int
    few_ramp_per_s: int
    stream_s: float
    short_s: float
    flood_streams: int
    flood_tokens: int
    slow_streams: int
    slow_ramp_per_s: int
    slow_is_fresh: bool
    burst_per_s: int
    burst_s: float
    mix_clients: int
    mix_s: float
    reading_streams: int
    reading_rounds: int
    reading_s: float


QUICK = Sizes(
    rounds=1,
    fresh_rounds=1,
    ttft_answers=20,
    ttft_s=0.5,
    streams=20,
    many_streams=24,
    ramp_per_s=80,
    few_streams=5,
    few_ramp_per_s=10,
    stream_s=0.3,
    short_s=0.4,
    flood_streams=5,
    flood_tokens=500,
    slow_streams=50,
    slow_ramp_per_s=60,
    slow_is_fresh=False,
    burst_per_s=25,
    burst_s=0.5,
    mix_clients=4,
    mix_s=0.5,
    reading_streams=24,
    reading_rounds=1,
    reading_s=0.6,
)
FULL = Sizes(
    rounds=5,
    fresh_rounds=3,
    ttft_answers=300,
    ttft_s=3.0,
    streams=200,
    many_streams=500,
    ramp_per_s=120,
    few_streams=40,
    few_ramp_per_s=8,
    stream_s=3.0,
    short_s=3.0,
    flood_streams=40,
    flood_tokens=2000,
    slow_streams=2000,
    slow_ramp_per_s=200,
    slow_is_fresh=True,
    burst_per_s=300,
    burst_s=3.0,
    mix_clients=8,
    mix_s=4.0,
    reading_streams=100,
    reading_rounds=2,
    reading_s=2.0,
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load. ``fresh``: a new server is started, because earlier loads would change the figures.

    ``only``: the servers that take part. Empty: all except the gateway on PostgreSQL.
    """

    key: str
    title: str
    run: Callable[[Load, Simulator], Figures]
    fresh: bool = False
    only: Sequence[str] = ()


def scenarios(sizes: Sizes) -> list[Scenario]:
    return [
        Scenario("first-token", "first token, Kimi answers after 5 ms", partial(_first_token, sizes)),
        Scenario("short", "short answers, 8 clients in a closed loop", partial(_short, sizes)),
        Scenario("few", _paced(sizes.few_streams, 20), partial(_few, sizes), only=_FEW),
        Scenario("streams", _paced(sizes.streams, 20), partial(_streams, sizes, sizes.streams, 20)),
        Scenario("many-20", _paced(sizes.many_streams, 20), partial(_streams, sizes, sizes.many_streams, 20)),
        Scenario("many-30", _paced(sizes.many_streams, 30), partial(_streams, sizes, sizes.many_streams, 30)),
        Scenario("flood", "all at once, as fast as possible", partial(_flood, sizes)),
        Scenario("burst", f"new requests, {sizes.burst_per_s}/s", partial(_burst, sizes)),
        Scenario("slow", f"{sizes.slow_streams:,} slow streams", partial(_slow, sizes), fresh=sizes.slow_is_fresh),
        Scenario("mix", "stateful mix: conversations and stateless", partial(_mix, sizes), only=_STATEFUL),
        Scenario("tools-short", "short answers, with 20 functions", partial(_short, sizes), only=_TOOLS),
        Scenario("tools-flood", "as fast as possible, with 20 functions", partial(_flood, sizes), only=_TOOLS),
    ]


def warm_up(load: Load, simulator: Simulator) -> None:
    """Lets the server load all modules and use all code paths once."""
    _say(simulator, _SHORT_TOKENS)
    load.closed_loop(4, 0.3, _SHORT_TOKENS)
    load.settle()


def _paced(streams: int, per_s: int) -> str:
    return f"{streams} streams x {per_s} tokens/s = {streams * per_s:,}/s"


def _first_token(sizes: Sizes, load: Load, simulator: Simulator) -> Figures:
    _say(simulator, _SHORT_TOKENS, first_delay_s=0.005)
    answers = load.one_by_one(sizes.ttft_answers, sizes.ttft_s, _SHORT_TOKENS)
    load.settle()
    return _first(answers.first_ms)


def _short(sizes: Sizes, load: Load, simulator: Simulator) -> Figures:
    _say(simulator, _SHORT_TOKENS)
    answers = load.closed_loop(8, sizes.short_s, _SHORT_TOKENS)
    undeleted = simulator.undeleted_chats()
    load.settle()
    # The deletion of the chat, after the answer, is part of the cost of the answer.
    return {
        **_per_answer(len(answers.first_ms), answers.begin, answers.end, load.moment()),
        "chats not yet deleted at the end": undeleted,
        **_shares(answers.begin, answers.end),
    }


def _few(sizes: Sizes, load: Load, simulator: Simulator) -> Figures:
    slowly = replace(sizes, ramp_per_s=sizes.few_ramp_per_s)
    return _streams(slowly, sizes.few_streams, 20, load, simulator)


def _streams(sizes: Sizes, streams: int, per_s: int, load: Load, simulator: Simulator) -> Figures:
    # The streams start one after another during spread_s, then all run together for stream_s.
    spread_s = streams / sizes.ramp_per_s
    tokens = int((spread_s + sizes.stream_s + 0.3) * per_s)
    _say(simulator, tokens, delay_s=1 / per_s)
    run = load.streams(streams, tokens, spread_s, tokens / per_s + 15)
    load.settle()
    late_ms = [token.late_ms for token in run.tokens]
    return {
        ONE_WAY_P50: quantile(late_ms, 50),
        ONE_WAY_P99: quantile(late_ms, 99),
        ONE_WAY_P999: quantile(late_ms, 99.9),
        CPU_TOKEN: (run.end.server_s - run.begin.server_s) * 1e6 / len(run.tokens),
        **_shares(run.begin, run.end),
    }


def _flood(sizes: Sizes, load: Load, simulator: Simulator) -> Figures:
    text = text_of(sizes.flood_tokens)
    pieces = [text[at : at + TOKEN_CHARS] for at in range(0, len(text), TOKEN_CHARS)]
    simulator.set_knobs(record=False)
    simulator.play(load.generation, recorded_answer(load.generation, pieces), sizes.flood_streams)
    before = load.moment()
    seconds = load.flood(sizes.flood_streams, sizes.flood_tokens)
    load.settle()
    tokens = sizes.flood_streams * sizes.flood_tokens
    return {
        TOKENS_PER_S: tokens / seconds,
        CPU_TOKEN: (load.moment().server_s - before.server_s) * 1e6 / tokens,
    }


def _burst(sizes: Sizes, load: Load, simulator: Simulator) -> Figures:
    _say(simulator, _SHORT_TOKENS)
    answers = load.burst(sizes.burst_per_s, sizes.burst_s, _SHORT_TOKENS)
    load.settle()
    return {**_first(answers.first_ms), **_shares(answers.begin, answers.end)}


def _slow(sizes: Sizes, load: Load, simulator: Simulator) -> Figures:
    spread_s = sizes.slow_streams / sizes.slow_ramp_per_s
    tokens = int(spread_s + 3)
    _say(simulator, tokens, delay_s=1.0)
    before = load.moment()
    run = load.streams(sizes.slow_streams, tokens, spread_s, tokens + 40)
    load.settle()
    return {
        MEMORY: (run.begin.server_kb - before.server_kb) / sizes.slow_streams,
        ONE_WAY_P99: quantile([token.late_ms for token in run.tokens], 99),
        **_shares(run.begin, run.end),
    }


def _mix(sizes: Sizes, load: Load, simulator: Simulator) -> Figures:
    _say(simulator, _SHORT_TOKENS)
    answers, begin, end = load.mix(sizes.mix_clients, sizes.mix_s, _SHORT_TOKENS)
    load.settle()
    return {**_per_answer(answers, begin, end, load.moment()), **_shares(begin, end)}


def _first(first_ms: Sequence[float]) -> Figures:
    return {FIRST_P50: quantile(first_ms, 50), "first token p99, ms": quantile(first_ms, 99)}


def _per_answer(answers: int, begin: Moment, end: Moment, settled: Moment) -> Figures:
    return {
        PER_S: answers / (end.at_ns - begin.at_ns) * 1e9,
        CPU_ANSWER: (settled.server_s - begin.server_s) * 1e3 / answers,
    }


def _shares(begin: Moment, end: Moment) -> Figures:
    percent = 1e11 / (end.at_ns - begin.at_ns)
    return {
        "core used by the server, %": (end.server_s - begin.server_s) * percent,
        "core used by the simulator, %": (end.simulator_s - begin.simulator_s) * percent,
        "core used by the load, %": (end.load_s - begin.load_s) * percent,
        "core denied to the server, %": (end.server_waited_s - begin.server_waited_s) * percent,
    }


def _say(simulator: Simulator, tokens: int, **knobs: object) -> None:
    simulator.set_knobs(say=text_of(tokens), stamp=True, record=False, **knobs)

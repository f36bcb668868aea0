"""What is measured of a server: one function per kind of load, each with the knobs it needs.

A figure is named by the row of the table that it stands in. Figures that a load cannot give are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.answers import TOKEN_CHARS, text_of
from bench.dialects import recorded_answer
from bench.load import Load, Moment, TooSlow, quantile
from bench.servers import Simulator

Figures = dict[str, float]

_TOKENS_PER_S = 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything: enough for a first look (quick), or to believe it (full)."""

    rounds: int
    ttft_answers: int
    stream_s: float
    short_s: float
    flood_streams: int
    flood_tokens: int
    slow_streams: int
    reading_streams: int
    reading_rounds: int
    reading_s: float


QUICK = Sizes(
    rounds=2,
    ttft_answers=50,
    stream_s=0.8,
    short_s=0.8,
    flood_streams=20,
    flood_tokens=1000,
    slow_streams=200,
    reading_streams=24,
    reading_rounds=1,
    reading_s=0.6,
)
FULL = Sizes(
    rounds=5,
    ttft_answers=300,
    stream_s=4.0,
    short_s=2.0,
    flood_streams=40,
    flood_tokens=2000,
    slow_streams=1000,
    reading_streams=100,
    reading_rounds=2,
    reading_s=2.0,
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """``fresh``: the server is started anew, because what it did before would change the figures."""

    name: str
    run: Callable[[Load, Simulator], Figures]
    fresh: bool = False


def scenarios(sizes: Sizes) -> list[Scenario]:
    return [
        Scenario("first token", partial(_first_token, sizes)),
        Scenario("50 streams", partial(_streams, sizes, 50)),
        Scenario("200 streams", partial(_streams, sizes, 200)),
        Scenario("short answers", partial(_short, sizes)),
        Scenario("flood", partial(_flood, sizes)),
        Scenario("memory", partial(_memory, sizes), fresh=True),
    ]


def warm_up(load: Load, simulator: Simulator) -> None:
    """Everything is loaded, every path was walked."""
    _say(simulator, 8)
    load.closed_loop(4, 0.5, 8)
    load.settle()


def _first_token(sizes: Sizes, load: Load, simulator: Simulator) -> Figures:
    _say(simulator, 8, first_delay_s=0.005)
    times_ms = load.one_by_one(sizes.ttft_answers, 8)
    load.settle()
    return {"first token p50, ms": quantile(times_ms, 50), "first token p99, ms": quantile(times_ms, 99)}


def _streams(sizes: Sizes, streams: int, load: Load, simulator: Simulator) -> Figures:
    # Streams begin at a rate of 150/s, then run together for stream_s.
    spread_s = streams / 150
    tokens = int((spread_s + sizes.stream_s + 0.3) * _TOKENS_PER_S)
    _say(simulator, tokens, delay_s=1 / _TOKENS_PER_S)
    try:
        run = load.streams(streams, tokens, spread_s)
    except TooSlow:
        return {}
    finally:
        load.settle()
    late_ms = [token.late_ms for token in run.tokens]
    per_token = 1e6 / len(run.tokens)
    return {
        "one-way latency p50, ms": quantile(late_ms, 50),
        "one-way latency p99, ms": quantile(late_ms, 99),
        "one-way latency p99.9, ms": quantile(late_ms, 99.9),
        "CPU per token, µs": (run.end.server_s - run.begin.server_s) * per_token,
        "simulator CPU per token, µs": (run.end.simulator_s - run.begin.simulator_s) * per_token,
        **_shares(run.begin, run.end),
    }


def _short(sizes: Sizes, load: Load, simulator: Simulator) -> Figures:
    _say(simulator, 8)
    before = load.moment()
    answers, at_end = load.closed_loop(8, sizes.short_s, 8)
    owed = simulator.owed_deletions()
    load.settle()
    # What a server does after the answer (deleting the chat) belongs to the cost of the answer.
    after = load.moment()
    return {
        "answers/s": answers / sizes.short_s,
        "CPU per answer, ms": (after.server_s - before.server_s) * 1e3 / answers,
        "simulator CPU per answer, ms": (after.simulator_s - before.simulator_s) * 1e3 / answers,
        "chats not yet deleted at the end": owed,
        **_shares(before, at_end),
    }


def _flood(sizes: Sizes, load: Load, simulator: Simulator) -> Figures:
    text = text_of(sizes.flood_tokens)
    simulator.turn(record=False)
    simulator.play(recorded_answer(text, TOKEN_CHARS), sizes.flood_streams)
    before = load.moment()
    seconds = load.flood(sizes.flood_streams, sizes.flood_tokens)
    load.settle()
    tokens = sizes.flood_streams * sizes.flood_tokens
    return {
        "tokens/s": tokens / seconds,
        "CPU per token, µs": (load.moment().server_s - before.server_s) * 1e6 / tokens,
    }


def _memory(sizes: Sizes, load: Load, simulator: Simulator) -> Figures:
    spread_s = sizes.slow_streams / 150
    tokens = int(spread_s + 3)
    _say(simulator, tokens, delay_s=1.0)
    before = load.moment()
    try:
        run = load.streams(sizes.slow_streams, tokens, spread_s)
    except TooSlow:
        return {}
    finally:
        load.settle()
    return {"memory per stream, KB": (run.end.server_kb - before.server_kb) / sizes.slow_streams}


def _shares(begin: Moment, end: Moment) -> Figures:
    percent = 1e11 / (end.at_ns - begin.at_ns)
    return {
        "core used by the server, %": (end.server_s - begin.server_s) * percent,
        "core used by the simulator, %": (end.simulator_s - begin.simulator_s) * percent,
        "core used by the load, %": (end.load_s - begin.load_s) * percent,
        "core denied to the server, %": (end.server_waited_s - begin.server_waited_s) * percent,
    }


def _say(simulator: Simulator, tokens: int, **knobs: object) -> None:
    simulator.turn(say=text_of(tokens), stamp=True, record=False, **knobs)

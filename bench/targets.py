"""The gateway's targets, most of them as ratios to the other servers, and whether it reaches them.

One core, one worker. Moonshots are harder targets: the best that any design has reached.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.scenarios import (
    CPU_TOKEN,
    FIRST_P50,
    MEMORY,
    ONE_WAY_P99,
    PER_S,
    TOKENS_PER_S,
    Figures,
)
from bench.servers import FASTAPI, GATEWAY, NGINX, NO_GATEWAY, NODE

Round = Mapping[str, Figures]
"""Server → figures, for each server that could be measured."""

Measure = Callable[[Round], float]
"""Raises KeyError or ZeroDivisionError: if a server has no such figure."""


@dataclass(frozen=True, slots=True)
class Target:
    """``limit``: the highest allowed value; with ``at_least`` the lowest."""

    scenario: str
    what: str
    measure: Measure
    limit: float
    at_least: bool = False
    moonshot: bool = False

    def is_reached(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """``value``: the median of the rounds that have one. None: not measured."""

    target: Target
    value: float | None

    @property
    def reached(self) -> bool | None:
        return None if self.value is None else self.target.is_reached(self.value)


def _figure(row: str) -> Measure:
    return lambda figures: figures[GATEWAY][row]


def _to(server: str, row: str) -> Measure:
    return lambda figures: figures[GATEWAY][row] / figures[server][row]


def _added(server: str, row: str) -> Measure:
    """The latency that a server adds: the difference to no gateway in the same round."""
    return lambda figures: figures[server][row] - figures[NO_GATEWAY][row]


def _added_to(server: str, row: str) -> Measure:
    own, others = _added(GATEWAY, row), _added(server, row)
    return lambda figures: own(figures) / others(figures)


TARGETS = (
    Target("first-token", "p50 / nginx", _to(NGINX, FIRST_P50), 1.25),
    Target("first-token", "p50 / nginx", _to(NGINX, FIRST_P50), 1.1, moonshot=True),
    Target("short", "answers/s / FastAPI", _to(FASTAPI, PER_S), 30, at_least=True),
    Target("short", "answers/s / Node", _to(NODE, PER_S), 1.5, at_least=True),
    Target("short", "answers/s / nginx", _to(NGINX, PER_S), 0.33, at_least=True, moonshot=True),
    # Also with few streams: usually the FastAPI relay cannot hold 200.
    Target("few", "CPU per token / FastAPI", _to(FASTAPI, CPU_TOKEN), 0.25),
    Target("streams", "CPU per token / FastAPI", _to(FASTAPI, CPU_TOKEN), 0.25),
    Target("streams", "CPU per token / Node", _to(NODE, CPU_TOKEN), 1.0),
    Target("streams", "CPU per token / nginx", _to(NGINX, CPU_TOKEN), 2.0, moonshot=True),
    Target("streams", "added latency p99, ms", _added(GATEWAY, ONE_WAY_P99), 2.0),
    Target("streams", "added latency p99 / Node", _added_to(NODE, ONE_WAY_P99), 1.5),
    Target("streams", "added latency p99, ms", _added(GATEWAY, ONE_WAY_P99), 0.6, moonshot=True),
    Target("many-30", "latency p99 / Node", _to(NODE, ONE_WAY_P99), 1.2),
    Target("many-30", "latency p99 / nginx", _to(NGINX, ONE_WAY_P99), 2.0, moonshot=True),
    Target("slow", "memory per stream, KB", _figure(MEMORY), 60),
    Target("slow", "memory per stream, KB", _figure(MEMORY), 36, moonshot=True),
    Target("flood", "tokens/s / FastAPI", _to(FASTAPI, TOKENS_PER_S), 5, at_least=True),
    Target("flood", "tokens/s / Node", _to(NODE, TOKENS_PER_S), 0.9, at_least=True),
    Target("flood", "tokens/s / nginx", _to(NGINX, TOKENS_PER_S), 0.5, at_least=True, moonshot=True),
    Target("burst", "first token p50 / Node", _to(NODE, FIRST_P50), 0.6),
    Target("burst", "first token p50, ms", _figure(FIRST_P50), 20, moonshot=True),
)


def verdicts(scenario: str, rounds: Sequence[Round]) -> Iterator[Verdict]:
    for target in TARGETS:
        if target.scenario == scenario:
            yield Verdict(target, _median(target.measure, rounds))


def _median(measure: Measure, rounds: Sequence[Round]) -> float | None:
    values = []
    for figures in rounds:
        try:
            values.append(measure(figures))
        except (KeyError, ZeroDivisionError):
            continue
    return statistics.median(values) if values else None

"""``python -m bench.profile``: shows how much CPU time each file and function of the gateway uses.

The worker runs with its default configuration and a sampler, which records its stack 250 times per second of CPU time
(``sampled.py``).
"""

import argparse
import collections
import dataclasses
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.answers import TOKEN_CHARS, text_of
from bench.dialects import GENERATIONS, recorded_answer
from bench.load import Load
from bench.processes import LOAD_CORE, ROOT, Failed, allow_many_files
from bench.scenarios import warm_up
from bench.servers import BEFORE, GATEWAY, Server, Simulator, running, servers, simulator

# A frame as sampled.py writes it: the function, then its file in brackets.
_FRAME = re.compile(r"(.+) \((.+)\)")


@dataclass(frozen=True, slots=True)
class _Work:
    """A load. ``run`` returns the number of units, by which the cost is divided."""

    unit: str
    run: Callable[[Load, Simulator], int]


def _one_stream(load: Load, simulator: Simulator) -> int:
    """One stream of 500 tokens per second."""
    return _streams(load, simulator, 1, 500, 10.0)


def _200_streams(load: Load, simulator: Simulator) -> int:
    return _streams(load, simulator, 200, 20, 20.0)


def _streams(load: Load, simulator: Simulator, streams: int, per_s: int, seconds: float) -> int:
    tokens = int((seconds + streams / 150) * per_s)
    simulator.set_knobs(say=text_of(tokens), stamp=True, record=False, delay_s=1 / per_s)
    load.streams(streams, tokens, streams / 150, tokens / per_s + 30)
    return streams * tokens


def _flood(load: Load, simulator: Simulator) -> int:
    """40 answers of 2,000 tokens, as fast as possible, ten times."""
    text = text_of(_FLOOD_TOKENS)
    pieces = [text[at : at + TOKEN_CHARS] for at in range(0, len(text), TOKEN_CHARS)]
    recorded = recorded_answer(load.generation, pieces)
    simulator.set_knobs(record=False)
    for _ in range(_FLOODS):
        simulator.play(load.generation, recorded, _FLOOD_STREAMS)
        load.flood(_FLOOD_STREAMS, _FLOOD_TOKENS)
    load.settle()
    return _FLOODS * _FLOOD_STREAMS * _FLOOD_TOKENS


def _short(load: Load, simulator: Simulator) -> int:
    simulator.set_knobs(say=text_of(8), stamp=True, record=False)
    answers = len(load.closed_loop(8, 8.0, 8).first_ms)
    load.settle()
    return answers


_FLOODS, _FLOOD_STREAMS, _FLOOD_TOKENS = 10, 40, 2000

_WORK = {
    "answer": _Work("token", _one_stream),
    "streams": _Work("token", _200_streams),
    "short": _Work("answer", _short),
    "flood": _Work("token", _flood),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--load", choices=_WORK, default="answer", help="the load (default: one streamed answer)")
    parser.add_argument("--generation", choices=[g.name for g in GENERATIONS], default="sse")
    parser.add_argument("--lines", type=int, default=30, help="number of lines per table")
    parser.add_argument("--before", type=Path, help="profile this earlier version: a clone with its .venv")
    options = parser.parse_args()
    generation = next(g for g in GENERATIONS if g.name == options.generation)
    allow_many_files()
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        samples = folder / "samples"
        with simulator(folder) as upstream, running(_sampled(samples, options.before), upstream, folder) as one:
            assert one.process
            load = Load(one, upstream, generation)
            warm_up(load, upstream)
            (worker,) = one.process.children()
            work = _WORK[options.load]
            os.kill(worker, signal.SIGUSR2)
            cpu_s = load.moment().server_s
            units = work.run(load, upstream)
            cost_us = (load.moment().server_s - cpu_s) * 1e6 / units
        _show(samples.read_text(), cost_us, work.unit, options.lines, options.before or ROOT)
    return 0


def _sampled(samples: Path, before: Path | None) -> Server:
    name = BEFORE if before else GATEWAY
    gateway = next(server for server in servers(before=before) if server.name == name)
    command = (*gateway.command, "-c", str(ROOT / "bench/sampled.py"))
    return dataclasses.replace(gateway, command=command, env={**gateway.env, "BENCH_SAMPLES": str(samples)})


def _show(samples: str, cost_us: float, unit: str, lines: int, home: Path) -> None:
    """Prints CPU time in µs per unit: own time per file and function, and inclusive time per file of ``app/``."""
    own_files: collections.Counter[str] = collections.Counter()
    own_functions: collections.Counter[str] = collections.Counter()
    inclusive_files: collections.Counter[str] = collections.Counter()
    total = 0
    for line in samples.splitlines():
        stack, _, times = line.rpartition(" ")
        frames = [_named(frame, home) for frame in stack.split(";")]
        count = int(times)
        total += count
        own_files[frames[-1][0]] += count
        own_functions["  ".join(frames[-1])] += count
        inclusive_files.update(dict.fromkeys((file for file, _ in frames if file.startswith("app")), count))
    if not total:
        raise Failed("no samples: the worker used no CPU time")
    print(f"{cost_us:.1f} µs of the worker's CPU time per {unit}; {total} samples")
    _table("own time per file, µs", own_files, cost_us / total, lines)
    _table("time per file including its calls, µs", inclusive_files, cost_us / total, lines)
    _table("own time per function, µs", own_functions, cost_us / total, lines)


def _table(title: str, counts: Mapping[str, int], unit_us: float, lines: int) -> None:
    print(f"\n{title}")
    for name, count in sorted(counts.items(), key=lambda item: -item[1])[:lines]:
        print(f"  {count * unit_us:10.2f}  {name}")


def _named(frame: str, home: Path) -> tuple[str, str]:
    """The file, relative to the repository in ``home`` or to site-packages, and the function."""
    found = _FRAME.fullmatch(frame)
    if not found:
        return frame, ""
    file = found[2].removeprefix(f"{home}/")
    return re.sub(r".*(?:site-packages|lib/python[0-9.]+)/", "", file), found[1]


if __name__ == "__main__":
    sys.exit(main())

"""Compares ways to read the upstream with ``requests``: how long each holds tokens back, and its CPU time.

This file controls the simulator and the core. ``reader.py`` does the reading.
"""

import json
import os
import subprocess
from typing import Any

from app.simulator import tokens
from bench.answers import text_of
from bench.load import quantile
from bench.processes import LOAD_CORE, ROOT, SERVER_CORE, Failed, python
from bench.reader import WAYS
from bench.scenarios import Figures, Sizes
from bench.servers import Simulator

FRAMINGS = ("chunked", "close")
_TOKENS_PER_S = 20


def measure(sizes: Sizes, simulator: Simulator) -> list[dict[str, Figures]]:
    """The figures of each round by "framing, way"."""
    reader = _start(simulator)
    try:
        _measure(reader, simulator, "chunked", "iter_lines(None)", 4, 4)  # warm
        return [_round(reader, sizes, simulator) for _ in range(sizes.reading_rounds)]
    finally:
        reader.terminate()
        reader.wait(10)


def _round(reader: subprocess.Popen[str], sizes: Sizes, simulator: Simulator) -> dict[str, Figures]:
    count = int(sizes.reading_s * _TOKENS_PER_S)
    return {
        f"{framing}, {way}": _measure(reader, simulator, framing, way, sizes.reading_streams, count)
        for framing in FRAMINGS
        for way in WAYS
    }


def _measure(
    reader: subprocess.Popen[str], simulator: Simulator, framing: str, way: str, streams: int, count: int
) -> Figures:
    simulator.set_knobs(
        say=text_of(count),
        stamp=True,
        record=False,
        delay_s=1 / _TOKENS_PER_S,
        framing=framing,
        slot_scope="none",
    )
    # Enough time to open all streams before the first token.
    job = {"way": way, "streams": streams, "tokens": count, "lead_s": 0.15 + 0.004 * streams}
    result = _ask(reader, job)
    return {
        "held back p50, ms": quantile(result["late_ms"], 50),
        "held back p99, ms": quantile(result["late_ms"], 99),
        "CPU per token, µs": result["cpu_us"],
    }


def _ask(reader: subprocess.Popen[str], job: dict[str, Any]) -> Any:
    assert reader.stdin and reader.stdout
    reader.stdin.write(json.dumps(job) + "\n")
    reader.stdin.flush()
    line = reader.stdout.readline()
    if not line:
        raise Failed(f"the reader failed at {job}; its traceback is above")
    return json.loads(line)


def _start(simulator: Simulator) -> subprocess.Popen[str]:
    token = tokens.mint("reader", "access", 86_400)
    os.sched_setaffinity(0, {SERVER_CORE})
    try:
        return subprocess.Popen(
            python("-m", "gevent.monkey", "--module", "bench.reader", str(simulator.port), token),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        os.sched_setaffinity(0, {LOAD_CORE})

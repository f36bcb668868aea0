"""The tables on standard output, and everything that was measured as JSON."""

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.scenarios import Figures

OUT = Path(__file__).parent / "out"

_CPU = "CPU per token, µs"
# Rows whose baseline (marked *) is what the simulator used: without a gateway there is no other process.
_BASE_ROW = {_CPU: "simulator CPU per token, µs", "CPU per answer, ms": "simulator CPU per answer, ms"}
# Shown below a table, so that it can be believed or not.
_ABOUT_THE_RIG = ("core used by", "core denied")
_NOT_RESULTS = (*_ABOUT_THE_RIG, "simulator CPU")

Rounds = Sequence[dict[str, Figures]]


def machine() -> dict[str, Any]:
    names = ("gunicorn", "gevent", "Flask", "requests", "urllib3", "orjson", "SQLAlchemy")
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load average": os.getloadavg()[0],
        "versions": {name: version(name) for name in names},
    }


def save(result: dict[str, Any]) -> Path:
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{result['machine']['at'].replace(':', '')}-{result['mode']}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False))
    return path


def print_machine(about: dict[str, Any]) -> None:
    print(f"{about['at']}  Python {about['python']}  {about['cores']} x {about['cpu']}", end="  ")
    print(f"load average before: {about['load average']:.2f}")


def print_reading(rounds: Rounds, baseline: str) -> None:
    print("\nreading the upstream (ratio: to the bare socket)")
    print(f"{'':32}{'held back p50, ms':>20}{'p99, ms':>10}{'CPU/token, µs':>15}{'ratio':>8}")
    for name, first in rounds[0].items():
        base = f"{name.partition(', ')[0]}, {baseline}"
        p50, p99, cpu = (statistics.median(one[name][row] for one in rounds) for row in first)
        ratio = statistics.median(one[name][_CPU] / one[base][_CPU] for one in rounds)
        print(f"{name:32}{p50:20.2f}{p99:10.2f}{cpu:15.0f}{ratio:8.2f}")


def print_scenario(name: str, rounds: Rounds, servers: Sequence[str]) -> None:
    """``rounds``: figures by server. Differences and ratios are taken within each round, then their median."""
    baseline, *others = servers
    print(f"\n{name:32}{baseline:>12}" + "".join(f"{other:>14}{'difference':>12}{'ratio':>8}" for other in others))
    rows = list(dict.fromkeys(row for one in rounds for server in servers for row in one[server]))
    for row in rows:
        if not row.startswith(_NOT_RESULTS):
            print(_row(row, rounds, baseline, others))
    for row in rows:
        if row.startswith(_ABOUT_THE_RIG):
            shares = [f"{_cell([one[server].get(row) for one in rounds]).strip()}" for server in servers]
            print(f"    {row}: {' / '.join(shares)}")


def _row(row: str, rounds: Rounds, baseline: str, others: Sequence[str]) -> str:
    base_row = _BASE_ROW.get(row, row)
    bases = [one[baseline].get(base_row) for one in rounds]
    mark = "*" if base_row != row and bases[0] is not None else " "
    line = f"  {row:30}{_cell(bases):>11}{mark}"
    for other in others:
        figures = [one[other].get(row) for one in rounds]
        pairs = [(own, base) for own, base in zip(figures, bases, strict=True) if own is not None and base]
        differences = [] if mark == "*" else [own - base for own, base in pairs]
        line += f"{_cell(figures):>14}{_cell(differences):>12}{_cell([own / base for own, base in pairs]):>8}"
    return line


def _cell(values: Sequence[float | None]) -> str:
    """The median, with as many digits as mean something; nothing where a round has no value."""
    if not values or None in values:
        return "-"
    value = statistics.median(value for value in values if value is not None)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()

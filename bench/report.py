"""Prints a table per scenario and the targets. Saves all figures as JSON."""

import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.scenarios import CPU_TOKEN, ONE_WAY_P50, ONE_WAY_P99, ONE_WAY_P999, Figures
from bench.servers import GATEWAY, NO_GATEWAY
from bench.targets import verdicts

OUT = Path(__file__).parent / "out"

# Printed below a table: they show whether the figures can be trusted.
_ABOUT_THE_RIG = ("core used by", "core denied")

_ADDED = {row: row.replace("one-way", "added") for row in (ONE_WAY_P50, ONE_WAY_P99, ONE_WAY_P999)}

Rounds = Sequence[Mapping[str, Figures]]


@dataclass(slots=True)
class Outcome:
    """One scenario over one generation.

    ``rounds``: for each round, server → figures. ``failed``: server → reason.
    """

    scenario: str
    title: str
    generation: str
    rounds: list[dict[str, Figures]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def machine() -> dict[str, Any]:
    names = ("gunicorn", "gevent", "Flask", "requests", "urllib3", "orjson", "SQLAlchemy")
    return {
        "commit": _commit(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load average": os.getloadavg()[0],
        "versions": {name: version(name) for name in names},
    }


def save(result: Mapping[str, Any], outcomes: Sequence[Outcome]) -> Path:
    """Saves all figures so far. A later call in the same run overwrites the file."""
    path = _place(result, ".json")
    whole = {**result, "scenarios": [asdict(outcome) for outcome in outcomes]}
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False))
    return path


def keep_log(result: Mapping[str, Any], log: Path) -> Path:
    """Copies the log of a server that gave a wrong answer, because the run deletes its folder."""
    path = _place(result, f"-{log.name}")
    shutil.copyfile(log, path)
    return path


def _place(result: Mapping[str, Any], end: str) -> Path:
    OUT.mkdir(exist_ok=True)
    return OUT / f"{result['machine']['at'].replace(':', '')}-{result['mode']}{end}"


def print_machine(about: Mapping[str, Any]) -> None:
    print(f"{about['at']}  Python {about['python']}  {about['cores']} x {about['cpu']}", end="  ")
    print(f"load average before: {about['load average']:.2f}")


def print_reading(rounds: Rounds, baseline: str) -> None:
    print("\nreading the upstream (ratio: to the bare socket)")
    print(f"{'':32}{'held back p50, ms':>20}{'p99, ms':>10}{'CPU/token, µs':>15}{'ratio':>8}")
    for name, first in rounds[0].items():
        base = f"{name.partition(', ')[0]}, {baseline}"
        p50, p99, cpu = (statistics.median(one[name][row] for one in rounds) for row in first)
        ratio = statistics.median(one[name][CPU_TOKEN] / one[base][CPU_TOKEN] for one in rounds)
        print(f"{name:32}{p50:20.2f}{p99:10.2f}{cpu:15.0f}{ratio:8.2f}")


def print_outcome(outcome: Outcome, servers: Sequence[str]) -> None:
    """Prints the medians of each server, then the medians of the ratios gateway / server, taken within each round."""
    rounds = [_with_added(figures) for figures in outcome.rounds]
    others = [name for name in servers if name not in (GATEWAY, NO_GATEWAY)] if GATEWAY in servers else []
    head = f"\n{outcome.title} [{outcome.generation}]"
    print(
        f"{head:57}" + "".join(f"{name:>12}" for name in servers) + "".join(f"{f'÷ {name}':>12}" for name in others)
    )
    rows = dict.fromkeys(row for figures in rounds for one in figures.values() for row in one)
    for row in rows:
        cells = [_cell(_values(rounds, name, row)) for name in servers]
        if row.startswith(_ABOUT_THE_RIG):
            print(f"    {row}: {' / '.join(cells)}")
        else:
            ratios = [_cell(_ratios(rounds, name, row)) for name in others]
            print(f"  {row:54}" + "".join(f"{cell:>12}" for cell in (*cells, *ratios)))
    for name, why in outcome.failed.items():
        print(f"    {name} failed: {why.splitlines()[0][:150]}")


def print_targets(outcomes: Iterable[Outcome]) -> None:
    """Prints all targets in one table."""
    print("\ntargets")
    for outcome in outcomes:
        for verdict in verdicts(outcome.scenario, outcome.rounds):
            _print_verdict(verdict, f"{outcome.generation:8} {outcome.scenario:12} ")


def _print_verdict(verdict: Any, before: str = "") -> None:
    target = verdict.target
    kind = "moonshot" if target.moonshot else "target"
    word = {True: "reached", False: "MISSED" if kind == "target" else "missed", None: "not measured"}[verdict.reached]
    sign = ">=" if target.at_least else "<="
    value = _cell([] if verdict.value is None else [verdict.value])
    print(f"    {before}{kind:9}{target.what:26}{value:>9}  {sign} {target.limit:<5g} {word}")


def _with_added(figures: Mapping[str, Figures]) -> dict[str, Figures]:
    """Adds the latencies minus those without a gateway in the same round."""
    base = figures.get(NO_GATEWAY, {})
    return {
        name: one
        | {
            added: one[row] - base[row]
            for row, added in _ADDED.items()
            if name != NO_GATEWAY and row in one and row in base
        }
        for name, one in figures.items()
    }


def _values(rounds: Rounds, server: str, row: str) -> list[float]:
    return [figures[server][row] for figures in rounds if row in figures.get(server, {})]


def _ratios(rounds: Rounds, server: str, row: str) -> list[float]:
    return [
        figures[GATEWAY][row] / figures[server][row]
        for figures in rounds
        if figures.get(server, {}).get(row) and row in figures.get(GATEWAY, {})
    ]


def _cell(values: Sequence[float]) -> str:
    """The median with about three digits; "-" if there is no value."""
    if not values:
        return "-"
    value = statistics.median(values)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _commit() -> str:
    """The measured commit; "" outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()

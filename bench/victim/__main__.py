"""``python -m bench.victim``: all cases, on this version and on another one, and their table."""

import argparse
import io
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.processes import LOAD_CORE, ROOT, Failed, allow_many_files
from bench.report import OUT, machine
from bench.victim.cases import Case, cases
from bench.victim.measuring import PER_S, Figures, Version, measure

# The goals: how late a token may be, how long a stream may stand still, and what a worker may need besides.
P99_MS, GAP_MS, MEMORY_MB = 50.0, 250.0, 200.0

# What a case takes besides its attack. Seconds.
_START_S = 8.0


def main() -> int:
    options = _parser().parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    allow_many_files()
    os.sched_setaffinity(0, {LOAD_CORE})
    versions = [Version("new", ROOT)]
    if options.old:
        versions.insert(0, Version("old", Path(options.old).resolve()))
    chosen = _chosen(cases(), options)
    if options.list:
        print("\n".join(f"{case.group}: {case.title}" for case in chosen))
        return 0
    ends_at = time.monotonic() + (math.inf if options.all or options.old else options.minutes * 60)
    outcomes: dict[str, dict[str, Figures | str]] = {}
    print(_HEAD)
    with tempfile.TemporaryDirectory(prefix="victim-") as folder:
        for case in chosen:
            if time.monotonic() + options.seconds + _START_S > ends_at:
                outcomes[case.title] = {version.name: "not measured: the time is over" for version in versions}
                continue
            outcome = outcomes[case.title] = _measure(case, versions, options.seconds, Path(folder))
            for version in versions:
                print(_row(case, version.name, outcome[version.name]))
    OUT.mkdir(exist_ok=True)
    place = Path(options.json) if options.json else OUT / f"victim-{time.strftime('%Y%m%dT%H%M%S')}.json"
    place.write_text(json.dumps({"machine": machine(), "cases": _as_json(outcomes)}, indent=1))
    print(f"\neverything that was measured: {place}")
    missed = [title for title, outcome in outcomes.items() if not _holds(outcome["new"], busy=options.busy)]
    print(f"goals missed by: {', '.join(missed)}" if missed else "all goals are reached")
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.victim", description=__doc__)
    parser.add_argument("--old", metavar="FOLDER", help="a clone of an older version, measured beside this one")
    parser.add_argument("--only", metavar="TEXT", help="only cases whose title or group contains it; several with |")
    parser.add_argument("--short", action="store_true", help="a few cases of every kind")
    parser.add_argument("--all", action="store_true", help="also the cases that resemble others")
    parser.add_argument("--list", action="store_true", help="print the cases and measure nothing")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each attack lasts")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the whole run may last, without --all")
    parser.add_argument(
        "--busy", action="store_true", help="judge by CPU time and not by lateness: for a machine with other work"
    )
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: bench/out/)")
    return parser


def _chosen(all_cases: Sequence[Case], options: argparse.Namespace) -> list[Case]:
    wanted = options.only.split("|") if options.only else [""]
    return [
        case
        for case in all_cases
        if (case.is_short or not options.short)
        and (case.is_usual or options.all or options.only or options.old)
        and any(part in f"{case.group}: {case.title}" for part in wanted)
    ]


def _measure(case: Case, versions: Sequence[Version], seconds: float, folder: Path) -> dict[str, Figures | str]:
    """The figures of each version, or why there are none."""
    found: dict[str, Figures | str] = {}
    for version in versions:
        try:
            found[version.name] = measure(case, version, seconds, folder)
        except Failed as failure:
            found[version.name] = str(failure)
    return found


_HEAD = """\
| case | | late p50, ms | late p99, ms | longest gap, ms | held, CPU ms | new request, ms | worker, MB more | \
helpers, MB | log, KB | attack, MB |
|---|---|---|---|---|---|---|---|---|---|---|"""


def _row(case: Case, version: str, figures: Figures | str) -> str:
    title = f"{case.group}: {case.title}" if case.group else case.title
    if isinstance(figures, str):
        return f"| {title} | {version} | {figures.splitlines()[0][:100]} |"
    notes = [f"{figures.missing} tokens never came"] * (figures.missing > 0) + ["worker replaced"] * figures.replaced
    noted = f" ({', '.join(notes)})" if notes else ""
    return (
        f"| {title}{noted} | {version} | {figures.p50:.1f} | {figures.p99:.0f} "
        f"| {figures.gap:.0f} | {figures.held_ms:.0f} | {figures.new_ms:.0f} | {figures.added_mb:.0f} "
        f"| {figures.helper_mb:.0f} | {figures.log_kb:.0f} | {figures.attack_mb:.1f} |"
    )


def _holds(figures: Figures | str, *, busy: bool) -> bool:
    if isinstance(figures, str):
        return False
    is_light = figures.added_mb <= MEMORY_MB and not figures.replaced
    if busy:
        return is_light and figures.held_ms <= GAP_MS
    # A stream without any delay stands still between two tokens.
    return is_light and figures.p99 <= P99_MS and figures.gap <= GAP_MS + 1000 / PER_S and not figures.missing


def _as_json(outcomes: Mapping[str, Mapping[str, Figures | str]]) -> dict[str, object]:
    return {
        title: {name: asdict(one) if isinstance(one, Figures) else one for name, one in outcome.items()}
        for title, outcome in outcomes.items()
    }


if __name__ == "__main__":
    sys.exit(main())

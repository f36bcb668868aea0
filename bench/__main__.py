"""``python -m bench``: every scenario on every server, in turn, round after round; then the tables.

Nothing here asserts a time. Exits with 1 when one answer was not exactly right.
"""

import argparse
import contextlib
import io
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from bench import reading, report
from bench.load import Load
from bench.processes import LOAD_CORE, SERVER_CORE, Failed, tail
from bench.scenarios import FULL, QUICK, Figures, Scenario, Sizes, scenarios, warm_up
from bench.servers import Running, Server, Simulator, running, servers, simulator

# Whatever happens, it has ended by then. Seconds.
_HARD_LIMIT_S = {"quick": 300, "full": 1800}


def main() -> int:
    options = _parser().parse_args()
    mode, sizes = ("quick", QUICK) if options.quick else ("full", FULL)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(_HARD_LIMIT_S[mode])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # each table when it is ready, also through a pipe
    result: dict[str, Any] = {"mode": mode, "machine": report.machine()}
    report.print_machine(result["machine"])
    if LOAD_CORE == SERVER_CORE:
        print("only one core: the load disturbs what it measures")
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            _measure(sizes, options.only, Path(folder), result)
        except Failed as failure:
            for log in Path(folder).glob("*.log"):
                print(f"--- end of {log.name}:\n{tail(log)}", file=sys.stderr)
            print(f"bench: {failure}", file=sys.stderr)
            return 1
    print("\n* of the simulator, which has as much to do without a gateway; see bench/README.md")
    print(f"everything that was measured: {report.save(result)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="How fast the gateway is.")
    parser.add_argument("--quick", action="store_true", help="under a minute, for a first look")
    parser.add_argument("--only", default="", metavar="NAME", help="only what has this in its name")
    return parser


def _measure(sizes: Sizes, only: str, folder: Path, result: dict[str, Any]) -> None:
    with simulator(folder) as upstream:
        if only in "reading":
            result["reading"] = reading.measure(sizes, upstream)
            report.print_reading(result["reading"], "bare socket")
        compared = servers()
        with contextlib.ExitStack() as stack:
            kept = [stack.enter_context(running(server, upstream, folder)) for server in compared]
            for one in kept:
                warm_up(Load(one, upstream), upstream)
            for scenario in scenarios(sizes):
                if only in scenario.name and not scenario.fresh:
                    result[scenario.name] = [_round(scenario, kept, upstream) for _ in range(sizes.rounds)]
                    report.print_scenario(scenario.name, result[scenario.name], [one.name for one in kept])
        for scenario in scenarios(sizes):
            if only in scenario.name and scenario.fresh:
                result[scenario.name] = [_fresh_round(scenario, compared, upstream, folder)]
                report.print_scenario(scenario.name, result[scenario.name], [server.name for server in compared])


def _round(scenario: Scenario, kept: list[Running], upstream: Simulator) -> dict[str, Figures]:
    return {one.name: scenario.run(Load(one, upstream), upstream) for one in kept}


def _fresh_round(scenario: Scenario, compared: list[Server], upstream: Simulator, folder: Path) -> dict[str, Figures]:
    figures: dict[str, Figures] = {}
    for server in compared:
        if not server.command:
            figures[server.name] = {}
            continue
        with running(server, upstream, folder) as one:
            warm_up(Load(one, upstream), upstream)
            figures[server.name] = scenario.run(Load(one, upstream), upstream)
    return figures


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(f"bench: stopped by {signal.Signals(number).name}")


if __name__ == "__main__":
    sys.exit(main())

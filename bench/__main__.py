"""``python -m bench``: runs each scenario on one server after the other, several rounds, and prints tables.

Never fails because of a time. Exits with 1 if one answer of the gateway was not exactly right.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from bench import plot, reading, report
from bench.databases import postgresql
from bench.dialects import GENERATIONS, Generation
from bench.load import Load
from bench.processes import LOAD_CORE, SERVER_CORE, Failed, allow_many_files, tail
from bench.report import Outcome
from bench.scenarios import FULL, QUICK, Scenario, Sizes, scenarios, warm_up
from bench.servers import (
    BEFORE,
    NO_GATEWAY,
    SPECIAL,
    Running,
    Server,
    Simulator,
    running,
    servers,
    simulator,
)

# A run that takes longer is stopped. Seconds.
_HARD_LIMIT_S = {"quick": 300, "full": 5400}


def main() -> int:
    options = _parser().parse_args()
    mode, sizes = ("quick", QUICK) if options.quick else ("full", FULL)
    if options.rounds:
        sizes = dataclasses.replace(sizes, rounds=options.rounds, fresh_rounds=options.rounds)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(_HARD_LIMIT_S[mode])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # prints each table when it is ready, also into a pipe
    result: dict[str, Any] = {"mode": mode, "machine": report.machine()}
    report.print_machine(result["machine"])
    if LOAD_CORE == SERVER_CORE:
        print("only one core: the load generator disturbs the measured server")
    allow_many_files()
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, postgresql() as database_url:
        bench = _Bench(sizes, _chosen_servers(options.servers, database_url, options.before), Path(folder), result)
        try:
            with simulator(bench.folder) as upstream:
                if "reading" in options.only or (not options.only and mode == "full"):
                    result["reading"] = reading.measure(sizes, upstream)
                    report.print_reading(result["reading"], "bare socket")
                bench.run(upstream, options.only, options.generation)
        except Failed as failure:
            print(f"bench: {failure}", file=sys.stderr)
            bench.wrong.append("the benchmark itself")
    if options.quick:
        print("\nquick: this run shows that the benchmark works and that answers are right; do not use its figures")
    else:
        report.print_targets(bench.outcomes)
    print(f"\nall figures: {report.save(result, bench.outcomes)}")
    picture = Path(options.plot) if options.plot else report.OUT / "bench.png"
    plot.draw(bench.outcomes, picture)
    return 1 if bench.wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures the speed of the gateway.")
    names = ", ".join(["reading", *(scenario.key for scenario in scenarios(FULL))])
    parser.add_argument("--quick", action="store_true", help="under 3 minutes: only shows that the benchmark works")
    parser.add_argument("--only", type=_list, default=[], metavar="A,B", help=f"only these scenarios: {names}")
    parser.add_argument("--servers", type=_list, default=[], metavar="A,B", help="only these servers")
    parser.add_argument(
        "--before",
        type=_earlier_version,
        metavar="FOLDER",
        help="an earlier version of this repository, to compare with",
    )
    parser.add_argument("--generation", choices=[g.name for g in GENERATIONS], help="use only this protocol of Kimi")
    parser.add_argument("--rounds", type=int, help="number of rounds")
    parser.add_argument("--plot", metavar="FILE", help="file of the picture (default: bench/out/bench.png)")
    return parser


def _earlier_version(text: str) -> Path:
    folder = Path(text).resolve()
    if not (folder / ".venv/bin/python").exists():
        raise argparse.ArgumentTypeError(f"{text} has no .venv; create it and install requirements.txt there first")
    return folder


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _chosen_servers(names: Sequence[str], database_url: str, before: Path | None) -> list[Server]:
    """The requested servers that can run here. Prints what is missing for the others."""
    chosen = []
    for server in servers(database_url, before):
        if names and server.name not in (*names, NO_GATEWAY, BEFORE):
            continue
        if why := server.missing():
            print(f"left out: {server.name}: {why}")
        else:
            chosen.append(server)
    return chosen


class _Bench:
    """One run over all servers.

    ``wrong``: the gateways that gave a wrong answer. ``result``: is saved with the outcomes after each scenario.
    """

    def __init__(self, sizes: Sizes, chosen: list[Server], folder: Path, result: dict[str, Any]) -> None:
        self._result = result
        self.sizes = sizes
        self.folder = folder
        self.outcomes: list[Outcome] = []
        self.wrong: list[str] = []
        self._chosen = chosen

    def run(self, upstream: Simulator, only: Sequence[str], generation_name: str | None) -> None:
        fleet = _Fleet(upstream, self.folder)
        with contextlib.closing(fleet):
            for generation in GENERATIONS:
                if generation_name in (None, generation.name):
                    for scenario in scenarios(self.sizes):
                        if not only or scenario.key in only:
                            self._measure(scenario, generation, fleet)

    def _measure(self, scenario: Scenario, generation: Generation, fleet: "_Fleet") -> None:
        outcome = Outcome(scenario.key, scenario.title, generation.name)
        self.outcomes.append(outcome)
        chosen = [s for s in self._chosen if _takes_part(s, scenario)]
        for _ in range(self.sizes.fresh_rounds if scenario.fresh else self.sizes.rounds):
            outcome.rounds.append({})
            for server in chosen:
                if server.name not in outcome.failed:
                    self._measure_server(scenario, generation, fleet, server, outcome)
        report.print_outcome(outcome, [server.name for server in chosen])
        report.save(self._result, self.outcomes)

    def _measure_server(
        self, scenario: Scenario, generation: Generation, fleet: "_Fleet", server: Server, outcome: Outcome
    ) -> None:
        try:
            with fleet.use(server, fresh=scenario.fresh) as one:
                load = Load(one, fleet.upstream, generation)
                outcome.rounds[-1][server.name] = scenario.run(load, fleet.upstream)
        except Failed as failure:
            outcome.failed[server.name] = str(failure)
            if server.is_ours:
                self.wrong.append(server.name)
                for log in self.folder.glob(f"{server.name}*.log"):
                    print(f"--- end of {report.keep_log(self._result, log)}:\n{tail(log)}", file=sys.stderr)


def _takes_part(server: Server, scenario: Scenario) -> bool:
    return server.name in scenario.only if scenario.only else server.name not in SPECIAL


class _Fleet:
    """The running servers. Each is started and warmed up over both generations when it is first used."""

    def __init__(self, upstream: Simulator, folder: Path) -> None:
        self.upstream = upstream
        self._folder = folder
        self._running: dict[str, tuple[Running, contextlib.ExitStack]] = {}

    @contextlib.contextmanager
    def use(self, server: Server, *, fresh: bool) -> Iterator[Running]:
        """A running server, newly started if ``fresh``. Stops a server that fails, because its state may be bad."""
        if fresh and server.command:
            # The old process would use the same folder.
            self._stop_server(server.name)
        one = self._start(server)
        try:
            yield one
        except Failed:
            self._stop_server(server.name)
            raise
        if fresh:
            self._stop_server(server.name)

    def close(self) -> None:
        for name in list(self._running):
            self._stop_server(name)

    def _start(self, server: Server) -> Running:
        if server.name in self._running:
            return self._running[server.name][0]
        with contextlib.ExitStack() as stack:
            one = stack.enter_context(running(server, self.upstream, self._folder))
            for generation in GENERATIONS:
                warm_up(Load(one, self.upstream, generation), self.upstream)
            self._running[server.name] = (one, stack.pop_all())
        return one

    def _stop_server(self, name: str) -> None:
        if name in self._running:
            self._running.pop(name)[1].close()


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(f"bench: stopped by {signal.Signals(number).name}")


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.clients``: the programs that people really use, each against a gateway as it is shipped.

Every client has an environment of its own (``environments``), and for its exercise a simulator and a gateway of its
own, so that two run at the same time. What each has proven is printed, and written into a table. Exits with 1 when a
client failed, or did not prove all that its row of the catalogue says.
"""

import argparse
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.clients import environments, failures_read, table
from tests.clients.catalogue import CLIENTS, FIRST, Client
from tests.clients.exercising import exercise
from tests.clients.outcome import Outcome
from tests.running import ROOT

# Two cores are what CI has: one installs while the other exercises.
_LANES = 2
# All of it, seconds. In CI it has to be over in ten minutes, whatever happens.
_PATIENCE_S = {"ci": 580.0, "all": 3600.0}
_DOCS = ROOT / "docs"


def main() -> int:
    options = _options()
    clients = [
        client for client in CLIENTS if (client.name in options.only if options.only else _is_meant(client, options))
    ]
    environments.FOLDER.mkdir(exist_ok=True)
    deadline = time.monotonic() + _PATIENCE_S["ci" if options.ci else "all"]
    started = time.monotonic()
    try:
        outcomes = _run(clients, deadline)
    except environments.NotInstalled as failure:
        print(f"no Node for the clients that need one: {failure}", file=sys.stderr)
        return 1
    print(table.rendered(outcomes))
    failures = [outcome for outcome in outcomes if outcome.failure]
    for outcome in failures:
        print(f"\n{outcome.client.title} FAILED: {outcome.failure}", file=sys.stderr)
    print(f"{len(outcomes) - len(failures)} of {len(outcomes)} clients, {time.monotonic() - started:.0f} s")
    if not options.ci:
        table.update(_DOCS / "clients-tested.md", outcomes)
        failures_read.update(_DOCS / "clients-failures.md", outcomes)
        _keep_pictures(outcomes)
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    names = [client.name for client in CLIENTS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--ci",
        action="store_true",
        help="over in ten minutes, without the slow ones; the pages in docs/ stay as they are",
    )
    parser.add_argument("--heavy", action="store_true", help="with those that need gigabytes, too")
    return parser.parse_args()


def _is_meant(client: Client, options: argparse.Namespace) -> bool:
    """Whether it is run without being named."""
    if client.needs:
        return not options.ci and all(name in os.environ for name in client.needs)
    if options.ci:
        return not (client.heavy or client.slow)
    return not client.heavy or options.heavy


def _run(clients: list[Client], deadline: float) -> list[Outcome]:
    if any(environments.needs_node(client.name) for client in clients):
        environments.prepare_node(deadline - time.monotonic())
    by_length = sorted(clients, key=lambda c: FIRST.index(c.name) if c.name in FIRST else len(FIRST))
    with ThreadPoolExecutor(_LANES) as lanes:
        running = {client.name: lanes.submit(exercise, client, deadline) for client in by_length}
        return [running[client.name].result() for client in clients]


def _keep_pictures(outcomes: list[Outcome]) -> None:
    """An exercise that did not see what its picture is to show leaves none: then the one in docs/ stays."""
    for outcome in outcomes:
        taken = environments.FOLDER / outcome.client.name / "home" / "picture.png"
        if outcome.client.picture and not outcome.failure and taken.exists():
            shutil.copy(taken, _DOCS / outcome.client.picture)


if __name__ == "__main__":
    sys.exit(main())

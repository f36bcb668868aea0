"""``python -m tests.hosts``: the servers of docs/hosting.md, with its examples, and what they do to answers.

Needs the programs (as root: ``make hosts`` installs them with apt). Those that are missing are named and left out.
The table of the page gets the rows of the hosts without a fault; the others keep what they had. Exits with 1 if a
program is missing, if a host did not start, if an answer was not exact, or if one that was cut looked complete.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.hosts import page
from tests.hosts.catalogue import HOSTS, Host, is_installed
from tests.hosts.exercise import FIELDS, exercise
from tests.hosts.site import ENVIRONMENT, Site, install
from tests.running import Running

# So many run at the same time; most of the time they wait.
_LANES = 3
_PATH = os.pathsep.join([str(ENVIRONMENT / "bin"), os.environ["PATH"], "/usr/sbin"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hosts", description=__doc__)
    names = [host.name for host in HOSTS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=", ".join(names))
    options = parser.parse_args()
    install()
    hosts = [host for host in HOSTS if not options.only or host.name in options.only]
    missing = [host for host in hosts if not is_installed(host, _PATH)]
    for host in missing:
        print(f"{host.title} is not installed", file=sys.stderr)
    with ThreadPoolExecutor(_LANES) as pool:
        results = list(pool.map(_try, [host for host in hosts if host not in missing]))
    print(page.update(["host", "version", *FIELDS], [row for row, found in results if not found]))
    faults = [fault for _, found in results for fault in found]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults or missing else 0


def _try(host: Host) -> tuple[Sequence[str], list[str]]:
    """A row of the table, and what is wrong: if anything is, the row is not to be trusted."""
    with tempfile.TemporaryDirectory(prefix="hosts-") as name:
        folder = Path(name)
        running = Running(folder, folder)
        with running.simulator() as simulator:
            site = Site(folder, simulator)
            site.make()
            seen: dict[str, str] = {}
            try:
                faults = host.refusals(site)
                host.start(site)
                site.wait_until_listening(site.port)
                seen, found = exercise(site, lambda: host.reload(site))
                faults += found
            except (AssertionError, OSError) as error:
                # Also each requests.RequestException, and a program that is not there.
                faults = [f"{type(error).__name__}: {error}"]
            finally:
                site.stop()
        row = [host.title, _version(host), *(seen.get(field, "–") for field in FIELDS)]
        print(" | ".join(row), flush=True)
        logs = [site.log, *site.folder.glob("apache/error.log")]
        tail = "".join(log.read_text(errors="replace")[-1500:] for log in logs if log.exists()) if faults else ""
        return row, [f"{host.title}: {fault}\n{tail}" for fault in faults]


def _version(host: Host) -> str:
    env = {**os.environ, "PATH": _PATH}
    try:
        done = subprocess.run(host.version, env=env, capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return "?"
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found.group() if found else "?"


if __name__ == "__main__":
    sys.exit(main())

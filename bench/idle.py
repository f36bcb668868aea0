"""``python -m bench.idle``: what a gateway costs while nobody uses it: writes, wake-ups, CPU time and memory of one
worker and its master, with the default settings, SQLite and one account.

With ``--before FOLDER`` an earlier version runs at the same time. Linux only. Never fails because of a figure.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Failed, Process
from bench.servers import BEFORE, GATEWAY, running, servers, simulator

# What a start leaves to be done is over then. Seconds.
_SETTLED_AFTER_S = 20.0


@dataclass(frozen=True, slots=True)
class _Counts:
    """Of a process since its start. ``disk_bytes``: in the pages that the kernel writes. ``wake_ups``: how often one
    of its threads had waited and went on."""

    writes: int
    written_bytes: int
    disk_bytes: int
    wake_ups: int

    @classmethod
    def of(cls, pid: int) -> "_Counts":
        io = _values(Path(f"/proc/{pid}/io"))
        threads = [_values(status) for status in Path(f"/proc/{pid}/task").glob("*/status")]
        wake_ups = sum(thread["voluntary_ctxt_switches"] for thread in threads)
        return cls(io["syscw"], io["wchar"], io["write_bytes"], wake_ups)

    def __sub__(self, earlier: "_Counts") -> "_Counts":
        return _Counts(
            self.writes - earlier.writes,
            self.written_bytes - earlier.written_bytes,
            self.disk_bytes - earlier.disk_bytes,
            self.wake_ups - earlier.wake_ups,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--before", type=Path, help="the folder of an earlier version, with a .venv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="idle-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        try:
            upstream = stack.enter_context(simulator(folder))
            gateways: dict[str, Process] = {}
            for server in servers(before=options.before):
                if server.name in (GATEWAY, BEFORE):
                    one = stack.enter_context(running(server, upstream, folder))
                    assert one.process
                    gateways[server.name] = one.process
            _measure(gateways, options.minutes * 60)
        except Failed as failure:
            print(f"idle: {failure}", file=sys.stderr)
            return 1
    return 0


def _measure(gateways: dict[str, Process], seconds: float) -> None:
    time.sleep(_SETTLED_AFTER_S)
    pids = {name: [process.pid, *process.children()] for name, process in gateways.items()}
    before = {name: [_Counts.of(pid) for pid in own] for name, own in pids.items()}
    cpu_s = {name: process.cpu_s() for name, process in gateways.items()}
    time.sleep(seconds)
    for name, process in gateways.items():
        process.check_alive()
        if [process.pid, *process.children()] != pids[name]:
            raise Failed(f"the processes of {name} have changed")
        counts = [_Counts.of(pid) - then for pid, then in zip(pids[name], before[name], strict=True)]
        wake_ups = [count.wake_ups / seconds for count in counts]
        memory = [_values(Path(f"/proc/{pid}/smaps_rollup")) for pid in pids[name]]
        pss, anonymous = ([values[kind] / 1024 for values in memory] for kind in ("Pss", "Pss_Anon"))
        print(f"{name}, {seconds:.0f} s")
        print(f"  write calls           {sum(count.writes for count in counts):>8}")
        print(f"  bytes written         {sum(count.written_bytes for count in counts) / 1000:>8.0f} KB")
        print(f"  to the disk, in pages {sum(count.disk_bytes for count in counts) / 1000:>8.0f} KB")
        print(f"  wake-ups per second   {sum(wake_ups):>8.2f}    {_each(wake_ups)}")
        print(f"  CPU time              {process.cpu_s() - cpu_s[name]:>8.2f} s")
        # The rest are files that other processes may have open, too: libraries.
        print(f"  memory (PSS)          {sum(pss):>8.1f} MB {_each(pss)}")
        print(f"  of that no file       {sum(anonymous):>8.1f} MB {_each(anonymous)}")


def _each(values: Sequence[float]) -> str:
    return f"(master {values[0]:.2f}, worker {sum(values[1:]):.2f})"


def _values(file: Path) -> dict[str, int]:
    """The numbers of a file of lines such as ``Pss:  123 kB``."""
    pairs = (line.partition(":") for line in file.read_text().splitlines())
    return {
        name: int(value.split()[0]) for name, _, value in pairs if value.split()[:1] and value.split()[0].isdigit()
    }


if __name__ == "__main__":
    sys.exit(main())

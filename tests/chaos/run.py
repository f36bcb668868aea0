"""One chaos run from its start to its table."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.clients import Chatter, Client
from tests.chaos.havoc import Killer, Kimi, start
from tests.chaos.ledger import Ledger
from tests.chaos.site import Site, site
from tests.chaos.verdict import Verdict

# 40 clients: as many as there are letters.
_KINDS = "s" * 10 + "n" * 10 + "h" * 10 + "u" * 10
_NAMES = {"s": "stateless", "n": "new", "h": "history", "u": "unnamed"}
# What a run of a minute or more must have seen at least, also on a busy machine, to mean anything; a shorter one its
# share of it.
_LEAST = {
    "workers killed": 3,
    "gateways killed and started again": 1,
    "database crashed and started again": 1,
    "chats lost at Kimi": 2,
    "two turns at once": 2,
    "looked at another key's conversation": 1,
    "repeated with an Idempotency-Key": 2,
    "turns with more than one attempt": 5,
    "conversations that go on": 15,
}
_LEAST_FAULTS = 10
_LEAST_WHOLE = 40

# Longer than the longest turn, its repetitions included.
_LAST_TURNS_S = 240.0


@dataclass(frozen=True, slots=True)
class Result:
    """``problems``: empty where everything was right."""

    seed: int
    seconds: float
    database: str
    problems: list[str]
    faults: dict[str, int]
    outcomes: Counter[str]
    counts: Counter[str]
    settled: dict[str, float]

    @property
    def turns(self) -> int:
        return sum(self.outcomes.values())

    def missing(self) -> list[str]:
        """What there was too little of for the run to mean anything."""
        least = {**_LEAST, **({"database crashed and started again": 0} if self.database == "sqlite" else {})}
        missing = [name for name, times in least.items() if self.counts[name] < self._share(times)]
        # A chat has to be lost, and its conversation to go on: that may take a while.
        if self.seconds >= 60 and not any(name.startswith("rebuilt") for name in self.counts):
            missing.append("rebuilt conversations")
        # Of the few unnamed ones of a short run, each may be cut.
        if self.seconds >= 60 and self.counts["unnamed conversations: continued"] < 3:
            missing.append("unnamed conversations: continued")
        if self.outcomes["whole"] < self._share(_LEAST_WHOLE):
            missing.append("whole answers")
        return [*missing, *(["kinds of faults"] if len(self.faults) < self._share(_LEAST_FAULTS) else [])]

    def _share(self, times: int) -> int:
        return min(times, max(min(times, 1), int(times * self.seconds / 60)))

    def table(self) -> str:
        lines = [f"chaos: seed {self.seed}, {self.seconds:.0f} s, {self.database}", "", "injected by Kimi"]
        lines += _rows(self.faults)
        lines += ["", "done by us and to us", *_rows(self.counts)]
        lines += ["", f"what clients saw of {self.turns} turns", *_rows(self.outcomes)]
        lines += ["", "seconds until, at the end", *_rows(self.settled)]
        lines += ["", f"problems: {len(self.problems)}", *(f"  {problem}" for problem in self.problems[:50])]
        lines += ["", f"too little of: {', '.join(missing)}"] if (missing := self.missing()) else []
        return "\n".join(lines)


def chaos(folder: Path, seed: int, seconds: float, database: str, *, forks: bool = False) -> Result:
    """Everything that is wrong is in the result; raises only where the run itself could not be made. ``forks``: see
    ``site``."""
    with site(folder, database, forks=forks) as the_site:
        ledger = Ledger(the_site.simulator)
        chatter = Chatter(the_site.gateways, ledger)
        _rage(the_site, ledger, chatter, seed, seconds)
        ledger.read_journal()
        verdict = Verdict(the_site, ledger, chatter, seed)
        verdict.settle()
        verdict.let_time_pass()
        verdict.check_accounts()
        verdict.check_conversations()
        verdict.check_journal()
        verdict.check_open_chats()
        verdict.check_litter()
        faults = the_site.simulator.state()["faults"]
        verdict.check_end()
        return Result(
            seed, seconds, database, ledger.problems, faults, ledger.outcomes, ledger.counts, ledger.settled
        )


def _rage(the_site: Site, ledger: Ledger, chatter: Chatter, seed: int, seconds: float) -> None:
    asked_enough, broken_enough = threading.Event(), threading.Event()
    killer = Killer(the_site, ledger, seed, seconds, broken_enough)
    kimi = Kimi(the_site, ledger, seed, broken_enough)
    clients = [
        Client(number, seed, _NAMES[kind], chatter, asked_enough) for number, kind in enumerate(_KINDS, start=1)
    ]
    for thread in (killer.thread, kimi.thread, *(client.thread for client in clients)):
        thread.start()
    broken_enough.wait(seconds)
    broken_enough.set()
    killer.thread.join()
    kimi.thread.join()
    kimi.calm_down()
    for gateway in the_site.gateways:
        if not gateway.runs:
            ledger.wrong(f"gateway {gateway.name} has ended by itself")
            start(gateway)
    asked_enough.set()
    deadline = time.monotonic() + _LAST_TURNS_S
    for client in clients:
        client.thread.join(max(0.0, deadline - time.monotonic()))
        if client.thread.is_alive():
            ledger.wrong(f"{client.thread.name} has not come to an end")


def _rows(counts: Mapping[str, float]) -> list[str]:
    return [
        f"  {name:<44} {times:>7.0f}" for name, times in sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    ]

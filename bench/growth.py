"""``python -m bench.growth``: what the store costs as accounts, streams and waiting requests grow.

One process, on SQLite and on PostgreSQL. Each step is what a worker does for a request or in the background, with
the other rows already there. The median and the 99th percentile of each, in milliseconds; the first row is for
comparisons between machines. Asserts nothing.

    python -m bench.growth --json new.json
    python -m bench.growth --draw growth.png old.json new.json

``--draw`` measures nothing: it draws the steps that both files have.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from app.accounts.leases import Leases
from app.accounts.scheduling import Limits
from app.concurrency.background import Cancellation, Cancelled
from app.store import KeyRow, Store
from app.store.leases import Ticket, Wish
from app.store.process_lease import ProcessLease
from app.store.tables import (
    METADATA,
    accounts,
    api_key_seconds,
    api_keys,
    conversations,
    idempotent_answers,
    leases,
    pending_deletions,
)
from bench.databases import postgresql

_OWNER = "key_of_the_bench"
_SCOPE = "k2"
_REPEAT = 200
# Accounts × waiting requests, and accounts × running streams.
_QUEUES = [(a, w) for a in (5, 50, 500) for w in (0, 50, 500)]
_STREAMS = [(a, r) for a in (5, 50, 500) for r in (0, 500, 2000)]


@dataclasses.dataclass(frozen=True)
class Row:
    """``accounts``, ``others``: of what there is how much."""

    step: str
    accounts: int
    others: str
    p50_ms: float
    p99_ms: float


class _Bench:
    """One worker of the gateway on one database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = Store(url)
        self.engine = sa.create_engine(url)
        self.lease = ProcessLease(self.store, 600.0)

    def empty(self, number: int) -> dict[str, str]:
        """Deletes all rows. The accounts that are there then, each without a stream."""
        with self.engine.begin() as connection:
            for table in METADATA.sorted_tables:
                if table.name not in ("schema_version", "facts"):
                    connection.execute(sa.delete(table))
        self._vacuum()
        # Not its thread, which would work on the database at the same time.
        self.store.processes.register(self.lease.id, time.time())
        ids = {f"account-{n:04}": "digest" for n in range(number)}
        self.store.accounts.add(list(ids), time.time())
        return ids

    def insert(self, table: sa.Table, rows: Sequence[dict[str, object]]) -> None:
        with self.engine.begin() as connection:
            for start in range(0, len(rows), 5000):
                connection.execute(sa.insert(table), list(rows[start : start + 5000]))
        self._vacuum()

    def _vacuum(self) -> None:
        """What PostgreSQL does by itself within a minute after many changes. SQLite needs none of it."""
        if self.store.database.is_server:
            with self.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                connection.execute(sa.text("VACUUM ANALYZE"))

    def run_streams(self, ids: Sequence[str], number: int) -> None:
        """So many streams, evenly on all accounts."""
        now = time.time()
        row = {"process_id": self.store.database.process_id, "scope": _SCOPE, "is_probe": False, "waited": False}
        self.insert(
            leases,
            [
                {
                    **row,
                    "id": uuid.uuid4().hex,
                    "account_id": ids[n % len(ids)],
                    "started_at": now,
                    "ends_at": now + 1e4,
                }
                for n in range(number)
            ],
        )
        self.store.processes.delete_leftovers(now)

    def leases_of(self, max_streams: int, wait_s: float) -> Leases:
        return Leases(
            self.store, self.lease, Limits(max_streams, 0.0), max_waiting=100_000, wait_s=wait_s, longest_s=1e4
        )

    def wait(self, wish: Wish, number: int) -> None:
        """So many requests of ten API keys in the queue."""

        def work(tx: object) -> None:
            for n in range(number):
                ticket = Ticket(uuid.uuid4().hex, f"key-{n % 10}", wish)
                now = time.time()
                self.store.leases.enqueue(tx, ticket, n // 10, self.store.database.process_id, now, now + 1e4)  # type: ignore[arg-type]

        self.store.database.in_exclusive_transaction(work)
        self._vacuum()


def _time(step: Callable[[], object], repeat: int = _REPEAT) -> tuple[float, float]:
    step()
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        step()
        times.append((time.perf_counter() - began) * 1e3)
    return _middle_and_end(times)


def _middle_and_end(times: Sequence[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    ordered = sorted(times)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def _round_trip(bench: _Bench) -> Iterator[Row]:
    """What nothing can be faster than on this machine: the driver alone, without anything of ours."""
    connection = bench.engine.raw_connection()
    try:
        cursor = connection.cursor()
        yield Row("the driver's SELECT 1", 0, "", *_time(lambda: cursor.execute("SELECT 1").fetchall()))
    finally:
        connection.close()


def _queues(bench: _Bench) -> Iterator[Row]:
    for number, waiting in _QUEUES:
        ids = bench.empty(number)
        bench.run_streams(list(ids), number)
        bench.wait(Wish(_SCOPE, ids), waiting)
        queue = bench.leases_of(1, 0.0)
        what = f"{waiting} waiting"
        yield Row("look at the queue", number, what, *_time(queue.look))
        joined: list[float] = []
        both = _time(partial(_join_and_leave, bench.leases_of(1, 10.0), ids, joined))
        yield Row("join and leave the queue", number, what, *both)
        yield Row("of that, join it", number, what, *_middle_and_end(joined))
    # Of all 500 accounts, those are free that nobody waits for.
    ids = bench.empty(500)
    busy = list(ids)[:250]
    bench.run_streams(busy, 250)
    for n in range(500):
        bench.wait(Wish(_SCOPE, {busy[n % 250]: "digest"}), 1)
    yield Row("look at the queue", 500, "500 waiting, for 250 single accounts", *_time(bench.leases_of(1, 0.0).look))


class _LeavesAtOnce(Cancellation):
    """A request that leaves the queue as soon as it is in it."""

    joined_at = 0.0

    def wait(self, event: threading.Event, timeout_s: float) -> None:
        self.joined_at = time.perf_counter()
        self.cancel()
        super().wait(event, timeout_s)


def _join_and_leave(queue: Leases, ids: dict[str, str], joined: list[float]) -> None:
    """Adds to ``joined`` how many milliseconds joining took."""
    request = _LeavesAtOnce()
    began = time.perf_counter()
    with suppress(Cancelled):
        queue.lease(ids, _SCOPE, _OWNER, request)
    joined.append((request.joined_at - began) * 1e3)


def _streams(bench: _Bench) -> Iterator[Row]:
    for number, running in _STREAMS:
        ids = bench.empty(number)
        bench.run_streams(list(ids), running)
        queue = bench.leases_of(0, 10.0)
        yield Row("lease and release", number, f"{running} running", *_time(partial(_lease, queue, ids)))
    ids = bench.empty(5)
    gone = [{"id": f"gone-{n}", "last_turn": 0, "next_at": 0.0} for n in range(1000)]
    bench.insert(accounts, gone)
    yield Row("lease and release", 5, "1000 accounts that are gone", *_time(lambda: _lease(queue, ids)))
    while bench.store.accounts.delete_unseen(time.time() - 3600, 100):
        pass
    yield Row("lease and release", 5, "the same, pruned", *_time(lambda: _lease(queue, ids)))


def _lease(queue: Leases, ids: dict[str, str]) -> None:
    queue.release(queue.lease(ids, _SCOPE, _OWNER, Cancellation()))


def _keys(bench: _Bench) -> Iterator[Row]:
    bench.empty(5)
    row = {"name": "key", "created_at": 0.0}
    bench.insert(api_keys, [{**row, "digest": uuid.uuid4().hex, "version": n} for n in range(10_000)])
    keys = bench.store.keys
    yield Row(
        "look for changed API keys", 5, "10000 keys", *_time(lambda: (keys.changed_since(9_999), keys.after("", 50)))
    )
    now = bench.store.database.now()
    limited = KeyRow("digest", "limited", 0.0, None, None, 1_000_000, None, 0)
    seconds = [{"digest": "digest", "second": int(now) - n, "requests": 100, "newest_at": now - n} for n in range(60)]
    bench.insert(api_key_seconds, seconds)

    def use() -> None:
        at = bench.store.database.now()
        keys.begin_use(limited, uuid.uuid4().hex, window_s=60.0, process_id="bench", now=at, ends_at=at + 60)

    yield Row("limit per minute of a key", 5, "6000 requests in the last minute", *_time(use))


def _background(bench: _Bench) -> Iterator[Row]:
    bench.empty(5)
    answer = {
        "request": "digest",
        "process_id": "",
        "holder": "",
        "content": "x" * 4000,
        "owner": _OWNER,
        "bytes": 4000,
    }
    bench.insert(
        idempotent_answers, [{**answer, "id": uuid.uuid4().hex, "begun_at": float(n)} for n in range(20_000)]
    )
    answers = bench.store.idempotent_answers
    yield Row("a step of the expiry of answers", 5, "20000 answers", *_time(lambda: answers.delete_older(1e9)))
    yield Row("size of a key's answers", 5, "of 20000", *_time(lambda: answers.size("key without any")))
    bench.empty(5)
    chat = {"upstream": "kimi_rest", "tries": 0}
    chats = [
        {
            **chat,
            "chat_id": uuid.uuid4().hex,
            "account_id": f"account-{n % 500:04}",
            "due_at": n if n < 1000 else 1e12,
        }
        for n in range(100_000)
    ]
    bench.insert(pending_deletions, chats)
    some = ["account-0001", "account-0002"]
    rows = bench.store.pending_deletions
    claim: Callable[[], object] = lambda: rows.claim(["kimi_rest"], some, 1e9, 1e12)  # noqa: E731
    yield Row("claim a chat to delete", 5, "100000 chats, 1000 of them due", *_time(claim))
    bench.empty(5)
    talk = {"owner": _OWNER, "model": _SCOPE, "turns": 1, "created_at": 0.0, "holder": "h", "held_until": 0.0}
    talk |= {"updated_at": time.time(), "process_id": bench.store.database.process_id}
    bench.insert(conversations, [{**talk, "id": f"talk-{n}"} for n in range(100_000)])
    with bench.engine.begin() as connection:
        connection.execute(sa.update(conversations).where(conversations.c.id < "talk-2").values(held_until=1e12))
    names = [(_OWNER, f"talk-{n}") for n in range(1000)]
    held = bench.store.conversations.held_among
    yield Row(
        "look for a process's waiting turns", 5, "1000 turns, 100000 conversations", *_time(lambda: held(names), 50)
    )


@contextmanager
def _databases() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, postgresql() as url:
        found = {"SQLite": f"sqlite:///{Path(folder) / 'bench.db'}"}
        yield {**found, "PostgreSQL": url} if url else found


# Database → rows of step, accounts, others, median, 99th percentile.
_Figures = Mapping[str, Sequence[tuple[str, int, str, float, float]]]


def _draw(picture: Path, old: _Figures, new: _Figures) -> None:
    """A panel per step and database; a curve per number of accounts, over what there is besides."""
    # Here and not above: only this needs it.
    from matplotlib.figure import Figure

    steps = [
        step
        for step in dict.fromkeys(row[0] for row in old["SQLite"])
        if any(row[0] == step for row in new["SQLite"])
    ]
    databases = [name for name in old if name in new]
    figure = Figure(figsize=(3.2 * len(steps), 2.7 * len(databases)))
    axes = figure.subplots(len(databases), len(steps), squeeze=False)
    for line, database in zip(axes, databases, strict=True):
        for axis, step in zip(line, steps, strict=True):
            for figures, name, style, colour in ((old, "before", "--", "#b5684c"), (new, "now", "-", "#1a73e8")):
                for number, mark in ((5, "o"), (50, "s"), (500, "^")):
                    points = _curve(figures[database], step, number)
                    label = f"{name}, {number} accounts"
                    axis.plot(*zip(*points, strict=True), style, color=colour, marker=mark, markersize=3, label=label)
            axis.set_yscale("log")
            axis.set_title(f"{step}\n{database}, ms", fontsize=8)
            axis.set_xlabel("open streams" if "release" in step else "waiting requests", fontsize=7)
            axis.tick_params(labelsize=7)
            axis.grid(visible=True, linewidth=0.3)
    axes[0][0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


def _curve(rows: Sequence[tuple[str, int, str, float, float]], step: str, accounts: int) -> list[tuple[int, float]]:
    """How many of the others there are, and the median."""
    return [
        (int(others.split()[0]), p50_ms)
        for name, number, others, p50_ms, _ in rows
        if name == step and number == accounts and others.endswith((" waiting", " running"))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--draw", type=Path, nargs=3, metavar=("PICTURE", "OLD", "NEW"))
    options = parser.parse_args()
    if options.draw:
        picture, *files = options.draw
        _draw(picture, *(json.loads(file.read_text()) for file in files))
        return 0
    with _databases() as urls:
        results: dict[str, list[Row]] = {}
        for name, url in urls.items():
            bench = _Bench(url)
            results[name] = [
                row for part in (_round_trip, _queues, _streams, _keys, _background) for row in part(bench)
            ]
            bench.lease.expire_now()
    if options.json:
        rows_as_json = {name: [dataclasses.astuple(row) for row in rows] for name, rows in results.items()}
        options.json.write_text(json.dumps(rows_as_json, indent=0))
    names = list(results)
    print("| step | accounts | and | " + " | ".join(f"{name}, p50 (p99) ms" for name in names) + " |")
    print("|---|---:|---|" + "---:|" * len(names))
    for rows in zip(*results.values(), strict=True):
        figures = " | ".join(f"{row.p50_ms:.2f} ({row.p99_ms:.2f})" for row in rows)
        print(f"| {rows[0].step} | {rows[0].accounts} | {rows[0].others} | {figures} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

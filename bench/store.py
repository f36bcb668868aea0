"""``python -m bench.store [--database URL]``: what the store's steps cost, and how many new conversations it holds.

Two parts. One process alone: the time of each step of a turn, as the gateway takes it (``app.accounts.leases``,
``app.conversations`` and the tables of ``app.store``). Then several processes, as gunicorn's workers:
turns of new conversations at a given rate, each with its lease, its chat and its end; the rate that was reached,
and how long a turn's share of the store took. Asserts nothing.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path

from app.accounts.leases import Leases
from app.accounts.scheduling import Limits
from app.chat import Caller, ChatRequest, text_message
from app.concurrency.background import Cancellation
from app.conversations.conversations import CompletedTurn, ConversationChat, ConversationLimits, Conversations
from app.store import Store
from app.store.leases import Ticket, Wish
from app.store.process_lease import ProcessLease

_ACCOUNTS = {f"account-{number}": "digest" for number in range(3)}
_REPEAT = 2000
_CALLER = Caller("key_of_the_bench", lambda: False)
_REQUEST = ChatRequest("k2", (text_message("user", "hello"),))


class _Worker:
    """What a worker of the gateway has of the store."""

    def __init__(self, url: str) -> None:
        self.store = Store(url)
        self.store.accounts.add(list(_ACCOUNTS), time.time())
        self.process_lease = ProcessLease(self.store, 10.0)
        self.process_lease.start()
        self.leases = Leases(
            self.store, self.process_lease, Limits(0, 0.0), max_waiting=500, wait_s=30.0, longest_s=1800.0
        )
        limits = ConversationLimits(
            wait_s=15.0, longest_s=1800.0, max_count=10_000_000, max_age_s={}, keep_transcripts=False
        )
        self.conversations = Conversations(self.store, self.process_lease, limits)

    def lease(self) -> None:
        lease = self.leases.lease(_ACCOUNTS, "k2", _CALLER.owner, Cancellation())
        self.leases.release(lease)

    def turn(self, conversation_id: str) -> None:
        """All that the store has to do with the first turn of a conversation."""
        with self.conversations.lease(_CALLER, conversation_id, "k2", Cancellation()) as held:
            lease = self.leases.lease(_ACCOUNTS, "k2", _CALLER.owner, Cancellation())
            if held.is_new:
                chat = ConversationChat(lease.account_id, "kimi.com", "kimi_rest", "k2", uuid.uuid4().hex, None)
                held.save_chat(chat)
            place = held.place(_REQUEST)
            held.complete(CompletedTurn(place, "k2", None, "digest", (), "", (), None, counts=True))
            self.leases.release(lease)

    def chat(self) -> None:
        """The chat of a stateless turn: stored for deletion, and removed when it has been deleted."""
        chat_id = uuid.uuid4().hex
        self.store.pending_deletions.add("kimi_rest", chat_id, "account-0", time.time() + 60)
        self.store.pending_deletions.delete("kimi_rest", chat_id)

    def place(self) -> None:
        """A place in the queue, taken and left."""
        ticket = Ticket(uuid.uuid4().hex, _CALLER.owner, Wish("k2", _ACCOUNTS))
        now = self.store.database.now()
        self.store.database.in_exclusive_transaction(
            lambda tx: self.store.leases.enqueue(tx, ticket, 0, self.process_lease.id, now, now + 60)
        )
        self.store.leases.withdraw(ticket.id)

    def answer(self) -> None:
        """An answer that is stored for an Idempotency-Key."""
        answer_id = uuid.uuid4().hex
        now = self.store.database.now()
        self.store.idempotent_answers.begin(answer_id, _CALLER.owner, "digest", self.process_lease.id, answer_id, now)
        self.store.idempotent_answers.finish(answer_id, "x" * 2000)

    def refresh(self) -> None:
        """The store's part of a refresh: the right to it, and the new pair."""
        row = self.store.tokens.find("account-0")
        assert row is not None, "put below"
        now = self.store.database.now()
        assert self.store.tokens.acquire("account-0", row.version, "bench", now, now + 9) is not None
        self.store.tokens.save("account-0", row.version, "access", "refresh", now + 900)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", help="an SQLAlchemy URL; a new SQLite file where nothing is said")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=200.0, help="new conversations a second, all workers together")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        url = options.database or f"sqlite:///{Path(folder) / 'bench.db'}"
        _steps(url)
        _crowd(url, options.workers, options.rate, options.seconds)
    return 0


def _steps(url: str) -> None:
    worker = _Worker(url)
    worker.store.tokens.begin("account-0", uuid.uuid4().hex, "access", "refresh", time.time() + 900)
    name = uuid.uuid4().hex
    steps: dict[str, Callable[[], None]] = {
        "lease of an account, taken and given back": worker.lease,
        "place in the queue, taken and left": worker.place,
        "first turn of a conversation, with its lease": lambda: worker.turn(uuid.uuid4().hex),
        "later turn of a conversation, with its lease": lambda: worker.turn(name),
        "chat of a stateless turn, added and removed": worker.chat,
        "answer for an Idempotency-Key, begun and kept": worker.answer,
        "refresh of a token, held and saved": worker.refresh,
    }
    print(f"one process, {_REPEAT} times each\n{'step':<50} {'p50 µs':>8} {'p99 µs':>8} {'CPU µs':>8}")
    for what, step in steps.items():
        times, cpu = [], time.process_time()
        for _ in range(_REPEAT):
            began = time.perf_counter()
            step()
            times.append((time.perf_counter() - began) * 1e6)
        cpu = (time.process_time() - cpu) / _REPEAT * 1e6
        print(f"{what:<50} {statistics.median(times):>8.0f} {_percentile(times, 0.99):>8.0f} {cpu:>8.0f}")
    worker.process_lease.expire_now()


def _crowd(url: str, workers: int, rate: float, seconds: float) -> None:
    context = multiprocessing.get_context("spawn")
    results: Queue[tuple[list[float], float]] = context.Queue()
    crowd = [context.Process(target=_hold_rate, args=(url, rate / workers, seconds, results)) for _ in range(workers)]
    for process in crowd:
        process.start()
    got = [results.get(timeout=seconds + 60) for _ in crowd]
    for process in crowd:
        process.join(30)
    times = [at for some, _ in got for at in some]
    reached = sum(len(some) / took for some, took in got)
    print(
        f"\n{workers} processes, {rate:.0f} new conversations a second asked for: {reached:.0f} held; "
        f"the store took {statistics.median(times) * 1e3:.1f} ms of a turn (p99 {_percentile(times, 0.99) * 1e3:.1f})"
    )


def _hold_rate(url: str, rate: float, seconds: float, results: "Queue[tuple[list[float], float]]") -> None:
    """Turns begin on time whatever the earlier ones took, until so many seconds are over."""
    worker = _Worker(url)
    times = []
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        worker.turn(uuid.uuid4().hex)
        times.append(time.perf_counter() - max(due, began))
    took = time.perf_counter() - began
    worker.process_lease.expire_now()
    results.put((times, took))


def _percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


if __name__ == "__main__":
    raise SystemExit(main())

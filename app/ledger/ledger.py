"""Requests from their beginning to their rows in the store.

    begin → the request fills its record → done → every second: rows and sums → the store, in steps

At the end of a request its record goes into a list; nothing is written then. A thread takes the list once a second.
Rows and the sums of these rows are written in one transaction, so that sums always equal rows. A killed process loses
its last second. While the database is away, records wait; beyond a limit the oldest become sums only. Nothing that
fails here touches a request. Must never know HTTP.
"""

import hashlib
import hmac
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from app.concurrency.periodic import Periodic, every, in_steps
from app.concurrency.yielding import NEXT_ROUND_S, in_slices
from app.ledger.series import DROPPED, MAX_KEYS, Sums, stored
from app.request_record import LEFT, RequestRecord
from app.store import Store, StoreError
from app.store.ledger import AttemptRow, HourRow, RequestRow, Step, UsageRow, id_at
from app.text import token_count

log = logging.getLogger(__name__)

# How often the store is written. Seconds.
_WRITE_EVERY_S = 1.0
_SLEEP_S = 60.0
# Rows of one transaction: under gevent SQLite holds the whole worker meanwhile. A row costs about 0.1 ms, a
# transaction 0.3 ms.
_ROWS_PER_STEP = 20
# The same for rows that are deleted, which cost a tenth of that.
_DELETED_PER_STEP = 100
# Records that wait while the database is away. What is older becomes sums.
_MOST_WAITING = 10_000
# Rows that are kept, whatever their age.
MOST_ROWS = 100_000
# How long sums are kept.
_KEEP_SUMS_DAYS = 400
# How often a process deletes what is too old although it writes nothing. Seconds.
_CLEAN_EVERY_S = 3600.0
# How often the label sets are read that other processes have added. Seconds.
_LEARN_EVERY_S = 300.0
# How often a process that writes looks for rows that are too old. Seconds.
_PRUNE_EVERY_S = 10.0
# How often a step is tried that fails for another reason than that the database is away.
_TRIES = 5
# Refusals without a known key that get rows of their own in a minute, if they differ.
_REFUSALS_PER_MINUTE = 5
# How long the last step may take when the process ends. Seconds.
_LAST_STEP_S = 2.0


@dataclass(frozen=True, slots=True)
class LedgerLimits:
    """``keep_days``: of the request log; 0: no log, sums only."""

    keep_days: float
    most_rows: int = MOST_ROWS


class Ledger:
    """All requests of this process. One object per process."""

    def __init__(self, store: Store, limits: LedgerLimits) -> None:
        self._store = store
        self._limits = limits
        # Requests that have not ended, for live views. The keys are the records themselves: the oldest is first.
        self.running: dict[RequestRecord, None] = {}
        self._done: list[RequestRecord] = []
        # A step that may have been written: it is tried again as it is.
        self._unfinished: Step | None = None
        # What could not become rows: how many requests, and their sums. The requests themselves are not held.
        self._dropped = 0
        self._sums, self._usage = Sums(), _Usage()
        self._next_step = 1
        self._keys: set[tuple[str, str]] = set()
        self._keys_read_at = -_LEARN_EVERY_S
        self._refusals = _Refusals(store.database.process_id)
        self._is_failing = False
        self._failures = 0
        # How many rows this process may delete, and when it last looked for them.
        self._to_prune = 0
        self._pruned_at = 0.0
        self._writing = threading.Lock()
        self._thread: Periodic | None = None
        # It does so while no request runs and none is to be written.
        self._sleeps = False
        # Called at the beginning of each request.
        self.when_begun: Sequence[Callable[[], None]] = ()
        # How long the last write took. Seconds.
        self.last_write_s = 0.0

    def __repr__(self) -> str:
        return f"<Ledger running={len(self.running)} waiting={len(self._done)}>"

    def start(self) -> None:
        self._thread = every(_WRITE_EVERY_S, self._write_quietly, "ledger", first_after_s=_WRITE_EVERY_S)
        every(_CLEAN_EVERY_S, self.clean, "ledger-cleaning", first_after_s=random.uniform(60, _CLEAN_EVERY_S))

    def begin(self, api: str, request_id: str, client: str, trace: str) -> RequestRecord:
        """The record of a request that arrives. ``response_ended`` of it must be called."""
        record = RequestRecord(api, request_id, client, trace, when_done=self._note)
        self.running[record] = None
        if self._sleeps and self._thread is not None:
            self._sleeps = False
            self._thread.wake()
        for call in self.when_begun:
            call()
        return record

    def close(self) -> None:
        """Writes what is left: the process ends."""
        if self._thread is not None:
            self._thread.stop()
        if not self._writing.acquire(timeout=_LAST_STEP_S):
            log.warning("ledger_not_written requests=%d error=another step still runs", len(self._done))
            return
        try:
            with self._store.database.retrying_for(_LAST_STEP_S):
                self._write()
        except StoreError as e:
            log.warning("ledger_not_written requests=%d error=%s", len(self._done), e)
        finally:
            self._writing.release()

    def write(self) -> None:
        """Writes everything that has ended. Raises StoreError."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        while self._unfinished is not None or self._done or self._dropped:
            now = self._store.database.now()
            if self._unfinished is None:
                self._unfinished = self._next(now)
                time.sleep(NEXT_ROUND_S)
            step = self._unfinished
            began = time.monotonic()
            try:
                rows = self._store.ledger.write(step, now)
            except StoreError as e:
                self._failed(step, e)
                raise
            self._unfinished, self._failures = None, 0
            self.last_write_s = time.monotonic() - began
            self._to_prune += 2 * len(step.rows)
            if rows > self._limits.most_rows or began - self._pruned_at >= _PRUNE_EVERY_S:
                self._prune(rows, now)
            time.sleep(NEXT_ROUND_S)

    def _failed(self, step: Step, error: StoreError) -> None:
        """A step that can never be written must not keep the others from it."""
        if not error.is_transient:
            self._failures += 1
        if self._failures >= _TRIES:
            self._unfinished, self._failures = None, 0
            log.error("ledger_step_lost requests=%d error=%s", len(step.rows), error)

    def clean(self) -> None:
        """Deletes what is too old, all of it."""
        now = self._store.database.now()
        self._store.ledger.delete_sums(now, _KEEP_SUMS_DAYS)
        before = id_at(now - self._limits.keep_days * 86_400)
        in_steps(lambda: self._store.ledger.delete_oldest(before, _DELETED_PER_STEP), _DELETED_PER_STEP)
        over = self._store.ledger.size().rows - self._limits.most_rows
        while over > 0:
            over -= self._store.ledger.delete_oldest(id_at(now), min(over, _DELETED_PER_STEP)) or over
            time.sleep(0.02)

    def _note(self, record: RequestRecord) -> None:
        """The request has ended, and no thread works for it any more."""
        self.running.pop(record, None)
        record.when_done = None
        if record.is_answer or record.blame:
            self._done.append(record)

    def _write_quietly(self) -> float:
        """Returns the seconds until the next step."""
        self.make_room()
        try:
            self.write()
        except StoreError as e:
            if not self._is_failing:
                log.warning("ledger_waits requests=%d error=%s", len(self._done), e)
            self._is_failing = True
            return _WRITE_EVERY_S
        self._is_failing = False
        # Set before the look: a request that begins in between wakes this thread.
        self._sleeps = True
        if self.running or self._done or self._dropped:
            self._sleeps = False
        return _SLEEP_S if self._sleeps else _WRITE_EVERY_S

    def make_room(self) -> None:
        """Lets the oldest become sums only, if too many wait."""
        with self._writing:
            oldest = self._done[: max(0, len(self._done) - _MOST_WAITING)]
            del self._done[: len(oldest)]
            clock = self._store.database.now() - time.monotonic()
            for record in in_slices(oldest, _ROWS_PER_STEP):
                row = self._row(record, clock)
                self._sums.add_request(record, row)
                self._usage.add(row)
            self._dropped += len(oldest)

    def _next(self, now: float) -> Step:
        """The next step, of what has waited for longest."""
        taken, dropped = self._done[:_ROWS_PER_STEP], self._dropped
        del self._done[: len(taken)]
        sums, usage = self._sums, self._usage
        self._dropped, self._sums, self._usage = 0, Sums(), _Usage()
        clock = now - time.monotonic()
        rows: list[RequestRow] = []
        attempts: list[AttemptRow] = []
        folded: list[RequestRow] = []
        for record in taken:
            row = self._row(record, clock)
            if self._limits.keep_days > 0:
                if _is_refusal(record):
                    folded.append(self._refusals.fold(row))
                else:
                    rows.append(row)
                    attempts += _attempt_rows(record, row)
            sums.add_request(record, row)
            usage.add(row)
        sums.add(DROPPED, ("rows",), dropped if self._limits.keep_days > 0 else 0)
        step = Step(
            self._next_step, rows, attempts, _joined(folded), usage.days(), usage.hours(), self._tallies(sums)
        )
        self._next_step += 1
        return step

    def _row(self, record: RequestRecord, clock: float) -> RequestRow:
        """``clock``: Unix minus monotonic time."""
        ended_at = clock + record.ended
        first_s = None if record.first_at is None else record.first_at - record.began
        tokens_in, tokens_out, tokens_thought = _tokens(record)
        return RequestRow(
            id_at(ended_at, f"{random.getrandbits(32):08x}"),
            ended_at,
            record.request_id,
            record.owner,
            record.api,
            int(record.is_stream),
            record.model,
            record.protocol,
            record.account_id,
            len(record.attempts),
            record.status,
            record.end or LEFT,
            record.blame,
            round(record.waited_s * 1000),
            None if first_s is None else round(first_s * 1000),
            round((record.ended - record.began) * 1000),
            None if first_s is None else round(record.longest_s * 1000),
            record.chars_in,
            record.chars_out,
            record.chars_thought,
            tokens_in,
            tokens_out,
            tokens_thought,
            record.flags,
            self._digest(record),
            record.client,
            record.trace,
        )

    def _digest(self, record: RequestRecord) -> str:
        if record.conversation_id is None:
            return ""
        name = f"{record.owner}\0{record.conversation_id}".encode(errors="replace")
        return hmac.new(self._store.digest_key, name, hashlib.sha256).hexdigest()[:8]

    def _tallies(self, sums: Sums) -> dict[tuple[str, str], float]:
        """The sums as they are stored; label sets beyond the limit only as their number."""
        keyed = {stored(*key): n for key, n in sums.counts.items()}
        new = keyed.keys() - self._keys
        if new and len(self._keys) + len(new) > MAX_KEYS:
            self._learn_keys()
            for key in sorted(keyed.keys() - self._keys)[max(0, MAX_KEYS - len(self._keys)) :]:
                refused = stored(DROPPED.name, ("labels",))
                keyed[refused] = keyed.get(refused, 0.0) + 1
                del keyed[key]
        self._keys |= keyed.keys()
        return keyed

    def _learn_keys(self) -> None:
        """At most every few minutes: what others have added since is few."""
        if time.monotonic() - self._keys_read_at >= _LEARN_EVERY_S:
            self._keys = self._store.ledger.tally_keys()
            self._keys_read_at = time.monotonic()

    def _prune(self, rows: int, now: float) -> None:
        """Deletes rows beyond the bounds of the log: twice as many as this process has added, at most."""
        self._pruned_at = time.monotonic()
        for before, most in (
            (id_at(now - self._limits.keep_days * 86_400), self._to_prune),
            (id_at(now), rows - self._limits.most_rows),
        ):
            left = min(most, self._to_prune)
            while left > 0:
                wanted = min(left, _DELETED_PER_STEP)
                deleted = self._store.ledger.delete_oldest(before, wanted)
                self._to_prune -= deleted
                left = left - deleted if deleted == wanted else 0
                time.sleep(NEXT_ROUND_S)


class _Refusals:
    """Refusals of requests without a known key. They must not fill the log: those of a minute with the same code and
    client are one row, and there are few such rows a minute."""

    def __init__(self, process_id: str) -> None:
        self._process_id = process_id
        self._minute = 0
        self._known: set[tuple[str, str, str]] = set()

    def fold(self, row: RequestRow) -> RequestRow:
        """The row with an id that others share."""
        minute = int(row.ended_at // 60)
        if minute != self._minute:
            self._minute, self._known = minute, set()
        kind = (row.api, row.ending, row.client)
        if kind not in self._known:
            if len(self._known) < _REFUSALS_PER_MINUTE:
                self._known.add(kind)
            else:
                kind = ("other", "other_refusal", "?")
                row = replace(row, api=kind[0], ending=kind[1], client=kind[2])
        digest = hashlib.sha256("\0".join((self._process_id, *kind)).encode()).hexdigest()[:8]
        return replace(row, id=id_at(minute * 60, digest))


def _is_refusal(record: RequestRecord) -> bool:
    return not record.owner and not record.is_answer


def _joined(folded: Iterable[RequestRow]) -> list[RequestRow]:
    """Rows with the same id as one."""
    rows: dict[str, RequestRow] = {}
    for row in folded:
        earlier = rows.get(row.id)
        rows[row.id] = row if earlier is None else replace(row, n=earlier.n + row.n)
    return list(rows.values())


def _attempt_rows(record: RequestRecord, row: RequestRow) -> Sequence[AttemptRow]:
    if len(record.attempts) < 2 and not any(attempt.code for attempt in record.attempts):
        return ()
    return [
        AttemptRow(
            row.id,
            number,
            attempt.account_id,
            attempt.protocol,
            attempt.code,
            attempt.blame,
            round(attempt.seconds * 1000),
            attempt.cooldown_s,
        )
        for number, attempt in enumerate(record.attempts, start=1)
    ]


def _tokens(record: RequestRecord) -> tuple[int | None, int | None, int | None]:
    if not record.attempts:
        # Also for a repetition: the client is told the tokens of the answer, and none went to Kimi.
        return None, None, None
    if record.usage is not None:
        return record.usage
    thought = token_count.rough(record.ascii_thought, record.other_thought)
    out = thought + token_count.rough(record.ascii_out, record.other_out)
    return token_count.rough(record.ascii_in, record.other_in), out, thought


class _Usage:
    """Sums by day and by hour."""

    def __init__(self) -> None:
        self._days: dict[tuple[int, str, str, str], list[float]] = {}
        self._hours: dict[int, list[float]] = {}

    def add(self, row: RequestRow) -> None:
        sums = (row.n, int(row.blame != ""), row.tokens_in or 0, row.tokens_out or 0)
        key = (int(row.ended_at // 86_400), row.owner, row.model, row.account_id)
        day = self._days.setdefault(key, [0, 0, 0, 0, 0, 0.0])
        hour = self._hours.setdefault(int(row.ended_at // 3600), [0, 0, 0, 0])
        for at, n in enumerate(sums):
            day[at] += n
            hour[at] += n
        day[4] += row.tokens_thought or 0
        day[5] += row.total_ms / 1000

    def days(self) -> list[UsageRow]:
        return [
            UsageRow(*key, int(n), int(failures), int(came), int(went), int(thought), seconds)
            for key, (n, failures, came, went, thought, seconds) in sorted(self._days.items())
        ]

    def hours(self) -> list[HourRow]:
        return [
            HourRow(hour, int(n), int(failures), int(came), int(went))
            for hour, (n, failures, came, went) in sorted(self._hours.items())
        ]

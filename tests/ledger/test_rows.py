"""What the ledger writes and deletes, without a server: steps, bounds, a database that is away."""

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from app.ledger.ledger import Ledger, LedgerLimits
from app.ledger.reading import newest, pages
from app.request_record import AttemptRecord, RequestRecord
from app.store import Store, StoreError
from app.store.ledger import Filter, RequestRow, Step, id_at, time_of
from tests.running import BOTH_DATABASES, Database, Running

# With ROWS=1000000 the figures of the design are held against a full table.
_ROWS = int(os.environ.get("ROWS", "3000"))


@pytest.fixture
def new(running: Running, database: str) -> Database:
    return running.new_database()


@pytest.fixture
def store(new: Database) -> Iterator[Store]:
    with closing(Store(new.url)) as store:
        yield store


def done(ledger: Ledger, owner: str = "key_a", model: str = "k2", **more: object) -> RequestRecord:
    """A request that has been answered."""
    record = ledger.begin("chat", "req", "curl 8.5.0", "")
    record.is_answer, record.owner, record.model, record.status = True, owner, model, 200
    record.account_id, record.protocol, record.ascii_out = "acc_1", "kimi_rest", 40
    record.attempts.append(AttemptRecord("acc_1", "kimi_rest", "", "", 0.1, 0.0))
    record.first_at = record.began
    record.finished("stop")
    for name, value in more.items():
        setattr(record, name, value)
    record.response_ended()
    return record


def records_in_memory() -> int:
    gc.collect()
    return sum(type(each) is RequestRecord for each in gc.get_objects())


def written_row(at: float, number: int = 0) -> RequestRow:
    return RequestRow(
        id_at(at, f"{number:08x}"),
        at,
        f"req_{number}",
        f"key_{number % 7}",
        "chat",
        1,
        f"model-{number % 5}",
        "kimi_rest",
        f"acc_{number % 3}",
        1,
        200,
        "stop" if number % 50 else "rate_limit_exceeded",
        "" if number % 50 else "account",
        *(0, 900, 4000, 200, 500, 900, 100, 120, 250, 30, 1, "", "curl 8.5.0", ""),
    )


def fill(database: Database, rows: int, first_at: float, last_at: float) -> None:
    """As if another process had written so many requests, which ended in that time."""
    between = (last_at - first_at) / rows
    with closing(Store(database.url)) as other:
        write_all(other, rows, first_at, between)


def write_all(other: Store, rows: int, first_at: float, between: float) -> None:
    for number, start in enumerate(range(0, rows, 5000), start=1):
        some = [written_row(first_at + i * between, i) for i in range(start, min(rows, start + 5000))]
        other.ledger.write(Step(number, some, [], [], [], [], {}), first_at)


def timed(work: Callable[[], object], times: int = 20) -> float:
    """The shortest, in milliseconds: other programs on the machine make any of them longer."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took) * 1000


def test_each_request_that_begins_is_announced_also_while_others_run(store: Store) -> None:
    """So the process stops resting, whatever the thread that writes does."""
    ledger = Ledger(store, LedgerLimits(14))
    begun: list[int] = []
    ledger.when_begun = (lambda: begun.append(len(ledger.running)),)
    done(ledger)
    ledger.begin("chat", "req", "curl 8.5.0", "")
    done(ledger)
    assert begun == [1, 1, 2]


@BOTH_DATABASES
def test_a_step_that_is_written_again_changes_nothing(store: Store) -> None:
    ledger = Ledger(store, LedgerLimits(14))
    for _ in range(250):
        done(ledger)
    ledger.write()
    before = (store.ledger.size().rows, store.ledger.usage(0, 10**6), store.ledger.tallies())
    assert before[0] == 250 and [row.requests for row in before[1]] == [250]
    # The commit was done, and its answer was lost.
    last = Step(13, [written_row(time.time())], [], [], before[1], [], {("request_log_rows", "{}"): 9.0})
    store.ledger.write(last, time.time())
    assert (store.ledger.size().rows, store.ledger.usage(0, 10**6), store.ledger.tallies()) == before


def test_sums_are_kept_without_a_log(store: Store) -> None:
    ledger = Ledger(store, LedgerLimits(0))
    done(ledger)
    ledger.write()
    assert store.ledger.newest(10) == [] and [row.requests for row in store.ledger.usage(0, 10**6)] == [1]
    assert [row.requests for row in store.ledger.hours(0, 10**7)] == [1]


@BOTH_DATABASES
def test_whoever_adds_deletes_twice_as_much_of_what_is_too_old(new: Database, store: Store) -> None:
    now = time.time()
    fill(new, 1000, now - 20 * 86_400, now - 15 * 86_400)
    ledger = Ledger(store, LedgerLimits(14))
    record = ledger.begin("chat", "req", "", "")
    record.attempts += [AttemptRecord("acc_1", "kimi_rest", "x", "account", 0.1, 0.0)] * 2
    record.is_answer = True
    record.response_ended()
    for _ in range(149):
        done(ledger)
    ledger.write()
    ledger.write()
    left = store.ledger.size()
    assert left.rows == len(store.ledger.newest(10_000)) == 1000 + 150 - 2 * 20
    ledger.clean()
    assert store.ledger.size().rows == 150 and len(store.ledger.attempts(store.ledger.newest(150)[-1].id)) == 2


def test_the_log_keeps_the_newest_of_too_many(new: Database, store: Store) -> None:
    now = time.time()
    fill(new, 400, now - 1000, now - 10)
    ledger = Ledger(store, LedgerLimits(14, most_rows=300))
    for _ in range(100):
        done(ledger)
    ledger.write()
    assert store.ledger.size().rows == 300
    ledger.clean()
    rows = store.ledger.newest(1000)
    assert len(rows) == 300 and [row.id for row in rows] == sorted((row.id for row in rows), reverse=True)
    assert sum(row.request_id == "req" for row in rows) == 100


@BOTH_DATABASES
def test_attempts_are_deleted_with_their_requests(store: Store) -> None:
    ledger = Ledger(store, LedgerLimits(14, most_rows=1))
    for _ in range(4):
        done(ledger, attempts=[AttemptRecord("acc_1", "kimi_rest", "x", "account", 0.1, 2.0)] * 2)
    ledger.write()
    ids = [row.id for row in store.ledger.newest(10)]
    ledger.clean()
    assert [row.id for row in store.ledger.newest(10)] == ids[:1]
    assert [len(store.ledger.attempts(id_)) for id_ in ids] == [2] + [0] * (len(ids) - 1)


def test_while_the_database_is_away_the_oldest_become_sums(running: Running) -> None:
    database = running.new_database()
    with closing(Store(database.url)) as store:
        ledger = Ledger(store, LedgerLimits(14))
        database.run("ALTER TABLE usage_days RENAME TO hidden")
        before = records_in_memory()
        for _ in range(10_300):
            done(ledger)
        with pytest.raises(StoreError):
            ledger.write()
        ledger.make_room()
        # However long the database is away, no more of them are held.
        assert records_in_memory() - before == 10_000
        database.run("ALTER TABLE hidden RENAME TO usage_days")
        ledger.write()
        assert sum(row.requests for row in store.ledger.usage(0, 10**6)) == 10_300
        # The step that had failed, of 20, and those that there was room for.
        assert store.ledger.size().rows == 10_020
        (lost,) = (row for row in store.ledger.tallies() if row.name == "kimi_gateway_ledger_dropped")
        assert (lost.labels, lost.n) == ({"kind": "rows"}, 280)


def test_a_step_that_can_never_be_written_does_not_keep_the_next_ones(running: Running) -> None:
    database = running.new_database()
    with closing(Store(database.url)) as store:
        ledger = Ledger(store, LedgerLimits(14))
        done(ledger)
        database.run("ALTER TABLE usage_days RENAME TO hidden")
        for _ in range(5):
            with pytest.raises(StoreError):
                ledger.write()
        database.run("ALTER TABLE hidden RENAME TO usage_days")
        done(ledger)
        ledger.write()
        assert store.ledger.size().rows == 1


def test_label_sets_have_a_limit_and_what_is_beyond_is_counted(store: Store) -> None:
    ledger = Ledger(store, LedgerLimits(14))
    # Each has ten of its own.
    for number in range(1_200):
        done(ledger, model=f"model-{number}")
    ledger.write()
    tallies = store.ledger.tallies()
    assert 10_000 <= len(tallies) <= 10_002
    (lost,) = (row for row in tallies if row.labels == {"kind": "labels"})
    assert lost.n > 100


@BOTH_DATABASES
def test_a_page_with_a_filter_looks_at_a_bounded_number_of_rows(new: Database, store: Store) -> None:
    now = time.time()
    fill(new, 3000, now - 3000, now - 1)
    page = store.ledger.page(Filter(owner="nobody"), look_at=1000)
    assert (page.rows, page.is_bounded) == ([], True) and page.more is not None
    assert abs(time_of(page.more) - (now - 1000)) < 5
    found = [row for rows in pages(store, Filter(owner="key_3", ending="failed")) for row in rows]
    assert {(row.owner, row.blame) for row in found} == {("key_3", "account")}
    assert len(found) == sum(1 for number in range(3000) if number % 7 == 3 and number % 50 == 0)
    assert [row.request_id for row in newest(store, Filter(), 3)] == ["req_2997", "req_2998", "req_2999"]
    recent = [row for rows in pages(store, Filter(since=now - 100)) for row in rows]
    assert len(recent) == pytest.approx(100, abs=3)


def test_a_full_log_is_read_and_pruned_within_the_figures(
    new: Database, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ROWS=1000000 (and -s): the figures of the design, on a quiet machine."""
    now = time.time()
    fill(new, _ROWS, now - 13 * 86_400, now - 1)
    figures = {
        "page of 50": timed(lambda: store.ledger.page()),
        "page with a filter that finds nothing": timed(lambda: store.ledger.page(Filter(owner="nobody"))),
        "one request by its id": timed(lambda: store.ledger.page(Filter(request_id=f"req_{_ROWS // 2}"))),
        "sums of 30 days": timed(lambda: store.ledger.usage(0, 10**6)),
        "prune 100": timed(lambda: store.ledger.delete_oldest(id_at(now), 100)),
    }
    with capsys.disabled():
        sys.stdout.write(f"{_ROWS} rows: { ({name: round(ms, 2) for name, ms in figures.items()}) }\n")
    # A worker must answer others: five milliseconds at a stretch, with room for a busy machine.
    assert max(figures.values()) < 50

"""Background work that is done again and again: what fails is logged once and called again."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import cast

import pytest

from app.concurrency.periodic import Beat, every
from app.store import Store
from app.store.process_lease import ProcessLease
from tests.running import SqliteDatabase, wait_until
from tests.running.tables import Tables


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(f"sqlite:///{tmp_path}/x.db")) as store:
        yield store


def test_work_that_raises_is_logged_once_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []
    done = threading.Event()

    def work() -> None:
        calls.append(len(calls))
        if len(calls) < 3:
            raise KeyError(f"call {len(calls)}")
        done.set()

    with caplog.at_level(logging.ERROR, "app"), ExitStack() as stack:
        stack.callback(every(0.01, work, "broken-work").stop)
        assert done.wait(30)
    failures = [record for record in caplog.records if "work=broken-work" in record.getMessage()]
    assert [str(cast(tuple[object, object], record.exc_info)[1]) for record in failures] == ["'call 1'", "'call 2'"]
    assert all(record.getMessage().startswith("background_work_failed") for record in failures)


# What raises is followed by a call that does not, in a worker's world.
_UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import threading
from app.concurrency.periodic import every

done, calls = threading.Event(), []

def work():
    calls.append(1)
    if len(calls) == 1:
        raise KeyError("x")
    done.set()

every(0, work, "broken-work")
assert done.wait(30), "it was not called again"
"""


def test_work_that_raises_is_called_again_under_gevent() -> None:
    done = subprocess.run([sys.executable, "-c", _UNDER_GEVENT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_work_chooses_its_next_pause_which_wake_ends_and_stop_makes_the_last() -> None:
    calls = threading.Semaphore(0)

    def work() -> float:
        calls.release()
        return 600.0

    periodic = every(0.01, work, "slow-work")
    assert calls.acquire(timeout=30)
    assert not calls.acquire(timeout=0.1)
    periodic.wake()
    assert calls.acquire(timeout=30)
    periodic.stop()
    wait_until("its thread ends", lambda: "slow-work" not in [thread.name for thread in threading.enumerate()])
    assert not calls.acquire(blocking=False)


def _pausing(beat: Beat, seconds: float) -> tuple[threading.Thread, threading.Event]:
    """A thread that pauses, and what wakes it."""
    woken = threading.Event()
    thread = threading.Thread(target=beat.wait, args=(woken, seconds), daemon=True)
    thread.start()
    wait_until("it pauses", lambda: "1 pauses" in repr(beat))
    return thread, woken


def test_a_long_pause_ends_with_the_last_beat_before_its_end() -> None:
    beat, began = Beat(), time.monotonic()
    beat(began)
    thread, woken = _pausing(beat, 600)
    for early_s in (600, 300, 2):
        beat(began + 600 - early_s)
        assert not woken.is_set()
    beat(began + 600 - 0.5)
    thread.join(30)
    assert not thread.is_alive() and "0 pauses" in repr(beat)


def test_a_pause_that_is_woken_is_over_at_once() -> None:
    beat = Beat()
    beat(time.monotonic())
    thread, woken = _pausing(beat, 600)
    woken.set()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize(("seconds", "has_beats"), [(0.1, True), (0.1, False), (2.0, True), (2.0, False)])
def test_every_pause_ends_also_if_no_beat_comes_any_more(seconds: float, has_beats: bool) -> None:
    beat, began = Beat(), time.monotonic()
    if has_beats:
        beat(began)
    beat.wait(threading.Event(), seconds)
    assert time.monotonic() - began >= seconds


def test_a_process_stays_alive_whatever_it_fails_to_give_back(store: Store, tmp_path: Path) -> None:
    process_lease = ProcessLease(store, lease_s=0.3)
    process_lease.start()
    failed = threading.Event()

    def release() -> None:
        failed.set()
        raise KeyError("release")

    process_lease.retry_later(release)
    assert failed.wait(30)
    tables = Tables(SqliteDatabase(tmp_path / "x.db"))
    until = tables.processes_live_until()
    wait_until("it is renewed", lambda: tables.processes_live_until() != until)
    process_lease.expire_now()
    assert tables.processes_live_until() is None

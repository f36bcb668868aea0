"""Work in the background and the watchdog of its time limits, by themselves."""

import gc
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar, copy_context

import pytest

from app.concurrency.background import Background, Cancellation, Cancelled, ConsumerStalled, EndOfSource
from app.concurrency.watchdog import Watchdog
from tests.running import wait_until

Emit = Callable[[int], None]


@pytest.fixture(scope="module")
def watchdog() -> Watchdog:
    return Watchdog()


def test_items_come_in_order_and_then_the_end(watchdog: Watchdog) -> None:
    def source(cancellation: Cancellation, emit: Emit) -> None:
        for number in range(5000):
            emit(number)

    background, items = Background(source, watchdog, longest_s=30), list[int]()
    with pytest.raises(EndOfSource):
        while True:
            items += background.take(30)
    assert items == list(range(5000))


def test_an_exception_comes_after_the_items_that_were_emitted_before_it(watchdog: Watchdog) -> None:
    def source(cancellation: Cancellation, emit: Emit) -> None:
        emit(1)
        raise KeyError("after the first")

    background = Background(source, watchdog, longest_s=30)
    assert background.take(30) == [1]
    with pytest.raises(KeyError, match="after the first"):
        background.take(30)


def test_a_wait_in_vain_gives_no_items_and_cancel_ends_the_source(watchdog: Watchdog) -> None:
    ended = threading.Event()

    def source(cancellation: Cancellation, emit: Emit) -> None:
        try:
            cancellation.sleep(60)
        except Cancelled:
            ended.set()
            raise

    background = Background(source, watchdog, longest_s=30, within_s=0.02)
    began = time.monotonic()
    assert background.take(0.05) == []
    assert 0.05 <= time.monotonic() - began < 10
    background.cancel()
    assert ended.wait(30)


def test_a_source_is_ended_when_its_consumer_does_not_read(watchdog: Watchdog) -> None:
    raised: list[BaseException] = []

    def source(cancellation: Cancellation, emit: Emit) -> None:
        try:
            while True:
                emit(0)
        except Cancelled as e:
            raised.append(e)
            raise

    background = Background(source, watchdog, longest_s=0.1)
    wait_until("it is ended", lambda: raised)
    assert isinstance(raised[0], ConsumerStalled)
    assert background.take(30)
    with pytest.raises(ConsumerStalled):
        background.take(30)


class _Counting:
    """Counts its checks; the first raises where it is to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.checks = 0
        self._fails = fails

    def check(self, now: float) -> None:
        self.checks += 1
        if self._fails:
            raise KeyError("a fault of ours")


def test_an_object_that_fails_is_forgotten_and_the_others_are_checked(caplog: pytest.LogCaptureFixture) -> None:
    watchdog, broken, good = Watchdog(), _Counting(fails=True), _Counting()
    with caplog.at_level(logging.ERROR, "app"):
        watchdog.watch(broken, 0.01)
        watchdog.watch(good, 0.01)
        wait_until("the other is checked", lambda: good.checks > 2)
    watchdog.forget(good)
    assert broken.checks == 1
    # Threads of other tests may log meanwhile.
    (record,) = [record for record in caplog.records if "watchdog_check_failed" in record.getMessage()]
    assert record.exc_info is not None


def test_the_pause_follows_the_shortest_limit_in_both_directions() -> None:
    watchdog, patient, impatient = Watchdog(), _Counting(), _Counting()
    watchdog.watch(patient)
    wait_until("it is checked", lambda: patient.checks)
    watchdog.watch(impatient, 0.01)
    wait_until("it is quick", lambda: "pause 0.01 s" in repr(watchdog))
    watchdog.forget(impatient)
    wait_until("it is slow again", lambda: "pause 0.25 s" in repr(watchdog))
    watchdog.forget(patient)


class _Noting:
    """Notes the time that each check is given, in a list that many share."""

    def __init__(self, times: list[float]) -> None:
        self._times = times

    def check(self, now: float) -> None:
        self._times.append(now)


def test_thousands_of_objects_are_checked_in_small_steps() -> None:
    watchdog, times = Watchdog(), list[float]()
    objects = [_Noting(times) for _ in range(2_000)]
    for one in objects:
        watchdog.watch(one)
    wait_until("each has been checked twice", lambda: len(times) >= 2 * len(objects))
    for one in objects:
        watchdog.forget(one)
    # All checks of one step are given the same time.
    assert max(Counter(times).values()) <= 250


class _Request:
    """What the context of a caller holds."""


_request: ContextVar[_Request] = ContextVar("request")


def test_a_source_that_runs_does_not_keep_the_context_of_its_caller(watchdog: Watchdog) -> None:
    running, ended = threading.Event(), threading.Event()

    def source(_: Cancellation, emit: Emit) -> None:
        running.set()
        ended.wait(30)

    def begin() -> tuple[Background[int], weakref.ref[_Request]]:
        request = _Request()
        _request.set(request)
        return Background(source, watchdog, longest_s=30), weakref.ref(request)

    background, request = copy_context().run(begin)
    try:
        assert running.wait(30)
        gc.collect()
        assert request() is None
    finally:
        ended.set()
        background.cancel()

"""Long work that pauses shares its worker with everything else. Tests run in processes that gevent has patched."""

import subprocess
import sys

from tests.running import ROOT

PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent, time
from app.concurrency.yielding import in_slices, pause
"""

# Steps of 1 ms of CPU time, in 50 greenlets; and somebody who wants to run every 2 ms.
WORK = """
def work(number):
    pause()
    for _ in range(10):
        until = time.thread_time() + 0.001
        while time.thread_time() < until:
            pass
        pause()
    ended.append(number)

def look():
    before = time.thread_time()
    while len(ended) < 50:
        gevent.sleep(0.002)
        held.append(time.thread_time() - before)
        before = time.thread_time()

ended, held = [], []
looking = gevent.spawn(look)
workers = [gevent.spawn(work, number) for number in range(50)]
gevent.joinall([looking, *workers], raise_error=True)
"""


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PATCHED + code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_others_run_after_a_slice_however_many_compute_and_those_who_wait_go_on_in_turn() -> None:
    run(
        WORK
        + "assert max(held) < 0.03, sorted(held)[-5:]\nassert len(held) > 15, len(held)\n"
        + "assert ended == sorted(ended), ended"
    )


def test_a_greenlet_that_waits_can_be_killed_and_the_others_go_on() -> None:
    run(
        """
def work():
    for _ in in_slices(range(300)):
        until = time.thread_time() + 0.001
        while time.thread_time() < until:
            pass

workers = [gevent.spawn(work) for _ in range(5)]
gevent.sleep(0.05)
gevent.killall(workers[:4])
before = time.thread_time()
workers[4].join(30)
assert workers[4].successful()
with gevent.Timeout(0.05, False):
    work()
"""
    )


def test_without_gevent_nothing_waits() -> None:
    code = "from app.concurrency.yielding import in_slices\nassert list(in_slices([1, 2, 3])) == [1, 2, 3]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)

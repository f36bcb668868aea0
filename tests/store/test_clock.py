"""The store's clock, in a process that runs as a gevent worker does."""

import subprocess
import sys

# A greenlet is ready to run; whatever waits lets it.
_ASKED = """
from gevent import monkey
monkey.patch_all()
import threading
import gevent
from app.store.clock import Clock

measured = threading.Event()
others = []
clock = Clock(lambda: measured.set() or 0.0, max_age_s=-1)
measured.clear()
gevent.spawn(others.append, "ran")
clock.now()
assert not others, "somebody else ran while the time was asked for"
assert measured.wait(30), "the offset was not measured again"
assert others
"""


def test_asking_for_the_time_lets_nobody_else_run() -> None:
    """It is asked for in the middle of transactions: who runs meanwhile finds the database locked, by ourselves."""
    asked = subprocess.run([sys.executable, "-c", _ASKED], capture_output=True, text=True, timeout=60)
    assert asked.returncode == 0, asked.stderr

"""What is done when a process ends, and not when one that was forked from it does."""

import subprocess
import sys

_FORKS = """
import os, sys
from app.concurrency.at_exit import at_exit

at_exit(lambda: print("first", flush=True))
at_exit(lambda: print("second", flush=True))
if os.fork() == 0:
    sys.exit()
os.wait()
"""


def test_only_the_process_that_asked_for_it_does_it() -> None:
    done = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "second\nfirst\n"), done.stderr


_ENDS_TWICE = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from app.concurrency.at_exit import at_exit

def quit():
    time.sleep(0.1)
    sys.exit(0)

def work():
    print("begun", flush=True)
    time.sleep(0.5)
    print("done", flush=True)

at_exit(lambda: print("first", flush=True))
at_exit(work)
gevent.spawn(quit)
"""


def test_a_second_end_does_not_cut_it_short() -> None:
    """As of a gunicorn worker that gets SIGQUIT, and has ended by itself before that raises SystemExit in it."""
    done = subprocess.run([sys.executable, "-c", _ENDS_TWICE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "begun\nbegun\ndone\nfirst\n"), done.stderr

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

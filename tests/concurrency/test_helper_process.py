"""Helper processes: a call has limits, is interrupted by nothing else, and leaves nothing for the next one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.concurrency.helper_process import CallFailed, HelperProcess, HelperUnavailable, LimitExceeded
from tests.running import ROOT, wait_until

FUNCTIONS = "tests.concurrency.helper_functions"


@pytest.fixture
def helper() -> Iterator[HelperProcess]:
    helper = HelperProcess(FUNCTIONS)
    yield helper
    helper.close()


@pytest.mark.parametrize("value", [None, 1.5, "\ud800 \U0001f600 \n", {"a": [1, {}]}, "x" * 3_000_000])
def test_values_come_back_as_they_were_sent(helper: HelperProcess, value: object) -> None:
    assert helper.call("echo", value) == value


def test_one_process_serves_all_calls(helper: HelperProcess) -> None:
    assert helper.call("pid") == helper.call("pid") != os.getpid()


def test_an_exception_is_named_and_its_text_is_not_shown(helper: HelperProcess) -> None:
    first = helper.call("pid")
    with pytest.raises(CallFailed, match=r"^LookupError$"):
        helper.call("fail", "secret")
    assert helper.call("pid") == first


@pytest.mark.parametrize("function", ["compute", "compute_in_c", "crash"])
def test_a_call_without_end_is_ended_and_the_next_one_is_served(helper: HelperProcess, function: str) -> None:
    first, began = helper.call("pid"), time.monotonic()
    with pytest.raises(LimitExceeded):
        helper.call(function)
    assert time.monotonic() - began < 25, "it was ended by the time limit of the caller, not by its own"
    assert helper.call("pid") != first


def test_memory_is_limited(helper: HelperProcess) -> None:
    with pytest.raises(LimitExceeded):
        helper.call("allocate")
    assert helper.call("echo", 1) == 1


def test_a_process_that_was_killed_between_two_calls_is_replaced(helper: HelperProcess) -> None:
    first = helper.call("pid")
    os.kill(first, signal.SIGKILL)
    wait_until("it has ended", lambda: _state(first) in ("Z", ""))
    assert helper.call("pid") != first


def test_a_process_that_was_idle_ends_and_is_replaced() -> None:
    helper = HelperProcess("tests.concurrency.short_lived_helper")
    first = helper.call("pid")
    wait_until("it has ended", lambda: _state(first) in ("Z", ""))
    assert helper.call("pid") != first
    helper.close()


def test_it_ends_with_its_parent() -> None:
    code = (
        "import os; from app.concurrency.helper_process import HelperProcess;"
        f"print(HelperProcess({FUNCTIONS!r}).call('pid'), flush=True); os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    wait_until("it has ended", lambda: _state(int(done.stdout)) in ("Z", ""))


def test_settings_and_secrets_are_not_in_its_environment(
    helper: HelperProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIMI_TOKENS", "secret")
    assert "KIMI_TOKENS" not in helper.call("environment")


def test_a_module_that_cannot_be_run_is_an_error() -> None:
    helper = HelperProcess("tests.concurrency.no_such_module")
    with pytest.raises(HelperUnavailable):
        helper.call("pid")


def test_under_gevent_others_run_meanwhile_and_a_call_can_be_given_up(tmp_path: Path) -> None:
    code = f"""
from gevent import monkey; monkey.patch_all()
import gevent, pathlib
from app.concurrency.helper_process import HelperProcess
helper = HelperProcess({FUNCTIONS!r})
path = pathlib.Path({str(tmp_path / "file")!r})
first = helper.call("pid")
with gevent.Timeout(0.1, False):
    helper.call("wait_for", str(path))
# It must not read the reply that the one before did not wait for.
assert helper.call("pid") != first
gevent.spawn(path.touch)
helper.call("wait_for", str(path))
print("served")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "served\n", done.stderr


def _state(pid: int) -> str:
    """Of a process, as the kernel calls it: Z for one that has ended and whose parent does not know yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""

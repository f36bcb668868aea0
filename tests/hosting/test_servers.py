"""Servers that are started in other ways than ``gunicorn`` in the folder of the gateway."""

import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from tests.running import ROOT, Gateway, Running, Simulator, mint
from tests.running.commands import start
from tests.running.processes import Process, wait_until


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the gateway in another folder, which has no data yet."""
    folder = tmp_path / "kimi"
    # With what is compiled, but not with what another process is just writing.
    shutil.copytree(ROOT / "app", folder / "app", ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in ("wsgi.py", "gunicorn.conf.py", "requirements.txt"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def settings(simulator: Simulator) -> dict[str, str]:
    accounts = {"KIMI_TOKENS": mint("alice"), "KIMI_BASE_URL": simulator.url, "KIMI_AUTH_URL": simulator.url}
    return {**accounts, "WEB_CONCURRENCY": "1", "PATH": os.environ["PATH"]}


@contextmanager
def gunicorn(running: Running, simulator: Simulator, *arguments: str, **more: str) -> Iterator[tuple[str, Path]]:
    """gunicorn, started in another folder than the gateway's with these arguments; its address and its log."""
    # Of its own each: what one says must not be there.
    log = running.new_log("gunicorn")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = ["-m", "gunicorn", "-b", f"fd://{listener.fileno()}", *arguments]
        env = {**settings(simulator), **more}
        process = Process(command, env, log, [listener.fileno()], running.folder)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield url, log
    finally:
        process.stop()


def ask(url: str, **headers: str) -> requests.Response:
    body = {"model": "k2", "messages": [{"role": "user", "content": "hello"}]}
    return requests.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)


def test_gunicorn_runs_with_our_settings_from_another_folder(
    running: Running, simulator: Simulator, copy: Path
) -> None:
    with gunicorn(running, simulator, "-c", str(copy / "gunicorn.conf.py")) as (url, log):
        assert ask(url).ok
        assert "gunicorn_conf_not_used" not in log.read_text()
    folder = copy / "data"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and (folder / "gateway.db").exists()


def test_gunicorn_without_our_settings_says_where_they_are(
    running: Running, simulator: Simulator, copy: Path
) -> None:
    with gunicorn(running, simulator, "--chdir", str(copy), "wsgi:app") as (url, log):
        assert ask(url).ok
        assert f"start gunicorn in {copy}, or with -c {copy}/gunicorn.conf.py" in log.read_text()


def test_a_sync_worker_is_warned_of_and_ends_no_answer_early(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, GUNICORN_CMD_ARGS="-k sync --timeout 1") as gateway:
        simulator.knobs(delay_s=0.4)
        answer = ask(gateway.url).json()["choices"][0]
        assert answer["finish_reason"] == "stop"
        assert "sync_workers" in gateway.log()


def test_a_missing_package_stops_the_start_and_is_named(simulator: Simulator, copy: Path, tmp_path: Path) -> None:
    with (copy / "requirements.txt").open("a") as file:
        file.write("a-package-of-tomorrow[extra]==1.0   # a reason\n")
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0"],
        cwd=copy,
        env=settings(simulator),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 78
    (line,) = done.stderr.splitlines()
    assert "not installed: a-package-of-tomorrow; run: " in line and "pip install -r requirements.txt" in line


@pytest.mark.long
def test_a_start_that_cannot_succeed_has_a_status_that_systemd_does_not_repeat(tmp_path: Path) -> None:
    unit = (ROOT / "deploy" / "kimi-gateway.service").read_text()
    code, _ = start(tmp_path, KIMI_TOKENS="a.good.token-of-enough-length", HEARTBEAT_S="often")
    assert f"RestartPreventExitStatus={code}\n" in unit
    # PostgreSQL may only be late.
    code, _ = start(
        tmp_path, KIMI_TOKENS="a.good.token-of-enough-length", DATABASE_URL="postgresql://u@127.0.0.1:1/d"
    )
    assert code == 1


def test_a_server_may_run_the_file_without_its_folder(simulator: Simulator, copy: Path) -> None:
    program = (
        f"import runpy; names = runpy.run_path({str(copy / 'wsgi.py')!r});"
        "print(*(names[name].test_client().get('/healthz').status_code for name in ('app', 'application')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd="/",
        env=settings(simulator),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "200 200\n", done.stderr


def test_the_document_says_where_it_is_served(simulator: Simulator, running: Running) -> None:
    with running.gateway(simulator.url, SCRIPT_NAME="/kimi") as gateway:
        document = requests.get(f"{gateway.url}/kimi/openapi.json", timeout=30).json()
        assert document["servers"] == [{"url": "/kimi"}]


def _waits_of(pid: int) -> int:
    """How often a thread of the process has waited for something."""
    texts = [status.read_text() for status in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


@pytest.fixture(scope="module")
def allowed_few_files(running: Running, shared_simulator: Simulator) -> Iterator[Gateway]:
    """The command, started where a process may open 256 files unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        stack = ExitStack()
        gateway = stack.enter_context(running.gateway(shared_simulator.url, server="gevent"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with stack:
        gateway.wait_for_workers()
        yield gateway


def test_a_worker_may_open_as_many_files_as_the_system_allows(allowed_few_files: Gateway) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    (worker,) = allowed_few_files.process.children()
    assert resource.prlimit(worker, resource.RLIMIT_NOFILE) == (hard, hard)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts in /proc")
def test_an_idle_worker_is_woken_once_a_second(allowed_few_files: Gateway) -> None:
    (worker,) = allowed_few_files.process.children()

    def is_quiet() -> bool:
        """Its start may have left something to be done, and a busy disk may make it wait."""
        before = _waits_of(worker)
        time.sleep(6)
        return _waits_of(worker) - before <= 9

    wait_until("it is woken seldom", is_quiet, 60)

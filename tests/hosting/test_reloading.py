"""A HUP to gunicorn's master: the present code and settings count, and what cannot start changes nothing."""

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from bench.ports import reserved_port
from tests.running import ROOT, Running, mint, wait_until
from tests.running.processes import Process


@dataclass
class Copy:
    """A copy of the gateway, which tests may change, and its gunicorn."""

    folder: Path
    url: str
    process: Process

    @property
    def env_file(self) -> Path:
        return self.folder / ".env"

    def log(self) -> str:
        return self.process.log.read_text()

    def reload(self, *, until: str) -> str:
        """What the log says from the HUP on, when ``until`` stands in it."""
        begin = len(self.log())
        self.process.popen.send_signal(signal.SIGHUP)
        wait_until(f"{until} in the log", lambda: until in self.log()[begin:], 60)
        return self.log()[begin:]

    def status(self, key: str) -> int:
        return requests.get(f"{self.url}/v1/models", headers={"x-api-key": key}, timeout=60).status_code

    def change(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))


def settings_of(folder: Path, upstream: str, key: str = "first-key") -> str:
    return (
        f"KIMI_TOKENS=alice={mint('alice')}\nKIMI_BASE_URL={upstream}\nKIMI_AUTH_URL={upstream}\n"
        f"DATABASE_URL=sqlite:///{folder}/data.db\nWEB_CONCURRENCY=1\nGATEWAY_API_KEYS={key}\n"
    )


@pytest.fixture(scope="module")
def copy(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    folder = tmp_path_factory.mktemp("copy")
    # With what is compiled, but not with what another process is just writing.
    shutil.copytree(ROOT / "app", folder / "app", ignore=shutil.ignore_patterns("*.pyc.*", "simulator"))
    for name in ("wsgi.py", "gunicorn.conf.py", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    with running.simulator() as simulator, socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        (folder / ".env").write_text(settings_of(folder, simulator.url))
        arguments = ["-m", "gunicorn", "-b", f"fd://{listener.fileno()}"]
        process = Process(arguments, {}, folder / "log", [listener.fileno()], folder)
        found = Copy(folder, f"http://127.0.0.1:{listener.getsockname()[1]}", process)
        try:
            wait_until("it runs", lambda: " ready version=" in found.log(), 60)
            yield found
        finally:
            process.stop(signal.SIGTERM)


# The files that tests make wrong. Those of a mistake in the code are imported early: a try ends there.
_SPOILT = (".env", "requirements.txt", "app/gateway.py", "app/factory.py", "app/store/__init__.py")


@pytest.fixture
def unchanged(copy: Copy) -> Iterator[Copy]:
    """The same after the test as before it, and its worker has not been replaced."""
    kept = {name: (copy.folder / name).read_bytes() for name in _SPOILT}
    workers = copy.process.children()
    assert copy.status("first-key") == 200
    yield copy
    for name, content in kept.items():
        (copy.folder / name).write_bytes(content)
    assert copy.status("first-key") == 200
    assert copy.process.children() == workers


def _cut_env_file(copy: Copy) -> None:
    copy.env_file.write_text("one two three\n")


def _break_setting(copy: Copy) -> None:
    copy.change(".env", "GATEWAY", "QUEUE_MAX=many\nGATEWAY")


def _break_combination(copy: Copy) -> None:
    copy.change(".env", "GATEWAY", "STORE_TRANSCRIPTS=1\nGATEWAY")


def _break_bytes(copy: Copy) -> None:
    copy.env_file.write_bytes(b"KIMI_TOKENS=\xff\n")


def _remove_env_file(copy: Copy) -> None:
    copy.env_file.unlink()


def _break_syntax(copy: Copy) -> None:
    copy.change("app/store/__init__.py", "\nfrom ", "\ndef half(:\nfrom ")


def _break_import(copy: Copy) -> None:
    copy.change("app/factory.py", "import logging\n", "import logging\nimport no_such_package\n")


def _break_wiring(copy: Copy) -> None:
    """A mistake that only a start shows."""
    begin = "    def __init__(\n        self,\n"
    copy.change("app/gateway.py", begin, f"{begin}        one_more: object,\n")


def _break_database(copy: Copy) -> None:
    (copy.folder / "no-database.db").write_bytes(b"this is no database" * 100)
    copy.change(".env", "data.db", "no-database.db")


def _remove_database_server(copy: Copy) -> None:
    url = f"postgresql://gateway@127.0.0.1:{reserved_port()}/gateway"
    copy.change(".env", "DATABASE_URL=", f"DATABASE_URL={url}\nUNUSED=")


def _change_requirements(copy: Copy) -> None:
    copy.change("requirements.txt", "==", "==99.")


@pytest.mark.long
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_cut_env_file, ".env, line 1"),
        (_break_setting, "QUEUE_MAX=many"),
        (_break_combination, "GATEWAY_SECRET"),
        (_break_bytes, "UTF-8"),
        (_remove_env_file, ".env is gone"),
        (_break_syntax, "SyntaxError in"),
        (_break_import, "No module named 'no_such_package'"),
        (_break_wiring, "TypeError in"),
        (_break_database, "DATABASE_URL: "),
        (_remove_database_server, "DATABASE_URL: "),
        (_change_requirements, "requirements.txt has changed"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_start_changes_nothing_and_is_told(
    unchanged: Copy, spoil: Callable[[Copy], None], says: str
) -> None:
    spoil(unchanged)
    told = unchanged.reload(until="not_reloaded")
    assert says in told and "Traceback" not in told
    assert len(told.splitlines()) <= 3, told


@pytest.mark.long
def test_changed_code_and_settings_count(copy: Copy) -> None:
    before = copy.process.children()
    copy.change(".env", "first-key", "second-key")
    copy.change("app/__init__.py", '__version__ = "', '__version__ = "99.')
    # Read by the master itself.
    copy.change("app/hosting/server_log.py", "class Logger(", "MARK = 1\n\n\nclass Logger(")
    told = copy.reload(until=" ready version=99.")
    wait_until("the old worker has ended", lambda: not set(before) & set(copy.process.children()))
    assert copy.status("first-key") == 401
    assert copy.status("second-key") == 200
    assert requests.get(f"{copy.url}/healthz", timeout=60).json()["version"].startswith("99.")
    assert "not_reloaded" not in told
    # The next one, too.
    copy.change(".env", "second-key", "first-key")
    before = copy.process.children()
    copy.reload(until=" ready version=99.")
    wait_until("the old worker has ended", lambda: not set(before) & set(copy.process.children()))
    assert (copy.status("first-key"), copy.status("second-key")) == (200, 401)


def test_a_variable_of_the_environment_counts_before_and_after_a_change_of_the_file(tmp_path: Path) -> None:
    program = (
        "import os; from pathlib import Path; from app.settings import config\n"
        "for text in ('QUEUE_MAX=7\\nPORT=1', 'QUEUE_MAX=8'):\n"
        f"    Path({str(tmp_path)!r}, '.env').write_text(text); config.load_env_file(Path({str(tmp_path)!r}))\n"
        "    print(os.environ['QUEUE_MAX'], os.environ.get('PORT'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"QUEUE_MAX": "9"}, cwd=ROOT
    )
    assert done.stdout.split() == ["9", "1", "9", "None"]


@pytest.mark.parametrize("hosts", [("0.0.0.0",), ("127.0.0.1", "::")])
def test_no_reload_opens_a_gateway_without_keys_to_others(tmp_path: Path, hosts: tuple[str, ...]) -> None:
    """Where gunicorn's command line says where it listens."""
    program = "import sys; from app.hosting import preflight; preflight.rehearse(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "gunicorn.conf.py"), *hosts],
        capture_output=True,
        text=True,
        check=False,
        env={"DATABASE_URL": f"sqlite:///{tmp_path}/x.db", "GATEWAY_API_KEYS": ""},
        cwd=ROOT,
    )
    assert done.returncode != 0 and not done.stdout
    assert "GATEWAY_API_KEYS is not set" in done.stderr

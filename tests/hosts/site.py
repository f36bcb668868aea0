"""A copy of the gateway in a folder of its own, as somebody has it on a host, with a simulated Kimi behind it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.running import ROOT, Simulator, mint, wait_until

KEY = "sk-of-this-run"
# With the system's Python, because its Apache and uWSGI have that one built in.
ENVIRONMENT = ROOT / ".hosts"
# The account that Debian's Apache runs as; it has to read the copy and to write its data.
_SERVER_USER = "www-data"


def install() -> None:
    """Makes the environment that all sites share."""
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    subprocess.run([python, "-m", "venv", "--without-pip", str(ENVIRONMENT)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(ENVIRONMENT / "bin" / "python"), "install", "--quiet"]
    names = ["-r", str(ROOT / "requirements.txt"), "-r", str(Path(__file__).parent / "requirements.txt")]
    subprocess.run([*pip, "--disable-pip-version-check", *names], check=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Site:
    """``folder`` holds the copy as ``kimi``, and what the servers write. ``port`` is what clients use,
    ``gateway_port`` that of gunicorn, where another server stands before it."""

    folder: Path
    simulator: Simulator
    port: int = field(default_factory=free_port)
    gateway_port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def kimi(self) -> Path:
        return self.folder / "kimi"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def make(self) -> None:
        self.kimi.mkdir()
        shutil.copytree(ROOT / "app", self.kimi / "app", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("wsgi.py", "gunicorn.conf.py", "requirements.txt"):
            shutil.copy(ROOT / name, self.kimi / name)
        (self.kimi / ".venv").symlink_to(ENVIRONMENT)
        for name in ("data", "public", "tmp"):
            (self.kimi / name).mkdir()
        settings = {
            "KIMI_TOKENS": ",".join(f"{user}={mint(user)}" for user in ("alice", "bob", "carol")),
            "KIMI_BASE_URL": self.simulator.url,
            "KIMI_AUTH_URL": self.simulator.url,
            "GATEWAY_API_KEYS": KEY,
            "ACCOUNT_MIN_INTERVAL_S": "0",
            "PORT": str(self.gateway_port),
            "WEB_CONCURRENCY": "1",
        }
        (self.kimi / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
        self.folder.chmod(0o755)
        self.give(self.kimi / "data")
        self.give(self.kimi / ".env")

    def give(self, path: Path) -> None:
        """Apache's processes own it. Passenger runs an application as the owner of its file."""
        if os.getuid() == 0:
            shutil.chown(path, _SERVER_USER, _SERVER_USER)

    def example(self, text: str) -> str:
        """An example of the page with the paths and ports of this site."""
        text = text.replace("/srv/kimi", str(self.kimi)).replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        return text.replace("user=kimi group=kimi", f"user={_SERVER_USER} group={_SERVER_USER}")

    def before_gunicorn(self, text: str) -> str:
        """The same for a server that stands before gunicorn."""
        return text.replace("127.0.0.1:8000", f"127.0.0.1:{self.gateway_port}")

    def run(self, command: Sequence[str], folder: Path | None = None) -> subprocess.Popen[bytes]:
        """Starts a server, in a group of processes of its own."""
        paths = [str(ENVIRONMENT / "bin"), os.environ["PATH"], "/usr/sbin"]
        env = {"PATH": os.pathsep.join(paths), "HOME": str(self.folder), "LANG": "C.UTF-8"}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                list(command),
                cwd=folder or "/",
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def wait_until_listening(self, port: int) -> None:
        def listens() -> bool:
            assert all(process.poll() is None for process in self.processes), self.log.read_text()[-2000:]
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        wait_until(f"something listens on port {port}", listens, 60)

    def stop(self) -> None:
        """Ends all processes of this site."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            # It was the first of a group.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

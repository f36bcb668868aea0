"""``python -m bench.renewals``: a gateway that starts with hundreds of refresh tokens, none of them used before.

Prints how long it takes until the gateway is ready, gives its first answer and has renewed all tokens, the memory of
all its processes at its highest, and how many processes renewed at the same time. KIMI_TOKENS stands in a .env, as it
may be longer than a variable of a new process (Linux: 128 KB). Exits with 1 if a token was not renewed, or twice, or
if more than one process renewed; never because of a time.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from app.simulator import tokens
from bench.ports import reserved_port

_ROOT = Path(__file__).parent.parent
_EVERY_S = 0.1
_LONGEST_S = 300.0


@dataclass
class _Seen:
    """Of all processes of the gateway: the highest sums, in MB, and the pids that renewed."""

    rss_mb: float = 0.0
    pss_mb: float = 0.0
    renewers: set[int] = field(default_factory=set)
    renewers_at_once: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.renewals", description=__doc__)
    parser.add_argument("--accounts", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--delay-s", type=float, default=0.2, help="how long Kimi takes for a renewal (default: 0.2)")
    parser.add_argument("--code", type=Path, default=_ROOT, help="the repository whose gateway is tried")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="renewals-") as name:
        return _run(Path(name), options)


def _run(folder: Path, options: argparse.Namespace) -> int:
    kimi, gateway = (f"http://127.0.0.1:{reserved_port()}" for _ in range(2))
    tokens_text = ",".join(f"user{n}={tokens.mint(f'user{n}', 'refresh')}" for n in range(options.accounts))
    print(f"{options.accounts} refresh tokens ({len(tokens_text) / 1e6:.2f} MB), {options.workers} workers")
    # The application as it is, in a folder with a .env of its own.
    for part in ("app", "wsgi.py", "gunicorn.conf.py"):
        (folder / part).symlink_to(options.code.absolute() / part)
    settings = {
        "KIMI_TOKENS": tokens_text,
        "KIMI_BASE_URL": kimi,
        "KIMI_AUTH_URL": kimi,
        "DATABASE_URL": f"sqlite:///{folder}/gateway.db",
        "PORT": gateway.rpartition(":")[2],
        "WEB_CONCURRENCY": str(options.workers),
    }
    (folder / ".env").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    simulator = ["-m", "app.simulator", "--port", kimi.rpartition(":")[2], "--set"]
    with (
        _process([*simulator, f"refresh_delay_s={options.delay_s}"], _ROOT, folder / "simulator.log"),
        _process(["-m", "gunicorn"], folder, folder / "gateway.log", options.code) as process,
    ):
        began, seen, reached = time.monotonic(), _Seen(), dict[str, float]()
        state: dict[str, Any] = {}
        while time.monotonic() - began < _LONGEST_S and process.poll() is None and len(reached) < 3:
            _look(process.pid, seen)
            if "ready" not in reached and _get(f"{gateway}/readyz") is not None:
                reached["ready"] = time.monotonic() - began
            elif "ready" in reached and "first answer" not in reached and _ask(gateway):
                reached["first answer"] = time.monotonic() - began
            state = _get(f"{kimi}/_sim/state") or {}
            if "all renewed" not in reached and state.get("refreshes", 0) >= options.accounts:
                reached["all renewed"] = time.monotonic() - began
            time.sleep(_EVERY_S)
        # Its end, and what comes late.
        for _ in range(int(3 / _EVERY_S)):
            _look(process.pid, seen)
            time.sleep(_EVERY_S)
        state = _get(f"{kimi}/_sim/state") or {}
    for what in ("ready", "first answer", "all renewed"):
        print(f"{what:<14} {reached.get(what, float('nan')):6.1f} s")
    print(
        f"memory         {seen.rss_mb:6.0f} MB RSS, {seen.pss_mb:.0f} MB PSS at its highest, all processes together"
    )
    print(f"renewals       {state.get('refreshes')}, of which {state.get('stale_refreshes')} with a used token")
    print(f"processes      {len(seen.renewers)}, {seen.renewers_at_once} at the same time")
    right = (state.get("refreshes"), state.get("stale_refreshes")) == (options.accounts, 0)
    if not right or seen.renewers_at_once > 1:
        print(f"--- end of the log:\n{(folder / 'gateway.log').read_text()[-3000:]}", file=sys.stderr)
    return 0 if right and seen.renewers_at_once <= 1 else 1


@contextlib.contextmanager
def _process(
    arguments: list[str], folder: Path, log: Path, code: Path = _ROOT
) -> Iterator["subprocess.Popen[bytes]"]:
    env = {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}
    python = str(code / ".venv/bin/python")
    with log.open("wb") as out:
        process = subprocess.Popen([python, *arguments], cwd=folder, env=env, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _look(pid: int, seen: _Seen) -> None:
    rss_kb = pss_kb = 0
    renewers = set()
    for one in _tree(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            fields = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
            rss_kb += int(fields["Rss"])
            pss_kb += int(fields["Pss"])
            if b"app.accounts.renewal" in Path(f"/proc/{one}/cmdline").read_bytes():
                renewers.add(one)
    seen.rss_mb, seen.pss_mb = max(seen.rss_mb, rss_kb / 1024), max(seen.pss_mb, pss_kb / 1024)
    seen.renewers |= renewers
    seen.renewers_at_once = max(seen.renewers_at_once, len(renewers))


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _get(url: str) -> Any:
    try:
        with urlopen(url, timeout=5) as response:
            return json.load(response)
    except (URLError, OSError, ValueError):
        return None


def _ask(gateway: str) -> bool:
    body = {"model": "k2", "messages": [{"role": "user", "content": "hello"}]}
    request = Request(f"{gateway}/v1/chat/completions", json.dumps(body).encode())
    try:
        with urlopen(request, timeout=60):
            return True
    except (URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main())

"""`make demo`: starts the simulator and the gateway, to try the gateway without a Kimi account."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from urllib.error import URLError
from urllib.request import urlopen


def main() -> None:
    # SIGTERM must end the child processes, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kimi-gateway-demo-"))
        kimi = f"http://127.0.0.1:{_free_port(0)}"
        port = _free_port(int(os.environ.get("PORT") or "8000"))
        token = subprocess.check_output(
            [sys.executable, "-m", "app.simulator", "--mint", "demo", "--kind", "refresh"], text=True
        ).strip()
        _start(stack, ["-m", "app.simulator", "--port", kimi.rpartition(":")[2], "--set", "delay_s=0.05"], {}, True)
        settings = {
            "KIMI_TOKENS": f"demo={token}",
            "KIMI_BASE_URL": kimi,
            "KIMI_AUTH_URL": kimi,
            "DATABASE_URL": f"sqlite:///{folder}/demo.db",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "GATEWAY_API_KEYS": "",
            # With two, Ctrl-C could come while the second one starts. gunicorn would then wait for it for 30 seconds.
            "WEB_CONCURRENCY": "1",
        }
        gateway = _start(stack, ["-m", "gunicorn"], settings, False)
        _wait_for(f"http://127.0.0.1:{port}/readyz", gateway)
        print(_WELCOME.format(url=f"http://127.0.0.1:{port}"), flush=True)
        try:
            gateway.wait()
        except KeyboardInterrupt:
            print("\nThe demo has ended.")


_WELCOME = """
The demo is running: a gateway, and behind it a simulated Kimi. Nothing leaves this machine.

Stream an answer:

  curl -N {url}/v1/chat/completions -d '{{"model": "k2", "stream": true,
    "messages": [{{"role": "user", "content": "Hello, who are you?"}}]}}'

A conversation with the id my-talk, which remembers earlier messages:

  curl {url}/v1/chat/completions/my-talk -d '{{"model": "k2",
    "messages": [{{"role": "user", "content": "My cat is called Ada."}}]}}'

  curl {url}/v1/chat/completions/my-talk -d '{{"model": "k2",
    "messages": [{{"role": "user", "content": "what did I say?"}}]}}'

In a program: base URL {url}/v1, any API key, model k2. Stop the demo with Ctrl-C.
"""


def _start(
    stack: ExitStack, arguments: list[str], settings: dict[str, str], quiet: bool
) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL if quiet else None,
    )
    stack.callback(_end, process)
    return process


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()


def _free_port(wanted: int) -> int:
    """The wanted port, or another one if it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        if process.poll() is not None:
            sys.exit("the gateway did not start; its output is above")
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    sys.exit("the gateway did not become ready")


if __name__ == "__main__":
    main()

"""A running gateway and the requests that tests send to it."""

import os
import re
import signal
from dataclasses import dataclass, replace
from typing import Any

import requests

from tests.running.contract import check_response
from tests.running.databases import Database
from tests.running.leaks import CANARY
from tests.running.processes import Process, wait_until
from tests.running.tables import Tables

# How each kind of server is started on an inherited listening socket.
SERVERS = {
    # As "gevent", and forked from a process that has imported everything: see fork_server.
    "forked": ["-b", "fd://{fd}"],
    # With one more upstream and one more public API.
    "toy": ["-m", "gunicorn", "-b", "fd://{fd}", "tests.upstreams.toy.wsgi:app"],
    "gevent": ["-m", "gunicorn", "-b", "fd://{fd}"],
    # No file of it grows beyond 4 MB: as a disk that is full.
    "small disk": [
        "-c",
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22, 1 << 22));"
        " os.execv(sys.executable, [sys.executable, '-m', 'gunicorn', '-b', 'fd://{fd}'])",
    ],
    "gthread": ["-m", "gunicorn", "-b", "fd://{fd}", "-k", "gthread", "--threads", "16"],
    "preloaded": ["-m", "gunicorn", "-b", "fd://{fd}", "-k", "gthread", "--threads", "4", "--preload"],
    # As the first process of a world of its own.
    "container": [
        "-c",
        "import os, sys; os.execvp('unshare', ['unshare', '-pf', '--kill-child', sys.executable, '-m', 'gunicorn',"
        " '-b', 'fd://{fd}'])",
    ],
    "threads": [
        "-c",
        "from werkzeug.serving import make_server; from wsgi import app;"
        "make_server('127.0.0.1', 0, app, threaded=True, fd={fd}).serve_forever()",
    ],
}


# The line of a worker that has been started: its pid.
_READY = re.compile(r" \[(\d+)\] \[\S*\] app\.\S+: ready version=")


@dataclass
class Gateway:
    """A running gateway and the files that it writes."""

    url: str
    process: Process
    database: Database
    workers: int
    model: str = "k2"
    # Where the log of this test begins, where the gateway is shared with others.
    log_begins_at: int = 0
    # Its workers are the children of its process, and have loaded the application: their pids are in its log.
    has_children: bool = True

    @property
    def tables(self) -> Tables:
        return Tables(self.database)

    def wait_for_workers(self) -> None:
        """Until every worker that there is now has been started, or the start has failed."""
        wait_until("all workers run", lambda: self._workers_are_ready() or not self.process.runs, 120)

    def _workers_are_ready(self) -> bool:
        started = [int(pid) for pid in _READY.findall(self.process.log.read_text())]
        if len(started) < self.workers:
            return False
        # Those that were started in the place of killed ones, too.
        return not self.has_children or set(self.process.children()) <= set(started)

    def chat(self, body: dict[str, Any], conversation: str | None = None, **arguments: Any) -> requests.Response:
        path = "/v1/chat/completions" + (f"/{conversation}" if conversation else "")
        return self.post(path, json=body, **arguments)

    def say(self, text: str, conversation: str | None = None, **body: Any) -> requests.Response:
        """One user message; ``body`` takes further fields."""
        message = {"role": "user", "content": f"{text} {CANARY}"}
        return self.chat(
            {"model": self.model, "messages": [message], **body}, conversation, stream=bool(body.get("stream"))
        )

    def post(self, path: str, **arguments: Any) -> requests.Response:
        return self._request("POST", path, arguments)

    def get(self, path: str, **arguments: Any) -> requests.Response:
        return self._request("GET", path, arguments)

    def delete(self, path: str, **arguments: Any) -> requests.Response:
        return self._request("DELETE", path, arguments)

    def _request(self, method: str, path: str, arguments: dict[str, Any]) -> requests.Response:
        with requests.Session() as session:
            # The variables for proxies: looking for them takes a fifth of the time of a request.
            session.trust_env = False
            return _checked(session.request(method, self.url + path, timeout=60, **arguments), arguments)

    def as_if_new(self) -> "Gateway":
        """The same gateway without what earlier tests have brought upon its accounts, and with an empty log."""
        self._wait_until_idle()
        self.tables.forget_what_accounts_did()
        return replace(self, log_begins_at=self.process.log.stat().st_size)

    def wait_until_idle(self) -> None:
        """Until no turn holds an account or waits for one."""
        # Its tables are there when a worker answers.
        self.get("/healthz")
        self._wait_until_idle()

    def _wait_until_idle(self) -> None:
        wait_until("nothing runs and nobody waits", self.tables.nothing_runs_or_waits)

    def kill(self) -> None:
        """SIGKILL for all of it. The master first: it must not start new workers for the killed ones."""
        workers = self.process.children()
        os.kill(self.process.popen.pid, signal.SIGKILL)
        self.process.popen.wait(10)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)

    def log(self) -> str:
        """What it has written since the test began."""
        with self.process.log.open("rb") as file:
            file.seek(self.log_begins_at)
            return file.read().decode()


def _checked(response: requests.Response, arguments: dict[str, Any]) -> requests.Response:
    """The response, which keeps OpenAI's contract as far as it can be read without waiting."""
    if not arguments.get("stream") or not response.ok:
        check_response(response)
    return response

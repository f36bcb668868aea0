"""A running gateway and the requests that tests send to it."""

import os
import signal
from dataclasses import dataclass
from typing import Any

import requests

from tests.running.contract import check_response
from tests.running.databases import Database
from tests.running.leaks import CANARY
from tests.running.processes import Process, wait_until

# How each kind of server is started on an inherited listening socket.
SERVERS = {
    # With one more upstream and one more public API.
    "toy": ["-m", "gunicorn", "-b", "fd://{fd}", "tests.upstreams.toy.wsgi:app"],
    "gevent": ["-m", "gunicorn", "-b", "fd://{fd}"],
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


@dataclass
class Gateway:
    """A running gateway and the files that it writes."""

    url: str
    process: Process
    database: Database
    workers: int
    model: str = "k2"

    def wait_for_workers(self) -> None:
        """Until every worker has been started, or the start has failed."""
        wait_until(
            "all workers run",
            lambda: self.log().count(" ready version=") >= self.workers or not self.process.runs,
            60,
        )

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
        return _checked(requests.post(self.url + path, timeout=60, **arguments), arguments)

    def get(self, path: str, **arguments: Any) -> requests.Response:
        return _checked(requests.get(self.url + path, timeout=60, **arguments), arguments)

    def delete(self, path: str, **arguments: Any) -> requests.Response:
        return _checked(requests.delete(self.url + path, timeout=60, **arguments), arguments)

    def wake_accounts(self) -> None:
        """Whatever earlier tests have brought upon the accounts is forgotten, as if they had just been added."""
        self.wait_for_workers()
        self.database.execute("DELETE FROM rests", "UPDATE accounts SET refused = NULL")

    def kill(self) -> None:
        """SIGKILL for all of it. The master first: it must not start new workers for the killed ones."""
        workers = self.process.children()
        os.kill(self.process.popen.pid, signal.SIGKILL)
        self.process.popen.wait(10)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)

    def log(self) -> str:
        return self.process.log.read_text()


def tables(gateway: Gateway, *names: str) -> list[int]:
    return [gateway.database.execute(f"SELECT count(*) FROM {name}")[0][0] for name in names]  # noqa: S608  # constants


def _checked(response: requests.Response, arguments: dict[str, Any]) -> requests.Response:
    """The response, which keeps OpenAI's contract as far as it can be read without waiting."""
    if not arguments.get("stream") or not response.ok:
        check_response(response)
    return response

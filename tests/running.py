"""The processes that tests talk to: the simulator, and the gateway under a real server, on free ports.

Every process is started here, writes into a log file that is kept until the end of the run (the last test
searches them for secrets), and is ended by its pid.
"""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from app.simulator import tokens
from tests.contract import check_chunk, check_response
from tests.databases import Database, PostgresDatabase, SqliteDatabase
from tests.postgres import Cluster, one_for_all

ROOT = Path(__file__).parent.parent
EVENT_STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}
CONNECT_STREAM = {"Content-Type": "application/connect+json"}

# What test messages contain, so that a search through logs and databases can find any that leaked.
CANARY = "canary-Kanarienvogel-金丝雀"

# How each kind of server is started on an inherited listening socket.
SERVERS = {
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


@dataclass(frozen=True)
class Profile:
    """A Kimi to test against: what the simulator is, and what the gateway is asked for there."""

    name: str
    protocol: str
    model: str
    other_model: str
    thinking_model: str

    @property
    def speaks_connect(self) -> bool:
        return self.protocol == "connect"


# `all` is what the gateway meets where nothing is said: both generations, chosen by the model's row.
PROFILES = {
    profile.name: profile
    for profile in (
        Profile("all", "auto", "k2", "k1.5", "k1.5-thinking"),
        Profile("sse-2024", "sse", "k2", "k1.5", "k1.5-thinking"),
        Profile("sse-2025", "sse", "k2", "k1.5", "k1.5-thinking"),
        Profile("connect-2025", "connect", "k2", "k2-nosearch", "kimi-k2.5-thinking"),
        Profile("connect-2026", "connect", "kimi-k2.6", "kimi-k2.5", "kimi-k2.6-thinking"),
    )
}

# The contract cases run against every profile, the expensive ones against one of each generation.
EVERY_PROFILE = pytest.mark.parametrize(
    "profile", ["sse-2024", "sse-2025", "connect-2025", "connect-2026"], indirect=True
)
EACH_GENERATION = pytest.mark.parametrize("profile", ["sse-2025", "connect-2026"], indirect=True)
# What lives in the database is tried on both: all profiles on SQLite, one on PostgreSQL, which sees no difference.
EVERY_PROFILE_BOTH_DATABASES = pytest.mark.parametrize(
    ("profile", "database"),
    [
        *((name, "sqlite") for name in ("sse-2024", "sse-2025", "connect-2025", "connect-2026")),
        ("connect-2026", "postgresql"),
    ],
    indirect=True,
)
BOTH_DATABASES = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
CONNECT_ONLY = pytest.mark.parametrize("profile", ["connect-2025", "connect-2026"], indirect=True)


def mint(user: str, lifetime_s: float = 86400, kind: tokens.Kind = "access") -> str:
    """A token that the simulator accepts."""
    return tokens.mint(user, kind, lifetime_s)


class Process:
    """A child process with its output in a file."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str], log: Path, fds: Sequence[int] = ()) -> None:
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**_bare_environment(), **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=fds,
            )

    @property
    def runs(self) -> bool:
        return self.popen.poll() is None

    def children(self) -> list[int]:
        """Pids of the children: gunicorn's workers."""
        path = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def stop(self, sig: int = signal.SIGINT) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(sig)
        try:
            self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(10)
            raise AssertionError(f"a process did not end:\n{self.log.read_text()[-2000:]}") from None


@dataclass
class Simulator:
    """A running simulator and its control interface."""

    url: str
    process: Process
    profile: Profile = PROFILES["all"]

    def control(self, method: str, path: str, **arguments: Any) -> Any:
        reply = requests.request(method, f"{self.url}/_sim/{path}", timeout=30, **arguments)
        assert reply.ok, reply.text
        return reply.json()

    def reset(self) -> None:
        self.control("POST", "reset")
        self.knobs(profile=self.profile.name)

    @property
    def turn_path(self) -> str:
        """A part of the path that turns have."""
        return "ChatService/Chat" if self.profile.speaks_connect else "/completion/stream"

    def knobs(self, **knobs: Any) -> None:
        self.control("POST", "knobs", json=knobs)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.control("GET", "state")
        return state

    def wait(self, field: str, timeout_s: float = 15, **condition: Any) -> None:
        """Waits until a counter has a value: ``wait("open_streams", equals=0)``."""
        query = {"field": field, "timeout_s": timeout_s, **condition}
        reply = requests.get(f"{self.url}/_sim/wait", params=query, timeout=timeout_s + 15)
        assert reply.ok, f"{field} {condition} did not come true: {reply.text[:500]}"

    def open_gate(self, name: str) -> None:
        self.control("POST", f"gates/{name}/open")

    def requests(self, path_contains: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.control("GET", "requests", params={"path_contains": path_contains})
        # The catalogue is asked for in the background, at any time.
        return [r for r in found if path_contains or "GetAvailableModels" not in r["path"]]

    def turns(self) -> list["SentTurn"]:
        """What Kimi was asked, in order."""
        if not self.profile.speaks_connect:
            return [
                SentTurn(r["path"].split("/")[3], r["account"], r["json"]["messages"][0]["content"], r["json"])
                for r in self.requests(self.turn_path)
            ]
        new = iter(self.state()["chats"])
        return [
            SentTurn(
                frame.get("chat_id") or next(new, "none"),
                r["account"],
                frame["message"]["blocks"][0]["text"]["content"],
                frame,
            )
            for r in self.requests(self.turn_path)
            for frame in r["frames"]
        ]

    def prompts(self) -> list[str]:
        """The texts that were sent as turns, in order."""
        return [turn.text for turn in self.turns()]

    def script(
        self,
        body: bytes,
        *,
        cuts: Sequence[int] | str = (),
        framing: str = "chunked",
        end: str = "clean",
        headers: dict[str, str] | None = None,
        match: str | None = None,
        **more: Any,
    ) -> None:
        """The next turn is answered with exactly these bytes, cut at these offsets."""
        wish = {
            "match": match or self.turn_path,
            "body_base64": base64.b64encode(body).decode(),
            "cuts": cuts if isinstance(cuts, str) else list(cuts),
            "framing": framing,
            "end": end,
            "headers": self._stream_headers() if headers is None else headers,
            **more,
        }
        self.control("POST", "script", json=wish)

    def _stream_headers(self) -> dict[str, str]:
        return CONNECT_STREAM if self.profile.speaks_connect else EVENT_STREAM


@dataclass(frozen=True)
class SentTurn:
    """A turn as Kimi got it. A chat that was new has the id that it got."""

    chat: str
    account: str
    text: str
    body: dict[str, Any]


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
            "all workers run", lambda: self.log().count(" ready: ") >= self.workers or not self.process.runs, 60
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


class Running:
    """Starts processes and ends them; remembers every log and database that they wrote."""

    def __init__(self, folder: Path, folder_of_the_run: Path) -> None:
        """``folder_of_the_run``: where the PostgreSQL is that all processes of the run share."""
        self.folder = folder
        self.logs: list[Path] = []
        self.databases: list[Database] = []
        # What kind of database a gateway gets that is not given one.
        self.kind_of_database = "sqlite"
        self._folder_of_the_run = folder_of_the_run
        self.profile = PROFILES["all"]
        self._number = 0

    @contextlib.contextmanager
    def simulator(self, *arguments: str) -> Iterator[Simulator]:
        log = self._new_file("simulator", "log")
        process = Process(["-m", "app.simulator", "--port", "0", *arguments], {}, log)
        try:
            yield Simulator(_wait_for_line(process, "listening on "), process)
        finally:
            process.stop()

    @contextlib.contextmanager
    def gateway(
        self, upstream: str, *, server: str = "gevent", database: Database | None = None, **settings: str
    ) -> Iterator[Gateway]:
        """A gateway with three accounts (alice, bob, carol) and one worker unless ``settings`` say otherwise.

        The socket listens before the process starts, so the first request waits instead of failing.
        """
        database = database or self.new_database()
        log = self._new_file("gateway", "log")
        self.logs.append(log)
        if database not in self.databases:
            self.databases.append(database)
        env = {
            "KIMI_TOKENS": ",".join(f"{user}={mint(user)}" for user in ("alice", "bob", "carol")),
            "KIMI_BASE_URL": upstream,
            "KIMI_AUTH_URL": upstream,
            "DATABASE_URL": database.url,
            "LOG_LEVEL": "DEBUG",
            "KIMI_PROTOCOL": self.profile.protocol,
            "WEB_CONCURRENCY": "1",
            **settings,
        }
        workers = 1 if server == "threads" else int(env["WEB_CONCURRENCY"])
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            arguments = [part.format(fd=listener.fileno()) for part in SERVERS[server]]
            process = Process(arguments, env, log, [listener.fileno()])
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        gateway = Gateway(url, process, database, workers, self.profile.model)
        try:
            yield gateway
            # gunicorn loses a signal that comes while a worker is being started, and then waits for long.
            gateway.wait_for_workers()
        finally:
            # werkzeug's server knows no stopping in order, and was seen to miss an interrupt. In gunicorn's threaded
            # worker the handler of an interrupt may wait for a lock that the thread it has interrupted holds.
            process.stop(signal.SIGTERM if server in ("threads", "gthread", "preloaded") else signal.SIGINT)
            # They outlive their gateway on purpose; the next test is to see nothing of them.
            wait_until("nobody renews a token of it", lambda: not _renewals(database), 60)

    def leaks(self, secrets: Sequence[str] = ()) -> list[str]:
        """What no log and no database may hold and one of this run does hold: file and kind."""
        found = []
        for log in self.logs:
            passwords = [d.cluster.password for d in self.databases if isinstance(d, PostgresDatabase)]
            kinds = secrets_in(log.read_bytes(), [*secrets, *passwords])
            found += [f"{log.name}: {kind}" for kind in kinds]
        for database in self.databases:
            found += leaks_in(database, secrets)
        return found

    def leaks_of(self, cluster: Cluster) -> list[str]:
        """The same for the databases of a cluster that does not live until the end of the run."""
        own = [d for d in self.databases if isinstance(d, PostgresDatabase) and d.cluster == cluster]
        self.databases = [database for database in self.databases if database not in own]
        return [leak for database in own for leak in leaks_in(database, [])]

    def new_database(self) -> Database:
        """A fresh one, of the kind that the test runs on."""
        if self.kind_of_database == "sqlite":
            return SqliteDatabase(self._new_file("gateway", "db"))
        self._number += 1
        return PostgresDatabase.create(self.postgres, f"gateway_{os.getpid()}_{self._number}")

    @property
    def postgres(self) -> Cluster:
        """The PostgreSQL of the run; not to be stopped."""
        return one_for_all(self._folder_of_the_run)

    def _new_file(self, name: str, ending: str) -> Path:
        self._number += 1
        return self.folder / f"{self._number:03}-{name}.{ending}"


def _renewals(database: Database) -> list[int]:
    """Pids of the processes that renew a token which is kept there."""
    own = f"DATABASE_URL={database.url}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_renewal = b"app.accounts.renewal" in (folder / "cmdline").read_bytes().split(b"\0")
            if is_renewal and own in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def secrets_in(content: bytes, secrets: Sequence[str]) -> list[str]:
    """What of it is there: the canary of the messages, the given secrets, anything like a JWT."""
    wanted = {"message text": CANARY, **{f"secret {i}": secret for i, secret in enumerate(secrets)}}
    found = [kind for kind, text in wanted.items() if text.encode() in content]
    return [*found, "a token"] if re.search(rb"eyJ[\w-]{10,}\.[\w-]{10,}", content) else found


def leaks_in(database: Database, secrets: Sequence[str]) -> list[str]:
    kinds = secrets_in(database.content(), secrets)
    allowed = ["a token"] if "a token" in kinds and _keeps_tokens(database) else []
    return [f"{database.name}: {kind}" for kind in kinds if kind not in allowed]


def _keeps_tokens(database: Database) -> bool:
    """Whether refreshed tokens are kept in it, which nobody asked to be sealed."""
    rows = database.execute("SELECT refresh_token FROM tokens")
    return any(not token.startswith("fernet1:") for (token,) in rows)


def _checked(response: requests.Response, arguments: dict[str, Any]) -> requests.Response:
    """The response, which keeps OpenAI's contract as far as it can be read without waiting."""
    if not arguments.get("stream") or not response.ok:
        check_response(response)
    return response


def read_stream(response: requests.Response) -> "Answer":
    """An SSE answer, read to its end."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("text/event-stream")
    return Answer.of_events(response.content)


@dataclass
class Answer:
    """What a client makes of an answer, streamed or whole."""

    content: str
    reasoning: str
    finish_reason: str | None
    error: dict[str, Any] | None
    done: bool
    comments: int = 0

    @classmethod
    def of_events(cls, body: bytes) -> "Answer":
        answer = cls("", "", None, None, False)
        for block in body.decode("utf-8").split("\n\n"):
            assert not answer.done or not block, f"something after [DONE]: {block!r}"
            if block.startswith(":"):
                answer.comments += 1
            elif block == "data: [DONE]":
                answer.done = True
            elif block:
                assert block.startswith("data: ") and "\n" not in block, block
                answer._add(json.loads(block[6:]))
        return answer

    def _add(self, chunk: dict[str, Any]) -> None:
        check_chunk(chunk)
        if "error" in chunk:
            self.error = chunk["error"]
            return
        assert self.error is None and chunk["object"] == "chat.completion.chunk"
        for choice in chunk["choices"]:
            assert self.finish_reason is None, "a delta after the finish"
            self.content += choice["delta"].get("content") or ""
            self.reasoning += choice["delta"].get("reasoning_content") or ""
            self.finish_reason = choice["finish_reason"]

    @classmethod
    def of_completion(cls, response: requests.Response) -> "Answer":
        body = response.json()
        if "error" in body:
            return cls("", "", None, body["error"], True)
        choice = body["choices"][0]
        message = choice["message"]
        return cls(message["content"], message.get("reasoning_content", ""), choice["finish_reason"], None, True)


def ask(gateway: Gateway, stream: bool, text: str = "hello", **body: Any) -> Answer:
    """One question in either mode."""
    response = gateway.say(text, stream=stream, **body)
    if stream and response.status_code == 200:
        return read_stream(response)
    return Answer.of_completion(response)


def frame(fields: object, flags: int = 0) -> bytes:
    """One of Connect's envelopes with JSON in it, made without the code under test."""
    payload = fields if isinstance(fields, bytes) else json.dumps(fields, ensure_ascii=False).encode()
    return bytes([flags]) + len(payload).to_bytes(4, "big") + payload


def wait_until(what: str, condition: Any, timeout_s: float = 15) -> None:
    """For what has no event to wait for: the disappearance of a row, a line in a log."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"did not come true: {what}"
        _pause()


def _pause() -> None:
    """Between two looks at what nobody announces: long enough to leave the processor to the others."""
    threading.Event().wait(0.02)


def _bare_environment() -> dict[str, str]:
    """Nothing of the developer's own settings; warnings of ours are errors there too."""
    keep = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in keep if name in os.environ} | {"PYTHONUNBUFFERED": "1"}


def _wait_for_line(process: Process, start: str) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.popen.poll() is None:
        for line in process.log.read_text().splitlines():
            if line.startswith(start):
                return line.removeprefix(start)
        _pause()
    raise AssertionError(f"the process did not start:\n{process.log.read_text()}")

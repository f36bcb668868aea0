"""One client: installed, given a world of its own, exercised, and what it told compared with its row.

Knows how exercises tell (``exercises/told.py``), not what any of them does. An exercise sees nothing of the
developer's environment but the PATH, has a home of its own, and reaches nobody but this machine.
"""

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.clients import environments
from tests.clients.catalogue import FACTS, Client
from tests.clients.environments import Environment, NotInstalled
from tests.clients.outcome import Outcome
from tests.clients.site import serving
from tests.running import CANARY, Gateway, Running, Simulator
from tests.running.postgres import MissingServer, folder_of_a_run, one_for_all

# Seconds; an exercise takes some ten, and one that reads what a window shows of each failure some minutes. A heavy
# client may take three times as long for both.
_INSTALL_S = 400.0
_EXERCISE_S = 420.0
_HEAVY = 3
# Nobody listens there: what a client wants from the internet fails at once, instead of being waited for.
_NOWHERE = "http://127.0.0.1:9"
_HERE = "127.0.0.1,localhost"


def exercise(client: Client, deadline: float) -> Outcome:
    outcome = Outcome(client)
    missing = [name for name in client.needs if name not in os.environ]
    if missing:
        outcome.failure = f"{' and '.join(missing)} must be set: where the program already runs, or its source is"
        return outcome
    _say(client, "is being installed")
    try:
        environment = environments.prepare(client.name, _left(deadline, _INSTALL_S * _factor(client)))
    except NotInstalled as failure:
        outcome.failure = f"not installed: {failure}"
        return outcome
    outcome.install_s = environment.install_s
    started = time.monotonic()
    _say(client, "is there")
    try:
        _in_a_world(outcome, environment, deadline)
    except (AssertionError, OSError, ValueError, MissingServer) as failure:
        # Also what does not start, and a line of the exercise that is no JSON: the other clients go on.
        outcome.failure = outcome.failure or f"{type(failure).__name__}: {failure}"
    outcome.exercise_s = time.monotonic() - started
    _say(client, f"{'FAILED' if outcome.failure else 'is done'} after {outcome.exercise_s:.0f} s")
    return outcome


def _in_a_world(outcome: Outcome, environment: Environment, deadline: float) -> None:
    """As it is shipped: gunicorn's command, two workers, keys, and every other setting at its default."""
    key = f"sk-{secrets.token_hex(16)}"
    shipped: dict[str, Any] = {"WEB_CONCURRENCY": "2", "LOG_LEVEL": "INFO", "GATEWAY_API_KEYS": f"clients={key}"}
    shipped |= outcome.client.settings
    with (
        tempfile.TemporaryDirectory(prefix="clients-") as folder,
        serving(environments.SAMPLES) as site,
        _database(outcome.client) as database,
    ):
        if outcome.client.fetches:
            shipped |= {"FETCH_URLS": "1", "FETCH_HOSTS": site.removeprefix("http://")}
        running = Running(Path(folder), Path(folder))
        with (
            running.simulator() as simulator,
            running.gateway(simulator.url, server="gevent", users=outcome.client.users, **shipped) as gateway,
        ):
            told = {"GATEWAY_URL": gateway.url, "GATEWAY_KEY": key, "SIMULATOR_URL": simulator.url}
            told |= {"SITE_URL": site, "CANARY": CANARY, **database}
            output = _run(outcome, environment, told, _left(deadline, _EXERCISE_S * _factor(outcome.client)))
            _listen(outcome, output)
            if not outcome.failure:
                _look_behind(outcome, simulator, gateway)
        leaks = running.leaks([key])
        assert not leaks, f"found in logs and databases: {leaks}"


@contextlib.contextmanager
def _database(client: Client) -> Iterator[dict[str, str]]:
    """The variable with the address of the program's database, for a client that needs one."""
    if not client.database:
        yield {}
        return
    with folder_of_a_run() as folder:
        server = one_for_all(folder)
        server.create_database(client.name)
        yield {"DATABASE_URL": server.url(client.name).replace("postgresql+psycopg:", "postgresql:")}


def _run(outcome: Outcome, environment: Environment, told: dict[str, str], timeout_s: float) -> str:
    """Its output. Whatever it has started is ended with it."""
    shutil.rmtree(environment.home, ignore_errors=True)
    environment.home.mkdir()
    said, log = environment.folder / "exercise.out", environment.folder / "exercise.log"
    with said.open("wb") as out, log.open("wb") as errors:
        process = subprocess.Popen(
            environment.command,
            cwd=environment.home,
            env=_environ(environment, told, outcome.client.needs),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )
        if not _ends_within(process.pid, timeout_s):
            outcome.failure = f"did not end within {timeout_s:.0f} s"
        # It began a group of its own. Only now is it waited for: until then its number is nobody else's.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    output = said.read_text(errors="replace")
    if process.returncode and not outcome.failure:
        outcome.failure = f"ended with {process.returncode}"
    if outcome.failure:
        outcome.failure += f"\n{output[-2000:]}\n{log.read_text(errors='replace')[-4000:]}"
    return output


def _environ(environment: Environment, told: dict[str, str], needs: Sequence[str]) -> dict[str, str]:
    ours = {name: os.environ[name] for name in ("CHROMIUM", *needs) if name in os.environ}
    proxies = {"HTTP_PROXY": _NOWHERE, "HTTPS_PROXY": _NOWHERE, "NO_PROXY": _HERE}
    return {
        "PATH": environment.path,
        "HOME": str(environment.home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(environments.EXERCISES),
        "PYTHONDONTWRITEBYTECODE": "1",
        **proxies,
        **{name.lower(): value for name, value in proxies.items()},
        **told,
        **ours,
    }


def _ends_within(pid: int, timeout_s: float) -> bool:
    descriptor = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([descriptor], [], [], timeout_s)
        return bool(ended)
    finally:
        os.close(descriptor)


def _listen(outcome: Outcome, output: str) -> None:
    for line in output.splitlines():
        if not line.startswith("{"):
            continue
        word = json.loads(line)
        outcome.version = word.get("version", outcome.version)
        if "read" in word:
            outcome.reads[word["read"]] = word["words"]
        match word.get("proved"):
            case None:
                continue
            case "also":
                outcome.also.append(word["words"])
            case fact:
                assert fact in FACTS, f"no such fact: {fact}"
                outcome.proved.add(fact)
    missing = outcome.client.proves - outcome.proved
    if missing and not outcome.failure:
        outcome.failure = f"did not prove: {', '.join(sorted(missing))}"


def _look_behind(outcome: Outcome, simulator: Simulator, gateway: Gateway) -> None:
    """What the client does not see: nothing is left at Kimi, and nothing went wrong in the gateway."""
    simulator.wait("open_streams", equals=0)
    state = simulator.state()
    assert state["turns"], "Kimi was never asked"
    if not outcome.client.keeps_chats:
        # What stays open may be continued.
        simulator.wait("deleted_chats", at_least=state["total_chats"] - gateway.tables.open_chats())
    log, found, traceback = gateway.log().partition("Traceback")
    assert not found, f"the gateway's log:\n{log[-1000:]}{found}{traceback[:3000]}"


def _factor(client: Client) -> int:
    return _HEAVY if client.heavy else 1


def _left(deadline: float, at_most_s: float) -> float:
    return max(1.0, min(at_most_s, deadline - time.monotonic()))


def _say(client: Client, what: str) -> None:
    print(f"{client.title} {what}", flush=True)

"""One simulator and, per protocol, one gateway for most tests; others start their own through ``running``."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.running import PROFILES, Gateway, Profile, Running, Simulator
from tests.running.postgres import folder_of_a_run

# The gateway as it is shipped: gunicorn, gevent, two workers; only its patience is shorter.
_SHIPPED = {
    "HEARTBEAT_S": "1",
    "FIRST_EVENT_TIMEOUT_S": "4",
    "IDLE_TIMEOUT_S": "4",
    "CONVERSATION_WAIT_S": "1",
    "QUEUE_WAIT_S": "4",
    "RETRY_BACKOFF_S": "0.05",
}
# A gateway without patience: silence is a failure after a second.
_QUICK = {
    "HEARTBEAT_S": "0.5",
    "FIRST_EVENT_TIMEOUT_S": "1",
    "IDLE_TIMEOUT_S": "1",
    "CONVERSATION_WAIT_S": "0.3",
    "LEASE_S": "1",
    "QUEUE_WAIT_S": "0.3",
    "RETRY_BACKOFF_S": "0.02",
}


# Inherited by the processes of xdist: the folder of what they share.
_FOLDER_OF_THE_RUN = "KIMI_GATEWAY_TESTS_FOLDER"
_OWNED = pytest.StashKey[ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    if _FOLDER_OF_THE_RUN not in os.environ:
        config.stash[_OWNED] = stack = ExitStack()
        os.environ[_FOLDER_OF_THE_RUN] = str(stack.enter_context(folder_of_a_run()))


def pytest_unconfigure(config: pytest.Config) -> None:
    if _OWNED in config.stash:
        config.stash[_OWNED].close()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Ends with a search through every log and database of the run: no token, no message text."""
    running = Running(tmp_path_factory.mktemp("running"), Path(os.environ[_FOLDER_OF_THE_RUN]))
    yield running
    assert running.leaks() == []


@pytest.fixture(scope="session")
def shared_simulator(running: Running) -> Iterator[Simulator]:
    with running.simulator() as simulator:
        yield simulator


@pytest.fixture
def profile(request: pytest.FixtureRequest, running: Running, shared_simulator: Simulator) -> Iterator[Profile]:
    """The Kimi of this test; both generations unless a mark says otherwise (``running.EVERY_PROFILE``)."""
    profile = PROFILES[getattr(request, "param", "all")]
    running.profile = shared_simulator.profile = profile
    yield profile
    running.profile = shared_simulator.profile = PROFILES["all"]


@pytest.fixture
def database(request: pytest.FixtureRequest, running: Running) -> Iterator[str]:
    """The kind of database that gateways get in this test; SQLite unless a mark says otherwise
    (``running.BOTH_DATABASES``)."""
    running.kind_of_database = getattr(request, "param", "sqlite")
    yield running.kind_of_database
    running.kind_of_database = "sqlite"


@pytest.fixture
def simulator(shared_simulator: Simulator, profile: Profile) -> Simulator:
    """The simulator, as if just started."""
    shared_simulator.reset()
    return shared_simulator


_Shared = Callable[[str, dict[str, Any], Profile], Gateway]


@pytest.fixture(scope="session")
def shared_gateways(running: Running, shared_simulator: Simulator) -> Iterator[_Shared]:
    """Gateways that live as long as the run: one of each kind for each protocol that is asked for."""
    started: dict[tuple[str, str, str], Gateway] = {}
    with ExitStack() as stack:

        def get(kind: str, settings: dict[str, Any], profile: Profile) -> Gateway:
            key = (kind, profile.protocol, running.kind_of_database)
            if key in started:
                started[key].wake_accounts()
            else:
                settings = {**settings, "KIMI_PROTOCOL": profile.protocol}
                started[key] = stack.enter_context(running.gateway(shared_simulator.url, **settings))
            return replace(started[key], model=profile.model)

        yield get


@pytest.fixture
def gateway(shared_gateways: _Shared, profile: Profile, database: str) -> Gateway:
    return shared_gateways("shipped", _SHIPPED, profile)


@pytest.fixture
def quick(shared_gateways: _Shared, profile: Profile, database: str) -> Gateway:
    return shared_gateways("quick", _QUICK, profile)


@pytest.fixture
def blunt(shared_gateways: _Shared, profile: Profile, database: str) -> Gateway:
    """One that tells every failure at once: no second try, no other account."""
    return shared_gateways("blunt", {**_SHIPPED, "FAILOVER_S": "0", "QUEUE_WAIT_S": "0.3"}, profile)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of a conversation that no other test has."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", request.node.name)[-128:]

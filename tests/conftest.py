"""One simulator and one gateway for most tests; others start their own through ``running``."""

from collections.abc import Iterator

import pytest

from tests.running import Gateway, Running, Simulator


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Ends with a search through every log and database of the run: no token, no message text."""
    running = Running(tmp_path_factory.mktemp("running"))
    yield running
    assert running.leaks() == []


@pytest.fixture(scope="session")
def shared_simulator(running: Running) -> Iterator[Simulator]:
    with running.simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(shared_simulator: Simulator) -> Simulator:
    """The simulator, as if just started."""
    shared_simulator.reset()
    return shared_simulator


@pytest.fixture(scope="session")
def gateway(running: Running, shared_simulator: Simulator) -> Iterator[Gateway]:
    """The gateway as it is shipped: gunicorn, gevent, two workers; only its patience is shorter."""
    with running.gateway(
        shared_simulator.url,
        HEARTBEAT_S="1",
        FIRST_EVENT_TIMEOUT_S="4",
        IDLE_TIMEOUT_S="4",
        CONVERSATION_WAIT_S="1",
    ) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def quick(running: Running, shared_simulator: Simulator) -> Iterator[Gateway]:
    """A gateway without patience: silence is a failure after a second."""
    with running.gateway(
        shared_simulator.url,
        HEARTBEAT_S="0.5",
        FIRST_EVENT_TIMEOUT_S="1",
        IDLE_TIMEOUT_S="1",
        CONVERSATION_WAIT_S="0.3",
        LEASE_S="1",
    ) as gateway:
        yield gateway

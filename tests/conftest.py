"""One simulator and, per protocol, one gateway for most tests; others start their own through ``running``."""

import gc
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest

from tests.running import BLUNT, PROFILES, QUICK, SHIPPED, Gateway, Profile, Running, Share, SharedGateways, Simulator
from tests.running.postgres import Cluster, folder_of_a_run

# Inherited by the processes of xdist: the folder of what they share.
_FOLDER_OF_THE_RUN = "KIMI_GATEWAY_TESTS_FOLDER"
_OWNED = pytest.StashKey[ExitStack]()

# The same examples in every run, and no limit of time: what fails must fail again, on a busy machine, too.
hypothesis.settings.register_profile(
    "suite",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("suite")

# Each process of xdist imports all tests, which makes half a million objects that live until its end. No garbage
# collection looks at them: not meanwhile, and none later.
gc.disable()
# Test modules with rewritten assertions are kept for the next run, also where PYTHONDONTWRITEBYTECODE is set:
# rewriting them takes each process four seconds.
sys.dont_write_bytecode = False


def pytest_configure(config: pytest.Config) -> None:
    # A shell lets what it starts in the background ignore this signal, and so would all processes of the tests.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if _FOLDER_OF_THE_RUN not in os.environ:
        config.stash[_OWNED] = stack = ExitStack()
        os.environ[_FOLDER_OF_THE_RUN] = str(stack.enter_context(folder_of_a_run()))


def pytest_unconfigure(config: pytest.Config) -> None:
    if _OWNED in config.stash:
        config.stash[_OWNED].close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each process of xdist begins with some of the long tests: at the start it gets one part of the list."""
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    sorted_items: list[pytest.Item] = []
    for number in range(processes):
        end = len(sorted_items) + (len(items) - len(sorted_items)) // (processes - number)
        sorted_items += long[number::processes]
        rest = max(0, end - len(sorted_items))
        sorted_items += others[:rest]
        del others[:rest]
    items[:] = sorted_items + others


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Ends with a search through every log and database of the run: no token, no message text."""
    running = Running(tmp_path_factory.mktemp("running"), Path(os.environ[_FOLDER_OF_THE_RUN]))
    yield running
    running.close()
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


@pytest.fixture(scope="session")
def shared_gateways(running: Running, shared_simulator: Simulator) -> Iterator[SharedGateways]:
    shared = SharedGateways(running, shared_simulator.url)
    yield shared
    shared.close()


@pytest.fixture
def shared_gateway(shared_gateways: SharedGateways, simulator: Simulator, profile: Profile, database: str) -> Share:
    """``shared_gateway(users="alice", QUEUE_MAX="1")``: one with these settings, see SharedGateways."""

    def share(*, users: str = "alice,bob,carol", server: str = "forked", **settings: str) -> Gateway:
        return shared_gateways.get(profile, users, server, settings)

    return share


@pytest.fixture
def gateway(shared_gateway: Share) -> Gateway:
    """As it is shipped, with shorter waits."""
    return shared_gateway(**SHIPPED)


@pytest.fixture
def forgetful(shared_gateway: Share) -> Gateway:
    """One that opens a chat for each stateless request, and deletes it after the answer."""
    return shared_gateway(**SHIPPED, CONTINUE_CHATS="0")


@pytest.fixture
def quick(shared_gateway: Share) -> Gateway:
    return shared_gateway(**QUICK)


@pytest.fixture
def blunt(shared_gateway: Share) -> Gateway:
    """One that reports every failure at once: no second try, no other account."""
    return shared_gateway(**BLUNT)


@pytest.fixture
def patient(request: pytest.FixtureRequest, shared_gateway: Share) -> Gateway:
    """One that waits for Kimi for long, commits early and beats fast, so that it soon notices a client that has left.
    Under gevent ("forked") unless a mark says otherwise."""
    return shared_gateway(
        WEB_CONCURRENCY="2", server=getattr(request, "param", "forked"), HEARTBEAT_S="0.3", COMMIT_AFTER_S="0.3"
    )


@pytest.fixture
def cluster(running: Running) -> Iterator[Cluster]:
    """A PostgreSQL that this test may stop."""
    with tempfile.TemporaryDirectory(prefix="kimi-gateway-tests-") as folder:
        Path(folder).chmod(0o755)
        cluster = Cluster.create(Path(folder) / "cluster")
        try:
            yield cluster
            assert running.leaks_of(cluster) == []
        finally:
            if cluster.runs:
                cluster.stop("immediate")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of a conversation that no other test has."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", request.node.name)[-128:]

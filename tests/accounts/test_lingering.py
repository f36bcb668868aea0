"""An upstream that keeps its streams open behind the end of the answer: until then its account is in use."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.running import Profile, Share, Simulator, ask, read_stream

# Seconds of load. Under `make test` a few will do.
LOAD_S = float(os.environ.get("LINGER_RUN_S", "1"))
LINGER_S = 0.5

EACH = pytest.mark.parametrize("profile", ["sse-2025", "connect-2026", "connect-2026-09"], indirect=True)


@pytest.mark.parametrize(
    ("profile", "most"), [("sse-2025", 2), ("connect-2026", 1), ("connect-2026-09", 2)], indirect=["profile"]
)
def test_an_account_never_has_more_streams_than_it_may(
    shared_gateway: Share, simulator: Simulator, profile: Profile, most: int
) -> None:
    simulator.knobs(linger_s=LINGER_S, tokens=4)
    gateway = shared_gateway(ACCOUNT_MAX_STREAMS=str(most), WEB_CONCURRENCY="2", QUEUE_WAIT_S="60")
    with ThreadPoolExecutor(10) as clients:
        assert gateway.get("/healthz").ok
        ends_at = time.monotonic() + LOAD_S

        def keep_asking(number: int) -> int:
            asked = 0
            while time.monotonic() < ends_at:
                assert ask(gateway, number % 2 == 0).finish_reason == "stop"
                asked += 1
            return asked

        asked = sum(clients.map(keep_asking, range(10)))
    accounts = simulator.state()["accounts"]
    assert {account["max_open_streams"] for account in accounts.values()} == {most}
    assert asked == sum(account["turns"] for account in accounts.values()) > len(accounts) * most


@EACH
@pytest.mark.parametrize("stream", [True, False])
def test_its_client_does_not_wait_for_that(shared_gateway: Share, simulator: Simulator, stream: bool) -> None:
    simulator.knobs(linger_s=60, tokens=4)
    gateway = shared_gateway(users="alice", ACCOUNT_MAX_STREAMS="1")
    assert gateway.get("/healthz").ok
    took_s: list[float] = []
    # The shortest of some: anything may take a second on a busy machine.
    while min(took_s, default=60.0) >= 1 and len(took_s) < 5:
        began = time.monotonic()
        with gateway.say("hello", stream=stream) as response:
            if stream:
                assert read_stream(response).finish_reason == "stop"
            else:
                assert response.json()["choices"][0]["finish_reason"] == "stop"
        took_s.append(time.monotonic() - began)
        # The next one waits until the stream is closed, which is soon.
        assert ask(gateway, stream).finish_reason == "stop"
        assert 1 <= time.monotonic() - began < 30
    assert min(took_s) < 1
    assert simulator.state()["accounts"]["alice"]["max_open_streams"] == 1


@EACH
def test_a_client_that_leaves_frees_the_account(shared_gateway: Share, simulator: Simulator) -> None:
    simulator.knobs(gate="stay", gate_after=1)
    gateway = shared_gateway(users="alice", ACCOUNT_MAX_STREAMS="1")
    with gateway.say("hello", stream=True):
        simulator.wait("gate:stay", at_least=1)
    simulator.open_gate("stay")
    assert ask(gateway, True).finish_reason == "stop"
    assert simulator.state()["accounts"]["alice"]["max_open_streams"] == 1

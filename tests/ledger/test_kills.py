"""Two gateways with two workers each, of which some are killed: every request counts once, or not at all."""

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import pytest
import requests

from app.store import Store
from tests.running import BOTH_DATABASES, Gateway, Running, Simulator, wait_until

# REQUESTS=10000 is the form for a quiet machine.
_REQUESTS = int(os.environ.get("REQUESTS", "150"))
_KILLS = max(2, _REQUESTS // 1000)
# A worker writes once a second; what ended just before it was killed is lost. Seconds, for a busy machine.
_LOST_S = 4.0


@pytest.mark.long
# A busy machine answers 20 requests a second; the limit of the settings is made for the short form.
@pytest.mark.timeout(300 + _REQUESTS / 10)
@BOTH_DATABASES
def test_sums_equal_requests_and_none_counts_twice(running: Running, simulator: Simulator, database: str) -> None:
    simulator.knobs(say="one two", record=False)
    settings: dict[str, Any] = {"WEB_CONCURRENCY": "2", "LEASE_S": "2", "ACCOUNT_MAX_STREAMS": "8"}
    shared = running.new_database()
    answered: dict[str, float] = {}
    killed: list[float] = []
    with (
        running.gateway(simulator.url, database=shared, **settings) as one,
        running.gateway(simulator.url, database=shared, **settings) as other,
    ):
        gateways = [one, other]
        for gateway in gateways:
            gateway.wait_for_workers()

        def send(number: int) -> None:
            body = {"model": one.model, "messages": [{"role": "user", "content": "hello"}]}
            with suppress(requests.RequestException):
                requests.post(
                    f"{gateways[number % 2].url}/v1/chat/completions",
                    json=body,
                    headers={"x-request-id": f"number-{number}"},
                    timeout=60,
                )
                answered[f"number-{number}"] = time.monotonic()

        def kill_some() -> None:
            for number in range(1, _KILLS + 1):
                enough = _REQUESTS * number // (_KILLS + 1)
                wait_until("more are answered", lambda enough=enough: len(answered) >= enough, 120 + _REQUESTS / 20)
                kill(random.choice(gateways))
                killed.append(time.monotonic())

        killer = threading.Thread(target=kill_some)
        killer.start()
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(send, range(_REQUESTS)))
        killer.join()
        assert len(killed) == _KILLS
    # The gateways have ended in order, so everything is written.
    with closing(Store(shared.url)) as store:
        rows = store.ledger.newest(2 * _REQUESTS)
        sums = sum(row.requests for row in store.ledger.usage(0, 10**6))
        hours = sum(row.requests for row in store.ledger.hours(0, 10**7))
        counted = sum(row.n for row in store.ledger.tallies() if row.name == "kimi_gateway_requests")
    ids = [row.request_id for row in rows]
    assert len(ids) == len(set(ids)) == sum(row.n for row in rows) == sums == hours == counted
    lost = set(answered) - set(ids)
    near = [id_ for id_ in lost if any(-_LOST_S < at - answered[id_] < _LOST_S for at in killed)]
    assert sorted(lost) == sorted(near) and len(lost) < len(answered) / 2


def kill(gateway: Gateway) -> None:
    """SIGKILL for one of its workers. The master starts another one."""
    workers = gateway.process.children()
    if workers:
        os.kill(random.choice(workers), signal.SIGKILL)

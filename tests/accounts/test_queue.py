"""The queue of requests that wait for an account: shares of API keys, and the bookkeeping behind it."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from app.accounts import scheduling
from app.accounts.leases import Leases
from app.accounts.scheduling import Limits
from app.concurrency.background import Cancellation
from app.errors import AccountRejected, NoAccountFree
from app.store import Store
from app.store.leases import Ticket, Wish
from app.store.process_lease import ProcessLease
from app.store.tables import accounts as accounts_table
from app.store.tables import cooldowns, queue
from tests.running import BOTH_DATABASES, CANARY, Gateway, Running, Simulator, mint, wait_until

_COUNTS = sa.select(accounts_table.c.id, accounts_table.c.streams)
_WAITING = sa.select(sa.func.count().label("waiting")).select_from(queue)
_COOLDOWNS = sa.select(cooldowns.c.account_id)


def _waiting(store: Store) -> int:
    (row,) = store.database.rows(_WAITING)
    return int(row["waiting"])


def _say(gateway: Gateway, key: str, text: str) -> requests.Response:
    body = {"model": "k2", "messages": [{"role": "user", "content": f"{text} {CANARY}"}]}
    return gateway.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})


@BOTH_DATABASES
def test_in_a_full_queue_the_key_with_the_most_requests_loses_first(
    running: Running, simulator: Simulator, database: str
) -> None:
    settings: dict[str, Any] = {
        "KIMI_TOKENS": mint("alice"),
        "ACCOUNT_MAX_STREAMS": "1",
        "GATEWAY_API_KEYS": "loud-key,calm-key",
        "QUEUE_MAX": "4",
        "QUEUE_WAIT_S": "60",
    }
    simulator.knobs(gate="full", gate_after=1)
    with running.gateway(simulator.url, **settings) as gateway, ThreadPoolExecutor(8) as pool:
        first = pool.submit(_say, gateway, "loud-key", "running")
        simulator.wait("gate_waiting:full", equals=1)
        loud: list[Future[requests.Response]] = []
        for waiting in range(1, 5):
            loud.append(pool.submit(_say, gateway, "loud-key", f"loud {waiting}"))
            wait_until("it waits", lambda waiting=waiting: gateway.tables.waiting_turns() == waiting)
        # It loses its own request, and no other key's.
        refused = _say(gateway, "loud-key", "loud 5")
        assert refused.status_code == 429 and "too many requests wait" in refused.json()["error"]["message"]
        calm = []
        for number in (1, 2):
            calm.append(pool.submit(_say, gateway, "calm-key", f"calm {number}"))
            dropped = loud[4 - number].result(timeout=60)
            assert dropped.status_code == 429
            assert "too many requests of this API key wait already" in dropped.json()["error"]["message"]
        # Now both have as many.
        assert _say(gateway, "calm-key", "calm 3").status_code == 429
        wait_until("no others wait", lambda: gateway.tables.waiting_turns() == 4)
        simulator.open_gate("full")
        assert all(answer.result().ok for answer in (first, *loud[:2], *calm))


@pytest.fixture
def store(running: Running, database: str) -> Iterator[Store]:
    with closing(Store(running.new_database().url)) as store:
        yield store


@pytest.fixture
def process_lease(store: Store) -> Iterator[ProcessLease]:
    lease = ProcessLease(store, 60.0)
    lease.start()
    yield lease
    lease.expire_now()


def _leases(
    store: Store, process_lease: ProcessLease, *, max_streams: int = 1, max_waiting: int = 500, wait_s: float = 10.0
) -> Leases:
    limits = Limits(max_streams, 0.0)
    return Leases(store, process_lease, limits, max_waiting=max_waiting, wait_s=wait_s, longest_s=100.0)


def _streams(store: Store) -> dict[str, int]:
    rows = store.database.rows(_COUNTS)
    return {row["id"]: row["streams"] for row in rows}


@BOTH_DATABASES
def test_the_number_of_streams_of_an_account_is_that_of_its_leases(
    store: Store, process_lease: ProcessLease, database: str
) -> None:
    accounts = {"one": "x", "two": "y"}
    store.accounts.add(list(accounts), time.time())
    leases = _leases(store, process_lease, max_streams=2)
    held = [leases.lease(accounts, "k2", "key", Cancellation()) for _ in range(4)]
    assert _streams(store) == {"one": 2, "two": 2}
    leases.release(held[0])
    leases.release(held[0])
    assert sorted(_streams(store).values()) == [1, 2]
    # The ends of those that nobody has given back, and of those whose process is dead.
    store.processes.delete_leftovers(time.time() + 1000)
    assert _streams(store) == {"one": 0, "two": 0}
    leases.lease(accounts, "k2", "key", Cancellation())
    store.processes.delete(store.database.process_id)
    assert _streams(store) == {"one": 0, "two": 0}


@BOTH_DATABASES
def test_a_request_for_a_busy_account_holds_up_no_other(
    store: Store, process_lease: ProcessLease, database: str
) -> None:
    store.accounts.add(["busy", "free"], time.time())
    leases = _leases(store, process_lease)
    busy = leases.lease({"busy": "x"}, "k2", "key", Cancellation())
    free = leases.lease({"free": "x"}, "k2", "key", Cancellation())
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(leases.lease, {"busy": "x"}, "k2", "key", Cancellation())
        wait_until("it waits", lambda: _waiting(store) == 1)
        second = pool.submit(leases.lease, {"busy": "x", "free": "x"}, "k2", "other", Cancellation())
        wait_until("both wait", lambda: _waiting(store) == 2)
        leases.release(free)
        assert second.result(60).account_id == "free"
        assert not first.done()
        leases.release(busy)
        assert first.result(60).account_id == "busy"
    assert _waiting(store) == 0


@BOTH_DATABASES
def test_a_lease_is_kept_for_a_request_that_is_in_the_queue_and_not_yet_known(
    store: Store, process_lease: ProcessLease, database: str
) -> None:
    """Between both steps of joining another thread of the process may serve the queue."""
    store.accounts.add(["one"], time.time())
    leases = _leases(store, process_lease)
    ticket, now = Ticket("joining", "key", Wish("k2", {"one": "x"})), store.database.now()
    store.database.in_exclusive_transaction(
        lambda tx: store.leases.enqueue(tx, ticket, 0, process_lease.id, now, now + 60)
    )
    for _ in range(2):
        leases.look()
        granted, _dropped = store.leases.decided(process_lease.id)
        assert [(row.id, row.account_id) for row in granted] == [("joining", "one")]


@BOTH_DATABASES
def test_a_lease_learns_what_its_stream_asks_where_that_is_not_what_it_was_to_ask(
    store: Store, process_lease: ProcessLease
) -> None:
    """So that its chat is found if its process dies."""
    leases = _leases(store, process_lease)
    store.accounts.add(["one"], time.time())
    lease = leases.lease({"one": "x"}, "k2", "key", Cancellation(), "rest:1 connect:1")
    for question, known in (("connect:1", "rest:1 connect:1"), ("connect:2 connect:3", "connect:2 connect:3")):
        leases.will_ask(lease, question)
        assert store.lost_chats.questions_of_running("one", 0) == [known]
    leases.release(lease)
    leases.will_ask(lease, "connect:4")
    assert store.lost_chats.questions_of_running("one", 0) == []


@BOTH_DATABASES
def test_many_get_their_accounts_in_order_although_few_do_at_once(
    store: Store, process_lease: ProcessLease, database: str
) -> None:
    accounts = {f"account-{number}": "x" for number in range(25)}
    store.accounts.add(list(accounts), time.time())
    leases = _leases(store, process_lease)
    held = [leases.lease(accounts, "k2", "key", Cancellation()) for _ in accounts]
    served: list[int] = []

    def wait(number: int) -> None:
        leases.lease(accounts, "k2", "key", Cancellation())
        served.append(number)

    with ThreadPoolExecutor(25) as pool:
        for number in range(25):
            pool.submit(wait, number)
            wait_until("it waits", lambda number=number: _waiting(store) == number + 1)
        for lease in held:
            leases.release(lease)
        wait_until("all are served", lambda: len(served) == 25)
    assert sorted(_streams(store).values()) == [1] * 25


@BOTH_DATABASES
def test_accounts_that_no_gateway_has_are_deleted_with_their_cooldowns(
    store: Store, process_lease: ProcessLease, database: str
) -> None:
    now = time.time()
    store.accounts.add([f"gone-{number}" for number in range(250)], now - 10_000)
    store.accounts.add(["here"], now)
    leases = _leases(store, process_lease)
    lease = leases.lease({"gone-0": "x"}, "k2", "key", Cancellation())
    leases.cool_down(lease.account_id, "", 1.0, None, "")
    assert [store.accounts.delete_unseen(now - 3600, 100) for _ in range(4)] == [100, 100, 49, 0]
    assert set(_streams(store)) == {"here", "gone-0"}, "a stream runs on it"
    leases.release(lease)
    assert store.accounts.delete_unseen(now - 3600, 100) == 1
    assert store.database.rows(_COOLDOWNS) == []


@BOTH_DATABASES
def test_rejected_tokens_and_cooldowns_refuse_at_once(
    store: Store, process_lease: ProcessLease, database: str
) -> None:
    store.accounts.add(["one", "two"], time.time())
    leases = _leases(store, process_lease, max_streams=5)
    leases.reject("one", "x")
    with pytest.raises(AccountRejected):
        leases.lease({"one": "x"}, "k2", "key", Cancellation())
    assert leases.lease({"one": "a new token"}, "k2", "key", Cancellation()).account_id == "one"
    lease = leases.lease({"one": "x", "two": "y"}, "k2", "key", Cancellation())
    assert lease.account_id == "two"
    leases.cool_down(lease.account_id, "k2", 60.0, 600.0, "")
    with pytest.raises(NoAccountFree, match="cooling down") as caught:
        leases.lease({"one": "x", "two": "y"}, "k2", "key", Cancellation())
    assert 500 < (caught.value.retry_after_s or 0) < 700
    assert leases.lease({"two": "y"}, "another model", "key", Cancellation()).account_id == "two"
    assert _waiting(store) == 0


def test_a_request_displaces_none_of_a_key_with_as_many() -> None:
    assert scheduling.may_displace(own=0, most=2)
    assert not scheduling.may_displace(own=0, most=1)
    assert not scheduling.may_displace(own=1, most=2)
    assert not scheduling.may_displace(own=2, most=2)


def test_what_a_request_wants_has_one_name_whatever_its_order() -> None:
    assert Wish("k2", {"a": "1", "b": "2"}).id == Wish("k2", {"b": "2", "a": "1"}).id
    others = [Wish("k2", {"a": "1"}), Wish("k1", {"a": "1", "b": "2"}), Wish("k2", {"a": "1", "b": "3"})]
    assert len({wish.id for wish in others}) == 3

"""Two turns of one conversation never overlap, whatever happens to the database, to the clocks, or to a process."""

import contextlib
import os
import re
import select
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.store import Store
from app.store.process_lease import ProcessLease
from tests.running import BOTH_DATABASES, Gateway, Running, Simulator, mint, read_stream, wait_until
from tests.running.databases import PostgresDatabase, SqliteDatabase
from tests.running.postgres import Cluster

# A second turn waits for long: it must not begin while the first one runs.
SETTINGS: dict[str, Any] = {"KIMI_TOKENS": mint("alice"), "LEASE_S": "1", "CONVERSATION_WAIT_S": "60"}


@contextlib.contextmanager
def two_gateways(running: Running, simulator: Simulator, **settings: Any) -> Iterator[tuple[Gateway, Gateway]]:
    with ExitStack() as stack:
        shared = settings.pop("database", None) or running.new_database()
        one, other = (
            stack.enter_context(running.gateway(simulator.url, database=shared, **{**SETTINGS, **settings}))
            for _ in range(2)
        )
        for gateway in (one, other):
            gateway.wait_for_workers()
        yield one, other


def test_a_locked_database_lets_no_second_turn_in_and_ends_no_first_one(
    running: Running, simulator: Simulator
) -> None:
    """Nobody could renew a lease meanwhile, so nobody is to blame."""
    with two_gateways(running, simulator) as (gateway, other), ThreadPoolExecutor(1) as pool:
        simulator.knobs(gate="long", gate_after=1)
        with gateway.say("first", "talk", stream=True) as first:
            simulator.wait("gate_waiting:long", equals=1)
            simulator.knobs(gate="")
            second = pool.submit(other.say, "second", "talk")
            wait_until("it waits", lambda: "conversation_busy waiting=1" in other.log())
            with closing(sqlite3.connect(gateway.database.url.removeprefix("sqlite:///"))) as locking:
                locking.execute("BEGIN IMMEDIATE")
                # Several times as long as a lease.
                renewed = threading.Event()
                renewed.wait(4)
            looks = other.log().count("conversation_busy")
            wait_until("it goes on to look", lambda: other.log().count("conversation_busy") > looks + 15)
            simulator.open_gate("long")
            assert read_stream(first).finish_reason == "stop"
        assert second.result().ok
    assert simulator.state()["max_open_streams"] == 1
    assert "process_lease_lost" not in gateway.log() + other.log()


# For a process on a machine whose clock is set while it runs: by as many seconds as a file says.
_CLOCK_THAT_IS_SET = """
import os, time
from pathlib import Path
true, ahead = time.time, Path(os.environ["CLOCK_IS_AHEAD"])
time.time = lambda: true() + float(ahead.read_text())
"""


@BOTH_DATABASES
@pytest.mark.parametrize("seconds", ["7200", "-7200"], ids=["forward", "back"])
def test_a_clock_that_is_set_lets_no_second_turn_in(
    running: Running, simulator: Simulator, tmp_path: Path, seconds: str, database: str
) -> None:
    (ahead := tmp_path / "ahead").write_text("0")
    (tmp_path / "sitecustomize.py").write_text(_CLOCK_THAT_IS_SET)
    settings = {"PYTHONPATH": str(tmp_path), "CLOCK_IS_AHEAD": str(ahead)}
    with two_gateways(running, simulator, **settings) as (gateway, other), ThreadPoolExecutor(1) as pool:
        simulator.knobs(gate="long", gate_after=1)
        with gateway.say("first", "talk", stream=True) as first:
            simulator.wait("gate_waiting:long", equals=1)
            simulator.knobs(gate="")
            second = pool.submit(other.say, "second", "talk")
            wait_until("it waits", lambda: "conversation_busy waiting=1" in other.log())
            ahead.write_text(seconds)
            looks = other.log().count("conversation_busy")
            wait_until("several leases have passed", lambda: other.log().count("conversation_busy") > looks + 25)
            simulator.open_gate("long")
            assert read_stream(first).finish_reason == "stop"
        assert second.result().ok
        assert gateway.say("third", "talk").ok
    assert simulator.state()["max_open_streams"] == 1


# In a message that prepares a statement: its name and the statement.
_PREPARED = re.compile(rb"(_pg3_\d+)\0([^\0]+)\0")


class Way:
    """A way to a PostgreSQL that can stop to carry anything, as a broken network does: at once, or when a statement
    is sent."""

    def __init__(self, cluster: Cluster) -> None:
        self._to = ("127.0.0.1", cluster.port)
        self._last: bytes | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._is_open = threading.Event()
        self._is_open.set()

    def __enter__(self) -> "Way":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open_again()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=self._listener.accept()[:1], daemon=True).start()

    def close_at(self, statement: bytes) -> None:
        """``statement``: its beginning. What is sent before it still arrives."""
        self._last = statement

    def open_again(self) -> None:
        self._last = None
        self._is_open.set()

    def _serve(self, gateway: socket.socket) -> None:
        # The names of prepared statements, which are sent in their place later
        # (https://www.postgresql.org/docs/current/protocol-message-formats.html).
        names: dict[bytes, bytes] = {}
        with contextlib.suppress(OSError), gateway, socket.create_connection(self._to) as server:
            while True:
                for end in select.select([gateway, server], [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    if end is gateway:
                        names.update((text, name) for name, text in _PREPARED.findall(data))
                        meant = [text for text, name in names.items() if b"\0" + name + b"\0" in data]
                        if self._last is not None and self._last in b"".join((data, *meant)):
                            self._is_open.clear()
                    self._is_open.wait()
                    (server if end is gateway else gateway).sendall(data)


# When it is cut off: at once; when it renews its lease; when it looks at the others after that.
AT = {
    "at once": b"",
    "the renewal": b"UPDATE processes SET until",
    "the watch": b"SELECT processes.id, processes.until",
}


@pytest.mark.parametrize("at", AT.values(), ids=AT)
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_turn_that_is_cut_off_from_the_database_ends_before_another_one_begins(
    running: Running, simulator: Simulator, database: str, at: bytes
) -> None:
    shared = running.new_database()
    assert isinstance(shared, PostgresDatabase)
    with Way(shared.cluster) as way, ThreadPoolExecutor(1) as pool:
        there = {**SETTINGS, "DATABASE_URL": shared.url.replace(f":{shared.cluster.port}/", f":{way.port}/")}
        with (
            running.gateway(simulator.url, database=shared, **there) as gateway,
            running.gateway(simulator.url, database=shared, **SETTINGS) as other,
        ):
            for one in (gateway, other):
                one.wait_for_workers()
            simulator.knobs(gate="long", gate_after=1)
            with gateway.say("first", "talk", stream=True) as first:
                simulator.wait("gate_waiting:long", equals=1)
                simulator.knobs(gate="")
                second = pool.submit(other.say, "second", "talk")
                wait_until("it waits", lambda: "conversation_busy waiting=1" in other.log())
                way.close_at(at)
                answer = read_stream(first)
                assert answer.finish_reason is None
                assert answer.error is not None and answer.error["code"] == "conversation_taken"
            assert second.result().ok
            way.open_again()
            wait_until("it serves again", lambda: gateway.say("third", "talk").ok)
    assert simulator.state()["max_open_streams"] == 1
    assert "process_lease_lost reason=database_unavailable" in gateway.log()


def test_a_database_that_restarts_ends_no_turn(running: Running, simulator: Simulator, cluster: Cluster) -> None:
    """It is away for longer than a lease, and says so: nobody can have taken anything."""
    database = PostgresDatabase.create(cluster, "gateway")
    # Not one second: on a busy machine a living process may be as late.
    with two_gateways(running, simulator, database=database, LEASE_S="3") as (gateway, other):
        simulator.knobs(gate="long", gate_after=1)
        with gateway.say("first", "talk", stream=True) as first:
            simulator.wait("gate_waiting:long", equals=1)
            simulator.knobs(gate="")
            cluster.stop()
            threading.Event().wait(4)
            cluster.start()
            wait_until("both are back", lambda: all(g.get("/readyz").ok for g in (gateway, other)))
            simulator.open_gate("long")
            assert read_stream(first).finish_reason == "stop"
        assert other.say("second", "talk").ok
    assert len({turn.chat for turn in simulator.turns()}) == 1
    assert "process_lease_lost" not in gateway.log()


def test_a_frozen_process_ends_the_turns_that_others_have_taken_and_no_others(
    running: Running, simulator: Simulator
) -> None:
    settings = {"KIMI_TOKENS": f"{mint('alice')},{mint('bob')}", "ACCOUNT_MAX_STREAMS": "3"}
    simulator.knobs(slot_scope="none")
    with two_gateways(running, simulator, **settings) as (gateway, other), ExitStack() as frozen:
        simulator.knobs(gate="ice", gate_after=1, slot_scope="none")
        with (
            gateway.say("taken", "one", stream=True) as taken,
            gateway.say("left alone", "two", stream=True) as left_alone,
            gateway.say("stateless", stream=True) as stateless,
        ):
            simulator.wait("gate_waiting:ice", equals=3)
            assert isinstance(gateway.database, SqliteDatabase)
            with gateway.database.while_nobody_writes():
                for pid in gateway.process.children():
                    os.kill(pid, signal.SIGSTOP)
                    frozen.callback(os.kill, pid, signal.SIGCONT)
            simulator.knobs(gate="", slot_scope="none")
            assert other.say("second", "one").ok
            frozen.close()
            wait_until("it has noticed", lambda: "conversation_lost_to_another_process" in gateway.log())
            simulator.open_gate("ice")
            answers = [read_stream(stream) for stream in (taken, left_alone, stateless)]
        assert answers[0].error is not None and answers[0].error["code"] == "conversation_taken"
        assert [answer.finish_reason for answer in answers] == [None, "stop", "stop"]
        assert gateway.say("third", "one").ok and gateway.say("third", "two").ok


@BOTH_DATABASES
def test_a_process_that_was_found_dead_learns_it_with_its_next_renewal(running: Running, database: str) -> None:
    url = running.new_database().url
    with closing(Store(url)) as store, closing(Store(url)) as other:
        lease, watcher = ProcessLease(store, lease_s=1.0), ProcessLease(other, lease_s=1.0)
        lost = threading.Event()
        lease.when_lost(lambda _: lost.set())
        lease.start()
        watcher.start()
        wait_until("both are known", lambda: len(other.processes.all()) == 2)
        assert not lost.wait(2.5) and lease.is_valid(), "it renews its lease"
        other.processes.delete(lease.id)
        assert lost.wait(60)
        wait_until("it is alive again", lambda: len(other.processes.all()) == 2)
        for one in (lease, watcher):
            one.expire_now()
        assert other.processes.all() == {}


def test_a_killed_process_is_found_dead_within_two_leases(running: Running) -> None:
    database = running.new_database()
    assert isinstance(database, SqliteDatabase)
    with closing(Store(database.url)) as store:
        watcher = ProcessLease(store, lease_s=0.5)
        watcher.start()
        store.processes.register("killed", 12.5)
        began = time.monotonic()
        wait_until("it is found", lambda: "killed" not in store.processes.all())
        assert 0.45 < time.monotonic() - began < 20
        watcher.expire_now()


@BOTH_DATABASES
def test_processes_seldom_write_while_all_of_them_have_nothing_to_do(running: Running, database: str) -> None:
    url = running.new_database().url
    busy: set[str] = set()
    with ExitStack() as stack:
        store = stack.enter_context(closing(Store(url)))
        leases = []
        for name in ("one", "other"):
            lease = ProcessLease(stack.enter_context(closing(Store(url))), lease_s=1.0)
            lease.describe(lambda _: "{}", partial(busy.__contains__, name))
            lease.start()
            stack.callback(lease.expire_now)
            leases.append(lease)
        one, other = (lease.id for lease in leases)

        def rows(name: str, seconds: float, enough: int = 1000) -> set[float]:
            """The values that the row of a process has in this time, or the first of them."""
            ends = time.monotonic() + seconds
            found: set[float] = set()
            while time.monotonic() < ends and len(found) < enough:
                found.add(store.processes.all()[name])
                time.sleep(0.02)
            return found

        wait_until("both rest", lambda: all(value < 0 for value in store.processes.all().values()))
        assert len(rows(other, 2.0)) <= 3
        assert all(lease.is_valid() for lease in leases)

        busy.add("one")
        leases[0].stop_resting()
        wait_until("it is busy", lambda: store.processes.all()[one] > 0)
        # One that rests writes every three seconds.
        assert len(rows(other, 8.0, enough=4)) > 3, "it can only watch if it writes"
        # As if the busy one was killed.
        for work in leases[0]._work:
            work.stop()
        wait_until("it is found dead", lambda: one not in store.processes.all())
        wait_until("it rests again", lambda: store.processes.all()[other] < 0)
        assert len(rows(other, 2.0)) <= 3


def test_an_idle_process_is_found_dead_while_all_others_have_nothing_to_do(running: Running) -> None:
    url = running.new_database().url
    with ExitStack() as stack:
        watchers = []
        for _ in range(2):
            store = stack.enter_context(closing(Store(url)))
            lease = ProcessLease(store, lease_s=0.5)
            lease.describe(lambda _: "{}", lambda: False)
            lease.start()
            stack.callback(lease.expire_now)
            watchers.append(lease)
        store.processes.register("killed at rest", -12.5)
        began = time.monotonic()
        wait_until("it is found", lambda: "killed at rest" not in store.processes.all())
        assert time.monotonic() - began > 2.9, "a process that rests has a longer lease"
        assert {lease.id for lease in watchers} == set(store.processes.all()), "those that live stay"


def test_an_idle_process_is_found_dead_once_another_one_is_busy(running: Running) -> None:
    with closing(Store(running.new_database().url)) as store:
        watcher = ProcessLease(store, lease_s=0.2)
        watcher.start()
        store.processes.register("killed at rest", -12.5)
        began = time.monotonic()
        wait_until("it is found", lambda: "killed at rest" not in store.processes.all())
        assert 1.1 < time.monotonic() - began < 30
        watcher.expire_now()

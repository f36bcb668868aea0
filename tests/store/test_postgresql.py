"""Several gateways on one PostgreSQL: what they share, and that its restarts are nobody's trouble."""

import contextlib
import os
import select
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa

from app.store.database import Database
from tests.running import ON_POSTGRESQL, Answer, Gateway, Running, Simulator, mint, read_stream, wait_until
from tests.running.commands import Surgery, start
from tests.running.databases import PostgresDatabase
from tests.running.postgres import Cluster

TOKEN = "a.good.token-of-enough-length"


@pytest.fixture(scope="module")
def own_cluster(running: Running) -> Iterator[Cluster]:
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
def cluster(own_cluster: Cluster) -> Cluster:
    """A PostgreSQL that runs, and that this test may stop."""
    if not own_cluster.runs:
        own_cluster.start()
    return own_cluster


@pytest.fixture
def own_database(cluster: Cluster) -> PostgresDatabase:
    """A new one in a PostgreSQL that this test may stop."""
    return PostgresDatabase.create(cluster, f"gateway_{uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="module")
def pair(running: Running, shared_simulator: Simulator) -> Iterator[list[Gateway]]:
    """Two gateways on one database."""
    shared = PostgresDatabase.create(running.postgres, f"gateway_pair_{os.getpid()}")
    with ExitStack() as stack:
        yield [stack.enter_context(running.gateway(shared_simulator.url, database=shared)) for _ in range(2)]


class LosingOneWord:
    """A way to a PostgreSQL on which the answer to one COMMIT is lost, with its connection: to the first one after
    ``statement`` was sent. ``committed`` is set when it was given, and nobody is told before ``lose``."""

    def __init__(self, cluster: Cluster, statement: bytes) -> None:
        self._to = ("127.0.0.1", cluster.port)
        self._statement = statement
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.committed = threading.Event()
        self.lose = threading.Event()

    def __enter__(self) -> "LosingOneWord":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=self._listener.accept()[:1], daemon=True).start()

    def _serve(self, gateway: socket.socket) -> None:
        sent = b""
        with contextlib.suppress(OSError), gateway, socket.create_connection(self._to) as server:
            while True:
                for end in select.select([gateway, server], [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    if end is gateway:
                        sent += data
                        server.sendall(data)
                    elif b"COMMIT" in sent.partition(self._statement)[2] and not self.committed.is_set():
                        self.committed.set()
                        self.lose.wait(60)
                        return
                    else:
                        gateway.sendall(data)


def test_two_gateways_share_a_conversation(pair: list[Gateway], simulator: Simulator) -> None:
    for number in range(6):
        assert pair[number % 2].say(f"word{number}", conversation="shared").ok
    answer = Answer.of_completion(pair[0].say("what did I say", conversation="shared"))
    assert all(f"word{number}" in answer.content for number in range(6))
    assert pair[0].get("/v1/chat/completions/shared").json()["turns"] == 7
    # A turn that one of them runs is one that the other waits for.
    simulator.knobs(gate="busy", gate_after=1)
    with pair[0].say("long", conversation="shared", stream=True) as first:
        simulator.wait("gate:busy", at_least=1)
        assert pair[1].get("/v1/chat/completions/shared").json()["busy"] is True
        simulator.open_gate("busy")
        assert b"[DONE]" in first.content
    assert len({(turn.chat, turn.account) for turn in simulator.turns()}) == 1


# For a process on a machine whose clock is set while it runs: by as many seconds as a file says.
_CLOCK_THAT_IS_SET = """
import os, time
from pathlib import Path
true, ahead = time.time, Path(os.environ["CLOCK_IS_AHEAD"])
time.time = lambda: true() + float(ahead.read_text())
"""


@ON_POSTGRESQL
def test_a_machine_whose_clock_is_set_takes_nothing_from_the_others(
    running: Running, simulator: Simulator, tmp_path: Path, database: str
) -> None:
    ahead = tmp_path / "ahead"
    ahead.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(_CLOCK_THAT_IS_SET)
    settings = {
        "KIMI_TOKENS": mint("alice"),
        "ACCOUNT_MAX_STREAMS": "1",
        "QUEUE_WAIT_S": "0.3",
        "CONVERSATION_WAIT_S": "0.3",
    }
    there = {**settings, "PYTHONPATH": str(tmp_path), "CLOCK_IS_AHEAD": str(ahead)}
    shared = running.new_database()
    with (
        running.gateway(simulator.url, database=shared, **settings) as gateway,
        running.gateway(simulator.url, database=shared, **there) as other,
    ):
        other.wait_for_workers()
        simulator.knobs(gate="long", gate_after=1)
        with gateway.say("long", "talk", stream=True) as long:
            simulator.wait("gate_waiting:long", equals=1)
            simulator.knobs(gate="")
            ahead.write_text("60")
            assert other.say("hello", "talk").json()["error"]["code"] == "conversation_busy"
            assert other.say("hello").json()["error"]["code"] == "rate_limit_exceeded"
            simulator.open_gate("long")
            assert read_stream(long).finish_reason == "stop"
        assert other.say("hello", "talk").ok
    assert len({turn.chat for turn in simulator.turns()}) == 1


def test_accounts_take_turns_over_all_gateways(pair: list[Gateway], simulator: Simulator) -> None:
    pair[0].wait_until_idle()
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda i: pair[i % 2].say("hello").ok, range(30)))
    turns = {name: account["turns"] for name, account in simulator.state()["accounts"].items()}
    # The least busy is next, and which one that is depends on which of six answers ends first.
    assert sum(turns.values()) == 30 and set(turns) == {"alice", "bob", "carol"}
    assert all(8 <= count <= 12 for count in turns.values()), turns


def test_restarts_of_the_database_fail_no_request(
    running: Running, simulator: Simulator, cluster: Cluster, own_database: PostgresDatabase
) -> None:
    """Stopped in order and as by a power cut, under traffic; every turn is answered and counted once."""
    stop, answers, away_s = threading.Event(), list[requests.Response](), list[float]()
    with running.gateway(simulator.url, database=own_database, WEB_CONCURRENCY="2") as gateway:
        gateway.wait_for_workers()

        def talk(name: str) -> int:
            turns = 0
            while not stop.is_set():
                answer = gateway.say("hello", conversation=name)
                answers.append(answer)
                turns += answer.ok
            return turns

        with ThreadPoolExecutor(4) as pool:
            talks = {name: pool.submit(talk, name) for name in ("a", "b", "c", "d")}
            for mode in ("fast", "immediate"):
                before = len(answers)
                wait_until("turns are served", lambda before=before: len(answers) > before + 8)
                began = time.monotonic()
                cluster.stop(mode)
                wait_until("it is noticed", lambda: gateway.get("/readyz").status_code == 503)
                cluster.start()
                away_s.append(time.monotonic() - began)
                wait_until("it is ready again", lambda: gateway.get("/readyz").ok)
            stop.set()
            turns = {name: talk.result() for name, talk in talks.items()}
        # For 15 s requests wait for it; on a busy machine it is away for longer.
        assert [answer.text for answer in answers if not answer.ok] == [] or max(away_s) > 10
        assert {name: gateway.get(f"/v1/chat/completions/{name}").json()["turns"] for name in turns} == turns
        assert "database_available" in gateway.log()
    assert len({turn.chat for turn in simulator.turns()}) == 4


def test_who_finds_the_database_back_first_takes_nothing_from_the_others(
    running: Running, simulator: Simulator, cluster: Cluster, own_database: PostgresDatabase
) -> None:
    """It was away for longer than anybody counts as alive; the gateway with a turn that runs comes back last."""
    database = own_database
    settings = {"KIMI_TOKENS": mint("alice"), "CONVERSATION_WAIT_S": "60", "LEASE_S": "4"}
    with (
        running.gateway(simulator.url, database=database, **settings) as gateway,
        running.gateway(simulator.url, database=database, **settings) as other,
        ThreadPoolExecutor(1) as pool,
        ExitStack() as frozen,
    ):
        gateway.wait_for_workers()
        simulator.knobs(gate="long", gate_after=1)
        with gateway.say("first", "talk", stream=True) as first:
            simulator.wait("gate_waiting:long", equals=1)
            simulator.knobs(gate="")
            second = pool.submit(other.say, "second", "talk")
            waits = "conversation_busy waiting=1"
            wait_until("it waits", lambda: waits in other.log())
            (worker,) = gateway.process.children()
            os.kill(worker, signal.SIGSTOP)
            frozen.callback(os.kill, worker, signal.SIGCONT)
            until = gateway.tables.processes_live_until()
            assert until is not None
            cluster.stop()
            wait_until("it counts no longer", lambda: time.time() > until)
            cluster.start()
            # The first look was meant for a moment before.
            wait_until("it waits on", lambda: other.log().partition("database_available")[2].count(waits) > 1)
            frozen.close()
            simulator.open_gate("long")
            assert read_stream(first).finish_reason == "stop"
        assert second.result().ok
    assert simulator.state()["max_open_streams"] == 1


@ON_POSTGRESQL
@pytest.mark.parametrize("rests", [False, True])
def test_a_request_that_is_not_told_of_its_place_in_the_line_leaves_none_behind(
    running: Running, simulator: Simulator, database: str, rests: bool
) -> None:
    """Its only account becomes free before it asks again; or that one rests by then, and it is refused."""
    shared = running.new_database()
    assert isinstance(shared, PostgresDatabase)
    with LosingOneWord(shared.cluster, b"dropped, question) VALUES") as way, ThreadPoolExecutor(1) as pool:
        settings = {
            "DATABASE_URL": shared.url.replace(f":{shared.cluster.port}/", f":{way.port}/"),
            "KIMI_TOKENS": mint("alice"),
            "ACCOUNT_MAX_STREAMS": "1",
            "LEASE_S": "10",
        }
        with running.gateway(simulator.url, database=shared, **settings) as gateway:
            simulator.knobs(gate="long", gate_after=1)
            with gateway.say("long", stream=True) as long:
                simulator.wait("gate_waiting:long", equals=1)
                second = pool.submit(gateway.say, "second")
                assert way.committed.wait(30)
                simulator.open_gate("long")
                assert read_stream(long).finish_reason == "stop"
            wait_until("the account is free", lambda: gateway.tables.running_turns() == 0)
            assert gateway.tables.waiting_turns() == 1
            if rests:
                gateway.tables.cool_all_accounts_down(1000)
            way.lose.set()
            assert second.result().status_code == (429 if rests else 200)
            gateway.wait_until_idle()


@ON_POSTGRESQL
def test_a_conversation_is_deleted_although_the_database_was_lost_after_it_had_done_so(
    running: Running, simulator: Simulator, database: str
) -> None:
    shared = running.new_database()
    assert isinstance(shared, PostgresDatabase)
    with LosingOneWord(shared.cluster, b"DELETE FROM conversations WHERE conversations.owner =") as way:
        way.lose.set()
        url = shared.url.replace(f":{shared.cluster.port}/", f":{way.port}/")
        with running.gateway(simulator.url, database=shared, DATABASE_URL=url) as gateway:
            assert gateway.say("one", conversation="c").ok
            deleted = gateway.delete("/v1/chat/completions/c")
            assert way.committed.is_set()
            assert deleted.json()["deleted"] is True
            assert gateway.get("/v1/chat/completions/c").status_code == 404
            simulator.wait("deleted_chats", equals=1)


def test_a_gateway_waits_for_a_database_that_is_still_starting(
    running: Running, simulator: Simulator, cluster: Cluster, own_database: PostgresDatabase
) -> None:
    cluster.stop()
    with running.gateway(simulator.url, database=own_database) as gateway, ThreadPoolExecutor(1) as pool:
        early = pool.submit(gateway.say, "hello")
        wait_until("it waits", lambda: "database_unavailable" in gateway.log())
        cluster.start()
        assert early.result().ok


def test_a_worker_that_is_replaced_while_the_database_is_away_comes_back(
    running: Running, simulator: Simulator, cluster: Cluster, own_database: PostgresDatabase
) -> None:
    with running.gateway(simulator.url, database=own_database) as gateway, ThreadPoolExecutor(1) as pool:
        gateway.wait_for_workers()
        cluster.stop()
        (worker,) = gateway.process.children()
        os.kill(worker, signal.SIGKILL)
        wait_until("another one waits", lambda: gateway.log().count("database_unavailable") >= 1)
        late = pool.submit(gateway.say, "hello")
        cluster.start()
        assert late.result().ok


@ON_POSTGRESQL
def test_a_statement_that_waits_stops_nobody_else(gateway: Gateway, simulator: Simulator, database: str) -> None:
    """One worker: gevent goes on with other streams while PostgreSQL keeps one waiting."""
    with ThreadPoolExecutor(1) as pool:
        assert gateway.say("hello", conversation="locked").ok
        shared = gateway.database
        assert isinstance(shared, PostgresDatabase)
        with shared.cluster.connect(shared.name) as other:
            other.execute("LOCK TABLE conversations")
            locked = pool.submit(gateway.say, "hello", conversation="locked")
            wait_until("it waits", lambda: shared.count("wait_event_type = 'Lock'") == 1)
            for _ in range(5):
                assert gateway.say("hello").ok
            assert not locked.done()
        assert locked.result().ok


@ON_POSTGRESQL
def test_a_worker_has_few_connections(running: Running, simulator: Simulator, database: str) -> None:
    with running.gateway(simulator.url, WEB_CONCURRENCY="2") as gateway, ThreadPoolExecutor(40) as pool:
        gateway.wait_for_workers()
        assert all(pool.map(lambda i: gateway.say("hello", conversation=f"c{i}").ok, range(120)))
        shared = gateway.database
        assert isinstance(shared, PostgresDatabase)
        assert 1 < shared.count() <= 2 * 5


def test_a_database_that_cannot_be_used_stops_the_start_without_its_password(
    running: Running, tmp_path: Path
) -> None:
    good = running.postgres.url("gateway")
    wrong = good.replace(running.postgres.password, "p%40ss-w0rd%2F1")
    for url, says in ((wrong, "authentication failed"), (running.postgres.url("nowhere"), "does not exist")):
        code, output = start(tmp_path, KIMI_TOKENS=TOKEN, DATABASE_URL=url)
        assert code != 0 and "kimi-gateway: DATABASE_URL" in output and says in output
        assert "Traceback" not in output
        for password in ("p%40ss-w0rd%2F1", "p@ss-w0rd/1", running.postgres.password):
            assert password not in output


@ON_POSTGRESQL
def test_what_its_texts_cannot_hold_is_replaced(gateway: Gateway, simulator: Simulator, database: str) -> None:
    simulator.script(b'data: {"event":"da\\u0000nce"}\n\ndata: {"event":"all_done"}\n\n')
    gateway.say("hello")
    wanted = ("kimi_rest", "event da\ufffdnce")
    wait_until("it is noted", lambda: wanted in gateway.tables.unrecognised())
    assert "frame_not_counted" not in gateway.log()


@ON_POSTGRESQL
def test_the_doctor_examines_it(running: Running, simulator: Simulator, tmp_path: Path, database: str) -> None:
    surgery = Surgery(simulator.url, tmp_path)
    url = running.new_database().url
    # As hosts of databases hand it out.
    visit = surgery.visit(for_real=True, DATABASE_URL=url.replace("postgresql+psycopg", "postgres"))
    assert visit.code == 0 and "PostgreSQL's gateway_" in visit.of("store", "ok")
    public = surgery.visit("--json", DATABASE_URL=url)
    assert "the PostgreSQL database: opens, can be written" in public.output
    password = running.postgres.password
    away = surgery.visit("--json", DATABASE_URL=url.replace(password, "another-password"))
    assert away.code == 1 and "see that its server runs" in away.output
    for output in (visit.output, public.output, away.output):
        assert password not in output and "another-password" not in output
    for output in (public.output, away.output):
        assert str(running.postgres.port) not in output and '"gateway"' not in output


def test_who_waits_for_a_connection_gets_the_next_one_that_is_free(running: Running) -> None:
    """And not whoever comes later. One is kept beside SQLAlchemy's pool, which knows of its own only."""
    with (
        closing(
            Database(PostgresDatabase.create(running.postgres, f"waiting_{uuid.uuid4().hex[:8]}").url)
        ) as database,
        ThreadPoolExecutor(6) as pool,
    ):
        database.rows(sa.text("SELECT 1 AS one"))
        holding = [threading.Event() for _ in range(5)]
        held = threading.Semaphore(0)

        def hold(until: threading.Event) -> None:
            def work(_: object) -> None:
                held.release()
                until.wait(60)

            database.with_retries(work)

        holders = [pool.submit(hold, until) for until in holding]
        for _ in holding:
            assert held.acquire(timeout=60)
        waiter = pool.submit(database.rows, sa.text("SELECT 1 AS one"))
        wait_until("it waits", lambda: database._waiting)
        holding[0].set()
        assert waiter.result(timeout=10) == [{"one": 1}]
        for until in holding:
            until.set()
        for holder in holders:
            holder.result()

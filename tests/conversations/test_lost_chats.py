"""Chats that Kimi has opened and whose ids never came: each is found in the account's list and deleted, and nothing
else is.

Over HTTP, with workers that are killed and clients that leave; and the rules by themselves, over a real store and a
list of chats that the test writes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.conversations.chat_cleanup import ChatCleanup
from app.conversations.lost_chats import LostChats, digest_of
from app.errors import GatewayError, ProtocolUnavailable, UpstreamProtocolError, UpstreamUnavailable
from app.store import PendingDeletion, Store
from app.store.leases import Grant, Ticket, Wish
from app.store.lost_chats import FIRST_SEARCH_AFTER_S, MAX_AGE_S
from app.upstreams import ListedChat
from app.upstreams.account import Account
from tests.running import (
    BOTH_DATABASES,
    CANARY,
    EACH_GENERATION,
    EACH_GENERATION_AND_POSTGRESQL,
    Gateway,
    Profile,
    RawClient,
    Running,
    Simulator,
    wait_until,
)

FOUND_IN_S = FIRST_SEARCH_AFTER_S + 30
# A client that has left is noticed soon.
NOTICES_SOON: dict[str, Any] = {"HEARTBEAT_S": "0.3", "COMMIT_AFTER_S": "0.3"}


def chats(simulator: Simulator) -> list[bool]:
    """Of each chat of Kimi, in the order in which they were opened, whether it is deleted."""
    return [chat["deleted"] for chat in simulator.state()["chats"].values()]


def history(*texts: str) -> list[dict[str, str]]:
    """Messages of a user and of the assistant, in turns."""
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]


def hold_before_the_id(simulator: Simulator, profile: Profile) -> None:
    """The next chat is opened, and nothing is said of it."""
    gate = {"gate": "opened", "gate_after": -1} if profile.speaks_connect else {"create_gate": "opened"}
    simulator.knobs(**gate)


def ask_for_a_chat(gateway: Gateway, simulator: Simulator, **body: Any) -> RawClient:
    """Returns when the chat is open and its id is held back."""
    client = RawClient(gateway, True, **body)
    simulator.wait("gate_waiting:opened", equals=1)
    return client


def expect_its_deletion(simulator: Simulator) -> None:
    simulator.wait("deleted_chats", FOUND_IN_S, equals=1)
    assert chats(simulator) == [True]


@pytest.mark.parametrize(
    ("profile", "database", "conversation"),
    [
        ("sse-2025", "sqlite", None),
        ("connect-2026-09", "sqlite", "mine"),
        ("connect-2026-09", "postgresql", None),
    ],
    indirect=["profile", "database"],
)
def test_a_chat_whose_worker_is_killed_before_its_id_comes_is_deleted(
    running: Running, simulator: Simulator, profile: Profile, database: str, conversation: str | None
) -> None:
    shared, others = running.new_database(), running.new_database()
    with running.gateway(simulator.url, users="alice", database=others) as other:
        # Another program of the same account: its chats are none of ours.
        assert other.say("something else", "first").ok
        for text in (CANARY, "and then?"):
            assert other.say(text, "second").ok
        hold_before_the_id(simulator, profile)
        with running.gateway(simulator.url, users="alice", database=shared, LEASE_S="1") as gateway:
            path = "/v1/chat/completions" + (f"/{conversation}" if conversation else "")
            client = RawClient(gateway, True, path)
            simulator.wait("gate_waiting:opened", equals=1)
            gateway.kill()
            client.leave("close")
        simulator.knobs(gate="", create_gate="")
        with running.gateway(simulator.url, users="alice", database=shared, LEASE_S="1") as gateway:
            if conversation:
                # The same is asked again meanwhile; that chat belongs to the conversation.
                assert gateway.say(CANARY, conversation).ok
            simulator.wait("deleted_chats", FOUND_IN_S, at_least=1)
            expected = [False, False, True, *([False] if conversation else [])]
            assert chats(simulator) == expected, "it is deleted, and nothing else"
            wait_until("it is not looked for any more", lambda: not gateway.tables.lost_chats())
            assert "lost_chats_searched account=" in gateway.log()


@EACH_GENERATION
def test_a_chat_whose_client_leaves_before_its_id_comes_is_deleted(
    running: Running, simulator: Simulator, profile: Profile
) -> None:
    hold_before_the_id(simulator, profile)
    with running.gateway(simulator.url, users="alice", **NOTICES_SOON) as gateway:
        client = ask_for_a_chat(gateway, simulator)
        client.leave("close")
        gateway.wait_until_idle()
        simulator.open_gate("opened")
        expect_its_deletion(simulator)


@pytest.mark.parametrize(
    ("profile", "database"), [("sse-2025", "postgresql"), ("connect-2026-09", "sqlite")], indirect=True
)
def test_a_process_that_was_found_dead_and_lives_holds_what_its_streams_ask_as_before(
    running: Running, simulator: Simulator, profile: Profile, database: str
) -> None:
    """So that no search takes the chat of a running stream for a lost one, and one after its end finds it."""
    hold_before_the_id(simulator, profile)
    with running.gateway(simulator.url, users="alice", LEASE_S="1", **NOTICES_SOON) as gateway:
        client = ask_for_a_chat(gateway, simulator)
        before = gateway.tables.questions_of_turns()
        with closing(Store(gateway.database.url)) as store:
            for process in store.processes.all():
                store.processes.delete(process)
        assert gateway.tables.lost_chats()
        wait_until("it has its account again", gateway.tables.running_turns)
        assert gateway.tables.questions_of_turns() == before
        client.leave("close")
        gateway.wait_until_idle()
        simulator.open_gate("opened")
        expect_its_deletion(simulator)


# What is kept of the messages is made before the stream ends, in whichever way.
@pytest.mark.parametrize(
    ("database", "ends", "messages"),
    [
        pytest.param("sqlite", "killed", history("hello", "hello!", "and then?"), id="killed, a history"),
        # One protocol sends them apart.
        pytest.param(
            "sqlite", "left", [{"role": "system", "content": "Be short."}, *history("hello")], id="left, instructions"
        ),
        pytest.param("postgresql", "killed", history("hello"), id="killed, one message, on PostgreSQL"),
        pytest.param("postgresql", "left", history("hello", "hello!", "and then?"), id="left, on PostgreSQL"),
    ],
    indirect=["database"],
)
def test_a_chat_is_found_although_another_protocol_was_tried_before(
    running: Running, simulator: Simulator, database: str, ends: str, messages: list[dict[str, str]]
) -> None:
    simulator.script(b"no such page", match="/api/chat", status=404, framing="length")
    simulator.knobs(gate="opened", gate_after=-1)
    shared = running.new_database()
    with running.gateway(simulator.url, users="alice", database=shared, LEASE_S="2", **NOTICES_SOON) as gateway:
        client = ask_for_a_chat(gateway, simulator, messages=messages)
        assert not gateway.tables.lost_chats()
        if ends == "killed":
            gateway.kill()
        client.leave("close")
        if ends == "left":
            gateway.wait_until_idle()
    simulator.open_gate("opened")
    with running.gateway(simulator.url, users="alice", database=shared, LEASE_S="2"):
        expect_its_deletion(simulator)


@EACH_GENERATION_AND_POSTGRESQL
def test_a_chat_is_found_that_was_opened_because_the_account_of_the_open_one_was_busy(
    running: Running, simulator: Simulator, profile: Profile, database: str
) -> None:
    shared = running.new_database()
    settings = {"users": "alice,bob", "ACCOUNT_MAX_STREAMS": "1", "CONTINUE_CHATS": "1", "LEASE_S": "1"}
    with running.gateway(simulator.url, database=shared, **settings) as gateway:
        said = gateway.say("hello").json()["choices"][0]["message"]["content"]
        clients = []
        for gate in ("one", "two"):
            simulator.knobs(gate=gate, gate_after=1)
            clients.append(RawClient(gateway, True))
            simulator.wait(f"gate_waiting:{gate}", equals=1)
        first, one, _ = simulator.turns()
        hold_before_the_id(simulator, profile)
        clients.append(RawClient(gateway, True, messages=history(f"hello {CANARY}", said, f"and then? {CANARY}")))
        wait_until("it waits", lambda: "account_awaited" in gateway.log())
        simulator.open_gate("two" if one.account == first.account else "one")
        simulator.wait("gate_waiting:opened", equals=1)
        gateway.kill()
        for client in clients:
            client.leave("close")
    simulator.knobs(gate="", create_gate="")
    for gate in ("one", "two", "opened"):
        simulator.open_gate(gate)
    with running.gateway(simulator.url, database=shared, **settings):
        *_, newest = simulator.state()["chats"]
        simulator.wait(f"chats.{newest}.deleted", FOUND_IN_S, equals=True)
        assert not chats(simulator)[0], "the open one stays"


@BOTH_DATABASES
def test_a_lost_chat_that_cannot_be_noted_is_noted_later(
    running: Running, simulator: Simulator, profile: Profile, database: str
) -> None:
    hold_before_the_id(simulator, profile)
    with running.gateway(simulator.url, users="alice", LEASE_S="1", **NOTICES_SOON) as gateway:
        client = ask_for_a_chat(gateway, simulator)
        gateway.tables.forbid_notes_of_lost_chats()
        client.leave("close")
        wait_until("it cannot be noted", lambda: "release_failed" in gateway.log())
        simulator.open_gate("opened")
        gateway.tables.allow_notes_of_lost_chats()
        expect_its_deletion(simulator)


def test_with_keep_chats_no_chat_is_looked_for(running: Running, simulator: Simulator, profile: Profile) -> None:
    hold_before_the_id(simulator, profile)
    with running.gateway(simulator.url, users="alice", KIMI_KEEP_CHATS="1", **NOTICES_SOON) as gateway:
        client = ask_for_a_chat(gateway, simulator)
        client.leave("close")
        gateway.wait_until_idle()
        assert not gateway.tables.lost_chats()


def test_a_request_that_kimi_refuses_is_not_looked_for(
    running: Running, simulator: Simulator, profile: Profile
) -> None:
    with running.gateway(simulator.url, users="alice") as gateway:
        simulator.knobs(fail="bad_request", fail_at="any")
        assert not gateway.say("hello").ok
        assert not gateway.tables.lost_chats()


# The rules

# The upstream that has opened what is lost.
OPENED_WITH = "upstream-0"
ALICE = Account("acc", "alice", "", None, False, None, None, None, "kimi.com")


@dataclass
class ListOfChats:
    """An upstream that only lists chats: id → when it was opened, in seconds after the store's clock, and what was
    asked in it."""

    chats: dict[str, tuple[float | None, Sequence[str]]]
    now: float
    error: GatewayError | None = None
    reads: list[str] = field(default_factory=list)
    name: str = ""

    def latest_chats(self, _account: Account) -> Iterator[ListedChat]:
        if self.error is not None:
            raise self.error
        for chat_id, (begun, _) in self.chats.items():
            yield ListedChat(chat_id, None if begun is None else self.now + begun, self.now)

    def questions(self, _account: Account, chat_id: str) -> Sequence[str]:
        self.reads.append(chat_id)
        return self.chats[chat_id][1]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(f"sqlite:///{tmp_path}/x.db")) as store:
        yield store


def at_once(work: Callable[[], object]) -> None:
    work()


def search(store: Store, *upstreams: ListOfChats) -> list[str]:
    """The chats that are deleted in one search for all that were lost."""
    return [chat_id for _, chat_id in deletions(store, *upstreams)]


def deletions(store: Store, *upstreams: ListOfChats) -> list[tuple[str, str]]:
    """The same, each with the name of its upstream."""
    for number, upstream in enumerate(upstreams):
        upstream.name = f"upstream-{number}"
    by_name: dict[str, Any] = {upstream.name: upstream for upstream in upstreams}
    deleted: list[PendingDeletion] = []
    cleanup = ChatCleanup(store, list(by_name), lambda: [ALICE.id], deleted.append, keep_s=60, run_or_retry=at_once)
    ids, account = lambda: [ALICE.id], lambda _id: ALICE
    lost = LostChats(store, by_name, ids, account, cleanup, keeps_chats=False, run_or_retry=at_once)
    before = store.pending_deletions.summary()[0]
    lost.search_for(store.lost_chats.claim([ALICE.id], store.database.now() + 1e6, again_at=0))
    wait_until("all are deleted", lambda: store.pending_deletions.summary()[0] == before)
    return sorted((row.upstream, row.chat_id) for row in deleted)


def lose(store: Store, question: str = "ours", lease_id: str = "lease") -> None:
    store.lost_chats.add(lease_id, ALICE.id, digest_of(store.digest_key, OPENED_WITH, question), store.database.now())


def are_left(store: Store) -> bool:
    return store.lost_chats.first_due_at([ALICE.id]) is not None


@pytest.mark.parametrize(
    ("chat", "is_ours"),
    [
        pytest.param((0.0, ["ours"]), True, id="the same question"),
        pytest.param((0.0, ["  ours\n"]), True, id="with space at its ends"),
        pytest.param((None, ["ours"]), True, id="it is not said when it was opened"),
        pytest.param((0.0, []), True, id="opened and not used"),
        pytest.param((55.0, ["ours"]), True, id="clocks that differ by a minute"),
        pytest.param((-55.0, ["ours"]), True, id="in the other direction"),
        pytest.param((0.0, ["theirs"]), False, id="another question"),
        pytest.param((0.0, ["ours and more"]), False, id="a question that begins like it"),
        pytest.param((0.0, ["ours", "and then?"]), False, id="its owner went on in it"),
        pytest.param((-70.0, ["ours"]), False, id="opened earlier"),
        pytest.param((70.0, ["ours"]), False, id="opened later"),
    ],
)
def test_a_chat_is_deleted_only_if_it_is_certainly_ours(
    store: Store, chat: tuple[float | None, Sequence[str]], is_ours: bool
) -> None:
    lose(store)
    assert search(store, ListOfChats({"x": chat}, store.database.now())) == (["x"] if is_ours else [])
    assert are_left(store) is not is_ours


def test_there_are_never_more_deletions_than_lost_streams(store: Store) -> None:
    alike: dict[str, tuple[float | None, Sequence[str]]] = {"x": (0.0, ["ours"]), "y": (0.0, ["ours"])}
    lose(store)
    assert search(store, ListOfChats(alike, store.database.now())) == []
    lose(store, lease_id="another")
    assert search(store, ListOfChats(alike, store.database.now())) == ["x", "y"]
    assert not are_left(store)


def test_a_chat_without_a_question_is_given_to_the_stream_that_has_none_with_its_question(store: Store) -> None:
    lose(store)
    lose(store, "another question", lease_id="another")
    both: dict[str, tuple[float | None, Sequence[str]]] = {"empty": (0.0, []), "x": (0.0, ["another question"])}
    assert search(store, ListOfChats(both, store.database.now())) == ["empty", "x"]


def test_a_chat_without_a_question_is_not_given_to_a_stream_of_another_upstream(store: Store) -> None:
    now = store.database.now()
    store.lost_chats.add("a", ALICE.id, digest_of(store.digest_key, "upstream-1", "theirs"), now)
    lose(store, lease_id="b")
    empty = ListOfChats({"empty": (0.0, [])}, now)
    assert deletions(store, empty, ListOfChats({"x": (0.0, ["theirs"])}, now)) == [
        ("upstream-0", "empty"),
        ("upstream-1", "x"),
    ]
    assert not are_left(store)


@pytest.mark.parametrize(
    ("unused", "deleted"),
    [
        pytest.param("empty", {"empty", "x"}, id="of one of the streams each"),
        pytest.param("x", {"x"}, id="the same, whose question only one upstream reads"),
    ],
)
def test_a_chat_without_a_question_is_not_given_to_a_stream_whose_chat_another_upstream_lists(
    store: Store, unused: str, deleted: set[str]
) -> None:
    """Both streams may have asked over both upstreams."""
    now, key = store.database.now(), store.digest_key
    for question in ("ours", "another question"):
        asked = " ".join(digest_of(key, f"upstream-{number}", question) for number in range(2))
        store.lost_chats.add(question, ALICE.id, asked, now)
    lists = ListOfChats({unused: (0.0, [])}, now), ListOfChats({"x": (0.0, ["ours"])}, now)
    assert set(search(store, *lists)) == deleted
    assert are_left(store) is (len(deleted) < 2)


def test_a_chat_that_cannot_be_read_stays_and_keeps_no_other_from_being_found(store: Store) -> None:
    class Unread(ListOfChats):
        def questions(self, account: Account, chat_id: str) -> Sequence[str]:
            if chat_id == "unread":
                raise UpstreamProtocolError("no messages")
            return super().questions(account, chat_id)

    lose(store)
    both: dict[str, tuple[float | None, Sequence[str]]] = {"unread": (0.0, ["ours"]), "x": (0.0, ["ours"])}
    assert search(store, Unread(both, store.database.now())) == ["x"]


def test_an_account_is_asked_for_its_list_once_a_minute_however_many_streams_fail(store: Store) -> None:
    lose(store)
    now = store.database.now()
    assert len(store.lost_chats.claim([ALICE.id], now + 10, again_at=now + 60)) == 1
    for number in range(20):
        lose(store, lease_id=f"lease-{number}")
    run_a_stream(store, "digest")
    store.processes.delete(store.database.process_id)
    assert store.lost_chats.claim([ALICE.id], now + 59, again_at=now + 120) == []
    assert len(store.lost_chats.claim([ALICE.id], now + 61, again_at=now + 120)) == 22


def test_the_wait_after_a_search_that_failed_doubles(store: Store) -> None:
    lose(store)
    waits = []
    for _ in range(4):
        search(store, ListOfChats({}, 0, UpstreamUnavailable("Kimi is down")))
        due_at = store.lost_chats.first_due_at([ALICE.id])
        assert due_at is not None
        waits.append(round((due_at - store.database.now()) / 60))
    assert waits == [1, 2, 4, 8]


def test_a_chat_that_is_known_stays_whatever_knows_it(store: Store) -> None:
    now = store.database.now()
    store.pending_deletions.add("upstream-1", "noted", ALICE.id, now + 1000)
    lose(store)
    seen = ListOfChats({"noted": (0.0, ["ours"])}, now)
    assert search(store, seen, ListOfChats({}, now)) == []
    assert not seen.reads, "it need not be read"


def test_a_chat_stays_while_a_running_stream_that_asks_the_same_may_have_opened_it(store: Store) -> None:
    lose(store)
    run_a_stream(store, digest_of(store.digest_key, OPENED_WITH, "ours"))
    mine = ListOfChats({"x": (0.0, ["ours"])}, store.database.now())
    assert search(store, mine) == [] and are_left(store)
    store.leases.release("running")
    assert search(store, mine) == ["x"]


def run_a_stream(store: Store, question: str) -> None:
    now = store.database.now()
    grant = Grant(ALICE.id, "k2", False, now, now, now + 1000)
    ticket = Ticket("running", "key", Wish("k2", {}), question)
    store.database.in_exclusive_transaction(
        lambda tx: store.leases.grant(tx, ticket, store.database.process_id, grant, waited=False)
    )


def test_streams_of_a_dead_process_are_lost_unless_they_open_no_chat(store: Store) -> None:
    run_a_stream(store, "digest")
    store.processes.delete(store.database.process_id)
    (lost,) = store.lost_chats.claim([ALICE.id], store.database.now() + 1e6, again_at=0)
    assert (lost.id, lost.question, lost.tries) == ("running", "digest", 1)


def test_only_the_ends_of_a_long_question_are_compared(store: Store) -> None:
    key = store.digest_key
    long = "first" + "b" * 1_000_000 + "last"
    assert digest_of(key, OPENED_WITH, long) == digest_of(
        key, OPENED_WITH, long.replace("b" * 1_000_000, "c".join(["b" * 500_000] * 2))
    )
    others = (long[1:], long[:-1], f"{long}.", "first", "last", "", "\ud800")
    assert len({digest_of(key, OPENED_WITH, text) for text in (long, *others)}) == 8


def test_an_upstream_that_its_site_does_not_serve_is_passed_over(store: Store) -> None:
    now = store.database.now()
    key = store.digest_key
    store.lost_chats.add("lease", ALICE.id, digest_of(key, "upstream-1", "ours"), now)
    gone = ListOfChats({}, now, ProtocolUnavailable("not served"))
    assert search(store, gone, ListOfChats({"x": (0.0, ["ours"])}, now)) == ["x"]


@pytest.mark.parametrize("opened_with", ["upstream-0", "upstream-1"])
def test_a_chat_that_two_upstreams_list_is_deleted_by_the_one_that_has_opened_it(
    store: Store, opened_with: str
) -> None:
    now = store.database.now()
    store.lost_chats.add("lease", ALICE.id, digest_of(store.digest_key, opened_with, "ours"), now)
    both = [ListOfChats({"x": (0.0, ["ours"])}, now) for _ in range(2)]
    assert deletions(store, *both) == [(opened_with, "x")]


@pytest.mark.parametrize(
    ("error", "searches"), [(None, 3), (UpstreamUnavailable("Kimi is down"), 10)], ids=["not found", "failed"]
)
def test_a_chat_is_given_up_after_some_searches(store: Store, error: GatewayError | None, searches: int) -> None:
    lose(store)
    left = []
    for _ in range(searches):
        assert search(store, ListOfChats({}, store.database.now(), error)) == []
        left.append(are_left(store))
    assert left == [True] * (searches - 1) + [False]


def test_what_is_looked_for_in_vain_is_forgotten_after_a_week(store: Store) -> None:
    lose(store)
    now = store.database.now()
    store.processes.delete_leftovers(now + MAX_AGE_S - 60)
    assert are_left(store)
    store.processes.delete_leftovers(now + MAX_AGE_S + 60)
    assert not are_left(store)

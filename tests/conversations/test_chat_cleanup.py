"""The deletion of chats by itself, over a real store: failures are retried later, and not for ever.

How chats are deleted over HTTP is tested in ``tests/conversations/test_conversations.py``.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.conversations.chat_cleanup import ChatCleanup
from app.errors import UpstreamUnavailable
from app.store import PendingDeletion, Store
from tests.running import wait_until

Failure = Callable[[], Exception]
FAILURES: list[Failure] = [lambda: KeyError("a fault of ours"), lambda: UpstreamUnavailable("Kimi is down")]
KINDS = pytest.mark.parametrize("failure", FAILURES, ids=["our own fault", "an error of Kimi"])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(f"sqlite:///{tmp_path}/x.db")) as store:
        yield store


def claim(store: Store, now: float) -> PendingDeletion | None:
    """Any chat that is due at ``now``; it stays due."""
    return store.pending_deletions.claim(["kimi"], ["alice"], now, again_at=now)


@KINDS
def test_a_chat_that_cannot_be_deleted_keeps_no_other_from_deletion(store: Store, failure: Failure) -> None:
    """More failures than there are threads that delete."""
    deleted = threading.Event()

    def delete(row: PendingDeletion) -> None:
        if row.chat_id != "good":
            raise failure()
        deleted.set()

    cleanup = ChatCleanup(store, ["kimi"], lambda: ["alice"], delete, keep_s=60, run_or_retry=lambda run: run())
    for chat_id in [*(f"bad-{number}" for number in range(9)), "good"]:
        cleanup.note("kimi", chat_id, "alice")
        cleanup.discard("kimi", chat_id, "alice")
    assert deleted.wait(30)


@pytest.mark.parametrize("are_due", [False, True], ids=["after an answer", "found later"])
def test_an_account_whose_deletions_hang_holds_up_no_other(store: Store, are_due: bool) -> None:
    hangs, deleted, running = threading.Event(), threading.Event(), []

    def delete(row: PendingDeletion) -> None:
        if row.account_id == "bob":
            deleted.set()
        else:
            running.append(row.chat_id)
            hangs.wait(30)

    accounts = ["alice", "bob"]
    cleanup = ChatCleanup(store, ["kimi"], lambda: accounts, delete, keep_s=60, run_or_retry=lambda run: run())
    chats = [*((f"chat-{number}", "alice") for number in range(20)), ("chat", "bob")]
    for chat_id, account_id in chats:
        if are_due:
            store.pending_deletions.add("kimi", chat_id, account_id, due_at=len(running))
        else:
            cleanup.discard("kimi", chat_id, account_id)
    if are_due:
        cleanup.start()
    assert deleted.wait(30)
    assert len(running) <= 2, "few at a time of one account"
    hangs.set()
    wait_until("all were deleted", lambda: len(running) == 20)


@KINDS
def test_due_chats_are_deleted_in_one_pass_although_some_of_them_fail(store: Store, failure: Failure) -> None:
    tried: list[str] = []

    def delete(row: PendingDeletion) -> None:
        tried.append(row.chat_id)
        if row.chat_id != "good":
            raise failure()

    for number, chat_id in enumerate(["bad-1", "good", "bad-2"]):
        store.pending_deletions.add("kimi", chat_id, "alice", due_at=number)
    accounts = ["alice"]
    ChatCleanup(store, ["kimi"], lambda: accounts, delete, keep_s=60, run_or_retry=lambda run: run()).start()
    wait_until("all were tried", lambda: len(tried) == 3)
    wait_until("the note of the good one is removed", lambda: store.pending_deletions.summary()[0] == 2)
    now = store.database.now()
    wait_until("nothing is due now", lambda: claim(store, now) is None)
    postponed = [claim(store, now + 61 + number) for number in range(3)]
    assert {row.chat_id for row in postponed if row} == {"bad-1", "bad-2"}
    # Its thread goes on in this process, and finds nothing to do: its log would be that of another test.
    accounts.clear()


@KINDS
def test_a_chat_is_given_up_after_sixteen_tries(store: Store, failure: Failure) -> None:
    tried = threading.Event()

    def delete(row: PendingDeletion) -> None:
        tried.set()
        raise failure()

    store.pending_deletions.add("kimi", "bad", "alice", due_at=0)
    store.pending_deletions.postpone(PendingDeletion("kimi", "bad", "alice", tries=15), due_at=0)
    ChatCleanup(store, ["kimi"], lambda: ["alice"], delete, keep_s=60, run_or_retry=lambda run: run()).start()
    assert tried.wait(30)
    wait_until("it is forgotten", lambda: claim(store, store.database.now() + 1e9) is None)

"""Deletes Kimi chats that are not needed any more.

Every stateless request opens a chat that its user would find in the chat list of kimi.com. The chat is noted in the
store when it is opened, and deleted after the answer. If a worker is killed in between, the note stays, and any
worker finds it later. Each account has its own deletions: one whose deletions hang holds up no other. Must never know
how a chat is deleted.
"""

import _thread
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from app.concurrency.at_exit import at_exit
from app.concurrency.periodic import every
from app.errors import GatewayError
from app.store import PendingDeletion, Store, StoreError

log = logging.getLogger(__name__)

# Deletions at the same time: per account, few enough to be polite; and per process.
_PER_ACCOUNT = 2
_PER_PROCESS = 64
# How many deletions of an account may wait in memory; the notes of further ones are found when they are due.
_MOST_WAITING = 1000
# The wait after a first failure. It doubles with each failure up to a day; after more than five days the gateway
# gives up. Seconds.
_RETRY_AFTER_S = 60.0
_MAX_RETRY_S = 86_400.0
_MAX_TRIES = 16
# For how long the notes of deleted chats are collected: one transaction then removes them all. Seconds.
_COLLECT_FOR_S = 0.1
# How long a note is tried where the chat is about to be deleted anyway. Seconds.
_NOTE_FOR_S = 1.0
# How often notes that are due are looked for: those of killed workers, and those of failed deletions. Seconds.
_SWEEP_EVERY_S = 60.0

# How long such a search waits for the deletions of accounts that have enough to do. Seconds.
_BUSY_S = 5.0


class ChatCleanup:
    """Notes chats and deletes them in the background. One object per process."""

    def __init__(
        self,
        store: Store,
        upstreams: Sequence[str],
        account_ids: Callable[[], Sequence[str]],
        delete: Callable[[PendingDeletion], None],
        keep_s: float,
        run_or_retry: Callable[[Callable[[], object]], object],
    ) -> None:
        """``upstreams``, ``account_ids``: notes of others stay until those are there again. ``delete``: deletes one
        chat, or raises GatewayError. ``keep_s``: no answer runs longer. ``run_or_retry``: see ``ProcessLease``.
        """
        self._store = store
        self._upstreams = upstreams
        self._account_ids = account_ids
        self._delete = delete
        self._keep_s = keep_s
        self._run_or_retry = run_or_retry
        # Account id → its deletions that wait, and how many of them run.
        self._queues: dict[str, deque[PendingDeletion]] = {}
        self._running: Counter[str] = Counter()
        # Chats that Kimi has deleted, whose notes are still to be removed: (upstream, chat id). One thread removes
        # them all a little later.
        self._deleted: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        # Deletions that wait or run: upstream and id of the chat.
        self._begun: set[tuple[str, str]] = set()
        # Set when a deletion has ended.
        self._ended = threading.Event()

    def note(self, upstream: str, chat_id: str, account_id: str) -> None:
        """Notes a chat for deletion, at the latest when its answer must have ended. Raises StoreError."""
        self._store.pending_deletions.add(upstream, chat_id, account_id, self._store.database.now() + self._keep_s)

    def discard(self, upstream: str, chat_id: str, account_id: str) -> None:
        """Deletes a noted chat now, in the background."""
        if upstream not in self._upstreams:
            return
        self._put(PendingDeletion(upstream, chat_id, account_id, tries=1))

    def note_and_discard(self, upstream: str, chat_id: str, account_id: str) -> None:
        """``discard`` for a chat that is not noted yet. Where it cannot be noted now, it is deleted without a note,
        and noted later: the deletion may fail, or the process may end. Never raises: the caller is on its way out."""
        self._run_or_retry(lambda: self.note(upstream, chat_id, account_id))
        self.discard(upstream, chat_id, account_id)

    def start(self) -> None:
        """Starts to look for notes that are due."""
        every(_SWEEP_EVERY_S, self._delete_due, "chat-cleanup")
        at_exit(self.leave_to_others)

    def leave_to_others(self) -> None:
        """What waits or runs becomes due, because the process ends: otherwise it would be found when the longest
        answer must have ended. Never raises."""
        with self._lock:
            begun = list(self._begun)
        with self._store.database.retrying_for(_NOTE_FOR_S):
            self._remove_notes()
            if begun:
                try:
                    self._store.pending_deletions.make_due(begun, self._store.database.now())
                except StoreError as e:
                    log.warning("deletions_not_left chats=%d error=%s", len(begun), e)

    def _delete_due(self) -> None:
        now = self._store.database.now()
        again_at = now + _RETRY_AFTER_S
        while True:
            with self._lock:
                self._ended.clear()
                account_ids = self._account_ids()
                free = [id_ for id_ in account_ids if self._running[id_] < _PER_ACCOUNT]
                is_full = self._running.total() >= _PER_PROCESS
            if not account_ids:
                return
            if is_full or not free:
                # What is claimed and then waits would be claimed again by others.
                self._ended.wait()
                continue
            row = self._store.pending_deletions.claim(self._upstreams, free, now, again_at)
            if row is not None:
                self._put(row)
            elif len(free) == len(account_ids) or not self._ended.wait(_BUSY_S):
                return

    def _put(self, row: PendingDeletion) -> None:
        """Deletes a chat as soon as its account has less to do."""
        with self._lock:
            waiting = self._queues.setdefault(row.account_id, deque(maxlen=_MOST_WAITING))
            if len(waiting) < _MOST_WAITING:
                waiting.append(row)
                self._begun.add((row.upstream, row.chat_id))
            started = self._next(row.account_id)
        if started is not None:
            # Not a threading.Thread, whose start() waits until it runs: the caller is at the end of an answer.
            _thread.start_new_thread(self._delete_all, (started,))

    def _next(self, account_id: str | None = None) -> PendingDeletion | None:
        """A deletion that may begin: of this account, or of any. Called with the lock."""
        if self._running.total() >= _PER_PROCESS:
            return None
        for id_ in list(self._queues) if account_id is None else (account_id,):
            waiting = self._queues.get(id_)
            if waiting and self._running[id_] < _PER_ACCOUNT:
                row = waiting.popleft()
                if not waiting:
                    del self._queues[id_]
                self._running[id_] += 1
                return row
        return None

    def _delete_all(self, first: PendingDeletion) -> None:
        """In a thread of its own: deletes this chat, and then whatever waits."""
        row: PendingDeletion | None = first
        while row is not None:
            is_deleted = False
            try:
                is_deleted = self._delete_or_postpone(row)
            except StoreError as e:
                # The note stays, and is found when it is due.
                log.warning("deletion_not_noted account=%s error=%s", row.account_id, e)
            except Exception:  # the border of the thread
                log.exception("chat_not_deleted account=%s", row.account_id)
            with self._lock:
                if is_deleted:
                    self._deleted.append((row.upstream, row.chat_id))
                    if len(self._deleted) == 1:
                        _thread.start_new_thread(self._remove_notes_soon, ())
                self._begun.discard((row.upstream, row.chat_id))
                self._running[row.account_id] -= 1
                self._ended.set()
                row = self._next(row.account_id) or self._next()

    def _remove_notes_soon(self) -> None:
        """In a thread of its own."""
        time.sleep(_COLLECT_FOR_S)
        self._remove_notes()

    def _remove_notes(self) -> None:
        """Removes the notes of the chats that were deleted. Never raises."""
        with self._lock:
            deleted, self._deleted = self._deleted, []
        if not deleted:
            return
        try:
            self._store.pending_deletions.delete_all(deleted)
        except StoreError as e:
            # The notes stay. When they are due, Kimi says that the chats are gone.
            log.warning("deletions_not_noted chats=%d error=%s", len(deleted), e)
        except Exception:  # the border of the thread
            log.exception("deletions_not_noted chats=%d", len(deleted))

    def _delete_or_postpone(self, row: PendingDeletion) -> bool:
        """Returns whether Kimi has deleted the chat."""
        try:
            self._delete(row)
        except GatewayError as e:
            self._postpone(row, e.message)
        except Exception as e:  # a fault in this code must not be retried for ever, nor stop other deletions
            log.exception("chat_deletion_failed account=%s", row.account_id)
            self._postpone(row, type(e).__name__)
        else:
            return True
        return False

    def _postpone(self, row: PendingDeletion, error: str) -> None:
        if row.tries >= _MAX_TRIES:
            log.warning("chat_not_deleted account=%s tries=%d error=%s", row.account_id, row.tries, error)
            self._store.pending_deletions.delete(row.upstream, row.chat_id)
            return
        wait_s = min(_MAX_RETRY_S, _RETRY_AFTER_S * 2.0 ** (row.tries - 1))
        again_at = self._store.database.now() + wait_s
        self._store.pending_deletions.postpone(row, again_at)
        log.info("chat_not_deleted account=%s retry_in_s=%.0f error=%s", row.account_id, wait_s, error)

"""Deletes Kimi chats that are not needed any more.

Every stateless request opens a chat that its user would find in the chat list of kimi.com. The chat is noted in the
store when it is opened, and deleted after the answer. If a worker is killed in between, the note stays, and any
worker finds it later. Must never know how a chat is deleted.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from app.concurrency.periodic import Periodic, every
from app.errors import GatewayError
from app.store import PendingDeletion, Store, StoreError

log = logging.getLogger(__name__)

# Deletions at the same time per process: enough to keep up with its answers, few enough to be polite.
_DELETERS = 4
# The wait after a first failure. It doubles with each failure up to a day; after more than five days the gateway
# gives up. Seconds.
_RETRY_AFTER_S = 60.0
_MAX_RETRY_S = 86_400.0
_MAX_TRIES = 16
# How long a note is tried where the chat is about to be deleted anyway. Seconds.
_NOTE_FOR_S = 1.0
# How often notes that are due are looked for: those of killed workers, and those of failed deletions. Seconds.
_SWEEP_EVERY_S = 60.0


class ChatCleanup:
    """Notes chats and deletes them in the background. One object per process."""

    def __init__(
        self,
        store: Store,
        upstreams: Sequence[str],
        account_ids: Sequence[str],
        delete: Callable[[PendingDeletion], None],
        keep_s: float,
    ) -> None:
        """``upstreams``, ``account_ids``: notes of others stay until those are switched on again. ``delete``: deletes
        one chat, or raises GatewayError. ``keep_s``: no answer runs longer.
        """
        self._store = store
        self._upstreams = upstreams
        self._account_ids = account_ids
        self._delete = delete
        self._keep_s = keep_s
        self._queue: queue.SimpleQueue[PendingDeletion] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._deleters: list[Periodic] = []

    def note(self, upstream: str, chat_id: str, account_id: str) -> None:
        """Notes a chat for deletion, at the latest when its answer must have ended. Raises StoreError."""
        self._store.pending_deletions.add(upstream, chat_id, account_id, self._store.database.now() + self._keep_s)

    def discard(self, upstream: str, chat_id: str, account_id: str) -> None:
        """Deletes a noted chat now, in the background."""
        if upstream not in self._upstreams:
            return
        self._queue.put(PendingDeletion(upstream, chat_id, account_id, tries=1))
        with self._lock:
            if len(self._deleters) < _DELETERS:
                self._deleters.append(every(0, self._delete_next, "chat-deleter"))

    def note_and_discard(self, upstream: str, chat_id: str, account_id: str) -> None:
        """``discard`` for a chat that is not noted yet. Never raises: the caller is on its way out."""
        try:
            with self._store.database.retrying_for(_NOTE_FOR_S):
                self.note(upstream, chat_id, account_id)
        except StoreError as e:
            log.warning("chat_not_noted upstream=%s error=%s", upstream, e, exc_info=None if e.is_transient else e)
        self.discard(upstream, chat_id, account_id)

    def keep(self, upstream: str, chat_id: str) -> None:
        """A noted chat is needed after all. Raises StoreError."""
        self._store.pending_deletions.delete(upstream, chat_id)

    def start(self) -> None:
        """Starts to look for notes that are due."""
        every(_SWEEP_EVERY_S, self._delete_due, "chat-cleanup")

    def _delete_next(self) -> None:
        # If this fails, the note stays and is found when it is due.
        self._delete_or_postpone(self._queue.get())

    def _delete_due(self) -> None:
        now = self._store.database.now()
        again_at = now + _RETRY_AFTER_S
        while row := self._store.pending_deletions.claim(self._upstreams, self._account_ids, now, again_at):
            self._delete_or_postpone(row)

    def _delete_or_postpone(self, row: PendingDeletion) -> None:
        try:
            self._delete(row)
        except GatewayError as e:
            self._postpone(row, e.message)
        except Exception as e:  # a fault in this code must not be retried for ever, nor stop other deletions
            log.exception("chat_deletion_failed account=%s", row.account_id)
            self._postpone(row, type(e).__name__)
        else:
            self._store.pending_deletions.delete(row.upstream, row.chat_id)

    def _postpone(self, row: PendingDeletion, error: str) -> None:
        if row.tries >= _MAX_TRIES:
            log.warning("chat_not_deleted account=%s tries=%d error=%s", row.account_id, row.tries, error)
            self._store.pending_deletions.delete(row.upstream, row.chat_id)
            return
        wait_s = min(_MAX_RETRY_S, _RETRY_AFTER_S * 2.0 ** (row.tries - 1))
        again_at = self._store.database.now() + wait_s
        self._store.pending_deletions.postpone(row, again_at)
        log.info("chat_not_deleted account=%s retry_in_s=%.0f error=%s", row.account_id, wait_s, error)

"""Kimi chats that nobody needs any more, and the threads that delete them.

Every stateless request opens a chat that its user would find in the chat list of kimi.com. It is noted in
the store when it is opened and deleted after the answer; a worker that is killed in between leaves the note,
and any worker finds it later. Must never know how a chat is deleted.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from app.concurrency.periodic import Periodic, every
from app.errors import GatewayError
from app.store import PendingDeletion, Store

log = logging.getLogger(__name__)

# Deletions at once per process: enough to keep up with its answers, few enough to be polite.
_DELETERS = 4
# The wait after a first failure; it doubles with each, up to a day, and after more than five days a chat is given up.
_RETRY_AFTER_S = 60.0
_LONGEST_RETRY_S = 86_400.0
_MAX_TRIES = 16
# How often the notes that other, killed workers left are looked for.
_SWEEP_EVERY_S = 60.0


class ChatCleanup:
    """``delete`` deletes one chat or raises GatewayError; ``keep_s`` is how long a running answer may last.

    The notes of other upstreams and accounts than these stay until they are switched on again.
    """

    def __init__(
        self,
        store: Store,
        upstreams: Sequence[str],
        account_ids: Sequence[str],
        delete: Callable[[PendingDeletion], None],
        keep_s: float,
    ) -> None:
        self._store = store
        self._upstreams = upstreams
        self._account_ids = account_ids
        self._delete = delete
        self._keep_s = keep_s
        self._queue: queue.SimpleQueue[PendingDeletion] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._deleters: list[Periodic] = []

    def note(self, upstream: str, chat_id: str, account_id: str) -> None:
        """A chat that will have to go, at the latest when its answer must have ended."""
        self._store.pending_deletions.add(upstream, chat_id, account_id, self._store.database.now() + self._keep_s)

    def discard(self, upstream: str, chat_id: str, account_id: str) -> None:
        """A noted chat can go now; the caller does not wait for it."""
        if upstream not in self._upstreams:
            return
        self._queue.put(PendingDeletion(upstream, chat_id, account_id, tries=1))
        with self._lock:
            if len(self._deleters) < _DELETERS:
                self._deleters.append(every(0, self._delete_next, "chat-deleter"))

    def keep(self, upstream: str, chat_id: str) -> None:
        """A noted chat is needed after all."""
        self._store.pending_deletions.delete(upstream, chat_id)

    def sweep(self) -> None:
        """Looks for notes that are due, now and for as long as the process lives."""
        every(_SWEEP_EVERY_S, self._delete_due, "chat-cleanup")

    def _delete_next(self) -> None:
        # Where this fails, the note stays, and the sweep comes by again.
        self._remove_or_put_off(self._queue.get())

    def _delete_due(self) -> None:
        now = self._store.database.now()
        again_at = now + _RETRY_AFTER_S
        while row := self._store.pending_deletions.claim(self._upstreams, self._account_ids, now, again_at):
            self._remove_or_put_off(row)

    def _remove_or_put_off(self, row: PendingDeletion) -> None:
        try:
            self._delete(row)
        except GatewayError as e:
            if row.tries < _MAX_TRIES:
                log.info("a Kimi chat could not be deleted yet: %s", e.message)
                wait_s = min(_LONGEST_RETRY_S, _RETRY_AFTER_S * 2.0 ** (row.tries - 1))
                again_at = self._store.database.now() + wait_s
                self._store.pending_deletions.postpone(row.upstream, row.chat_id, row.tries, again_at)
                return
            log.warning("a Kimi chat stays in the chat list of its account: %s", e.message)
        self._store.pending_deletions.delete(row.upstream, row.chat_id)

"""Kimi chats that nobody needs any more, and the thread that deletes them.

Every stateless request opens a chat that its user would find in the chat list of kimi.com. It is noted in
the store when it is opened and deleted after the answer; a worker that is killed in between leaves the note,
and any worker finds it later. Must never know how a chat is deleted.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from sqlalchemy.exc import SQLAlchemyError

from app.errors import GatewayError
from app.store import LitterRow, Store

log = logging.getLogger(__name__)

_MAX_TRIES = 5
_RETRY_AFTER_S = 60.0
# How often the notes that other, killed workers left are looked for.
_SWEEP_EVERY_S = 60.0


class Litter:
    """``delete`` deletes one chat or raises GatewayError; ``keep_s`` is how long a running answer may last."""

    def __init__(
        self, store: Store, account_ids: Sequence[str], delete: Callable[[LitterRow], None], keep_s: float
    ) -> None:
        self._store = store
        self._account_ids = account_ids
        self._delete = delete
        self._keep_s = keep_s
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._sweeping = False

    def note(self, upstream: str, chat_id: str, account_id: str) -> None:
        """A chat that will have to go, at the latest when its answer must have ended."""
        self._store.add_litter(upstream, chat_id, account_id, time.time() + self._keep_s)

    def discard(self, upstream: str, chat_id: str, account_id: str) -> None:
        """A chat that can go now."""
        self._store.add_litter(upstream, chat_id, account_id, time.time())
        self.sweep()

    def sweep(self) -> None:
        """Has the thread look at the notes now."""
        self._wake.set()
        with self._lock:
            if not self._sweeping:
                self._sweeping = True
                threading.Thread(target=self._run, name="litter", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                while self._delete_one():
                    pass
            except SQLAlchemyError:
                log.exception("the list of chats to delete could not be read")
            self._wake.wait(_SWEEP_EVERY_S)

    def _delete_one(self) -> bool:
        now = time.time()
        row = self._store.take_litter(self._account_ids, now, now + _RETRY_AFTER_S)
        if row is None:
            return False
        try:
            self._delete(row)
        except GatewayError as e:
            if row.tries < _MAX_TRIES:
                log.info("a Kimi chat could not be deleted yet: %s", e.message)
                return True
            log.warning("a Kimi chat stays in the chat list of its account: %s", e.message)
        self._store.drop_litter(row.upstream, row.chat_id)
        return True

"""The lease that says that this process is alive. A heartbeat renews it in the database.

Whatever a process holds there (leases of accounts, places in the queue, conversations, idempotent answers) is valid
for others while the process's own lease is: a killed process frees all of it after ``lease_s``, a stopped one at
once. Knows nothing of what is held.
"""

import atexit
import logging
import queue
import threading
from collections.abc import Callable

from app.concurrency.periodic import Periodic, every
from app.store import Store, StoreError, Transaction

log = logging.getLogger(__name__)

# How long a release is tried before that is left to the next heartbeat: an answer or an error waits for it. Seconds.
_RELEASE_FOR_S = 1.0
# How often the leftovers of dead processes are deleted. Seconds.
_CLEAN_EVERY_S = 30.0


class ProcessLease:
    """The lease of this process, for ``lease_s`` seconds and renewed three times as often. ``id``: of the process."""

    def __init__(self, store: Store, lease_s: float) -> None:
        self._store = store
        self._lease_s = lease_s
        self.id = store.database.process_id
        self._has_expired = False
        # A renewal that is under way must not be committed after the lease was ended.
        self._writing = threading.Lock()
        self._to_retry: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._heartbeats: list[Periodic] = []

    def __repr__(self) -> str:
        return f"<ProcessLease {self.id}{', expired' if self._has_expired else ''}>"

    def start(self) -> None:
        """From here on the process is alive. Raises StoreError."""
        self._renew()
        self._store.database.on_reconnect(self._extend_all)
        first_after_s = self._lease_s / 3
        self._heartbeats = [
            every(self._lease_s / 3, self._renew_and_retry, "process-lease", first_after_s=first_after_s),
            every(_CLEAN_EVERY_S, self._delete_leftovers, "process-leftovers", first_after_s=first_after_s),
        ]
        atexit.register(self.expire_now)

    def run_or_retry(self, release: Callable[[], object]) -> None:
        """Calls ``release``, which frees something in the database. If that fails, it is called again later."""
        try:
            with self._store.database.retrying_for(_RELEASE_FOR_S):
                release()
        except StoreError as e:
            cause = None if e.is_transient else e
            log.warning("release_failed retry_in_s=%.0f error=%s", self._lease_s / 3, e, exc_info=cause)
            self.retry_later(release)

    def retry_later(self, release: Callable[[], object]) -> None:
        """Calls ``release`` with the next heartbeat, as ``run_or_retry`` does."""
        self._to_retry.put(release)

    def expire_now(self) -> None:
        """Frees everything that the process holds. Safe to call again."""
        for heartbeat in self._heartbeats:
            heartbeat.stop()
        with self._writing:
            self._has_expired = True
            try:
                self._store.processes.expire(self.id)
            except StoreError as e:
                log.warning("process_lease_not_ended error=%s expires_in_s=%.0f", e, self._lease_s)

    def _renew(self) -> None:
        with self._writing:
            if not self._has_expired:
                self._store.processes.renew(self.id, self._lease_s)

    def _renew_and_retry(self) -> None:
        self._renew()
        for _ in range(self._to_retry.qsize()):
            self.run_or_retry(self._to_retry.get())

    def _delete_leftovers(self) -> None:
        self._store.processes.delete_leftovers(self._store.database.now())

    def _extend_all(self, tx: Transaction, since: float) -> None:
        # While the database was unavailable nobody could renew a lease. Without this, the first process that
        # reconnects would find all others dead.
        self._store.processes.extend_all(tx, since, self._store.database.now() + self._lease_s)

"""That this process is alive, said again and again in the store.

What a process holds there (leases, places in the line, conversations, answers that are being recorded) counts with
others for as long as its presence does: a killed process frees everything after one ``lease_s``, a stopped one at
once. Must never know what is held.
"""

import atexit
import logging
import queue
import threading
from collections.abc import Callable

from app.concurrency.periodic import Periodic, every
from app.store import Store, StoreError, Transaction

log = logging.getLogger(__name__)

# How often what dead processes left behind is swept up.
_SWEEP_EVERY_S = 30.0


class Presence:
    """``id`` names the process. Renewed by a thread from the first use on."""

    def __init__(self, store: Store, lease_s: float) -> None:
        self._store = store
        self._lease_s = lease_s
        self.id = store.database.process_id
        self._left = threading.Event()
        # A beat that is under way must not come after the end.
        self._speaking = threading.Lock()
        self._owed: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._loops: list[Periodic] = []

    def begin(self) -> None:
        """From here on the process counts as alive. Raises what the store raises."""
        self._beat()
        self._store.database.first_on_return(self._keep)
        self._loops = [
            every(self._lease_s / 3, self._renew, "process-lease", first_after_s=self._lease_s / 3),
            every(_SWEEP_EVERY_S, self._sweep, "process-sweep", first_after_s=self._lease_s / 3),
        ]
        atexit.register(self.leave)

    def give_back(self, release: Callable[[], object]) -> None:
        """Calls ``release``, which frees something in the store; again and again later where the store fails."""
        try:
            release()
        except StoreError:
            log.exception("something that this process held could not be given back; it will be tried again")
            self.owe(release)

    def owe(self, release: Callable[[], object]) -> None:
        """Calls ``release`` a little later, as ``give_back`` does: for those who need not wait for it."""
        self._owed.put(release)

    def leave(self) -> None:
        """Everything that the process holds is free."""
        self._left.set()
        for loop in self._loops:
            loop.stop()
        try:
            with self._speaking:
                self._store.processes.leave(self.id)
        except StoreError:
            log.warning("the end of this process could not be noted; what it held is free in %.0f s", self._lease_s)

    def _beat(self) -> None:
        with self._speaking:
            if not self._left.is_set():
                self._store.processes.beat(self.id, self._lease_s)

    def _keep(self, tx: Transaction, since: float) -> None:
        # While the database was away nobody could say that it lives, and whoever is back first would find all others
        # dead.
        self._store.processes.keep(tx, since, self._store.database.now() + self._lease_s)

    def _renew(self) -> None:
        self._beat()
        for _ in range(self._owed.qsize()):
            self.give_back(self._owed.get())

    def _sweep(self) -> None:
        self._store.processes.sweep(self._store.database.now())

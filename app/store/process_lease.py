"""The lease that says that this process is alive, and the watch over the leases of the others.

Whatever a process holds in the database (leases of accounts, places in the queue, conversations, idempotent answers)
is valid for others while the process's own lease is: a killed process frees all of it after ``lease_s``, a stopped
one at once. Knows nothing of what is held.

No clock is compared with another one, so clocks may be set. A process renews its lease by changing its row. Each
process watches the rows of all others; one that has not changed for ``lease_s``, by the watcher's own clock, which
nobody can set, is deleted, and its process is dead. A process that could not renew for somewhat less than that gives
up first what must not be held twice. Two rules keep a time from counting in which nobody could write:

- A watcher that could not renew its own lease for a while begins to watch anew.
- A process that cannot renew but sees that nobody else can goes on: SQLite can be read while it is locked, and then
  shows that no row has changed; a server says that it is not there.

A process that has nothing to do rests: it writes that down, as a negative value, and others then wait several times
as long before they find it dead. While all of them rest they only read, and seldom write.
"""

import logging
import queue
import threading
from collections.abc import Callable

from app.concurrency.at_exit import at_exit
from app.concurrency.periodic import Periodic, every
from app.store import Store, StoreError
from app.store.clock import steady

log = logging.getLogger(__name__)

# As shares of ``lease_s``: how often it is renewed, and how soon after a failure; for how long it counts for its own
# process after the last renewal began; the pause after which a watcher begins anew.
_RENEW_EVERY = 0.2
_RETRY_EVERY = 0.05
_VALID_FOR = 0.8
_LONGEST_GAP = 0.4
# The same where all processes rest: how often each of them writes.
_WRITE_RESTING_EVERY = 3.0
# The lease of a process that rests is so many times as long. Where it has not written for the second of these times,
# it is suspect: others do not rest until it writes, or is dead.
_RESTING = 6.0
_SUSPECT_AFTER = 4.0
# A renewal that fails within this share of ``lease_s`` did not wait for an answer.
_AT_ONCE = 0.05
# How long a release is tried before that is left to the next heartbeat: an answer or an error waits for it. Seconds.
_RELEASE_FOR_S = 1.0
# How often the leftovers of unknown processes are deleted. Seconds.
_CLEAN_EVERY_S = 30.0


class ProcessLease:
    """The lease of this process, for ``lease_s`` seconds. ``id``: of the process."""

    def __init__(self, store: Store, lease_s: float) -> None:
        self._store = store
        self._lease_s = lease_s
        self.id = store.database.process_id
        self._has_ended = False
        # A renewal that is under way must not be committed after the lease was ended.
        self._writing = threading.Lock()
        # All times are those of ``steady``.
        self._valid_until = 0.0
        self._is_lost = False
        # Since when a renewal is under way, if one is; and a round of the thread that renews, which also watches the
        # others, and gives up what they have taken.
        self._trying_since: float | None = None
        self._round_since: float | None = None
        # What was written last into the own row.
        self._written = 0.0
        self._renewed_at = 0.0
        # The other processes: the value of each, and when it was first seen.
        self._others: dict[str, tuple[float, float]] = {}
        # Since when it is known that nobody could renew.
        self._quiet_since: float | None = None
        self._when_lost: list[Callable[[bool], None]] = []
        # What is written beside the lease, for people who look; ``describe`` sets it.
        self._describe: Callable[[float], str] | None = None
        self._when_other_dies: Callable[[], object] = lambda: None
        self._is_busy: Callable[[], bool] = lambda: True
        self._written_at = 0.0
        self._to_retry: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._releases: Periodic | None = None
        self._work: list[Periodic] = []

    def __repr__(self) -> str:
        return f"<ProcessLease {self.id}{', ended' if self._has_ended else ', lost' if self._is_lost else ''}>"

    def start(self) -> None:
        """From here on the process is alive. Raises StoreError."""
        self._register()
        pause_s = self._lease_s * _RENEW_EVERY
        # Woken by the look at the deadline, where there is something to release.
        self._releases = releases = every(
            _CLEAN_EVERY_S, self._retry_releases, "process-releases", first_after_s=pause_s
        )
        self._work = [
            every(pause_s, self._renew_and_watch, "process-lease", first_after_s=pause_s),
            every(self._lease_s * _RETRY_EVERY, self._check_deadline, "process-deadline", first_after_s=pause_s),
            releases,
            every(_CLEAN_EVERY_S, self._delete_leftovers, "process-leftovers", first_after_s=pause_s),
        ]
        at_exit(self.expire_now)

    def describe(self, state: Callable[[float], str], is_busy: Callable[[], bool]) -> None:
        """``state(now)`` is called when the row is written; its text is kept beside the lease. ``is_busy``: whether
        the process does anything, so that it must not rest. Neither must wait for anything, beyond some rounds of the
        event loop."""
        self._describe, self._is_busy = state, is_busy

    def when_lost(self, work: Callable[[bool], None]) -> None:
        """Registers ``work``, which is called when others may have taken what this process held, or soon may. It must
        give up what must not be held twice, and what others do hold now. It must not raise.

        ``work(True)``: the database answers, or fails at once; it may show who holds what. ``work(False)``: it does
        not answer, so ``work`` must not ask it. The question could hang for longer than the time that is left. When
        the database is back, and others have taken something meanwhile, ``work(True)`` follows.
        """
        self._when_lost.append(work)

    def when_other_dies(self, work: Callable[[], object]) -> None:
        """``work`` is called after this process has found another one dead and has freed what it held. It must
        neither raise nor block."""
        self._when_other_dies = work

    def is_valid(self) -> bool:
        """Whether nobody can have taken what this process holds. Asks the database only where it is not certain."""
        return steady() < self._valid_until or self._try_to_renew()

    def run_or_retry(self, release: Callable[[], object]) -> None:
        """Calls ``release``, which frees something in the database. If that fails, it is called again later. While
        the database does not answer it is not called at all: it could hang, and with it the error for a client.
        """
        if (error := self._run(release)) is not None:
            cause = None if error.is_transient else error
            retry_in_s = self._lease_s * _RENEW_EVERY
            log.warning("release_failed retry_in_s=%.1f error=%s", retry_in_s, error, exc_info=cause)

    def _run(self, release: Callable[[], object]) -> StoreError | None:
        """Calls ``release``. If that is not possible, or fails, it is called again later. Returns the failure."""
        if self._is_lost:
            self.retry_later(release)
            return None
        try:
            with self._store.database.retrying_for(_RELEASE_FOR_S):
                release()
        except StoreError as e:
            self.retry_later(release)
            return e
        return None

    def retry_later(self, release: Callable[[], object]) -> None:
        """Calls ``release`` soon, as ``run_or_retry`` does."""
        self._to_retry.put(release)

    def expire_now(self) -> None:
        """Frees everything that the process holds. Safe to call again."""
        for work in self._work:
            work.stop()
        with self._writing:
            self._has_ended = True
            try:
                self._store.processes.delete(self.id)
            except StoreError as e:
                log.warning("process_lease_not_ended error=%s expires_in_s=%.0f", e, self._lease_s)

    # The own lease

    def _register(self) -> None:
        began = steady()
        self._written = self._store.database.now() + self._lease_s
        self._store.processes.register(self.id, self._written, self._state())
        self._written_at = began
        self._succeeded(began)

    def stop_resting(self) -> None:
        """The process has something to do again. Does not wait."""
        if self._written < 0 and self._work:
            self._work[0].wake()

    def _state(self) -> str | None:
        if self._describe is None:
            return None
        try:
            return self._describe(self._store.database.now())
        except StoreError:
            raise
        except Exception:  # the lease counts, whatever fails in describing the process
            log.exception("process_state_failed")
            return None

    def _succeeded(self, began: float) -> None:
        # From its beginning: nobody can have seen the change before that.
        self._valid_until = began + self._length_s(self._written) * _VALID_FOR
        self._is_lost = False
        self._quiet_since = None

    def _length_s(self, value: float) -> float:
        """How long the lease is of a process that has written this value."""
        return self._lease_s * (_RESTING if value < 0 else 1.0)

    def _unchanged_since(
        self, known: tuple[float, float] | None, value: float, looked_at: float, now: float
    ) -> float:
        """Since when it counts that a process has not changed its value. ``looked_at``: the last look."""
        if known is None or known[0] != value:
            return now
        gap, since = (now - looked_at) / self._lease_s, known[1]
        if gap <= _LONGEST_GAP:
            return since
        if value < 0 and gap <= _WRITE_RESTING_EVERY + _LONGEST_GAP and not self._is_suspect(value, since, looked_at):
            # While all rest, nobody looks more often. The rest of the time is watched closely.
            return max(since, now - self._lease_s * _SUSPECT_AFTER)
        # Perhaps nobody could renew meanwhile.
        return now

    def _is_suspect(self, value: float, since: float, now: float) -> bool:
        """Whether a process that rests should have written again long ago."""
        return value < 0 and now - since >= self._lease_s * _SUSPECT_AFTER

    def _renew_and_watch(self) -> float:
        """Returns the seconds until the next renewal."""
        self._round_since = steady()
        try:
            return self._renew_then_watch()
        finally:
            self._round_since = None

    def _renew_then_watch(self) -> float:
        written_at = self._written_at
        if not self._try_to_renew():
            return self._lease_s * _RETRY_EVERY
        if self._written_at == written_at:
            # All rest. Who does not write does not know whether others can.
            return self._lease_s * _RENEW_EVERY
        try:
            with self._store.database.retrying_for(0):
                return self._watch()
        except StoreError as e:
            log.debug("process_watch_failed error=%s", e)
            return self._lease_s * _RETRY_EVERY

    def _try_to_renew(self) -> bool:
        with self._writing:
            if self._has_ended:
                return False
            began = self._trying_since = steady()
            try:
                with self._store.database.retrying_for(0):
                    rests = not self._is_busy()
                    if rests and self._need_not_write(began):
                        return True
                    before, until = self._written, self._store.database.now() + self._lease_s
                    self._written = -until if rests else until
                    if self._written == before:
                        # Two renewals must differ, also where the clock was set back by just that much.
                        self._written += 1e-3
                    is_known = self._store.processes.renew(self.id, self._written, self._state())
                    if not is_known:
                        # Another process has found this one dead. It may hold what was ours.
                        self._register()
                    self._written_at = began
            except StoreError as e:
                self._failed(e, began)
                return False
            finally:
                self._trying_since = None
            self._succeeded(began)
        if not is_known:
            log.warning("process_lease_lost reason=not_renewed_in_time")
            self._call_when_lost(True)
        return True

    def _need_not_write(self, now: float) -> bool:
        """Whether the lease of this process, which rests, is still long enough, and all others live and rest, too."""
        if self._written >= 0 or now - self._written_at > self._lease_s * _WRITE_RESTING_EVERY:
            return False
        rows = self._store.processes.all()
        if self.id not in rows or any(value >= 0 for value in rows.values()):
            return False
        return not any(
            rows.get(process_id) == value and self._is_suspect(value, since, now)
            for process_id, (value, since) in self._others.items()
        )

    def _failed(self, error: StoreError, began: float) -> None:
        now = steady()
        # An old connection that was closed fails at once, and a new one may show who holds what.
        failed_at_once = now - began < self._lease_s * _AT_ONCE
        if self._nobody_can_write(error):
            if self._quiet_since is None:
                self._quiet_since = now
            if now - self._quiet_since > self._lease_s * _LONGEST_GAP:
                # All watchers begin anew when they can write again.
                self._valid_until = max(self._valid_until, now + self._lease_s * _VALID_FOR)
        else:
            self._quiet_since = None
        if now >= self._valid_until:
            self._lose(str(error), database_answers=failed_at_once)

    def _check_deadline(self) -> float:
        """A question to the database may hang for longer than the lease counts: a renewal, or what the thread that
        renews asks after it. Returns the seconds until the next look."""
        now, hangs_since = steady(), self._trying_since or self._round_since
        if self._releases is not None and self._to_retry.qsize():
            self._releases.wake()
        if now < self._valid_until:
            # A renewal that is in time moves the deadline.
            return max(self._lease_s * _RETRY_EVERY, min(self._lease_s * _RENEW_EVERY, self._valid_until - now))
        if self._is_lost or self._has_ended:
            return self._lease_s * _RETRY_EVERY
        if hangs_since is None:
            # The process was frozen, or its loop was held: what the renewal says counts.
            self._work[0].wake()
        elif hangs_since < self._valid_until or now - hangs_since > self._lease_s * (1 - _VALID_FOR) / 2:
            self._lose("no answer", database_answers=False)
        return self._lease_s * _RETRY_EVERY

    def _lose(self, error: str, *, database_answers: bool) -> None:
        if not self._is_lost:
            self._is_lost = True
            log.warning("process_lease_lost reason=database_unavailable error=%s", error)
            self._call_when_lost(database_answers)

    def _nobody_can_write(self, error: StoreError) -> bool:
        if error.serves_nobody:
            return True
        if error.is_unreachable:
            return False
        try:
            with self._store.database.retrying_for(0):
                rows = self._store.processes.all()
        except StoreError:
            return False
        known = {process_id: until for process_id, (until, _) in self._others.items()}
        if self.id not in rows:
            return False
        rows.pop(self.id)
        if rows == known:
            return True
        now = steady()
        self._others = {
            process_id: self._others[process_id] if known.get(process_id) == until else (until, now)
            for process_id, until in rows.items()
        }
        return False

    def _call_when_lost(self, database_answers: bool) -> None:
        for work in self._when_lost:
            try:
                work(database_answers)
            except Exception:  # what one part fails to give up must not keep the others from it
                log.exception("giving_up_failed")

    # The others

    def _watch(self) -> float:
        """Deletes the leases that were not renewed for too long. Returns the seconds until the next look."""
        rows = self._store.processes.all()
        now = steady()
        looked_at, self._renewed_at = self._renewed_at, now
        rows.pop(self.id, None)
        self._others = others = {
            process_id: (value, self._unchanged_since(self._others.get(process_id), value, looked_at, now))
            for process_id, value in rows.items()
        }
        dead = [process_id for process_id, (value, since) in others.items() if now - since >= self._length_s(value)]
        for process_id in dead:
            until, _ = others.pop(process_id)
            if self._store.processes.delete_unchanged(process_id, until):
                log.warning("process_dead process=%s", process_id)
                self._when_other_dies()
        pause_s = self._lease_s * _RENEW_EVERY
        due_in_s = min((since + self._length_s(value) - now for value, since in others.values()), default=pause_s)
        return max(self._lease_s * _RETRY_EVERY, min(pause_s, due_in_s))

    def _delete_leftovers(self) -> None:
        self._store.processes.delete_leftovers(self._store.database.now())

    def _retry_releases(self) -> None:
        for _ in range(self._to_retry.qsize()):
            # A failure that lasts is in the log once.
            self._run(self._to_retry.get())

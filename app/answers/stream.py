"""A turn as whoever shows it sees it: its events as they come, its time limits, its end in the log.

Must never know HTTP, JSON, SQL, Flask, or any field name of OpenAI or Kimi.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from app.answers.turn import Turn, Turns
from app.chat import (
    HEARTBEAT,
    Event,
    Finished,
    Heartbeat,
    Notice,
    ReasoningDelta,
    Started,
    TextDelta,
    Unrecognised,
)
from app.concurrency.background import Background, ConsumerStalled, EndOfSource
from app.concurrency.watchdog import Watchdog
from app.errors import ClientGone, GatewayError, ShuttingDown, UpstreamTimeout

log = logging.getLogger(__name__)

# Nearly all events; known by their class, without asking for each other one.
_TEXT = frozenset({TextDelta, ReasoningDelta})


@dataclass(slots=True)
class Patience:
    """How long to wait, in seconds. ``tick_s``: how often a silent wait looks after the client. ``ends_at``: when the
    process is about to end, in monotonic time."""

    tick_s: float
    commit_after_s: float
    first_event_s: float
    idle_s: float
    total_s: float
    ends_at: float = math.inf


class ChatStream:
    """A turn that runs. Iterating gives its events in batches, each as it came; ``close`` ends it.

    A batch of Heartbeat alone says that nothing came for a moment. The last event is Finished, or GatewayError
    is raised. Everything that the turn holds is given back soon after ``close``, at the latest.
    """

    def __init__(
        self, turns: Turns, turn: Turn, patience: Patience, unmet: list[str], watchdog: Watchdog, *, commit: bool
    ) -> None:
        self.turn = turn
        self.error: BaseException | None = None
        # What the user is to know: wishes that the model has no form for, and what the upstream tells, so far.
        self.notices = unmet
        self._patience = patience
        self._began = self._heard_at = self._looked_at = time.monotonic()
        self._first_answer_s: float | None = None
        self._commit_at = self._began + patience.commit_after_s if commit else None
        self._early: list[Event] = []
        self._reason: str | None = None
        self._closed = False
        within_s = min(patience.tick_s, patience.commit_after_s) / 4
        self._background = Background[Event](
            lambda cancellation, emit: turns.run(turn, cancellation, emit),
            watchdog,
            longest_s=patience.total_s,
            within_s=within_s,
        )

    @property
    def prompt(self) -> str:
        return self.turn.prompt

    @property
    def rebuilt_from(self) -> str | None:
        return self.turn.rebuilt_from

    def wait_for_news(self) -> None:
        """Returns with whatever the turn tells first, which is mostly that its chat is there; or after a moment."""
        self._listen(lambda: True)

    def wait_for_answer(self) -> None:
        """Returns with the first event that carries an answer, or when to commit has been waited for long enough."""
        if not self._is_certain():
            self._listen(self._is_certain)

    def _listen(self, is_enough: Callable[[], bool]) -> None:
        try:
            for batch in self._events(self._commit_at):
                self._early += batch
                if is_enough():
                    return
        except BaseException as e:
            self.close(e)
            raise

    def _is_certain(self) -> bool:
        if self._first_answer_s is not None:
            return True
        return self._commit_at is not None and time.monotonic() >= self._commit_at

    def __iter__(self) -> Iterator[Sequence[Event]]:
        # Not a generator around another one: every token would pass through both.
        early, self._early = self._early, []
        return itertools.chain([early] if early else [], self._events(None))

    def close(self, error: BaseException | None = None) -> None:
        """Ends the turn. Safe to call again. ``error``: why it ended early, where it did."""
        if self._closed:
            return
        self._closed = True
        self.error = self.error or error
        if self._reason is None:
            self._background.cancel()
        self._log_end()

    def _events(self, not_later_than: float | None) -> Iterator[list[Event]]:
        """Batches until Finished; an empty wait gives a Heartbeat. Raises GatewayError, also for the client."""
        while self._reason is None:
            batch = self._take(not_later_than)
            now = time.monotonic()
            if batch:
                self._heard_at = now
                batch = self._note(batch)
            else:
                self._check_silence(now)
            if now - self._looked_at >= self._patience.tick_s and self._reason is None:
                self._looked_at = now
                self._check_total(now)
                if self.turn.caller.is_gone():
                    self._fail(ClientGone("the client left before the end of the answer"))
            yield batch or [HEARTBEAT]

    def _check_silence(self, now: float) -> None:
        if self.turn.waits:
            self._heard_at = now
            return
        silence_s = now - self._heard_at
        answered = self._first_answer_s is not None
        if silence_s >= (self._patience.idle_s if answered else self._patience.first_event_s):
            self._fail(UpstreamTimeout(f"{self.turn.label}: Kimi was silent for {silence_s:.0f} s"))

    def _check_total(self, now: float) -> None:
        if now - self._began >= self._patience.total_s:
            self._fail(self._overdue())
        if now >= self._patience.ends_at:
            self._fail(ShuttingDown("the gateway is being stopped, which this answer would outlast"))

    def _take(self, not_later_than: float | None) -> list[Event]:
        timeout_s = self._patience.tick_s
        if not_later_than is not None:
            timeout_s = max(0.001, min(timeout_s, not_later_than - time.monotonic()))
        try:
            return self._background.take(timeout_s)
        except EndOfSource:
            # Upstream.open promises Finished or an exception: anything else is a fault of ours.
            raise RuntimeError(f"{self.turn.upstream} ended without Finished") from None
        except ConsumerStalled:
            # The client has not read for so long that the answer could not go on.
            self._fail(self._overdue())
        except GatewayError as e:
            self._fail(e)

    def _overdue(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"{self.turn.label}: no complete answer in {self._patience.total_s:.0f} s")

    def _note(self, batch: list[Event]) -> list[Event]:
        kept: list[Event] = []
        for event in batch:
            if event.__class__ not in _TEXT:
                match event:
                    case Heartbeat() | Started() | Unrecognised():
                        continue
                    case Notice(kind):
                        if kind not in self.notices:
                            self.notices.append(kind)
                            log.warning("%s: Kimi gave notice: %s", self.turn.label, kind)
                        continue
                    case Finished(reason):
                        self._reason = reason
            kept.append(event)
        if kept and self._first_answer_s is None:
            self._first_answer_s = time.monotonic() - self._began
        return kept or [HEARTBEAT]

    def _fail(self, error: GatewayError) -> NoReturn:
        # Throttling of a stateless request is for its client to wait out: its chat is deleted, nothing is doubled.
        throttled = error.retry_after_s is not None and self.turn.request.conversation_id is None
        error.sent = self.turn.may_have_arrived and not throttled
        self.error = error
        raise error

    def _log_end(self) -> None:
        first = "-" if self._first_answer_s is None else f"{self._first_answer_s * 1000:.0f}"
        ended = self._reason or (
            self.error.code or type(self.error).__name__ if isinstance(self.error, GatewayError) else "left"
        )
        turn = self.turn
        log.info(
            "turn model=%s upstream=%s account=%s attempts=%d first_ms=%s total_ms=%.0f end=%s",
            turn.request.model,
            turn.upstream,
            turn.account.id if turn.account else "-",
            turn.attempts,
            first,
            (time.monotonic() - self._began) * 1000,
            ended,
        )

"""A running turn as an answer: its events as they come, its time limits, its end in the log.

    TurnState ← reader thread → Background → ChatStream.take → batches → encoder

Must never know HTTP, JSON, SQL, Flask, or any field name of OpenAI or Kimi.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from app import logs
from app.answers.answer import Answer, AnswerInfo
from app.answers.turn import Turns
from app.answers.turn_state import TurnState
from app.chat import (
    HEARTBEAT,
    Event,
    Finished,
    Heartbeat,
    Notice,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Unrecognised,
)
from app.concurrency.background import Background, ConsumerStalled, EndOfSource
from app.concurrency.watchdog import Watchdog
from app.errors import ClientGone, DatabaseUnavailable, GatewayError, ShuttingDown, UpstreamTimeout
from app.request_record import CONTINUED, DEGRADED, REBUILT, REPAIRED, THOUGHT
from app.store import StoreError

log = logging.getLogger(__name__)


# How long a stream's status stays open at most while the request waits for an account: NextChat, LobeChat and nginx
# give up after 60 s without headers. Seconds.
_LONGEST_OPEN_S = 45.0


@dataclass(slots=True)
class AnswerTimeouts:
    """How long to wait, in seconds."""

    # How often a silent wait checks the time limits and the client.
    tick_s: float
    # When a stream's status and headers go out although there is no answer yet. The wait for an account does not
    # count, up to a limit: most failures come then, and many programs show only those that have a status.
    commit_after_s: float
    # Silence before the first part of the answer, and between two parts.
    first_event_s: float
    idle_s: float
    # The whole answer.
    total_s: float
    # When the process is about to end, in monotonic time.
    ends_at: float = math.inf


class ChatStream(Answer):
    """A turn that runs. The last event is Finished, or GatewayError is raised. What the turn holds is released soon
    after ``close``."""

    def __init__(
        self,
        turns: Turns,
        turn: TurnState,
        timeouts: AnswerTimeouts,
        watchdog: Watchdog,
        unmet: list[str],
        *,
        commit: bool,
    ) -> None:
        """``unmet``: what the request asks for and its model has no form for. ``commit``: the client may be shown
        that an answer is awaited, after ``commit_after_s``."""
        self.turn = turn
        self.turn.info.notices = unmet
        self.error: BaseException | None = None
        self._timeouts = timeouts
        self._began = self._last_event_at = self._last_check_at = time.monotonic()
        self._first_answer_s: float | None = None
        # When a part of the answer last came.
        self._last_part_at = 0.0
        # Both the turn and this object work for the request.
        self._record = turn.caller.record
        self._record.hold(2)
        self._may_commit = commit
        self._commit_at = self._began + timeouts.commit_after_s
        self._early: list[Event] = []
        self._reason: str | None = None
        self._calls = 0
        self._closed = False
        within_s = min(timeouts.tick_s, timeouts.commit_after_s) / 4
        self._background: Background[Event] = Background(
            logs.with_request_id(lambda cancellation, emit: turns.run(turn, cancellation, emit)),
            watchdog,
            longest_s=timeouts.total_s,
            within_s=within_s,
        )

    def __repr__(self) -> str:
        state = self._reason or ("closed" if self._closed else "running")
        return f"<ChatStream {self.turn.request.model} {self.turn.upstream} attempts={self.turn.attempts} {state}>"

    @property
    def info(self) -> AnswerInfo:
        return self.turn.info

    def wait_for_first_sign(self) -> None:
        """Returns with the first event of any kind, which is mostly that the chat is there, or after a moment."""
        self._listen(lambda: True)

    def wait_for_answer(self) -> None:
        if not self._is_certain():
            self._listen(self._is_certain)

    def __iter__(self) -> Iterator[Sequence[Event]]:
        # Not a generator around another one: every token would pass through both.
        early, self._early = self._early, []
        return itertools.chain([early] if early else [], self._batches())

    def close(self, error: BaseException | None = None) -> None:
        if self._closed:
            return
        self._closed = True
        self.error = self.error or error
        if self._reason is None:
            self._background.cancel()
        self._log_end()
        self._complete_record()
        # Its traceback leads back to this object, and to all that it holds.
        self.error = None

    def _listen(self, is_enough: Callable[[], bool]) -> None:
        try:
            for batch in self._batches(until_commit=self._may_commit):
                self._early += batch
                if is_enough():
                    return
        except BaseException as e:
            self.close(e)
            raise

    def _is_certain(self) -> bool:
        """Whether a part of the answer is there, or the wait for one may be shown."""
        if self._first_answer_s is not None:
            return True
        return self._may_commit and self._may_wait_no_longer(time.monotonic())

    def _may_wait_no_longer(self, now: float) -> bool:
        """Whether the status has to go out."""
        if self.turn.awaits_account:
            # Kimi is not asked yet: from the moment when it is, it has as long as ever.
            latest = self._began + max(_LONGEST_OPEN_S, self._timeouts.commit_after_s)
            self._commit_at = max(self._commit_at, min(latest, now + self._timeouts.commit_after_s))
        return now >= self._commit_at

    def _batches(self, *, until_commit: bool = False) -> Iterator[list[Event]]:
        """Batches until Finished; a wait in which nothing came gives a Heartbeat. ``until_commit``: no wait lasts
        longer than until the status has to go out. Raises GatewayError."""
        while self._reason is None:
            batch = self._take(self._commit_at if until_commit else None)
            now = time.monotonic()
            if batch:
                self._last_event_at = now
                batch = self._filter(batch, now)
            else:
                self._check_silence(now)
            if now - self._last_check_at >= self._timeouts.tick_s and self._reason is None:
                self._last_check_at = now
                self._check_total(now)
                if self.turn.caller.is_gone():
                    self._fail(ClientGone("the client left before the end of the answer"))
            yield batch or [HEARTBEAT]

    def _take(self, not_later_than: float | None) -> list[Event]:
        timeout_s = self._timeouts.tick_s
        if not_later_than is not None:
            timeout_s = max(0.001, min(timeout_s, not_later_than - time.monotonic()))
        try:
            return self._background.take(timeout_s)
        except EndOfSource:
            # Upstream.open promises Finished or an exception: anything else is a fault of ours.
            raise RuntimeError(f"{self.turn.upstream} ended without Finished") from None
        except ConsumerStalled:
            # The client has not read for so long that the answer could not continue.
            self._fail(self._overdue())
        except GatewayError as e:
            self._fail(e)
        except StoreError as e:
            # Not a traceback for each of a thousand requests: they all fail while the database is away.
            log.error("database_failed error=%s", e, exc_info=None if e.is_transient or e.is_unwritable else e)
            self._fail(
                DatabaseUnavailable.after(
                    e.driver_error, reached_upstream=self.turn.reached_upstream, is_unwritable=e.is_unwritable
                )
            )

    def _filter(self, batch: list[Event], now: float) -> list[Event]:
        """What of a batch concerns the client. Learns notices and the end from the rest."""
        record = self._record
        kept: list[Event] = []
        for event in batch:
            # By class and not by pattern: this happens for each token.
            kind = event.__class__
            if kind is TextDelta:
                text = event.text  # type: ignore[union-attr]
                if text.isascii():
                    record.ascii_out += len(text)
                else:
                    record.other_out += len(text)
            elif kind is ReasoningDelta:
                text = event.text  # type: ignore[union-attr]
                if text.isascii():
                    record.ascii_thought += len(text)
                else:
                    record.other_thought += len(text)
            else:
                match event:
                    case Heartbeat() | Started() | Unrecognised():
                        continue
                    case Notice(notice):
                        self._add_notice(notice)
                        continue
                    case ToolCall():
                        self._calls += 1
                    case Finished(reason):
                        self._reason = reason
            kept.append(event)
        if not kept:
            return [HEARTBEAT]
        if self._first_answer_s is None:
            self._first_answer_s = now - self._began
            if record.first_at is None:
                record.first_at = now
        elif now - self._last_part_at > record.longest_s:
            record.longest_s = now - self._last_part_at
        self._last_part_at = now
        return kept

    def _add_notice(self, kind: str) -> None:
        if kind not in self.info.notices:
            self.info.notices.append(kind)
            log.warning("upstream_notice upstream=%s kind=%s", self.turn.upstream, kind)

    def _check_silence(self, now: float) -> None:
        if self.turn.is_queued:
            self._last_event_at = now
            return
        silence_s = now - self._last_event_at
        limit_s = self._timeouts.first_event_s if self._first_answer_s is None else self._timeouts.idle_s
        if silence_s >= limit_s:
            self._fail(UpstreamTimeout(f"{self.turn.label}: Kimi was silent for {silence_s:.0f} s"))

    def _check_total(self, now: float) -> None:
        if now - self._began >= self._timeouts.total_s:
            self._fail(self._overdue())
        if now >= self._timeouts.ends_at:
            self._fail(ShuttingDown("the gateway is being stopped, and this answer would take longer"))

    def _overdue(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"{self.turn.label}: no complete answer in {self._timeouts.total_s:.0f} s")

    def _fail(self, error: GatewayError) -> NoReturn:
        # A limited stateless request may be repeated by its client: its chat is deleted, so nothing is doubled.
        is_limited = error.retry_after_s is not None and self.turn.request.conversation_id is None
        self.error = error.replaced(reached_upstream=self.turn.reached_upstream and not is_limited)
        raise self.error

    def _complete_record(self) -> None:
        record, info = self._record, self.info
        record.adds_prompt(info.prompt)
        if info.rebuilt_from is not None:
            record.flags |= REBUILT
        if info.conversation == "continued":
            record.flags |= CONTINUED
        if record.chars_thought:
            record.flags |= THOUGHT
        if "model-degraded" in info.notices:
            record.flags |= DEGRADED
        if self.turn.request.repairs_last_turn:
            record.flags |= REPAIRED
        record.release()

    def _log_end(self) -> None:
        first = "-" if self._first_answer_s is None else f"{self._first_answer_s * 1000:.0f}"
        end = self._reason or (
            self.error.code or type(self.error).__name__ if isinstance(self.error, GatewayError) else "left"
        )
        turn = self.turn
        log.info(
            "turn model=%s upstream=%s account=%s attempts=%d first_ms=%s total_ms=%.0f conversation=%s "
            "calls=%d asked_again=%d end=%s",
            turn.request.model,
            turn.upstream,
            turn.account.id if turn.account else "-",
            turn.attempts,
            first,
            (time.monotonic() - self._began) * 1000,
            turn.info.conversation or "-",
            self._calls,
            turn.request.repairs_last_turn,
            end,
        )

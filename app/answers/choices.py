"""Several answers to one question, as one stream: each runs in a thread of its own (under gevent: a greenlet).

Knows how answers are merged and that they stand and fall together. Must never know where an answer comes from, or
any wire format.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from app import logs
from app.answers.answer import Answer, AnswerInfo, merged
from app.chat import HEARTBEAT, Caller, Event
from app.errors import ClientGone

# Batches that may wait for a slow reader before the answers are read more slowly too.
_HIGH_WATER = 64


class Choices(Answer):
    """``by_choice`` gives the batches; those of one index are in order, and each index ends with Finished.

    The failure of one answer is everybody's: it is raised, and the others are closed.
    """

    def __init__(self, open_one: Callable[[Caller], Answer], caller: Caller, count: int, tick_s: float = 1.0) -> None:
        """Returns when each answer is certain. Raises GatewayError where one failed before.

        Several threads must not look at a client's socket at once, so the answers learn from this object whether the
        caller has left: ``tick_s`` is how often it looks.
        """
        self.choices = count
        self._caller = caller
        self._tick_s = tick_s
        self._last_check_at = time.monotonic()
        self._closed = False
        self._caller_is_gone = False
        self._queue: queue.Queue[tuple[int, Answer | Sequence[Event] | BaseException | None]] = queue.Queue(
            _HIGH_WATER
        )
        self._answers: list[Answer] = []
        self._early: list[tuple[int, Sequence[Event]]] = []
        self._running = count
        try:
            for index in range(count):
                run = logs.with_request_id(self._run)
                threading.Thread(target=run, args=(index, open_one), daemon=True).start()
            while len(self._answers) < count:
                self._early += self._take()
        except BaseException as e:
            self.close(e)
            raise

    @property
    def info(self) -> AnswerInfo:
        # The question was sent more than once, and counts once.
        infos = [answer.info for answer in self._answers]
        info = merged(infos, infos[0].prompt)
        info.counted, info.counted_whole = infos[0].counted, infos[0].counted_whole
        info.whole_prompt = infos[0].whole_prompt
        return info

    def __iter__(self) -> Iterator[Sequence[Event]]:
        return (batch for _, batch in self.by_choice())

    def by_choice(self) -> Iterator[tuple[int, Sequence[Event]]]:
        early, self._early = self._early, []
        yield from early
        while self._running:
            yield from self._take() or [(0, [HEARTBEAT])]

    def close(self, error: BaseException | None = None) -> None:  # noqa: ARG002  # each answer logs its own end
        """The answers are closed by the threads that read them, at their next event or tick."""
        self._closed = True

    def _take(self) -> list[tuple[int, Sequence[Event]]]:
        """What has come: at most one batch. Raises what an answer raised."""
        now = time.monotonic()
        if now - self._last_check_at >= self._tick_s:
            # By the clock and not by silence: the heartbeats of the answers are no silence.
            self._last_check_at = now
            self._caller_is_gone = self._caller_is_gone or self._caller.is_gone()
        try:
            index, item = self._queue.get(timeout=self._tick_s)
        except queue.Empty:
            return []
        if isinstance(item, BaseException):
            self.close(item)
            raise item
        if item is None:
            self._running -= 1
            return []
        if isinstance(item, Answer):
            self._answers.append(item)
            return []
        return [(index, item)]

    def _run(self, index: int, open_one: Callable[[Caller], Answer]) -> None:
        try:
            answer = open_one(self._caller_of(index))
            try:
                answer.wait_for_answer()
                self._put(index, answer)
                for batch in answer:
                    self._put(index, batch)
            except BaseException as e:
                answer.close(e)
                raise
            finally:
                answer.close()
            self._put(index, None)
        except BaseException as e:  # noqa: BLE001  # handed to the reader, which raises it
            with contextlib.suppress(ClientGone):
                self._put(index, e)

    def _caller_of(self, index: int) -> Caller:
        """Each answer is another one: repeated under its own key, of which the first is that of a single answer."""
        key = self._caller.idempotency_key
        return replace(
            self._caller,
            is_gone=lambda: self._caller_is_gone or self._closed,
            # No client's key holds this character.
            idempotency_key=key if key is None or index == 0 else f"{key}\0{index}",
        )

    def _put(self, index: int, item: "Answer | Sequence[Event] | BaseException | None") -> None:
        """Waits for room. Raises ClientGone where no one reads any more."""
        while not self._closed:
            try:
                return self._queue.put((index, item), timeout=self._tick_s)
            except queue.Full:
                continue
        raise ClientGone("this choice is not needed any more: another one failed, or the client left")

"""Answers to requests with an ``Idempotency-Key``: asked for once, given as often as the request is repeated.

The first request with a key asks, and goes on asking when its client has left; a repetition, on whatever worker,
waits for that answer and gets it. For a day the answer is kept, sealed with the client's own key, which the store
does not know. What failed before anything reached Kimi is not kept: then a repetition may try. Must never know HTTP.
"""

import base64
import hashlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from cryptography.fernet import Fernet

from app import errors
from app.chat import (
    HEARTBEAT,
    Answer,
    Caller,
    ChatRequest,
    Citation,
    Event,
    Finished,
    Heartbeat,
    ReasoningDelta,
    TextDelta,
)
from app.concurrency.periodic import every
from app.errors import AnswerLost, ClientGone, FirstRequestFailed, GatewayError, InvalidRequest
from app.store import IdempotentAnswerRow, Store
from app.store.process_lease import ProcessLease

log = logging.getLogger(__name__)

# How long an answer is kept, how often older ones are looked for, and how often a running one is. Seconds.
_KEPT_S = 86_400.0
_SWEEP_EVERY_S = 3600.0
_LOOK_EVERY_S = 0.1

Open = Callable[[Caller], Answer]

_OUR_FAULT = GatewayError(
    "the gateway itself failed when it was first asked; its log says more", code="internal_error"
)


class Recordings:
    """``commit_after_s``: how long the status of a stream may stay open while a running answer is waited for;
    ``tick_s``: how often a silent wait looks after the client."""

    def __init__(self, store: Store, process_lease: ProcessLease, *, commit_after_s: float, tick_s: float) -> None:
        self._store = store
        self._process_lease = process_lease
        self._commit_after_s = commit_after_s
        self._tick_s = tick_s

    def open(self, key: str, request: ChatRequest, caller: Caller, open_one: Open, *, commit: bool) -> Answer:
        """The answer to ``request``, whether it is new, running or finished.

        Raises InvalidRequest where the key was used for another request, AnswerLost where the answer is lost, the
        failure that the first request met, and what ``open_one`` raises.
        """
        seal = _Seal(caller.owner, key)
        # By the time of a repetition its conversation may have gone on: with the very turn that it asks for.
        asked = repr(replace(request, after_turn=None))
        digest = hashlib.sha256(asked.encode(errors="replace")).hexdigest()
        now, holder = self._store.database.now(), uuid.uuid4().hex
        if self._store.idempotent_answers.begin(seal.id, digest, self._process_lease.id, holder, now):
            return self._record(seal, caller, open_one)
        kept = _Kept(self._store, seal, digest, caller, self._tick_s)
        kept.wait(self._commit_after_s if commit else None)
        return kept

    def tidy(self) -> None:
        """Drops, from now on and in the background, what is older than a day."""
        every(_SWEEP_EVERY_S, self._drop_expired, "idempotency-expiry")

    def _record(self, seal: "_Seal", caller: Caller, open_one: Open) -> Answer:
        # Whoever repeats the request wants the answer, so it is not given up when its first client leaves.
        steady = replace(caller, is_gone=lambda: False, idempotency_key=None)
        try:
            answer = open_one(steady)
        except BaseException as e:
            self._keep_failure(seal, e)
            raise
        return _Recording(
            answer,
            caller,
            lambda events: self._keep(seal, _content(answer, events)),
            lambda error: self._keep_failure(seal, error),
            self._tick_s,
        )

    def _keep_failure(self, seal: "_Seal", error: BaseException) -> None:
        if isinstance(error, GatewayError) and not error.sent:
            self._process_lease.run_or_retry(lambda: self._store.idempotent_answers.delete(seal.id))
        else:
            self._keep(seal, _failure(error if isinstance(error, GatewayError) else _OUR_FAULT))

    def _keep(self, seal: "_Seal", content: dict[str, Any]) -> None:
        sealed = seal.close(content)
        self._process_lease.run_or_retry(lambda: self._store.idempotent_answers.finish(seal.id, sealed))

    def _drop_expired(self) -> None:
        self._store.idempotent_answers.delete_older(self._store.database.now() - _KEPT_S)


class _Recording:
    """A running answer, read in the background to its end; its own client sees it as it comes."""

    def __init__(
        self,
        answer: Answer,
        caller: Caller,
        keep: Callable[[Sequence[Event]], None],
        keep_failure: Callable[[BaseException], None],
        tick_s: float,
    ) -> None:
        self._answer = answer
        self._caller = caller
        self._keep = keep
        self._keep_failure = keep_failure
        self._tick_s = tick_s
        self._events: list[Event] = []
        self._error: BaseException | None = None
        self._ended = False
        self._news = threading.Condition()
        threading.Thread(target=self._read, name="recording", daemon=True).start()

    @property
    def prompt(self) -> str:
        return self._answer.prompt

    @property
    def notices(self) -> Sequence[str]:
        return self._answer.notices

    @property
    def rebuilt_from(self) -> str | None:
        return self._answer.rebuilt_from

    def wait_for_answer(self) -> None:
        """It was certain before it was recorded."""

    def __iter__(self) -> Iterator[Sequence[Event]]:
        given = 0
        while True:
            with self._news:
                if given == len(self._events) and not self._ended:
                    self._news.wait(self._tick_s)
                batch, ended = self._events[given:], self._ended
            given += len(batch)
            if batch:
                yield batch
            elif not ended:
                yield [HEARTBEAT]
            if ended and given == len(self._events):
                if self._error is not None:
                    raise self._error
                return
            if not batch and self._caller.is_gone():
                raise ClientGone("the client left before the end of the answer, which is kept for a repetition")

    def close(self, error: BaseException | None = None) -> None:
        """The answer goes on: it is wanted by whoever repeats the request."""

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for batch in self._answer:
                said = [event for event in batch if not isinstance(event, Heartbeat)]
                if said and isinstance(said[-1], Finished):
                    # Kept before the client is told, so that a repetition never finds less than it was shown.
                    self._keep([*self._events, *said])
                if said:
                    with self._news:
                        self._events += said
                        self._news.notify_all()
        except BaseException as e:  # noqa: BLE001  # handed to the client's side, which raises it
            error = e
            self._answer.close(e)
            self._keep_failure(e)
        finally:
            self._answer.close()
            with self._news:
                self._error, self._ended = error, True
                self._news.notify_all()


class _Kept:
    """An answer that another request has asked for: waited for in the store, and told when it is complete."""

    prompt = ""
    notices: Sequence[str] = ()
    rebuilt_from: str | None = None

    def __init__(self, store: Store, seal: "_Seal", digest: str, caller: Caller, tick_s: float) -> None:
        self._store = store
        self._seal = seal
        self._digest = digest
        self._caller = caller
        self._tick_s = tick_s
        self._events: list[Event] | None = None

    def wait(self, not_longer_s: float | None) -> None:
        """Until the answer is there, or so long. Raises GatewayError."""
        deadline = None if not_longer_s is None else time.monotonic() + not_longer_s
        looked_at = time.monotonic()
        while not self._look():
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return
            if now - looked_at > self._tick_s:
                looked_at = now
                if self._caller.is_gone():
                    raise ClientGone("the client left while it waited for the answer to its first request")
            time.sleep(_LOOK_EVERY_S)

    def wait_for_answer(self) -> None:
        """It was waited for when it was opened."""

    def __iter__(self) -> Iterator[Sequence[Event]]:
        while self._events is None:
            yield [HEARTBEAT]
            self.wait(self._tick_s)
        yield self._events

    def close(self, error: BaseException | None = None) -> None:
        """Nothing is held."""

    def _look(self) -> bool:
        row: IdempotentAnswerRow | None = self._store.idempotent_answers.find(
            self._seal.id, self._store.database.now()
        )
        if row is None:
            raise FirstRequestFailed(
                "the first request with this Idempotency-Key failed before Kimi had heard of it; send it again",
                retry_after_s=1,
            )
        if row.request != self._digest:
            raise InvalidRequest(
                "this Idempotency-Key was used for another request",
                code="idempotency_key_reused",
                param="Idempotency-Key",
            )
        if row.content is not None:
            self._open(self._seal.open(row.content))
            return True
        if not row.is_running:
            raise AnswerLost(
                "the gateway was stopped while it answered this request; whether Kimi has heard it is not known. "
                "Send it with another Idempotency-Key"
            )
        return False

    def _open(self, content: dict[str, Any]) -> None:
        if "failure" in content:
            raise _failed(content["failure"])
        self.prompt, self.notices = content["prompt"], content["notices"]
        self.rebuilt_from = content["rebuilt_from"]
        self._events = [_KINDS[kind](*values) for kind, *values in content["events"]]


class _Seal:
    """Closes and opens what is kept under one key of one owner. ``id`` tells nothing of either."""

    def __init__(self, owner: str, key: str) -> None:
        secret = f"{owner}\0{key}".encode()
        self.id = hashlib.sha256(b"id\0" + secret).hexdigest()
        self._fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"seal\0" + secret).digest()))

    def close(self, content: dict[str, Any]) -> str:
        return self._fernet.encrypt(json.dumps(content).encode()).decode()

    def open(self, sealed: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._fernet.decrypt(sealed))
        return content


_KINDS: dict[str, Callable[..., Event]] = {
    "reasoning": ReasoningDelta,
    "text": TextDelta,
    "citation": Citation,
    "finished": Finished,
}


def _content(answer: Answer, events: Sequence[Event]) -> dict[str, Any]:
    """What is kept of an answer, its text in as few pieces as its order allows."""
    kept: list[list[Any]] = []
    for event in events:
        match event:
            case ReasoningDelta(text) | TextDelta(text):
                kind = "reasoning" if isinstance(event, ReasoningDelta) else "text"
                if kept and kept[-1][0] == kind:
                    kept[-1][1].append(text)
                else:
                    kept.append([kind, [text]])
            case Citation(url, title, start, end):
                kept.append(["citation", url, title, start, end])
            case Finished(reason, stop):
                kept.append(["finished", reason, stop])
    for item in kept:
        if item[0] in ("reasoning", "text"):
            item[1] = "".join(item[1])
    return {
        "prompt": answer.prompt,
        "notices": list(answer.notices),
        "rebuilt_from": answer.rebuilt_from,
        "events": kept,
    }


def _failure(error: GatewayError) -> dict[str, Any]:
    return {"failure": [type(error).__name__, error.message, error.code, error.param, error.retry_after_s]}


def _failed(failure: list[Any]) -> GatewayError:
    name, message, code, param, retry_after_s = failure
    kind = getattr(errors, name, GatewayError)
    error: GatewayError = kind(message, code=code, param=param, retry_after_s=retry_after_s)
    error.sent = True
    return error

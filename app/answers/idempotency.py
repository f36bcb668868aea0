"""Answers to requests with an ``Idempotency-Key``: one Kimi turn, given as often as the request is repeated.

The first request with a key runs the turn, and goes on when its client has left. A repetition, on whatever worker,
waits for that answer and gets it. The answer is kept for a day, encrypted with the client's own key, which the store
does not know; the oldest answers of an API key go earlier if it has too many. The prompt is not kept, only how many
tokens it has. A failure that happened before the message reached Kimi is not kept: then a repetition may try again.
Must never know HTTP.
"""

import base64
import hashlib
import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app import errors
from app.answers.answer import Answer, AnswerInfo
from app.chat import (
    HEARTBEAT,
    Caller,
    ChatRequest,
    Citation,
    Event,
    Finished,
    Heartbeat,
    Message,
    Options,
    ReasoningDelta,
    TextDelta,
    TextPart,
    ToolCall,
)
from app.concurrency.periodic import every, in_steps
from app.concurrency.waiting_room import WaitingRoom
from app.concurrency.yielding import in_slices
from app.errors import (
    ClientGone,
    DatabaseUnavailable,
    GatewayError,
    IdempotentAnswerLost,
    InvalidRequest,
    OriginalRequestFailed,
    ProtocolUnavailable,
)
from app.request_record import REPLAYED
from app.store import IdempotentAnswerRow, Store, StoreError
from app.store.process_lease import ProcessLease
from app.text.held_text import TextLimit

log = logging.getLogger(__name__)

# How long an answer is kept, how often older ones are dropped, and how often it is looked whether another process has
# completed an answer that repetitions wait for. Seconds.
_KEPT_S = 86_400.0
_SWEEP_EVERY_S = 3600.0
_LOOK_EVERY_S = 0.1
# How long the end of an answer is held back while it cannot be kept. Seconds: a database that is restarted is back.
_KEPT_WITHIN_S = 10.0
# How much of a long text is looked at between two pauses.
_PART_CHARS = 1 << 18

Open = Callable[[Caller], Answer]

_INTERNAL_ERROR = GatewayError(
    "the gateway itself failed on the first request with this Idempotency-Key; see its log", code="internal_error"
)
_TOO_LARGE = IdempotentAnswerLost(
    "the answer to this request was given, and was too large to be kept for a repetition (MAX_IDEMPOTENT_BYTES). "
    "Send it with another Idempotency-Key"
)


@dataclass(frozen=True, slots=True)
class KeepLimits:
    """What is kept of one API key: answers, and bytes of them together."""

    answers: int
    size: int


class IdempotentAnswers:
    """All answers with an Idempotency-Key. One object per process."""

    def __init__(
        self, store: Store, process_lease: ProcessLease, limits: KeepLimits, *, commit_after_s: float, tick_s: float
    ) -> None:
        """``commit_after_s``: how long the status of a stream may stay open while a running answer is awaited.
        ``tick_s``: how often a silent wait checks the client."""
        self._store = store
        self._process_lease = process_lease
        self._limits = limits
        self._waiting: WaitingRoom[str] = WaitingRoom(
            self._settled, _LOOK_EVERY_S, "idempotent-answers", one_at_a_time=False
        )
        self._commit_after_s = commit_after_s
        self._tick_s = tick_s

    def open(self, key: str, request: ChatRequest, caller: Caller, open_one: Open, *, commit: bool) -> Answer:
        """The answer to ``request``, whether it is new, running or finished.

        Raises:
            InvalidRequest: if the key was used for another request.
            IdempotentAnswerLost: if the gateway was stopped while it answered the first request.
            GatewayError: the failure of the first request, and what ``open_one`` raises.
        """
        cipher = _AnswerCipher(caller.owner, key)
        digest = request_digest(request)
        if self._begin(cipher, digest):
            return self._record(cipher, caller, open_one)
        caller.record.flags |= REPLAYED
        replay = _Replay(self._store, self._waiting, cipher, digest, caller, self._tick_s)
        replay.wait(self._commit_after_s if commit else None)
        return replay

    def start_expiry(self) -> None:
        """Starts to delete, in the background, what is older than a day."""
        every(_SWEEP_EVERY_S, self._drop_expired, "idempotency-expiry")

    def _begin(self, cipher: "_AnswerCipher", digest: str) -> bool:
        """Whether this is the first request with its key."""
        answers, holder, now = self._store.idempotent_answers, uuid.uuid4().hex, self._store.database.now()
        try:
            return answers.begin(cipher.id, cipher.owner, digest, self._process_lease.id, holder, now)
        except StoreError as e:
            if e.may_have_run:
                # Nothing runs: a repetition would wait for ever.
                self._process_lease.retry_later(lambda: answers.delete_unfinished(cipher.id, holder))
            raise

    def _record(self, cipher: "_AnswerCipher", caller: Caller, open_one: Open) -> Answer:
        # Whoever repeats the request wants the answer, so it is not given up when its first client leaves.
        steady = replace(caller, is_gone=lambda: False, idempotency_key=None)
        try:
            answer = open_one(steady)
        except BaseException as e:
            self._keep_failure(cipher, e)
            raise
        return _Recorder(
            answer,
            caller,
            lambda events: self._keep(cipher, _encode_answer(answer.info, events)).wait(_KEPT_WITHIN_S),
            lambda error: self._keep_failure(cipher, error),
            self._tick_s,
        )

    def _keep_failure(self, cipher: "_AnswerCipher", error: BaseException) -> None:
        if isinstance(error, StoreError):
            error = DatabaseUnavailable.after(
                error.driver_error, reached_upstream=error.may_have_run, is_unwritable=error.is_unwritable
            )
        if isinstance(error, GatewayError) and not error.reached_upstream:
            self._process_lease.run_or_retry(lambda: self._store.idempotent_answers.delete(cipher.id))
            self._waiting.wake(cipher.id)
        else:
            self._keep(cipher, _encode_failure(error if isinstance(error, GatewayError) else _INTERNAL_ERROR))

    def _keep(self, cipher: "_AnswerCipher", content: dict[str, Any]) -> threading.Event:
        """Returns what is set when the content is kept: at once, or later where the database fails now."""
        encrypted = cipher.encrypt(content)
        if len(encrypted) > self._limits.size:
            encrypted = cipher.encrypt(_encode_failure(_TOO_LARGE))
        kept = threading.Event()

        def finish() -> None:
            self._store.idempotent_answers.finish(cipher.id, encrypted)
            kept.set()

        self._process_lease.run_or_retry(finish)
        self._waiting.wake(cipher.id)
        self._process_lease.run_or_retry(lambda: self._trim(cipher.owner))
        return kept

    def _trim(self, owner: str) -> None:
        """Deletes the oldest answers of an API key that has too many."""
        answers, size = self._store.idempotent_answers.size(owner)
        if answers > self._limits.answers or size > self._limits.size:
            self._store.idempotent_answers.delete_oldest(
                owner, answers - self._limits.answers, size - self._limits.size
            )

    def _settled(self, ids: list[str]) -> list[str]:
        """Those of these answers that no process works on any more."""
        running = self._store.idempotent_answers.running_among(ids)
        return [answer_id for answer_id in ids if answer_id not in running]

    def _drop_expired(self) -> None:
        before = self._store.database.now() - _KEPT_S
        # A step is full as long as it finds any: it is as large as its time allows.
        in_steps(lambda: self._store.idempotent_answers.delete_older(before), 1)


class _Recorder(Answer):
    """A running answer, read in the background to its end; its own client sees it as it comes."""

    def __init__(
        self,
        answer: Answer,
        caller: Caller,
        keep: Callable[[Sequence[Event]], object],
        keep_failure: Callable[[BaseException], None],
        tick_s: float,
    ) -> None:
        self._answer = answer
        self._caller = caller
        self._keep = keep
        self._keep_failure = keep_failure
        self._tick_s = tick_s
        self._events: list[Event] = []
        self._limit = TextLimit()
        self._error: BaseException | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._release = caller.hold()
        threading.Thread(target=self._read, name="recording", daemon=True).start()

    @property
    def info(self) -> AnswerInfo:
        return self._answer.info

    def __iter__(self) -> Iterator[Sequence[Event]]:
        given = 0
        while True:
            with self._changed:
                if given == len(self._events) and not self._ended:
                    self._changed.wait(self._tick_s)
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

    # ``close`` does nothing: the answer goes on for a repetition of the request.

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for batch in self._answer:
                # While Kimi thinks, and not when the last part of the answer is to be sent.
                self._answer.info.input_tokens()
                events = [event for event in batch if not isinstance(event, Heartbeat)]
                for event in events:
                    if isinstance(event, TextDelta | ReasoningDelta):
                        self._limit.add(event.text)
                    elif isinstance(event, ToolCall):
                        self._limit.add(event.arguments)
                if events and isinstance(events[-1], Finished):
                    # Kept before the client sees it, so that a repetition never finds less than it was shown.
                    self._keep([*self._events, *events])
                if events:
                    with self._changed:
                        self._events += events
                        self._changed.notify_all()
        except BaseException as e:  # noqa: BLE001  # handed to the client's side, which raises it
            error = e
            self._answer.close(e)
            self._keep_failure(e)
        finally:
            self._answer.close()
            with self._changed:
                self._error, self._ended = error, True
                self._changed.notify_all()
            self._release()


class _Replay(Answer):
    """An answer that another request runs or has run: awaited in the store, and given when it is complete."""

    def __init__(
        self,
        store: Store,
        waiting: WaitingRoom[str],
        cipher: "_AnswerCipher",
        digest: str,
        caller: Caller,
        tick_s: float,
    ) -> None:
        self._store = store
        self._waiting = waiting
        self._cipher = cipher
        self._digest = digest
        self._caller = caller
        self._tick_s = tick_s
        self._info = AnswerInfo()
        self._events: list[Event] | None = None

    @property
    def info(self) -> AnswerInfo:
        return self._info

    def wait(self, at_most_s: float | None) -> None:
        """Returns when the answer is there, or after ``at_most_s``. Raises GatewayError."""
        deadline = math.inf if at_most_s is None else time.monotonic() + at_most_s
        checked_at = time.monotonic()
        if self._look():
            return
        with self._waiting.place(self._cipher.id) as place:
            while not self._look():
                now = time.monotonic()
                if now >= deadline:
                    return
                if now - checked_at >= self._tick_s:
                    checked_at = now
                    if self._caller.is_gone():
                        raise ClientGone("the client left while it waited for the answer to its first request")
                place.woken.wait(min(self._tick_s, deadline - now))
                place.woken.clear()

    def __iter__(self) -> Iterator[Sequence[Event]]:
        while self._events is None:
            yield [HEARTBEAT]
            self.wait(self._tick_s)
        yield self._events

    def _look(self) -> bool:
        row: IdempotentAnswerRow | None = self._store.idempotent_answers.find(self._cipher.id)
        if row is None:
            raise OriginalRequestFailed(
                "the first request with this Idempotency-Key failed before it reached Kimi; send it again",
                retry_after_s=1,
            )
        if row.request != self._digest:
            raise InvalidRequest(
                "this Idempotency-Key was used for another request",
                code="idempotency_key_reused",
                param="Idempotency-Key",
            )
        if row.content is not None:
            self._open(self._cipher.decrypt(row.content))
            return True
        if not row.is_running:
            raise IdempotentAnswerLost(
                "the gateway was stopped while it answered this request, and the message may have reached Kimi. "
                "Send it with another Idempotency-Key"
            )
        return False

    def _open(self, content: dict[str, Any]) -> None:
        if "failure" in content:
            raise _decode_failure(content["failure"])
        if "prompt" in content:
            # Kept by an older version.
            self._info = AnswerInfo(content["prompt"], content["notices"], content["rebuilt_from"])
        else:
            self._info = AnswerInfo.without_prompt(
                content["input_tokens"], content["notices"], content["rebuilt_from"]
            )
            if content.get("conversation") is not None:
                sent = content["input_tokens"] - content["cached_tokens"]
                self._info.conversation = content["conversation"]
                self._info.counted, self._info.counted_whole = ("", sent), content["input_tokens"]
        self._events = [_KINDS[kind](*values) for kind, *values in content["events"]]


class _AnswerCipher:
    """Encrypts and decrypts what is kept under one key of one owner. ``id`` reveals nothing of either."""

    def __init__(self, owner: str, key: str) -> None:
        self.owner = owner
        # 7 MB of a worker, which few clients need.
        from cryptography.fernet import Fernet

        secret = f"{owner}\0{key}".encode()
        self.id = hashlib.sha256(b"id\0" + secret).hexdigest()
        self._fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"seal\0" + secret).digest()))

    def encrypt(self, content: dict[str, Any]) -> str:
        return self._fernet.encrypt(json.dumps(content).encode()).decode()

    def decrypt(self, encrypted: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._fernet.decrypt(encrypted))
        return content


def request_digest(request: ChatRequest) -> str:
    """What the same request has in common with its repetition.

    ``after_turn`` is left out: by the time of a repetition the conversation may have continued with this very turn.
    The form is the one of the first versions, whatever the fields are called here, so that an upgrade loses no kept
    answer; what those versions did not have is added only where it is there.
    """
    digest = hashlib.sha256()
    for part in _description(request):
        digest.update(part.encode(errors="replace"))
    return digest.hexdigest()


def _description(request: ChatRequest) -> Iterator[str]:
    """In parts, because a request may have 16 MB."""
    yield f"ChatRequest(model={request.model!r}, messages=("
    for number, message in enumerate(in_slices(request.messages)):
        yield ", " if number else ""
        yield from _message_description(message)
    yield f"{',' if len(request.messages) == 1 else ''}), conversation_id={request.conversation_id!r}, "
    yield f"options={_described_options(request.options)}, after_turn=None, mends={request.repairs_last_turn!r}, "
    yield f"asked_in={request.messages_field!r}"
    yield _described_tools(request)
    yield ")"


def _message_description(message: Message) -> Iterator[str]:
    yield f"Message(role={message.role!r}, parts=("
    for number, part in enumerate(message.parts):
        yield ", " if number else ""
        yield from _text_description(part.text) if isinstance(part, TextPart) else (repr(part),)
    yield f"{',' if len(message.parts) == 1 else ''}), name={message.name!r}, tool_calls=("
    yield ", ".join(_described_call(call) for call in message.tool_calls)
    yield f"{',' if len(message.tool_calls) == 1 else ''}), tool_call_id={message.tool_call_id!r}"
    yield ", failed=True)" if message.failed else ")"


def _text_description(text: str) -> Iterator[str]:
    """``repr(text)`` in parts."""
    if len(text) <= _PART_CHARS:
        yield repr(text)
        return
    # Python chooses the quotes that have to be escaped in fewer texts.
    quote = '"' if "'" in text and '"' not in text else "'"
    yield quote
    for at in in_slices(range(0, len(text), _PART_CHARS)):
        # With both quotes in it, every part is written between single ones.
        yield repr(text[at : at + _PART_CHARS] + ("'\"" if quote == "'" else "'"))[1 : -4 if quote == "'" else -2]
    yield quote


def _described_call(call: ToolCall) -> str:
    more = "" if call.kind == "function" else f", kind={call.kind!r}"
    more += "" if call.namespace is None else f", namespace={call.namespace!r}"
    return f"ToolCall(id={call.id!r}, name={call.name!r}, arguments={call.arguments!r}{more})"


def _described_tools(request: ChatRequest) -> str:
    """Empty for a request without functions."""
    if not request.tools:
        return ""
    tools = [(t.name, t.description, t.schema, t.kind, t.strict, t.namespace) for t in request.tools]
    choice = request.tool_choice
    return f", tools={tools!r}, tool_choice={(choice.mode, choice.names, choice.parallel)!r}"


def _described_options(options: Options) -> str:
    wanted = options.format
    described = (
        "None"
        if wanted is None
        else f"JsonFormat(name={wanted.name!r}, schema={wanted.schema!r}, description={wanted.description!r}, "
        f"asked_in={wanted.schema_field!r})"
    )
    effort = "" if options.effort is None else f", effort={options.effort!r}"
    return (
        f"Options(max_tokens={options.max_tokens!r}, stop={options.stop!r}, thinking={options.thinking!r}, "
        f"search={options.search!r}, format={described}{effort})"
    )


_KINDS: dict[str, Callable[..., Event]] = {
    "reasoning": ReasoningDelta,
    "text": TextDelta,
    "call": ToolCall,
    "citation": Citation,
    "finished": Finished,
}


def _encode_answer(info: AnswerInfo, events: Sequence[Event]) -> dict[str, Any]:
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
            case ToolCall(call_id, name, arguments, call_kind, namespace):
                kept.append(["call", call_id, name, arguments, call_kind, namespace])
            case Citation(url, title, start, end):
                kept.append(["citation", url, title, start, end])
            case Finished(reason, stop):
                kept.append(["finished", reason, stop])
    for item in kept:
        if item[0] in ("reasoning", "text"):
            item[1] = "".join(item[1])
    return {
        "input_tokens": info.input_tokens(),
        "notices": info.notices,
        "rebuilt_from": info.rebuilt_from,
        "conversation": info.conversation,
        "cached_tokens": info.cached_tokens(),
        "events": kept,
    }


# What classes were called when their failures were kept.
_OLD_NAMES: dict[str, type[GatewayError]] = {
    "AnswerLost": IdempotentAnswerLost,
    "FirstRequestFailed": OriginalRequestFailed,
    "GenerationGone": ProtocolUnavailable,
}


def _encode_failure(error: GatewayError) -> dict[str, Any]:
    """The class by its name: renaming one needs an entry in ``_OLD_NAMES``."""
    return {"failure": [type(error).__name__, error.message, error.code, error.param, error.retry_after_s]}


def _decode_failure(failure: list[Any]) -> GatewayError:
    name, message, code, param, retry_after_s = failure
    kind: type[GatewayError] = _OLD_NAMES[name] if name in _OLD_NAMES else getattr(errors, name, GatewayError)
    return kind(message, code=code, param=param, retry_after_s=retry_after_s, reached_upstream=True)

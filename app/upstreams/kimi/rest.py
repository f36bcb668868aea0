"""Generation 1: REST calls and JSON in server-sent events (``kimi-protocol.md`` 3; L1 and L2 of 12).

Knows its paths, bodies, events and model names. Must never know Flask, OpenAI's fields, retries, other
accounts or the other generation.
"""

import itertools
import logging
import re
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.chat import (
    HEARTBEAT,
    ChatRequest,
    Event,
    Finished,
    FinishReason,
    Message,
    Model,
    Options,
    ReasoningDelta,
    Started,
    TextDelta,
    Unrecognised,
)
from app.concurrency.background import Cancellation
from app.errors import ChatUnknown, ProtocolUnavailable, UpstreamError, UpstreamUnavailable
from app.text.prompt import flatten
from app.upstreams import PreparedTurn, Resume, Supports
from app.upstreams.account import Account
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi.http import KimiHttp, Reply, Stream
from app.upstreams.kimi.json_frames import Reader, SurrogateJoiner, dump, without_lone_surrogates
from app.upstreams.kimi.model_table import KimiModels, SseForm
from app.upstreams.kimi.sources import sources_of_cards, sources_of_search
from app.upstreams.kimi.sse import Decoder

log = logging.getLogger(__name__)

# How long the id of a new chat is waited for when nobody wants its answer any more. Seconds.
_OPENING_S = 5.0


class KimiRest:
    """One Kimi site, spoken to in generation 1."""

    name = "kimi_rest"

    def __init__(self, http: KimiHttp, models: KimiModels, *, max_continuations: int) -> None:
        self._http = http
        self._models = models
        self._max_continuations = max_continuations

    supports = Supports()

    def models(self) -> Sequence[Model]:
        return self._models.of(self.name)

    def rank(self, model_id: str) -> int | None:
        return self._models.rank(model_id, self.name)

    def unmet(self, model_id: str, options: Options) -> list[str]:
        return self._models.unmet(model_id, options)

    def prepare(self, request: ChatRequest, messages: Sequence[Message]) -> PreparedTurn:
        return PreparedTurn(request, flatten(messages))

    def open(
        self,
        turn: PreparedTurn,
        account: Account,
        resume: Resume | None,
        cancellation: Cancellation,
    ) -> Generator[Event, None, None]:
        """See ``Upstream.open``. Answers that Kimi cuts at its length limit are continued (3.9)."""
        wire = self._models.sse(turn.request.model, turn.request.options)
        chat_id = resume.chat_id if resume else self._create_chat(account, cancellation)
        yield Started(chat_id)
        body = build_turn(turn.text, wire)
        answer = _Answer()
        for left in range(self._max_continuations, -1, -1):
            continued = answer.continues
            try:
                yield from self._turn(chat_id, account, body, answer, left == 0, cancellation)
            except UpstreamError as e:
                if answer.said_something or not continued:
                    raise
                log.warning("continuation_failed error=%s", e.message)
            if answer.reason is None:
                if answer.said_something or not continued:
                    raise UpstreamUnavailable(
                        f"{account.label}: Kimi closed the connection before the end of the answer"
                    )
                # What was said is whole up to the limit that Kimi named: that, and no more, is reported.
                yield from answer.rest()
                yield Finished("length")
            if not answer.may_continue:
                return
            answer = answer.next()
            body = build_continuation(answer.segment_id or "", wire)

    def delete_chat(self, account: Account, chat_id: str) -> None:
        reply = self._http.call("DELETE", f"/api/chat/{chat_id}", account)
        if not kimi_errors.succeeded(reply):
            error = kimi_errors.refusal(reply, account, self._http.base_url)
            # The path names the chat: a 404 without a word says that it is gone. A page may be a bot wall's.
            if not isinstance(error, ChatUnknown) or (reply.is_page and not kimi_errors.is_known_error(reply)):
                raise error

    def _create_chat(self, account: Account, cancellation: Cancellation) -> str:
        # Whoever leaves now leaves a chat behind, of which nobody would ever know if its id were not waited for.
        opening = Cancellation()
        cancellation.attach(lambda: _cancel_later(opening))
        try:
            reply = self._http.call("POST", "/api/chat", account, _NEW_CHAT, opening)
        finally:
            cancellation.detach()
        chat_id = _chat_id(reply)
        if chat_id is not None:
            return chat_id
        if reply.status in (404, 405, 410):
            raise ProtocolUnavailable(
                f"{account.label}: {self._http.base_url} does not serve Kimi's SSE protocol (status {reply.status}); "
                "check KIMI_BASE_URL and KIMI_PROTOCOL"
            )
        raise kimi_errors.refusal(reply, account, self._http.base_url)

    def _turn(
        self,
        chat_id: str,
        account: Account,
        body: bytes,
        answer: "_Answer",
        is_last: bool,
        cancellation: Cancellation,
    ) -> Iterator[Event]:
        """One stream, into ``answer``; ends with Finished unless the answer is to be continued."""
        path = f"/api/chat/{chat_id}/completion/stream"
        with self._http.stream(path, account, body, "application/json", cancellation) as stream:
            if not stream.ok or stream.media_type in _NO_STREAM:
                raise kimi_errors.refusal(stream.whole(), account, self._http.base_url)
            events = Decoder()
            for line in _refuse_json(stream, account, self._http.base_url):
                payload = events.take(line)
                if payload is None:
                    continue
                yield from answer.take(payload, account)
                if answer.reason is not None:
                    if is_last or not answer.may_continue:
                        yield from answer.rest()
                        if answer.reason == "stop" and not answer.said_something and not answer.continues:
                            raise kimi_errors.empty_answer(account)
                        yield Finished(answer.reason)
                    stream.drain()
                    return


def _cancel_later(opening: Cancellation) -> None:
    later = threading.Timer(_OPENING_S, opening.cancel)
    later.daemon = True
    later.start()


def _refuse_json(stream: Stream, account: Account, site: str) -> Iterator[bytes]:
    """The lines of a stream; raises for an error in JSON that only its content type calls a stream (3.10)."""
    lines = stream.lines()
    first = next(filter(None, lines), b"")
    if first.startswith(b"{"):
        body = b"\n".join([first, *lines])[:65536]
        raise kimi_errors.refusal(Reply(200, stream.media_type, {}, body), account, site)
    return itertools.chain((first,), lines)


# What answers 200 and is no stream: an error in JSON (3.10), a page of a bot wall. Everything else is read as
# one: no source says which content type the stream has.
_NO_STREAM = ("application/json", "text/html", "application/xhtml+xml")

# Frames that say nothing that a client is to see (3.4): the echo, the title, ends of parts.
_QUIET = frozenset({"resp", "rename", "debug", "done", "ping"})


@dataclass(slots=True)
class _Answer:
    """One stream, event by event. ``reason`` stays None until Kimi has said that the answer is complete;
    ``continues``: an earlier stream has said the first part of it."""

    segment_id: str | None = None
    continues: bool = False
    reason: FinishReason | None = None
    said_something: bool = False
    _length: bool = False
    _json: Reader = field(default_factory=Reader)
    # One for each kind of text: the two take turns, and a half waits for the next delta of its own kind.
    _text: SurrogateJoiner = field(init=False)
    _thinking: SurrogateJoiner = field(init=False)

    def __post_init__(self) -> None:
        self._text = SurrogateJoiner(self._json)
        self._thinking = SurrogateJoiner(self._json)

    @property
    def may_continue(self) -> bool:
        return self.reason == "length" and self.segment_id is not None

    def next(self) -> "_Answer":
        """The stream that continues this one. Kimi's limit may cut a pair in two: a half that waits goes along."""
        following = _Answer(segment_id=self.segment_id, continues=True, _json=self._json)
        following._text, following._thinking = self._text, self._thinking
        return following

    def rest(self) -> Iterator[Event]:
        """What still waits for its other half when nothing more comes, each in its own kind."""
        for kind, halves in ((ReasoningDelta, self._thinking), (TextDelta, self._text)):
            if half := halves.flush():
                self.said_something = True
                yield kind(half)

    def take(self, payload: bytes, account: Account) -> tuple[Event, ...]:
        """The events for the data of one SSE event (3.4); raises UpstreamError for an ``error`` frame."""
        frame = self._parse(payload) if payload else {"event": "ping"}
        match frame.get("event"):
            case "cmpl":
                return self._delta(TextDelta, self._text, frame)
            case "k1":
                return self._delta(ReasoningDelta, self._thinking, frame)
            case "req":
                # `continue` names the user's segment (3.9).
                self.segment_id = str(frame["id"]) if frame.get("id") else self.segment_id
            case "length":
                self._length = True
            case "all_done":
                self.reason = "length" if self._length else "stop"
            case "error":
                error = kimi_errors.in_stream(frame.get("error"), account)
                if error is not None:
                    raise error
                self.reason = "content_filter"
            case "search_plus":
                return tuple(sources_of_search(frame.get("msg"))) or (HEARTBEAT,)
            case "ref_docs":
                return tuple(sources_of_cards(frame.get("ref_cards"))) or (HEARTBEAT,)
            case str(kind) if kind in _QUIET:
                pass
            case kind:
                return (Unrecognised(f"event {str(kind)[:40]}"),)
        return (HEARTBEAT,)

    def _delta(
        self, kind: type[TextDelta] | type[ReasoningDelta], halves: SurrogateJoiner, frame: dict[str, Any]
    ) -> tuple[Event, ...]:
        text = frame.get("text")
        if not isinstance(text, str):
            return (Unrecognised(f"event {frame['event']} without text"),)
        text = halves.join(text)
        if not text:
            return (HEARTBEAT,)
        self.said_something = True
        return (kind(text),)

    def _parse(self, payload: bytes) -> dict[str, Any]:
        frame = {"event": "[DONE]"} if payload == b"[DONE]" else self._json.load(payload)
        if not isinstance(frame, dict):
            return {"event": "(no object)"}
        if self._json.saw_lone_surrogate and frame.get("event") not in ("cmpl", "k1"):
            return dict(without_lone_surrogates(frame))
        return frame


def build_turn(prompt: str, wire: SseForm) -> bytes:
    """The body of a turn (3.2): Kimi reads the first message only."""
    return dump(
        {
            "kimiplus_id": "kimi",
            "extend": {"sidebar": True},
            "model": wire.model,
            "use_search": wire.use_search,
            "messages": [{"role": "user", "content": prompt}],
            "refs": [],
            "history": [],
            "scene_labels": [],
            "use_semantic_memory": False,
            "use_deep_research": False,
        }
    )


def build_continuation(segment_id: str, wire: SseForm) -> bytes:
    """The body that asks for the rest of an answer (3.9); its single space is what clients were seen to send."""
    return orjson.dumps(
        {
            "segment_id": segment_id,
            "action": "continue",
            "messages": [{"role": "user", "content": " "}],
            "kimiplus_id": "kimi",
            "extend": {"sidebar": True},
            "model": wire.model,
        }
    )


# 3.1, the form of 2025. The name is what the site itself gives a chat without one.
_NEW_CHAT = orjson.dumps(
    {
        "name": "未命名会话",
        "born_from": "home",
        "kimiplus_id": "kimi",
        "is_example": False,
        "source": "web",
        "tags": [],
    }
)


def _chat_id(reply: Reply) -> str | None:
    """The id of a new chat, fit to stand in a path; None where the reply holds none."""
    try:
        fields = orjson.loads(reply.body) if 200 <= reply.status < 300 else None
    except ValueError:
        return None
    chat_id = fields.get("id") if isinstance(fields, dict) else None
    return chat_id if isinstance(chat_id, str) and re.fullmatch(r"[\w-]{1,128}", chat_id, re.ASCII) else None

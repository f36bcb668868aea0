"""Generation 2: Connect-RPC, JSON in envelopes (``kimi-protocol.md`` 5, 6; 12 where it differs).

Knows its paths, bodies, frames and masks. Must never know Flask, OpenAI's fields, retries, other accounts or
the other generation.
"""

import contextlib
import logging
import re
from collections.abc import Generator, Iterator, Sequence
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
    Notice,
    Options,
    ReasoningDelta,
    Started,
    TextDelta,
    Unrecognised,
)
from app.concurrency.background import Cancellation, Cancelled
from app.errors import (
    AnswerRewritten,
    ChatUnknown,
    GatewayError,
    ProtocolUnavailable,
    RequestRefused,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamUnavailable,
)
from app.text.prompt import flatten
from app.upstreams import PreparedTurn, Resume, Supports
from app.upstreams.account import Account
from app.upstreams.kimi import envelope
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi.http import CONNECT_STREAM, KimiHttp, Reply
from app.upstreams.kimi.json_frames import Reader, SurrogateJoiner, suffix_after
from app.upstreams.kimi.model_table import ConnectForm, KimiModels, Offer, parse_offers
from app.upstreams.kimi.sources import sources_of_ref, sources_of_tool

log = logging.getLogger(__name__)

_CHAT = "/apiv2/kimi.gateway.chat.v1.ChatService/Chat"
_CANCEL_CHAT = "/apiv2/kimi.gateway.chat.v1.ChatService/CancelChat"
_DELETE_CHAT = "/apiv2/kimi.chat.v1.ChatService/DeleteChat"
_MODELS = "/apiv2/kimi.gateway.config.v1.ConfigService/GetAvailableModels"

# Nobody waits for a cancellation, and the generation that it stops ends by itself some day.
_CANCEL_S = 5.0

# What answers 200 and is no stream: an error in JSON, a page of a bot wall.
_NO_STREAM = ("application/json", "text/html", "application/xhtml+xml")


class KimiConnect:
    """One Kimi site, spoken to in generation 2."""

    name = "kimi_connect"

    def __init__(self, http: KimiHttp, models: KimiModels) -> None:
        self._http = http
        self._models = models

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
        """See ``Upstream.open``. Where it is called off in mid-answer, Kimi is told to stop as well."""
        form = self._models.connect(turn.request.model, turn.request.options)
        answer = _Answer(account, form.scenario, resume)
        body = envelope.encode(build_turn(turn.text, form, resume))
        try:
            with self._http.stream(_CHAT, account, body, CONNECT_STREAM, cancellation) as stream:
                if not stream.ok or stream.media_type in _NO_STREAM:
                    raise self._refusal(stream.whole(), account)
                for chunk in stream.chunks():
                    yield from answer.take(chunk)
                    if answer.reason is not None:
                        yield Finished(answer.reason)
                        stream.drain()
                        return
        except (GeneratorExit, Cancelled):
            self._cancel(answer)
            raise
        except RequestRefused as e:
            # As far as is known, only a request of a form that Kimi does not take any more (E19).
            log.warning("request_refused model=%s code=%s", turn.request.model, e.code or "invalid_argument")
            raise
        raise UpstreamUnavailable(f"{account.label}: Kimi closed the connection before the end of the answer")

    def delete_chat(self, account: Account, chat_id: str) -> None:
        reply = self._http.call("POST", _DELETE_CHAT, account, orjson.dumps({"chat_id": chat_id}))
        if not kimi_errors.succeeded(reply):
            error = self._refusal(reply, account)
            if not isinstance(error, ChatUnknown):
                raise error

    def offers(self, account: Account) -> tuple[Offer, ...]:
        """Kimi's own catalogue of models (6.2). Raises UpstreamError."""
        reply = self._http.call("POST", _MODELS, account, b"{}")
        if not 200 <= reply.status < 300 or reply.media_type != "application/json":
            raise self._refusal(reply, account)
        frame = Reader().load(reply.body)
        return parse_offers(frame.get("availableModels") if isinstance(frame, dict) else None)

    def _refusal(self, reply: Reply, account: Account) -> UpstreamError:
        """What a chat that Kimi does not know gets is told in Connect's words; a path that is gone has none."""
        if reply.status in (404, 405, 410) and not kimi_errors.is_known_error(reply):
            return ProtocolUnavailable(
                f"{account.label}: {self._http.base_url} does not serve Kimi's Connect protocol "
                f"(status {reply.status}); check KIMI_BASE_URL and KIMI_PROTOCOL"
            )
        return kimi_errors.refusal(reply, account, self._http.base_url)

    def _cancel(self, answer: "_Answer") -> None:
        """Best effort, in the reader's own thread, after the connection has been closed."""
        if answer.is_generating:
            ids = {"chat_id": answer.chat_id, "message_id": answer.message_id}
            with contextlib.suppress(GatewayError):
                self._http.call(
                    "POST", _CANCEL_CHAT, answer.account, orjson.dumps(ids), Cancellation(), timeout_s=_CANCEL_S
                )


class _Told:
    """One kind of text of an answer, thinking or text: its blocks, and what was passed on.

    The text is the blocks' contents, joined in order of first appearance (5.4), and each piece is passed on as
    it comes. ``append`` adds to a block, ``set`` replaces it (5.3). What was passed on cannot be taken back, so
    a change can be followed exactly where the new text begins with the old one, and then only the rest of it is
    passed on; any other change is a ``_Rewrite``.
    """

    def __init__(self, reader: Reader) -> None:
        self._blocks: dict[str, list[str]] = {}
        self._last: str | None = None
        self._reader = reader
        self._halves = SurrogateJoiner(reader)

    def append(self, block_id: str, text: str) -> str:
        """What is to be passed on. Raises _Rewrite."""
        if block_id != self._last:
            self._go_to(block_id, text)
        if text:
            self._blocks[block_id].append(text)
        return self._halves.join(text)

    def set(self, block_id: str, text: str) -> str:
        """What is to be passed on. Raises _Rewrite."""
        return self.append(block_id, self._added(text, "".join(self._blocks.get(block_id, ()))))

    def repeat(self, blocks: list[tuple[str, str]]) -> str:
        """What is to be passed on when Kimi shows the whole message. Raises _Rewrite."""
        said, shown = self.said, "".join(text for _, text in blocks)
        if not said:
            return "".join(self.set(block_id, text) for block_id, text in blocks)
        # Only the end can be new; the block that a repetition puts it into need not be the one that it came in.
        return self.append(self._last or "", self._added(shown, said))

    def rest(self) -> str:
        return self._halves.flush()

    @property
    def said(self) -> str:
        return "".join("".join(parts) for parts in self._blocks.values())

    def _added(self, text: str, old: str) -> str:
        """What ``text`` adds to ``old``. Raises _Rewrite."""
        if text.startswith(old):
            return text[len(old) :]
        # The old text may hold, in two halves, a pair that the new one holds whole.
        new = suffix_after(text, old) if self._reader.saw_lone_surrogate else None
        if new is None:
            raise _Rewrite
        return new

    def _go_to(self, block_id: str, text: str) -> None:
        if block_id not in self._blocks:
            self._blocks[block_id] = []
        elif text and any(
            self._blocks[later] for later in list(self._blocks)[list(self._blocks).index(block_id) + 1 :]
        ):
            raise _Rewrite
        self._last = block_id


class _Rewrite(Exception):
    """Text that was passed on has been changed."""


# Parts of a block that say nothing that a client is to see: the K2 era's search, whose pages come again as
# `ref` with their numbers, and stages (5.3, 5.6).
_QUIET_PARTS = frozenset({"search", "stage", "multiStage"})
_NO_PARTS = frozenset({"id", "parentId", "messageId"})
_CHAT_MASKS = frozenset({"", "chat", "chat.lastRequest", "chat.name"})
_MESSAGE_MASKS = frozenset({"", "message", "message.status", "message.blocks"})
_HEADS = frozenset({"op", "mask", "eventOffset"})
# What a frame of them says would be lost without a word if they were something else.
_OBJECTS = frozenset({"block", "message", "chat"})
_NOTICES = {"TYPE_MODEL_DEGRADE": "model-degraded"}


class _Answer:
    """One stream, chunk by chunk. ``reason`` stays None until Kimi has said that the answer is complete."""

    def __init__(self, account: Account, scenario: str, resume: Resume | None) -> None:
        self.account = account
        self.chat_id: str | None = None
        self.message_id: str | None = None
        self.reason: FinishReason | None = None
        self._scenario = scenario
        self._resume = resume
        self._envelopes = envelope.Decoder()
        self._json = Reader()
        self._text = _Told(self._json)
        self._thinking = _Told(self._json)
        self._user_messages: set[str] = set()
        self._has_news = False
        self._spoke = False
        self._complete = False

    @property
    def is_generating(self) -> bool:
        """Whether Kimi is at it, as far as is known, and can be told to stop."""
        return self.chat_id is not None and self.message_id is not None and not self._complete and self.reason is None

    def take(self, chunk: bytes) -> Iterator[Event]:
        """The events of what ``chunk`` completes, Heartbeat where it says nothing. Raises UpstreamError."""
        quiet = True
        try:
            for item in self._envelopes.decode(chunk):
                for event in self._end(item.payload) if item.last else self._frame(item.payload):
                    yield from self._news()
                    yield event
                    quiet = False
                if item.last or self.reason is not None:
                    yield from self._news()
                    return
        except UpstreamError:
            # The chat of an answer that failed is to be cleaned up all the same.
            yield from self._news()
            raise
        yield from self._news()
        if quiet:
            yield HEARTBEAT

    def _news(self) -> tuple[Event, ...]:
        """Chat and message mostly become known together: they are told together."""
        if not self._has_news or self.chat_id is None:
            return ()
        self._has_news = False
        return (Started(self.chat_id, self.message_id),)

    def _end(self, payload: bytes) -> Iterator[Event]:
        """The end-of-stream envelope: only it can say that nothing went wrong (5.7)."""
        end = self._json.load(payload) if payload else {}
        if not isinstance(end, dict):
            raise UpstreamProtocolError("expected a JSON object at the end of the stream")
        # null, as everywhere in proto3's JSON, is a field that is not there.
        if (error := end.get("error")) is not None:
            yield from self._fail(error)
            return
        for kind, told in ((ReasoningDelta, self._thinking), (TextDelta, self._text)):
            if half := told.rest():
                self._spoke = True
                yield kind(half)
        if not self._spoke:
            raise kimi_errors.empty_answer(self.account)
        if not self._complete:
            raise UpstreamUnavailable(f"{self.account.label}: Kimi ended the stream before the end of the answer")
        self.reason = "stop"

    def _fail(self, error: object) -> Iterator[Event]:
        failure = kimi_errors.in_stream(error, self.account)
        if failure is not None:
            raise failure
        self.reason = "content_filter"
        yield HEARTBEAT

    def _frame(self, payload: bytes) -> Iterator[Event]:
        frame = self._json.load(payload)
        if not isinstance(frame, dict):
            yield Unrecognised("frame (no object)")
            return
        op, mask = frame.get("op", "set"), frame.get("mask") or ""
        skipped = _HEADS
        if op not in ("set", "append"):
            yield Unrecognised(f"op {_name(op)}")
            skipped = _HEADS | {"block", "message", "chat", "ref"}
        if not isinstance(mask, str):
            mask = "?"
        for kind, value in frame.items():
            if kind in skipped:
                continue
            if isinstance(value, dict):
                fields = value
            elif kind in _OBJECTS:
                yield Unrecognised(f"{kind} (no object)")
                continue
            else:
                fields = {}
            match kind:
                case "block":
                    yield from self._block(op, mask, fields)
                case "message":
                    yield from self._message(op, mask, fields)
                case "chat":
                    yield from self._chat(mask, fields)
                case "done" | "error" | "exception" if value is None:
                    pass
                case "done":
                    self._complete = True
                case "error":
                    yield from self._fail(value)
                case "exception":
                    yield from self._fail(fields.get("error"))
                case "notification":
                    yield self._notification(fields)
                case "ref":
                    yield from sources_of_ref(fields)
                case "heartbeat":
                    pass
                case _:
                    yield Unrecognised(f"frame {_name(kind)}")

    def _chat(self, mask: str, chat: dict[str, Any]) -> Iterator[Event]:
        if mask not in _CHAT_MASKS:
            yield Unrecognised(f"mask {_name(mask)}")
        chat_id = _id(chat.get("id"))
        if chat_id is None:
            return
        if self._resume is not None and chat_id != self._resume.chat_id:
            # An answer out of another chat would know nothing of this conversation and look as if it did.
            raise ChatUnknown(
                f"{self.account.label}: Kimi does not continue this chat but opened another; start a new conversation"
            )
        self._has_news |= chat_id != self.chat_id
        self.chat_id = chat_id

    def _message(self, op: str, mask: str, message: dict[str, Any]) -> Iterator[Event]:
        if mask not in _MESSAGE_MASKS:
            yield Unrecognised(f"mask {_name(mask)}")
        message_id, role = _id(message.get("id")), message.get("role")
        if role == "user":
            # The echo of the prompt (pitfall 1).
            if message_id is not None:
                self._user_messages.add(message_id)
            return
        if role not in (None, "assistant"):
            yield Unrecognised(f"role {_name(role)}")
            return
        if message_id is not None and message_id in self._user_messages:
            return
        if role == "assistant" and message_id is not None:
            self._has_news |= message_id != self.message_id
            self.message_id = message_id
        if message_id != self.message_id and None not in (message_id, self.message_id):
            yield Unrecognised("message of nobody")
            return
        if (scenario := message.get("scenario") or self._scenario) != self._scenario:
            yield Unrecognised(f"scenario {_name(scenario)}")
        blocks = message.get("blocks")
        if isinstance(blocks, list) and blocks:
            # Without a role it could be the echo, unless it is the message that is known to be the answer.
            if role == "assistant" or (message_id is not None and message_id == self.message_id):
                yield from self._whole_message(op, [block for block in blocks if isinstance(block, dict)])
            elif op == "append":
                yield Unrecognised("appended blocks of nobody")
        # The last word on the status counts; it comes without a role (pitfall 4).
        match message.get("status"):
            case None:
                pass
            case "MESSAGE_STATUS_COMPLETED":
                self._complete = True
            case "MESSAGE_STATUS_GENERATING":
                self._complete = False
            case status:
                yield Unrecognised(f"status {_name(status)}")

    def _whole_message(self, op: str, blocks: list[dict[str, Any]]) -> Iterator[Event]:
        """A message that carries its blocks repeats what was said (pitfall 3); it may add to it, at the end.

        One that differs is shown as unrecognised: the blocks said what they said, and nothing has replaced them.
        So is one that is appended to what was said: no source shows such a frame, and it is no repetition.
        """
        for block in blocks:
            yield from self._exception(block)
        for kind, told, part in ((ReasoningDelta, self._thinking, "think"), (TextDelta, self._text, "text")):
            shown = [(str(block.get("id") or ""), _content(block, part) or "") for block in blocks if part in block]
            if not any(text for _, text in shown):
                continue
            if op == "append" and told.said:
                yield Unrecognised(f"appended blocks in {part}")
                continue
            try:
                new = told.repeat(shown)
            except _Rewrite:
                yield Unrecognised(f"message whose blocks differ in {part}")
                continue
            if new:
                self._spoke = True
                yield kind(new)

    def _block(self, op: str, mask: str, block: dict[str, Any]) -> Iterator[Event]:
        """A block of the answer. Which parts are meant says the mask, or, without one, what is there."""
        if _id(block.get("messageId")) in self._user_messages:
            return
        if mask in ("", "block"):
            paths = [f"block.{part}" for part in block if part not in _NO_PARTS]
        else:
            paths = mask.split(",")
        seen = set()
        for path in paths:
            root, _, path_in_block = path.partition(".")
            part, _, inner = path_in_block.partition(".")
            if root != "block" or (part in ("text", "think") and inner not in ("", "content")):
                yield Unrecognised(f"mask {_name(path)}")
            elif part in seen:
                continue
            elif part == "text":
                if (said := self._say(TextDelta, self._text, op, block, part)) is not None:
                    yield said
            elif part == "think":
                if (said := self._say(ReasoningDelta, self._thinking, op, block, part)) is not None:
                    yield said
            elif part == "exception":
                yield from self._exception(block)
            elif part == "tool":
                yield from sources_of_tool(block.get(part))
            elif part not in _QUIET_PARTS and part not in _NO_PARTS:
                yield Unrecognised(f"mask {_name(path)}")
            seen.add(part)

    def _say(
        self, kind: type[TextDelta] | type[ReasoningDelta], told: _Told, op: str, block: dict[str, Any], part: str
    ) -> Event | None:
        content = _content(block, part)
        if content is None:
            return Unrecognised(f"block.{part} without text")
        block_id = str(block.get("id") or "")
        try:
            new = told.append(block_id, content) if op == "append" else told.set(block_id, content)
        except _Rewrite:
            if kind is ReasoningDelta:
                # A running commentary: what was passed on stays, and the answer does not suffer.
                return Unrecognised("block.think rewritten")
            raise AnswerRewritten(
                f"{self.account.label}: Kimi replaced text that had already been passed on; ask again"
            ) from None
        if not new:
            return None
        self._spoke = True
        return kind(new)

    def _exception(self, block: dict[str, Any]) -> Iterator[Event]:
        exception = block.get("exception")
        if exception is not None:
            yield from self._fail(exception.get("error") if isinstance(exception, dict) else None)

    def _notification(self, notification: dict[str, Any]) -> Event:
        kind = notification.get("type")
        notice = _NOTICES.get(kind) if isinstance(kind, str) else None
        return Notice(notice) if notice is not None else Unrecognised(f"notification {_name(kind)}")


def build_turn(prompt: str, form: ConnectForm, resume: Resume | None) -> bytes:
    """The body of a turn (5.2), before it is put into its envelope. Kimi reads the one message only (L6)."""
    message: dict[str, Any] = {
        "role": "user",
        "blocks": [{"message_id": "", "text": {"content": prompt}}],
        "scenario": form.scenario,
    }
    body: dict[str, Any] = {
        "scenario": form.scenario,
        "tools": [{"type": "TOOL_TYPE_SEARCH", "search": {}}] if form.search else [],
        "message": message,
        "options": dict(form.options),
    }
    if form.kimiplus_id:
        body["kimiplus_id"] = form.kimiplus_id
    if form.agent_mode:
        body["agentMode"] = form.agent_mode
    if resume is not None:
        body["chat_id"] = resume.chat_id
        if resume.message_id:
            # The last answer that counts (5.5): what was said after it and failed is on a branch of its own.
            message["parent_id"] = resume.message_id
    return orjson.dumps(body)


def _content(block: dict[str, Any], part: str) -> str | None:
    """The text of a part; empty where it is left out, as proto3's JSON does; None where it is something else."""
    fields = block.get(part) or {}
    content = fields.get("content", "") if isinstance(fields, dict) else None
    return content if isinstance(content, str) else None


def _id(value: object) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[\w.:-]{1,128}", value, re.ASCII) else None


def _name(value: object) -> str:
    """A name of the protocol, fit to be counted and logged; anything that could be somebody's text is not shown."""
    text = value if isinstance(value, str) else type(value).__name__
    return text if re.fullmatch(r"[A-Za-z0-9_.,]{1,80}", text) else "(no name)"

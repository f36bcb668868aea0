"""Generation 2's answers: the bytes of a stream → our events (``kimi-protocol.md`` 5.3 to 5.7).

Knows the frames, masks and blocks, and how their text is joined. Reads nothing itself: it works on any bytes, with no
socket. Must never know paths, bodies of requests, retries or the other generation.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from app.chat import (
    HEARTBEAT,
    Event,
    Finished,
    FinishReason,
    Notice,
    ReasoningDelta,
    Started,
    TextDelta,
    Unrecognised,
)
from app.errors import (
    AnswerCancelled,
    AnswerRewritten,
    ChatUnknown,
    ConnectionLost,
    Moderated,
    UpstreamError,
    UpstreamProtocolError,
)
from app.text.held_text import HeldText, TextLimit
from app.upstreams import Resume
from app.upstreams.account import Account
from app.upstreams.kimi import envelope
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi.json_frames import Reader, SurrogateJoiner, suffix_after
from app.upstreams.kimi.set_phrases import Opening
from app.upstreams.kimi.sources import sources_of_message, sources_of_ref, sources_of_tool

# Blocks of one answer, and user's messages that are repeated in it. Observed were a few of each.
_MAX_BLOCKS = 1000
_MAX_USER_MESSAGES = 1000
# The mask of a frame: observed ones have some thirty characters, and name one or two paths.
_MAX_MASK_CHARS = 1000


class _BlockText:
    """One kind of text of an answer, thinking or text: its blocks, and what was passed on.

    The text is the blocks' contents, joined in order of first appearance (5.4), and each piece is passed on as
    it comes. ``append`` adds to a block, ``set`` replaces it (5.3). What was passed on cannot be taken back, so
    a change can be followed exactly where the new text begins with the old one, and then only the rest of it is
    passed on; any other change is a ``_Rewrite``.
    """

    # Without a dictionary: there are two objects for each stream.
    __slots__ = (
        *("_blocks", "_end", "_end_place", "_halves", "_limit", "_place", "_places", "_reader"),
        "last",
    )

    def __init__(self, reader: Reader) -> None:
        self._blocks: dict[str, HeldText] = {}
        self._limit = TextLimit()
        # The place of each block in the answer; the block of the last frame, with its place; the last block that has
        # text, with its place.
        self._places: dict[str, int] = {}
        self.last: str | None = None
        self._place = 0
        self._end = ""
        self._end_place = 0
        self._reader = reader
        self._halves = SurrogateJoiner(reader)

    def append(self, block_id: str, text: str) -> str:
        """What is to be passed on. Raises _Rewrite."""
        if block_id != self.last:
            self._go_to(block_id)
        if text:
            if self._place < self._end_place:
                raise _Rewrite
            self._end, self._end_place = block_id, self._place
            self._blocks[block_id].add(text)
        return self._halves.join(text)

    def set(self, block_id: str, text: str) -> str:
        """What is to be passed on. Raises _Rewrite."""
        return self.append(block_id, self._added(text, str(self._blocks.get(block_id, ""))))

    def repeat(self, blocks: list[tuple[str, str]]) -> str:
        """What is to be passed on when Kimi shows the whole message. Raises _Rewrite."""
        said, shown = self.said, "".join(text for _, text in blocks)
        if not said:
            return "".join(self.set(block_id, text) for block_id, text in blocks)
        # Only the end can be new; the block that a repetition puts it into need not be the one that it came in.
        return self.append(self._end, self._added(shown, said))

    def is_continued_by(self, blocks: list[tuple[str, str]]) -> bool:
        """Whether what Kimi shows as the whole begins with what was passed on."""
        try:
            self._added("".join(text for _, text in blocks), self.said)
        except _Rewrite:
            return False
        return True

    def flush(self) -> str:
        return self._halves.flush()

    @property
    def said(self) -> str:
        return "".join(map(str, self._blocks.values()))

    def _added(self, text: str, old: str) -> str:
        """What ``text`` adds to ``old``. Raises _Rewrite."""
        if text.startswith(old):
            return text[len(old) :]
        # The old text may hold, in two halves, a pair that the new one holds whole.
        new = suffix_after(text, old) if self._reader.saw_lone_surrogate else None
        if new is None:
            raise _Rewrite
        return new

    def _go_to(self, block_id: str) -> None:
        if block_id not in self._blocks:
            if len(self._blocks) == _MAX_BLOCKS:
                raise UpstreamProtocolError(f"Kimi sent an answer of more than {_MAX_BLOCKS} blocks")
            self._blocks[block_id] = HeldText(self._limit)
            self._places[block_id] = len(self._places)
        self.last, self._place = block_id, self._places[block_id]


class _Rewrite(Exception):
    """Text that was passed on has been changed."""


# Parts of a block that say nothing that a client is to see: the K2 era's search, whose pages come again as
# `ref` with their numbers, and stages (5.3, 5.6).
_QUIET_PARTS = frozenset({"search", "stage", "multiStage"})
_NO_PARTS = frozenset({"id", "parentId", "messageId"})
# `chat.files` repeats what was attached (kimi-protocol-2.md 2.5).
_CHAT_MASKS = frozenset({"", "chat", "chat.lastRequest", "chat.name", "chat.files"})
_MESSAGE_MASKS = frozenset({"", "message", "message.status", "message.blocks"})
_HEADS = frozenset({"op", "mask", "eventOffset"})
# What a frame of them says would be lost without a word if they were something else.
_OBJECTS = frozenset({"block", "message", "chat"})
_GENERATING = ("MESSAGE_STATUS_GENERATING", 1)
_Kind = type[TextDelta] | type[ReasoningDelta]
_NOTICES = {"TYPE_MODEL_DEGRADE": "model-degraded"}


class AnswerDecoder:
    """One answer, which is one stream.

    ``reason``: why Kimi calls the answer complete; None until it does.
    ``chat_id``, ``message_id``: the chat and the answer in it, as soon as Kimi has named them.
    ``offset``: the number of the last frame that had one; 0 before.
    """

    # Without a dictionary: there is one for each stream.
    __slots__ = (
        *("_account", "_complete", "_envelopes", "_has_news", "_is_resumed", "_json", "_opening", "_own_tools"),
        *("_resume", "_scenario", "_spoke", "_text", "_thinking", "_user_messages", "chat_id", "message_id"),
        *("offset", "on_named", "reason"),
    )

    def __init__(
        self,
        account: Account,
        scenario: str,
        resume: Resume | None,
        asked: str = "",
        own_tools: Collection[str] | None = None,
    ) -> None:
        """``account`` is named in errors. ``scenario``: that of the model that was asked. ``resume``: the chat that
        the answer must come from; None for a new one. ``asked``: the question. ``own_tools``: those of Kimi's own
        tools that were asked for; the use of another one is a notice, because the client's functions were meant.
        None: they do not matter."""
        self._own_tools = own_tools
        self.chat_id: str | None = None
        self.message_id: str | None = None
        self.reason: FinishReason | None = None
        self.offset = 0
        # Called when Kimi has named the chat and the answer.
        self.on_named: Callable[[], None] | None = None
        self._is_resumed = False
        self._account = account
        self._scenario = scenario
        self._resume = resume
        self._envelopes = envelope.Decoder()
        self._json = Reader()
        self._text = _BlockText(self._json)
        self._thinking = _BlockText(self._json)
        # Usually one: a set would take 200 bytes.
        self._user_messages: tuple[str, ...] = ()
        self._has_news = False
        self._spoke = False
        self._complete = False
        # None once it is certain that the answer is no set phrase.
        self._opening: Opening | None = Opening(asked)

    @property
    def is_generating(self) -> bool:
        """Whether Kimi is at it, as far as is known, and can be told to stop."""
        return self.chat_id is not None and self.message_id is not None and not self._complete and self.reason is None

    @property
    def is_named(self) -> bool:
        """Whether Kimi has named the chat and the answer, so that it can be asked for them."""
        return self.chat_id is not None and self.message_id is not None

    def resume(self) -> None:
        """What is decoded next is another stream of the same answer. Frames that were there before are left out."""
        self._envelopes = envelope.Decoder()
        self._is_resumed = True

    def take_message(self, payload: bytes) -> Iterator[Event]:
        """The events of what is new in the answer as a whole, as GetMessage gives it; Finished if it is complete.

        Raises as ``decode``; AnswerRewritten also if the complete text is another one than what was passed on.
        """
        fields = self._json.load(payload)
        message = fields.get("message", fields) if isinstance(fields, dict) else None
        if not isinstance(message, dict):
            raise UpstreamProtocolError("expected a message")
        yield from sources_of_message(message.get("refs"))
        blocks = message.get("blocks")
        blocks = [block for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []
        for block in blocks:
            yield from sources_of_tool(block.get("tool"))
        if not self._text.is_continued_by(_shown(blocks, "text")):
            if message.get("status") in _GENERATING:
                # What is kept may be behind what was sent.
                return
            raise self._rewritten()
        yield from self._whole_message("set", blocks)
        yield from self._status(message.get("status"))
        if self._complete and self.reason is None:
            yield from self._flush()
            if not self._spoke:
                raise kimi_errors.empty_answer(self._account)
            yield from self._finish()
        if self.reason is not None:
            yield Finished(self.reason)

    def give_up(self) -> Iterator[Event]:
        """What was held back of an answer that ends here, with an error."""
        yield from self._open()

    def decode(self, chunks: Iterable[bytes]) -> Iterator[Event]:
        """The events of the stream that comes in ``chunks``, each as soon as its bytes are there. Finished is the
        last one; a chunk that says nothing is a Heartbeat.

        Raises:
            UpstreamError: if Kimi sent an error.
            AnswerEmpty: if Kimi calls an answer complete in which there is nothing.
            AnswerRewritten: if text that was passed on has been changed.
            ChatUnknown: if the answer is one of another chat than that of ``resume``.
            UpstreamProtocolError: if the bytes are no envelopes or a frame is no JSON.
            ConnectionLost: if the bytes end before Kimi has said that the answer is complete.
        """
        for chunk in chunks:
            quiet = True
            try:
                for payload, last in self._envelopes.decode(chunk):
                    frame = None if last else self._json.load(payload)
                    if (continuation := self._continuation(frame)) is not None:
                        if (event := self._add(*continuation)) is not None:
                            if self._has_news:
                                yield from self._news()
                            yield event
                            quiet = False
                        continue
                    for event in self._end(payload) if last else self._frame(frame):
                        yield from self._news()
                        yield event
                        quiet = False
                    if self.reason is not None:
                        yield from self._news()
                        yield Finished(self.reason)
                        return
            except UpstreamError:
                # The chat of an answer that failed is to be cleaned up all the same.
                yield from self._news()
                raise
            if self._has_news:
                yield from self._news()
            if quiet:
                yield HEARTBEAT
            # Not kept while the next chunk is awaited, which is most of the time of a slow stream.
            payload, frame, continuation, event = b"", None, None, None
        raise ConnectionLost(f"{self._account.label}: Kimi closed the connection before the end of the answer")

    def _news(self) -> tuple[Event, ...]:
        """Chat and message mostly become known together: they are told together."""
        if not self._has_news or self.chat_id is None:
            return ()
        self._has_news = False
        if self.message_id is not None and self.on_named is not None:
            self.on_named()
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
        yield from self._flush()
        if not self._spoke:
            raise kimi_errors.empty_answer(self._account)
        if not self._complete:
            raise ConnectionLost(f"{self._account.label}: Kimi ended the stream before the end of the answer")
        yield from self._finish()

    def _flush(self) -> Iterator[Event]:
        """What waits for its other half when nothing more comes."""
        for kind, told in ((ReasoningDelta, self._thinking), (TextDelta, self._text)):
            if half := told.flush():
                yield from self._pass_on(kind, half)

    def _finish(self) -> Iterator[Event]:
        """The answer is complete. Raises UpstreamOverloaded where it says just that."""
        meaning = self._opening.meaning if self._opening is not None else None
        if meaning == "overloaded":
            self._opening = None
            raise kimi_errors.tired(self._account)
        yield from self._open()
        self.reason = "stop" if meaning is None else "content_filter"

    def _open(self) -> Iterator[Event]:
        """From now on the answer is one like any other."""
        opening, self._opening = self._opening, None
        if opening is not None and (held := opening.flush()):
            yield TextDelta(held)

    def _pass_on(self, kind: _Kind, text: str) -> Iterator[Event]:
        self._spoke = True
        if self._opening is not None and kind is TextDelta:
            text = self._begin(text)
        if text:
            yield kind(text)

    def _begin(self, text: str) -> str:
        """What is to be passed on of the first text of an answer, which may be a set phrase."""
        assert self._opening is not None
        begun = self._opening.take(text)
        if begun:
            self._opening = None
        return begun

    def _fail(self, error: object) -> Iterator[Event]:
        failure = kimi_errors.in_stream(error, self._account)
        if not (isinstance(failure, Moderated) and self._text.said):
            raise failure
        self.reason = "content_filter"
        yield HEARTBEAT

    def _continuation(self, frame: Any) -> tuple[_Kind, _BlockText, str, str, str] | None:
        """What ``_add`` takes of nearly every frame: it appends to the block of the frame before it, and that is all.

            {"op": "append", "mask": "block.text.content", "eventOffset": 7, "block": {"id": …, "text": {…}}}

        None for any other frame. ``_frame`` would do the same with these, in three times the time.
        """
        if frame.__class__ is not dict or len(frame) != 4 or frame.get("op") != "append" or self._is_resumed:
            return None
        mask = frame.get("mask")
        if mask == "block.text.content":
            kind: _Kind = TextDelta
            told, part = self._text, "text"
        elif mask == "block.think.content":
            kind, told, part = ReasoningDelta, self._thinking, "think"
        else:
            return None
        block, offset = frame.get("block"), frame.get("eventOffset")
        if block.__class__ is not dict or offset.__class__ is not int or "messageId" in block:
            return None
        fields, block_id = block.get(part), block.get("id")
        content = fields.get("content") if fields.__class__ is dict else None
        if content.__class__ is not str or block_id.__class__ is not str or block_id != told.last:
            return None
        self.offset = offset
        return kind, told, "append", block_id, content

    def _frame(self, frame: Any) -> Iterator[Event]:
        if not isinstance(frame, dict):
            yield Unrecognised("frame (no object)")
            return
        offset = frame.get("eventOffset")
        if offset.__class__ is int:
            if self._is_resumed and offset <= self.offset:
                return
            self.offset = offset
        op, mask = frame.get("op", "set"), frame.get("mask") or ""
        skipped = _HEADS
        if op not in ("set", "append"):
            yield Unrecognised(f"op {_name(op)}")
            skipped = _HEADS | {"block", "message", "chat", "ref"}
        if not isinstance(mask, str) or len(mask) > _MAX_MASK_CHARS:
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
                f"{self._account.label}: Kimi does not continue this chat but opened another; "
                "start a new conversation"
            )
        self._has_news |= chat_id != self.chat_id
        self.chat_id = chat_id

    def _message(self, op: str, mask: str, message: dict[str, Any]) -> Iterator[Event]:
        if mask not in _MESSAGE_MASKS:
            yield Unrecognised(f"mask {_name(mask)}")
        message_id, role = _id(message.get("id")), message.get("role")
        if role == "user":
            # The echo of the prompt (pitfall 1).
            if message_id is not None and message_id not in self._user_messages:
                self._user_messages += (message_id,)
                if len(self._user_messages) > _MAX_USER_MESSAGES:
                    raise UpstreamProtocolError(f"Kimi repeated more than {_MAX_USER_MESSAGES} messages")
            return
        if role == "system":
            # Seen without blocks, in K3's scenario (kimi-protocol-2.md 5.5).
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
        yield from sources_of_message(message.get("refs"))
        blocks = message.get("blocks")
        if isinstance(blocks, list) and blocks:
            # Without a role it could be the echo, unless it is the message that is known to be the answer.
            if role == "assistant" or (message_id is not None and message_id == self.message_id):
                yield from self._whole_message(op, [block for block in blocks if isinstance(block, dict)])
            elif op == "append":
                yield Unrecognised("appended blocks of nobody")
        yield from self._status(message.get("status"))

    def _status(self, status: object) -> Iterator[Event]:
        """The last word on the status counts; it comes without a role (pitfall 4). The numbers are those that one
        client shows (``kimi-protocol-2.md`` 5.1)."""
        match status:
            case None:
                pass
            case "MESSAGE_STATUS_COMPLETED" | 2:
                self._complete = True
            case _ if status in _GENERATING:
                self._complete = False
            case "MESSAGE_STATUS_CANCELLED" | 3:
                raise AnswerCancelled(f"{self._account.label}: the answer was cancelled at Kimi before its end")
            case _:
                yield Unrecognised(f"status {_name(status)}")

    def _whole_message(self, op: str, blocks: list[dict[str, Any]]) -> Iterator[Event]:
        """A message that carries its blocks repeats what was said (pitfall 3); it may add to it, at the end.

        One that differs is shown as unrecognised: the blocks said what they said, and nothing has replaced them.
        So is one that is appended to what was said: no source shows such a frame, and it is no repetition.
        """
        for block in blocks:
            yield from self._exception(block)
        for kind, told, part in ((ReasoningDelta, self._thinking, "think"), (TextDelta, self._text, "text")):
            shown = _shown(blocks, part)
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
                yield from self._pass_on(kind, new)

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
            if path == "block.think.summary":
                # Beside the content, which says it in full (kimi-protocol-2.md 5.5).
                continue
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
                yield from self._own_tool(block.get(part))
                yield from sources_of_tool(block.get(part))
            elif part not in _QUIET_PARTS and part not in _NO_PARTS:
                yield Unrecognised(f"mask {_name(path)}")
            seen.add(part)

    def _say(self, kind: _Kind, told: _BlockText, op: str, block: dict[str, Any], part: str) -> Event | None:
        content = _content(block, part)
        if content is None:
            return Unrecognised(f"block.{part} without text")
        return self._add(kind, told, op, _block_id(block), content)

    def _add(self, kind: _Kind, told: _BlockText, op: str, block_id: str, content: str) -> Event | None:
        """What is to be passed on of a block's text."""
        try:
            new = told.append(block_id, content) if op == "append" else told.set(block_id, content)
        except _Rewrite:
            if kind is ReasoningDelta:
                # A running commentary: what was passed on stays, and the answer does not suffer.
                return Unrecognised("block.think rewritten")
            raise self._rewritten() from None
        if not new:
            return None
        self._spoke = True
        if self._opening is not None and kind is TextDelta:
            new = self._begin(new)
        return kind(new) if new else None

    def _own_tool(self, tool: object) -> Iterator[Event]:
        """Never passed on as a call: Kimi's machine has run it, also where a function has the same name."""
        name = tool.get("name") if isinstance(tool, dict) else None
        if self._own_tools is not None and isinstance(name, str) and name not in self._own_tools:
            yield Notice("kimi-own-tool")

    def _rewritten(self) -> AnswerRewritten:
        return AnswerRewritten(
            f"{self._account.label}: Kimi replaced text that had already been passed on; ask again"
        )

    def _exception(self, block: dict[str, Any]) -> Iterator[Event]:
        exception = block.get("exception")
        if exception is not None:
            yield from self._fail(exception.get("error") if isinstance(exception, dict) else None)

    def _notification(self, notification: dict[str, Any]) -> Event:
        kind = notification.get("type")
        notice = _NOTICES.get(kind) if isinstance(kind, str) else None
        return Notice(notice) if notice is not None else Unrecognised(f"notification {_name(kind)}")


def _shown(blocks: list[dict[str, Any]], part: str) -> list[tuple[str, str]]:
    """The id and the text of each block that has this part."""
    return [(_block_id(block), _content(block, part) or "") for block in blocks if part in block]


def _content(block: dict[str, Any], part: str) -> str | None:
    """The text of a part; empty where it is left out, as proto3's JSON does; None where it is something else."""
    fields = block.get(part) or {}
    content = fields.get("content", "") if isinstance(fields, dict) else None
    return content if isinstance(content, str) else None


def _block_id(block: dict[str, Any]) -> str:
    """Empty where there is none."""
    block_id = block.get("id")
    return str(block_id)[:128] if isinstance(block_id, str | int) else ""


def _id(value: object) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[\w.:-]{1,128}", value, re.ASCII) else None


def _name(value: object) -> str:
    """A name of the protocol, fit to be counted and logged; anything that could be somebody's text is not shown."""
    text = value if isinstance(value, str) else type(value).__name__
    return text if re.fullmatch(r"[A-Za-z0-9_.,]{1,80}", text) else "(no name)"

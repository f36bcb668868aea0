"""The frames of a Connect answer, in the manner of October 2025 (K2 era) and of 2026.

Knows sections 5.3–5.7 of the protocol notes. Must never know how an answer is thought up or when its frames leave.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from app.simulator.answers import Answer, Page
from app.simulator.catalogue import is_new
from app.simulator.connect_errors import END_ERRORS, EXCEPTIONS, end_frame, error_body
from app.simulator.envelope import COMPRESSED, END_OF_STREAM, bare_prefix, envelope, prefixes_apart
from app.simulator.http1 import ENCODER, json_bytes
from app.simulator.knobs import Knobs
from app.simulator.turns import Step, Thought
from app.simulator.world import Chat, Message

CONTENT_TYPE = "application/connect+json"
HEARTBEAT = envelope(b'{"heartbeat":{}}')
GOOD_END = envelope(b"{}", END_OF_STREAM)
_DRAFT = "This draft is replaced by the next set. "
_NATURAL_FAIL_AFTER = {"moderated": 3}


class ConnectVoice:
    """Tells an answer as Connect frames, in the manner of the profile's year."""

    def __init__(
        self, knobs: Knobs, fault: str, conversation: Chat, asked: Message, message: Message, answer: Answer
    ) -> None:
        self._old = knobs.profile == "connect-2025"
        self._new = is_new(knobs)
        self.ping_s = knobs.heartbeat_s
        self.headers: Mapping[str, str] = {"Content-Type": CONTENT_TYPE}
        if knobs.gzip_frames:
            self.headers = {**self.headers, "Connect-Content-Encoding": "gzip"}
        self._knobs = knobs
        self._fault = fault
        self._conversation = conversation
        self._asked = asked
        self._message = message
        self._answer = Answer(answer.title, (), (), ()) if fault == "empty" else answer
        tokens = _with_citations(self._answer, self._old) if knobs.cite else self._answer.tokens
        self.tokens = tokens[: self._fail_point(knobs, fault)]
        self._first_turn = conversation.turns == 0
        self.offset = 0
        self._blocks = 0
        self._told = 0
        self._thought_block = ""
        self._text_block = ""
        self._starts = _starts(len(self.tokens), knobs.text_blocks)
        self._append = b""

    @staticmethod
    def _fail_point(knobs: Knobs, fault: str) -> int | None:
        """How many tokens come before the fault; None when the text comes whole."""
        if fault in EXCEPTIONS:
            return _NATURAL_FAIL_AFTER.get(fault, 0) if knobs.fail_after is None else knobs.fail_after
        if knobs.huge_frame is not None:
            return 1
        return knobs.fail_after if fault in (*END_ERRORS, "drop", "cancelled") else None

    def steps(self) -> Iterator[Step]:
        yield HEARTBEAT
        yield self._chat_frame()
        if self._new and self._asked.files and self._knobs.files_frame != "none":
            yield self._files()
        yield self._echo()
        yield self._shell()
        if self._fault == "empty_close":
            return
        yield b""
        if self._knobs.degrade:
            notice = {"type": "TYPE_MODEL_DEGRADE", "message": "A lighter model answers at peak hours."}
            yield self._frame({"op": "set"}, {"notification": notice})
        if self.tokens or self._fault not in EXCEPTIONS:
            yield from self._content()
        yield from self._closing()

    def text(self, token: str) -> bytes:
        number = self._told
        self._told += 1
        if number in self._starts:
            return self._open_text(token)
        self.offset += 1
        payload = b'{"op":"append","mask":"block.text.content","eventOffset":%d%b%b}}}' % (
            self.offset,
            self._append,
            ENCODER.encode(token).encode("utf-8", "replace"),
        )
        return self._text_envelope(payload)

    def thought(self, token: str) -> bytes:
        think = {"think": {"content": token}}
        if self._thought_block:
            head = {"op": "append", "mask": "block.think.content"}
            return self._frame(head, {"block": {"id": self._thought_block, **think}})
        parent = {} if self._old else {"parentId": str(self._blocks)}
        self._thought_block = self._next_block()
        head = {"op": "set", "mask": "block.think"}
        return self._frame(head, {"block": {"id": self._thought_block, **parent, **think}})

    def ping(self) -> bytes:
        return HEARTBEAT

    def farewell(self) -> Iterable[bytes]:
        """How a cancelled stream ends (Q20, N6)."""
        return (self._completed(cancelled=self._new), self._done(), GOOD_END)

    def lines(self, data: bytes) -> list[bytes]:
        return prefixes_apart(data)

    # The frames that open a stream.

    def _chat_frame(self) -> bytes:
        conversation = self._conversation
        if self._old:
            named = {"id": conversation.id, "name": conversation.name}
            times = {"createTime": moment(conversation.created_at), "updateTime": moment(conversation.updated_at)}
            return self._frame({"op": "set"}, {"chat": named | times})
        last = {"options": {"thinking": bool(self._answer.thoughts)}, "scenario": self._asked.scenario}
        return self._frame(
            {"op": "set", "mask": "chat.lastRequest"}, {"chat": {"id": conversation.id, "lastRequest": last}}
        )

    def _files(self) -> bytes:
        """The files of the chat (kimi-protocol-2.md 2.5); where they stand in the frame is not certain (P6)."""
        shown = [file.shown() for file in self._asked.files]
        files: object = shown if self._knobs.files_frame == "array" else {"files": shown}
        return self._frame({"op": "append", "mask": "chat.files"}, {"chat": {"files": files}})

    def _echo(self) -> bytes:
        """The user's own message comes back first: pitfall 1. The parent of the first one is its chat (5.3)."""
        block_id = {"id": "text_0_0"} if self._old else {"messageId": ""}
        parent_id = self._asked.parent_id or (self._conversation.id if self._new else "")
        parent = {"parentId": parent_id} if parent_id else {}
        return self._frame(
            {"op": "set", "mask": "message"},
            {
                "message": {
                    "id": self._asked.id,
                    **parent,
                    "role": "user",
                    "status": "MESSAGE_STATUS_COMPLETED",
                    "blocks": [
                        {**block_id, "text": {"content": self._asked.text}},
                        *({"file": file.shown()} for file in self._asked.files),
                    ],
                    "scenario": self._asked.scenario,
                }
            },
        )

    def _shell(self) -> bytes:
        return self._frame(
            {"op": "set", "mask": "message"},
            {
                "message": {
                    "id": self._message.id,
                    "parentId": self._asked.id,
                    "role": "assistant",
                    "status": "MESSAGE_STATUS_GENERATING",
                    **({} if self._old else {"blocks": []}),
                    "scenario": self._asked.scenario,
                }
            },
        )

    # Thinking, searching, text.

    def _content(self) -> Iterator[Step]:
        yield from self._thinking()
        if self._answer.own_tool:
            yield from self._own_tool(self._answer.own_tool)
        if self._answer.pages:
            yield from self._old_search() if self._old else self._tool_search()
        if self._knobs.reset_block and self.tokens:
            self._text_block = self._next_block()
            yield self._frame({"op": "set", "mask": "block.text"}, self._text_payload(_DRAFT))
        for number, token in enumerate(self.tokens):
            yield token
            yield from self._interruptions(number)
        if self._old and self._knobs.refs == "after":
            yield from self._refs()

    def _thinking(self) -> Iterator[Step]:
        thoughts = self._answer.thoughts
        if not thoughts:
            return
        if self._old:
            yield from map(Thought, thoughts)
            return
        stages, stage = self._next_block(), self._next_block()
        start = {"name": "STAGE_NAME_THINKING", "status": "STAGE_STATUS_START"}
        end = {"name": "STAGE_NAME_THINKING", "status": "STAGE_STATUS_END"}
        yield self._block("block.multiStage", {"id": stages, "multiStage": {"stages": [start]}})
        yield self._block("block.stage", {"id": stage, "parentId": stages, "stage": start})
        yield from map(Thought, thoughts)
        yield self._block("block.stage", {"id": stage, "parentId": stages, "stage": end})

    def _old_search(self) -> Iterator[bytes]:
        block_id = self._next_block()
        keywords = {"id": block_id, "search": {"keywords": [self._answer.title]}}
        yield self._block("block.search.keywords", keywords, op="append")
        for page in self._answer.pages:
            yield self._block(
                "block.search.webPages", {"id": block_id, "search": {"webPages": [_old_page(page)]}}, op="append"
            )
        if self._knobs.refs != "after":
            yield from self._refs()

    def _refs(self) -> Iterator[bytes]:
        for number, page in enumerate(self._answer.pages, start=1):
            ref = {"id": str(number), "search": {"id": str(number), "base": _old_page(page)}}
            yield self._frame({"op": "set"}, {"ref": ref})

    def _tool_search(self) -> Iterator[bytes]:
        """A native tool call's life (L8): pending, arguments in pieces, running, done."""
        block_id = self._next_block()
        arguments = json.dumps({"queries": [self._answer.title]}, ensure_ascii=False)
        middle = len(arguments) // 2
        pending = {"toolCallId": "web_search_0", "name": "web_search", "status": "STATUS_PENDING"}
        yield self._frame({"op": "set"}, {"block": {"id": block_id, "tool": pending}})
        for piece in (arguments[:middle], arguments[middle:]):
            yield self._block("block.tool.args", {"id": block_id, "tool": {"args": piece}}, op="append")
        running = {"toolCallId": "web_search:1", "args": arguments, "status": "STATUS_RUNNING"}
        mask = "block.tool.args,block.tool.status,block.tool.toolCallId"
        yield self._block(mask, {"id": block_id, "tool": running})
        yield HEARTBEAT
        found = [_found(number, page) for number, page in enumerate(self._answer.pages)]
        done = {"contents": found, "status": "STATUS_DONE"}
        yield self._block("block.tool.contents,block.tool.status", {"id": block_id, "tool": done})

    def _own_tool(self, name: str) -> Iterator[bytes]:
        """A tool that runs on Kimi's machine (L8)."""
        block_id = self._next_block()
        pending = {"toolCallId": f"{name}_0", "name": name, "status": "STATUS_PENDING"}
        yield self._frame({"op": "set"}, {"block": {"id": block_id, "tool": pending}})
        done = {"contents": [{"text": "done"}], "status": "STATUS_DONE"}
        yield self._block("block.tool.contents,block.tool.status", {"id": block_id, "tool": done})

    def _open_text(self, token: str) -> bytes:
        """The first chunk of a text block has text already: pitfall 2."""
        replaces = self._told == 1 and self._text_block
        if not replaces:
            self._text_block = self._next_block()
        self._append = b',"block":{"id":"%b","text":{"content":' % self._text_block.encode()
        appends = self._old and not replaces
        mask = "block.text.content" if appends else "block.text"
        return self._frame({"op": "append" if appends else "set", "mask": mask}, self._text_payload(token))

    def _text_payload(self, text: str) -> dict[str, object]:
        return {"block": {"id": self._text_block, "text": {"content": text}}}

    def _interruptions(self, number: int) -> Iterator[bytes]:
        if self._knobs.empty_text:
            yield self._block("block.text.content", {"id": self._text_block, "text": {}}, op="append")
        if self._knobs.comments:
            yield HEARTBEAT
        if self._knobs.unknown:
            yield self._unknown(number)

    def _unknown(self, number: int) -> bytes:
        hidden = {"content": "must not be shown"}
        kinds: tuple[Mapping[str, object], ...] = (
            {"op": "set", "mask": "block.canvas", "block": {"id": "99", "canvas": hidden}},
            {"op": "merge", "mask": "chat.badge", "chat": {"badge": hidden}},
            {"op": "set", "telemetry": hidden},
        )
        kind = number % (len(kinds) + 1)
        return self._frame({}, kinds[kind]) if kind < len(kinds) else envelope(b"")

    # The frames that close a stream.

    def _closing(self) -> Iterator[bytes]:
        if self._knobs.huge_frame is not None:
            yield bare_prefix(self._knobs.huge_frame) + b'{"op":'
            return
        if self._fault == "drop":
            return
        if self._fault == "cancelled":
            yield from (self._completed(cancelled=True), self._done(), GOOD_END)
            return
        if self._fault in END_ERRORS:
            yield from self._late_failure()
            return
        if self._fault in EXCEPTIONS:
            yield self._exception()
        yield self._completed()
        if self._first_turn and self._fault not in EXCEPTIONS:
            self._conversation.name = self._answer.title
            yield self._frame({"op": "set", "mask": "chat.name"}, {"chat": {"name": self._answer.title}})
        yield self._done()
        if self._fault != "done_only":
            yield GOOD_END

    def _late_failure(self) -> Iterator[bytes]:
        if self._fault == "frame_error":
            yield envelope(json_bytes({"error": error_body(self._fault, self._knobs)}))
            yield GOOD_END
            return
        if self._fault == "error_after_done":
            yield self._completed()
            yield self._done()
        yield end_frame(self._fault, self._knobs)

    def _exception(self) -> bytes:
        reason, text = EXCEPTIONS[self._fault]
        localized = {"locale": "zh-CN", "message": self._knobs.fail_message or text}
        error = {
            "reason": self._knobs.fail_reason or reason,
            "localizedMessage": localized,
            "severity": self._knobs.fail_severity,
        }
        if self._fault == "top_exception":
            return self._frame({"op": "set", "mask": "exception"}, {"exception": {"error": error}})
        block_id = self._text_block or self._next_block()
        return self._block("block.exception", {"id": block_id, "exception": {"error": error}})

    def _completed(self, *, cancelled: bool = False) -> bytes:
        """The plain form has no role (pitfall 4); the whole form repeats the text (pitfall 3)."""
        status = "MESSAGE_STATUS_CANCELLED" if cancelled else "MESSAGE_STATUS_COMPLETED"
        if self._knobs.completion == "status" or cancelled:
            return self._frame(
                {"op": "set", "mask": "message.status"}, {"message": {"id": self._message.id, "status": status}}
            )
        told = "".join(self.tokens[: self._told])
        blocks = [{"id": self._text_block, "text": {"content": told}}] if told else []
        whole = {"id": self._message.id, "role": "assistant", "status": status, "blocks": blocks}
        return self._frame({"op": "set", "mask": "message"}, {"message": whole})

    def _done(self) -> bytes:
        return self._frame({}, {"done": {}})

    # Frames.

    def _block(self, mask: str, block: Mapping[str, object], op: str = "set") -> bytes:
        return self._frame({"op": op, "mask": mask}, {"block": block})

    def _frame(self, head: Mapping[str, object], payload: Mapping[str, object]) -> bytes:
        self.offset += 1
        return envelope(json_bytes({**head, "eventOffset": self.offset, **payload}))

    def _text_envelope(self, payload: bytes) -> bytes:
        if self._knobs.gzip_frames:
            return envelope(gzip.compress(payload), COMPRESSED)
        return envelope(payload)

    def _next_block(self) -> str:
        self._blocks += 1
        return f"0_{self._blocks - 1}" if self._old else str(self._blocks)


def moment(unix_s: float) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")


def _starts(tokens: int, blocks: int) -> frozenset[int]:
    """The numbers of the tokens that open a text block."""
    size = max(1, -(-tokens // max(1, blocks)))
    return frozenset(range(0, tokens, size))


def _old_page(page: Page) -> dict[str, object]:
    return {
        "title": page.title,
        "url": page.url,
        "siteName": page.site,
        "iconUrl": f"https://{page.site}/icon.png",
        "snippet": page.snippet,
        "publishTime": f"{page.date}T00:00:00Z",
        "siteQuality": {},
    }


def _found(number: int, page: Page) -> dict[str, object]:
    base = {"title": page.title, "url": page.url, "siteName": page.site, "snippet": page.snippet}
    return {"searchResult": {"id": str(number + 1), "base": base, "refIndex": f"web_search:1#{number}"}}


def _with_citations(answer: Answer, old: bool) -> tuple[str, ...]:
    """The tokens with markers before the last one: `[^1^]` of 2025, delimiter characters of 2026 (Q29)."""
    pages = range(len(answer.pages))
    markers = [part for number in pages for part in (_old_marker(number) if old else _marker(number, answer))]
    return (*answer.tokens[:-1], *markers, *answer.tokens[-1:])


def _old_marker(number: int) -> tuple[str, ...]:
    return "[", f"^{number + 1}^", "]"


def _marker(number: int, answer: Answer) -> tuple[str, ...]:
    """The first citation quotes its page and is closed by U+E3A8; the others are bare references."""
    if number == 0:
        return (
            "\ue3a0",
            "cite\U0001f6e0web_",
            "search:1#0:~:text=",
            answer.pages[0].snippet,
            "\ue3a8",
        )
    return "\U0001f6e0", f"web_search:1#{number}", "\U0001f6e0"

"""What the simulated Kimi remembers: accounts, chats, messages, files, and chains of refresh tokens.

Pure state with the service's own rules about it (who owns a chat, which refresh token is alive). Must never
know HTTP, a wire shape, or a knob.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from app.simulator.answers import Page
from app.simulator.generation import Recording
from app.simulator.ids import Ids
from app.simulator.tokens import Claims

Generation = Literal["sse", "connect"]

# Longer files are not kept as a whole.
KEPT_BYTES = 1 << 20


@dataclass(slots=True)
class Account:
    """Somebody whose token was seen."""

    sub: str
    name: str
    turns: int = 0
    refreshes: int = 0
    stale_refreshes: int = 0
    open_streams: int = 0
    max_open_streams: int = 0


@dataclass(slots=True)
class Message:
    """One message of a chat; the chat is a tree of them."""

    id: str
    parent_id: str
    role: Literal["user", "assistant"]
    text: str = ""
    sent: str = ""
    """The text with its `[[sim ...]]` words, as it is listed."""
    thinking: str = ""
    pages: tuple[Page, ...] = ()
    scenario: str = ""
    files: tuple[StoredFile, ...] = ()
    complete: bool = True
    cancelled: bool = False
    recording: Recording | None = None
    created_at: float = field(default_factory=time.time)


@dataclass(slots=True)
class Leftover:
    """The part of an answer that `length` held back, and what to continue it with."""

    group_id: str
    tokens: tuple[str, ...]
    words: dict[str, str]
    """The `[[sim ...]]` words of the turn, which also rule its continuation."""
    lengths_left: int


@dataclass(slots=True)
class Chat:
    """A conversation of one account."""

    id: str
    owner: Account
    name: str
    generation: Generation
    messages: dict[str, Message] = field(default_factory=dict)
    leftovers: dict[str, Leftover] = field(default_factory=dict)
    """By the id of the user's message, which `continue` names."""
    turns: int = 0
    deleted: bool = False
    moderated: bool = False
    streaming: bool = False
    listening: bool = False
    """Somebody reads the answer that is being streamed now."""
    collisions: int = 0
    """Questions that were refused because somebody still read the answer to another one."""
    cancel: Callable[[], None] | None = None
    """Ends the answer that is being streamed now."""
    created_at: float = field(default_factory=time.time)
    updated_at: float = field(default_factory=time.time)

    def add(self, message: Message) -> Message:
        self.messages[message.id] = message
        self.updated_at = message.created_at
        return message

    def latest(self, role: str) -> Message | None:
        return next((m for m in reversed(self.messages.values()) if m.role == role), None)

    def ancestry(self, message_id: str) -> Iterator[Message]:
        """A message and what came before it on its branch, newest first."""
        message = self.messages.get(message_id)
        while message:
            yield message
            message = self.messages.get(message.parent_id)


@dataclass(slots=True)
class StoredFile:
    """An uploaded file. ``origin`` is of the Connect generation."""

    id: str
    name: str
    object_name: str
    kind: str
    size: int = 0
    registered: bool = False
    owner: Account | None = None
    content_type: str = ""
    content: bytes = field(default=b"", repr=False)
    origin: str = ""
    """Of the site that it was uploaded to, for its addresses."""
    answers_left: int = 0
    """So often it is still being read; -1: for ever."""
    created_at: float = field(default_factory=time.time)

    checksum: str = ""
    """SHA-256 of the content, in hex. The content itself is not kept where it is long."""

    def fill(self, content: bytes, content_type: str) -> None:
        """The bytes have come."""
        self.size, self.content_type = len(content), content_type
        self.checksum = hashlib.sha256(content).hexdigest()
        self.content = content if len(content) <= KEPT_BYTES else b""

    @property
    def described(self) -> str:
        """As an answer names it, so that a test sees what has arrived."""
        return f"{self.name} ({self.content_type}, {self.size} bytes, sha256 {self.checksum})"

    def shown(self) -> dict[str, object]:
        """As the answer to an upload describes it (kimi-protocol-2.md 2.2)."""
        is_image = self.content_type.startswith("image/")
        address = f"{self.origin}/apiv2-files/sign-obj/kimi-fs%2Ffiles%2Fblob%2F{self.id}?at={int(self.created_at)}"
        meta = {
            "name": self.name,
            "contentType": self.content_type,
            "sizeBytes": str(self.size),
            "checksum": self.checksum,
            "ext": self.name.rpartition(".")[2],
            "createTime": datetime.fromtimestamp(self.created_at, UTC).isoformat().replace("+00:00", "Z"),
            "type": "FILE_TYPE_IMAGE" if is_image else "FILE_TYPE_DOCUMENT",
        }
        thumbnail = {
            name: f"{address}&t={letter}"
            for name, letter in (("thumbnailUrl", "t"), ("previewUrl", "p"), ("mobileThumbnailUrl", "m"))
        }
        return {
            "id": self.id,
            "meta": meta,
            "blob": {"signUrl": f"{address}&t=o", "previewUrl": ""},
            **({"parseResult": {"thumbnail": thumbnail}} if is_image else {}),
        }


@dataclass(slots=True)
class _RefreshToken:
    """One link of a chain of rotated refresh tokens."""

    chain: str
    used_at: float | None = None
    grace_used: bool = False


class StaleRefresh(Exception):
    """The refresh token was already used, or its chain is dead."""


class World:
    """Everything that a reset forgets."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.accounts: dict[str, Account] = {}
        self.chats: dict[str, Chat] = {}
        self.files: dict[str, StoredFile] = {}
        self.deleted_chats = 0
        self._refresh_tokens: dict[str, _RefreshToken] = {}
        self._dead_chains: set[str] = set()

    def account(self, claims: Claims) -> Account:
        """The account of a token, made when the token is the first of its user."""
        known = self.accounts.get(claims.sub)
        if known is None:
            known = self.accounts[claims.sub] = Account(sub=claims.sub, name=claims.user)
        return known

    def new_chat(self, owner: Account, name: str, generation: Generation, chat_id: str | None = None) -> Chat:
        chat = Chat(id=chat_id or self.ids.xid(), owner=owner, name=name, generation=generation)
        self.chats[chat.id] = chat
        return chat

    def chat(self, chat_id: str) -> Chat | None:
        """A chat that exists and is not deleted, whoever owns it."""
        chat = self.chats.get(chat_id)
        return None if chat is None or chat.deleted else chat

    def chats_of(self, owner: Account) -> list[Chat]:
        """The account's chats, the one that changed last first."""
        own = [chat for chat in self.chats.values() if chat.owner is owner and not chat.deleted]
        return sorted(own, key=lambda chat: chat.updated_at, reverse=True)

    def delete(self, chat: Chat) -> None:
        chat.deleted = True
        chat.messages.clear()
        chat.leftovers.clear()
        self.deleted_chats += 1

    def use_refresh_token(self, claims: Claims, *, grace_s: float, rotates: bool, stale_kills: bool) -> str:
        """Spends a refresh token and returns the `jti` of its successor; raises StaleRefresh."""
        account = self.account(claims)
        token = self._refresh_tokens.setdefault(claims.jti, _RefreshToken(chain=claims.jti))
        if not self._is_alive(token, grace_s):
            account.stale_refreshes += 1
            if stale_kills:
                self._dead_chains.add(token.chain)
            raise StaleRefresh
        if rotates:
            token.grace_used = token.used_at is not None
            token.used_at = token.used_at or time.monotonic()
        account.refreshes += 1
        successor = self.ids.xid()
        self._refresh_tokens[successor] = _RefreshToken(chain=token.chain)
        return successor

    def _is_alive(self, token: _RefreshToken, grace_s: float) -> bool:
        if token.chain in self._dead_chains:
            return False
        if token.used_at is None:
            return True
        return not token.grace_used and time.monotonic() - token.used_at < grace_s

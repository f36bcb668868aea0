"""The vocabulary in the middle: what a chat is, in words that belong to no API and to no upstream.

Plain frozen values. Knows no wire format and no other file of ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
FinishReason = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the assistant made in an earlier turn; ``arguments`` is JSON text, as it came."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the history. ``parts`` are its texts in order."""

    role: Role
    parts: tuple[str, ...]
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        return "\n".join(self.parts)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One turn that a client asks for. ``conversation_id`` is None for a stateless one."""

    model: str
    messages: tuple[Message, ...]
    conversation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: ``owner`` names the API key without being it; ``is_gone`` tells, without waiting,
    that nobody reads the answer any more (always False where the server offers no way to know)."""

    owner: str
    is_gone: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Model:
    """A model as clients see it."""

    id: str
    title: str


# Events: what an upstream tells of a running answer, in order. Failure is an exception, never an event.


@dataclass(frozen=True, slots=True)
class Started:
    """The upstream chat of this turn and the answer in it; before any text, again when more is known."""

    chat_id: str
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The upstream is alive and has nothing to say that concerns the client."""


@dataclass(frozen=True, slots=True)
class Notice:
    """The upstream tells the user something about this answer. ``kind`` is ours: ``model-degraded``."""

    kind: str


@dataclass(frozen=True, slots=True)
class Unrecognised:
    """The upstream said something of a kind that we do not know; ``kind`` never carries user text."""

    kind: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The upstream said that the answer is complete. Always the last event; a stream without it failed."""

    reason: FinishReason


Event = Started | ReasoningDelta | TextDelta | Heartbeat | Notice | Unrecognised | Finished

HEARTBEAT = Heartbeat()

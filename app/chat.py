"""The vocabulary in the middle: what a chat is, in words that belong to no API and to no upstream.

Plain frozen values. Knows no wire format and no other file of ours.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
FinishReason = Literal["stop", "length", "content_filter"]
# What a reference to a page becomes: a Citation, a Markdown link in the text, both; off leaves the upstream's own.
CitationStyle = Literal["annotations", "markdown", "both", "off"]


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
class JsonFormat:
    """The answer must be one JSON object. ``schema`` is a JSON Schema as JSON text, None for any object.
    ``asked_in``: the field that the schema came in, for what is wrong with it."""

    name: str = "json_object"
    schema: str | None = None
    description: str = ""
    asked_in: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """What a client wants of the answer beside its model; None means: as the model is.

    ``max_tokens`` counts by our estimate, reasoning and text together. ``thinking`` and ``search`` choose that
    form of the model, where there is one.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    thinking: bool | None = None
    search: bool | None = None
    format: JsonFormat | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One turn that a client asks for. ``conversation_id`` is None for a stateless one. ``after_turn``: how many
    turns the conversation must have behind it, where the client goes on from one that it names. ``mends``: it is the
    second half of the last turn, which counts once. ``asked_in``: the field of the messages, for what is wrong there.
    """

    model: str
    messages: tuple[Message, ...]
    conversation_id: str | None = None
    options: Options = Options()
    after_turn: int | None = None
    mends: bool = False
    asked_in: str = "messages"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: ``owner`` names the API key without being it; ``is_gone`` tells, without waiting,
    that nobody reads the answer any more (always False where the server offers no way to know).
    ``idempotency_key``: requests with the same one are the same request."""

    owner: str
    is_gone: Callable[[], bool]
    idempotency_key: str | None = None


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
class Source:
    """A page that the answer rests on, as an upstream tells it; ``ref`` is what its markers in the text say."""

    ref: str
    url: str
    title: str


@dataclass(frozen=True, slots=True)
class Citation:
    """A part of the text rests on a page: offsets in characters into the text that the client was given."""

    url: str
    title: str
    start_index: int
    end_index: int


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
    """The answer is complete. Always the last event; a stream without it failed. ``stop_sequence``: the one of
    ``Options.stop`` that ended it."""

    reason: FinishReason
    stop_sequence: str | None = None


Event = Started | ReasoningDelta | TextDelta | Source | Citation | Heartbeat | Notice | Unrecognised | Finished

HEARTBEAT = Heartbeat()


class Answer(Protocol):
    """An answer that is on its way. Iterating gives its events in batches, each as it came: ReasoningDelta,
    TextDelta, Citation, and Finished last; a batch of Heartbeat alone says that nothing came for a moment.
    Raises GatewayError where the answer failed. ``close`` gives everything back and is safe to call again.
    """

    def wait_for_answer(self) -> None:
        """Returns when it is certain that there is an answer, or at least that waiting for it may be shown. Raises
        GatewayError, having closed itself. Need not be called by who iterates at once."""
        ...

    @property
    def prompt(self) -> str:
        """The text that was sent upstream, for counting."""
        ...

    @property
    def notices(self) -> Sequence[str]:
        """What the upstream wanted the user to know, so far."""
        ...

    @property
    def rebuilt_from(self) -> str | None:
        """Where the history came from, if a lost conversation goes on in a new chat: history or transcript."""
        ...

    def __iter__(self) -> Iterator[Sequence[Event]]: ...

    def close(self, error: BaseException | None = None) -> None: ...

"""The vocabulary in the middle: what a chat is, in words that belong to no API and to no upstream.

Plain frozen values. Knows no wire format and no other file of ours but the record of a request.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, Protocol

from app.request_record import RequestRecord

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
# What a reference to a web page becomes: a Citation, a Markdown link in the text, both; off: the upstream's own
# marker.
CitationStyle = Literal["annotations", "markdown", "both", "off"]
# How much a model is to think: not at all, hardly, …
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


# Parts of a message. ``place`` is the field of the request that a part came in, for errors; ``sent_as`` is the type
# that the client gave it.


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class FileReference:
    """An image or a document as the client sent it. ``attachments`` makes an ``Attachment`` of it."""

    # url: a ``data:``, ``http:`` or ``https:`` URL. base64, text: the content. id: of an uploaded file.
    form: Literal["url", "base64", "text", "id"]
    source: str = field(repr=False)
    place: str
    sent_as: str
    # As the client named it; empty: not at all.
    name: str = ""
    is_image: bool = False


class Content(Protocol):
    """The bytes of a file, in memory or on the disk."""

    def open(self) -> BinaryIO:
        """A reader of its own, from the first byte on; it can seek. The caller closes it."""
        ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """Content in memory."""

    data: bytes = field(repr=False)

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data)


class DecodedSource(str):
    """The source of a ``FileReference`` whose content was decoded while the request was read: of the text there is
    only the beginning."""

    def __new__(cls, begin: str, content: Content, size: int) -> "DecodedSource":
        source = super().__new__(cls, begin)
        source.content, source.size = content, size
        return source

    content: Content
    # Bytes of it.
    size: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image or a document that an upstream can be sent."""

    # Printable, without path and quotes. Its extension fits its media type.
    name: str
    # By its content, not as the client says.
    media_type: str
    size: int
    # SHA-256 of its bytes, in hex.
    digest: str
    is_image: bool
    place: str
    sent_as: str
    content: Content = field(repr=False, compare=False)

    @property
    def text(self) -> str:
        """The mark that stands at its place in the text."""
        return f"[image: {self.name}]" if self.is_image else f"[file: {self.name}]"

    @property
    def key(self) -> str:
        """The same for the same content under the same name: how Kimi reads a file depends on both."""
        return hashlib.sha256(f"{self.digest} {self.name}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class OtherPart:
    """Content of a kind that no upstream takes: audio, video."""

    place: str
    sent_as: str


Part = TextPart | Attachment | FileReference | OtherPart

# Parts that stand in the text of a message.
_IN_TEXT = (TextPart, Attachment)


# function: its arguments are a JSON object. text: it takes one free text ("custom" at OpenAI).
ToolKind = Literal["function", "text"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function of the client that the model may call."""

    name: str
    description: str = ""
    # A JSON Schema as JSON text; None: an object without declared fields.
    schema: str | None = None
    kind: ToolKind = "function"
    # The arguments must fit the schema.
    strict: bool = False
    # The group that the client declared it in. Names are unique within a group.
    namespace: str | None = None
    # The field of the request that it came in, for errors.
    place: str = ""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What the client demands about calls."""

    # auto: the model decides. none: no call. required: at least one.
    mode: Literal["auto", "none", "required"] = "auto"
    # The labels (``text.tools.names``) of the functions that may be called; empty: all.
    names: tuple[str, ...] = ()
    # More than one call in an answer.
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a client's function: in a message of the history, or as an event of an answer.

    ``id``: in the history as the client sent it; in an event the part that is unique, which encoders put a prefix
    before. ``arguments``: JSON text as it came, for a tool of the kind text its text.
    """

    id: str
    name: str
    arguments: str
    kind: ToolKind = "function"
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the history. ``parts`` are its contents in order."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    # The result of a call that is an error.
    failed: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(part.text for part in self.parts if isinstance(part, _IN_TEXT))

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        return tuple([part for part in self.parts if part.__class__ is Attachment])

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def text_message(role: Role, *texts: str) -> Message:
    """A message that holds text only."""
    return Message(role, tuple(TextPart(text) for text in texts))


# Characters, and messages, from which on a step over a whole request may take some milliseconds.
LONG_TEXT = 65_536
_MANY_MESSAGES = 100


def is_long(messages: Sequence[Message]) -> bool:
    """Whether the steps over these messages need pauses between them; those of an ordinary request do not."""
    if len(messages) > _MANY_MESSAGES:
        return True
    return sum(len(text) for message in messages for text in message.texts) > LONG_TEXT


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """The answer must be one JSON object."""

    name: str = "json_object"
    # A JSON Schema as JSON text; None: any object.
    schema: str | None = None
    description: str = ""
    # The field of the request that the schema came in, for errors.
    schema_field: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """What a client wants of the answer beside its model. None: as the model is."""

    # By our estimate, reasoning and text together.
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    # Chooses the form of the model that thinks, or that does not, where there is one; the same for web search.
    thinking: bool | None = None
    search: bool | None = None
    # How much a form that thinks is to think, if there is a choice.
    effort: Effort | None = None
    format: JsonFormat | None = None
    # The model is told of functions, which some of its forms take worse than others.
    offers_tools: bool = False


@dataclass(frozen=True, slots=True)
class KnownTools:
    """What an upstream's chat has read about functions in earlier turns."""

    # The code of its headings (``text.tools.grammar``).
    code: str
    # Of the functions that were described last.
    digest: str


@dataclass(frozen=True, slots=True)
class EarlierTurn:
    """The turn that a request continues from, where it is not the last one of its conversation."""

    number: int
    # The field that names it, and how the last turn would be named there, for errors.
    field: str
    last: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One turn that a client asks for."""

    model: str
    messages: tuple[Message, ...]
    # None: a stateless request.
    conversation_id: str | None = None
    options: Options = Options()
    # How many turns the conversation must have, where the client continues from one that it names.
    after_turn: int | None = None
    # The turn that the client continues from, where that is an earlier one.
    earlier_turn: EarlierTurn | None = None
    # This is the second half of the last turn: the two count as one.
    repairs_last_turn: bool = False
    # The field of the request that holds the messages, for errors.
    messages_field: str = "messages"
    # The client's functions.
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    # What the chat that this turn continues knows of functions. Set by the planner.
    known_tools: KnownTools | None = None
    # The code of the headings, where a message repeats an answer that contains it, or the text was composed before.
    code: str | None = None
    # Clients of this API send what was said before each time.
    repeats_history: bool = False
    # The client says that nothing of this may be kept.
    stores_nothing: bool = False
    # The gateway has chosen the id of the conversation, which begins with this turn, because the client named none.
    opens_conversation: bool = False
    # The chat that the turn goes into holds what was said before. Set by the planner.
    is_continued: bool = False
    # What the user should know about how the request was understood (``x-kimi-notice``).
    notices: tuple[str, ...] = ()

    @property
    def offers_tools(self) -> bool:
        """Whether the model is told of functions."""
        return bool(self.tools) and self.tool_choice.mode != "none"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    # Names the API key without being it.
    owner: str
    # Tells, without waiting, that the client has left. Always False where the server offers no way to know.
    is_gone: Callable[[], bool]
    # Requests with the same key are one request.
    idempotency_key: str | None = None
    # The models that the key may use, ``*`` for any characters; empty: all.
    models: tuple[str, ...] = ()
    # What is noted about the request.
    record: RequestRecord = field(default_factory=RequestRecord, compare=False, repr=False)
    # To be called by what keeps the request after its response has ended. Returns what is to be called at the end.
    hold: Callable[[], Callable[[], None]] = lambda: lambda: None


@dataclass(frozen=True, slots=True)
class Model:
    """A model as clients see it."""

    id: str
    title: str


# Events: what an upstream emits while it answers, in order. A failure is an exception, never an event.


@dataclass(frozen=True, slots=True)
class Started:
    """The upstream chat of this turn, and the answer in it. Comes before any text, and again when more is known."""

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
    """A web page that the answer rests on. ``ref`` is how markers in the text name it."""

    ref: str
    url: str
    title: str


@dataclass(frozen=True, slots=True)
class Citation:
    """A part of the text rests on a page. Offsets count characters of the text that the client gets."""

    url: str
    title: str
    start_index: int
    end_index: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The upstream is alive and sent nothing that concerns the client."""


@dataclass(frozen=True, slots=True)
class Notice:
    """The upstream has something to say to the user about this answer. ``kind`` is our word: ``model-degraded``."""

    kind: str


@dataclass(frozen=True, slots=True)
class Unrecognised:
    """The upstream sent something of a kind that we do not know. ``kind`` never holds text of a user."""

    kind: str

    @classmethod
    def of_refused_form(cls, form: str) -> "Unrecognised":
        """The upstream refused the form of a request, and the next form of the same model was taken."""
        return cls(f"{_REFUSED_FORM}{form}")


_REFUSED_FORM = "refused form "


def refused_form_of(kind: str) -> str:
    """The form, if ``kind`` is one of ``Unrecognised.of_refused_form``; else an empty text."""
    return kind.removeprefix(_REFUSED_FORM) if kind.startswith(_REFUSED_FORM) else ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete. Always the last event: a stream without it has failed."""

    reason: FinishReason
    # The one of ``Options.stop`` that ended it.
    stop_sequence: str | None = None


@dataclass(frozen=True, slots=True)
class CallFlaw:
    """Why a call cannot be passed on. ``kind`` is our word, for logs and counters."""

    kind: str
    # For Kimi: what is wrong, and where. It may show what Kimi wrote.
    message: str


@dataclass(frozen=True, slots=True)
class FlawedCalls:
    """Comes right before Finished where calls are missing or cannot be used. Never leaves ``answers``."""

    flaws: tuple[CallFlaw, ...]
    # What Kimi wrote and the client was not shown, with the code in its headings.
    raw: str
    code: str


Event = (
    Started
    | ReasoningDelta
    | TextDelta
    | ToolCall
    | FlawedCalls
    | Source
    | Citation
    | Heartbeat
    | Notice
    | Unrecognised
    | Finished
)

HEARTBEAT = Heartbeat()

"""What an upstream is: something that answers a turn. A folder here holds one kind of upstream, with all of its wire.

Must never know any upstream in particular. docs/adding.md shows how one is added.
"""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.chat import Attachment, ChatRequest, Event, Message, Model, Options
from app.concurrency.background import Cancellation
from app.settings.sites import Site
from app.store import Store
from app.text.prompt import Prompt
from app.upstreams.account import Account

# Sees the wire of an upstream, for the doctor's recording: "request" or "response" with a head (a line, then headers
# without Authorization; a blank line and the body follow in a request), or "data" with a piece of a response's body.
Tap = Callable[[str, bytes], None]


# The account with another token than the one that was just rejected. Raises UpstreamError.
Renew = Callable[[Account], Account]


@dataclass(frozen=True, slots=True)
class Resume:
    """The upstream chat that a turn continues."""

    chat_id: str
    # The last answer in it, where that is known.
    message_id: str | None


@dataclass(frozen=True, slots=True)
class Supports:
    """What an upstream takes beside text."""

    images: bool = False
    files: bool = False


@dataclass(frozen=True, slots=True)
class ListedChat:
    """A chat of an account, as the upstream lists it. Times are those of its clock."""

    chat_id: str
    # When it was opened, where that is known, and when it changed last.
    begun_at: float | None
    changed_at: float


@dataclass(frozen=True, slots=True)
class PreparedTurn:
    """One turn, ready to be sent by the upstream that prepared it."""

    request: ChatRequest
    # All text that will be sent, and what is needed to read calls in its answer.
    prompt: Prompt
    # The same in two parts, for an upstream that sends instructions apart: ``system`` is empty if it does not.
    system: str = ""
    rest: str = ""
    # What is sent beside the text, each once, in the order of their marks in it.
    attachments: Sequence[Attachment] = ()
    # The first of them holds what would be the text.
    is_in_file: bool = False

    @property
    def text(self) -> str:
        return self.prompt.text

    @property
    def counted_text(self) -> str:
        """The text for counting tokens: the same for the same request."""
        return self.prompt.counted_text


def attachments_of(messages: Sequence[Message]) -> tuple[Attachment, ...]:
    """Each one once: the same content under the same name is one."""
    found: dict[str, Attachment] = {}
    # By class: most requests have none, and some have thousands of messages.
    for message in messages:
        for part in message.parts:
            if part.__class__ is Attachment:
                found[part.key] = part
    return tuple(found.values())


class Upstream(Protocol):
    """One protocol of one site. Objects hold no state of a request and are used by all threads at once."""

    @property
    def name(self) -> str:
        """As it stands in the database and in the log."""
        ...

    @property
    def supports(self) -> Supports: ...

    def models(self) -> Sequence[Model]:
        """What it can serve now."""
        ...

    def rank(self, model_id: str) -> int | None:
        """How well it serves the model: 0 is best; None: not at all. Called once per request."""
        ...

    def sites(self, model_id: str) -> Collection[str] | None:
        """The names of the sites whose accounts it can serve the model with; None: all accounts."""
        ...

    def unmet(self, model_id: str, options: Options) -> list[str]:
        """Names for what ``options`` ask for and the model has no form for; it is left out."""
        ...

    def prepare(self, request: ChatRequest, messages: Sequence[Message]) -> PreparedTurn:
        """``messages``: what the upstream has not read yet. They hold parts that it supports, and some text."""
        ...

    def open(
        self,
        turn: PreparedTurn,
        account: Account,
        resume: Resume | None,
        cancellation: Cancellation,
        renew: Renew | None = None,
    ) -> Generator[Event, None, None]:
        """The events of one turn: ``Started`` before any text, ``Finished`` last. Blocks while the upstream is
        silent. The caller closes the iterator. ``renew``: for an upstream that sends further requests for the same
        answer, when a token may have expired.

        Raises:
            UpstreamError: where the turn fails, also where the stream ends before the answer is complete.
            ProtocolUnavailable: where the site does not serve this protocol.
            Cancelled: where the turn was called off.
        """
        ...

    def delete_chat(self, account: Account, chat_id: str) -> None:
        """Deletes a chat. One that is already gone is no error. Raises UpstreamError."""
        ...

    def asks(self, turn: PreparedTurn) -> Sequence[str]:
        """The texts one of which a new chat of this turn begins with."""
        ...

    def latest_chats(self, account: Account) -> Iterator[ListedChat]:
        """The chats of the account, also those that its owner opened, the one that changed last first. Nothing, if
        the upstream has no such list. Raises UpstreamError."""
        ...

    def questions(self, account: Account, chat_id: str) -> Sequence[str]:
        """What was asked in a chat, oldest first. Raises UpstreamError, also where that cannot be read."""
        ...


class AccountSource(Protocol):
    """The accounts, as background work needs them. They change while the gateway runs."""

    @property
    def sites(self) -> Sequence[Site]:
        """Where they live, each site once."""
        ...

    @property
    def proxy(self) -> str:
        """What requests go through that no account makes; see ``Account.proxy``."""
        ...

    def usable_accounts(self) -> Iterator[Account]:
        """The accounts that may be used, one after another, each with a token that works."""
        ...


@dataclass(frozen=True, slots=True)
class UpstreamGroup:
    """The upstreams of one folder: they may share connections, models and background work."""

    upstreams: Sequence[Upstream]
    # Models that no upstream here serves because of a setting: id → the end of the sentence "The model 'x' …".
    disabled_models: Mapping[str, str] = field(default_factory=dict)
    # Starts background work, once per process.
    start: Callable[[Store, AccountSource], None] = lambda _store, _accounts: None

"""The state of a running turn. The reader thread writes it, the request's thread reads it. No field needs a lock."""

from dataclasses import dataclass, field

from app.answers.answer import AnswerInfo
from app.chat import Caller, ChatRequest
from app.conversations.open_chats import Thread
from app.upstreams.account import Account


@dataclass(slots=True)
class TurnState:
    request: ChatRequest
    caller: Caller
    # The chat that a stateless request continues or opens, where it may stay open.
    thread: Thread | None = None
    info: AnswerInfo = field(default_factory=AnswerInfo)
    # The account and the upstream of the latest attempt, and the number of attempts.
    account: Account | None = None
    upstream: str = "-"
    attempts: int = 0
    # The turn waits in the gateway's queue, so the upstream is not the cause of the silence.
    is_queued: bool = True
    # It waits for an account, or for its next attempt: Kimi is not being asked.
    awaits_account: bool = False
    # The message may have reached the upstream's chat.
    reached_upstream: bool = False
    # Kinds of frames from the upstream that the gateway does not know.
    unrecognised: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """The account's name, for errors."""
        return self.account.label if self.account else "no account"

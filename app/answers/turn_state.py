"""A turn that runs. Its reader thread writes it, the request's thread reads it, and no field needs a lock."""

from dataclasses import dataclass, field

from app.answers.answer import AnswerInfo
from app.chat import Caller, ChatRequest
from app.upstreams.account import Account


@dataclass(slots=True)
class TurnState:
    request: ChatRequest
    caller: Caller
    info: AnswerInfo = field(default_factory=AnswerInfo)
    # The account and the upstream of the latest attempt, and how many attempts there were.
    account: Account | None = None
    upstream: str = "-"
    attempts: int = 0
    # It waits in a queue of ours, so that a silence is not the upstream's.
    is_queued: bool = True
    # The message may stand in the upstream's chat.
    reached_upstream: bool = False
    # Kinds of frames that the upstream has sent and that we do not know.
    unrecognised: set[str] = field(default_factory=set)

    @property
    def label(self) -> str:
        """The account's name, for errors."""
        return self.account.label if self.account else "no account"

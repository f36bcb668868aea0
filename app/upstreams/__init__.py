"""What an upstream is. Must never know any upstream in particular."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from app.chat import ChatRequest, Event
from app.concurrency.background import Cancellation
from app.upstreams.account import Account


@dataclass(frozen=True, slots=True)
class Resume:
    """The upstream chat that a turn continues: its id, and the last answer in it where that is known."""

    chat_id: str
    message_id: str | None


class Upstream(Protocol):
    """One generation of Kimi's protocol. Objects hold no state of a request."""

    @property
    def name(self) -> str: ...

    def open(
        self,
        request: ChatRequest,
        prompt: str,
        account: Account,
        resume: Resume | None,
        cancellation: Cancellation,
    ) -> Generator[Event, None, None]:
        """The events of one turn, ``Started`` before any text and ``Finished`` last; blocks while Kimi is silent.

        Raises UpstreamError, also where the stream ends without Kimi having said that the answer is complete,
        GenerationGone where the site does not serve this protocol, and Cancelled. ``prompt`` is the whole text
        of the turn. The caller closes the iterator.
        """
        ...

    def delete_chat(self, account: Account, chat_id: str) -> None:
        """Deletes a chat; one that is already gone is no error. Raises UpstreamError."""
        ...

"""What an answer is to the code that shows it, and the base of all answers."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from app.chat import Event
from app.text import token_count


@dataclass(slots=True)
class AnswerInfo:
    """What is known about an answer beside its events. Grows while the answer comes."""

    # The text that was sent upstream, for counting tokens.
    prompt: str = ""
    # What the user should know about this answer, in our words: ``model-degraded``.
    notices: list[str] = field(default_factory=list)
    # Where the history came from, if a lost conversation continues in a new chat: history, request or transcript.
    rebuilt_from: str | None = None
    # A text that was counted, and its tokens.
    counted: tuple[str, int] | None = None

    @classmethod
    def without_prompt(cls, input_tokens: int, notices: list[str], rebuilt_from: str | None) -> "AnswerInfo":
        """For an answer of which only the number of its prompt's tokens is known."""
        return cls("", notices, rebuilt_from, ("", input_tokens))

    def input_tokens(self) -> int:
        """The tokens of ``prompt``, counted once: that takes a millisecond for a few thousand characters."""
        if self.counted is None or self.counted[0] != self.prompt:
            self.counted = (self.prompt, token_count.estimate(self.prompt))
        return self.counted[1]


class Answer(ABC):
    """An answer that is on its way.

    Iterating gives its events in batches, each as it came: ReasoningDelta, TextDelta, Citation, and Finished last. A
    batch that holds only a Heartbeat says that nothing came for a moment. Raises GatewayError where the answer
    failed.
    """

    # How many choices it has.
    choices = 1

    @property
    @abstractmethod
    def info(self) -> AnswerInfo: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Sequence[Event]]: ...

    def by_choice(self) -> Iterator[tuple[int, Sequence[Event]]]:
        """The batches, each with the index of its choice."""
        # No Python frame of ours around each batch.
        return zip(itertools.repeat(0), self)

    def wait_for_answer(self) -> None:  # noqa: B027  # most answers are certain when they are made
        """Returns when it is certain that there is an answer, or at least that the client may be shown that it is
        awaited. Raises GatewayError, and has closed the answer then. Not needed before iterating."""

    def close(self, error: BaseException | None = None) -> None:  # noqa: B027  # some hold nothing
        """Releases everything. Safe to call again. ``error``: why the answer ended early, where it did."""


def merged(infos: Sequence[AnswerInfo], prompt: str) -> AnswerInfo:
    """What several answers to one request have to say."""
    notices = list(dict.fromkeys(notice for info in infos for notice in info.notices))
    return AnswerInfo(prompt, notices, next((info.rebuilt_from for info in infos if info.rebuilt_from), None))

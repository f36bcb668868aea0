"""What an answer is to the code that shows it, and the base of all answers."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

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
    # Of a stateless request: whether its chat held what was said before. None where chats do not stay open.
    conversation: Literal["continued", "new"] | None = None
    # The prompt that a new chat would have been sent, where ``conversation`` is continued.
    whole_prompt: Callable[[], str] | None = None
    # Its tokens, where they were counted.
    counted_whole: int | None = None

    @classmethod
    def without_prompt(cls, input_tokens: int, notices: list[str], rebuilt_from: str | None) -> "AnswerInfo":
        """For an answer of which only the number of its prompt's tokens is known."""
        return cls("", notices, rebuilt_from, ("", input_tokens))

    def input_tokens(self) -> int:
        """The tokens of what the client sent, counted once: that takes a millisecond for a few thousand
        characters."""
        if self.whole_prompt is not None and self.counted_whole is None:
            self.counted_whole = token_count.estimate(self.whole_prompt())
        return self._sent_tokens() if self.counted_whole is None else self.counted_whole

    def cached_tokens(self) -> int | None:
        """Those of them that the chat held already; None where chats do not stay open."""
        if self.conversation is None:
            return None
        return max(0, self.input_tokens() - self._sent_tokens())

    def _sent_tokens(self) -> int:
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
    info = AnswerInfo(prompt, notices, next((info.rebuilt_from for info in infos if info.rebuilt_from), None))
    info.conversation = infos[0].conversation
    return info


def merged_halves(infos: Sequence[AnswerInfo]) -> AnswerInfo:
    """As ``merged``, for an answer that was asked for in several turns, one after the other."""
    info = merged(infos, "\n".join(info.prompt for info in infos))
    if any(info.whole_prompt is not None for info in infos):
        info.whole_prompt = lambda: "\n".join(
            info.whole_prompt() if info.whole_prompt is not None else info.prompt for info in infos
        )
    return info

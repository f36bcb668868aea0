"""What was asked, what was seen of it, and what Kimi took in: the books that the verdict reads.

Written by many threads. Must never know how an answer was got.
"""

import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Literal

from tests.chaos.plan import USER_MARK
from tests.running import Simulator

# whole: confirmed by its finish reason. moderated: ended by Kimi's moderation, and says so. refused: an error in
# place of an answer; failed: an error at its end. limited: Kimi did not go on beyond its length limit, and says so.
# cut: no end was seen. left: its client went.
Outcome = Literal["whole", "moderated", "limited", "refused", "failed", "cut", "left"]


@dataclass(slots=True)
class Seen:
    """What a client has seen of one turn. ``rebuilt``: the header that says that the chat is a new one."""

    mark: str
    outcome: Outcome
    text: str = ""
    status: int = 0
    code: str = ""
    rebuilt: str | None = None
    # The header of a request that names no conversation: continued or new.
    how: str | None = None
    began: float = 0.0
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(slots=True)
class Conversation:
    """``sends_history``: its client sends all of it each time, else only what is new. ``is_named``: the gateway is
    told its id; else it has to recognise it. ``gone``: deleted, or nobody knows."""

    id: str
    key: str
    model: str
    sends_history: bool
    is_named: bool = True
    turns: list[Seen] = field(default_factory=list)
    # What the client would send as history: question and answer of each confirmed turn.
    history: list[tuple[str, str]] = field(default_factory=list)
    gone: bool = False

    @property
    def generation(self) -> str:
        return "connect" if self.model.startswith("kimi-") else "sse"


@dataclass(frozen=True, slots=True)
class Taken:
    """A question that Kimi took into a chat. ``marks``: those of all user messages in it; the last is its own."""

    chat: str
    account: str
    message: str
    marks: tuple[str, ...]


class Ledger:
    """Everything that is written down during a run."""

    def __init__(self, simulator: Simulator) -> None:
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        # How long it took until something was so at the end, in seconds.
        self.settled: dict[str, float] = {}
        self.conversations: list[Conversation] = []
        self.taken: list[Taken] = []
        self.confirmed: list[str] = []
        # To which conversation, or single question, a mark belongs.
        self.belongs: dict[str, str] = {}
        self._simulator = simulator
        self._read_until = 0
        self._messages: set[str] = set()
        self._lock = threading.Lock()

    def expect(self, mark: str, conversation: Conversation | None) -> None:
        """Before anything is sent."""
        self.belongs[mark] = conversation.id if conversation else mark

    def note(self, seen: Seen, conversation: Conversation | None) -> None:
        with self._lock:
            what = f"{seen.status} {seen.code}" if seen.outcome == "refused" else seen.code
            self.outcomes[f"{seen.outcome} {what}".strip()] += 1
            if seen.rebuilt:
                self.counts[f"rebuilt from {seen.rebuilt}"] += 1
            if seen.how and conversation is not None and conversation.history:
                self.counts[f"unnamed conversations: {seen.how}"] += 1
            if seen.outcome == "whole":
                self.confirmed.append(seen.mark)
            if conversation is not None:
                conversation.turns.append(seen)

    def wrong(self, problem: str) -> None:
        with self._lock:
            self.problems.append(f"{time.strftime('%H:%M:%S')} {problem}")

    def count(self, what: str, times: int = 1) -> None:
        with self._lock:
            self.counts[what] += times

    def read_journal(self) -> None:
        """Takes over what Kimi has taken in since the last time."""
        rows = self._simulator.control("GET", "turns", params={"after": self._read_until})
        for row in rows:
            self._read_until = row["n"]
            if row["message"] in self._messages:
                continue  # the continuation of a long answer
            self._messages.add(row["message"])
            marks = tuple(USER_MARK.findall(row["text"]))
            self.taken.append(Taken(row["chat"], row["account"], row["message"], marks))

    def by_chat(self) -> dict[str, list[Taken]]:
        chats = defaultdict(list)
        for taken in self.taken:
            chats[taken.chat].append(taken)
        return chats

"""What is noted about one request while it runs: times, counts and codes. No text, header, key, token or address.

The record is made where the request arrives (``web.middleware``) and filled by whoever learns something: the key, the
model, the account, the end. Its numbers are those of live views, too. Knows no other file of ours.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

# What ``flags`` may hold. Their numbers are stored: a new one is appended.
FLAGS = ("searched", "thought", "rebuilt", "repaired", "replayed", "degraded", "continued")
SEARCHED, THOUGHT, REBUILT, REPAIRED, REPLAYED, DEGRADED, CONTINUED = (1 << bit for bit in range(len(FLAGS)))

# In the place of a model that does not exist: its name is the client's own words.
UNKNOWN_MODEL = "?"

# The end of an answer that its client did not wait for.
LEFT = "left"

# Several threads may hold one record. One lock for all: it is taken a few times per request, and for no time.
_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try on one account. ``code``: that of the error, LEFT, or "" for an answer. ``blame``: of the error.
    ``cooldown_s``: how long the account cools down because of it."""

    account_id: str
    protocol: str
    code: str
    blame: str
    seconds: float
    cooldown_s: float


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One request. Times are monotonic."""

    # Which API was asked, and the id that the client and the log know the request by.
    api: str = ""
    request_id: str = ""
    # The program that sent it, and its trace, where it names one.
    client: str = ""
    trace: str = ""
    began: float = field(default_factory=time.monotonic)
    # Called once, when the response has ended and nobody works for the request any more.
    when_done: Callable[["RequestRecord"], None] | None = None

    # It asks for an answer.
    is_answer: bool = False
    is_stream: bool = False
    # The API key; empty if it is not known.
    owner: str = ""
    # Empty until it is known.
    model: str = ""
    # The client called it otherwise (MODEL_ALIASES).
    is_renamed: bool = False
    # Only a digest of it is stored.
    conversation_id: str | None = None
    flags: int = 0

    # Of the latest attempt.
    account_id: str = ""
    protocol: str = ""
    attempts: list[AttemptRecord] = field(default_factory=list)
    # It waits for an account.
    is_queued: bool = True
    waited_s: float = 0.0
    first_at: float | None = None
    # The longest silence after the first part of the answer.
    longest_s: float = 0.0
    heartbeats: int = 0

    # Characters of ASCII and others: their tokens differ.
    ascii_in: int = 0
    other_in: int = 0
    ascii_out: int = 0
    other_out: int = 0
    ascii_thought: int = 0
    other_thought: int = 0
    # Tokens in, out and thought, where they were counted for the client.
    usage: tuple[int, int, int] | None = None

    status: int = 0
    # A finish reason or the code of an error; empty: the client left.
    end: str = ""
    # Whose fault the failure is; empty: there is none.
    blame: str = ""
    ended: float = 0.0

    _holders: int = 1

    @property
    def chars_in(self) -> int:
        return self.ascii_in + self.other_in

    @property
    def chars_out(self) -> int:
        return self.ascii_out + self.other_out

    @property
    def chars_thought(self) -> int:
        return self.ascii_thought + self.other_thought

    @property
    def phase(self) -> str:
        """What the request is doing: queued, sent, thinking, answering."""
        if self.chars_out:
            return "answering"
        if self.chars_thought:
            return "thinking"
        return "queued" if self.is_queued else "sent"

    def hold(self, holders: int = 1) -> None:
        """So many more work for the request. Each of them calls ``release`` once."""
        with _LOCK:
            self._holders += holders

    def release(self) -> None:
        with _LOCK:
            self._holders -= 1
            is_done = self._holders == 0
        if is_done and self.when_done is not None:
            self.when_done(self)

    def response_ended(self) -> None:
        """Safe to call again."""
        if not self.ended:
            self.ended = time.monotonic()
            self.release()

    def finished(self, reason: str) -> None:
        """The client was shown the whole answer."""
        self.end, self.blame = reason, ""

    def failed(self, code: str, blame: str) -> None:
        self.end, self.blame = (LEFT, "") if code == "client_closed_request" else (code, blame)

    def adds_prompt(self, text: str) -> None:
        """A text was sent upstream."""
        sample = text if len(text) <= _SAMPLE else text[:_SAMPLE]
        others = 0
        if not sample.isascii():
            # Nearly all of them are Chinese where they are many, and have three bytes.
            share = min(1.0, (len(sample.encode("utf-8", "replace")) - len(sample)) / 2 / len(sample))
            others = round(len(text) * share)
        self.ascii_in += len(text) - others
        self.other_in += others


# How much of a text is looked at for its share of other characters.
_SAMPLE = 65_536

"""The decoders of both generations by themselves, and all that they make of a stream."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from app.chat import Event, Finished, Heartbeat, ReasoningDelta, Started, TextDelta
from app.errors import GatewayError
from app.upstreams.account import Account
from app.upstreams.kimi import connect_frames, rest_frames
from app.upstreams.kimi.http import WholeLines
from tests.running.wire import CONNECT_CASES, WireCase

ACCOUNT = Account("id", "alice", "a token", None, False, None, None, None, "kimi.com")
# The scenario of the model that most wire files were asked for.
SCENARIO = "SCENARIO_K2D5"


def lines_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """As a stream reads them, whatever its pieces are."""
    return WholeLines(iter(pieces)).iter_lines(chunk_size=None)


def decode_sse(*streams: Iterable[bytes]) -> Iterator[Event]:
    """Several where Kimi cut the answer at its length limit."""
    decoder = rest_frames.AnswerDecoder(ACCOUNT, "https://kimi.test")
    for pieces in streams:
        yield from decoder.decode(lines_of(pieces), is_last=False)
        if decoder.may_continue:
            decoder = decoder.next()


def decode_connect(*streams: Iterable[bytes]) -> Iterator[Event]:
    (chunks,) = streams
    yield from connect_frames.AnswerDecoder(ACCOUNT, SCENARIO, None).decode(chunks)


Decode = Callable[..., Iterator[Event]]


def decode_of(case: WireCase) -> Decode:
    return decode_connect if case in CONNECT_CASES else decode_sse


@dataclass
class Decoded:
    """All that a stream says, without what depends on its cuts: heartbeats, and where a delta ends."""

    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    error: GatewayError | None = None
    started: Started | None = None
    others: list[Event] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Decoded":
        decoded = cls()
        try:
            for event in events:
                assert decoded.finish_reason is None, f"{event} after the end"
                decoded.add(event)
        except GatewayError as e:
            decoded.error = e
        return decoded

    def add(self, event: Event) -> None:
        match event:
            case TextDelta(text):
                assert text
                self.content += text
            case ReasoningDelta(text):
                assert text
                self.reasoning += text
            case Finished(reason):
                self.finish_reason = reason
            case Started():
                self.started = event
            case Heartbeat():
                pass
            case _:
                self.others.append(event)

    @property
    def meaning(self) -> tuple[object, ...]:
        error = (type(self.error), str(self.error)) if self.error else None
        return self.content, self.reasoning, self.finish_reason, error, self.started, self.others

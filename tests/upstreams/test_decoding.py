"""What Kimi's bytes mean, however the network cuts them: the decoders of both generations by themselves, on the wire
files and on made-up turns. ``test_exactness`` sees the same bytes arrive at a client."""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from app.chat import Event, Finished, Heartbeat, ReasoningDelta, Started, TextDelta
from app.errors import AnswerEmpty, GatewayError, UpstreamError
from app.upstreams.account import Account
from app.upstreams.kimi import connect_frames, rest_frames, sse
from tests.running.made_up_turns import MadeUpTurn, connect_turns, same_every_time, sse_turns
from tests.running.wire import ALL_CASES, CONNECT_CASES, WireCase, cuts_by_line

ACCOUNT = Account("id", "alice", "a token", None, False, None, None, None)
# The scenario of the model that most wire files were asked for.
SCENARIO = "SCENARIO_K2D5"

EVERY_CASE = pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)


class Body:
    """What ``requests.Response.iter_lines`` reads."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        return sse.whole_lines(self._pieces)


def lines_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    response = requests.Response()
    response.raw = Body(pieces)
    return response.iter_lines(chunk_size=None)


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


def cut(body: bytes, offsets: Iterable[int]) -> list[bytes]:
    ends = [0, *offsets, len(body)]
    return [body[start:end] for start, end in zip(ends, ends[1:], strict=False)]


def cuttings(body: bytes, at_random: int) -> Iterator[list[bytes]]:
    """Into one piece, lines, bytes, and so many times into random pieces, of which some may be empty."""
    yield [body]
    yield cut(body, cuts_by_line(body))
    yield [bytes([byte]) for byte in body]
    for seed in range(at_random):
        chance = random.Random(seed)
        yield cut(body, sorted(chance.choices(range(len(body) + 1), k=chance.randint(1, 40))))


@EVERY_CASE
def test_a_wire_file_means_the_same_under_every_cutting(case: WireCase) -> None:
    expected, decode = case.expected, decode_of(case)
    whole = Decoded.of(decode(*([body] for body in case.streams)))
    assert whole.content == expected.get("as_sent", expected["content"])
    assert whole.reasoning == expected["reasoning"]
    assert whole.finish_reason == expected["finish_reason"]
    assert (whole.error.code if whole.error else None) == expected["error"]
    for pieces in zip(*(cuttings(body, 25) for body in case.streams), strict=True):
        assert Decoded.of(decode(*pieces)).meaning == whole.meaning, pieces


# What unpacks to 8 MiB is too much to be read again from its start for every byte.
EVERY_BYTE = pytest.mark.parametrize(
    "case", [case for case in ALL_CASES if case.name != "gzip-bomb"], ids=lambda case: case.name
)


@EVERY_BYTE
def test_a_stream_cut_at_any_byte_is_never_a_finished_answer(case: WireCase) -> None:
    """It is finished from the byte on that completes the frame that says so."""
    body, is_continued = case.streams[0], len(case.streams) > 1
    cut_off = [Decoded.of(decode_of(case)([body[:offset]])) for offset in range(len(body) + 1)]
    for decoded in cut_off:
        assert case.expected.get("as_sent", case.expected["content"]).startswith(decoded.content)
        assert case.expected["reasoning"].startswith(decoded.reasoning)
    finished_at = [offset for offset, decoded in enumerate(cut_off) if decoded.finish_reason is not None]
    if case.expected["finish_reason"] is None or is_continued:
        assert not finished_at
    else:
        assert finished_at == list(range(finished_at[0], len(body) + 1))
    # Without an end there is an error; only a stream that Kimi's own limit ended has neither.
    neither = [body[:at] for at, decoded in enumerate(cut_off) if not decoded.finish_reason and not decoded.error]
    assert all(is_continued and b"all_done" in start for start in neither)


@EVERY_BYTE
def test_nothing_is_held_back(case: WireCase) -> None:
    """All that the bytes so far say has been passed on when the next byte is asked for."""
    decode, body = decode_of(case), case.streams[0]
    passed_on = Decoded()

    def one_by_one() -> Iterator[bytes]:
        for offset in range(len(body)):
            so_far = Decoded.of(decode([body[:offset]]))
            assert (passed_on.content, passed_on.reasoning) == (so_far.content, so_far.reasoning), body[:offset]
            yield body[offset : offset + 1]

    try:
        for event in decode(one_by_one()):
            passed_on.add(event)
    except UpstreamError:
        assert case.expected["error"] is not None or len(case.streams) > 1


@pytest.mark.parametrize(("decode", "turns"), [(decode_sse, sse_turns()), (decode_connect, connect_turns())])
def test_any_turn_means_the_same_under_every_cutting(decode: Decode, turns: st.SearchStrategy[MadeUpTurn]) -> None:
    @same_every_time(100)
    @given(turn=turns)
    def means_the_same(turn: MadeUpTurn) -> None:
        for chunks in cuttings(turn.body, 4):
            decoded = Decoded.of(decode(chunks))
            if not turn.content and not turn.reasoning:
                # E23: an answer without a word is none.
                assert isinstance(decoded.error, AnswerEmpty)
                continue
            assert decoded.error is None
            assert (decoded.content, decoded.reasoning) == (turn.content, turn.reasoning)
            assert decoded.finish_reason == "stop"

    means_the_same()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_of_an_event_end_in_any_way_that_the_standard_knows(end: bytes) -> None:
    lines = [b"\xef\xbb\xbfdata: one", b"data:two", b"", b": a comment", b"event: x", b"", b"", b"data: three", b""]
    body = end.join(lines) + end + b"data: unfinished" + end
    for chunks in cuttings(body, 50):
        decoder = sse.Decoder()
        found = [data for line in lines_of(chunks) if (data := decoder.take(line)) is not None]
        assert found == [b"one\ntwo", b"", b"", b"three"], chunks


def test_a_line_of_megabytes_is_put_together_once() -> None:
    """And not anew with each of its pieces, which would take minutes."""
    decoder, piece = sse.Decoder(), b"x" * 100
    found = [decoder.take(line) for line in lines_of([b"data: ", *[piece] * 200_000, b"\n\n"])]
    assert found == [None, piece * 200_000]

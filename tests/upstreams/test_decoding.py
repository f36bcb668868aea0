"""What Kimi's bytes mean, however the network cuts them: the decoders of both generations by themselves, on the wire
files and on made-up turns. ``test_exactness`` sees the same bytes arrive at a client."""

import random
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import AnswerEmpty, UpstreamError
from app.upstreams.kimi import sse
from tests.running.decoding import Decode, Decoded, decode_connect, decode_of, decode_sse, lines_of
from tests.running.each_case import check_each
from tests.running.made_up_turns import MadeUpTurn, connect_turns, same_every_time, sse_turns
from tests.running.wire import ALL_CASES, CONNECT_CASES, WireCase, cuts_by_line, ends_of_envelopes, places_in


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


def check_wire_files(check: Callable[[WireCase], None], cases: Iterable[WireCase]) -> None:
    check_each(((case.name, case) for case in cases), check)


def places_in_case(case: WireCase) -> list[int]:
    body = case.streams[0]
    return places_in(body, ends_of_envelopes(body) if case in CONNECT_CASES else cuts_by_line(body))


def test_a_wire_file_means_the_same_under_every_cutting() -> None:
    check_wire_files(_means_the_same, ALL_CASES)


def _means_the_same(case: WireCase) -> None:
    expected, decode = case.expected, decode_of(case)
    whole = Decoded.of(decode(*([body] for body in case.streams)))
    assert whole.content == expected.get("as_sent", expected["content"])
    assert whole.reasoning == expected["reasoning"]
    assert whole.finish_reason == expected["finish_reason"]
    assert (whole.error.code if whole.error else None) == expected["error"]
    for pieces in zip(*(cuttings(body, 25) for body in case.streams), strict=True):
        assert Decoded.of(decode(*pieces)).meaning == whole.meaning, pieces


# What unpacks to 8 MiB is too much to be read again from its start for every cut.
SMALL = [case for case in ALL_CASES if case.name != "gzip-bomb"]


def test_a_stream_that_is_cut_is_never_a_finished_answer() -> None:
    """It is finished from the byte on that completes the frame that says so."""
    check_wire_files(_is_finished_at_its_end, SMALL)


def _is_finished_at_its_end(case: WireCase) -> None:
    body, is_continued = case.streams[0], len(case.streams) > 1
    decode, expected = decode_of(case), case.expected
    # What is said although it is an error as a whole.
    said = expected.get("said", expected.get("as_sent", expected["content"]))
    places = places_in_case(case)
    finished_at: list[int] = []
    neither: list[bytes] = []
    for offset in places:
        decoded = Decoded.of(decode([body[:offset]]))
        assert said.startswith(decoded.content)
        assert expected["reasoning"].startswith(decoded.reasoning)
        if decoded.finish_reason is not None:
            finished_at.append(offset)
        elif decoded.error is None:
            neither.append(body[:offset])
    if expected["finish_reason"] is None or is_continued:
        assert not finished_at
    else:
        assert finished_at == [offset for offset in places if offset >= finished_at[0]]
    # Without an end there is an error; only a stream that Kimi's own limit ended has neither.
    assert all(is_continued and b"all_done" in start for start in neither)


def test_nothing_is_held_back() -> None:
    """All that the bytes so far say has been passed on when the next byte is asked for. The one exception is a
    beginning that may be one of Kimi's set phrases as a whole."""
    check_wire_files(_holds_nothing_back, [case for case in SMALL if "phrase" not in case.name])


def _holds_nothing_back(case: WireCase) -> None:
    decode, body, places = decode_of(case), case.streams[0], set(places_in_case(case))
    passed_on = Decoded()

    def one_by_one() -> Iterator[bytes]:
        for offset in range(len(body)):
            if offset in places:
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
    found = [decoder.take(line) for line in lines_of([b"data: ", *[piece] * 80_000, b"\n\n"])]
    assert found == [None, piece * 80_000]

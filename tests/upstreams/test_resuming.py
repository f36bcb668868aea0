"""A stream that breaks is taken up again: exactly the rest, nothing twice, or the error that broke it."""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.chat import Event, Finished, Heartbeat, ReasoningDelta, Started, TextDelta
from app.errors import AnswerRewritten, ConnectionLost, UpstreamError
from app.upstreams.account import Account
from app.upstreams.kimi.connect_frames import AnswerDecoder
from tests.running.each_case import check_each
from tests.running.made_up_turns import MadeUpTurn, connect_turns, same_every_time
from tests.running.wire import CONNECT_CASES, CUT_EVERY, WireCase, ends_of_envelopes, frame, places_in

ACCOUNT = Account("id", "alice", "a token", None, False, None, None, None, "kimi.com")
SCENARIO = "SCENARIO_K2D5"


# A Kimi that keeps an answer, made without the code under test.


@dataclass
class KeptAnswer:
    """The envelopes of a whole stream: flags, number of the frame (0: none), bytes."""

    envelopes: list[tuple[int, int, bytes]]

    @classmethod
    def of(cls, body: bytes) -> "KeptAnswer":
        envelopes = []
        while body:
            size = 5 + int.from_bytes(body[1:5], "big")
            whole, body = body[:size], body[size:]
            try:
                fields = json.loads(whole[5:])
            except ValueError:
                fields = {}
            number = fields.get("eventOffset", 0) if isinstance(fields, dict) else 0
            envelopes.append((whole[0], number if isinstance(number, int) else 0, whole))
        return cls(envelopes)

    def resumed(self, offset: int, overlap: int = 0) -> bytes:
        """What ResumeChat answers: frames with a larger number, and what stands behind them without one."""
        first = next(
            (i for i, (_, number, _) in enumerate(self.envelopes) if number > max(0, offset - overlap)),
            len(self.envelopes) - 1,
        )
        return frame({"heartbeat": {}}) + b"".join(whole for _, _, whole in self.envelopes[first:])

    def message(self, frames: int | None = None) -> bytes:
        """What GetMessage answers after so many envelopes."""
        blocks: dict[str, dict[str, Any]] = {}
        status = "MESSAGE_STATUS_GENERATING"
        for _, _, whole in self.envelopes[:frames]:
            try:
                fields = json.loads(whole[5:])
            except ValueError:
                continue
            if not isinstance(fields, dict):
                continue
            given = fields.get("block")
            if isinstance(given, dict) and isinstance(given.get("id"), str):
                block = blocks.setdefault(given["id"], {"id": given["id"]})
                for part in ("text", "think", "tool", "exception"):
                    if part in given:
                        _add(block, part, given[part], fields.get("op", "set"))
            message = fields.get("message")
            if isinstance(message, dict) and message.get("role") != "user" and message.get("status"):
                status = message["status"]
        return json.dumps({"message": {"id": "m-2", "status": status, "blocks": list(blocks.values())}}).encode()


def _add(block: dict[str, Any], part: str, value: Any, op: str) -> None:
    if part in ("text", "think") and op == "append" and part in block:
        block[part] = {"content": block[part].get("content", "") + value.get("content", "")}
    else:
        block[part] = value


@dataclass
class Client:
    """What a client has been passed on."""

    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None

    def take(self, events: Iterator[Event]) -> None:
        for event in events:
            assert self.finish_reason is None, f"{event} after the end"
            match event:
                case TextDelta(text):
                    self.content += text
                case ReasoningDelta(text):
                    self.reasoning += text
                case Finished(reason):
                    self.finish_reason = reason

    @property
    def answer(self) -> tuple[str, str, str | None]:
        return self.content, self.reasoning, self.finish_reason


def broken_at(body: bytes, offset: int) -> tuple[AnswerDecoder, Client]:
    """After a stream that broke behind so many bytes, and that can be taken up again; else ConnectionLost."""
    decoder, client = AnswerDecoder(ACCOUNT, SCENARIO, None), Client()
    try:
        client.take(decoder.decode([body[:offset]]))
    except ConnectionLost:
        if not decoder.is_named or not decoder.offset:
            raise
    return decoder, client


def whole_answer(body: bytes) -> Client:
    client = Client()
    client.take(AnswerDecoder(ACCOUNT, SCENARIO, None).decode([body]))
    return client


def numbered(body: bytes) -> bytes:
    """The same stream, with a number in each frame, as Kimi sends them: most files are made by hand, without."""
    out, number = b"", 0
    for flags, _, whole in KeptAnswer.of(body).envelopes:
        payload = zlib.decompress(whole[5:], wbits=31) if flags & 1 and len(whole) > 5 else whole[5:]
        try:
            fields = json.loads(payload)
        except ValueError:
            fields = None
        if flags & 2 == 0 and isinstance(fields, dict) and "heartbeat" not in fields:
            number += 1
            # Halves of surrogate pairs are kept.
            whole = frame(json.dumps({**fields, "eventOffset": number}).encode())
        out += whole
    return out


def _resumable(case: WireCase) -> bool:
    """An answer that can be had: complete, and of a size that can be read for each byte."""
    return case.expected["finish_reason"] is not None and len(case.streams[0]) < 20_000


RESUMABLE = [
    WireCase(case.name, [numbered(case.streams[0])], case.expected) for case in CONNECT_CASES if _resumable(case)
]


def broken_everywhere(body: bytes) -> Iterator[tuple[int, AnswerDecoder, Client]]:
    """``broken_at`` each place at which the answer has been named: before that it cannot be asked for."""
    for offset in places_in(body, ends_of_envelopes(body)):
        try:
            decoder, client = broken_at(body, offset)
        except ConnectionLost:
            continue
        yield offset, decoder, client


def test_there_are_recorded_answers_to_cut() -> None:
    assert len(RESUMABLE) >= 20


def check_answers(check: Callable[[WireCase], None], cases: Sequence[WireCase] = RESUMABLE) -> None:
    check_each(((case.name, case) for case in cases), check)


def test_cut_anywhere_and_resumed_it_is_whole() -> None:
    check_answers(_is_whole_when_resumed)


def _is_whole_when_resumed(case: WireCase) -> None:
    """Also where Kimi repeats up to three frames that were there before."""
    body = case.streams[0]
    kept, whole = KeptAnswer.of(body), whole_answer(body)
    cuts = 0
    for offset, decoder, client in broken_everywhere(body):
        cuts += 1
        if client.finish_reason is None:
            decoder.resume()
            client.take(decoder.decode([kept.resumed(decoder.offset, overlap=offset % 4)]))
        assert client.answer == whole.answer, body[:offset]
    assert cuts > 100 // CUT_EVERY


def message_with(content: str, reasoning: str, status: object) -> bytes:
    """What GetMessage answers when the answer holds this."""
    texts = {"think": reasoning, "text": content}
    blocks = [{"id": part, part: {"content": text}} for part, text in texts.items() if text]
    return json.dumps({"message": {"id": "m-2", "role": "assistant", "status": status, "blocks": blocks}}).encode()


# What was refused half-way has no whole, and half of a surrogate pair is shown as something else.
LOOKED_UP = [
    case
    for case in RESUMABLE
    if case.expected["finish_reason"] == "stop" and "\ufffd" not in case.expected["content"]
]


def test_cut_anywhere_and_looked_up_it_is_whole() -> None:
    check_answers(_is_whole_when_looked_up, LOOKED_UP)


def _is_whole_when_looked_up(case: WireCase) -> None:
    """By GetMessage: while the answer is still generated, maybe with less than was sent, and when it is complete."""
    body, (content, reasoning, _) = case.streams[0], whole_answer(case.streams[0]).answer
    for offset, decoder, client in broken_everywhere(body):
        for part in (2, 1):
            held = content[: len(content) // part], reasoning[: len(reasoning) // part]
            if client.finish_reason is None:
                client.take(decoder.take_message(message_with(*held, "MESSAGE_STATUS_GENERATING")))
        if client.finish_reason is None:
            assert (client.content, client.reasoning) == (content, reasoning)
            client.take(decoder.take_message(message_with(content, reasoning, "MESSAGE_STATUS_COMPLETED")))
        assert client.answer == (content, reasoning, "stop"), body[:offset]


def test_it_is_whole_however_often_it_breaks() -> None:
    check_answers(_is_whole_in_the_end)


def _is_whole_in_the_end(case: WireCase) -> None:
    body = case.streams[0]
    kept, whole = KeptAnswer.of(body), whole_answer(body)
    for step in (7, 23, 61):
        _, decoder, client = next(broken_everywhere(body))
        for _ in range(len(body)):
            if client.finish_reason is not None:
                break
            decoder.resume()
            stream = kept.resumed(decoder.offset)
            # A stream that gave nothing new is one that broke too early: the next one lasts longer.
            for length in range(step, len(stream) + step, step):
                before = decoder.offset
                try:
                    client.take(decoder.decode([stream[:length]]))
                except ConnectionLost:
                    if decoder.offset > before:
                        break
                    decoder.resume()
                    continue
                break
        assert client.answer == whole.answer


def test_any_turn_is_whole_wherever_and_however_it_was_cut() -> None:
    @same_every_time(150)
    @given(turn=connect_turns(), data=st.data())
    def is_whole(turn: MadeUpTurn, data: st.DataObject) -> None:
        body = numbered(turn.body)
        kept = KeptAnswer.of(body)
        if not turn.content and not turn.reasoning:
            return
        decoder, client = AnswerDecoder(ACCOUNT, SCENARIO, None), Client()
        stream = body
        for overlap in data.draw(st.lists(st.integers(0, 4), max_size=4)):
            end = data.draw(st.integers(0, len(stream)))
            try:
                client.take(decoder.decode(chunked(stream[:end], data)))
            except ConnectionLost:
                if not decoder.is_named:
                    return
            if client.finish_reason is not None:
                break
            decoder.resume()
            stream = kept.resumed(decoder.offset, overlap)
        if client.finish_reason is None:
            if data.draw(st.booleans()) and decoder.is_named:
                client.take(decoder.take_message(kept.message()))
            else:
                client.take(decoder.decode(chunked(stream, data)))
        assert client.answer == (turn.content, turn.reasoning, "stop")

    is_whole()


def chunked(body: bytes, data: st.DataObject) -> Sequence[bytes]:
    size = data.draw(st.integers(1, 64))
    return [body[start : start + size] for start in range(0, len(body), size)]


# What is no rest


def answer_of(*texts: str, end: str = "MESSAGE_STATUS_COMPLETED") -> bytes:
    shell = {"id": "m-2", "role": "assistant", "status": "MESSAGE_STATUS_GENERATING"}
    frames: list[dict[str, Any]] = [
        {"op": "set", "mask": "chat.lastRequest", "chat": {"id": "c-1"}},
        {"op": "set", "mask": "message", "message": shell},
    ]
    frames += [
        {"op": "append", "mask": "block.text.content", "block": {"id": "1", "text": {"content": text}}}
        for text in texts
    ]
    frames += [{"op": "set", "mask": "message.status", "message": {"id": "m-2", "status": end}}, {"done": {}}]
    return b"".join(frame({**fields, "eventOffset": i}) for i, fields in enumerate(frames, 1)) + frame({}, flags=2)


def test_a_message_that_says_something_else_is_no_rest() -> None:
    body = answer_of("I like ", "tea.")
    decoder, client = broken_at(body, body.index(b"tea."))
    with pytest.raises(AnswerRewritten):
        client.take(decoder.take_message(KeptAnswer.of(answer_of("You like ", "tea.")).message()))
    assert client.content == "I like "


@pytest.mark.parametrize("status", ["MESSAGE_STATUS_CANCELLED", 3])
def test_a_message_that_was_cancelled_is_not_complete(status: object) -> None:
    body = answer_of("I like ", "tea.")
    decoder, client = broken_at(body, body.index(b"tea."))
    message = json.loads(KeptAnswer.of(body).message())
    message["message"]["status"] = status
    with pytest.raises(UpstreamError) as error:
        client.take(decoder.take_message(json.dumps(message).encode()))
    assert error.value.code == "answer_cancelled" and client.finish_reason is None
    # What it holds is passed on: Kimi said it.
    assert client.content == "I like tea."


@pytest.mark.parametrize(
    ("status", "is_complete"), [(1, False), (2, True), ("MESSAGE_STATUS_NEW", False), (None, False)]
)
def test_only_a_complete_message_ends_an_answer(status: object, is_complete: bool) -> None:
    body = answer_of("I like ", "tea.")
    decoder, client = broken_at(body, body.index(b"tea."))
    message = json.loads(KeptAnswer.of(body).message())
    message["message"]["status"] = status
    # Also where the fields stand without the object around them.
    client.take(decoder.take_message(json.dumps(message["message"]).encode()))
    assert client.finish_reason == ("stop" if is_complete else None)


def test_heartbeats_and_starts_are_no_text() -> None:
    """The shape of what a resumed stream begins with."""
    body = answer_of("I like ", "tea.")
    decoder, _ = broken_at(body, body.index(b"tea."))
    decoder.resume()
    events = list(decoder.decode([KeptAnswer.of(body).resumed(decoder.offset, overlap=9)]))
    assert [event for event in events if not isinstance(event, Heartbeat | Started)] == [
        TextDelta("tea."),
        Finished("stop"),
    ]

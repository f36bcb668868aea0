"""Answers of Kimi as bytes: the recorded ones in ``tests/data/wire``, and those that tests put together, without
the code under test.
"""

import json
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.running.answers import Answer
from tests.running.simulator import Simulator

WIRE = Path(__file__).parents[1] / "data" / "wire"

# How many bytes there are from one cut to the next one. It has no divisor in common with the lengths of characters
# and escapes (2, 3, 4, 6 and 12 bytes), so that each of their bytes is met. CUT_EVERY=1 is every byte.
CUT_EVERY = int(os.environ.get("CUT_EVERY", "5"))


@dataclass
class WireCase:
    """One recorded or made-up turn: the bytes of its streams, and what a client must make of them."""

    name: str
    streams: list[bytes]
    expected: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "WireCase":
        if path.with_suffix(".connect").exists():
            return cls(path.stem, [read_envelopes(path.with_suffix(".connect"))], json.loads(path.read_text()))
        parts = [path.with_suffix(".sse"), *sorted(WIRE.glob(f"{path.stem}.?.sse"))]
        return cls(path.stem, [part.read_bytes() for part in parts], json.loads(path.read_text()))


def read_envelopes(path: Path) -> bytes:
    """Lines of ``five bytes in hex | payload``; a payload that is no text is written as ``hex:…``."""
    body = b""
    for line in path.read_text().removesuffix("\n").split("\n"):
        prefix, _, payload = line.partition(" | ")
        body += bytes.fromhex(prefix)
        body += bytes.fromhex(payload[4:]) if payload.startswith("hex:") else payload.encode()
    return body


ALL_CASES = [WireCase.read(path) for path in sorted(WIRE.glob("*.json"))]
CONNECT_CASES = [case for case in ALL_CASES if (WIRE / f"{case.name}.connect").exists()]
CASES = [case for case in ALL_CASES if case not in CONNECT_CASES]


def cuts_by_line(body: bytes) -> list[int]:
    return [i + 1 for i, byte in enumerate(body) if byte == 0x0A]


def places_in(body: bytes, ends: Iterable[int]) -> list[int]:
    """Where a stream is cut: at its ends, at those of its lines or frames, beside them, and at places between."""
    near = {end + beside for end in (0, len(body), *ends) for beside in (-1, 0, 1)}
    return sorted({at for at in near if 0 <= at <= len(body)} | {*range(0, len(body), CUT_EVERY)})


def ends_of_envelopes(body: bytes) -> Iterator[int]:
    """Behind the five bytes at which each begins, and at its end."""
    at = 0
    while at < len(body):
        yield at + 5
        at += 5 + int.from_bytes(body[at + 1 : at + 5], "big")
        yield at


def cuts_at_random(body: bytes, seed: int) -> list[int]:
    chance = random.Random(seed)
    return sorted(chance.sample(range(1, len(body)), min(len(body) - 1, chance.randint(1, 40))))


def check(case: WireCase, answer: Answer, stream: bool) -> None:
    expected = case.expected
    if expected["error"]:
        assert answer.error is not None and answer.error["code"] == expected["error"], answer
        assert answer.finish_reason is None
        assert answer.content == (expected["content"] if stream else "")
        return
    assert answer.error is None, answer.error
    assert answer.content == expected["content"]
    assert answer.reasoning == expected["reasoning"]
    assert answer.finish_reason == expected["finish_reason"]
    assert answer.done


def frame(fields: object, flags: int = 0) -> bytes:
    """One of Connect's envelopes with JSON in it, made without the code under test."""
    payload = fields if isinstance(fields, bytes) else json.dumps(fields, ensure_ascii=False).encode()
    return bytes([flags]) + len(payload).to_bytes(4, "big") + payload


ALL_DONE = b'data: {"event":"all_done"}\n\n'


def cmpl(text: str) -> bytes:
    return b"data: " + json.dumps({"event": "cmpl", "text": text}, ensure_ascii=False).encode() + b"\n\n"


def connect_turn(frames: list[dict[str, Any]]) -> bytes:
    """A whole Connect stream around the frames of the answer."""
    shell = {"id": "m-2", "parentId": "m-1", "role": "assistant", "status": "MESSAGE_STATUS_GENERATING"}
    start = [{"op": "set", "mask": "chat.lastRequest", "chat": {"id": "c-1"}}]
    start.append({"op": "set", "mask": "message", "message": shell})
    status = {"id": "m-2", "status": "MESSAGE_STATUS_COMPLETED"}
    end = [{"op": "set", "mask": "message.status", "message": status}, {"done": {}}]
    return b"".join(frame(fields) for fields in [*start, *frames, *end]) + frame({}, flags=2)


def said(part: str, text: str, block: str = "1") -> dict[str, Any]:
    return {"op": "append", "mask": f"block.{part}.content", "block": {"id": block, part: {"content": text}}}


def say_in_turn(simulator: Simulator, *texts: str) -> None:
    """Each text is the whole answer of one turn."""
    for number, text in enumerate(texts):
        simulator.script(connect_answer(text, number) if simulator.profile.speaks_connect else sse_answer(text))


def sse_answer(text: str) -> bytes:
    events = [{"event": "cmpl", "text": text}, {"event": "all_done"}]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def connect_answer(text: str, number: int) -> bytes:
    frames: list[Any] = [
        {"op": "set", "chat": {"id": "c-1"}},
        {"op": "set", "mask": "message", "message": {"id": f"a-{number}", "role": "assistant"}},
        {"op": "set", "mask": "block.text", "block": {"id": "2", "text": {"content": text}}},
        {
            "op": "set",
            "mask": "message.status",
            "message": {"id": f"a-{number}", "status": "MESSAGE_STATUS_COMPLETED"},
        },
    ]
    return b"".join(map(frame, frames)) + frame({}, flags=2)

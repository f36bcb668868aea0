"""A stream of Kimi's that breaks in mid-answer: the client gets exactly the rest, or the error that broke it.

``tests/upstreams/test_resuming`` cuts every recorded answer everywhere, without sockets. Here it is real
connections that end, are reset or fall silent; with ``RESUME_EVERY=1`` at every byte.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.running import Answer, Gateway, Running, Share, Simulator, ask, mint, read_stream, wait_until
from tests.running.wire import frame

pytestmark = pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)

# Where silence is what is tried.
IDLE_S = "8"

# A cut at each byte, or at each so many.
EVERY = int(os.environ.get("RESUME_EVERY", "0"))

THOUGHT, TEXT = "Something hot, then. ", "Tea, 茶, or 🍵: what you like."
QUESTION = f"hello [[sim think={json.dumps(THOUGHT)} say={json.dumps(TEXT)} token_chars=5"

RESUMED, LOOKED_UP = {"resume": "ok"}, {"resume": "absent"}
EACH_WAY = pytest.mark.parametrize("way", [RESUMED, LOOKED_UP], ids=["ResumeChat", "GetMessage"])
EACH_MODE = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


# A gateway that does not try a turn again, so that what helps is resuming.
PATIENT: dict[str, Any] = {
    "ACCOUNT_MAX_STREAMS": "0",
    "FAILOVER_S": "0",
    "HEARTBEAT_S": "0.3",
    # Long enough for a busy machine.
    "IDLE_TIMEOUT_S": "40",
    "FIRST_EVENT_TIMEOUT_S": "40",
}


def patient(shared_gateway: Share, **settings: str) -> Gateway:
    return shared_gateway(users="alice", **{**PATIENT, **settings})


def size_of_stream(simulator: Simulator) -> int:
    """The bytes of the answer, as Kimi sends it."""
    options = {"thinking": True, "enable_plugin": False, "model": "k2d6-chat"}
    blocks = [{"message_id": "", "text": {"content": QUESTION + "]]"}}]
    body = {
        "scenario": "SCENARIO_CHAT",
        "tools": [],
        "options": options,
        "message": {"role": "user", "blocks": blocks, "scenario": "SCENARIO_CHAT"},
    }
    headers = {
        "Authorization": f"Bearer {mint('zoe', site='kimi.ai')}",
        "Content-Type": "application/connect+json",
        "Connect-Protocol-Version": "1",
    }
    url = f"{simulator.url}/apiv2/kimi.gateway.chat.v1.ChatService/Chat"
    answer = requests.post(url, frame(body), headers=headers, timeout=10)
    assert "🍵".encode() in answer.content or b"ud83c" in answer.content, answer.text
    return len(answer.content)


def asked_for(simulator: Simulator, method: str) -> int:
    return len(simulator.requests(f"ChatService/{method}"))


@EACH_WAY
@pytest.mark.parametrize(("end", "step"), [("close", 61), ("reset", 67), ("stall", 211)])
def test_cut_anywhere_the_answer_is_whole(
    shared_gateway: Share, simulator: Simulator, end: str, step: int, way: dict[str, str]
) -> None:
    simulator.knobs(**way)
    size = size_of_stream(simulator)
    offsets = range(1, size, EVERY or step)
    idle_s = IDLE_S if end == "stall" else "40"
    gateway = patient(shared_gateway, IDLE_TIMEOUT_S=idle_s, FIRST_EVENT_TIMEOUT_S=idle_s)
    # Those that wait for a silence to end wait together.
    with ThreadPoolExecutor(32 if end == "stall" else 4) as clients:

        def cut(offset: int) -> Answer:
            return ask(gateway, offset % 2 == 0, f"{QUESTION} end_after_bytes={offset} end={end}]]", thinking=True)

        answers = list(clients.map(cut, offsets))
    errors = [answer for answer in answers if answer.error is not None]
    for answer in answers[len(errors) :]:
        assert answer == Answer(TEXT, THOUGHT, "stop", None, True, answer.comments)
    # Until Kimi has named the chat and the answer, nobody can be asked for the rest.
    for answer in errors:
        assert (answer.content, answer.reasoning, answer.finish_reason) == ("", "", None)
    assert len(errors) < len(answers) / 2
    assert asked_for(simulator, "ResumeChat") >= len(answers) - len(errors) - 1
    # The client's answer never came from a second turn.
    assert len(simulator.turns()) <= len(answers) + 1


@EACH_MODE
@pytest.mark.parametrize(
    ("end", "code"), [("close", "upstream_error"), ("reset", "upstream_error"), ("stall", "timeout")]
)
def test_what_cannot_be_had_is_the_error_of_the_break(
    shared_gateway: Share, simulator: Simulator, end: str, code: str, stream: bool
) -> None:
    simulator.knobs(resume="absent", get_message="absent")
    size = size_of_stream(simulator)
    offsets = (size * 3 // 4,) if end == "stall" else (size // 2, size * 3 // 4, size - 20)
    gateway = patient(shared_gateway, IDLE_TIMEOUT_S=IDLE_S if end == "stall" else "40")
    began = time.monotonic()
    for offset in offsets:
        answer = ask(gateway, stream, f"{QUESTION} end_after_bytes={offset} end={end}]]", thinking=True)
        assert answer.error is not None and answer.error["code"] == code, answer
        assert answer.finish_reason is None
        assert TEXT.startswith(answer.content) and THOUGHT.startswith(answer.reasoning)
    # Two refusals are enough to know.
    assert time.monotonic() - began < 30
    assert asked_for(simulator, "ResumeChat") == asked_for(simulator, "GetMessage") == len(offsets)


@EACH_MODE
def test_where_it_is_switched_off_nothing_is_asked_for(
    shared_gateway: Share, simulator: Simulator, stream: bool
) -> None:
    gateway = patient(shared_gateway, RESUME_S="0")
    answer = ask(gateway, stream, f"{QUESTION} end_after_bytes={size_of_stream(simulator) - 400} end=close]]")
    assert answer.error is not None and answer.error["code"] == "upstream_error"
    assert (asked_for(simulator, "ResumeChat"), asked_for(simulator, "GetMessage")) == (0, 0)


@EACH_WAY
def test_it_is_whole_however_often_it_breaks(
    shared_gateway: Share, simulator: Simulator, way: dict[str, str]
) -> None:
    simulator.knobs(**way)
    gateway = patient(shared_gateway)
    for end in ("close", "reset"):
        answer = ask(gateway, True, f"{QUESTION} end_after_bytes=1000 end={end} end_times=0]]", thinking=True)
        assert (answer.content, answer.reasoning, answer.finish_reason) == (TEXT, THOUGHT, "stop")
    assert asked_for(simulator, "ResumeChat") >= (4 if way == RESUMED else 2)


@EACH_MODE
def test_a_stream_that_ends_behind_its_answer_is_looked_up(
    shared_gateway: Share, simulator: Simulator, stream: bool
) -> None:
    """All of the answer came, and no end of the stream that says so, nor of a stream that is resumed."""
    answer = ask(patient(shared_gateway), stream, f"{QUESTION} fail=done_only]]", thinking=True)
    assert (answer.content, answer.reasoning, answer.finish_reason) == (TEXT, THOUGHT, "stop")
    assert (asked_for(simulator, "ResumeChat"), asked_for(simulator, "GetMessage")) == (2, 1)


def test_where_messages_are_not_served_resuming_goes_on(shared_gateway: Share, simulator: Simulator) -> None:
    simulator.knobs(get_message="absent")
    gateway = patient(shared_gateway, RESUME_S="4")
    answer = ask(gateway, True, f"{QUESTION} fail=done_only]]", thinking=True)
    assert answer.content == TEXT and answer.error is not None and answer.error["code"] == "upstream_error"
    assert asked_for(simulator, "GetMessage") == 1 and asked_for(simulator, "ResumeChat") >= 3


# Not each way in each mode: the mode plays no part in how the rest is asked for.
@pytest.mark.parametrize(("way", "stream"), [(RESUMED, True), (LOOKED_UP, False)], ids=["ResumeChat", "GetMessage"])
def test_with_a_token_that_has_expired_meanwhile(
    running: Running, simulator: Simulator, way: dict[str, str], stream: bool
) -> None:
    """Tokens live for 15 minutes, and answers for half an hour."""
    simulator.knobs(access_lifetime_s=8, refresh_lifetime_s=3600, **way)
    token = mint("alice", 3600, "refresh", site="kimi.ai")
    with running.gateway(simulator.url, KIMI_TOKENS=f"alice={token}", **PATIENT) as gateway:
        answer = ask(
            gateway,
            stream,
            f"{QUESTION} first_delay_s=9 end_after_bytes={size_of_stream(simulator) - 700} end=close]]",
        )
    assert (answer.content, answer.finish_reason) == (TEXT, "stop"), answer
    # Either call: one of them is not there.
    asked = [r for r in simulator.requests("ChatService/") if r["path"].endswith(("ResumeChat", "GetMessage"))]
    tokens = {request["headers"]["authorization"] for request in asked}
    assert len(tokens) == 2, "the old one was rejected, the new one taken"


@EACH_WAY
def test_meanwhile_the_client_gets_heartbeats(
    shared_gateway: Share, simulator: Simulator, way: dict[str, str]
) -> None:
    simulator.knobs(**way)
    gateway = patient(shared_gateway)
    began = time.monotonic()
    answer = ask(gateway, True, "hello [[sim say=abcdefgh token_chars=1 delay_s=0.5 end_after_bytes=1100 end=close]]")
    took_s = time.monotonic() - began
    assert (answer.content, answer.finish_reason) == ("abcdefgh", "stop")
    assert took_s > 3 and answer.comments >= 3
    assert asked_for(simulator, "ResumeChat") == 1


@EACH_MODE
def test_what_does_not_come_in_time_is_the_error(shared_gateway: Share, simulator: Simulator, stream: bool) -> None:
    """Kimi goes on saying that it is at it, and says nothing."""
    simulator.knobs(resume="absent")
    gateway = patient(shared_gateway, RESUME_S="1.5", IDLE_TIMEOUT_S=IDLE_S)
    began = time.monotonic()
    answer = ask(
        gateway, stream, f"{QUESTION} gate=never gate_after=3 end_after_bytes=1500 end=reset]]", thinking=True
    )
    took_s = time.monotonic() - began
    assert answer.error is not None and answer.error["code"] in ("upstream_error", "timeout"), answer
    assert 1.5 <= took_s < 30
    assert asked_for(simulator, "GetMessage") >= 2


@EACH_WAY
def test_an_answer_that_was_cancelled_meanwhile_is_not_complete(
    shared_gateway: Share, simulator: Simulator, way: dict[str, str]
) -> None:
    simulator.knobs(**way)
    gateway = patient(shared_gateway)
    answer = ask(gateway, True, f"{QUESTION} fail=cancelled fail_after=4 end_after_bytes=1500 end=close]]")
    assert answer.finish_reason is None
    assert answer.error is not None and answer.error["code"] == "answer_cancelled", answer
    assert TEXT.startswith(answer.content)


def test_a_client_that_leaves_meanwhile_stops_it(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = patient(shared_gateway, ACCOUNT_MAX_STREAMS="1")
    question = f"{QUESTION} gate=stay gate_after=3 end_after_bytes=1500 end=close]]"
    with gateway.say(question, stream=True):
        simulator.wait("gate:stay", at_least=1)
        wait_until("the stream is resumed", lambda: asked_for(simulator, "ResumeChat"))
    simulator.wait("open_streams", equals=0)
    # Told in the background.
    wait_until("Kimi is told to stop", lambda: asked_for(simulator, "CancelChat"))
    assert ask(gateway, True).finish_reason == "stop"
    assert asked_for(simulator, "CancelChat") == 1


def test_the_conversation_goes_on_behind_it(shared_gateway: Share, simulator: Simulator, name: str) -> None:
    gateway = patient(shared_gateway)
    with gateway.say(f"{QUESTION} end_after_bytes=1500 end=reset]]", name, stream=True) as response:
        assert read_stream(response).content == TEXT
    assert gateway.say("and then?", name).ok
    first, second = simulator.turns()
    assert second.chat == first.chat
    (resumed,) = simulator.requests("ChatService/ResumeChat")
    # Its body as kimi-protocol-2.md 5.3 has it (K15).
    (body,) = resumed["frames"]
    assert body.keys() == {"chat_id", "message_id", "event_offset"} and body["event_offset"] > 0
    assert body["chat_id"] == first.chat
    assert second.body["message"]["parent_id"] == body["message_id"]

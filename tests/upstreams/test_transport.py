"""The door to Kimi, tried on the simulator: limits of time that the gateway's own limits would reach first, and
connections that are used again."""

import pytest

from app.concurrency.background import Cancellation
from app.errors import UpstreamTimeout
from app.upstreams.account import Account
from app.upstreams.kimi.http import KimiHttp, Timeouts
from tests.running import EACH_GENERATION, EVENT_STREAM, Gateway, Simulator, mint

PATH = "/api/chat/any/completion/stream"


def account() -> Account:
    return Account("acc", "alice", mint("alice"), None, False, None, None, None, "kimi.com")


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_stream_on_which_nothing_comes_any_more_is_given_up(simulator: Simulator, framing: str) -> None:
    simulator.script(b"data: {}\n\n", framing=framing, end="stall", headers=EVENT_STREAM, match=PATH)
    http = KimiHttp(simulator.url, Timeouts(5.0, 5.0, 0.3))
    chunks = []
    with (
        pytest.raises(UpstreamTimeout),
        http.stream(PATH, account(), b"{}", "application/json", Cancellation()) as stream,
    ):
        for chunk in stream.chunks():
            chunks.append(chunk)
    assert b"".join(chunks) == b"data: {}\n\n"
    simulator.wait("open_streams", equals=0)
    http.close()


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_refusal_of_which_the_half_comes_is_none(simulator: Simulator, framing: str) -> None:
    headers = {"Content-Type": "application/json"}
    simulator.script(b'{"code":', framing=framing, end="stall", headers=headers, match=PATH)
    http = KimiHttp(simulator.url, Timeouts(5.0, 5.0, 0.3))
    with (
        pytest.raises(UpstreamTimeout),
        http.stream(PATH, account(), b"{}", "application/json", Cancellation()) as stream,
    ):
        stream.whole()
    http.close()


def test_a_stream_on_which_something_comes_is_not_given_up(simulator: Simulator) -> None:
    body = b": one\n: two\n: three\n: four\n"
    cuts = [6, 12, 20]
    simulator.script(body, cuts=cuts, gap_s=0.2, headers=EVENT_STREAM, match=PATH)
    http = KimiHttp(simulator.url, Timeouts(5.0, 5.0, 0.5))
    with http.stream(PATH, account(), b"{}", "application/json", Cancellation()) as stream:
        assert b"".join(stream.chunks()) == body
    http.close()


@EACH_GENERATION
def test_connections_to_kimi_are_used_again(forgetful: Gateway, simulator: Simulator) -> None:
    forgetful.say("hello")
    simulator.wait("deleted_chats", at_least=1)
    before = simulator.state()["total_connections"]
    for number in range(2, 7):
        # Read to its end: whoever leaves earlier ends the connection to Kimi, too.
        assert forgetful.say("hello", stream=True).text.endswith("data: [DONE]\n\n")
        simulator.wait("deleted_chats", at_least=number)
    assert simulator.state()["total_connections"] == before


def test_a_connection_that_kimi_has_closed_is_not_used_again(forgetful: Gateway, simulator: Simulator) -> None:
    forgetful.say("hello")
    simulator.wait("deleted_chats", at_least=1)
    for number in range(2, 5):
        # Told that it may be kept, and closed all the same.
        body = b'data: {"event":"cmpl","text":"a"}\n\ndata: {"event":"all_done"}\n\n'
        length = {"Content-Length": str(len(body)), **EVENT_STREAM}
        simulator.script(body, framing="length", end="close", headers=length)
        assert forgetful.say("hello").json()["choices"][0]["message"]["content"] == "a"
        simulator.wait("deleted_chats", at_least=number)

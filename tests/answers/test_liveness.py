"""Silence, heartbeats and clients that leave: under gunicorn with gevent, with threads, and without gunicorn."""

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.running import (
    EACH_GENERATION,
    Gateway,
    Profile,
    RawClient,
    Running,
    Share,
    Simulator,
    ask,
    read_stream,
    wait_until,
)

# That a client has left is noticed with the next heartbeat. Much sooner than Kimi's silence, on a busy machine, too.
NOTICED_S = 20.0
BOTH_MODES = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
# Where the generation plays no part, those that start slowly are the ones of ``LEAVING``, as far as possible.
EVERY_SERVER = pytest.mark.parametrize(
    ("patient", "profile"), [("forked", "all"), ("gthread", "sse-2025"), ("threads", "sse-2025")], indirect=True
)


# All that matters under gevent; under the others each value with some of the values of the others, and one generation
# each: how a client is noticed is the server's affair, and how Kimi is told that of the generation.
LEAVING = [
    *(
        ("forked", profile, how, moment, stream)
        for profile, how in (("sse-2025", "close"), ("sse-2025", "reset"), ("connect-2026-09", "close"))
        for moment in ("before the headers", "before the first token", "in mid-stream")
        for stream in (False, True)
    ),
    *(
        (server, profile, *case)
        for server, profile in (("gthread", "sse-2025"), ("threads", "connect-2026-09"))
        for case in (
            ("close", "before the headers", True),
            ("reset", "before the first token", False),
            ("close", "before the first token", True),
            ("reset", "in mid-stream", True),
            ("close", "in mid-stream", False),
        )
    ),
]


@pytest.mark.parametrize(("patient", "profile", "how", "moment", "stream"), LEAVING, indirect=["patient", "profile"])
def test_a_client_that_leaves_closes_the_upstream_stream(
    patient: Gateway, simulator: Simulator, profile: Profile, stream: bool, moment: str, how: str
) -> None:
    after = {"before the headers": -1, "before the first token": 0, "in mid-stream": 2}[moment]
    simulator.knobs(gate="leave", gate_after=after, tokens=10)
    client = RawClient(patient, stream, model=profile.model)
    simulator.wait("gate:leave", at_least=1)
    if stream and after > 0:
        client.read_until(b'"content":', 3)
    simulator.wait("open_streams", at_least=1)
    client.leave(how)
    simulator.wait("open_streams", equals=0, timeout_s=NOTICED_S)
    if profile.speaks_connect:
        if moment == "before the headers":
            # Kimi has not even said which chat it is: there is nothing that could be named.
            return
        # Kimi is told to stop, and told what.
        wait_until("the answer is cancelled", lambda: simulator.requests("CancelChat"))
        (chat_id,) = simulator.state()["chats"]
        (cancelled,) = simulator.requests("CancelChat")
        assert cancelled["json"]["chat_id"] == chat_id and cancelled["json"]["message_id"]
    simulator.wait("deleted_chats", equals=1)


@pytest.mark.parametrize(
    ("patient", "profile"),
    [("forked", "sse-2025"), ("forked", "connect-2026-09"), ("gthread", "sse-2025"), ("threads", "connect-2026-09")],
    indirect=True,
)
def test_a_client_that_leaves_closes_an_upstream_stream_that_ends_with_its_connection(
    patient: Gateway, simulator: Simulator, profile: Profile
) -> None:
    """Such a connection has let go of its socket when the answer begins."""
    simulator.knobs(framing="close", gate="leave", gate_after=2, tokens=10)
    client = RawClient(patient, True, model=profile.model)
    client.read_until(b'"content":', 3)
    client.leave("close")
    simulator.wait("open_streams", equals=0, timeout_s=NOTICED_S)
    if profile.speaks_connect:
        # Not taken for an end of Kimi's.
        wait_until("the answer is cancelled", lambda: simulator.requests("CancelChat"))


@pytest.mark.parametrize(
    ("patient", "profile", "stream"),
    [
        ("forked", "all", True),
        ("forked", "all", False),
        ("gthread", "sse-2025", True),
        ("threads", "sse-2025", False),
    ],
    indirect=["patient", "profile"],
)
def test_a_client_that_leaves_while_the_chat_is_being_opened_leaves_none_behind(
    patient: Gateway, simulator: Simulator, stream: bool
) -> None:
    simulator.knobs(create_gate="opening")
    ended = patient.log().count(" end=")
    client = RawClient(patient, stream)
    simulator.wait("gate_waiting:opening", equals=1)
    client.leave("close")
    wait_until("it is noticed", lambda: patient.log().count(" end=") > ended)
    simulator.open_gate("opening")
    wait_until("it is deleted", lambda: [c["deleted"] for c in simulator.state()["chats"].values()] == [True])
    assert not simulator.turns()


def test_a_chat_that_does_not_open_is_not_waited_for_when_its_client_has_left(
    patient: Gateway, simulator: Simulator
) -> None:
    simulator.knobs(fail="silent_headers", fail_at="create")
    client = RawClient(patient, stream=True)
    wait_until("the chat is asked for", lambda: simulator.requests("/api/chat"))
    client.leave("close")
    patient.wait_until_idle()


@EVERY_SERVER
def test_a_client_that_leaves_a_busy_stream_closes_the_upstream_stream(
    patient: Gateway, simulator: Simulator
) -> None:
    """Tokens keep coming: the next write or the next look finds out."""
    for stream in (True, False):
        simulator.knobs(tokens=1_000_000, delay_s=0.01)
        client = RawClient(patient, stream)
        simulator.wait("open_streams", at_least=1)
        client.leave("close")
        simulator.wait("open_streams", equals=0, timeout_s=NOTICED_S)


@EVERY_SERVER
def test_a_client_that_leaves_the_line_of_a_conversation_is_noticed(patient: Gateway, simulator: Simulator) -> None:
    simulator.knobs(gate="line", gate_after=1)
    path = "/v1/chat/completions/line"
    first = RawClient(patient, True, path)
    simulator.wait("gate:line", at_least=1)
    waited = patient.log().count("conversation_busy waiting=1")
    second = RawClient(patient, True, path)
    wait_until("the second turn is in the line", lambda: patient.log().count("conversation_busy waiting=1") > waited)
    second.leave("close")
    wait_until("it is noticed", lambda: "attempts=0" in patient.log())
    simulator.open_gate("line")
    first.read_until(b"[DONE]")
    first.leave("close")
    simulator.knobs(gate="")
    assert patient.say("again", conversation="line").ok
    # The one that left never became a turn.
    assert len(simulator.requests("/completion/stream")) == 2


@pytest.mark.parametrize(
    ("patient", "profile", "gate_after"),
    [
        *(("forked", "all", gate_after) for gate_after in (-1, 0, 1)),
        ("gthread", "sse-2025", 0),
        ("threads", "sse-2025", 1),
    ],
    indirect=["patient", "profile"],
)
def test_a_silent_stream_is_kept_alive_and_then_whole(
    patient: Gateway, simulator: Simulator, gate_after: int
) -> None:
    simulator.knobs(gate="hush", gate_after=gate_after, say="one two three", token_chars=4)
    client = RawClient(patient, True)
    client.read_until(b"\n: keep-alive\n\n", 2)
    simulator.open_gate("hush")
    got = client.read_until(b"data: [DONE]\n\n")
    client.leave("close")
    assert got.startswith(b"HTTP/1.1 200 OK")
    deltas = [
        json.loads(line[6:]) for line in got.replace(b"\r\n", b"\n").split(b"\n") if line.startswith(b"data: {")
    ]
    assert "".join(d["choices"][0]["delta"].get("content", "") for d in deltas) == "one two three"
    assert deltas[-1]["choices"][0]["finish_reason"] == "stop"


@EVERY_SERVER
def test_a_failure_after_the_headers_went_out_is_an_error_event(patient: Gateway, simulator: Simulator) -> None:
    simulator.knobs(gate="late", gate_after=0, fail="overloaded", fail_after=0)
    client = RawClient(patient, True)
    client.read_until(b": keep-alive")
    simulator.open_gate("late")
    got = client.read_until(b"[DONE]")
    client.leave("close")
    assert b'"code":"overloaded"' in got and b'"finish_reason":"stop"' not in got


@EACH_GENERATION
def test_kimis_own_signs_of_life_keep_a_stream_from_timing_out(gateway: Gateway, simulator: Simulator) -> None:
    """Nothing but pings for longer than the idle timeout of four seconds: patience, no error."""
    simulator.knobs(ping_s=0.2, heartbeat_s=0.2, first_delay_s=5, say="late")
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda stream: ask(gateway, stream), (True, False))
        assert [answer.content for answer in answers] == ["late", "late"]


@pytest.mark.parametrize(("patient", "profile"), [("forked", "all"), ("gthread", "sse-2025")], indirect=True)
def test_a_slow_reader_gets_everything(patient: Gateway, simulator: Simulator) -> None:
    """Much more than all buffers hold: the upstream is slowed down instead of being stored, nothing is lost."""
    simulator.knobs(tokens=8_000, token_chars=4096)
    slow = RawClient(patient, True)
    simulator.wait("open_streams", at_least=1)
    simulator.knobs(tokens=1_000)
    fast = RawClient(patient, True)
    assert fast.read_until(b'"finish_reason":"stop"').count(b'"content":') == 1_001
    fast.leave("close")
    # The one that came later has everything; Kimi still waits for the one that does not read.
    simulator.wait("open_streams", equals=1)
    assert slow.read_until(b'"finish_reason":"stop"').count(b'"content":') == 8_001
    slow.leave("close")
    simulator.wait("open_streams", equals=0)


@EACH_GENERATION
@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_connections_to_kimi_are_used_again(shared_gateway: Share, simulator: Simulator, framing: str) -> None:
    gateway = shared_gateway(KIMI_KEEP_CHATS="1")
    simulator.knobs(framing=framing)
    before = simulator.state()["total_connections"]
    for _ in range(10):
        assert read_stream(gateway.say("hello", stream=True)).finish_reason == "stop"
    opened = simulator.state()["total_connections"] - before
    # A body that ends with its connection costs one each time; nothing else does.
    assert opened <= (2 if framing == "chunked" else 12)


def test_a_stop_signal_lets_running_answers_end(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, server="gevent") as gateway:
        simulator.knobs(gate="term", gate_after=1, say="one two three", token_chars=4)
        gateway.wait_for_workers()
        client = RawClient(gateway, True)
        simulator.wait("gate:term", at_least=1)
        gateway.process.popen.send_signal(signal.SIGTERM)
        simulator.open_gate("term")
        got = client.read_until(b"data: [DONE]\n\n")
        assert got.count(b'"content":') == 5 and b'"finish_reason":"stop"' in got
        client.leave("close")
        assert gateway.process.popen.wait(60) == 0


def test_a_stop_does_not_wait_for_connections_that_nobody_uses(running: Running, simulator: Simulator) -> None:
    """Clients and proxies keep them for a minute. One that is in use is closed after its answer."""
    with running.gateway(simulator.url, GUNICORN_CMD_ARGS="--graceful-timeout 600") as gateway:
        simulator.knobs(gate="term", gate_after=1, say="one two three", token_chars=4)
        gateway.wait_for_workers()
        with requests.Session() as idle:
            assert idle.get(f"{gateway.url}/healthz").ok
            client = RawClient(gateway, True)
            simulator.wait("gate_waiting:term", at_least=1)
            gateway.process.popen.send_signal(signal.SIGTERM)
            simulator.open_gate("term")
            assert b'"finish_reason":"stop"' in client.read_until(b"data: [DONE]\n\n")
            client.leave("close")
            assert gateway.process.popen.wait(60) == 0


def test_answers_that_outlast_a_stop_are_told_so(running: Running, simulator: Simulator) -> None:
    """A long thought takes minutes, and gunicorn waits for seconds."""
    with running.gateway(simulator.url, GUNICORN_CMD_ARGS="--graceful-timeout 5") as gateway:
        simulator.knobs(gate="term", gate_after=1)
        gateway.wait_for_workers()
        streamed = RawClient(gateway, True)
        with ThreadPoolExecutor(1) as pool:
            whole = pool.submit(gateway.say, "hello")
            simulator.wait("gate_waiting:term", equals=2)
            gateway.process.popen.send_signal(signal.SIGTERM)
            got = streamed.read_until(b"data: [DONE]\n\n")
            assert b'"code":"server_shutting_down"' in got and b'"finish_reason":"stop"' not in got
            assert whole.result().status_code == 503
            error = whole.result().json()["error"]
            assert (error["code"], whole.result().headers["x-should-retry"]) == ("server_shutting_down", "false")
        streamed.leave("close")
        assert gateway.process.popen.wait(60) == 0
        assert "Worker graceful timeout" not in gateway.log()
        simulator.wait("open_streams", equals=0)


def test_hundreds_of_streams_at_once(running: Running, simulator: Simulator) -> None:
    """They wait for one another at a gate, so all are open at the same time."""
    simulator.knobs(gate="many", gate_after=1, say="all of us", token_chars=3)
    with running.gateway(simulator.url, WEB_CONCURRENCY="2", ACCOUNT_MAX_STREAMS="0") as gateway:
        clients = [RawClient(gateway, True) for _ in range(200)]
        simulator.wait("gate_waiting:many", equals=200, timeout_s=60)
        assert simulator.state()["open_streams"] == 200
        simulator.open_gate("many")
        for client in clients:
            got = client.read_until(b"[DONE]")
            assert got.count(b'"content":') == 4 and b'"finish_reason":"stop"' in got
            client.leave("close")


@EVERY_SERVER
def test_a_client_that_only_stops_sending_is_told_that_its_answer_was_cut(
    patient: Gateway, simulator: Simulator
) -> None:
    """Half a connection cannot be told from one whose client left; but it must not look like a whole answer."""
    simulator.knobs(gate="half", gate_after=1)
    client = RawClient(patient, True)
    client.read_until(b'"content":', 2)
    client.socket.shutdown(socket.SHUT_WR)
    got = client.read_until(b"data: [DONE]")
    client.leave("close")
    assert b'"code":"client_closed_request"' in got and b'"finish_reason":"stop"' not in got


def test_a_client_that_leaves_something_unread_behind_is_noticed(patient: Gateway, simulator: Simulator) -> None:
    simulator.knobs(gate="stray", gate_after=0)
    client = RawClient(patient, False)
    client.socket.sendall(b"\r\n")
    simulator.wait("gate:stray", at_least=1)
    client.leave("close")
    # Under gunicorn's gevent worker, on Linux.
    simulator.wait("open_streams", equals=0, timeout_s=NOTICED_S)


def test_a_client_that_never_reads_does_not_hold_its_stream_for_ever(running: Running, simulator: Simulator) -> None:
    simulator.knobs(tokens=100_000, token_chars=4096)
    with running.gateway(simulator.url, TOTAL_TIMEOUT_S="2") as gateway:
        client = RawClient(gateway, True)
        simulator.wait("open_streams", at_least=1)
        simulator.wait("open_streams", equals=0)
        client.leave("reset")


def test_a_stream_that_waits_for_an_account_keeps_its_status_open(
    shared_gateway: Share, simulator: Simulator
) -> None:
    """Longer than COMMIT_AFTER_S: many programs drop the words of an error that is an event."""
    simulator.knobs(fail="stream_pushing")
    gateway = shared_gateway(users="alice", COMMIT_AFTER_S="1", HEARTBEAT_S="0.5", QUEUE_WAIT_S="8", FAILOVER_S="1")
    began = time.monotonic()
    response = gateway.say("hello", stream=True)
    assert time.monotonic() - began > 2
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (429, "rate_limit_error")
    assert f"try again in {response.headers['Retry-After']} seconds" in error["message"]


def test_the_silence_of_kimi_lets_the_status_go_as_ever(shared_gateway: Share, simulator: Simulator) -> None:
    simulator.knobs(fail="silent_body", fail_at="turn")
    gateway = shared_gateway(users="alice", COMMIT_AFTER_S="0.2", HEARTBEAT_S="0.5", FIRST_EVENT_TIMEOUT_S="1")
    response = gateway.say("hello", stream=True)
    assert response.status_code == 200 and read_stream(response).error is not None

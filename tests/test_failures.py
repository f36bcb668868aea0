"""Every failure of kimi-protocol.md section 7, in both modes: the right status, OpenAI's shape, what to do."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.running import Gateway, Running, Simulator, ask, mint, read_stream

BOTH_MODES = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])

# fault → status, type, code (None: not looked at), a part of the message, further knobs
FAULTS: dict[str, tuple[int, str, str | None, str, dict[str, Any]]] = {
    "token_invalid": (401, "authentication_error", "invalid_api_key", "paste a new one into KIMI_TOKENS", {}),
    "account_abnormal": (403, "permission_error", "account_abnormal", "flagged", {}),
    "forbidden_html": (403, "permission_error", "forbidden", "bot wall", {}),
    "forbidden_chat": (403, "permission_error", "chat_forbidden", "disabled this chat", {}),
    "stream_pushing": (429, "rate_limit_error", "rate_limit_exceeded", "still running", {}),
    "overloaded": (503, "server_error", "overloaded", "overloaded", {}),
    "too_long": (400, "invalid_request_error", "context_length_exceeded", "maximum context length", {}),
    "error_unknown": (502, "server_error", "upstream_error", "Kimi ended the answer", {"fail_after": 0}),
    "anonymous_quota": (401, "authentication_error", "invalid_api_key", "login", {}),
    "not_found": (404, "not_found_error", "not_found", "does not know this chat", {}),
    "http_408": (502, "server_error", "upstream_error", "gave up", {}),
    "http_429": (429, "rate_limit_error", "rate_limit_exceeded", "limits this account", {}),
    "http_500": (502, "server_error", "upstream_error", "500", {}),
    "http_502": (502, "server_error", "upstream_error", "502", {}),
    "http_503": (502, "server_error", "upstream_error", "503", {}),
    "http_504": (502, "server_error", "upstream_error", "504", {}),
    "redirect": (502, "server_error", "upstream_error", "KIMI_BASE_URL", {}),
    "html_200": (502, "server_error", "upstream_protocol_error", "text/html", {}),
    "json_200": (401, "authentication_error", None, "KIMI_TOKENS", {"fail_code": "auth.token.invalid"}),
    "bad_request": (502, "server_error", "upstream_error", "400", {}),
    "model_422": (502, "server_error", "upstream_protocol_error", "model", {}),
    "empty_close": (502, "server_error", "upstream_error", "before the end", {}),
    "silent_headers": (504, "server_error", "timeout", "in time", {}),
    "silent_body": (504, "server_error", "timeout", "silent", {}),
}
# Where the whole site refuses, it refuses the new chat, before the turn.
AT_CREATE = ("token_invalid", "account_abnormal", "forbidden_html", "http_429", "http_500", "redirect", "html_200")


@BOTH_MODES
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_before_the_first_token_has_its_true_status(
    quick: Gateway, simulator: Simulator, fault: str, stream: bool
) -> None:
    status, kind, code, says, knobs = FAULTS[fault]
    simulator.knobs(fail=fault, fail_at="turn", **knobs)
    response = quick.say("hello", stream=stream)
    assert response.headers["Content-Type"] == "application/json"
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (status, kind), error
    assert code is None or error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}
    assert says in error["message"] or fault == "silent_headers", error
    assert any(label in error["message"] for label in ("alice", "bob", "carol"))


@BOTH_MODES
@pytest.mark.parametrize("fault", AT_CREATE)
def test_a_failure_to_open_a_chat_has_the_same_status(
    quick: Gateway, simulator: Simulator, fault: str, stream: bool
) -> None:
    status, kind, *_ = FAULTS[fault]
    simulator.knobs(fail=fault, fail_at="create")
    response = quick.say("hello", stream=stream)
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind), response.text


def test_permanent_failures_tell_sdks_not_to_repeat_them(quick: Gateway, simulator: Simulator) -> None:
    for fault, permanent in (("token_invalid", True), ("account_abnormal", True), ("overloaded", False)):
        simulator.knobs(fail=fault)
        assert (quick.say("hello").headers.get("x-should-retry") == "false") is permanent


def test_kimis_retry_after_is_passed_on(quick: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="http_429", retry_after="17")
    assert quick.say("hello", stream=True).headers["Retry-After"] == "17"


# Failures in the middle: the code of the error event.
IN_STREAM = {
    "overloaded": "overloaded",
    "error_unknown": "upstream_error",
    "done_only": "upstream_error",
    "drop": "upstream_error",
}


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("fault", IN_STREAM)
def test_a_failure_after_the_first_token_is_an_error_event(
    quick: Gateway, simulator: Simulator, fault: str, end: str
) -> None:
    simulator.knobs(
        fail=fault, fail_after=2, say="one two three", token_chars=4, end=end if fault == "drop" else "clean"
    )
    answer = read_stream(quick.say("hello", stream=True))
    assert answer.error is not None and answer.error["code"] == IN_STREAM[fault]
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.finish_reason is None and answer.done
    assert "one two three".startswith(answer.content) and (answer.content or end == "reset")
    whole = quick.say("hello")
    assert whole.status_code >= 500 and whole.json()["error"]["code"] == IN_STREAM[fault]


@BOTH_MODES
@pytest.mark.parametrize(("fault", "text"), [("moderated", "one two "), ("moderated_before", "")])
def test_moderation_is_a_content_filter(
    quick: Gateway, simulator: Simulator, fault: str, text: str, stream: bool
) -> None:
    knobs = {"fail_after": 2} if fault == "moderated" else {}
    simulator.knobs(fail=fault, say="one two three", token_chars=4, delete_after_moderation="error", **knobs)
    answer = ask(quick, stream)
    assert (answer.content, answer.finish_reason, answer.error) == (text, "content_filter", None)


def test_silence_in_mid_answer_is_a_timeout(quick: Gateway, simulator: Simulator) -> None:
    simulator.knobs(stall_after=2, say="one two three", token_chars=4)
    answer = read_stream(quick.say("hello", stream=True))
    assert answer.content == "one two " and answer.error is not None and answer.error["code"] == "timeout"
    assert quick.say("hello").status_code == 504
    simulator.wait("open_streams", equals=0)


def test_an_answer_that_never_ends_is_ended(running: Running, simulator: Simulator) -> None:
    simulator.knobs(tokens=100_000, delay_s=0.02, ping_s=0.1)
    with running.gateway(simulator.url, TOTAL_TIMEOUT_S="0.8", HEARTBEAT_S="0.5") as gateway:
        answer = read_stream(gateway.say("hello", stream=True))
    assert answer.content and answer.error is not None and answer.error["code"] == "timeout"
    simulator.wait("open_streams", equals=0)


def test_a_site_that_is_not_there_is_a_502(running: Running) -> None:
    with running.gateway("http://127.0.0.1:9") as gateway:
        for stream in (True, False):
            response = gateway.say("hello", stream=stream)
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (502, "upstream_error")
            assert "connection to http://127.0.0.1:9 failed" in error["message"]


def test_an_expired_account_is_skipped_and_reported(running: Running, simulator: Simulator) -> None:
    tokens = f"old={mint('alice', -60)},{mint('bob')}"
    with running.gateway(simulator.url, KIMI_TOKENS=tokens) as gateway:
        assert [gateway.say("hello").status_code for _ in range(3)] == [200] * 3
        assert gateway.get("/readyz").status_code == 200
        assert "old: the Kimi token expired at 20" in gateway.log()
    assert set(simulator.state()["accounts"]) == {"bob"}


def test_without_a_usable_account_the_answer_says_what_to_do(running: Running, simulator: Simulator) -> None:
    tokens = f"{mint('alice', -60)},{mint('bob', -60)}"
    with running.gateway(simulator.url, KIMI_TOKENS=tokens) as gateway:
        for stream in (True, False):
            response = gateway.say("hello", stream=stream)
            message = response.json()["error"]["message"]
            assert response.status_code == 401 and response.headers["x-should-retry"] == "false"
            assert "account 1: the Kimi token expired at 20" in message
            assert "account 2: the Kimi token expired at 20" in message
            assert "paste a new one into KIMI_TOKENS" in message
        ready = gateway.get("/readyz")
        assert ready.status_code == 503 and len(ready.json()["problems"]) == 2
        assert gateway.get("/healthz").json() == {"status": "ok"}
    assert not simulator.requests("")


def test_readiness_needs_a_writable_store(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        gateway.wait_for_workers()
        assert gateway.get("/readyz").json()["status"] == "ready"
        make_unwritable(gateway.database)
        ready = gateway.get("/readyz")
        assert ready.status_code == 503 and "the database cannot be written" in ready.json()["problems"][0]
        response = gateway.say("hello")
        assert response.status_code == 500 and response.json()["error"]["code"] == "internal_error"


def make_unwritable(database: Path) -> None:
    """A view in the place of a table: file permissions would not stop a test that runs as root."""
    db = sqlite3.connect(database)
    db.executescript("DROP TABLE accounts; CREATE VIEW accounts AS SELECT 'x' AS id, 1 AS last_turn")
    db.close()


@BOTH_MODES
def test_a_refusal_that_calls_itself_a_stream_is_read(quick: Gateway, simulator: Simulator, stream: bool) -> None:
    for headers in ({"Content-Type": "text/plain"}, {}, {"Content-Type": "text/event-stream"}):
        simulator.script('{"error_type":"auth.token.invalid","message":"过期"}'.encode(), headers=headers)
        response = quick.say("hello", stream=stream)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("location", ["http://[", "http://\xff\xfe/", "", "//"])
def test_a_location_that_is_no_address_is_a_502(quick: Gateway, simulator: Simulator, location: str) -> None:
    simulator.script(b"", status=302, headers={"Location": location})
    response = quick.say("hello")
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_error")


def test_half_a_character_in_an_error_is_no_fault_of_ours(quick: Gateway, simulator: Simulator) -> None:
    body = b'data: {"event":"error","error":{"error_type":"x\\ud83d","message":"\\ud83d"}}\n\n'
    for stream in (True, False):
        simulator.script(body)
        response = quick.say("hello", stream=stream)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_error")


@pytest.mark.parametrize("error_type", ["auth.account_blocked", "account.risk_control", "rate_limit.policy"])
def test_only_what_speaks_of_content_is_moderation(quick: Gateway, simulator: Simulator, error_type: str) -> None:
    error = f'data: {{"event":"error","error":{{"error_type":"{error_type}"}}}}\n\n'
    simulator.script(b'data: {"event":"cmpl","text":"a"}\n\n' + error.encode())
    assert quick.say("hello").status_code == 502


def test_sdks_are_told_not_to_repeat_what_kimi_has_heard(quick: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="error_unknown", fail_after=0)
    assert quick.say("hello").headers["x-should-retry"] == "false"
    simulator.knobs(fail="http_500", fail_at="create")
    assert "x-should-retry" not in quick.say("hello").headers


def test_what_cannot_be_noted_does_not_spoil_an_answer(running: Running, simulator: Simulator) -> None:
    simulator.knobs(unknown=True)
    with running.gateway(simulator.url) as gateway:
        gateway.wait_for_workers()
        db = sqlite3.connect(gateway.database)
        db.executescript("DROP TABLE unrecognised")
        db.close()
        for stream in (True, False):
            assert ask(gateway, stream).finish_reason == "stop"
        assert "could not be noted" in gateway.log()


def test_a_store_that_fails_in_mid_turn_does_not_lock_the_conversation(
    running: Running, simulator: Simulator
) -> None:
    with running.gateway(simulator.url, LEASE_S="1") as gateway:
        gateway.wait_for_workers()
        simulator.knobs(gate="store", gate_after=1)
        with gateway.say("one", conversation="c", stream=True) as response:
            simulator.wait("gate:store", at_least=1)
            trigger(
                gateway,
                "CREATE TRIGGER broken BEFORE UPDATE OF turns ON conversations BEGIN SELECT RAISE(FAIL, 'x'); END",
            )
            simulator.open_gate("store")
            assert read_stream(response).error is not None
        trigger(gateway, "DROP TRIGGER broken")
        simulator.knobs(gate="")
        assert gateway.say("two", conversation="c").ok


def trigger(gateway: Gateway, sql: str) -> None:
    db = sqlite3.connect(gateway.database)
    db.executescript(sql)
    db.close()

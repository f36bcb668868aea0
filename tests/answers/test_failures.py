"""Every failure of kimi-protocol.md section 7, in both modes: the right status, OpenAI's shape, what to do."""

import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email.utils import formatdate
from functools import partial
from typing import Any

import pytest

from tests.running import (
    BOTH_DATABASES,
    EACH_GENERATION,
    Gateway,
    Running,
    Share,
    Simulator,
    ask,
    mint,
    read_stream,
    wait_until,
)
from tests.running.each_case import check_each

BOTH_MODES = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])

Expected = tuple[int, str, str | None, str, dict[str, Any]]

# fault → status, type, code (None: not looked at), a part of the message, further knobs
FAULTS: dict[str, Expected] = {
    "token_invalid": (503, "server_error", "account_token_rejected", "accounts add", {}),
    "account_abnormal": (403, "permission_error", "account_abnormal", "flagged", {}),
    "forbidden_html": (403, "permission_error", "forbidden", "bot wall", {}),
    "forbidden_chat": (403, "permission_error", "chat_forbidden", "disabled this chat", {}),
    "stream_pushing": (429, "rate_limit_error", "rate_limit_exceeded", "still running", {}),
    "overloaded": (503, "server_error", "overloaded", "overloaded", {}),
    "too_long": (400, "invalid_request_error", "context_length_exceeded", "maximum context length", {}),
    "error_unknown": (502, "server_error", "upstream_error", "Kimi ended the answer", {"fail_after": 0}),
    "anonymous_quota": (503, "server_error", "account_token_rejected", "login", {}),
    "not_found": (404, "not_found_error", "not_found", "does not know this chat", {}),
    "http_408": (502, "server_error", "upstream_error", "gave up", {}),
    "http_429": (429, "rate_limit_error", "rate_limit_exceeded", "limits this account", {}),
    "http_500": (502, "server_error", "upstream_error", "500", {}),
    "http_502": (502, "server_error", "upstream_error", "502", {}),
    "http_503": (502, "server_error", "upstream_error", "503", {}),
    "http_504": (504, "server_error", "timeout", "gave up waiting", {}),
    "redirect": (502, "server_error", "upstream_error", "KIMI_BASE_URL", {}),
    "html_200": (502, "server_error", "upstream_protocol_error", "text/html", {}),
    "json_200": (503, "server_error", "account_token_rejected", "accounts add", {"fail_code": "auth.token.invalid"}),
    "bad_request": (502, "server_error", "upstream_error", "400", {}),
    "model_422": (502, "server_error", "upstream_protocol_error", "model", {}),
    "empty": (502, "server_error", "upstream_error", "without any text", {}),
    "empty_close": (502, "server_error", "upstream_error", "before the end", {}),
    "silent_headers": (504, "server_error", "timeout", "in time", {}),
    "silent_body": (504, "server_error", "timeout", "silent", {}),
}
# Where the whole site refuses, it refuses the new chat, before the turn.
AT_CREATE = ("token_invalid", "account_abnormal", "forbidden_html", "http_429", "http_500", "redirect", "html_200")


# The same faults where Connect tells them otherwise, and those that only Connect has.
CONNECT_FAULTS: dict[str, Expected] = FAULTS | {
    "account_abnormal": (403, "permission_error", "forbidden", "does not allow", {}),
    "forbidden_chat": (403, "permission_error", "forbidden", "does not allow", {}),
    "stream_pushing": (429, "rate_limit_error", "rate_limit_exceeded", "limits this account", {}),
    "overloaded": (429, "rate_limit_error", "rate_limit_exceeded", "Too many people", {}),
    "too_long": (400, "invalid_request_error", None, "length", {}),
    "error_unknown": (502, "server_error", "upstream_error", "REASON_UNKNOWN", {"fail_after": 0}),
    "anonymous_quota": (429, "rate_limit_error", "insufficient_quota", "quota", {}),
    "json_200": (503, "server_error", "overloaded", "overloaded", {}),
    "bad_request": (400, "invalid_request_error", None, "refuses this request", {}),
    "model_422": (400, "invalid_request_error", None, "model", {}),
    "http_404": (502, "server_error", "upstream_error", "KIMI_PROTOCOL", {}),
    "exception": (503, "server_error", "overloaded", "overloaded", {"fail_after": 0}),
    "top_exception": (503, "server_error", "overloaded", "overloaded", {"fail_after": 0}),
    "frame_error": (429, "rate_limit_error", "rate_limit_exceeded", "turns free accounts away", {}),
    "error_after_done": (429, "rate_limit_error", "rate_limit_exceeded", "turns free accounts away", {}),
    "quota": (429, "rate_limit_error", "insufficient_quota", "quota", {}),
    "membership": (402, "insufficient_quota", "insufficient_quota", "a plan or credits", {}),
    # kimi-protocol-2.md 5.7: N1, N2, N3, N6.
    "paywall": (402, "insufficient_quota", "insufficient_quota", "a plan or credits", {}),
    "message_not_found": (404, "not_found_error", "not_found", "does not know this chat", {}),
    "upstream_error": (503, "server_error", "model_unavailable", "does not serve this model", {}),
    "cancelled": (502, "server_error", "answer_cancelled", "cancelled", {"fail_after": 0}),
}


# Errors look the same in all years of a generation.
@EACH_GENERATION
@BOTH_MODES
def test_a_failure_before_the_first_token_has_its_true_status(
    quick: Gateway, simulator: Simulator, stream: bool
) -> None:
    faults = CONNECT_FAULTS if simulator.profile.speaks_connect else FAULTS
    check_each(((fault, fault) for fault in faults), partial(_has_its_true_status, quick, simulator, stream))


def _has_its_true_status(quick: Gateway, simulator: Simulator, stream: bool, fault: str) -> None:
    faults = CONNECT_FAULTS if simulator.profile.speaks_connect else FAULTS
    status, kind, code, says, knobs = faults[fault]
    simulator.reset()
    quick.as_if_new()
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
@pytest.mark.parametrize("profile", ["sse-2025"], indirect=True)
def test_a_failure_to_open_a_chat_has_the_same_status(
    quick: Gateway, simulator: Simulator, fault: str, stream: bool
) -> None:
    status, kind, *_ = FAULTS[fault]
    simulator.knobs(fail=fault, fail_at="create")
    response = quick.say("hello", stream=stream)
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind), response.text


@pytest.mark.parametrize("chat_id", ["../user", "a/b", "a?b=c", "", "ä"])
@pytest.mark.parametrize("profile", ["sse-2025"], indirect=True)
def test_a_chat_whose_id_could_lead_elsewhere_is_not_used(blunt: Gateway, simulator: Simulator, chat_id: str) -> None:
    headers = {"Content-Type": "application/json"}
    simulator.script(json.dumps({"id": chat_id}).encode(), match="/api/chat", headers=headers)
    assert blunt.say("hello").status_code == 502
    assert {request["path"] for request in simulator.requests("")} == {"/api/chat"}


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
@BOTH_MODES
def test_a_token_that_is_refused_inside_the_stream_is_no_wrong_api_key(
    quick: Gateway, simulator: Simulator, stream: bool
) -> None:
    simulator.knobs(fail="token_invalid", auth_in_stream=True)
    response = quick.say("hello", stream=stream)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "account_token_rejected")


@EACH_GENERATION
def test_permanent_failures_tell_sdks_not_to_repeat_them(quick: Gateway, simulator: Simulator) -> None:
    for fault, permanent in (("token_invalid", True), ("account_abnormal", True), ("overloaded", False)):
        simulator.knobs(fail=fault)
        quick.tables.forget_what_accounts_did()
        assert (quick.say("hello").headers.get("x-should-retry") == "false") is permanent


@EACH_GENERATION
def test_kimis_retry_after_is_passed_on(quick: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="http_429", retry_after="17")
    assert quick.say("hello", stream=True).headers["Retry-After"] == "17"


@EACH_GENERATION
@pytest.mark.parametrize(
    ("ahead_s", "waits_s"), [(400, range(340, 402)), (-3600, range(2)), (864_000, range(86_400, 86_401))]
)
def test_kimis_retry_after_may_be_a_date(
    blunt: Gateway, simulator: Simulator, ahead_s: float, waits_s: range
) -> None:
    for as_http in (True, False):
        # Without a zone that is known ("-0000"), it is UTC all the same.
        simulator.knobs(fail="http_429", retry_after=formatdate(time.time() + ahead_s, usegmt=as_http))
        blunt.tables.forget_what_accounts_did()
        assert int(blunt.say("hello").headers["Retry-After"]) in waits_s


@pytest.mark.parametrize(
    "retry_after", ["soon", "Mon, 99 Foo 2026 99:99:99 GMT", f"Mon, 01 Jan {10**20} 00:00:00 GMT", "-5", "1e3"]
)
def test_a_retry_after_that_says_nothing_is_as_none(blunt: Gateway, simulator: Simulator, retry_after: str) -> None:
    simulator.knobs(fail="http_503", retry_after=retry_after)
    response = blunt.say("hello")
    assert response.status_code == 502 and "Retry-After" not in response.headers


@EACH_GENERATION
@BOTH_MODES
@pytest.mark.parametrize("status", [200, 400, 403])
@pytest.mark.parametrize("error_type", ["content.moderated", "chat.sensitive"])
def test_moderation_that_refuses_is_a_content_filter_and_is_not_repeated(
    quick: Gateway, simulator: Simulator, error_type: str, status: int, stream: bool
) -> None:
    body = json.dumps({"error_type": error_type, "message": "so sorry"}).encode()
    simulator.script(body, status=status, headers={"Content-Type": "application/json"}, times=5)
    response = quick.say("hello", stream=stream)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "content_filter")
    assert "so sorry" in error["message"] and response.headers["x-should-retry"] == "false"
    assert len(simulator.requests(simulator.turn_path)) == 1


@EACH_GENERATION
def test_a_body_that_is_too_large_for_kimi_is_too_long(quick: Gateway, simulator: Simulator) -> None:
    simulator.script(b"<html></html>", status=413, headers={"Content-Type": "text/html"}, times=5)
    response = quick.say("hello")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert len(simulator.requests(simulator.turn_path)) == 1


# Failures in the middle: the code of the error event, and the status of the answer that is not streamed.
IN_STREAM = {
    "overloaded": ("overloaded", 503),
    "error_unknown": ("upstream_error", 502),
    "done_only": ("upstream_error", 502),
    "drop": ("upstream_error", 502),
}
CONNECT_IN_STREAM = IN_STREAM | {
    "overloaded": ("rate_limit_exceeded", 429),
    "exception": ("overloaded", 503),
    "top_exception": ("overloaded", 503),
    "frame_error": ("rate_limit_exceeded", 429),
    "error_after_done": ("rate_limit_exceeded", 429),
    "quota": ("insufficient_quota", 429),
    "membership": ("insufficient_quota", 402),
    "paywall": ("insufficient_quota", 402),
    "message_not_found": ("not_found", 404),
    "upstream_error": ("model_unavailable", 503),
    "cancelled": ("answer_cancelled", 502),
}
# An answer that was given to its end and lacks only the end of its stream can be had where Kimi keeps answers:
# ``test_broken_streams``.
WHERE_NOTHING_IS_KEPT = {"done_only": CONNECT_IN_STREAM.pop("done_only")}
IN_STREAM_CASES = [
    pytest.param(profile, fault, expected, end, id=f"{profile}-{fault}-{end}")
    for profile, table in (
        ("sse-2025", IN_STREAM),
        ("connect-2026", WHERE_NOTHING_IS_KEPT),
        ("connect-2026-09", CONNECT_IN_STREAM),
    )
    for fault, expected in table.items()
    for end in (("close", "reset") if fault == "drop" else ("clean",))
]


@pytest.mark.parametrize(("profile", "fault", "expected", "end"), IN_STREAM_CASES, indirect=["profile"])
def test_a_failure_after_the_first_token_is_an_error_event(
    quick: Gateway, simulator: Simulator, fault: str, expected: tuple[str, int], end: str
) -> None:
    code, status = expected
    simulator.knobs(fail=fault, fail_after=2, say="one two three", token_chars=4, end=end)
    response = quick.say("hello", stream=True)
    if fault == "drop" and end == "reset" and response.status_code != 200:
        # A reset takes what was sent and not yet read with it.
        assert response.json()["error"]["code"] == code
        return
    answer = read_stream(response)
    assert answer.error is not None and answer.error["code"] == code
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.finish_reason is None and answer.done
    assert "one two three".startswith(answer.content) and (answer.content or end == "reset")
    whole = quick.say("hello")
    assert whole.status_code == status and whole.json()["error"]["code"] == code
    if fault == "drop":
        assert "answer broke off" in answer.error["message"]
        assert "answer broke off" in whole.json()["error"]["message"]


@EACH_GENERATION
@BOTH_MODES
def test_moderation_after_some_text_is_a_finish_reason(quick: Gateway, simulator: Simulator, stream: bool) -> None:
    simulator.knobs(
        fail="moderated", fail_after=2, say="one two three", token_chars=4, delete_after_moderation="error"
    )
    answer = ask(quick, stream)
    assert (answer.content, answer.finish_reason, answer.error) == ("one two ", "content_filter", None)


@EACH_GENERATION
@BOTH_MODES
def test_moderation_before_any_text_is_a_400_with_kimis_sentence(
    quick: Gateway, simulator: Simulator, stream: bool
) -> None:
    simulator.knobs(fail="moderated_before", say="one two three", delete_after_moderation="error")
    response = quick.say("hello", stream=stream)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "content_filter")
    assert "让我们换个话题再聊聊吧" in error["message"] and response.headers["x-should-retry"] == "false"
    # Not on another account either.
    assert len(simulator.turns()) == 1


@BOTH_MODES
@pytest.mark.parametrize("profile", ["sse-2025"], indirect=True)
def test_moderation_while_kimi_thinks_is_an_error(quick: Gateway, simulator: Simulator, stream: bool) -> None:
    """An answer without a word would look like a fault of ours."""
    simulator.script(
        b'data: {"event":"k1","text":"hm hm"}\n\n'
        b'data: {"event":"error","error":{"error_type":"content.moderated"}}\n\n'
    )
    answer = ask(quick, stream, model=simulator.profile.thinking_model)
    assert (answer.content, answer.finish_reason) == ("", None)
    assert answer.error is not None and answer.error["code"] == "content_filter"


@EACH_GENERATION
def test_a_conversation_goes_on_after_a_moderated_question(quick: Gateway, simulator: Simulator, name: str) -> None:
    first = quick.say("[[sim fail=moderated_before]]", name)
    assert (first.status_code, first.json()["error"]["code"]) == (400, "content_filter")
    assert quick.get(f"/v1/chat/completions/{name}").status_code == 404
    assert quick.say("hello", name).ok
    assert quick.say("[[sim fail=moderated_before]]", name).status_code == 400
    assert quick.say("hello again", name).ok
    assert quick.get(f"/v1/chat/completions/{name}").json()["turns"] == 2


@EACH_GENERATION
def test_silence_in_mid_answer_is_a_timeout(quick: Gateway, simulator: Simulator) -> None:
    """Where the rest cannot be had."""
    simulator.knobs(stall_after=2, say="one two three", token_chars=4, resume="absent", get_message="absent")
    answer = read_stream(quick.say("hello", stream=True))
    assert answer.content == "one two " and answer.error is not None and answer.error["code"] == "timeout"
    assert quick.say("hello").status_code == 504
    simulator.wait("open_streams", equals=0)


def test_silence_before_an_answer_and_in_it_have_a_limit_each(running: Running, simulator: Simulator) -> None:
    settings: dict[str, Any] = {"FIRST_EVENT_TIMEOUT_S": "1", "IDLE_TIMEOUT_S": "3", "HEARTBEAT_S": "0.2"}
    with running.gateway(simulator.url, **settings) as gateway, ThreadPoolExecutor(2) as pool:
        prompts = [f"hello [[sim stall_after={tokens}]]" for tokens in (0, 1)]
        before, within = (response.json()["error"] for response in pool.map(gateway.say, prompts))
    assert before["code"] == within["code"] == "timeout"
    assert silent_s(before) < 3 <= silent_s(within)


def silent_s(error: dict[str, Any]) -> int:
    return int(error["message"].partition("silent for ")[2].removesuffix(" s"))


@EACH_GENERATION
def test_an_answer_that_never_ends_is_ended(shared_gateway: Share, simulator: Simulator) -> None:
    simulator.knobs(tokens=100_000, delay_s=0.02, ping_s=0.1)
    gateway = shared_gateway(TOTAL_TIMEOUT_S="3", HEARTBEAT_S="0.5")
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
        assert "old: The Kimi token expired at 20" in gateway.log()
    assert {turn.account for turn in simulator.turns()} == {"bob"}


def test_without_a_usable_account_the_answer_says_what_to_do(running: Running, simulator: Simulator) -> None:
    tokens = f"{mint('alice', -60)},{mint('bob', -60)}"
    with running.gateway(simulator.url, KIMI_TOKENS=tokens) as gateway:
        for stream in (True, False):
            response = gateway.say("hello", stream=stream)
            message = response.json()["error"]["message"]
            assert response.status_code == 503 and response.headers["x-should-retry"] == "false"
            assert "account 1: The Kimi token expired at 20" in message
            assert "account 2: The Kimi token expired at 20" in message
            assert "accounts add" in message
        ready = gateway.get("/readyz")
        assert ready.status_code == 503 and len(ready.json()["problems"]) == 2
        assert gateway.get("/healthz").json()["status"] == "ok"
    assert not simulator.requests("")


@BOTH_DATABASES
def test_readiness_needs_a_writable_store(running: Running, simulator: Simulator, database: str) -> None:
    with running.gateway(simulator.url) as gateway:
        gateway.wait_for_workers()
        assert gateway.get("/readyz").json()["status"] == "ready"
        gateway.tables.make_accounts_unwritable()
        ready = gateway.get("/readyz")
        assert ready.status_code == 503 and "the database cannot be written" in ready.json()["problems"][0]
        response = gateway.say("hello")
        assert response.status_code == 503 and response.json()["error"]["code"] == "database_unavailable"


def test_a_database_that_is_locked_is_a_503_that_says_whether_to_repeat(
    running: Running, simulator: Simulator
) -> None:
    simulator.knobs(gate="long", gate_after=1)
    with running.gateway(simulator.url) as gateway, ThreadPoolExecutor(3) as pool:
        # These turns have reached Kimi when the database goes.
        turn = pool.submit(gateway.say, "hello", "talk")
        stream = pool.submit(lambda: read_stream(gateway.say("hello", "other", stream=True)))
        stateless = pool.submit(gateway.say, "hello")
        simulator.wait("gate_waiting:long", equals=3)
        simulator.knobs(gate="")
        with closing(sqlite3.connect(gateway.database.url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN IMMEDIATE")
            simulator.open_gate("long")
            # This one has not.
            early = gateway.say("hello", "another")
            late, streamed, whole = turn.result(), stream.result(), stateless.result()
            wait_until("a lease could not be given back", lambda: "release_failed" in gateway.log())
    for response in (early, late):
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        assert response.json()["error"]["code"] == "database_unavailable"
    assert "x-should-retry" not in early.headers and late.headers["x-should-retry"] == "false"
    assert streamed.finish_reason is None
    assert streamed.error is not None and streamed.error["code"] == "database_unavailable"
    # Nothing has to be stored of it before it is given: its lease is given back later.
    assert whole.ok
    assert "Traceback" not in gateway.log()


def test_readiness_names_accounts_to_callers_with_a_key_only(running: Running, simulator: Simulator) -> None:
    key = {"Authorization": "Bearer the-key-of-the-owner"}
    works, gone = mint("alice", 900), mint("bob", -5)
    for token, status, field in ((works, 200, "warnings"), (gone, 503, "problems")):
        settings: dict[str, Any] = {
            "KIMI_TOKENS": f"my-label={token}",
            "GATEWAY_API_KEYS": "the-key-of-the-owner",
        }
        with running.gateway(simulator.url, **settings) as gateway:
            told = gateway.get("/readyz", headers=key)
            assert told.status_code == status and "my-label" in told.json()[field][0] and "UTC" in told.text
            for headers in ({}, {"Authorization": "Bearer another-key"}):
                other = gateway.get("/readyz", headers=headers)
                assert other.status_code == status
                assert "my-label" not in other.text and "UTC" not in other.text and "minutes" not in other.text


def test_readiness_blames_the_database_only_for_its_own_failures(running: Running, simulator: Simulator) -> None:
    token = f"alice={mint('alice', kind='refresh')}"
    with running.gateway(simulator.url, KIMI_TOKENS=token) as gateway:
        wait_until("it is ready", lambda: gateway.get("/readyz").ok)
        # The database works; what stands in this row is a fault of whoever runs or writes the gateway.
        gateway.tables.spoil_added_accounts()
        ready = gateway.get("/readyz")
        (problem,) = ready.json()["problems"]
        assert ready.status_code == 503 and "the gateway itself failed" in problem and "database" not in problem
        assert "readiness_check_failed" in gateway.log() and "Traceback" in gateway.log()


@BOTH_MODES
def test_a_refusal_that_calls_itself_a_stream_is_read(blunt: Gateway, simulator: Simulator, stream: bool) -> None:
    for headers in ({"Content-Type": "text/plain"}, {}, {"Content-Type": "text/event-stream"}):
        simulator.script('{"error_type":"auth.token.invalid","message":"过期"}'.encode(), headers=headers)
        blunt.tables.forget_what_accounts_did()
        response = blunt.say("hello", stream=stream)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "account_token_rejected")


@pytest.mark.parametrize("location", ["http://[", "http://\xff\xfe/", "", "//"])
def test_a_location_that_is_no_address_is_a_502(blunt: Gateway, simulator: Simulator, location: str) -> None:
    simulator.script(b"", status=302, headers={"Location": location})
    response = blunt.say("hello")
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_error")


def test_half_a_character_in_an_error_is_no_fault_of_ours(blunt: Gateway, simulator: Simulator) -> None:
    body = b'data: {"event":"error","error":{"error_type":"x\\ud83d","message":"\\ud83d"}}\n\n'
    for stream in (True, False):
        simulator.script(body)
        blunt.tables.forget_what_accounts_did()
        response = blunt.say("hello", stream=stream)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_error")


@pytest.mark.parametrize("error_type", ["auth.account_blocked", "account.risk_control", "rate_limit.policy"])
def test_only_what_speaks_of_content_is_moderation(blunt: Gateway, simulator: Simulator, error_type: str) -> None:
    error = f'data: {{"event":"error","error":{{"error_type":"{error_type}"}}}}\n\n'
    simulator.script(b'data: {"event":"cmpl","text":"a"}\n\n' + error.encode())
    assert blunt.say("hello").status_code == 502


def test_sdks_are_told_not_to_repeat_what_kimi_has_heard(quick: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="error_unknown", fail_after=0)
    assert quick.say("hello").headers["x-should-retry"] == "false"
    simulator.knobs(fail="http_500", fail_at="create")
    assert "x-should-retry" not in quick.say("hello").headers


@pytest.mark.parametrize("server", ["forked", "gthread"])
def test_each_log_line_of_an_answer_has_the_id_of_its_request(
    shared_gateway: Share, simulator: Simulator, server: str
) -> None:
    """Also those of its attempts, which are made in another thread."""
    simulator.knobs(fail="http_429", fail_at="turn", fail_times=2)
    gateway = shared_gateway(server=server)
    response = gateway.say("hello")
    assert response.ok
    lines = [line for line in gateway.log().splitlines() if " app.answers." in line]
    assert len(lines) >= 3
    assert [line for line in lines if f"[{response.headers['x-request-id']}]" not in line] == []


@pytest.mark.parametrize(("seconds", "is_repeated"), [(1, True), (600, False)])
def test_sdks_are_told_to_wait_only_as_long_as_they_do(
    shared_gateway: Share, simulator: Simulator, seconds: int, is_repeated: bool
) -> None:
    simulator.knobs(fail="stream_pushing", retry_after=str(seconds))
    response = shared_gateway(QUEUE_WAIT_S="0", FAILOVER_S="0").say("hello")
    assert response.status_code == 429
    # Cooldowns differ a little, so that not everybody comes back at once.
    assert 0.9 * seconds - 1 <= int(response.headers["Retry-After"]) <= 1.3 * seconds + 1
    assert ("x-should-retry" not in response.headers) is is_repeated


@EACH_GENERATION
def test_silence_in_a_conversation_is_not_repeated_by_sdks(quick: Gateway, simulator: Simulator) -> None:
    """The message went out; that no answer came does not say that it was not heard."""
    assert quick.say("one", conversation="unheard").ok
    simulator.knobs(fail="silent_headers", fail_at="turn")
    response = quick.say("two", conversation="unheard")
    assert response.status_code == 504 and response.headers["x-should-retry"] == "false"


def test_what_cannot_be_noted_does_not_spoil_an_answer(running: Running, simulator: Simulator) -> None:
    simulator.knobs(unknown=True)
    with running.gateway(simulator.url) as gateway:
        gateway.wait_for_workers()
        gateway.tables.forbid_notes_of_unrecognised()
        for stream in (True, False):
            assert ask(gateway, stream).finish_reason == "stop"
        wait_until("it is logged", lambda: "frame_not_counted" in gateway.log())


@BOTH_DATABASES
def test_a_store_that_fails_in_mid_turn_does_not_lock_the_conversation(
    running: Running, simulator: Simulator, database: str
) -> None:
    with running.gateway(simulator.url, LEASE_S="4") as gateway:
        gateway.wait_for_workers()
        simulator.knobs(gate="store", gate_after=1)
        with gateway.say("one", conversation="c", stream=True) as response:
            assert response.ok, response.text
            simulator.wait("gate:store", at_least=1)
            gateway.tables.forbid_ends_of_turns()
            simulator.open_gate("store")
            assert read_stream(response).error is not None
        gateway.tables.allow_changes()
        simulator.knobs(gate="")
        assert gateway.say("two", conversation="c").ok

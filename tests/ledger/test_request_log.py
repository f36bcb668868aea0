"""The request log: a row for each request, what stands in it, and what never does."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest
import requests

from app.ledger import live
from app.store import Store
from app.store.ledger import Filter, RequestRow, time_of
from app.web.client_program import program, trace_id
from tests.running import (
    BOTH_DATABASES,
    CANARY,
    ROOT,
    Gateway,
    Running,
    Share,
    Simulator,
    wait_until,
)
from tests.running.commands import run_flask

_KEY = "sk-a-key-with-a-name-0123456789"
_SETTINGS = {"GATEWAY_API_KEYS": f"ann={_KEY}", "RETRY_BACKOFF_S": "0.02", "LEASE_S": "1"}
_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def gateway(shared_gateway: Share, database: str) -> Gateway:
    return shared_gateway(**_SETTINGS)


@contextmanager
def store_of(gateway: Gateway) -> Iterator[Store]:
    with closing(Store(gateway.database.url)) as store:
        yield store


def running_requests(store: Store) -> list[live.LiveRequest]:
    """Those of which a part of the answer has come."""
    states = [live.parse(id_, text) for id_, text in store.processes.states().items()]
    return [r for state in states if state for r in state.requests if r.phase == "answering"]


def row_of(gateway: Gateway, request_id: str) -> RequestRow:
    with store_of(gateway) as store:

        def rows() -> list[RequestRow]:
            return list(store.ledger.page(Filter(request_id=request_id)).rows)

        wait_until("the request is written", rows)
        (row,) = rows()
        return row


def ask(
    gateway: Gateway, request_id: str, path: str = "/v1/chat/completions", key: str = _KEY, **body: Any
) -> requests.Response:
    """A question that is read to the end of its answer."""
    headers = {"x-request-id": request_id, **body.pop("headers", {})}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    said = (
        {"messages": [{"role": "user", "content": f"hello {CANARY}"}]} if "messages" in path or "chat" in path else {}
    )
    body = {"model": gateway.model, **said, **body}
    response = gateway.post(path, json=body, headers=headers, stream=bool(body.get("stream")))
    assert response.content is not None
    return response


@BOTH_DATABASES
def test_an_answer_is_a_row_with_times_and_counts(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="one two three four five", think="first I think about it", gate="mine", gate_after=1)
    headers = {"User-Agent": "OpenAI/Python 3.54.0", "traceparent": f"00-{_TRACE}-00f067aa0ba902b7-01"}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, gateway, "mine-1", stream=True, headers=headers)
        simulator.wait("gate_waiting:mine", equals=1)
        with store_of(gateway) as store:
            # The first word has come; the next one comes later.
            wait_until("it has begun", lambda: [r for r in running_requests(store) if r.request_id == "mine-1"])
        time.sleep(0.05)
        simulator.open_gate("mine")
        asked.result(60)
    row = row_of(gateway, "mine-1")
    assert (row.api, row.is_stream, row.model, row.attempts) == ("chat", 1, gateway.model, 1)
    assert (row.status, row.ending, row.blame, row.n) == (200, "stop", "", 1)
    assert (row.client, row.trace, row.conversation) == ("OpenAI/Python 3.54.0", _TRACE, "")
    assert "thought" in row.flag_names and row.account_id.startswith("acc_") and row.owner.startswith("key_")
    assert (row.chars_out, row.chars_thought) == (len("one two three four five"), len("first I think about it"))
    assert row.first_ms is not None and 0 < row.first_ms < row.total_ms < 60_000
    assert row.longest_ms is not None and 40 <= row.longest_ms < row.total_ms
    assert row.tokens_out is not None and row.tokens_thought is not None and 3 < row.tokens_thought < row.tokens_out
    with store_of(gateway) as store:
        assert store.ledger.find(row.id) == row and store.ledger.attempts(row.id) == []


def test_every_api_says_how_its_answers_end_and_what_it_told_the_client(
    gateway: Gateway, simulator: Simulator
) -> None:
    simulator.knobs(say="one two three four five")
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {},
        "/v1/completions": {"prompt": "x"},
        "/v1/responses": {"input": "x"},
        "/v1/messages": {"max_tokens": 2},
    }
    for number, (path, body) in enumerate(bodies.items()):
        for stream in (False, True):
            request_id = f"api-{number}-{stream}"
            response = ask(gateway, request_id, path, stream=stream, **body)
            row = row_of(gateway, request_id)
            name = path.removeprefix("/v1/").partition("/")[0]
            assert (row.api, row.is_stream, row.status, row.blame) == (name, int(stream), 200, "")
            assert row.ending == ("length" if "max_tokens" in body else "stop")
            if not stream and "usage" in response.json():
                usage = response.json()["usage"]
                told = usage.get("completion_tokens", usage.get("output_tokens"))
                assert row.tokens_out == told


def test_a_choice_is_not_a_request_of_its_own_nor_is_a_repaired_answer(
    gateway: Gateway, simulator: Simulator
) -> None:
    ask(gateway, "two-choices", n=2)
    assert row_of(gateway, "two-choices").attempts == 2
    simulator.knobs(say="no JSON")
    ask(gateway, "mended", response_format={"type": "json_object"})
    row = row_of(gateway, "mended")
    assert (row.ending, row.blame, row.attempts) == ("invalid_json_answer", "upstream", 2)
    assert "repaired" in row.flag_names


def test_each_attempt_is_told_where_there_were_several(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="http_429", fail_at="turn", fail_times=1, retry_after="7")
    ask(gateway, "second-try")
    row = row_of(gateway, "second-try")
    with store_of(gateway) as store:
        first, second = store.ledger.attempts(row.id)
    assert (first.code, first.blame, round(first.cooldown_s)) == ("rate_limit_exceeded", "account", 7)
    assert (second.code, second.blame, second.cooldown_s) == ("", "", 0)
    assert first.account_id != second.account_id == row.account_id
    assert (row.ending, row.blame, row.attempts) == ("stop", "", 2)


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_says_whose_fault_it_is(gateway: Gateway, simulator: Simulator, stream: bool) -> None:
    simulator.knobs(fail="http_500", fail_at="turn")
    ask(gateway, f"failed-{stream}", stream=stream)
    row = row_of(gateway, f"failed-{stream}")
    assert (row.blame, row.first_ms, row.tokens_per_s) == ("upstream", None, None) and row.ending != "stop"
    with store_of(gateway) as store:
        assert {attempt.blame for attempt in store.ledger.attempts(row.id)} == {"upstream"}


def test_a_client_that_left_is_no_failure(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(tokens=100, delay_s=0.3)
    body = {"model": gateway.model, "messages": [{"role": "user", "content": "x"}], "stream": True}
    headers = {"Authorization": f"Bearer {_KEY}", "x-request-id": "gone"}
    with requests.post(
        f"{gateway.url}/v1/chat/completions", json=body, headers=headers, stream=True, timeout=30
    ) as response:
        next(response.iter_lines())
    row = row_of(gateway, "gone")
    assert (row.ending, row.blame, row.status) == ("left", "", 200)


def test_refused_requests_are_there_with_the_code_that_the_client_got(gateway: Gateway) -> None:
    ask(gateway, "no-model", model="gpt-private")
    ask(gateway, "bad-body", temperature="hot")
    assert [row_of(gateway, id_).model for id_ in ("no-model", "bad-body")] == ["?", ""]
    assert row_of(gateway, "no-model").ending == "model_not_found" and row_of(gateway, "no-model").status == 404
    assert row_of(gateway, "bad-body").blame == "request" and row_of(gateway, "bad-body").owner.startswith("key_")


def test_a_list_of_models_and_a_health_check_are_no_rows(gateway: Gateway) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/v1/models"):
        gateway.get(path, headers={"Authorization": f"Bearer {_KEY}", "x-request-id": "no-row"})
    requests.options(gateway.url + "/v1/models", headers={"x-request-id": "no-row"}, timeout=10)
    ask(gateway, "after-them")
    row_of(gateway, "after-them")
    with store_of(gateway) as store:
        assert store.ledger.page(Filter(request_id="no-row")).rows == []


def test_refusals_without_a_key_are_few_rows_with_their_number(running: Running, simulator: Simulator) -> None:
    settings: dict[str, Any] = {**_SETTINGS}
    with running.gateway(simulator.url, **settings) as gateway:
        gateway.wait_for_workers()
        for _ in range(20):
            ask(gateway, "no-key", key="", headers={"User-Agent": "curl/8.5.0"})
        for number in range(10):
            ask(gateway, "wrong-key", key="wrong", headers={"User-Agent": f"Program/{number}.0"})
        with store_of(gateway) as store:
            wait_until("all are written", lambda: sum(row.n for row in store.ledger.newest(100)) == 30)
            rows = store.ledger.newest(100)
            assert sum(row.requests for row in store.ledger.usage(0, 10**6)) == 30
        # Each minute has rows of its own.
        minutes = Counter(time_of(row.id) // 60 for row in rows)
        of_curl = [row.n for row in rows if row.client == "curl 8.5.0"]
        others = [row.n for row in rows if row.client == "?"]
        assert max(minutes.values()) <= 6 and sum(of_curl) == 20 and len(of_curl) <= len(minutes)
        assert len(minutes) > 1 or (minutes.total(), others) == (6, [6])
        assert {(row.status, row.owner) for row in rows} == {(401, "")}


def test_an_answer_that_is_repeated_is_a_request_without_tokens(gateway: Gateway, simulator: Simulator) -> None:
    for number in range(2):
        headers = {"Idempotency-Key": "the-same"}
        ask(gateway, f"same-{number}", headers=headers)
    first, second = (row_of(gateway, f"same-{number}") for number in range(2))
    assert ("replayed" in first.flag_names, first.attempts) == (False, 1)
    assert (second.flag_names, second.attempts, second.ending) == (("replayed",), 0, "stop")
    assert first.tokens_in and first.tokens_out and (second.tokens_in, second.tokens_out) == (None, None)


def test_rows_of_one_conversation_share_a_digest_and_its_id_is_nowhere(gateway: Gateway) -> None:
    for number in range(2):
        ask(gateway, f"talk-{number}", "/v1/chat/completions/my-secret-project")
    first, second = (row_of(gateway, f"talk-{number}") for number in range(2))
    assert first.conversation == second.conversation and len(first.conversation) == 8


# What a client can put into a request, in the places that are looked at for the log.
_HOSTILE = {
    "a key in the User-Agent": {"User-Agent": "sk-0123456789abcdefghijklmnop"},
    "a sentence in the User-Agent": {"User-Agent": "please keep canary-Kanarienvogel secret"},
    "an address": {"X-Forwarded-For": "203.0.113.77"},
    "a referer": {"Referer": "https://private.example/page", "Origin": "https://private.example"},
    "a trace that is none": {"traceparent": f"00-{CANARY.encode().hex()}"},
    "a cookie": {"Cookie": "session=very-private-cookie"},
}
_NOWHERE = (
    CANARY,
    "canary",
    _KEY,
    "0123456789abcdefghijkl",
    "203.0.113",
    "127.0.0.1",
    "private",
    CANARY.encode().hex(),
)


@BOTH_DATABASES
def test_no_text_key_header_or_address_is_in_any_table_of_the_log(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=f"the answer {CANARY}", think=f"thoughts {CANARY}")
    for number, headers in enumerate(_HOSTILE.values()):
        ask(gateway, f"hostile-{number}", headers=headers)
        ask(gateway, f"hostile-bad-{number}", headers=headers, model="gpt-private")
        ask(gateway, f"hostile-no-key-{number}", headers=headers, key="")
    simulator.knobs(fail="http_500", fail_at="turn", fail_message=CANARY)
    ask(gateway, "hostile-last")
    row_of(gateway, "hostile-last")
    tables = ("requests", "attempts", "usage_days", "usage_hours", "tallies", "processes")
    written = [row for table in tables for row in gateway.database.run(" ".join(("SELECT * FROM", table)))]
    assert len(written) > 20
    assert [text for text in _NOWHERE if text in repr(written)] == []


def test_only_a_product_and_its_version_are_taken_of_a_user_agent() -> None:
    assert program("OpenAI/JS 7.5.0") == "OpenAI/JS 7.5.0"
    assert program("python-requests/2.32.3") == "python-requests 2.32.3"
    assert program("Mozilla/5.0 (X11; secret) AppleWebKit/537.36 (KHTML) Chrome/140.0 Safari/537.36") == "browser"
    assert program("Mozilla/5.0 (Mac) AppleWebKit/537 (KHTML) CherryStudio/1.6.2 Chrome/1 Electron/3") == (
        "CherryStudio 1.6.2"
    )
    assert program("") == "" and program("sk-0123456789abcdef") == "?" and program("hunter 2") == "?"
    assert trace_id(f"00-{_TRACE}-00f067aa0ba902b7-01") == _TRACE
    assert [trace_id(f"00-{'0' * 32}-00f067aa0ba902b7-01"), trace_id(f"ff-{_TRACE}-00f067aa0ba902b7-01")] == ["", ""]


def test_a_request_that_runs_is_shown_with_what_it_is_doing(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="one two three", gate="half", gate_after=1)
    thread = threading.Thread(target=ask, args=(gateway, "running-1"), kwargs={"stream": True})
    thread.start()

    def running() -> list[live.LiveRequest]:
        with store_of(gateway) as store:
            return [r for r in running_requests(store) if r.request_id == "running-1"]

    wait_until("the request is shown", running)
    (request,) = running()
    simulator.open_gate("half")
    thread.join(30)
    assert (request.model, request.api) == (gateway.model, "chat")
    assert request.chars > 0 and request.account_id.startswith("acc_")
    row_of(gateway, "running-1")
    wait_until("it is not shown any more", lambda: not running())


# Commands


def _settings(gateway: Gateway) -> dict[str, str]:
    return {"DATABASE_URL": gateway.database.url, "GATEWAY_API_KEYS": f"ann={_KEY}"}


def test_commands_show_requests_and_sums(gateway: Gateway, simulator: Simulator) -> None:
    ask(gateway, "shown-1")
    ask(gateway, "shown-2", model="no-such-model")
    row_of(gateway, "shown-2")
    line = run_flask("requests", "--id", "shown-1", **_settings(gateway)).output.splitlines()[1]
    assert line.split()[1:4] == ["ann", "chat", gateway.model] and "stop" in line
    done = run_flask("requests", "--failed", "--json", "--key", "ann", "--since", "1h", **_settings(gateway))
    found = [json.loads(line) for line in done.output.splitlines()]
    assert [row["ending"] for row in found if row["request_id"] == "shown-2"] == ["model_not_found"]
    assert all(row["blame"] for row in found)
    table = run_flask("usage", "--by", "key", **_settings(gateway)).output.splitlines()
    assert table[0].split()[:2] == ["key", "requests"] and any(line.startswith("ann ") for line in table)
    assert (
        "there is no API key called 'eve'; there are"
        in run_flask("requests", "--key", "eve", **_settings(gateway)).errors
    )
    assert run_flask("requests", "--since", "soon", **_settings(gateway)).code == 2


def test_follow_prints_each_request_once_when_it_has_ended(gateway: Gateway) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "wsgi", "requests", "--follow", "--json", "--limit", "1"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **_settings(gateway)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout)
            ask(gateway, "before-it-follows")
            row_of(gateway, "before-it-follows")
            seen = [json.loads(next(lines))["request_id"]]
            for number in range(3):
                ask(gateway, f"followed-{number}")
            while f"followed-{2}" not in seen:
                seen.append(json.loads(next(lines))["request_id"])
        finally:
            process.kill()
    assert [id_ for id_ in seen if id_.startswith("followed")] == [f"followed-{number}" for number in range(3)]

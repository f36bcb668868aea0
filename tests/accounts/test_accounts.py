"""Several accounts: who serves, who rests, who waits in line, and what a failure does to whom."""

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.running import (
    BOTH_DATABASES,
    CANARY,
    EACH_GENERATION,
    Gateway,
    Profile,
    RawClient,
    Running,
    Share,
    Simulator,
    ask,
    mint,
    read_stream,
    wait_until,
)
from tests.running.processes import pause

ACCOUNTS = ("alice", "bob", "carol")


@pytest.fixture
def two_workers(shared_gateway: Share) -> Gateway:
    return shared_gateway(WEB_CONCURRENCY="2", ACCOUNT_MAX_STREAMS="3")


@pytest.fixture
def one_account(shared_gateway: Share) -> Gateway:
    return shared_gateway(users="alice", QUEUE_WAIT_S="5")


def served(simulator: Simulator) -> list[str]:
    """The accounts that were asked, in order."""
    return [turn.account for turn in simulator.turns()]


def asked(simulator: Simulator, word: str) -> list[str]:
    return [turn.account for turn in simulator.turns() if word in turn.text]


# Blame: what each failure does to the account and to the request. fault → knobs, what the account has to bear.
BLAME = {
    "token_invalid": ({}, "refused"),
    "account_abnormal": ({}, "rests"),
    "forbidden_html": ({}, "rests"),
    "http_429": ({}, "rests"),
    "stream_pushing": ({}, "rests"),
    "anonymous_quota": ({}, "refused"),
    "overloaded": ({}, "another try"),
    "http_500": ({}, "another try"),
    "http_502": ({}, "another try"),
    "http_503": ({}, "another try"),
    "http_504": ({}, "another try"),
    "http_408": ({}, "another try"),
    "empty_close": ({}, "another try"),
    "error_unknown": ({"fail_after": 0}, "another try"),
    "too_long": ({}, "nothing"),
    "forbidden_chat": ({}, "nothing"),
    "not_found": ({}, "nothing"),
    "model_422": ({}, "ours"),
    "html_200": ({}, "ours"),
}
CONNECT_BLAME = {
    "token_invalid": ({}, "refused"),
    "account_abnormal": ({}, "rests"),
    "http_429": ({}, "rests"),
    "stream_pushing": ({}, "rests"),
    "quota": ({}, "rests"),
    "frame_error": ({}, "rests"),
    "membership": ({}, "model rests"),
    "paywall": ({}, "model rests"),
    "upstream_error": ({}, "rests"),
    "message_not_found": ({}, "nothing"),
    "overloaded": ({}, "rests"),
    "exception": ({"fail_after": 0}, "another try"),
    "http_500": ({}, "another try"),
    "empty_close": ({}, "another try"),
    # The next form of the model is refused, too.
    "bad_request": ({"fail_times": 2}, "nothing"),
    "too_long": ({}, "nothing"),
    "not_found": ({}, "nothing"),
    "html_200": ({}, "ours"),
}
CASES = [
    pytest.param(profile, fault, knobs, bears, id=f"{profile}-{fault}")
    for profile, table in (("sse-2025", BLAME), ("connect-2026-09", CONNECT_BLAME))
    for fault, (knobs, bears) in table.items()
]


@pytest.mark.parametrize(("profile", "fault", "knobs", "bears"), CASES, indirect=["profile"])
def test_a_failure_is_blamed_on_exactly_one(
    quick: Gateway, simulator: Simulator, fault: str, knobs: dict[str, Any], bears: str
) -> None:
    """The first try fails. Where the request or we are to blame, that is told; otherwise the next try answers."""
    simulator.knobs(**{"fail": fault, "fail_at": "turn", "fail_times": 1, **knobs})
    response = quick.say("hello")
    refused, cooldowns = quick.tables.refused_accounts(), quick.tables.cooldowns()
    told = bears in ("nothing", "ours", "model rests")
    assert response.ok is not told, response.text
    expected = {"refused": (1, 1), "rests": (0, 1), "model rests": (0, 1)}.get(bears, (0, 0))
    assert (len(refused), len(cooldowns)) == expected
    turns = served(simulator)
    assert len(turns) == (knobs.get("fail_times", 1) if told else 2)
    # Not the same account again while there are others.
    assert told or turns[0] != turns[1]
    assert ("answer_not_understood" in quick.log()) or bears != "ours"


@EACH_GENERATION
def test_a_failure_of_kimis_is_tried_once_more_where_there_is_time(
    quick: Gateway, blunt: Gateway, simulator: Simulator
) -> None:
    simulator.knobs(fail="http_500", fail_at="turn")
    for gateway, word, tries in ((quick, "patient", 2), (blunt, "hurried", 1)):
        assert gateway.say(word).status_code == 502
        assert len(asked(simulator, word)) == tries


def test_a_second_try_waits_as_long_as_kimi_says(quick: Gateway, simulator: Simulator) -> None:
    assert quick.say("hello").ok
    simulator.knobs(fail="http_503", fail_at="turn", fail_times=1, retry_after="1")
    began = time.monotonic()
    assert quick.say("hello").ok
    # Give or take a half, so that not everybody comes back at once.
    assert time.monotonic() - began > 0.5


def test_a_busier_account_is_tried_before_one_that_has_failed(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(gate="busy", gate_after=1)
    with gateway.say("one", stream=True) as one, gateway.say("two", stream=True) as two:
        simulator.wait("gate_waiting:busy", equals=2)
        (idle,) = {*ACCOUNTS} - {*served(simulator)}
        simulator.knobs(gate="", fail="http_500", fail_at="turn", fail_for=idle)
        assert gateway.say("three").ok
        assert asked(simulator, "three")[0] == idle
        simulator.open_gate("busy")
        assert [read_stream(stream).finish_reason for stream in (one, two)] == ["stop", "stop"]


def test_a_refused_account_is_not_asked_again_until_its_token_changes(running: Running, simulator: Simulator) -> None:
    simulator.knobs(fail="token_invalid", fail_for="alice")
    tokens = ",".join(f"{name}={mint(name)}" for name in ACCOUNTS)
    with running.gateway(simulator.url, KIMI_TOKENS=tokens) as gateway:
        for _ in range(6):
            assert gateway.say("hello").ok
        assert served(simulator).count("alice") == 1
        assert gateway.get("/readyz").ok
        database = gateway.database
    simulator.knobs(fail="")
    # Not after a restart either, for it is the same token.
    with running.gateway(simulator.url, KIMI_TOKENS=tokens, database=database) as gateway:
        for _ in range(3):
            assert gateway.say("again").ok
    assert "alice" not in asked(simulator, "again")
    renewed = tokens.replace(tokens.partition(",")[0], f"alice={mint('alice', 50_000)}")
    with running.gateway(simulator.url, KIMI_TOKENS=renewed, database=database) as gateway:
        for _ in range(3):
            assert gateway.say("at last").ok
    assert set(asked(simulator, "at last")) == set(ACCOUNTS)


def test_without_any_accepted_token_the_answer_says_so(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="token_invalid")
    for _ in range(2):
        response = gateway.say("hello")
        assert (response.status_code, response.headers["x-should-retry"]) == (503, "false")
        assert "accounts add" in response.json()["error"]["message"]
    ready = gateway.get("/readyz")
    assert ready.status_code == 503 and len(ready.json()["problems"]) == 3


@BOTH_DATABASES
def test_the_least_busy_account_is_next_and_equals_take_turns(
    two_workers: Gateway, simulator: Simulator, database: str
) -> None:
    simulator.knobs(gate="busy", gate_after=1)
    streams = [two_workers.say(f"n{i}", stream=True) for i in range(6)]
    simulator.wait("gate_waiting:busy", equals=6)
    assert Counter(served(simulator)) == dict.fromkeys(ACCOUNTS, 2)
    assert set(served(simulator)[:3]) == set(ACCOUNTS)
    simulator.open_gate("busy")
    assert all(read_stream(stream).finish_reason == "stop" for stream in streams)
    two_workers.wait_until_idle()


@EACH_GENERATION
def test_a_limited_account_rests_as_long_as_it_was_told_and_the_others_serve(
    two_workers: Gateway, simulator: Simulator, profile: Profile
) -> None:
    """Issue 4: with one account of three limited, success stays at 100 %, and it gets nothing before its time."""
    simulator.knobs(fail="http_429", fail_at="turn", fail_for="alice", fail_times=1, retry_after="3")
    deadline = time.monotonic() + 60
    number = 0
    # Until it has had two more turns: a probe that goes well, and then its share.
    while (turns := served(simulator).count("alice")) < 3:
        assert time.monotonic() < deadline, f"it never came back: {turns} turns"
        assert ask(two_workers, stream=number % 2 == 0).finish_reason == "stop"
        number += 1
        pause()
    # When Kimi was asked, and whom.
    asked_at = [(request["t"], request["account"]) for request in simulator.requests(simulator.turn_path)]
    limited, back = [number for number, (_, account) in enumerate(asked_at) if account == "alice"][:2]
    assert asked_at[back][0] - asked_at[limited][0] > 2.9
    # The others served, on a slow machine only one of them.
    assert back > limited + 1


def test_rests_grow_and_a_success_ends_them(quick: Gateway, simulator: Simulator) -> None:
    lengths = []
    for strike in (1, 2, 3):
        simulator.knobs(fail="http_429", fail_at="turn")
        response = quick.say("hello")
        assert response.status_code == 429
        cooldowns = quick.tables.cooldowns()
        assert {cooldown.failures for cooldown in cooldowns} == {strike}
        # Of the one that was the last to fail: what is left of it is nearly all.
        lengths.append(max(cooldown.seconds for cooldown in cooldowns))
        # Kimi has not said how long to wait: until one of them is back.
        assert int(response.headers["Retry-After"]) >= min(cooldown.seconds for cooldown in cooldowns)
        quick.tables.let_cooldowns_end()
    assert 3 < lengths[0] < 7 and 8 < lengths[1] < 13 and 17 < lengths[2] < 25, lengths
    simulator.knobs(fail="")
    for _ in ACCOUNTS:
        assert quick.say("hello").ok
    assert not quick.tables.cooldowns()


@pytest.mark.parametrize(
    ("profile", "knobs"),
    [("sse-2025", {"fail": "account_abnormal", "retry_after": "600"}), ("connect-2026-09", {"fail": "quota"})],
    ids=["told", "quota"],
    indirect=["profile"],
)
def test_a_rest_is_as_long_as_its_reason_demands(blunt: Gateway, simulator: Simulator, knobs: dict[str, Any]) -> None:
    simulator.knobs(**knobs, fail_at="turn")
    assert not blunt.say("hello").ok
    (cooldown,) = blunt.tables.cooldowns()
    assert cooldown.seconds > 500


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
def test_what_fails_after_its_account_has_gone_to_rest_changes_nothing(blunt: Gateway, simulator: Simulator) -> None:
    """It began before: its failure is the same one, and what it knows of the rest may be less."""
    simulator.knobs(gate="late", gate_after=0, fail="overloaded", fail_after=0)
    with ThreadPoolExecutor(3) as pool:
        late = [pool.submit(blunt.say, "late") for _ in ACCOUNTS]
        simulator.wait("gate_waiting:late", equals=3)
        assert set(served(simulator)) == set(ACCOUNTS)
        simulator.knobs(gate="", fail="http_429", fail_at="turn", retry_after="600")
        assert [blunt.say("hello").status_code for _ in ACCOUNTS] == [429] * 3
        simulator.open_gate("late")
        assert [response.result().status_code for response in late] == [429] * 3
    cooldowns = blunt.tables.cooldowns()
    assert len(cooldowns) == 3
    assert all(cooldown.seconds > 500 and cooldown.failures == 1 for cooldown in cooldowns)


def _undeleted_chats(simulator: Simulator) -> int:
    state = simulator.state()
    return int(state["total_chats"] - state["deleted_chats"])


def test_while_all_rest_the_status_says_until_when(quick: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="http_429", fail_at="turn", retry_after="400")
    assert quick.say("hello").headers["Retry-After"] == "400"
    simulator.knobs(fail="")
    # Each account has opened a chat, which is deleted after the answer.
    wait_until("they are deleted", lambda: _undeleted_chats(simulator) == 0)
    before = len(simulator.requests(""))
    for stream in (True, False):
        response = quick.say("hello", stream=stream)
        assert response.status_code == 429 and response.json()["error"]["code"] == "rate_limit_exceeded"
        assert 340 <= int(response.headers["Retry-After"]) <= 441
        assert response.headers["x-ratelimit-limit-requests"] == "6"
        assert response.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(simulator.requests("")) == before


def test_an_account_that_comes_back_is_tried_by_one_request_only(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(users="alice", ACCOUNT_MAX_STREAMS="0")
    gateway.tables.cool_all_accounts_down(-1, failures=4)
    simulator.knobs(gate="probe", gate_after=0)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(gateway.say, f"probe {i}") for i in range(4)]
        simulator.wait("gate_waiting:probe", equals=1)
        wait_until("the others wait", lambda: gateway.tables.waiting_turns() == 3)
        assert len(asked(simulator, "probe")) == 1
        simulator.open_gate("probe")
        assert all(answer.result().ok for answer in answers)
    assert not gateway.tables.cooldowns()


def test_an_account_that_comes_back_serves_beside_a_stream_that_began_before(
    one_account: Gateway, simulator: Simulator
) -> None:
    """Also where that stream was once the one that tried."""
    one_account.tables.cool_all_accounts_down(-1, failures=4)
    simulator.knobs(gate="long", gate_after=1, slot_scope="none")
    with one_account.say("long", stream=True) as long:
        simulator.wait("gate_waiting:long", equals=1)
        wait_until("its cooldown is over", lambda: not one_account.tables.cooldowns())
        simulator.knobs(gate="", fail="http_429", fail_at="turn", fail_times=1, retry_after="1")
        # Refused, and asked again after the cooldown.
        assert one_account.say("second").ok
        assert asked(simulator, "second") == ["alice", "alice"] and not one_account.tables.cooldowns()
        simulator.open_gate("long")
        assert read_stream(long).finish_reason == "stop"


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
def test_a_limit_that_concerns_a_model_leaves_the_others_alone(
    quick: Gateway, simulator: Simulator, profile: Profile
) -> None:
    simulator.knobs(fail="frame_error", fail_at="turn", fail_code="MODEL_RATE_LIMIT", fail_reason="x")
    assert quick.say("hello").status_code == 429
    assert {cooldown.scope for cooldown in quick.tables.cooldowns()} == {profile.model}
    simulator.knobs(fail="")
    assert quick.say("hello").status_code == 429
    assert quick.say("hello", model=profile.other_model).ok
    quick.tables.let_cooldowns_end()
    for _ in ACCOUNTS:
        assert quick.say("hello").ok
    assert not quick.tables.cooldowns()


def test_turns_of_one_account_are_spaced(running: Running, simulator: Simulator) -> None:
    with running.gateway(
        simulator.url, KIMI_TOKENS=mint("alice"), ACCOUNT_MIN_INTERVAL_S="0.5", WEB_CONCURRENCY="2"
    ) as gateway:
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            assert all(r.ok for r in pool.map(lambda i: gateway.say(f"n{i}"), range(4)))
        assert time.monotonic() - began >= 1.5


@pytest.mark.parametrize("interval_s", ["0", "0.2"])
def test_a_clock_that_is_set_back_stops_no_account(
    shared_gateway: Share, simulator: Simulator, interval_s: str
) -> None:
    gateway = shared_gateway(users="alice", ACCOUNT_MIN_INTERVAL_S=interval_s, QUEUE_WAIT_S="1")
    assert gateway.say("hello").ok
    # As if that had been an hour later than it is now.
    gateway.tables.put_next_turns_off(3600)
    assert gateway.say("hello").ok


# The line


@BOTH_DATABASES
def test_who_waits_is_served_in_order_and_keys_take_turns(
    running: Running, simulator: Simulator, database: str
) -> None:
    """One key sends ten requests, then another key two: they are served in turn as long as both wait."""
    simulator.knobs(gate="line", gate_after=1)
    with running.gateway(
        simulator.url,
        KIMI_TOKENS=mint("alice"),
        ACCOUNT_MAX_STREAMS="1",
        GATEWAY_API_KEYS="first-key,second-key",
        WEB_CONCURRENCY="2",
    ) as gateway:
        say = {
            key: lambda text, key=key: requests.post(
                f"{gateway.url}/v1/chat/completions",
                json={"model": "k2", "messages": [{"role": "user", "content": f"{text} {CANARY}"}]},
                headers={"Authorization": f"Bearer {key}"},
                timeout=60,
            )
            for key in ("first-key", "second-key")
        }
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(say["first-key"], "a0")]
            simulator.wait("gate_waiting:line", equals=1)
            for place, (key, text) in enumerate(
                [
                    ("first-key", "a1"),
                    ("first-key", "a2"),
                    ("first-key", "a3"),
                    ("second-key", "b1"),
                    ("second-key", "b2"),
                ],
                start=1,
            ):
                answers.append(pool.submit(say[key], text))
                wait_until("it waits", lambda place=place: gateway.tables.waiting_turns() == place)
            simulator.open_gate("line")
            assert all(answer.result().ok for answer in answers)
        order = [turn.text.split()[0] for turn in simulator.turns()]
        assert order == ["a0", "a1", "b1", "a2", "b2", "a3"], order


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_waiting_ends_with_429_and_tells_when_to_come_back(
    shared_gateway: Share, simulator: Simulator, stream: bool
) -> None:
    gateway = shared_gateway(users="alice", ACCOUNT_MAX_STREAMS="1", QUEUE_WAIT_S="5", QUEUE_MAX="1")
    simulator.knobs(gate="full", gate_after=1)
    with gateway.say("first", stream=True) as first:
        simulator.wait("gate_waiting:full", equals=1)
        with ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            second = pool.submit(gateway.say, "second", stream=stream)
            wait_until("it waits", lambda: gateway.tables.waiting_turns() == 1)
            # The line is full: the third is told at once, while the second waits.
            third = gateway.say("third", stream=stream)
            assert third.status_code == 429 and "too many requests wait" in third.json()["error"]["message"]
            assert not second.done()
            response = second.result()
        assert response.status_code == 429 and time.monotonic() - began >= 5
        assert response.headers["Retry-After"] == "5" and response.headers["x-ratelimit-limit-requests"] == "1"
        assert "stayed busy" in response.json()["error"]["message"]
        assert gateway.tables.waiting_turns() == 0
        simulator.open_gate("full")
        assert read_stream(first).finish_reason == "stop"
        assert len(simulator.turns()) == 1


@pytest.fixture
def one_stream(shared_gateway: Share) -> Gateway:
    """One account that runs one stream, and clients that are noticed soon: when they wait, and when they leave."""
    # It is not Kimi who is silent where a request waits for the account.
    return shared_gateway(
        users="alice", HEARTBEAT_S="0.2", COMMIT_AFTER_S="0.2", ACCOUNT_MAX_STREAMS="1", FIRST_EVENT_TIMEOUT_S="1"
    )


def test_who_waits_in_a_stream_has_no_status_yet_and_is_then_answered(
    one_stream: Gateway, simulator: Simulator
) -> None:
    """Longer than COMMIT_AFTER_S: a failure of the wait has a status."""
    simulator.knobs(gate="beat", gate_after=1)
    with one_stream.say("first", stream=True) as first:
        simulator.wait("gate_waiting:beat", equals=1)
        second = RawClient(one_stream, stream=True)
        wait_until("it waits", lambda: one_stream.tables.waiting_turns() == 1)
        second.socket.settimeout(1)
        with pytest.raises(TimeoutError):
            second.socket.recv(1)
        second.socket.settimeout(30)
        simulator.open_gate("beat")
        assert read_stream(first).finish_reason == "stop"
        assert second.read_until(b"data: [DONE]").startswith(b"HTTP/1.1 200")
        second.leave("close")


@BOTH_DATABASES
def test_a_client_that_leaves_the_line_frees_its_place(
    one_stream: Gateway, simulator: Simulator, database: str
) -> None:
    gateway = one_stream
    simulator.knobs(gate="gone", gate_after=1)
    with gateway.say("first", stream=True) as first:
        simulator.wait("gate_waiting:gone", equals=1)
        second = RawClient(gateway, stream=True)
        wait_until("it waits", lambda: gateway.tables.waiting_turns() == 1)
        second.leave("close")
        wait_until("it waits no more", lambda: gateway.tables.waiting_turns() == 0)
        simulator.open_gate("gone")
        assert read_stream(first).finish_reason == "stop"
        assert gateway.say("third").ok
        assert len(simulator.turns()) == 2


@BOTH_DATABASES
def test_the_queue_is_served_again_after_it_could_not_be_read(
    one_stream: Gateway, simulator: Simulator, database: str
) -> None:
    simulator.knobs(gate="long", gate_after=1)
    with ThreadPoolExecutor(1) as pool:
        with one_stream.say("first", stream=True) as first:
            simulator.wait("gate_waiting:long", equals=1)
            second = pool.submit(one_stream.say, "second")
            wait_until("it waits", lambda: one_stream.tables.waiting_turns() == 1)
            one_stream.tables.spoil_the_queue()
            simulator.open_gate("long")
            assert read_stream(first).finish_reason == "stop"
            # What the second one wants is read when an account is free.
            wait_until("it fails", lambda: "background_work_failed work=account-queue" in one_stream.log())
            one_stream.tables.mend_the_queue()
        assert second.result().ok


@BOTH_DATABASES
def test_a_killed_gateway_gives_back_what_it_held(running: Running, simulator: Simulator, database: str) -> None:
    simulator.knobs(gate="dead", gate_after=1)
    settings: dict[str, Any] = {"users": "alice", "ACCOUNT_MAX_STREAMS": "1", "LEASE_S": "2"}
    shared = running.new_database()
    with (
        running.gateway(simulator.url, database=shared, **settings) as gateway,
        running.gateway(simulator.url, database=shared, **settings) as other,
    ):
        with gateway.say("first", "talk", stream=True):
            simulator.wait("gate_waiting:dead", equals=1)
            gateway.kill()
        simulator.knobs(gate="")
        # Its account, and its conversation.
        assert other.say("second").ok
        assert other.say("third", "talk").ok


@BOTH_DATABASES
def test_a_process_that_was_out_of_touch_takes_nothing_from_itself(
    running: Running, simulator: Simulator, database: str
) -> None:
    """Others thought that it was dead, and have deleted what it held. Its streams and its requests go on."""
    settings: dict[str, Any] = {"ACCOUNT_MAX_STREAMS": "1", "CONVERSATION_WAIT_S": "0.3", "LEASE_S": "3"}
    with running.gateway(simulator.url, users="alice", **settings) as gateway, ThreadPoolExecutor(1) as pool:
        simulator.knobs(gate="long", gate_after=1)
        with gateway.say("long", "talk", stream=True) as long:
            simulator.wait("gate_waiting:long", equals=1)
            simulator.knobs(gate="")
            waiting = pool.submit(gateway.say, "third")
            wait_until("it waits", lambda: gateway.tables.waiting_turns() == 1)
            gateway.tables.let_processes_be_dead()
            wait_until("its stream counts again", lambda: gateway.tables.running_turns() == 1)
            wait_until("its request waits again", lambda: gateway.tables.waiting_turns() == 1)
            assert gateway.get("/v1/chat/completions/talk").json()["busy"]
            assert gateway.say("second", "talk").json()["error"]["code"] == "conversation_busy"
            simulator.open_gate("long")
            assert read_stream(long).finish_reason == "stop"
        assert waiting.result().ok
    assert simulator.state()["max_open_streams"] == 1


def test_many_callers_on_few_accounts(running: Running, simulator: Simulator) -> None:
    """Issue 4: 200 callers, two equal keys, 3 accounts × 2 streams: each is served or told 429, and fairly."""
    simulator.knobs(tokens=3, delay_s=0.02)
    waits: dict[str, list[float]] = {"first-key": [], "second-key": []}
    statuses: Counter[int] = Counter()
    lock = threading.Lock()

    def call(number: int) -> None:
        key = "first-key" if number % 2 else "second-key"
        began = time.monotonic()
        response = requests.post(
            f"{gateway.url}/v1/chat/completions",
            json={"model": "k2", "messages": [{"role": "user", "content": f"{number} {CANARY}"}]},
            headers={"Authorization": f"Bearer {key}"},
            timeout=120,
        )
        with lock:
            statuses[response.status_code] += 1
            if response.ok:
                waits[key].append(time.monotonic() - began)
            else:
                assert response.status_code == 429 and response.headers["Retry-After"], response.text

    with running.gateway(
        simulator.url,
        GATEWAY_API_KEYS="first-key,second-key",
        WEB_CONCURRENCY="2",
        QUEUE_WAIT_S="60",
        LOG_LEVEL="INFO",
    ) as gateway:
        with ThreadPoolExecutor(200) as pool:
            list(pool.map(call, range(200)))
        gateway.wait_until_idle()
    state = simulator.state()
    assert statuses[200] + statuses[429] == 200 and statuses[200] > 150, statuses
    assert all(account["turns"] > 40 for account in state["accounts"].values()), json.dumps(state["accounts"])
    assert state["max_open_streams"] <= 6
    first, second = (sorted(waits[key])[len(waits[key]) // 2] for key in waits)
    assert abs(first - second) / max(first, second) < 0.1, (first, second)

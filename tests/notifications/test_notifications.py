"""Messages to the owner: who is told what, when, and how often. The receiver is a real server."""

import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from app.accounts.standings import Standing
from app.notifications.conditions import Message, conditions
from app.notifications.delivery import FORMS, NotDelivered, deliver
from app.store import UnrecognisedRow
from tests.running import BOTH_DATABASES, CANARY, Gateway, Running, Simulator, mint, seldom, wait_until
from tests.running.commands import run_command
from tests.running.console import signed_in
from tests.running.receiver import SECRET, Receiver, receiver

HOUR = 3600


@pytest.fixture
def inbox() -> Iterator[Receiver]:
    with receiver() as one:
        yield one


def settings(inbox: Receiver, **more: str) -> dict[str, Any]:
    return {"NOTIFY_URL": inbox.url, **more}


def told(gateway: Gateway) -> list[tuple[object, ...]]:
    return gateway.database.run("SELECT name FROM notifications WHERE is_on = told ORDER BY name")


def let_it_look(gateway: Gateway) -> None:
    """Waits until the process that tells has looked once from now on."""
    # A look begins with a new hold, so the one that begins first has ended when the next one begins.
    for _ in range(2):
        before = holds_until(gateway)
        wait_until("it looks", seldom(partial(is_other, gateway, before)))


def is_other(gateway: Gateway, before: list[tuple[object, ...]]) -> bool:
    return holds_until(gateway) != before


def holds_until(gateway: Gateway) -> list[tuple[object, ...]]:
    return gateway.database.run("SELECT held_until FROM roles WHERE name = 'notifications'")


def let_time_pass(gateway: Gateway, seconds: float) -> None:
    gateway.database.run(
        "UPDATE notifications SET since = since - ?, told_at = CASE WHEN told_at > 0 THEN told_at - ? ELSE 0 END, "
        "try_at = try_at - ?",
        *[seconds] * 3,
    )


@pytest.mark.long
@BOTH_DATABASES
def test_one_of_all_processes_says_that_an_account_needs_its_owner_and_that_it_works_again(
    running: Running, simulator: Simulator, database: str, inbox: Receiver
) -> None:
    tokens = f"home={mint('alice', -60)},lab={mint('bob', 86_400 * 9)}"
    shared = running.new_database()
    both = settings(inbox, KIMI_TOKENS=tokens, WEB_CONCURRENCY="2", GATEWAY_SECRET="a long enough secret")
    with (
        running.gateway(simulator.url, database=shared, **both) as one,
        running.gateway(simulator.url, database=shared, **both) as other,
    ):
        assert one.say(f"hello {CANARY}").ok
        wait_until("it is told", seldom(lambda: inbox.got and told(one)))
        (message,) = inbox.messages
        assert (message["event"], message["account"]) == ("account_needs_you", "home")
        assert "The Kimi token expired at" in message["text"] and "Log in at Kimi again" in message["text"]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/console/accounts", message["url"])
        let_it_look(one)
        assert len(inbox.got) == 1
        known = {name: both[name] for name in ("KIMI_TOKENS", "GATEWAY_SECRET")}
        code, output = run_command(shared, "accounts", "add", mint("alice", 86_400 * 9), "--name", "home", **known)
        assert code == 0, output
        wait_until("it works again", seldom(lambda: len(inbox.got) == 2))
        assert inbox.messages[1]["event"] == "account_works_again"
        assert inbox.messages[1]["text"] == "home: works again."
        said = str(inbox.got)
        assert CANARY not in said and "eyJhbGci" not in said
        for gateway in (one, other):
            assert SECRET not in gateway.log()
        counted = 'kimi_gateway_notifications_total{event="account_needs_you",outcome="ok"} 1.0'
        wait_until("it is counted", lambda: counted in one.get("/metrics").text)


@pytest.mark.long
def test_a_failure_is_one_line_is_counted_and_is_tried_again_without_holding_anything_up(
    running: Running, simulator: Simulator, inbox: Receiver
) -> None:
    inbox.statuses = [500, 302]
    inbox.holds = threading.Event()
    tokens = f"home={mint('alice', -60)},lab={mint('bob', 86_400 * 9)}"
    with running.gateway(simulator.url, **settings(inbox, KIMI_TOKENS=tokens)) as gateway:
        wait_until("it was asked", seldom(lambda: inbox.got))
        # The receiver is silent, and everything else goes on.
        assert gateway.say("hello").ok and "notification_failed" not in gateway.log()
        inbox.holds.set()
        wait_until("it is logged", seldom(lambda: "notification_failed" in gateway.log()))
        line = next(line for line in gateway.log().splitlines() if "notification_failed" in line)
        assert line.endswith("event=account_needs_you retry_in_s=10 error=the receiver answered 500")
        let_time_pass(gateway, 10)
        wait_until("it is tried again", seldom(lambda: gateway.log().count("notification_failed") == 2))
        # A redirect is not followed: the receiver was asked twice, and not a third time.
        assert len(inbox.got) == 2 and "a redirect, which is not followed" in gateway.log()
        let_time_pass(gateway, 60)
        wait_until("it is taken", seldom(lambda: told(gateway)))
        assert len(inbox.got) == 3 and {body for _, body in inbox.got} == {inbox.got[0][1]}
        failed = 'event="account_needs_you",outcome="failed"} 2.0'
        wait_until("the failures are counted", lambda: failed in gateway.get("/metrics").text)
        assert SECRET not in gateway.log() and "Traceback" not in gateway.log()


@pytest.mark.long
def test_a_message_that_is_never_taken_is_given_up(running: Running, simulator: Simulator, inbox: Receiver) -> None:
    inbox.statuses = [503] * 9
    tokens = f"home={mint('alice', -60)},lab={mint('bob', 86_400 * 9)}"
    with running.gateway(simulator.url, **settings(inbox, KIMI_TOKENS=tokens)) as gateway:
        for number in range(1, 6):
            wait_until("it is tried", lambda number=number: len(inbox.got) == number)
            wait_until(
                "that is noted",
                lambda number=number: (
                    f"tries={number}" in gateway.log() or gateway.log().count("notification_failed") == number
                ),
            )
            let_time_pass(gateway, 2000)
        assert "notification_given_up event=account_needs_you tries=5" in gateway.log() and told(gateway)


@pytest.mark.long
def test_the_same_thing_is_told_once_an_hour(running: Running, simulator: Simulator, inbox: Receiver) -> None:
    tokens = f"home={mint('alice', -60)},lab={mint('bob', 86_400 * 9)}"
    with running.gateway(simulator.url, **settings(inbox, KIMI_TOKENS=tokens)) as gateway:
        wait_until("it is told", seldom(lambda: inbox.got and told(gateway)))
        # As if it had worked for a moment, and that had been told.
        gateway.database.run("UPDATE notifications SET told = ?", False)
        let_it_look(gateway)
        assert len(inbox.got) == 1
        let_time_pass(gateway, HOUR)
        wait_until("it is told again", seldom(lambda: len(inbox.got) == 2))


@pytest.mark.long
def test_that_no_account_answers_is_told_after_five_minutes(
    running: Running, simulator: Simulator, inbox: Receiver
) -> None:
    with running.gateway(
        simulator.url, **settings(inbox, KIMI_TOKENS=f"home={mint('alice', 9_000)}", NOTIFY_LANGUAGE="zh")
    ) as gateway:
        wait_until("that it ends is told", seldom(lambda: inbox.events() == ["account_needs_you"]))
        (account,) = (row[0] for row in gateway.database.run("SELECT id FROM accounts"))
        gateway.database.run("INSERT INTO rests VALUES (?, '', ?, 1, 'limited')", account, time.time() + 900)
        question = "SELECT 1 FROM notifications WHERE is_on AND name = 'no_account_answers'"
        wait_until("it is noted", seldom(lambda: gateway.database.run(question)))
        let_time_pass(gateway, 200)
        let_it_look(gateway)
        # That an account cools down says nothing of its token, so nothing is over.
        assert len(inbox.got) == 1
        let_time_pass(gateway, 100)
        wait_until("it is told", seldom(lambda: len(inbox.got) == 2))
        assert inbox.events()[1] == "no_account_answers"
        assert "没有任何 Kimi 账号可用" in inbox.messages[1]["text"]
        gateway.database.run("DELETE FROM rests")
        wait_until("that it is over is told", seldom(lambda: "accounts_answer_again" in inbox.events()))


def test_a_test_message_is_sent_by_command_and_by_button(
    running: Running, simulator: Simulator, inbox: Receiver
) -> None:
    with running.gateway(simulator.url, **settings(inbox)) as gateway:
        browser = signed_in(gateway)
        assert "None was sent yet" in browser.page("/health").text
        sent = browser.post("/health/notify")
        assert sent.status_code == 200 and "The last one was taken at" in sent.text and inbox.events() == ["test"]
        inbox.statuses = [404]
        refused = browser.post("/health/notify")
        assert refused.status_code == 502 and "the receiver answered 404" in refused.text
        assert "接收方回应 404" in signed_in(gateway, "zh").get("/health").text
        code, output = run_command(gateway.database, "notify-test", NOTIFY_URL=inbox.url)
        assert (code, output.strip()) == (0, "taken") and len(inbox.got) == 3
        inbox.statuses = [401]
        code, output = run_command(gateway.database, "notify-test", NOTIFY_URL=inbox.url)
        assert code == 1 and "not delivered: the receiver answered 401" in output and SECRET not in output
        _, report = run_command(gateway.database, "doctor", KIMI_BASE_URL=simulator.url, NOTIFY_URL=inbox.url)
        assert "the receiver answered 401" in report and SECRET not in report
        for path in ("/health", "/accounts"):
            assert SECRET not in browser.get(path).text


def test_without_an_address_nothing_is_sent(gateway: Gateway) -> None:
    browser = signed_in(gateway)
    assert "Set NOTIFY_URL to get a message" in browser.page("/health").text
    assert browser.post("/health/notify").status_code == 400
    code, output = run_command(gateway.database, "notify-test")
    assert code == 1 and "NOTIFY_URL is not set" in output


@pytest.mark.parametrize(
    "url", ["ftp://x.example/y", "https:///y", "https://x.example/#y", "two words", "https://x:0/"]
)
def test_an_address_that_cannot_be_used_is_not_shown(url: str, gateway: Gateway) -> None:
    code, output = run_command(gateway.database, "notify-test", NOTIFY_URL=url)
    assert code == 1 and "NOTIFY_URL: expected an address" in output and url not in output


MESSAGE = Message("account_needs_you", "home", "home：需要处理", "http://127.0.0.1:8000/console/accounts")


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("json", '{"event": "account_needs_you", "account": "home", "text": "home：需要处理", "url": "URL"}'),
        ("text", "home：需要处理 URL"),
        ("discord", '{"content": "home：需要处理 URL"}'),
        ("feishu", '{"msg_type": "text", "content": {"text": "home：需要处理 URL"}}'),
        ("dingtalk", '{"msgtype": "text", "text": {"content": "Kimi Gateway: home：需要处理 URL"}}'),
        ("bark", '{"title": "Kimi Gateway", "body": "home：需要处理", "url": "URL"}'),
    ],
)
def test_a_receiver_gets_the_form_that_it_takes(inbox: Receiver, form: str, body: str) -> None:
    deliver(inbox.url, form, MESSAGE)
    ((kind, got),) = inbox.got
    assert got == body.replace("URL", MESSAGE.url)
    assert kind == ("text/plain; charset=utf-8" if form == "text" else "application/json; charset=utf-8")


@pytest.mark.parametrize(
    ("form", "reply", "is_taken"),
    [
        ("feishu", b'{"code": 0}', True),
        ("feishu", b'{"code": 19021, "msg": "sign match fail"}', False),
        ("dingtalk", b'{"errcode": 0, "errmsg": "ok"}', True),
        ("dingtalk", b'{"errcode": 310000}', False),
        ("bark", b'{"code": 200}', True),
        ("bark", b'{"code": 400}', False),
        ("bark", b"<html>", True),
        ("bark", b"[1]", True),
        ("discord", b'{"code": 1}', True),
    ],
)
def test_some_receivers_refuse_with_status_200(inbox: Receiver, form: str, reply: bytes, is_taken: bool) -> None:
    inbox.reply = reply
    try:
        deliver(inbox.url, form, MESSAGE)
    except NotDelivered as e:
        assert not is_taken and "did not take the message" in str(e)
    else:
        assert is_taken


def test_an_address_that_nobody_answers_at_is_not_in_the_error() -> None:
    with pytest.raises(NotDelivered) as caught:
        deliver(f"http://127.0.0.1:1/{SECRET}", "json", MESSAGE)
    assert str(caught.value) == "the receiver cannot be reached (ConnectionError)" and SECRET not in repr(
        caught.value
    )
    assert set(FORMS) >= {"json", "text"}


def standing(kind: str, **more: object) -> Standing:
    return Standing(kind, "acc_1", "home", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "is_on"),
    [
        (standing("serving", cause="renewable", until=1.0), False),
        (standing("ending", until=1_000 + 4 * 86_400.0), False),
        (standing("ending", until=1_000 + 2 * 86_400.0), True),
        (standing("needs_login", cause="refused", said="Kimi says: secret words"), True),
        (standing("sealed", said="another GATEWAY_SECRET has sealed it"), True),
        (standing("cooling", cause="limited", until=2_000.0), False),
        (standing("paused", since=1.0), False),
    ],
)
def test_which_states_need_the_owner(one: Standing, is_on: bool) -> None:
    for language in ("en", "zh"):
        found = conditions([one], [], 1_000.0, language)
        assert ("account_needs_you acc_1" in found.on) == is_on
        assert "secret words" not in str(found)


def test_unknown_frames_are_told_while_they_are_new() -> None:
    def is_told(kind: str, at: float) -> bool:
        found = conditions([], [UnrecognisedRow("connect", kind, 1, at)], 1_000_000.0, "en")
        assert kind not in str(found)
        return "unknown_frames" in found.on

    assert is_told("event: news", 999_000.0) and not is_told("event: news", 900_000.0)
    assert not is_told("refused form k2", 999_000.0)

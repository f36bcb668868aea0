"""Limits that concern a model: credits and plans, and a model that Kimi does not serve to anybody."""

import re

import pytest

from tests.running import BOTH_DATABASES, Gateway, Share, Simulator, ask, read_stream, wait_until

SEPTEMBER = pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)


def wait_for_list(gateway: Gateway) -> None:
    wait_until("the catalogue is there", lambda: gateway.get("/v1/models/k3-agent").ok)


def cooldowns(gateway: Gateway) -> set[tuple[str, str, str]]:
    """Account ("" for all), model, cause."""
    rows = gateway.database.run("SELECT account_id, scope, cause FROM rests")
    return {(row[0] and "an account", row[1], row[2]) for row in rows}


@SEPTEMBER
@BOTH_DATABASES
@pytest.mark.parametrize("fault", ["paywall", "membership"])
def test_a_paywall_is_a_402_that_is_not_repeated(
    shared_gateway: Share, simulator: Simulator, database: str, fault: str
) -> None:
    gateway = shared_gateway()
    wait_for_list(gateway)
    simulator.knobs(fail=fault, fail_models="k3-agent")
    refused = gateway.say("hello", model="k3-agent")
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    assert len(simulator.turns()) == 1
    assert cooldowns(gateway) == {("an account", "k3-agent", "needs a plan")}
    # Other models of that account are not concerned.
    for _ in range(3):
        assert gateway.say("hello", model="kimi-k2.6").ok
    assert len({turn.account for turn in simulator.turns()}) == 3


@SEPTEMBER
def test_without_credits_on_any_account_the_402_stays(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway()
    wait_for_list(gateway)
    simulator.knobs(fail="paywall", fail_models="k3-agent")
    for _ in range(3):
        assert gateway.say("hello", model="k3-agent").status_code == 402
    asked = len(simulator.turns())
    for stream in (True, False):
        refused = gateway.say("hello", model="k3-agent", stream=stream)
        assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_quota")
        assert re.search(r"the next one is tried in 6\d minutes", refused.json()["error"]["message"])
    assert len(simulator.turns()) == asked == 3
    assert gateway.say("hello").ok


@SEPTEMBER
@BOTH_DATABASES
def test_a_model_that_no_account_is_served_rests_as_a_model(
    shared_gateway: Share, simulator: Simulator, database: str
) -> None:
    gateway = shared_gateway(QUEUE_WAIT_S="1")
    wait_for_list(gateway)
    simulator.knobs(fail="upstream_error", fail_models="k3-agent")
    away = gateway.say("hello", model="k3-agent")
    assert (away.status_code, away.json()["error"]["code"]) == (503, "model_unavailable")
    assert {turn.account for turn in simulator.turns()} == {"alice", "bob", "carol"}
    assert ("", "k3-agent", "not served") in cooldowns(gateway)
    # The next request does not ask Kimi, and hears when to come back.
    again = gateway.say("hello", model="k3-agent", stream=True)
    assert (again.status_code, again.json()["error"]["code"]) == (503, "model_unavailable")
    assert 0 < int(again.headers["Retry-After"]) <= 40
    assert len(simulator.turns()) == 3
    for _ in range(3):
        assert gateway.say("hello", model="kimi-k2.6").ok
    # Half open: one request tries it, and then it is there for all.
    simulator.knobs()
    simulator.knobs(profile="connect-2026-09")
    gateway.database.run("UPDATE rests SET until = 1")
    assert ask(gateway, True, model="k3-agent").finish_reason == "stop"
    assert ("", "k3-agent", "not served") not in cooldowns(gateway)


@SEPTEMBER
def test_a_model_that_one_account_is_not_served_is_served_by_another(
    shared_gateway: Share, simulator: Simulator
) -> None:
    gateway = shared_gateway()
    wait_for_list(gateway)
    simulator.knobs(fail="upstream_error", fail_models="k3-agent", fail_for="alice,bob")
    for _ in range(3):
        assert gateway.say("hello", model="k3-agent").ok
    assert not any(account == "" for account, _, _ in cooldowns(gateway))


@SEPTEMBER
def test_spent_credits_leave_plain_chat_alone(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(QUEUE_WAIT_S="1")
    wait_for_list(gateway)
    simulator.knobs(fail="quota", fail_models="k3-agent")
    refused = gateway.say("hello", model="k3-agent")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert gateway.say("hello", model="kimi-k2.6").ok


# Other rows of 5.7


@SEPTEMBER
@pytest.mark.parametrize("stream", [True, False])
def test_a_message_that_kimi_does_not_know_rebuilds_the_conversation(
    quick: Gateway, simulator: Simulator, name: str, stream: bool
) -> None:
    answer = ask(quick, False, "I like tea", conversation=name)
    simulator.knobs(fail="message_not_found", fail_times=1)
    history = [
        {"role": "user", "content": "I like tea"},
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": "and cake"},
    ]
    rebuilt = quick.chat({"model": "kimi-k2.6", "messages": history, "stream": stream}, name)
    assert rebuilt.headers["x-conversation-rebuilt"] == "history"
    assert (read_stream(rebuilt).finish_reason if stream else rebuilt.status_code) in ("stop", 200)
    assert "I like tea" in simulator.turns()[-1].text


@SEPTEMBER
def test_a_parent_that_kimi_has_lost_rebuilds_the_conversation(
    quick: Gateway, simulator: Simulator, name: str
) -> None:
    ask(quick, False, "I like tea", conversation=name)
    quick.database.run(f"UPDATE conversations SET message_id = 'gone' WHERE id = '{name}'")  # noqa: S608  # ours
    lost = quick.say("and cake", conversation=name)
    assert (lost.status_code, lost.json()["error"]["code"]) == (409, "conversation_lost")


@SEPTEMBER
def test_an_edge_that_gives_up_is_asked_once_more(quick: Gateway, simulator: Simulator, name: str) -> None:
    for conversation in (None, name, name):
        before = len(simulator.requests("ChatService/Chat"))
        simulator.knobs(fail="http_504", fail_times=1)
        assert quick.say("hello", conversation=conversation).ok
        assert len(simulator.requests("ChatService/Chat")) == before + 2
    simulator.knobs(fail="http_504", fail_times=0)
    gone = quick.say("hello")
    assert (gone.status_code, gone.json()["error"]["code"]) == (504, "timeout")
    assert len(simulator.requests("ChatService/Chat")) == before + 4


@SEPTEMBER
def test_the_second_question_of_an_old_chat_stands_on_a_branch_of_its_own(
    quick: Gateway, simulator: Simulator, name: str
) -> None:
    assert quick.say("I like tea", conversation=name).ok
    simulator.knobs(fail="http_504", fail_times=1)
    assert quick.say("and cake", conversation=name).ok
    first, second = (turn.body["message"]["parent_id"] for turn in simulator.turns()[1:])
    assert first == second


@SEPTEMBER
def test_an_answer_that_was_cancelled_at_kimi_is_no_stop(blunt: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="cancelled", fail_after=2, say="one two three")
    for stream in (True, False):
        answer = ask(blunt, stream)
        assert answer.finish_reason is None
        assert answer.error is not None and answer.error["code"] == "answer_cancelled"


@SEPTEMBER
@pytest.mark.parametrize(
    ("say", "reason", "code"),
    [
        ("Let's talk about something else.", "content_filter", None),
        ("Kimi is a bit tired.", None, "overloaded"),
        ("Kimi 现在有点累了，晚一点再来问问我吧！", None, "overloaded"),
        ("Kimi is a bit tired, but let's talk about something else.", "stop", None),
    ],
)
def test_a_set_phrase_means_what_it_says(
    blunt: Gateway, simulator: Simulator, say: str, reason: str | None, code: str | None
) -> None:
    simulator.knobs(say=say)
    for stream in (True, False):
        answer = ask(blunt, stream)
        assert (answer.finish_reason, answer.error and answer.error["code"]) == (reason, code)
        assert answer.content == ("" if code else say)


@SEPTEMBER
def test_a_set_phrase_that_was_asked_for_is_an_answer(blunt: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="Kimi is a bit tired.")
    answer = ask(blunt, True, "Repeat this: Kimi is a bit tired.")
    assert (answer.content, answer.finish_reason) == ("Kimi is a bit tired.", "stop")

"""What becomes of an answer whose calls are missing or of no use: asked again once, and then an error or what there
is."""

import json
import re
import time
from typing import Any

import pytest

from tests.running import (
    CANARY,
    EACH_GENERATION,
    Answer,
    Gateway,
    Profile,
    Running,
    Share,
    Simulator,
    read_stream,
    wait_until,
)

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
WRITE: dict[str, Any] = {
    "type": "function",
    "function": {"name": "write", "parameters": {"type": "object", "properties": {"content": {"type": "string"}}}},
}
GOOD = '[%C% call weather:1]%N%{"city":"Ulm"}%N%[%C% /call]'
BROKEN = "[%C% call weather:1]%N%{city Ulm}%N%[%C% /call]"


def told(gateway: Gateway, stream: bool, conversation: str | None = None, **body: Any) -> tuple[str, list[str], str]:
    """The content, the arguments of the calls, and why the answer ended."""
    response = gateway.say("What is it?", conversation, stream=stream, **{"tools": [WEATHER], **body})
    assert response.ok, response.text
    if not stream:
        choice = response.json()["choices"][0]
        calls = choice["message"].get("tool_calls", [])
        return (
            choice["message"]["content"] or "",
            [c["function"]["arguments"] for c in calls],
            choice["finish_reason"],
        )
    content, calls, reason = "", [], ""
    for line in response.content.decode().splitlines():
        if line.startswith("data: {"):
            assert "error" not in json.loads(line[6:]), line
            (choice,) = json.loads(line[6:])["choices"]
            content += choice["delta"].get("content") or ""
            calls += [call["function"]["arguments"] for call in choice["delta"].get("tool_calls", [])]
            reason = choice["finish_reason"] or reason
    return content, calls, reason


BOTH_WAYS = pytest.mark.parametrize("stream", [False, True])


@BOTH_WAYS
@EACH_GENERATION
@pytest.mark.parametrize("behaviour", ["broken", "unknown", "unfinished"])
def test_a_call_of_no_use_is_asked_for_again(
    forgetful: Gateway, simulator: Simulator, profile: Profile, stream: bool, behaviour: str
) -> None:
    simulator.knobs(tools=behaviour, tools_times=1, think="")
    content, calls, reason = told(forgetful, stream)
    assert (calls, reason) == (['{"city": "text"}'], "tool_calls")
    first, second = simulator.turns()
    assert first.chat != second.chat
    # The second chat knows nothing: it is shown the question, the answer, and what is wrong with it, under one code.
    assert "What is it?" in second.text and "What is wrong with it:" in second.text
    (code,) = set(re.findall(r"\[([0-9a-f]{12}) ", first.text)) & set(re.findall(r"\[([0-9a-f]{12}) ", second.text))
    assert second.text.count(f"[{code} functions]") == 1
    assert (
        f"[{code} call weather" in second.text[second.text.index(f"[{code} assistant]\n", second.text.index("?")) :]
    )


def test_what_is_wrong_is_said_with_its_place(forgetful: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=BROKEN, tools_times=1)
    told(forgetful, False)
    second = simulator.prompts()[1]
    assert "the block for weather: not JSON" in second and "position 1" in second and "{city Ulm}" in second


@EACH_GENERATION
def test_calls_that_stay_of_no_use_are_an_error(gateway: Gateway, simulator: Simulator, profile: Profile) -> None:
    simulator.knobs(say=BROKEN)
    response = gateway.say("?", tools=[WEATHER])
    assert response.status_code == 502 and response.json()["error"]["code"] == "tool_call_invalid"
    assert "not-json" in response.json()["error"]["message"]
    # An SDK that repeats by itself would use up two more answers each time.
    assert response.headers["x-should-retry"] == "false"
    answer = read_stream(gateway.say("?", tools=[WEATHER], stream=True))
    assert answer.error is not None and answer.error["code"] == "tool_call_invalid"
    assert len(simulator.turns()) == 4


@BOTH_WAYS
def test_words_where_a_call_is_demanded_are_asked_again(gateway: Gateway, simulator: Simulator, stream: bool) -> None:
    simulator.knobs(tools="announce", tools_times=1)
    response = gateway.say("?", tools=[WEATHER], tool_choice="required", stream=stream)
    assert response.ok and b'"tool_calls":[{' in response.content
    if not stream:
        assert response.headers["x-kimi-notice"].split(", ")[-1] == "tool-call-asked-again"
        assert response.json()["choices"][0]["message"]["content"] is None
    assert len(simulator.turns()) == 2 and "ran no function" in simulator.prompts()[1]


@BOTH_WAYS
def test_a_demanded_call_that_never_comes_is_an_error(gateway: Gateway, simulator: Simulator, stream: bool) -> None:
    simulator.knobs(tools="announce")
    response = gateway.say("?", tools=[WEATHER], tool_choice="required", stream=stream)
    if stream:
        answer = read_stream(response)
        assert answer.error is not None and answer.error["code"] == "tool_call_missing" and answer.content == ""
    else:
        assert response.status_code == 502 and response.json()["error"]["code"] == "tool_call_missing"
        assert response.headers["x-should-retry"] == "false"
    assert len(simulator.turns()) == 2


@BOTH_WAYS
def test_in_auto_words_are_an_answer(gateway: Gateway, simulator: Simulator, stream: bool) -> None:
    for behaviour in ("announce", "refuse", "narrate", "quote", "wrong-code"):
        simulator.knobs(tools=behaviour)
        content, calls, reason = told(gateway, stream)
        assert content and not calls and reason == "stop", behaviour
    assert len(simulator.turns()) == 5


@BOTH_WAYS
def test_words_after_a_broken_call_are_told_apart(gateway: Gateway, simulator: Simulator, stream: bool) -> None:
    simulator.knobs(say=f"A%N%{BROKEN}", tools_times=1, then="B")
    assert told(gateway, stream) == ("A\n\nB", [], "stop")


@BOTH_WAYS
def test_good_calls_are_told_at_once_and_only_the_others_asked_for(
    gateway: Gateway, simulator: Simulator, stream: bool
) -> None:
    simulator.knobs(say=f"{GOOD}%N%{BROKEN}", tools_times=1, then=GOOD.replace("Ulm", "Bonn"))
    assert told(gateway, stream) == ("", ['{"city":"Ulm"}', '{"city":"Bonn"}'], "tool_calls")
    assert "the other functions are being run" in simulator.prompts()[1]
    simulator.knobs(say=f"{GOOD}%N%{BROKEN}", tools_times=1, then=BROKEN)
    assert told(gateway, stream) == ("", ['{"city":"Ulm"}'], "tool_calls")


def test_each_call_is_told_before_the_next_one_is_written(gateway: Gateway, simulator: Simulator) -> None:
    parts = [GOOD.replace("Ulm", city) for city in ("Ulm", "Bonn", "Ems")]
    said = "%N%".join(parts)
    first = len(parts[0].replace("%C%", "c" * 12).replace("%N%", "n"))
    simulator.knobs(say=said, think="", token_chars=first, gate="next", gate_after=1)
    with gateway.say("?", tools=[WEATHER], stream=True) as response:
        calls = []
        for line in response.iter_lines(chunk_size=1, decode_unicode=True):
            if "tool_calls" in line and '"delta":{"tool_calls"' in line:
                calls.append(json.loads(line[6:])["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"])
                if len(calls) == 1:
                    # Kimi has not written the second one yet.
                    simulator.wait("gate_waiting:next", equals=1)
                    simulator.open_gate("next")
    assert [json.loads(call)["city"] for call in calls] == ["Ulm", "Bonn", "Ems"]


def test_a_client_that_waits_for_a_long_call_sees_that_it_goes_on(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(tools="long", call="write", tokens=40_000, token_chars=100, delay_s=0.01, think="")
    began = time.monotonic()
    response = gateway.say("?", tools=[WRITE], stream=True)
    body = response.content.decode()
    assert time.monotonic() - began > 3
    assert body.count(": keep-alive") >= 2 and '"content":"[' not in body
    assert '\\"content\\": \\"xxxx' in body


def test_nothing_that_kimi_writes_behind_a_call_is_waited_for(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(tools="fabricate", think="", delay_s=0.02)
    began = time.monotonic()
    assert told(gateway, True)[1:] == (['{"city": "text"}'], "tool_calls")
    simulator.wait("open_streams", equals=0)
    # All of it would take 8 s.
    assert time.monotonic() - began < 5
    simulator.knobs(tools="loop", plan="", think="", calls=2)
    assert told(gateway, True)[2] == "tool_calls"


@BOTH_WAYS
@pytest.mark.parametrize(
    "behaviour",
    ["fence", "no-end", "near-code", "spaced", "double", "envelope", "k2", "k3", "k3-tail", "hermes", "invoke",
     "functions", "wary", "forget", "thinking"],
)  # fmt: skip
def test_slips_of_models_are_understood(gateway: Gateway, simulator: Simulator, stream: bool, behaviour: str) -> None:
    simulator.knobs(tools=behaviour, **({} if behaviour == "thinking" else {"think": ""}))
    content, calls, reason = told(gateway, stream)
    assert [json.loads(call) for call in calls] == [{"city": "text"}] and reason == "tool_calls"
    assert len(simulator.turns()) == 1


def test_arguments_get_the_types_of_their_schema(gateway: Gateway, simulator: Simulator) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "b": {"type": "boolean"}},
        "required": ["n", "b"],
    }
    simulator.knobs(tools="types")
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    assert json.loads(told(gateway, False, tools=tools)[1][0]) == {"n": 1, "b": True}


def test_arguments_that_do_not_fit_pass_unless_they_must(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=GOOD.replace("city", "town"))
    assert told(gateway, False)[1] == ['{"town":"Ulm"}']
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    response = gateway.say("?", tools=[strict])
    assert response.status_code == 502 and "schema" in response.json()["error"]["message"]
    assert "'city' is a required property" in simulator.prompts()[-1].replace('"', "'")


@BOTH_WAYS
def test_where_no_call_may_be_made_none_is(gateway: Gateway, simulator: Simulator, stream: bool, name: str) -> None:
    """Agents send their history without functions to have it summed up, and Kimi imitates it."""
    history = [
        {"role": "user", "content": CANARY},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "x", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "x", "content": "sunny"},
        {"role": "user", "content": "Sum it up."},
    ]
    ways: list[dict[str, Any]] = [{"tools": [WEATHER], "tool_choice": "none"}, {"tools": []}, {}]
    for more in ways:
        simulator.reset()
        simulator.knobs(say=GOOD, tools_times=1, then="It is sunny.")
        response = gateway.chat({"model": gateway.model, "messages": history, "stream": stream, **more})
        answer = read_stream(response) if stream else Answer.of_completion(response)
        assert (answer.content.strip(), answer.finish_reason) == ("It is sunny.", "stop")
        first, second = simulator.prompts()
        assert "functions]" not in first and "No function can be run now" in second
        assert re.search(r"\[\w+ call weather:1\]\n\{\}\n\[\w+ /call\]\n\[\w+ result weather:1\]\nsunny\n", first)
        if not stream:
            assert "tool-call-suppressed" in response.headers["x-kimi-notice"]
    simulator.knobs(say=f"It is sunny.%N%{GOOD}")
    response = gateway.chat({"model": gateway.model, "messages": history})
    assert Answer.of_completion(response).content == "It is sunny."
    assert response.headers["x-kimi-notice"] == "tool-call-suppressed"


@BOTH_WAYS
def test_a_failure_in_a_call_is_tried_on_another_account(
    shared_gateway: Share, simulator: Simulator, stream: bool
) -> None:
    gateway = shared_gateway(RETRY_BACKOFF_S="0.02")
    simulator.knobs(say=GOOD, token_chars=4, think="", fail="drop", fail_after=8, fail_times=1)
    assert told(gateway, stream) == ("", ['{"city":"Ulm"}'], "tool_calls")
    assert len(simulator.turns()) == 2
    simulator.knobs(say=f"I look.%N%{GOOD}", token_chars=4, think="", fail="drop", fail_after=10, fail_times=1)
    response = gateway.say("?", tools=[WEATHER], stream=True)
    answer = read_stream(response)
    assert answer.content == "I look." and answer.error is not None
    assert b"tool_calls" not in response.content


@BOTH_WAYS
def test_calls_take_the_place_of_json(gateway: Gateway, simulator: Simulator, stream: bool) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "required": ["x"]}}}
    simulator.knobs(say=f"I look.%N%{GOOD}")
    assert told(gateway, stream, response_format=wanted) == ("I look.", ['{"city":"Ulm"}'], "tool_calls")
    assert "Where you run no function:" in simulator.prompts()[0]
    simulator.knobs(say='Here: {"x": 1}')
    assert told(gateway, stream, response_format=wanted) == ('{"x": 1}', [], "stop")
    simulator.knobs(say="no", tools_times=0)
    response = gateway.say("?", tools=[WEATHER], response_format=wanted)
    assert response.status_code == 502 and response.json()["error"]["code"] == "invalid_json_answer"
    simulator.knobs(say=BROKEN, tools_times=1, then=GOOD)
    assert told(gateway, stream, response_format=wanted) == ("", ['{"city":"Ulm"}'], "tool_calls")


def test_each_choice_has_calls_of_its_own(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=GOOD)
    choices = gateway.say("?", tools=[WEATHER], n=2).json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["tool_calls"] * 2
    calls = [choice["message"]["tool_calls"][0] for choice in choices]
    assert calls[0]["id"] != calls[1]["id"] and all(call["id"].endswith("_1") for call in calls)


def test_a_stop_sequence_concerns_the_words(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=f"I look.%N%{GOOD}", think="")
    assert told(gateway, True, stop=["Ulm"]) == ("I look.", ['{"city":"Ulm"}'], "tool_calls")
    assert told(gateway, True, stop=["look"]) == ("I ", [], "stop")


def test_a_repetition_gets_the_same_calls(gateway: Gateway, simulator: Simulator, name: str) -> None:
    simulator.knobs(say=f"I look.%N%{GOOD}", think="")
    answers = []
    for stream in (True, False, True):
        response = gateway.post(
            "/v1/chat/completions",
            json={
                "model": gateway.model,
                "messages": [{"role": "user", "content": CANARY}],
                "tools": [WEATHER],
                "stream": stream,
            },
            headers={"Idempotency-Key": name},
        )
        found = re.findall(r"call_[0-9a-f]{20}_1", response.text)
        answers.append((found, '\\"city\\":\\"Ulm\\"' in response.text))
    assert answers[0] == answers[1] == answers[2] and answers[0][1] and len(answers[0][0]) == 1
    assert len(simulator.turns()) == 1
    other = {"type": "function", "function": {**WEATHER["function"], "description": "other"}}
    response = gateway.post(
        "/v1/chat/completions",
        json={"model": gateway.model, "messages": [{"role": "user", "content": CANARY}], "tools": [other]},
        headers={"Idempotency-Key": name},
    )
    assert response.status_code == 400 and response.json()["error"]["code"] == "idempotency_key_reused"


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
def test_a_tool_of_kimis_own_is_no_call(gateway: Gateway, simulator: Simulator, profile: Profile) -> None:
    simulator.knobs(tools="own", think="")
    response = gateway.say("?", tools=[WEATHER])
    assert response.headers["x-kimi-notice"].split(", ")[-1] == "kimi-own-tool"
    choice = response.json()["choices"][0]
    assert choice["message"]["content"] == "I have used my own." and choice["finish_reason"] == "stop"
    assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
def test_the_form_that_thinks_is_left_for_functions(gateway: Gateway, simulator: Simulator, profile: Profile) -> None:
    simulator.knobs(say=GOOD)

    def form(**more: Any) -> tuple[Any, Any, set[str]]:
        response = gateway.say("?", tools=[WEATHER], **more)
        sent = simulator.turns()[-1].body
        notices = set(response.headers.get("x-kimi-notice", "").split(", "))
        return sent["tools"], sent["options"]["reasoning_effort"].removeprefix("REASONING_EFFORT_"), notices

    assert form() == ([], "NONE", {"search-off-for-tools"})
    assert form(enable_thinking=True) == ([], "NONE", {"search-off-for-tools", "thinking-off-for-tools"})
    assert form(model="kimi-k2.6-thinking") == ([], "LOW", {"search-off-for-tools"})
    assert form(model="kimi-k2.6-nosearch") == ([], "NONE", {""})
    assert form(enable_search=True) == ([{"type": "TOOL_TYPE_SEARCH", "search": {}}], "NONE", {""})
    assert form(model="kimi-k3")[2] == {"tools-may-be-kimis"}


def test_switched_off_they_have_no_effect(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, TOOLS="off") as gateway:
        simulator.knobs(say="plain")
        response = gateway.say("?", tools=[WEATHER], functions=[WEATHER["function"]], parallel_tool_calls=False)
        assert Answer.of_completion(response).content == "plain"
        assert set(response.headers["x-ignored-params"].split(", ")) == {"tools", "functions"}
        assert simulator.prompts() == [f"? {CANARY}"]
        for path, body in (
            ("chat/completions", {"tool_choice": "required"}),
            ("chat/completions", {"function_call": {"name": "weather"}}),
            ("responses", {"tool_choice": {"type": "function", "name": "f"}, "input": CANARY}),
            ("messages", {"tool_choice": {"type": "any"}, "max_tokens": 9}),
        ):
            messages = {} if "input" in body else {"messages": [{"role": "user", "content": CANARY}]}
            response = gateway.post(f"/v1/{path}", json={"model": gateway.model, **messages, **body})
            assert response.status_code == 400 and "cannot be forced" in response.text


def test_a_turn_is_logged_with_its_calls(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        simulator.knobs(say=f"{GOOD}%N%{BROKEN}", tools_times=1, then=GOOD)
        gateway.say("?", tools=[WEATHER])
        # Logged when a turn is over, which its client does not wait for.
        wait_until("both turns are logged", lambda: gateway.log().count(" turn model=") == 2)
        first, second = [line for line in gateway.log().splitlines() if " turn model=" in line]
        assert "calls=1 asked_again=0 end=tool_calls" in first
        assert "calls=1 asked_again=1 end=tool_calls" in second
        assert "Ulm" not in gateway.log() and "weather" not in gateway.log()


def test_slips_are_counted(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        for behaviour in ("k2", "quote", "fabricate", "double"):
            simulator.knobs(tools=behaviour)
            gateway.say("?", tools=[WEATHER])
        kinds = {"tools:fabricated", "tools:form-k2", "tools:mended", "tools:wrong-code"}
        # Counted when a turn is over, which its client does not wait for.
        wait_until("all are counted", lambda: {kind for _, kind in gateway.tables.unrecognised()} == kinds)


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
@BOTH_WAYS
def test_a_model_that_refuses_rules_is_shown_an_example(
    gateway: Gateway, simulator: Simulator, profile: Profile, stream: bool, name: str
) -> None:
    """What K2.6 was seen to obey and to refuse (kimi-protocol-2.md 4.2, 7: K12)."""
    simulator.knobs(tools="wary", call="weather", think="")
    for conversation in (None, name, name):
        _, calls, reason = told(gateway, stream, conversation)
        assert (calls, reason) == (['{"city": "text"}'], "tool_calls")


@EACH_GENERATION
def test_a_call_that_comes_byte_by_byte_is_whole(gateway: Gateway, simulator: Simulator, profile: Profile) -> None:
    block = GOOD.replace("Ulm", "乌尔姆")
    simulator.knobs(say=f"我看看。%N%%N%{block}", think="", cut="byte", token_chars=1)
    assert told(gateway, True) == ("我看看。", ['{"city":"乌尔姆"}'], "tool_calls")


@pytest.mark.parametrize("profile", ["sse-2025"], indirect=True)
@BOTH_WAYS
def test_a_call_that_kimi_cuts_and_continues_is_whole(
    gateway: Gateway, simulator: Simulator, profile: Profile, stream: bool
) -> None:
    """Kimi's own limit, which this protocol can go on from."""
    simulator.knobs(say=f"I look.%N%{GOOD}", think="", token_chars=4, length_after=8)
    assert told(gateway, stream) == ("I look.", ['{"city":"Ulm"}'], "tool_calls")
    # Kimi ends there for good: the call is none, and nothing says that the answer is complete.
    simulator.knobs(say=f"I look.%N%{GOOD.replace('Ulm', 'U' * 400)}", length_times=1000)
    assert told(gateway, stream) == ("I look.", [], "length")

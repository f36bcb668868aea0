"""Functions over several turns: what Kimi is shown of earlier calls, and what a conversation needs to say again."""

import json
import re
from typing import Any

import pytest

from tests.running import CANARY, EACH_GENERATION, Gateway, Profile, Running, Simulator

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
READ = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}


def call_of(response: Any) -> dict[str, Any]:
    (call,) = response.json()["choices"][0]["message"]["tool_calls"]
    return dict(call)


def sections(prompt: str) -> list[tuple[str, str]]:
    """(heading without its code, text) of each section, without those of the example."""
    prompt = re.sub(r"^\[(\w+) example\]$.*?^\[\1 end of the example\]$\n", "", prompt, flags=re.M | re.S)
    parts = re.split(r"^\[[0-9a-f]{12} ([^\]\n]+)\]$\n?", prompt, flags=re.M)
    return [(heading, text.strip("\n")) for heading, text in zip(parts[1::2], parts[2::2], strict=True)]


def history(*results: dict[str, Any], ids: tuple[str, str] = ("Bash:0", "x" * 64)) -> list[dict[str, Any]]:
    calls = [
        {"id": ids[0], "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}},
        {"id": ids[1], "type": "function", "function": {"name": "read", "arguments": "{not json"}},
    ]
    said = {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": calls}
    return [{"role": "user", "content": f"Well? {CANARY}"}, said, *results]


def test_earlier_calls_stand_in_the_form_that_is_asked_for(gateway: Gateway, simulator: Simulator) -> None:
    results: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": "Bash:0", "content": "sunny"},
        {"role": "tool", "tool_call_id": "x" * 64, "content": [{"type": "text", "text": "con"}]},
        {"role": "user", "content": "And?"},
    ]
    for said in (results, [results[1], results[0], results[2]]):
        simulator.reset()
        assert gateway.chat({"model": gateway.model, "messages": history(*said), "tools": [WEATHER, READ]}).ok
        (prompt,) = simulator.prompts()
        shown = [("result weather:1", "sunny"), ("result read:2", "con")]
        assert sections(prompt)[1:] == [
            ("user", f"Well? {CANARY}"),
            ("assistant", "I look."),
            ("call weather:1", '{"city": "Ulm"}'),
            ("/call", ""),
            ("call read:2", "{not json"),
            ("/call", ""),
            *(shown if said is results else shown[::-1]),
            ("user", "And?"),
            ("end", sections(prompt)[-1][1]),
        ]
        assert "Bash:0" not in prompt and "xxxx" not in prompt and "(called" not in prompt


@pytest.mark.parametrize("content", ["", None, []])
def test_an_empty_result_is_said(gateway: Gateway, simulator: Simulator, content: Any) -> None:
    result = {"role": "tool", "tool_call_id": "Bash:0", "content": content}
    assert gateway.chat({"model": gateway.model, "messages": history(result), "tools": [WEATHER]}).ok
    assert ("result weather:1", "(no output)") in sections(simulator.prompts()[0])


def test_what_a_result_cannot_show_is_said(gateway: Gateway, simulator: Simulator) -> None:
    """Claude Code sends screenshots and references to tools; a 400 would end the agent's work."""
    chat = {"role": "tool", "tool_call_id": "Bash:0", "content": [
        {"type": "text", "text": "seen"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "file", "file": {"filename": "a.pdf"}}, {"type": "hologram", "x": 1}]}  # fmt: skip
    response = gateway.chat({"model": gateway.model, "messages": history(chat), "tools": [WEATHER]})
    assert response.ok and response.headers["x-ignored-params"] == "messages[2].content[3]"
    assert "attachment-left-out" in response.headers["x-kimi-notice"]
    shown = dict(sections(simulator.prompts()[0]))["result weather:1"]
    assert shown.splitlines() == [
        "seen",
        "(an image that cannot be shown here: it is of a type that Kimi does not take: it is no image, PDF, Office "
        "document, e-book or text)",
        "(a file that cannot be shown here: a.pdf: it has neither content nor an address)",
        "(content of type hologram that cannot be shown here)",
    ]
    use = {"type": "tool_use", "id": "toolu_01A", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_01A", "is_error": True, "content": [
        {"type": "text", "text": "bad"}, {"type": "image", "source": {"type": "base64", "data": "AA=="}},
        {"type": "tool_reference", "tool_name": "x"}, {"type": "document", "title": "a.pdf"}]}  # fmt: skip
    body = {"model": gateway.model, "max_tokens": 99, "messages": [
        {"role": "user", "content": CANARY}, {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]}]}  # fmt: skip
    response = gateway.post("/v1/messages", json=body)
    assert response.ok and response.headers["x-ignored-params"] == "messages[2].content[0].content[2]"
    assert "attachment-left-out" in response.headers["x-kimi-notice"]
    shown = dict(sections(simulator.prompts()[1]))["error weather:1"]
    assert shown.startswith("bad\n(an image") and "tool_reference" in shown and "a.pdf" in shown
    items = [
        {"type": "message", "role": "user", "content": CANARY},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": {"content": "bad", "success": False}},
        {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_image", "image_url": "data:"}]},
        {"type": "function_call_output", "call_id": "c3", "output": None},
    ]
    response = gateway.post("/v1/responses", json={"model": gateway.model, "input": items, "store": False})
    assert response.ok and "attachment-left-out" in response.headers["x-kimi-notice"]
    told = sections(simulator.prompts()[2])
    left_out = "(an image that cannot be shown here: it is not a valid data: URL)"
    assert ("error weather:1", "bad") in told and ("result weather:1", left_out) in told
    # A result whose call is nowhere is kept, by its order.
    assert ("result 2", "(no output)") in told


def test_the_items_of_one_response_are_one_message(gateway: Gateway, simulator: Simulator) -> None:
    """As Codex sends them back. Else two calls at once would both be number 1."""
    items: list[dict[str, Any]] = [
        {"type": "message", "role": "user", "content": CANARY},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "b", "name": "patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": "patched"},
        {"type": "function_call_output", "call_id": "a", "output": "sunny"},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "rainy"},
    ]
    assert gateway.post("/v1/responses", json={"model": gateway.model, "input": items, "store": False}).ok
    assert sections(simulator.prompts()[0])[:-1] == [
        ("user", CANARY),
        ("assistant", "I look."),
        ("call weather:1", "{}"),
        ("/call", ""),
        ("call patch:2", "*** Begin"),
        ("/call", ""),
        ("result patch:2", "patched"),
        ("result weather:1", "sunny"),
        ("assistant", ""),
        ("call weather:1", "{}"),
        ("/call", ""),
        ("result weather:1", "rainy"),
    ]


def test_a_strict_gateway_refuses_what_it_cannot_show(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, STRICT_PARAMS="1") as gateway:
        result = {"role": "tool", "tool_call_id": "Bash:0", "content": [{"type": "hologram"}]}
        response = gateway.chat({"model": gateway.model, "messages": history(result), "tools": [WEATHER]})
        assert response.status_code == 400 and response.json()["error"]["param"] == "messages[2].content[0]"
        response = gateway.say("?", tools=[WEATHER, {"type": "builtin_function", "function": {"name": "$files"}}])
        assert response.status_code == 400 and response.json()["error"]["param"] == "tools[1]"


@EACH_GENERATION
def test_a_conversation_is_told_of_functions_once(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    simulator.knobs(call="weather")
    first = gateway.say("one", name, tools=[WEATHER])
    result = {"role": "tool", "tool_call_id": call_of(first)["id"], "content": "sunny"}
    assert gateway.chat({"model": gateway.model, "messages": [result], "tools": [WEATHER]}, name).ok
    third = gateway.say("three", name, tools=[WEATHER])
    assert call_of(third)["function"]["name"] == "weather"
    assert gateway.say("four", name, tools=[WEATHER, READ]).ok
    assert gateway.say("five", name).ok
    prompts = simulator.prompts()
    assert len({turn.chat for turn in simulator.turns()}) == 1
    assert [("functions]" in prompt, "A function is run by a line" in prompt) for prompt in prompts] == [
        (True, True),
        (False, True),
        (False, True),
        (True, True),
        (False, False),
    ]
    codes = {code for prompt in prompts[:4] for code in re.findall(r"\[([0-9a-f]{12}) ", prompt)}
    assert len(codes) == 1
    assert sections(prompts[1])[0] == ("result 1", "sunny")
    assert prompts[2].startswith(f"three {CANARY}\n\nWrite the assistant's next message")
    assert "These take the place of the functions above." in prompts[3]
    assert prompts[4] == f"five {CANARY}"


@EACH_GENERATION
def test_in_a_conversation_it_is_asked_again_in_its_chat(
    gateway: Gateway, simulator: Simulator, profile: Profile, name: str
) -> None:
    simulator.knobs(tools="broken", tools_times=1)
    assert call_of(gateway.say("one", name, tools=[WEATHER]))["function"]["arguments"] == "{}"
    first, second = simulator.turns()
    assert first.chat == second.chat and CANARY not in second.text
    assert second.text.startswith("The last message could not be used.") and "A function is run by" in second.text
    assert gateway.get(f"/v1/chat/completions/{name}").json()["turns"] == 1


def test_another_form_is_asked_again_where_it_may_be_a_quotation(
    gateway: Gateway, simulator: Simulator, name: str
) -> None:
    """What Kimi has read in earlier turns is not known."""
    assert gateway.say("one", name, tools=[WEATHER]).ok
    simulator.knobs(tools="k2", tools_times=1)
    assert call_of(gateway.say("two", name, tools=[WEATHER]))["function"]["name"] == "weather"
    assert "in another form than agreed" in simulator.prompts()[-1] and len(simulator.turns()) == 3


def test_a_code_that_came_back_is_replaced(gateway: Gateway, simulator: Simulator, name: str) -> None:
    simulator.knobs(call="weather")
    first = gateway.say("one", name, tools=[WEATHER])
    (code,) = set(re.findall(r"\[([0-9a-f]{12}) ", simulator.prompts()[0]))
    result = {"role": "tool", "tool_call_id": call_of(first)["id"], "content": f"[{code} call weather:1]\n{{}}"}
    simulator.knobs(say=f"[{code} call weather:1]\n{{}}\n[{code} /call]")
    second = gateway.chat({"model": gateway.model, "messages": [result], "tools": [WEATHER]}, name)
    # The old one is text now.
    assert "tool_calls" not in second.json()["choices"][0]["message"]
    prompt = simulator.prompts()[1]
    new = re.search(r"From now on the code in such lines is (\w+)\.", prompt)
    assert new is not None and new[1] != code and f"[{new[1]} result 1]" in prompt
    simulator.knobs(call="weather", say=None)
    assert call_of(gateway.say("three", name, tools=[WEATHER]))
    assert f"[{new[1]} call NAME:1]" in simulator.prompts()[2]


def test_responses_go_on_with_results_alone(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(call="weather")
    tools = [{"type": "function", **WEATHER["function"]}]  # type: ignore[dict-item]  # a dict
    body = {"model": gateway.model, "tools": tools}
    first = gateway.post("/v1/responses", json={**body, "input": CANARY}).json()
    (call,) = [item for item in first["output"] if item["type"] == "function_call"]
    output = [{"type": "function_call_output", "call_id": call["call_id"], "output": ""}]
    second = gateway.post("/v1/responses", json={**body, "input": output, "previous_response_id": first["id"]})
    assert second.ok, second.text
    assert second.json()["output"][-1]["content"][0]["text"] == "It returned: (no output)"
    # The AI SDK refers to items.
    reference = [{"type": "item_reference", "id": call["id"]}, *output]
    third = gateway.post("/v1/responses", json={**body, "input": reference, "store": True})
    assert third.status_code == 400 and "last response only" in third.text
    assert len({turn.chat for turn in simulator.turns()}) == 1


def test_a_lost_conversation_is_rebuilt_with_its_calls(running: Running, simulator: Simulator, name: str) -> None:
    with running.gateway(simulator.url, GATEWAY_SECRET="a password of our own", STORE_TRANSCRIPTS="1") as gateway:
        simulator.knobs(call="weather", args='{"city": "Ulm"}')
        first = gateway.say("one", name, tools=[WEATHER, READ])
        simulator.knobs(plan=json.dumps([{"call": "weather"}, {"call": "read"}, "done"]))
        result = {"role": "tool", "tool_call_id": call_of(first)["id"], "content": "sunny"}
        body = {"model": gateway.model, "tools": [WEATHER, READ]}
        second = gateway.chat({**body, "messages": [result]}, name)
        assert call_of(second)["function"]["name"] == "read"
        # Kimi has lost the chat.
        simulator.reset()
        result = {"role": "tool", "tool_call_id": call_of(second)["id"], "content": [{"type": "image_url"}]}
        third = gateway.chat({**body, "messages": [result]}, name)
        assert third.ok and third.headers["x-conversation-rebuilt"] == "transcript"
        prompt = simulator.prompts()[-1]
        assert prompt.count(" functions]\n") == 1
        assert sections(prompt)[1:-1] == [
            ("user", f"one {CANARY}"),
            ("assistant", "I use weather."),
            ("call weather:1", '{"city": "Ulm"}'),
            ("/call", ""),
            ("result weather:1", "sunny"),
            ("assistant", "I use read."),
            ("call read:1", "{}"),
            ("/call", ""),
            ("result read:1", "(an image that cannot be shown here: it has neither content nor an address)"),
        ]

"""OpenAI's Responses: shapes, the sequence of events, conversations by previous_response_id, and the SDK."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import requests
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.running import BOTH_DATABASES, CANARY, Gateway, Profile, Running, Share, Simulator, wait_until
from tests.running.each_case import check_rows

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

# What the Open Responses schema demands, beside what the SDK's model does (its ResponseResource, read 2026-11).
REQUIRED = {
    "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id",
    "instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p",
    "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "user", "usage",
    "max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier",
    "prompt_cache_key",
}  # fmt: skip


def respond(gateway: Gateway, given: Any = f"hello {CANARY}", **body: Any) -> requests.Response:
    key = {"Authorization": f"Bearer {body.pop('key')}"} if "key" in body else {}
    return gateway.post("/v1/responses", json={"model": gateway.model, "input": given, **body}, headers=key)


def check(body: dict[str, Any]) -> dict[str, Any]:
    """A response object, valid in every place."""
    Response.model_validate_json(json.dumps(body), strict=True)
    assert set(body) >= REQUIRED
    assert isinstance(body["created_at"], int) and isinstance(body["completed_at"], int | None)
    return body


def events(response: requests.Response) -> list[dict[str, Any]]:
    """The events of a stream, each valid, its name and number in order."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("text/event-stream")
    found: list[dict[str, Any]] = []
    for block in response.content.decode().split("\n\n")[:-1]:
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}" and event["sequence_number"] == len(found)
        EVENT.validate_json(data.removeprefix("data: "), strict=True)
        if "response" in event:
            check(event["response"])
        found.append(event)
    return found


@pytest.fixture
def client(gateway: Gateway, simulator: Simulator) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-anything", max_retries=0) as client:
        yield client


# Shapes


def test_a_whole_answer_has_every_field(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="Tea is ready.", think="hm")
    sent = {"metadata": {"a": "b"}, "instructions": "Be kind.", "temperature": 0.5, "user": "me", "store": False}
    body = check(respond(gateway, model="k1.5-thinking", **sent).json())
    assert (body["status"], body["error"], body["incomplete_details"]) == ("completed", None, None)
    assert {name: body[name] for name in sent} == sent
    assert body["completed_at"] >= body["created_at"]
    thought, message = body["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert (message["role"], message["status"]) == ("assistant", "completed")
    part = {"type": "output_text", "text": "Tea is ready.", "annotations": [], "logprobs": []}
    assert message["content"] == [part]
    usage = body["usage"]
    assert usage["output_tokens"] > usage["output_tokens_details"]["reasoning_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_a_stream_has_openais_sequence_of_events(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="one two ", think="abcdefgh", token_chars=4)
    got = events(respond(gateway, model="k1.5-thinking", stream=True))
    assert [event["type"].removeprefix("response.") for event in got] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    final = got[-1]["response"]
    assert [event["item"] for event in got if event["type"] == "response.output_item.done"] == final["output"]
    assert {event["item_id"] for event in got if "item_id" in event} == {item["id"] for item in final["output"]}
    assert [item["type"] for item in final["output"]] == ["reasoning", "message"]
    assert final["output"][1]["content"][0]["text"] == "one two "
    assert len({event["response"]["id"] for event in got if "response" in event}) == 1
    assert final["usage"]["output_tokens"] > 0 and got[0]["response"]["usage"] is None


def test_a_cut_answer_is_incomplete(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say="a b c d e f g h", token_chars=2, length_after=1, length_times=20)
    body = check(respond(gateway).json())
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["completed_at"] is None and body["output"][0]["status"] == "incomplete"
    last = events(respond(gateway, stream=True))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_max_output_tokens_end_the_answer(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(tokens=200)
    body = check(respond(gateway, max_output_tokens=10).json())
    assert (body["status"], body["max_output_tokens"]) == ("incomplete", 10)
    assert body["usage"]["output_tokens"] <= 10


def test_pages_are_annotations_of_the_text_that_was_told(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(search=2, cite=1, token_chars=3)
    got = events(respond(gateway, stream=True))
    message = got[-1]["response"]["output"][-1]["content"][0]
    added = [event for event in got if event["type"] == "response.output_text.annotation.added"]
    assert [event["annotation"] for event in added] == message["annotations"] != []
    assert [event["annotation_index"] for event in added] == list(range(len(added)))
    told = "".join(event["delta"] for event in got if event["type"] == "response.output_text.delta")
    assert told == message["text"]
    for annotation in message["annotations"]:
        cited = told[annotation["start_index"] : annotation["end_index"]]
        assert annotation["url"].startswith("http") and annotation["title"] and cited
    assert check(respond(gateway).json())["output"][-1]["content"][0] == message


def test_the_sdk_gets_a_whole_answer(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.knobs(say="你好, tea?")
    response = client.responses.create(model="k2", input=f"hello {CANARY}")
    assert (response.output_text, response.status) == ("你好, tea?", "completed")
    assert response._request_id


def test_the_sdk_streams_raw_and_with_its_helper(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.knobs(say="one two three", think="hm", token_chars=4)
    kinds = [event.type for event in client.responses.create(model="k2", input=CANARY, stream=True)]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    with client.responses.stream(model="k1.5-thinking", input=CANARY) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == "one two three"
    assert [item.type for item in final.output] == ["reasoning", "message"]


# What is sent


def test_every_item_counts(gateway: Gateway, simulator: Simulator) -> None:
    items: list[Any] = [
        {"role": "developer", "content": f"DEVELOPER-1 {CANARY}"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "USER-2"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "SECRET"}]},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "ASSISTANT-3", "annotations": []},
                {"type": "refusal", "refusal": "REFUSAL-4"},
            ],
        },
        {"type": "function_call", "call_id": "call_5", "name": "weather_5", "arguments": '{"x": 6}'},
        {"type": "function_call_output", "call_id": "call_5", "output": "TOOL-7"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "custom_tool_call", "call_id": "call_8", "name": "patch_8", "input": "*** 8b"},
        {
            "type": "custom_tool_call_output",
            "call_id": "call_8",
            "output": [{"type": "input_text", "text": "TOOL-9"}],
        },
        {"role": "user", "content": "USER-10"},
    ]
    assert respond(gateway, items, instructions="SYSTEM-0", store=False).ok
    (prompt,) = simulator.prompts()
    wanted = ["SYSTEM-0", "DEVELOPER-1", "USER-2", "ASSISTANT-3", "REFUSAL-4", "weather_5", '{"x": 6}', "TOOL-7"]
    places = [prompt.index(part) for part in [*wanted, "patch_8", "*** 8b", "TOOL-9", "USER-10"]]
    assert places == sorted(places) and "SECRET" not in prompt


def test_what_has_no_effect_is_accepted_and_named(gateway: Gateway, simulator: Simulator) -> None:
    sent = {
        "tools": [{"type": "file_search", "vector_store_ids": ["v"]}, {"type": "namespace", "name": "n"}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "max_tool_calls": 3,
        "include": ["reasoning.encrypted_content"],
        "truncation": "auto",
        "temperature": 0.2,
        "service_tier": "flex",
        "prompt_cache_key": "k",
        "unknown_thing": 1,
        "stream_options": {"include_obfuscation": False},
        "max_output_tokens": None,
    }
    response = respond(gateway, **sent)
    named = set(response.headers["x-ignored-params"].split(", "))
    assert named >= {"temperature", "truncation", "service_tier", "unknown_thing", "tools[0]", "max_tool_calls"}
    body = check(response.json())
    assert body["tools"] == [{"type": "namespace", "name": "n", "description": "", "tools": []}]
    assert (body["parallel_tool_calls"], body["truncation"]) == (False, "auto")
    assert "x-ignored-params" not in respond(gateway).headers


def test_what_codex_sends_is_taken(gateway: Gateway, simulator: Simulator) -> None:
    """Observed of 0.169."""
    sent = {
        "tools": [
            {"type": "function", "name": "exec_command", "strict": False, "parameters": {"type": "object"}},
            {"type": "namespace", "name": "multi_agent_v1", "tools": []},
            {"type": "web_search", "external_web_access": True},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
        "client_metadata": {"turn_id": "t"},
    }
    items = [
        {"type": "message", "role": "developer", "id": "msg_0", "content": [{"type": "input_text", "text": "D"}]},
        {"type": "message", "role": "user", "id": "msg_1", "content": [{"type": "input_text", "text": CANARY}]},
    ]
    final = events(respond(gateway, items, **sent, stream=True))[-1]
    assert final["type"] == "response.completed"
    assert [tool["type"] for tool in final["response"]["tools"]] == ["function", "namespace", "web_search"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("background", True),
        ("top_logprobs", 3),
        ("include", ["message.output_text.logprobs"]),
        ("prompt", {"id": "pmpt_1"}),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    gateway: Gateway, simulator: Simulator, field: str, value: Any
) -> None:
    error = respond(gateway, **{field: value}).json()["error"]
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")
    assert not simulator.turns()


BAD_FIELDS: list[tuple[Any, ...]] = [
    ({"model": None}, "model"),
    ({"input": None}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": [1]}, "input[0]"),
    ({"input": [{"role": "boss", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    ({"input": [{"role": "user", "content": [{"type": "dance"}]}]}, "input[0].content[0]"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content[0]",
    ),
    ({"input": [{"type": "dance"}]}, "input"),
    ({"input": [{"type": ["x"]}]}, "input[0]"),
    ({"input": [{"type": "item_reference"}]}, "input[0].id"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
    ({"instructions": []}, "instructions"),
    ({"stream": "yes"}, "stream"),
    ({"store": "no"}, "store"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
    ({"text": {"verbosity": "loud"}}, "text.verbosity"),
    ({"tools": [{"name": "f"}]}, "tools[0].type"),
    ({"tools": "all"}, "tools"),
    ({"temperature": 2.1}, "temperature"),
    ({"top_p": -1}, "top_p"),
    ({"truncation": "middle"}, "truncation"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"conversation": 3}, "conversation"),
    ({"conversation": {"name": "x"}}, "conversation.id"),
    ({"conversation": "a b"}, "conversation"),
    ({"previous_response_id": 3}, "previous_response_id"),
]


def test_a_bad_field_is_named(gateway: Gateway, simulator: Simulator) -> None:
    def check(body: dict[str, Any], param: str) -> None:
        response = gateway.post("/v1/responses", json={"model": gateway.model, "input": "hi", **body})
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error"), error

    check_rows(BAD_FIELDS, check)
    assert not simulator.turns()


# Conversations


def test_a_response_goes_on_from_the_one_before(gateway: Gateway, simulator: Simulator) -> None:
    first = respond(gateway, f"I like tea {CANARY}", instructions="Be kind.").json()
    second = respond(gateway, "what did I say", previous_response_id=first["id"]).json()
    third = events(respond(gateway, "and now", previous_response_id=second["id"], stream=True))[-1]["response"]
    assert second["previous_response_id"] == first["id"] and third["previous_response_id"] == second["id"]
    assert len({first["id"], second["id"], third["id"]}) == 3
    assert [chat["turns"] for chat in simulator.state()["chats"].values()] == [3]
    assert simulator.prompts()[1:] == ["what did I say", "and now"]
    assert "I like tea" in second["output"][-1]["content"][0]["text"]


def test_a_history_whose_answers_are_only_referred_to_goes_on(gateway: Gateway, simulator: Simulator) -> None:
    """As the AI SDK sends it: the question again, and the answer by the ids of its items."""
    history: list[dict[str, Any]] = [{"role": "system", "content": "Be kind."}]
    for text in (f"I like tea {CANARY}", "what did I say", "and now"):
        history.append({"role": "user", "content": text})
        answer = respond(gateway, history, model="k1.5-thinking").json()
        history += [{"type": "item_reference", "id": item["id"]} for item in answer["output"]]
        assert [item["type"] for item in answer["output"]] == ["reasoning", "message"]
    assert [chat["turns"] for chat in simulator.state()["chats"].values()] == [3]
    assert simulator.prompts()[1:] == ["what did I say", "and now"]
    # A branch: the last answer is asked for again, in other words.
    branch = respond(gateway, history[:5], model="k1.5-thinking")
    assert (branch.status_code, branch.json()["error"]["param"]) == (400, "input[3]")
    # Two conversations in one.
    other = respond(gateway).json()["output"][-1]["id"]
    mixed = respond(gateway, [{"type": "item_reference", "id": other}, *history], model="k1.5-thinking")
    assert (mixed.status_code, mixed.json()["error"]["param"]) == (400, "input[0]")
    for nobodys in ("msg_1", "msg_" + "a" * 32, "rs_nobody_1_0"):
        unknown = respond(gateway, [{"type": "item_reference", "id": nobodys}, {"role": "user", "content": "x"}])
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "input[0]")
    assert len(simulator.turns()) == 4


def test_a_lost_conversation_is_not_rebuilt_from_a_history_with_holes(gateway: Gateway, simulator: Simulator) -> None:
    question = {"role": "user", "content": CANARY}
    answer = respond(gateway, [question]).json()
    simulator.control("DELETE", "requests")
    simulator.knobs(fail="not_found", fail_times=1)
    reference = {"type": "item_reference", "id": answer["output"][0]["id"]}
    lost = respond(gateway, [question, reference, {"role": "user", "content": "and now"}])
    assert (lost.status_code, lost.json()["error"]["code"]) == (409, "conversation_lost"), lost.text
    assert len(simulator.turns()) == 1


def test_a_conversation_goes_on_after_a_restart(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        first = respond(gateway, f"I like tea {CANARY}").json()["id"]
        database = gateway.database
    with running.gateway(simulator.url, database=database) as gateway:
        assert respond(gateway, "what did I say", previous_response_id=first).ok
    assert [chat["turns"] for chat in simulator.state()["chats"].values()] == [2]


@pytest.mark.parametrize("profile", ["sse-2025"], indirect=True)
def test_without_branches_a_conversation_goes_on_from_its_end_only(
    gateway: Gateway, simulator: Simulator, profile: Profile
) -> None:
    first = respond(gateway).json()["id"]
    second = respond(gateway, previous_response_id=first).json()["id"]
    branch = respond(gateway, previous_response_id=first)
    error = branch.json()["error"]
    assert (branch.status_code, error["param"]) == (400, "previous_response_id")
    assert second in error["message"] and branch.headers["x-should-retry"] == "false"
    assert len(simulator.turns()) == 2


RECALL = "what did I say"


def said(gateway: Gateway, text: str, **body: Any) -> tuple[str, str]:
    """The id of the response to a text, and what it says."""
    response = respond(gateway, f"{text} {CANARY}", **body)
    answer = events(response)[-1]["response"] if body.get("stream") else response.json()
    return answer["id"], answer["output"][-1]["content"][0]["text"]


def recalled(*texts: str) -> str:
    """The answer to ``RECALL`` where this was said before on the branch."""
    return "\n".join(["你之前说过：", *(f"{number}. {text} {CANARY}" for number, text in enumerate(texts, 1))])


@pytest.mark.parametrize("profile", ["connect-2026"], indirect=True)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_response_goes_on_from_an_older_one(
    gateway: Gateway, simulator: Simulator, profile: Profile, stream: bool
) -> None:
    one, _ = said(gateway, "tea")
    two, _ = said(gateway, "coffee", previous_response_id=one)
    three, text = said(gateway, RECALL, previous_response_id=one, stream=stream)
    assert text == recalled("tea")
    # Both branches stay.
    four, text = said(gateway, RECALL, previous_response_id=two, stream=stream)
    assert text == recalled("tea", "coffee")
    five, text = said(gateway, RECALL, previous_response_id=three, stream=stream)
    assert text == recalled("tea", RECALL)
    assert len({one, two, three, four, five}) == 5 and len({turn.chat for turn in simulator.turns()}) == 1


@pytest.mark.parametrize("profile", ["connect-2026"], indirect=True)
def test_items_of_an_older_response_begin_a_branch(gateway: Gateway, simulator: Simulator, profile: Profile) -> None:
    """As the AI SDK asks for an answer again."""
    history: list[dict[str, Any]] = []
    for text in ("tea", "coffee"):
        history.append({"role": "user", "content": f"{text} {CANARY}"})
        answer = respond(gateway, history).json()
        history += [{"type": "item_reference", "id": item["id"]} for item in answer["output"]]
    again = [*history[:2], {"role": "user", "content": RECALL}]
    assert "coffee" not in respond(gateway, again).json()["output"][-1]["content"][0]["text"]
    assert simulator.prompts()[-1] == RECALL and len({turn.chat for turn in simulator.turns()}) == 1


@pytest.mark.parametrize("profile", ["sse-2025"], indirect=True)
def test_an_older_response_needs_a_transcript_where_the_chat_cannot_branch(
    shared_gateway: Share, simulator: Simulator, profile: Profile
) -> None:
    gateway = shared_gateway(STORE_TRANSCRIPTS="1", GATEWAY_SECRET="a secret of twelve or more")
    one, _ = said(gateway, "tea")
    two, _ = said(gateway, "coffee", previous_response_id=one)
    branch = respond(gateway, f"milk {CANARY}", previous_response_id=one)
    assert branch.headers["x-conversation-rebuilt"] == "transcript"
    text = simulator.prompts()[-1]
    assert "tea" in text and "milk" in text and "coffee" not in text
    three, _ = said(gateway, "water", previous_response_id=two)
    text = simulator.prompts()[-1]
    assert "tea" in text and "coffee" in text and "milk" not in text
    assert len({one, two, three, branch.json()["id"]}) == 4


def test_of_two_that_go_on_from_the_same_response_one_is_told_so(shared_gateway: Share, simulator: Simulator) -> None:
    """The second has to wait, and finds out when its turn comes."""
    gateway = shared_gateway(CONVERSATION_WAIT_S="10")
    with ThreadPoolExecutor() as pool:
        first = respond(gateway).json()["id"]
        simulator.knobs(gate="one", gate_after=1)
        one = pool.submit(respond, gateway, CANARY, previous_response_id=first)
        simulator.wait("gate:one", at_least=1)
        other = pool.submit(respond, gateway, CANARY, previous_response_id=first)
        wait_until("the other waits", lambda: "conversation_busy waiting=1" in gateway.log())
        simulator.open_gate("one")
        assert one.result().ok
        error = other.result().json()["error"]
        assert (other.result().status_code, error["code"]) == (409, "conversation_busy")
        assert len(simulator.turns()) == 2
        again = respond(gateway, CANARY, previous_response_id=first)
        assert (again.status_code, again.json()["error"]["code"]) == (400, "invalid_previous_response_id")


@pytest.mark.parametrize(
    "unknown",
    ["resp_abc", "resp_nobody_1", "resp__1", "resp_a_0", "msg_1", "resp_a b_1", "resp_" + "9" * 40, "金丝雀"],
)
def test_an_unknown_previous_response_is_a_404(gateway: Gateway, simulator: Simulator, unknown: str) -> None:
    response = respond(gateway, previous_response_id=unknown)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (404, "previous_response_id")
    assert error["code"] == "previous_response_not_found" and not simulator.turns()


def test_a_turn_that_has_not_been_is_a_404(gateway: Gateway, simulator: Simulator) -> None:
    first = respond(gateway).json()["id"]
    assert first.endswith("_1")
    assert respond(gateway, previous_response_id=first[:-1] + "2").status_code == 404


def test_another_keys_response_is_a_404(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(GATEWAY_API_KEYS="key-one-123,key-two-456")
    mine = respond(gateway, key="key-one-123").json()["id"]
    theirs = respond(gateway, key="key-two-456", previous_response_id=mine)
    assert (theirs.status_code, theirs.json()["error"]["code"]) == (404, "previous_response_not_found")
    assert respond(gateway, key="key-one-123", previous_response_id=mine).ok
    wrong = respond(gateway, key="key-three", previous_response_id=mine)
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (401, "authentication_error")


@BOTH_DATABASES
def test_conversations_of_responses_end_after_a_month_or_a_day(
    running: Running, simulator: Simulator, database: str
) -> None:
    """A day where they were never continued, as those of n8n. Those that a client named stay."""
    with running.gateway(simulator.url) as gateway:
        ids = {name: respond(gateway).json()["id"] for name in ("single", "young", "continued", "old")}
        for name in ("continued", "old"):
            ids[name] = respond(gateway, previous_response_id=ids[name]).json()["id"]
        ids["named"] = respond(gateway, conversation="named-responses").json()["id"]
        assert gateway.say("hello", "named-chat").ok
        day = 86_400
        for name, days in {"single": 2, "continued": 29, "old": 31, "named": 400}.items():
            gateway.tables.let_conversation_age(ids[name].removeprefix("resp_").rsplit("_", 1)[0], days * day)
        gateway.tables.let_conversation_age("named-chat", 400 * day)
        kept = gateway.database
    with running.gateway(simulator.url, database=kept) as gateway:
        simulator.wait("deleted_chats", equals=2)
        for name in ("single", "old"):
            gone = respond(gateway, previous_response_id=ids[name])
            error = gone.json()["error"]
            assert (gone.status_code, error["code"]) == (404, "previous_response_not_found"), name
            assert "kept" in error["message"]
        for name in ("young", "continued", "named"):
            assert respond(gateway, previous_response_id=ids[name]).ok, name
        assert gateway.say("and now", "named-chat").ok
    assert [chat["deleted"] for chat in simulator.state()["chats"].values()].count(False) == 4


def test_conversations_of_responses_stay_where_their_age_is_not_limited(
    running: Running, simulator: Simulator
) -> None:
    """Of their own: CONVERSATION_MAX_AGE_DAYS holds for them, too."""
    with running.gateway(simulator.url) as gateway:
        ids = [respond(gateway).json()["id"] for _ in range(2)]
        for response_id, days in zip(ids, (300, 500), strict=True):
            conversation = response_id.removeprefix("resp_").rsplit("_", 1)[0]
            gateway.tables.let_conversation_age(conversation, days * 86_400)
        kept = gateway.database
    unlimited = {"RESPONSES_MAX_AGE_DAYS": "0", "UNCONTINUED_RESPONSES_MAX_AGE_DAYS": "0"}
    with running.gateway(simulator.url, database=kept, CONVERSATION_MAX_AGE_DAYS="400", **unlimited) as gateway:
        simulator.wait("deleted_chats", equals=1)
        assert [respond(gateway, previous_response_id=one).status_code for one in ids] == [200, 404]


def test_nothing_is_kept_where_store_is_false(gateway: Gateway, simulator: Simulator) -> None:
    body = respond(gateway, store=False).json()
    simulator.wait("deleted_chats", equals=1)
    assert body["store"] is False
    assert respond(gateway, previous_response_id=body["id"]).status_code == 404
    kept = respond(gateway).json()["id"]
    assert respond(gateway, previous_response_id=kept, store=False).status_code == 400


def test_a_conversation_can_be_named(gateway: Gateway, simulator: Simulator, name: str) -> None:
    first = check(respond(gateway, conversation=name).json())
    second = check(respond(gateway, conversation={"id": name}).json())
    door = gateway.post(f"/v1/conversations/{name}/responses", json={"model": gateway.model, "input": CANARY}).json()
    for turn, body in enumerate((first, second, door), 1):
        assert body["conversation"] == {"id": name} and body["id"] == f"resp_{name}_{turn}"
    last = respond(gateway, previous_response_id=door["id"]).json()["id"]
    assert gateway.get(f"/v1/chat/completions/{name}").json()["turns"] == 4
    both = respond(gateway, conversation=name + "x", previous_response_id=last)
    assert (both.status_code, both.json()["error"]["param"]) == (400, "previous_response_id")


def test_a_failed_turn_can_be_asked_again(gateway: Gateway, simulator: Simulator) -> None:
    first = respond(gateway).json()["id"]
    simulator.knobs(fail="overloaded")
    assert respond(gateway, previous_response_id=first).status_code == 503
    simulator.knobs(fail="")
    assert respond(gateway, previous_response_id=first).ok


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_response_cannot_be_fetched_and_that_is_said(gateway: Gateway, simulator: Simulator, method: str) -> None:
    kept = respond(gateway).json()["id"]
    for response_id in (kept, "resp_x", "resp_x/input_items"):
        response = requests.request(method, f"{gateway.url}/v1/responses/{response_id}", timeout=30)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (404, "response_not_found")
    conversation = kept.split("_")[1]
    assert gateway.delete(f"/v1/chat/completions/{conversation}").ok
    assert respond(gateway, previous_response_id=kept).status_code == 404


# Failures


def test_a_failure_in_mid_stream_is_an_error_and_a_failed_response(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="drop", fail_after=2, say="one two three", token_chars=4)
    got = events(respond(gateway, stream=True))
    assert "".join(e["delta"] for e in got if e["type"] == "response.output_text.delta") == "one two "
    error, failed = got[-2:]
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert error["code"] == "upstream_error"
    assert "broke off" in error["message"]
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": error["message"]}


@pytest.mark.parametrize("stream", [False, True])
def test_the_sdk_raises_what_fails_before_the_first_word(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, stream: bool
) -> None:
    for fault, error in (
        ("token_invalid", openai.InternalServerError),
        ("stream_pushing", openai.RateLimitError),
        ("overloaded", openai.InternalServerError),
    ):
        simulator.knobs(fail=fault)
        gateway.tables.forget_what_accounts_did()
        with pytest.raises(error) as raised:
            client.responses.create(model="k2", input=CANARY, stream=stream)
        assert raised.value.request_id


def test_an_unknown_model_is_a_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="k1.5-thinking"):
        client.responses.create(model="gpt-5", input=CANARY)


def test_a_client_that_leaves_ends_the_answer(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(stall_after=1)
    body = {"model": gateway.model, "input": CANARY, "stream": True}
    response = gateway.post("/v1/responses", json=body, stream=True)
    next(response.iter_content(None))
    simulator.wait("open_streams", equals=1)
    response.close()
    simulator.wait("open_streams", equals=0)


def test_heartbeats_are_comments(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(HEARTBEAT_S="0.2", COMMIT_AFTER_S="0.2")
    simulator.knobs(gate="late", gate_after=1, say="one two", token_chars=4)
    body = {"model": gateway.model, "input": CANARY, "stream": True}
    response = gateway.post("/v1/responses", json=body, stream=True)
    pieces = response.iter_content(None)
    assert b": keep-alive\n\n" in iter_until(pieces, b": keep-alive\n\n")
    simulator.open_gate("late")
    assert b"event: response.completed\n" in b"".join(pieces)


def iter_until(pieces: Iterator[bytes], wanted: bytes) -> bytes:
    got = b""
    for piece in pieces:
        got += piece
        if wanted in got:
            break
    return got


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/", "/responses"])
def test_the_paths(gateway: Gateway, simulator: Simulator, path: str) -> None:
    assert gateway.post(path, json={"model": gateway.model, "input": CANARY}).ok
    refused = requests.put(gateway.url + "/v1/responses", timeout=30)
    assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")

"""Functions of clients over HTTP: the wire shapes of the three APIs, streamed and whole; what a request may ask."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.running import CANARY, EACH_GENERATION, Gateway, Profile, Running, Simulator
from tests.running.contract import check_chunk

WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
READ = {"name": "read", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}
PATCH = {"name": "patch", "description": "Takes a patch"}


def block(name: str, arguments: Any = None, number: int = 1) -> str:
    """A call as the simulator fills it in: %C% is the code, %N% a line break."""
    return f"[%C% call {name}:{number}]%N%{'{}' if arguments is None else json.dumps(arguments)}%N%[%C% /call]"


ULM, BONN = {"city": "Ulm"}, {"city": "Bonn"}
PARALLEL = "Hi.%N%%N%" + block("weather", ULM) + "%N%" + block("weather", BONN, 2)
ID = re.compile(r"[A-Za-z]+_[0-9a-f]{20}_[0-9]+")


def body(dialect: str, gateway: Gateway, *tools: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A request with one user message, in the words of an API."""
    question = f"What is it? {CANARY}"
    match dialect:
        case "messages":
            offered = [
                {"name": t["name"], "description": t.get("description", ""), "input_schema": t.get("parameters", {})}
                for t in tools
            ]
            said: dict[str, Any] = {"messages": [{"role": "user", "content": question}], "max_tokens": 4000}
        case "responses":
            offered = [{"type": "function", **t} for t in tools]
            said = {"input": question, "store": False}
        case _:
            offered = [{"type": "function", "function": t} for t in tools]
            said = {"messages": [{"role": "user", "content": question}]}
    return {"model": gateway.model, **said, **({"tools": offered} if tools else {}), **more}


PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}


def post(dialect: str, gateway: Gateway, *tools: dict[str, Any], **more: Any) -> requests.Response:
    return gateway.post(PATHS[dialect], json=body(dialect, gateway, *tools, **more))


def events(response: requests.Response) -> list[dict[str, Any]]:
    """The events of a stream, without comments and [DONE]."""
    assert response.status_code == 200, response.text
    found = []
    for block in response.content.decode().split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: {"):
                found.append(json.loads(line[6:]))
    return found


Outcome = tuple[str, list[tuple[str, Any]], str]


def of_chat(whole: dict[str, Any]) -> Outcome:
    choice = whole["choices"][0]
    calls = choice["message"].get("tool_calls", [])
    assert all(ID.fullmatch(call["id"]) and len(call["id"]) <= 40 for call in calls)
    assert (choice["message"]["content"] is None) == (bool(calls) and not choice["message"]["content"])
    told = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]
    return choice["message"]["content"] or "", told, choice["finish_reason"]


def of_chat_stream(chunks: list[dict[str, Any]]) -> Outcome:
    content, reason = "", None
    calls: list[tuple[str, Any]] = []
    for chunk in chunks:
        check_chunk(chunk)
        for choice in chunk["choices"]:
            content += choice["delta"].get("content") or ""
            reason = choice["finish_reason"] or reason
            for call in choice["delta"].get("tool_calls", []):
                assert call["index"] == len(calls) and call["type"] == "function" and ID.fullmatch(call["id"])
                calls.append((call["function"]["name"], json.loads(call["function"]["arguments"])))
    assert reason is not None
    return content, calls, reason


def of_message(whole: dict[str, Any]) -> Outcome:
    assert all(block["type"] != "text" or block["text"] or len(whole["content"]) == 1 for block in whole["content"])
    text = "".join(block["text"] for block in whole["content"] if block["type"] == "text")
    calls = [block for block in whole["content"] if block["type"] == "tool_use"]
    assert all(call["id"].startswith("toolu_") and ID.fullmatch(call["id"]) for call in calls)
    reason = {"tool_use": "tool_calls", "end_turn": "stop", "max_tokens": "length"}[whole["stop_reason"]]
    return text, [(call["name"], call["input"]) for call in calls], reason


def of_message_stream(told: list[dict[str, Any]]) -> Outcome:
    message: dict[str, Any] = {}
    joined = ""
    for event in told:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                joined = ""
                assert event["content_block"].get("input", {}) == {}
            case "content_block_delta":
                delta = event["delta"]
                joined += delta.get("text") or delta.get("partial_json") or ""
            case "content_block_stop":
                block = message["content"][event["index"]]
                if block["type"] == "tool_use":
                    block["input"] = json.loads(joined)
                else:
                    block[block["type"]] = joined
            case "message_delta":
                message.update(event["delta"])
    return of_message(message)


def of_response(whole: dict[str, Any]) -> Outcome:
    texts = [part["text"] for item in whole["output"] if item["type"] == "message" for part in item["content"]]
    calls = [item for item in whole["output"] if item["type"] == "function_call"]
    assert all(call["call_id"].startswith("call_") and call["id"].startswith("fc_") for call in calls)
    told = [(call["name"], json.loads(call["arguments"])) for call in calls]
    reason = {"incomplete": "length", "completed": "tool_calls" if calls else "stop"}[whole["status"]]
    return "".join(texts), told, reason


def of_response_stream(told: list[dict[str, Any]]) -> Outcome:
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    final = told[-1]["response"]
    assert final["output"] == done
    for event in told:
        if event["type"] == "response.function_call_arguments.done":
            deltas = [
                e["delta"]
                for e in told
                if e["type"] == "response.function_call_arguments.delta" and e["item_id"] == event["item_id"]
            ]
            assert "".join(deltas) == event["arguments"]
    return of_response(final)


_WHOLE: dict[str, Callable[[dict[str, Any]], Outcome]] = {
    "chat": of_chat,
    "messages": of_message,
    "responses": of_response,
}
_STREAMED: dict[str, Callable[[list[dict[str, Any]]], Outcome]] = {
    "chat": of_chat_stream,
    "messages": of_message_stream,
    "responses": of_response_stream,
}


def ask(dialect: str, stream: bool, gateway: Gateway, *tools: dict[str, Any], **more: Any) -> Outcome:
    response = post(dialect, gateway, *tools, **more, **({"stream": True} if stream else {}))
    assert response.ok, response.text
    return _STREAMED[dialect](events(response)) if stream else _WHOLE[dialect](response.json())


EVERY_WAY = pytest.mark.parametrize(
    ("dialect", "stream"), [(dialect, stream) for dialect in PATHS for stream in (False, True)]
)


@EVERY_WAY
@EACH_GENERATION
def test_calls_come_in_the_words_of_the_api(
    gateway: Gateway, simulator: Simulator, profile: Profile, dialect: str, stream: bool
) -> None:
    simulator.knobs(say=PARALLEL, think="")
    calls = [("weather", ULM), ("weather", BONN)]
    assert ask(dialect, stream, gateway, WEATHER, READ) == ("Hi.", calls, "tool_calls")
    (prompt,) = simulator.prompts()
    assert prompt.rstrip().splitlines()[-1].startswith("A function is run by a line")
    assert json.dumps(WEATHER, separators=(",", ":")) in prompt
    assert simulator.turns()[0].body.get("tools", []) == []


def test_a_chat_of_openai_sees_each_call_in_one_chunk(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=PARALLEL, think="")
    response = post("chat", gateway, WEATHER, stream=True, stream_options={"include_usage": True})
    deltas = [choice["delta"] for chunk in events(response) for choice in chunk["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    calls = [delta for delta in deltas if "tool_calls" in delta]
    assert [len(delta["tool_calls"]) for delta in calls] == [1, 1]
    assert [set(delta) for delta in calls] == [{"tool_calls"}] * 2
    first = calls[0]["tool_calls"][0]
    assert set(first) == {"index", "id", "type", "function"} and first["id"].endswith("_1")
    assert first["function"] == {"name": "weather", "arguments": '{"city": "Ulm"}'}
    assert deltas[-1] == {} and events(response)[-1]["usage"]["completion_tokens"] > 0
    assert response.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("choice", [None, "required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_alone_has_no_content(gateway: Gateway, simulator: Simulator, choice: Any) -> None:
    simulator.knobs(say=block("weather", ULM))
    whole = post("chat", gateway, WEATHER, tool_choice=choice).json()
    message = whole["choices"][0]["message"]
    assert message["content"] is None and len(message["tool_calls"]) == 1
    assert whole["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_legacy_functions_are_answered_in_their_form(gateway: Gateway, simulator: Simulator, stream: bool) -> None:
    simulator.knobs(say=PARALLEL)
    for choice in ("auto", {"name": "weather"}):
        more = {"functions": [WEATHER], "function_call": choice, "stream": stream}
        response = post("chat", gateway, **more)
        wanted = {"name": "weather", "arguments": '{"city": "Ulm"}'}
        if stream:
            chunks = [choice for chunk in events(response) for choice in chunk["choices"]]
            assert [c["delta"]["function_call"] for c in chunks if "function_call" in c["delta"]] == [wanted]
            assert chunks[-1]["finish_reason"] == "function_call"
        else:
            choice = response.json()["choices"][0]
            assert choice["message"]["function_call"] == wanted and "tool_calls" not in choice["message"]
            assert choice["finish_reason"] == "function_call"
    history = [
        {"role": "user", "content": CANARY},
        {"role": "assistant", "content": None, "function_call": wanted},
        {"role": "function", "name": "weather", "content": "sunny"},
    ]
    simulator.reset()
    simulator.knobs(say="Good.")
    assert gateway.chat({"model": gateway.model, "messages": history, "functions": [WEATHER]}).ok
    code = re.search(r"\[(\w+) functions\]", simulator.prompts()[0])
    assert code is not None and f"[{code[1]} result weather:1]\nsunny\n" in simulator.prompts()[0]


@pytest.mark.parametrize("stream", [False, True])
def test_custom_tools_of_chats_take_a_text(gateway: Gateway, simulator: Simulator, stream: bool) -> None:
    simulator.knobs(say="[%C% call patch:1]%N%*** Begin%N%+ {x}%N%[%C% /call]")
    tools = [{"type": "custom", "custom": {**PATCH, "format": {"type": "text"}}}]
    response = post("chat", gateway, tools=tools, stream=stream)
    if stream:
        (call,) = [c for e in events(response) for d in e["choices"] for c in d["delta"].get("tool_calls", [])]
        assert call.pop("index") == 0
    else:
        (call,) = response.json()["choices"][0]["message"]["tool_calls"]
    assert call == {"id": call["id"], "type": "custom", "custom": {"name": "patch", "input": "*** Begin\n+ {x}"}}


def test_custom_tools_of_responses_are_answered_in_their_kind(gateway: Gateway, simulator: Simulator) -> None:
    """A function_call in its place is refused by Codex."""
    simulator.knobs(say="I patch.%N%[%C% call patch:1]%N%*** Begin%N%+ {x}%N%[%C% /call]")
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /x+/"}
    tools = [{"type": "custom", **PATCH, "format": grammar}]
    told = events(post("responses", gateway, tools=tools, stream=True))
    assert "start: /x+/" in simulator.prompts()[0]
    kinds = [event["type"] for event in told]
    added = kinds.index("response.output_item.added", kinds.index("response.output_text.done"))
    assert kinds[added:] == [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert told[added]["item"]["input"] == "" and told[added]["item"]["status"] == "in_progress"
    item = told[-2]["item"]
    assert (
        item["type"] == "custom_tool_call" and item["input"] == "*** Begin\n+ {x}" and item["id"].startswith("ctc_")
    )
    assert told[-1]["response"]["output"][1] == item
    assert told[-1]["response"]["tools"] == tools


@pytest.mark.parametrize("stream", [False, True])
def test_a_namespace_stays_apart_from_the_name(gateway: Gateway, simulator: Simulator, stream: bool) -> None:
    """Codex declares the tools of an MCP server so, and does not know a joined name."""
    simulator.knobs(say=block("mcp__fs.read", {"path": "a"}))
    tools = [{"type": "namespace", "name": "mcp__fs", "description": "", "tools": [{"type": "function", **READ}]}]
    response = post("responses", gateway, tools=tools, stream=stream)
    whole = events(response)[-1]["response"] if stream else response.json()
    (item,) = whole["output"]
    assert (item["type"], item["name"], item["namespace"]) == ("function_call", "read", "mcp__fs")
    assert item["arguments"] == '{"path": "a"}'
    # It is repeated as it came, without a warning of pydantic's.
    assert whole["tools"] == tools and "Pydantic" not in gateway.log()
    simulator.reset()
    history = [
        {"type": "message", "role": "user", "content": CANARY},
        {key: item[key] for key in ("type", "name", "namespace", "arguments", "call_id")},
        {"type": "function_call_output", "call_id": item["call_id"], "output": "content"},
    ]
    assert post("responses", gateway, tools=tools, input=history).ok
    prompt = simulator.prompts()[0]
    assert "call mcp__fs.read:1]" in prompt and "result mcp__fs.read:1]\ncontent" in prompt


def test_messages_have_a_block_for_each(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=PARALLEL, think="")
    told = events(post("messages", gateway, WEATHER, stream=True))
    shapes = [
        (e["type"], e.get("index"), e.get("content_block", {}).get("type")) for e in told if e["type"] != "ping"
    ]
    assert shapes == [
        ("message_start", None, None),
        ("content_block_start", 0, "text"),
        *[("content_block_delta", 0, None)] * (len(shapes) - 11),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, "tool_use"),
        ("content_block_delta", 1, None),
        ("content_block_stop", 1, None),
        ("content_block_start", 2, "tool_use"),
        ("content_block_delta", 2, None),
        ("content_block_stop", 2, None),
        ("message_delta", None, None),
        ("message_stop", None, None),
    ]


@EVERY_WAY
def test_text_between_calls_keeps_its_place(
    gateway: Gateway, simulator: Simulator, dialect: str, stream: bool
) -> None:
    said = "One.%N%" + block("weather", ULM) + "%N%Two.%N%" + block("weather", BONN, 2)
    simulator.knobs(say=said, think="")
    text, calls, reason = ask(dialect, stream, gateway, WEATHER)
    assert text == ("One.\n\nTwo." if dialect == "chat" else "One.Two.")
    assert (len(calls), reason) == (2, "tool_calls")


@EVERY_WAY
def test_one_call_at_most(gateway: Gateway, simulator: Simulator, dialect: str, stream: bool) -> None:
    simulator.knobs(say=PARALLEL + "%N%" + "x" * 100_000, think="", delay_s=0.001, token_chars=40)
    more: dict[str, Any] = {"parallel_tool_calls": False}
    if dialect == "messages":
        more = {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    assert ask(dialect, stream, gateway, WEATHER, **more) == ("Hi.", [("weather", ULM)], "tool_calls")
    simulator.wait("open_streams", equals=0)
    assert "At most one function" in simulator.prompts()[0]


def chosen(dialect: str, name: str | None) -> dict[str, Any]:
    """A ``tool_choice`` that demands a call."""
    if dialect == "messages":
        return {"tool_choice": {"type": "any"} if name is None else {"type": "tool", "name": name}}
    if name is None:
        return {"tool_choice": "required"}
    named = {"function": {"name": name}} if dialect == "chat" else {"name": name}
    return {"tool_choice": {"type": "function", **named}}


@EVERY_WAY
@pytest.mark.parametrize("name", [None, "weather"])
def test_a_demanded_call_comes_without_words(
    gateway: Gateway, simulator: Simulator, dialect: str, stream: bool, name: str | None
) -> None:
    simulator.knobs(say="Sure!%N%" + block("weather", ULM), think="")
    told = ask(dialect, stream, gateway, WEATHER, READ, **chosen(dialect, name))
    assert told == ("", [("weather", ULM)], "tool_calls")
    (prompt,) = simulator.prompts()
    assert (name is None) == ("at least one function" in prompt)
    assert (name is not None) == ("This message runs the function weather" in prompt)


@pytest.mark.parametrize("dialect", PATHS)
def test_what_cannot_be_called_is_refused(gateway: Gateway, simulator: Simulator, dialect: str) -> None:
    for offered, name in (((), None), ((WEATHER,), "frob")):
        response = post(dialect, gateway, *offered, **chosen(dialect, name))
        assert response.status_code == 400
        if dialect != "messages":
            assert response.json()["error"]["param"] == "tool_choice"
    for tools, place in (
        ([{**WEATHER, "name": "has space"}], "tools[0]"),
        ([{**WEATHER, "name": ""}], "tools[0]"),
        ([{**WEATHER, "name": "x" * 129}], "tools[0]"),
        ([WEATHER, READ, WEATHER], "tools[2]"),
    ):
        response = post(dialect, gateway, *tools)
        assert response.status_code == 400 and place in response.json()["error"]["message"], response.text
    assert not simulator.turns()


def test_allowed_tools_are_all_that_is_described(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=block("read", {"path": "a"}))
    for dialect, allowed in (
        ("chat", {"allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "read"}}]}}),
        ("responses", {"mode": "auto", "tools": [{"type": "function", "name": "read"}]}),
    ):
        told = ask(dialect, False, gateway, WEATHER, READ, tool_choice={"type": "allowed_tools", **allowed})
        assert told == ("", [("read", {"path": "a"})], "tool_calls")
    assert all("weather" not in prompt for prompt in simulator.prompts())
    response = post("chat", gateway, WEATHER, tool_choice={"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "read"}}]}})  # fmt: skip
    assert response.status_code == 400 and response.json()["error"]["param"] == "tool_choice"


@EVERY_WAY
def test_a_call_that_was_cut_at_a_limit_is_none(
    gateway: Gateway, simulator: Simulator, dialect: str, stream: bool
) -> None:
    long_call = block("read", {"path": "x " * 5000})
    simulator.knobs(say=long_call, think="", token_chars=20, delay_s=0.002)
    limit = {"chat": "max_tokens", "messages": "max_tokens", "responses": "max_output_tokens"}[dialect]
    assert ask(dialect, stream, gateway, READ, **{limit: 60}) == ("", [], "length")
    simulator.wait("open_streams", equals=0)
    simulator.knobs(say=block("weather", ULM) + "%N%" + long_call)
    assert ask(dialect, stream, gateway, READ, WEATHER, **{limit: 120}) == ("", [("weather", ULM)], "length")


def test_what_is_no_function_of_the_client_is_named(gateway: Gateway, simulator: Simulator) -> None:
    for dialect, others in (
        ("chat", [{"type": "builtin_function", "function": {"name": "$files"}}]),
        (
            "messages",
            [{"type": "bash_20250124", "name": "bash"}, {"type": "web_fetch_20250910", "name": "web_fetch"}],
        ),
        ("responses", [{"type": "local_shell"}, {"type": "file_search", "vector_store_ids": []}]),
    ):
        offered = body(dialect, gateway, WEATHER)["tools"]
        response = post(dialect, gateway, tools=[*offered, *others])
        named = [f"tools[{index}]" for index in range(1, 1 + len(others))]
        assert response.ok and response.headers["x-ignored-params"].split(", ") == named


def test_many_functions_are_described_whole(gateway: Gateway, simulator: Simulator) -> None:
    tools = [
        {**WEATHER, "name": f"weather_{n}", "description": f"The weather, {n}. " + "It is long. " * 120}
        for n in range(200)
    ]
    assert len(json.dumps(tools)) > 300_000
    assert post("chat", gateway, *tools).ok
    (prompt,) = simulator.prompts()
    assert all(json.dumps(tool, separators=(",", ":")) in prompt for tool in tools)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "patternProperties": {"^x": {}}},
        {"$ref": "https://example.com/a.json"},
        {"type": "no such type"},
        {"properties": {"a": {"pattern": "("}}},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        {"properties": []},
        {"required": "a"},
        [],
        {},
    ],
)
def test_a_schema_that_cannot_be_used_judges_nothing(gateway: Gateway, simulator: Simulator, schema: Any) -> None:
    simulator.knobs(say=block("odd", {"a": "a" * 60 + "!"}))
    tool = {"name": "odd", "parameters": schema}
    response = post("chat", gateway, tool)
    if not isinstance(schema, dict):
        assert response.status_code == 400 and "parameters" in response.json()["error"]["param"]
        return
    assert response.ok, response.text
    assert of_chat(response.json())[1] == [("odd", {"a": "a" * 60 + "!"})]


def test_a_schema_that_takes_too_much_work_judges_nothing(running: Running, simulator: Simulator) -> None:
    """The check has a limit of its own, which takes longer on a busy machine than the silence that tests allow."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a|aa)+\\1(?!x)c$"}}}
    simulator.knobs(say=block("odd", {"a": "a" * 60 + "!"}))
    with running.gateway(simulator.url, FIRST_EVENT_TIMEOUT_S="60", IDLE_TIMEOUT_S="60") as gateway:
        response = post("chat", gateway, {"name": "odd", "parameters": schema})
        assert response.ok, response.text
        assert of_chat(response.json())[1] == [("odd", {"a": "a" * 60 + "!"})]


def test_the_tokens_of_functions_are_counted(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(say=block("weather", ULM))
    counts = []
    for tools in ((), (WEATHER,)):
        sent = body("messages", gateway, *tools, system="Be brief.")
        counted = gateway.post("/v1/messages/count_tokens", json={k: v for k, v in sent.items() if k != "max_tokens"})
        used = gateway.post("/v1/messages", json=sent).json()["usage"]
        assert counted.json()["input_tokens"] == used["input_tokens"]
        counts.append(used["input_tokens"])
    assert counts[1] > counts[0] + 100
    assert used["output_tokens"] >= 6


def test_without_functions_nothing_changes(gateway: Gateway, simulator: Simulator) -> None:
    """Not a byte of the prompt, and what looks like a call is text."""
    simulator.knobs(say='<tool_call>{"name": "weather", "arguments": {}}</tool_call>')
    nothing: list[dict[str, Any]] = [{}, {"tools": []}]
    for more in nothing:
        whole = post("chat", gateway, **more).json()
        assert of_chat(whole) == ('<tool_call>{"name": "weather", "arguments": {}}</tool_call>', [], "stop")
    assert simulator.prompts() == [f"What is it? {CANARY}"] * 2


@pytest.mark.parametrize("kind", [[], {}, None, 1], ids=repr)
@pytest.mark.parametrize("dialect", ["chat", "responses"])
def test_the_type_of_a_part_of_a_result_is_a_string(
    gateway: Gateway, simulator: Simulator, dialect: str, kind: Any
) -> None:
    part = {"type": kind, "x": "sunny"}
    call = {"name": "weather", "arguments": "{}"}
    history: list[dict[str, Any]]
    if dialect == "chat":
        asked = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": call}],
        }
        history = [asked, {"role": "tool", "tool_call_id": "a", "content": [part]}]
    else:
        history = [{"type": "function_call", "call_id": "a", **call}]
        history += [{"type": "function_call_output", "call_id": "a", "output": [part]}]
    said = {"messages" if dialect == "chat" else "input": [{"role": "user", "content": CANARY}, *history]}
    response = post(dialect, gateway, WEATHER, **said)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].endswith("[0].type") and not simulator.turns()

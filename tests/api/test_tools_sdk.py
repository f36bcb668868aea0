"""The official SDKs drive functions: two steps of an agent, with each API, streamed and whole, stateless and not.

The simulated Kimi obeys, makes two calls at once, or makes a mistake first.
"""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageFunctionToolCall
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from tests.running import CANARY, EACH_GENERATION, Gateway, Profile, Simulator

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
QUESTION = f"Is it warm? {CANARY}"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather of a city"}
CITY = {"city": "Ulm"}

# What Kimi does first, how many calls that makes, and how many turns the first step takes.
WAYS = pytest.mark.parametrize(
    ("behaviour", "calls", "turns"), [("obey", 1, 1), ("parallel", 2, 1), ("broken", 1, 2)]
)
BOTH = pytest.mark.parametrize("stream", [False, True])


def knobs(behaviour: str) -> dict[str, Any]:
    return {"tools": behaviour, "tools_times": 1, "args": json.dumps(CITY), "call": "weather", "think": ""}


@pytest.fixture
def client(gateway: Gateway, simulator: Simulator) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-anything", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(gateway: Gateway, simulator: Simulator) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="sk-anything", max_retries=0) as client:
        yield client


def ask_chat(client: openai.OpenAI, stream: bool, **body: Any) -> ChatCompletion:
    """By the helper that joins the chunks, where it is streamed."""
    if not stream:
        completion: ChatCompletion = client.chat.completions.create(**body)
        ChatCompletion.model_validate(completion.model_dump(exclude_unset=True), strict=True)
        return completion
    with client.chat.completions.stream(**body) as events:
        for event in events:
            if event.type == "chunk":
                ChatCompletionChunk.model_validate(event.chunk.model_dump(exclude_unset=True), strict=True)
        return events.get_final_completion()


@WAYS
@BOTH
@EACH_GENERATION
def test_two_steps_by_chat_completions(
    client: openai.OpenAI,
    gateway: Gateway,
    simulator: Simulator,
    profile: Profile,
    behaviour: str,
    calls: int,
    turns: int,
    stream: bool,
) -> None:
    simulator.knobs(**knobs(behaviour))
    body: dict[str, Any] = {
        "model": gateway.model,
        "tools": [{"type": "function", "function": {**WEATHER, "parameters": SCHEMA}}],
    }
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    choice = ask_chat(client, stream, messages=messages, **body).choices[0]
    assert choice.finish_reason == "tool_calls"
    made = choice.message.tool_calls or []
    assert len(made) == calls and len({call.id for call in made}) == calls and len(simulator.turns()) == turns
    # As programs send it back: what the SDK has made of the answer.
    messages.append(choice.message.model_dump(exclude_unset=True, exclude={"parsed"}))
    for call in made:
        assert isinstance(call, ChatCompletionMessageFunctionToolCall)
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", CITY)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"sunny {call.id[-1]}"})
    last = ask_chat(client, stream, messages=messages, **body).choices[0]
    assert last.finish_reason == "stop" and not last.message.tool_calls
    assert last.message.content == "It returned: " + "\n".join(f"sunny {n}" for n in range(1, calls + 1))


@WAYS
@BOTH
@EACH_GENERATION
def test_two_steps_by_responses(
    client: openai.OpenAI,
    gateway: Gateway,
    simulator: Simulator,
    profile: Profile,
    behaviour: str,
    calls: int,
    turns: int,
    stream: bool,
) -> None:
    """The second step has results alone: the first one is Kimi's to remember."""
    simulator.knobs(**knobs(behaviour))

    def ask(**body: Any) -> Response:
        body |= {"model": gateway.model, "tools": [{"type": "function", **WEATHER, "parameters": SCHEMA}]}
        if not stream:
            response: Response = client.responses.create(**body)
            Response.model_validate(response.model_dump(exclude_unset=True), strict=True)
            return response
        with client.responses.stream(**body) as events:
            for event in events:
                if not event.type.endswith((".delta", ".done", "completed")):
                    EVENT.validate_python(event.model_dump(exclude_unset=True), strict=True)
            return events.get_final_response()

    first = ask(input=QUESTION)
    assert first.status == "completed"
    made = [item for item in first.output if isinstance(item, ResponseFunctionToolCall)]
    assert [(call.name, json.loads(call.arguments)) for call in made] == [("weather", CITY)] * calls
    assert len(simulator.turns()) == turns
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in made]
    last = ask(input=results, previous_response_id=first.id)
    assert last.output_text == "It returned: " + "\n".join(["sunny"] * calls)
    assert len({turn.chat for turn in simulator.turns()}) == 1
    assert QUESTION not in simulator.prompts()[-1]


@WAYS
@BOTH
@EACH_GENERATION
def test_two_steps_by_messages(
    claude: anthropic.Anthropic,
    gateway: Gateway,
    simulator: Simulator,
    profile: Profile,
    behaviour: str,
    calls: int,
    turns: int,
    stream: bool,
) -> None:
    simulator.knobs(**knobs(behaviour))

    def ask(messages: list[Any]) -> anthropic.types.Message:
        tools: list[Any] = [{**WEATHER, "input_schema": SCHEMA}]
        body: Any = {"model": gateway.model, "max_tokens": 4000, "messages": messages, "tools": tools}
        if not stream:
            whole: anthropic.types.Message = claude.messages.create(**body)
            return whole
        with claude.messages.stream(**body) as events:
            return events.get_final_message()

    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    first = ask(messages)
    assert first.stop_reason == "tool_use" and len(simulator.turns()) == turns
    made = [block for block in first.content if block.type == "tool_use"]
    assert [(block.name, block.input) for block in made] == [("weather", CITY)] * calls
    messages.append({"role": "assistant", "content": first.content})
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": "sunny"} for block in made]
    messages.append({"role": "user", "content": results})
    last = ask(messages)
    assert last.stop_reason == "end_turn" and [block.type for block in last.content] == ["text"]
    assert last.content[0].type == "text"
    assert last.content[0].text == "It returned: " + "\n".join(["sunny"] * calls)


class Weather(BaseModel):
    """The weather of a city"""

    city: str


@BOTH
def test_openais_helper_gives_the_arguments_as_objects(
    client: openai.OpenAI, gateway: Gateway, simulator: Simulator, stream: bool
) -> None:
    """Its tools are strict, and it raises where arguments do not fit."""
    simulator.knobs(**{**knobs("types"), "call": "Weather"})
    body: Any = {
        "model": gateway.model,
        "messages": [{"role": "user", "content": QUESTION}],
        "tools": [openai.pydantic_function_tool(Weather)],
    }
    if stream:
        with client.chat.completions.stream(**body) as events:
            done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
            completion = events.get_final_completion()
        assert [event.parsed_arguments for event in done] == [Weather(city="Ulm")]
    else:
        completion = client.chat.completions.parse(**body)
    (call,) = completion.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Weather(city="Ulm")


def test_anthropics_runner_goes_through_the_whole_loop(
    claude: anthropic.Anthropic, gateway: Gateway, simulator: Simulator
) -> None:
    """It asks for a thread first, which is kept by the server, and then sends less: it is told that there is none."""
    simulator.knobs(
        plan=json.dumps([{"call": "weather", "args": CITY}, {"call": "weather", "args": {"city": "Bonn"}}])
    )
    asked = []

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather of a city

        Args:
            city: its name
        """
        asked.append(city)
        return f"sunny in {city}"

    runner = claude.beta.messages.tool_runner(
        model=gateway.model, max_tokens=4000, tools=[weather], messages=[{"role": "user", "content": QUESTION}]
    )
    last = runner.until_done()
    assert len(simulator.turns()) == 3
    assert asked == ["Ulm", "Bonn"] and last.stop_reason == "end_turn"
    assert last.content[0].type == "text" and "sunny in Ulm\nsunny in Bonn" in last.content[0].text


def test_a_thread_is_refused_and_not_left_out(gateway: Gateway, simulator: Simulator) -> None:
    """The rest of the conversation would be missing, and nobody would notice."""
    for thread in ({"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}):
        body = {"model": gateway.model, "max_tokens": 9, "messages": [{"role": "user", "content": QUESTION}]}
        response = gateway.post("/v1/messages", json={**body, "thread": thread})
        error = response.json()["error"]
        assert response.status_code == 400 and "'thread'" in error["message"] and not simulator.turns()
        assert error["details"] == {"error_code": "thread_unsupported_request"}


def test_what_never_becomes_a_call_is_an_error_that_is_not_repeated(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(tools="announce")
    tool: Any = {"type": "function", "function": {**WEATHER, "parameters": SCHEMA}}
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-anything", max_retries=3) as client:
        with pytest.raises(openai.InternalServerError) as raised:
            client.chat.completions.create(
                model=gateway.model,
                messages=[{"role": "user", "content": QUESTION}],
                tools=[tool],
                tool_choice="required",
            )
        assert raised.value.code == "tool_call_missing" and len(simulator.turns()) == 2
    with anthropic.Anthropic(base_url=gateway.url, api_key="sk-anything", max_retries=3) as claude:
        with pytest.raises(anthropic.InternalServerError, match="made no call"):
            offered: Any = [{**WEATHER, "input_schema": SCHEMA}]
            claude.messages.create(
                model=gateway.model,
                max_tokens=999,
                messages=[{"role": "user", "content": QUESTION}],
                tools=offered,
                tool_choice={"type": "any"},
            )
        assert len(simulator.turns()) == 4

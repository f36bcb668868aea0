"""LiteLLM's SDK: the OpenAI provider with a base of its own."""

import importlib.metadata
import json
import os

# Otherwise it asks the internet for prices, and waits.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from told import (
    BASE,
    KEY,
    MODEL,
    TEXT,
    THINKING,
    THOUGHT,
    WAYS,
    asked,
    calls,
    cut_short,
    fails,
    prompt,
    proved,
    refused,
    slowly,
    version,
)

version(importlib.metadata.version("litellm"))


def ask(text: str, model: str = MODEL, **more):
    messages = [{"role": "user", "content": text}]
    return litellm.completion(model=f"openai/{model}", api_base=BASE, api_key=KEY, messages=messages, **more)


answer = ask(prompt(), THINKING)
assert answer.choices[0].message.content == TEXT
proved("text")
assert answer.choices[0].message.reasoning_content == THOUGHT
proved("thinking")
assert answer.usage.total_tokens > 0
proved("usage")

chunks = list(ask(slowly(), THINKING, stream=True, stream_options={"include_usage": True}))
whole = litellm.stream_chunk_builder(chunks)
assert whole.choices[0].message.content == TEXT and whole.choices[0].message.reasoning_content == THOUGHT
assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 1
assert whole.usage.completion_tokens > 0
proved("stream")

for wish, error_class, times in (
    (prompt(fail="too_long"), litellm.ContextWindowExceededError, 1),
    (refused(), litellm.BadGatewayError, 2),
):
    with asked(times), fails(error_class):
        ask(wish)
with fails(litellm.NotFoundError):
    ask("Hello", "gpt-4o")
proved("error")

text = ""
with fails(litellm.exceptions.MidStreamFallbackError):
    for chunk in ask(cut_short(), stream=True):
        text += chunk.choices[0].delta.content or ""
assert text == "Tea is r", text
proved("broken")

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def with_tools(history: list, *, stream: bool):
    """The answer, with as many calls before it as Kimi makes."""
    while True:
        said = litellm.completion(
            model=f"openai/{MODEL}", api_base=BASE, api_key=KEY, messages=history, tools=[WEATHER], stream=stream
        )
        said = (litellm.stream_chunk_builder(list(said)) if stream else said).choices[0]
        history.append(said.message.model_dump())
        if said.finish_reason == "stop":
            return said.message.content
        assert said.finish_reason == "tool_calls", said
        for call in said.message.tool_calls:
            city = json.loads(call.function.arguments)["city"]
            history.append({"role": "tool", "tool_call_id": call.id, "content": f"sunny in {city}"})


for stream in (False, True):
    for way, times in WAYS:
        calls(way)
        conversation = []
        for question, expected in (("Is it warm?", times), ("And now?", 1)):
            conversation.append({"role": "user", "content": question})
            assert with_tools(conversation, stream=stream) == "It returned: " + "\n".join(["sunny in Ulm"] * expected)
proved("tools")
proved("also", "functions need `litellm[mcp]`")

"""OpenAI's Agents SDK: by Responses, which is its default, and by chat completions; its tools are strict."""

import asyncio
import importlib.metadata

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from agents.model_settings import ModelSettings
from openai import AsyncOpenAI
from told import BASE, KEY, MODEL, TEXT, WAYS, calls, knobs, prompt, proved, version

version(importlib.metadata.version("openai-agents"))
set_tracing_disabled(disabled=True)
client = AsyncOpenAI(base_url=BASE, api_key=KEY)


@function_tool
def weather(city: str) -> str:
    """The weather of a city"""
    return f"sunny in {city}"


async def main() -> None:
    for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        model = kind(MODEL, client)
        knobs()
        assert (await Runner.run(Agent("plain", model=model), prompt())).final_output == TEXT
        agent = Agent("agent", instructions="Be kind.", model=model, tools=[weather])
        for way, times in WAYS:
            for streamed in (False, True):
                calls(way)
                history = []
                for question, expected in (("Is it warm?", times), ("And now?", 1)):
                    sent = [*history, {"role": "user", "content": question}]
                    if streamed:
                        result = Runner.run_streamed(agent, sent)
                        async for _ in result.stream_events():
                            pass
                    else:
                        result = await Runner.run(agent, sent)
                    assert result.final_output == "It returned: " + "\n".join(["sunny in Ulm"] * expected)
                    history = result.to_input_list()
        # It demands a call; afterwards it sets the choice back to auto by itself.
        calls("announce")
        demanding = Agent("d", model=model, tools=[weather], model_settings=ModelSettings(tool_choice="required"))
        assert (await Runner.run(demanding, "Is it warm?")).final_output == "It returned: sunny in Ulm"
    proved("text")
    proved("tools")
    proved("also", "Responses and chat completions; `tool_choice`")


asyncio.run(main())

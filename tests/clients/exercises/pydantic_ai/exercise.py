"""pydantic-ai, which validates every answer against OpenAI's own models."""

import asyncio
import importlib.metadata

from attached import PDF, PNG, Sample, arrives, digests_of_turns, last_request
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, DocumentUrl, ImageUrl, NativeOutput, UploadedFile
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
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
    knobs,
    prompt,
    proved,
    refused,
    slowly,
    version,
)

version(importlib.metadata.version("pydantic-ai-slim"))
provider = OpenAIProvider(base_url=BASE, api_key=KEY)


class Tea(BaseModel):
    leaves: int


def thoughts(result) -> str:
    parts = [part for message in result.all_messages() for part in message.parts]
    return "".join(part.content for part in parts if isinstance(part, ThinkingPart))


async def pieces_of(agent: Agent, text: str) -> list[str]:
    async with agent.run_stream(text) as result:
        return [piece async for piece in result.stream_text(delta=True, debounce_by=None)]


async def main() -> None:
    agent = Agent(OpenAIChatModel(MODEL, provider=provider), instructions="Be kind.")
    thinker = Agent(OpenAIChatModel(THINKING, provider=provider))
    result = await thinker.run(prompt())
    assert result.output == TEXT
    proved("text")
    assert thoughts(result) == THOUGHT
    proved("thinking")
    assert result.usage.input_tokens > 0 and result.usage.output_tokens > 0
    proved("usage")

    pieces = await pieces_of(agent, slowly())
    assert "".join(pieces) == TEXT and len(pieces) > 1, pieces
    proved("stream")

    for wish, status, times in ((prompt(fail="too_long"), 400, 1), (refused(), 502, 2)):
        with asked(times), fails(ModelHTTPError) as failed:
            await agent.run(wish)
        assert failed.error.status_code == status
    proved("error")

    with fails(ModelHTTPError):
        await pieces_of(agent, cut_short())
    proved("broken")

    # The answer shows what Kimi knows, whether it was told now or before in the same chat.
    knobs(recite="I like tea")
    told = await agent.run("and now?", message_history=(await agent.run("I like tea")).all_messages())
    assert "I like tea" in told.output
    knobs()
    proved("also", "a conversation")
    asker = Agent(OpenAIChatModel(MODEL, provider=provider), output_type=NativeOutput(Tea))
    assert (await asker.run(prompt('{"leaves": 3}'))).output == Tea(leaves=3)
    proved("also", "structured output")
    responder = Agent(OpenAIResponsesModel(THINKING, provider=provider))
    result = await responder.run(prompt())
    assert result.output == TEXT and thoughts(result) == THOUGHT
    proved("also", "Responses")

    for model in (OpenAIChatModel(MODEL, provider=provider), OpenAIResponsesModel(MODEL, provider=provider)):
        worker = Agent(model)

        @worker.tool_plain
        def weather(city: str) -> str:
            return f"sunny in {city}"

        for way, times in WAYS:
            calls(way)
            history = []
            for question, expected in (("Is it warm?", times), ("And now?", 1)):
                result = await worker.run(question, message_history=history)
                assert result.output == "It returned: " + "\n".join(["sunny in Ulm"] * expected)
                history = result.all_messages()
        # Its default form of structured output: a call of a function that it demands.
        calls("broken", "final_result", {"leaves": 3})
        assert (await Agent(model, output_type=Tea).run("How many?")).output == Tea(leaves=3)
    proved("tools")
    proved("also", "tools as output")
    knobs()
    await show_files()


async def show_files() -> None:
    """An address of a document is fetched by pydantic-ai itself for chat completions, and by us for Responses."""
    picture = BinaryContent(PNG.data, media_type=PNG.media_type)
    document = BinaryContent(PDF.data, media_type=PDF.media_type)
    for model, force in (
        (OpenAIChatModel(MODEL, provider=provider), "allow-local"),
        (OpenAIResponsesModel(THINKING, provider=provider), False),
    ):
        for content, sample in (
            (picture, PNG),
            (ImageUrl(PNG.address, vendor_metadata={"detail": "high"}), PNG),
            (document, PDF),
            (DocumentUrl(PDF.address, force_download=force), PDF),
        ):
            with arrives(sample):
                await Agent(model).run(["What is it?", content])
        for content, sample in ((picture, PNG), (document, PDF)):
            await look_at(model, content, sample)
    uploaded = await provider.client.files.create(file=(PDF.name, PDF.data), purpose="user_data")
    with arrives(PDF):
        await Agent(model).run(["What is it?", UploadedFile(uploaded.id, provider_name="openai")])
    proved("images")
    proved("documents")


async def look_at(model: Model, content: BinaryContent, sample: Sample) -> None:
    """A function returns it."""
    looker = Agent(model)

    @looker.tool_plain
    def look() -> BinaryContent:
        return content

    # In chat completions its file is a message of the user, behind the result.
    calls("obey", "look", {}, then="I have seen it.")
    before = last_request()
    await looker.run("What do you see?")
    assert digests_of_turns(before) == [[], [sample.digest]]
    knobs()


asyncio.run(main())

"""LlamaIndex's OpenAILike, by chat completions and by the legacy API, which is its default."""

import asyncio
import importlib.metadata

import openai
from attached import PDF, PNG, arrives
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage, DocumentBlock, ImageBlock, TextBlock
from llama_index.core.workflow import Context
from llama_index.llms.openai_like import OpenAILike
from told import (
    BASE,
    KEY,
    MODEL,
    TEXT,
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

version(importlib.metadata.version("llama-index-llms-openai-like"))

for is_chat_model in (True, False):
    model = OpenAILike(model=MODEL, api_base=BASE, api_key=KEY, is_chat_model=is_chat_model, context_window=128_000)
    answer = model.complete(prompt())
    assert answer.text == TEXT, answer
    assert model.chat([ChatMessage(role="user", content=prompt())]).message.content == TEXT
    assert answer.raw.usage.total_tokens > 0
    pieces = [piece.delta for piece in model.stream_complete(slowly()) if piece.delta]
    assert "".join(pieces) == TEXT and len(pieces) > 1, pieces

    for wish, error_class, times in (
        (prompt(fail="too_long"), openai.BadRequestError, 1),
        # LlamaIndex asks three times by itself, whatever x-should-retry says; its SDK alone would make that twelve.
        (refused(), openai.InternalServerError, 3 * 2),
    ):
        with asked(times), fails(error_class):
            model.complete(wish)

    text = ""
    with fails(openai.APIError):
        for piece in model.stream_complete(cut_short()):
            text += piece.delta or ""
    assert text == "Tea is r", text
    proved("also", "`is_chat_model=True`" if is_chat_model else "legacy completions")
for fact in ("text", "usage", "stream", "error", "broken"):
    proved(fact)
proved("also", "a 5xx is repeated twice by LlamaIndex itself (`max_retries`)")


def weather(city: str) -> str:
    """The weather of a city"""
    return f"sunny in {city}"


async def ask_agent() -> None:
    model = OpenAILike(
        model=MODEL,
        api_base=BASE,
        api_key=KEY,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=9999,
    )
    agent = FunctionAgent(tools=[weather], llm=model)
    for way, times in WAYS:
        calls(way)
        context = Context(agent)
        for question, expected in (("Is it warm?", times), ("And now?", 1)):
            said = str(await agent.run(question, ctx=context))
            assert said == "It returned: " + "\n".join(["sunny in Ulm"] * expected), said


asyncio.run(ask_agent())
proved("tools")
proved("also", "`FunctionAgent`")

knobs()
chat = OpenAILike(model=MODEL, api_base=BASE, api_key=KEY, is_chat_model=True, context_window=128_000)
for fact, sample, blocks in (
    (
        "images",
        PNG,
        (
            ImageBlock(image=PNG.data, image_mimetype=PNG.media_type),
            ImageBlock(path=PNG.path, detail="high"),
            ImageBlock(url=PNG.url),
            ImageBlock(url=PNG.address),
        ),
    ),
    (
        "documents",
        PDF,
        (
            DocumentBlock(data=PDF.data, title=PDF.name, document_mimetype=PDF.media_type),
            DocumentBlock(path=PDF.path),
            # It is LlamaIndex itself that fetches this one.
            DocumentBlock(url=PDF.address, title=PDF.name, document_mimetype=PDF.media_type),
        ),
    ),
):
    for block in blocks:
        with arrives(sample):
            chat.chat([ChatMessage(role="user", blocks=[block, TextBlock(text="What is it?")])])
    proved(fact)

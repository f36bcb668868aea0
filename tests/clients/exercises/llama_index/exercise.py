"""LlamaIndex's OpenAILike, by chat completions and by the legacy API, which is its default."""

import importlib.metadata

import openai
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from told import BASE, KEY, MODEL, TEXT, asked, cut_short, proved, prompt, refused, slowly, version

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
        (refused(), openai.InternalServerError, 2),
    ):
        with asked(times):
            try:
                model.complete(wish)
            except error_class:
                pass
            else:
                raise AssertionError("no error")

    text = ""
    try:
        for piece in model.stream_complete(cut_short()):
            text += piece.delta or ""
    except openai.APIError:
        assert text == "Tea is r", text
    else:
        raise AssertionError("no error")
    proved("also", "`is_chat_model=True`" if is_chat_model else "legacy completions")
for fact in ("text", "usage", "stream", "error", "broken"):
    proved(fact)

"""OpenAI's SDK for Python: chat completions by hand and by helpers, strictly validated; Responses; files; the legacy
API."""

import json

import openai
from attached import PDF, PNG, arrives
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from pydantic import BaseModel
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


class Tea(BaseModel):
    leaves: int


client = openai.OpenAI(base_url=BASE, api_key=KEY)
version(openai.__version__)


def message(text: str) -> list:
    return [{"role": "user", "content": text}]


completion = client.chat.completions.create(model=THINKING, messages=message(prompt()))
ChatCompletion.model_validate(completion.model_dump(exclude_unset=True), strict=True)
assert completion.choices[0].message.content == TEXT
assert completion.choices[0].finish_reason == "stop"
assert completion._request_id
proved("text")
assert completion.choices[0].message.reasoning_content == THOUGHT
proved("thinking")
assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens > 0
proved("usage")

chunks = list(client.chat.completions.create(model=MODEL, messages=message(slowly()), stream=True))
for chunk in chunks:
    ChatCompletionChunk.model_validate(chunk.model_dump(exclude_unset=True), strict=True)
pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
assert "".join(pieces) == TEXT and len(pieces) > 1, pieces
assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
with client.chat.completions.stream(
    model=MODEL, messages=message(slowly()), stream_options={"include_usage": True}
) as stream:
    pieces = [event.delta for event in stream if event.type == "content.delta"]
    final = stream.get_final_completion()
assert "".join(pieces) == final.choices[0].message.content == TEXT and len(pieces) > 1
assert final.usage.completion_tokens > 0
proved("stream")
proved("also", "`.stream()`")

with asked(1), fails(openai.BadRequestError) as failed:
    client.chat.completions.create(model=MODEL, messages=message(prompt(fail="too_long")))
assert failed.error.code == "context_length_exceeded" and failed.error.request_id
# The gateway itself tries another account; the SDK would repeat a 502, were it not told otherwise.
with asked(2), fails(openai.InternalServerError) as failed:
    client.chat.completions.create(model=MODEL, messages=message(refused()))
assert failed.error.status_code == 502
for wrong, error_class in (
    (client.with_options(api_key="sk-wrong"), openai.AuthenticationError),
    (client.with_options(base_url=f"{BASE}/v1"), openai.NotFoundError),
):
    with fails(error_class):
        wrong.chat.completions.create(model=MODEL, messages=message("Hello"))
proved("error")

text = ""
with fails(openai.APIError):
    for chunk in client.chat.completions.create(model=MODEL, messages=message(cut_short()), stream=True):
        text += chunk.choices[0].delta.content or ""
        assert chunk.choices[0].finish_reason is None
assert text == "Tea is r", text
proved("broken")

parsed = client.chat.completions.parse(model=MODEL, messages=message(prompt('{"leaves": 3}')), response_format=Tea)
assert parsed.choices[0].message.parsed == Tea(leaves=3)
proved("also", "structured output")

response = client.responses.create(model=THINKING, input=prompt())
Response.model_validate(response.model_dump(exclude_unset=True), strict=True)
assert response.output_text == TEXT
response = client.responses.create(model=THINKING, input="What did I say?", previous_response_id=response.id)
assert "Hello" in response.output_text, response.output_text
with client.responses.stream(model=MODEL, input=slowly()) as stream:
    pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(pieces) == stream.get_final_response().output_text == TEXT and len(pieces) > 1
proved("also", "Responses with `previous_response_id`")

assert client.completions.create(model=MODEL, prompt=prompt()).choices[0].text == TEXT
proved("also", "legacy completions")
assert MODEL in [model.id for model in client.models.list()]
proved("also", "models")


WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


def by_chat(history: list, question: str) -> str:
    """One question, with as many calls as Kimi makes."""
    history.append({"role": "user", "content": question})
    while True:
        with client.chat.completions.stream(
            model=MODEL, messages=history, tools=[{"type": "function", "function": WEATHER}]
        ) as stream:
            said = stream.get_final_completion().choices[0]
        history.append(said.message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True))
        if said.finish_reason == "stop":
            return said.message.content
        assert said.finish_reason == "tool_calls", said
        for call in said.message.tool_calls:
            city = json.loads(call.function.arguments)["city"]
            history.append({"role": "tool", "tool_call_id": call.id, "content": f"sunny in {city}"})


def by_responses(previous: list, question: str) -> str:
    sent = question
    while True:
        response = client.responses.create(
            model=MODEL,
            input=sent,
            tools=[{"type": "function", **WEATHER}],
            previous_response_id=previous[-1] if previous else None,
        )
        previous.append(response.id)
        made = [item for item in response.output if item.type == "function_call"]
        if not made:
            return response.output_text
        sent = [
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": f"sunny in {json.loads(call.arguments)['city']}",
            }
            for call in made
        ]


for ask in (by_chat, by_responses):
    for way, times in WAYS:
        calls(way)
        conversation = []
        assert ask(conversation, "Is it warm?") == "It returned: " + "\n".join(["sunny in Ulm"] * times)
        assert ask(conversation, "And now?") == "It returned: sunny in Ulm"
proved("tools")

knobs()


def function_result(output: list) -> list:
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    asked = {"role": "user", "content": "What do you see?"}
    return [asked, call, {"type": "function_call_output", "call_id": "c", "output": output}]


def by_content(*parts: dict) -> None:
    content = [{"type": "text", "text": "What is in this?"}, *parts]
    client.chat.completions.create(model=THINKING, messages=[{"role": "user", "content": content}])


def by_input(*parts: dict, items: list | None = None) -> None:
    content = [{"type": "input_text", "text": "What is in this?"}, *parts]
    client.responses.create(model=THINKING, input=items or [{"role": "user", "content": content}])


with open(PNG.path, "rb") as picture, open(PDF.path, "rb") as document:
    picture_id = client.files.create(file=picture, purpose="vision").id
    document_id = client.files.create(file=document, purpose="user_data").id
assert client.files.content(document_id).read() == PDF.data
for url in (PNG.url, PNG.address):
    with arrives(PNG):
        by_content({"type": "image_url", "image_url": {"url": url, "detail": "high"}})
    with arrives(PNG):
        by_input({"type": "input_image", "image_url": url, "detail": "auto"})
with arrives(PNG):
    by_input({"type": "input_image", "file_id": picture_id, "detail": "low"})
with arrives(PNG):
    by_input(items=function_result([{"type": "input_image", "image_url": PNG.url, "detail": "auto"}]))
proved("images")
for file in ({"file_data": PDF.url, "filename": PDF.name}, {"file_id": document_id}):
    with arrives(PDF):
        by_content({"type": "file", "file": file})
    with arrives(PDF):
        by_input({"type": "input_file", **file})
with arrives(PDF):
    by_input({"type": "input_file", "file_url": PDF.address})
with arrives(PDF):
    by_input(items=function_result([{"type": "input_file", "file_data": PDF.url, "filename": PDF.name}]))
proved("documents")
for file_id in (picture_id, document_id):
    assert client.files.delete(file_id).deleted
proved("also", "`files`")

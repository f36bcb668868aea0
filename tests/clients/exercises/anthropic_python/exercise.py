"""Anthropic's SDK for Python: messages by hand and by its helper, tools, images and documents, the Files API."""

import anthropic
from attached import NOTES, PDF, PNG, arrives
from told import (
    GATEWAY,
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

client = anthropic.Anthropic(base_url=GATEWAY, api_key=KEY)
version(anthropic.__version__)


def message(text: str) -> list:
    return [{"role": "user", "content": text}]


said = client.messages.create(model=MODEL, max_tokens=9999, messages=message(prompt()))
assert [block.text for block in said.content if block.type == "text"] == [TEXT] and said.stop_reason == "end_turn"
assert said._request_id
proved("text")
budget = {"type": "enabled", "budget_tokens": 1024}
thought = client.messages.create(model=THINKING, max_tokens=9999, messages=message(prompt()), thinking=budget)
assert [block.thinking for block in thought.content if block.type == "thinking"] == [THOUGHT]
proved("thinking")
assert said.usage.input_tokens > 0 and said.usage.output_tokens > 0
counted = client.messages.count_tokens(model=MODEL, messages=message(prompt()))
assert counted.input_tokens == said.usage.input_tokens
proved("usage")
proved("also", "`count_tokens`")

with client.messages.stream(model=MODEL, max_tokens=9999, messages=message(slowly())) as stream:
    pieces = list(stream.text_stream)
    final = stream.get_final_message()
assert "".join(pieces) == TEXT and len(pieces) > 1 and final.stop_reason == "end_turn"
proved("stream")

for wish, error_class, times in (
    (prompt(fail="too_long"), anthropic.BadRequestError, 1),
    (refused(), anthropic.InternalServerError, 2),
):
    with asked(times), fails(error_class) as failed:
        client.messages.create(model=MODEL, max_tokens=9999, messages=message(wish))
    assert failed.error.request_id
with fails(anthropic.AuthenticationError):
    client.with_options(api_key="sk-wrong").messages.create(model=MODEL, max_tokens=9, messages=message("Hello"))
proved("error")

text = ""
with (
    fails(anthropic.APIError),
    client.messages.stream(model=MODEL, max_tokens=9999, messages=message(cut_short())) as stream,
):
    for piece in stream.text_stream:
        text += piece
assert text == "Tea is r", text
proved("broken")

WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


def ask(history: list, question: str) -> str:
    """One question, with as many calls as Kimi makes."""
    history.append({"role": "user", "content": question})
    while True:
        with client.messages.stream(model=MODEL, max_tokens=9999, messages=history, tools=[WEATHER]) as stream:
            answer = stream.get_final_message()
        history.append({"role": "assistant", "content": answer.content})
        if answer.stop_reason == "end_turn":
            return answer.content[-1].text
        assert answer.stop_reason == "tool_use", answer
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": f"sunny in {block.input['city']}"}
            for block in answer.content
            if block.type == "tool_use"
        ]
        history.append({"role": "user", "content": results})


for way, times in WAYS:
    calls(way)
    conversation = []
    assert ask(conversation, "Is it warm?") == "It returned: " + "\n".join(["sunny in Ulm"] * times)
    assert ask(conversation, "And now?") == "It returned: sunny in Ulm"
proved("tools")
knobs()


def show(*blocks: dict) -> None:
    content = [*blocks, {"type": "text", "text": "Describe it."}]
    client.messages.create(model=MODEL, max_tokens=9999, messages=[{"role": "user", "content": content}])


def show_file(kind: str, file_id: str) -> None:
    content = [
        {"type": kind, "source": {"type": "file", "file_id": file_id}},
        {"type": "text", "text": "Describe it."},
    ]
    client.beta.messages.create(
        model=THINKING,
        max_tokens=9999,
        messages=[{"role": "user", "content": content}],
        betas=["files-api-2025-04-14"],
    )


def show_result(block: dict) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [block]}
    client.messages.create(
        model=THINKING,
        max_tokens=9999,
        messages=[
            {"role": "user", "content": "What do you see?"},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ],
    )


for fact, kind, sample in (("images", "image", PNG), ("documents", "document", PDF)):
    block = {
        "type": kind,
        "source": {"type": "base64", "media_type": sample.media_type, "data": sample.base64},
    }
    with arrives(sample):
        show(block)
    with arrives(sample):
        show({"type": kind, "source": {"type": "url", "url": sample.address}})
    with arrives(sample):
        show_result(block)
    uploaded = client.beta.files.upload(file=(sample.name, sample.data, sample.media_type))
    assert uploaded.id in [one.id for one in client.beta.files.list()]
    assert client.beta.files.retrieve_metadata(uploaded.id).size_bytes == len(sample.data)
    assert client.beta.files.download(uploaded.id).read() == sample.data
    with arrives(sample):
        show_file(kind, uploaded.id)
    client.beta.files.delete(uploaded.id)
    with fails(anthropic.NotFoundError):
        show_file(kind, uploaded.id)
    proved(fact)
plain = {"type": "text", "media_type": "text/plain", "data": NOTES.data.decode()}
with arrives(NOTES):
    show(
        {"type": "document", "source": plain, "title": NOTES.name, "context": "Mine", "citations": {"enabled": False}}
    )
blocks = [{"type": "text", "text": "See:"}, {"type": "image", "source": {"type": "url", "url": PNG.url}}]
with arrives(PNG):
    show({"type": "document", "source": {"type": "content", "content": blocks}})
proved("also", "documents as text and as blocks; the Files API")

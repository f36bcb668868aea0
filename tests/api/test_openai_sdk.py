"""The official Python SDK against the gateway: both modes, both routes, errors."""

from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam

from tests.running import CANARY, Gateway, Simulator

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": f"hello {CANARY}"}]


@pytest.fixture
def client(gateway: Gateway, simulator: Simulator) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-anything", max_retries=0) as client:
        yield client


def test_whole_answers(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.knobs(say="你好, tea?", think="hm")
    completion = client.chat.completions.create(model="k1.5-thinking", messages=HELLO)
    ChatCompletion.model_validate(completion.model_dump(), strict=True)
    choice = completion.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("你好, tea?", "stop")
    assert (choice.message.model_extra or {})["reasoning_content"] == "hm"
    assert completion.usage is not None and completion.usage.total_tokens > 0
    assert completion._request_id


def test_streamed_answers(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.knobs(say="你好, tea?")
    with client.chat.completions.create(model="k2", messages=HELLO, stream=True) as stream:
        chunks = list(stream)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(exclude_unset=True), strict=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "你好, tea?"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_stream_helper(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.knobs(say="one two three", token_chars=4)
    with client.chat.completions.stream(model="k2", messages=HELLO, stream_options={"include_usage": True}) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == "one two three"
    assert final.choices[0].message.role == "assistant" and final.usage is not None


def test_conversations(client: openai.OpenAI, simulator: Simulator) -> None:
    """The SDK reaches the private route by its path."""
    for text in ("I like tea", "what did I say"):
        completion = client.post(
            "/chat/completions/sdk-conversation",
            cast_to=ChatCompletion,
            body={"model": "k2", "messages": [{"role": "user", "content": text}]},
        )
    assert "I like tea" in (completion.choices[0].message.content or "")
    stream = client.post(
        "/chat/completions/sdk-conversation",
        cast_to=ChatCompletion,
        body={"model": "k2", "messages": [{"role": "user", "content": "what did I say"}], "stream": True},
        stream=True,
        stream_cls=openai.Stream[ChatCompletionChunk],
    )
    assert "I like tea" in "".join(c.choices[0].delta.content or "" for c in stream)
    assert len(simulator.state()["chats"]) == 1


def test_models(client: openai.OpenAI) -> None:
    assert "k2" in [model.id for model in client.models.list()]
    assert client.models.retrieve("k1.5-thinking").id == "k1.5-thinking"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("token_invalid", openai.InternalServerError),
        ("account_abnormal", openai.PermissionDeniedError),
        ("stream_pushing", openai.RateLimitError),
        ("too_long", openai.BadRequestError),
        ("not_found", openai.NotFoundError),
        ("overloaded", openai.InternalServerError),
    ],
)
def test_errors_have_their_class(
    client: openai.OpenAI, simulator: Simulator, fault: str, error: type[openai.APIStatusError], stream: bool
) -> None:
    simulator.knobs(fail=fault)
    with pytest.raises(error) as raised:
        client.chat.completions.create(model="k2", messages=HELLO, stream=stream)
    assert raised.value.message and raised.value.request_id


def test_an_error_in_mid_stream_is_raised(client: openai.OpenAI, simulator: Simulator) -> None:
    simulator.knobs(fail="drop", fail_after=2, say="one two three", token_chars=4)
    got = ""
    with pytest.raises(openai.APIError, match="broke off"):
        for chunk in client.chat.completions.create(model="k2", messages=HELLO, stream=True):
            got += chunk.choices[0].delta.content or ""
            assert chunk.choices[0].finish_reason is None
    assert got == "one two "


def test_an_unknown_model_and_a_bad_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="k1.5-thinking"):
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="k2", messages=HELLO, n=5)
    assert raised.value.param == "n"


def test_a_permanent_failure_is_not_repeated_by_the_sdk(gateway: Gateway, simulator: Simulator) -> None:
    simulator.knobs(fail="not_found")
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=2) as client,
        pytest.raises(openai.NotFoundError),
    ):
        client.chat.completions.create(model="k2", messages=HELLO)
    assert len(simulator.requests("/completion/stream")) == 1

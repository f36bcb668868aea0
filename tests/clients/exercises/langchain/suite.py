"""langchain-tests for chat models (https://pypi.org/project/langchain-tests), with the gateway as the model.

The images and documents of the suite stand in the web; here they are read from a folder, and each case that sends
them must bring them to Kimi.

What Kimi does not offer is declared by the suite's own properties. The suite asks questions of its own, so the
simulator is told beforehand what to answer to them.
"""

import json
from collections.abc import Iterator

import httpx
import pytest
from attached import PDF, PNG, Sample, digests_of_turns, last_request
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from told import BASE, KEY, MODEL, knobs

_JOKE = {"setup": "Why did the tea blush?", "punchline": "It was 100 % hot."}
# What a function is called with, where it is not what the schema alone demands. By a part of the test's name.
_ARGUMENTS = {
    "no_arguments": {},
    "test_tool_c": {"input": 3},
    "unicode": {"customer_name": "你好啊集团, こんにちは株式会社", "description": "A company"},
}


def _answer(test: str, *, by_calls: bool) -> dict[str, object]:
    if "v1" in test:
        # By a call for the class, and as JSON for its schema. Where a call is demanded, JSON is asked for again.
        return {"say": json.dumps(_JOKE), "args": json.dumps(_JOKE), "tools_times": 1}
    if "structured_output" in test and by_calls:
        return {"args": json.dumps(_JOKE)}
    if "structured_output" in test or "json_mode" in test:
        return {"say": json.dumps(_JOKE)}
    arguments = next((value for part, value in _ARGUMENTS.items() if part in test), None)
    wishes: dict[str, object] = {} if arguments is None else {"args": json.dumps(arguments)}
    if "agent_loop" in test:
        wishes["call"] = "get_weather"
    return wishes


class TestGateway(ChatModelIntegrationTests):
    by_calls = False

    @pytest.fixture(autouse=True)
    def _answer(self, request: pytest.FixtureRequest) -> Iterator[None]:
        knobs()
        knobs(profile="all", **_answer(request.node.name, by_calls=self.by_calls))
        yield

    @pytest.fixture(autouse=True)
    def _files(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        fetched: list[Sample] = []

        def fetch(url: str, **_: object) -> httpx.Response:
            fetched.append(PDF if url.endswith(".pdf") else PNG)
            return httpx.Response(200, content=fetched[-1].data)

        monkeypatch.setattr(httpx, "get", fetch)
        before = last_request()
        yield
        if not fetched:
            return
        turns = digests_of_turns(before)
        assert turns and {tuple(turn) for turn in turns if turn} == {(fetched[0].digest,)}, turns
        # One of these asks two questions without files, too.
        assert all(turns) or "anthropic" in request.node.name

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {"model": MODEL, "base_url": BASE, "api_key": KEY, "stream_usage": True}

    @property
    def has_tool_calling(self) -> bool:
        return True

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def structured_output_kwargs(self) -> dict[str, object]:
        return {"method": "json_schema"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True


class TestByResponses(TestGateway):
    """The same by the other API, and structured output by calls that are demanded."""

    by_calls = True

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {**super().chat_model_params, "use_responses_api": True}

    @property
    def structured_output_kwargs(self) -> dict[str, object]:
        return {"method": "function_calling"}

"""LangChain's ChatOpenAI, and then LangChain's own suite for chat models (suite.py)."""

import functools
import importlib.metadata
import operator
import sys
from pathlib import Path

import openai
import pytest
from attached import PDF, PNG, arrives
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from told import (
    BASE,
    KEY,
    MODEL,
    TEXT,
    THINKING,
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

version(importlib.metadata.version("langchain-openai"))
model = ChatOpenAI(model=MODEL, base_url=BASE, api_key=KEY, stream_usage=True)

answer = model.invoke(prompt())
assert answer.content == TEXT
proved("text")
assert answer.usage_metadata["total_tokens"] > 0
proved("usage")

chunks = list(model.stream(slowly()))
pieces = [chunk.content for chunk in chunks if chunk.content]
assert "".join(pieces) == TEXT and len(pieces) > 1, pieces
assert sum(bool(chunk.usage_metadata) for chunk in chunks) == 1
proved("stream")

for wish, error_class, times in (
    (prompt(fail="too_long"), openai.BadRequestError, 1),
    (refused(), openai.InternalServerError, 2),
):
    with asked(times), fails(error_class):
        model.invoke(wish)
proved("error")

text = ""
with fails(openai.APIError):
    for chunk in model.stream(cut_short()):
        text += chunk.content
assert text == "Tea is r", text
proved("broken")


@tool
def weather(city: str) -> str:
    """The weather of a city"""
    return f"sunny in {city}"


def ask(history: list, question: str) -> str:
    """The answer, with as many calls before it as Kimi makes."""
    history.append(HumanMessage(question))
    while True:
        chunks = list(model.bind_tools([weather]).stream(history))
        said = functools.reduce(operator.add, chunks)
        history.append(said)
        if not said.tool_calls:
            return said.content
        history += [weather.invoke(call) for call in said.tool_calls]


for way, times in WAYS:
    calls(way)
    conversation = []
    assert ask(conversation, "Is it warm?") == "It returned: " + "\n".join(["sunny in Ulm"] * times)
    assert ask(conversation, "And now?") == "It returned: sunny in Ulm"
proved("tools")


knobs()
for url in (PNG.url, PNG.address):
    with arrives(PNG):
        model.invoke([HumanMessage([{"type": "text", "text": "What is it?"}, {"type": "image", "url": url}])])
by_responses = ChatOpenAI(model=THINKING, base_url=BASE, api_key=KEY, use_responses_api=True)
file = {"type": "file", "mime_type": PDF.media_type, "filename": PDF.name}
for asked_model, source in ((model, {"base64": PDF.base64}), (by_responses, {"url": PDF.address})):
    with arrives(PDF):
        asked_model.invoke([HumanMessage([{"type": "text", "text": "What is it?"}, {**file, **source}])])
proved("images")
proved("documents")


class Counts:
    """How the cases of the suite ended."""

    passed = 0
    skipped = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed
        self.skipped += report.skipped


counts = Counts()
options = ["-q", "-ra", "--noconftest", "-p", "no:cacheprovider", "--asyncio-mode=auto", "--disable-recording"]
# One loop for all: the client keeps its connections from one case to the next.
options += ["-o", "asyncio_default_fixture_loop_scope=session", "-o", "asyncio_default_test_loop_scope=session"]
options += ["-o", "addopts=", "--rootdir", str(Path(__file__).parent), "-c", "/dev/null"]
# Its output belongs to the people who look for a failure.
sys.stdout.flush()
status = pytest.main([str(Path(__file__).with_name("suite.py")), *options, *sys.argv[1:]], plugins=[counts])
assert status == 0, status
proved(
    "also",
    f"langchain-tests, by chat completions and by Responses: {counts.passed} passed, {counts.skipped} skipped, which "
    "need audio, another model's features, or recordings",
)

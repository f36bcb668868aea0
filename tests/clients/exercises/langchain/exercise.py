"""LangChain's ChatOpenAI, and then LangChain's own suite for chat models (suite.py)."""

import importlib.metadata
import sys
from pathlib import Path

import openai
import pytest
from langchain_openai import ChatOpenAI
from told import BASE, KEY, MODEL, TEXT, asked, cut_short, fails, prompt, proved, refused, slowly, version

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


class Counts:
    """How the cases of the suite ended."""

    passed = 0
    skipped = 0
    refused = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed
        self.refused += hasattr(report, "wasxfail")
        self.skipped += report.skipped and not hasattr(report, "wasxfail")


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
    f"langchain-tests: {counts.passed} passed, {counts.skipped} skipped because they need tools or images, "
    f"{counts.refused} refused because it forces a tool call",
)

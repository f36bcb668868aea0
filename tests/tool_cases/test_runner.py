"""The runner itself, on cases of our own in the forms in which other projects publish theirs."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.answers.json_checker import JsonChecker
from tests.tool_cases import fixtures, python_tests
from tests.tool_cases.ours import Notes

_PYTHON = r"""
import json
import pytest
from elsewhere import Parser, Tool, Function, run_tool_extraction

def call(name, arguments):
    return f"<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{json.dumps(arguments)}<|tool_call_end|>"

@pytest.fixture
def parser():
    return Parser(object())

@pytest.mark.parametrize("city, text", [("Ulm", "I look. "), pytest.param("Bonn", "", id="none")])
def test_same(parser, city, text):
    said, calls = run_tool_extraction(parser, text + call("weather", {"city": city}), streaming=False)
    assert (said or "") == text
    assert len(calls) == 1 and json.loads(calls[0].function.arguments) == {"city": city}

def test_pieces(parser):
    told = []
    for piece in ["I look. ", "<|tool_call_", "begin|>functions.weather:0<|tool_call_argument_begin|>{}<|tool_call_end|>"]:
        delta = parser.extract_tool_calls_streaming("", "", piece, [], [], [], None)
        if delta is not None and delta.tool_calls:
            told += delta.tool_calls
    assert [each.function.name for each in told] == ["weather"]

def test_other(parser):
    said, calls = run_tool_extraction(parser, call("weather", {}))
    assert len(calls) == 2

def test_id(parser):
    said, calls = run_tool_extraction(parser, call("weather", {}))
    assert calls[0].id == "functions.weather:0"
    assert len(calls) == 1

def test_itself(parser):
    run_tool_extraction(parser, call("weather", {}))
    assert parser.state == 3

class TestDetector:
    def setUp(self):
        self.tools = [Tool(function=Function(name="weather", parameters={"type": "object"}))]
        self.detector = Parser()

    def test_cut(self):
        result = self.detector.detect_and_parse('<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"ci', self.tools)
        self.assertEqual(len(result.calls), 1)

    def test_undeclared(self):
        result = self.detector.detect_and_parse(call("frob", {}), self.tools)
        self.assertEqual(len(result.calls), 1)
"""  # noqa: E501

_DATA = """
cases:
  a:
    model_text: '<tool_call>{"name": "weather", "arguments": {"days": "3"}}</tool_call>'
    tools: [{name: weather, parameters: {type: object, properties: {days: {type: integer}}}}]
    expected: {one: {calls: [{name: weather, arguments: {days: 3}}], normal_text: ''}, two: {calls: []}}
  b:
    model_text: 'I look. <tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    tools: [{name: weather}]
    expected: {calls: [{name: weather, arguments: {}}], normal_text: I look.}
  c:
    model_text: nothing of interest
    expected: {calls: [], normal_text: nothing of interest}
"""


@pytest.fixture(scope="module")
def checker() -> Iterator[JsonChecker]:
    checker = JsonChecker()
    yield checker
    checker.close()


def test_tests_in_python_are_judged_by_their_own_assertions(tmp_path: Path, checker: JsonChecker) -> None:
    (tmp_path / "test_parser.py").write_text(_PYTHON)
    unread: Counter[str] = Counter()
    found = {
        each.case.split("::")[1]: each.kind for each in python_tests.outcomes(tmp_path, checker, Notes(), unread)
    }
    assert found == {
        "test_same[0]": None,
        "test_same[1]": None,
        "test_pieces[0]": None,
        "test_other[0]": "calls",
        "test_id[0]": "an id",
        "TestDetector.test_cut[0]": "a cut call",
        "TestDetector.test_undeclared[0]": "a name that was not declared",
    }
    assert list(unread.values()) == [1]


def test_nothing_of_a_test_in_python_is_run(tmp_path: Path, checker: JsonChecker) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "test_parser.py").write_text(f"""
from pathlib import Path
Path({str(mark)!r}).write_text("")

def test_it(parser):
    open({str(mark)!r}, "w")
    __import__("pathlib").Path({str(mark)!r}).touch()
    answer = "<|tool_call_begin|>functions.a:0<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
    parser.extract_tool_calls(answer, None)
    "".__class__
""")
    unread: Counter[str] = Counter()
    assert not list(python_tests.outcomes(tmp_path, checker, Notes(), unread))
    assert not mark.exists()
    assert list(unread.values()) == [1]


def test_fixtures_are_compared_with_each_engine(tmp_path: Path, checker: JsonChecker) -> None:
    (tmp_path / "PARSER.batch.yaml").write_text(_DATA)
    found = {each.case.split("/")[1]: each for each in fixtures.outcomes(tmp_path, checker, Notes())}
    assert {case: each.kind for case, each in found.items()} == {"a": None, "b": "a call in a line"}
    assert found["a"].as_some

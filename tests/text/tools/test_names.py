"""Which function a name in an answer means."""

import pytest

from app.chat import Tool
from app.text.tools.names import Names

READ, MCP, DOTTED, COLON = Tool("read_file"), Tool("mcp__fs__list"), Tool("a.b"), Tool("x:1")
SPACED, JOINED = Tool("read", namespace="fs"), Tool("b", namespace="a")
NAMES = Names([READ, MCP, DOTTED, COLON, SPACED, JOINED])


@pytest.mark.parametrize(
    ("argument", "tool", "number"),
    [
        ("read_file:1", READ, 1),
        ("read_file : 12", READ, 12),
        ("read_file#2", READ, 2),
        ("read_file", READ, None),
        ("Read-File:1", READ, 1),
        ("functions.read_file:0", READ, 0),
        ("readFile:1", READ, 1),
        ("list:1", MCP, 1),
        ("mcp__other__read_file:1", READ, 1),
        ("fs.read:1", SPACED, 1),
        ("a.b:1", DOTTED, 1),
        ("a/b:1", JOINED, 1),
        ("x:1", COLON, None),
        ("x:1:1", COLON, 1),
        ("read_fil:1", None, 1),
        ("read_files:1", None, 1),
        ("", None, None),
    ],
)
def test_a_name_means_one_function_or_none(argument: str, tool: Tool | None, number: int | None) -> None:
    named = NAMES.named(argument)
    assert (named.tool, named.number) == (tool, number)


def test_a_name_that_could_mean_two_means_none() -> None:
    names = Names([Tool("read_file"), Tool("ReadFile")])
    assert names.find("readfile") is None
    assert names.find("ReadFile") == Tool("ReadFile")


def test_a_namespace_is_told_apart_from_a_name_with_a_dot() -> None:
    assert NAMES.labels == ["read_file", "mcp__fs__list", "a.b", "x:1", "fs.read", "a/b"]

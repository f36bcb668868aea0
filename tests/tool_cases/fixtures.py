"""Cases that are data: the YAML files of ai-dynamo/dynamo, which say of each answer what three engines make of it.

cases: {ID: {model_text | chunks, tools: [{name, parameters}],
             expected: {calls: [{name, arguments}], normal_text} | {dynamo: …, vllm: …, sglang: …}}}
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from app.answers.json_checker import JsonChecker
from app.chat import Tool
from tests.tool_cases.ours import Notes, Read, form_of, named_in, read_pieces, read_whole
from tests.tool_cases.outcomes import Outcome, difference


def outcomes(clone: Path, checker: JsonChecker, notes: Notes) -> Iterator[Outcome]:
    """Of each case below a folder whose answer holds a form that we read."""
    for path in sorted(clone.rglob("PARSER.*.yaml")):
        for name, case in (yaml.safe_load(path.read_text()).get("cases") or {}).items():
            pieces = _pieces(case)
            text = "".join(pieces)
            form = form_of(text)
            expected = _expected(case.get("expected"))
            if form is None or not expected:
                continue
            where = f"{path.parent.name}/{name}"
            declared = [
                Tool(tool["name"], "", json.dumps(tool.get("parameters")) if tool.get("parameters") else None)
                for tool in case.get("tools") or []
            ]
            read = _read(pieces, declared, checker, notes, where)
            kinds = {engine: _difference(read, wanted) for engine, wanted in expected.items()}
            if all(kinds.values()) and (more := _undeclared(declared, text)):
                again = _read(pieces, declared + more, checker, notes, where)
                if not all(_difference(again, wanted) for wanted in expected.values()):
                    yield Outcome(where, form, "a name that was not declared", _shown(text, read, expected))
                    continue
            same = [engine for engine, kind in kinds.items() if kind is None]
            kind = None if same else difference(read, next(iter(kinds.values())) or "", text)
            part = len(same) < len(kinds)
            yield Outcome(where, form, kind, _shown(text, read, expected), as_some=bool(same) and part)


def _pieces(case: dict[str, Any]) -> list[str]:
    if "chunks" not in case:
        return [case.get("model_text") or ""]
    return [piece if isinstance(piece, str) else str(piece.get("delta_text", "")) for piece in case["chunks"]]


def _read(pieces: list[str], tools: list[Tool], checker: JsonChecker, notes: Notes, where: str) -> Read:
    if len(pieces) == 1:
        return read_whole(pieces[0], tools, checker, notes, where)
    return read_pieces(pieces, tools, checker)


def _undeclared(declared: list[Tool], text: str) -> list[Tool]:
    known = {tool.name for tool in declared}
    return [Tool(name, "", None) for name in named_in(text) if name not in known]


def _expected(value: Any) -> dict[str, dict[str, Any]]:
    """By engine. One that fails, or is not there, expects nothing."""
    if not isinstance(value, dict):
        return {}
    engines = {"all": value} if "calls" in value else value
    return {name: each for name, each in engines.items() if isinstance(each, dict) and "calls" in each}


def _difference(read: Read, wanted: dict[str, Any]) -> str | None:
    calls = [(call["name"], _value(call.get("arguments"))) for call in wanted["calls"] or []]
    ours = [(name, _value(arguments)) for name, arguments in read.calls]
    if calls != ours:
        return "types" if _untyped(calls) == _untyped(ours) else "calls"
    # White space around a call is shown by some and not by others.
    return None if _words(read.text) == _words(wanted.get("normal_text") or "") else "text"


def _value(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _untyped(calls: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [
        (name, {key: str(value) for key, value in arguments.items()} if isinstance(arguments, dict) else arguments)
        for name, arguments in calls
    ]


def _words(text: str) -> str:
    return " ".join(text.split())


def _shown(text: str, read: Read, expected: object) -> str:
    return f"answer   {text!r}\nours     {read}\nexpected {expected}"

"""Cases that are test functions in Python, of pytest or unittest: those of vllm-project/vllm and sgl-project/sglang.

Knows how tests are found, parametrised and given their fixtures; ``evaluating`` judges them.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from app.answers.json_checker import JsonChecker
from tests.tool_cases.evaluating import Differs, Evaluator, Function, NotRead, Thing
from tests.tool_cases.ours import Notes, named_in
from tests.tool_cases.outcomes import Outcome, difference

# What a file holds that is of interest.
_MARKS = ("tool_call_begin", "<|open|>", "invoke name=", "<tool_call>")
# Words in an assertion that is about the text beside the calls.
_TEXT = frozenset({"content", "normal_text", "content_str", "content_parts", "other_content", "_collect_content"})


def outcomes(clone: Path, checker: JsonChecker, notes: Notes, unread: Counter[str]) -> Iterator[Outcome]:
    """Of each test in the files of a folder whose answers hold a form that we read. ``unread`` counts the reasons for
    which tests that have such an answer could not be judged."""
    for path in sorted([clone] if clone.is_file() else clone.rglob("test_*.py")):
        source = path.read_text(errors="replace")
        if path.suffix == ".py" and any(mark in source for mark in _MARKS):
            yield from _of_file(path.name, source, checker, notes, unread)


def _of_file(name: str, source: str, checker: JsonChecker, notes: Notes, unread: Counter[str]) -> Iterator[Outcome]:
    module = ast.parse(source)
    evaluator = Evaluator(checker, notes)
    evaluator.load(module)
    for owner, test in _tests(module):
        for number, row in enumerate(_rows(evaluator, test, unread)):
            where = f"{name}::{owner.name + '.' if owner else ''}{test.name}[{number}]"
            differs = _judge(evaluator, owner, test, row, where, unread)
            form = evaluator.form
            if differs is None or form is None:
                continue
            evaluator.end()
            declares = bool(evaluator.tools)
            shown = f"{_shown(evaluator)}\nfails    {differs}"
            if differs:
                # Once more with the functions that the answers name: in pieces, an answer is not known beforehand.
                names = [name for text in evaluator.answers for name in named_in(text)]
                still = _judge(evaluator, owner, test, row, where, Counter(), names)
                if not still and declares:
                    yield Outcome(where, form, "a name that was not declared", shown)
                    continue
                told = sum(len(read.calls) for read in evaluator.reads)
                differs, read = still or "", evaluator.end()
                shown = f"{_shown(evaluator)}\nfails    {differs}"
            if not differs:
                yield Outcome(where, form, "an id" if evaluator.ids_differ else None, shown)
                continue
            if len(read.calls) > told:
                yield Outcome(where, form, "a call in an open section", shown)
                continue
            what = "text" if _TEXT & set(re.findall(r"[a-z_]+", differs.lower())) else "calls"
            yield Outcome(where, form, difference(read, what, "\n".join(evaluator.answers)), shown)


def _tests(module: ast.Module) -> Iterator[tuple[ast.ClassDef | None, ast.FunctionDef]]:
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield None, node
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and each.name.startswith("test"):
                    yield node, each


def _judge(
    evaluator: Evaluator,
    owner: ast.ClassDef | None,
    test: ast.FunctionDef,
    row: dict[str, Any],
    where: str,
    unread: Counter[str],
    names: Sequence[str] = (),
) -> str | None:
    """The assertion that does not hold; empty: all hold; None: the test cannot be judged."""
    evaluator.start(where, names)
    try:
        methods = {each.name: each for each in owner.body if isinstance(each, ast.FunctionDef)} if owner else {}
        this = Thing(**{name: Function(_without_self(each), {}) for name, each in methods.items()})
        scope: dict[str, Any] = {"self": this}
        for function in this.attributes.values():
            function.scope = scope
        if "setUp" in methods:
            evaluator.test(methods["setUp"].body, dict(scope))
        for argument in test.args.args:
            if argument.arg != "self":
                scope[argument.arg] = (
                    row[argument.arg] if argument.arg in row else _fixture(evaluator, scope, argument)
                )
        evaluator.test(test.body, scope)
    except Differs as e:
        return str(e)
    except NotRead as e:
        if evaluator.form is not None:
            unread[str(e)] += 1
        return None
    except (LookupError, TypeError, ValueError, AttributeError) as e:
        # A result that is not there.
        return f"{type(e).__name__}: {e}" if evaluator.reads else None
    return ""


def _without_self(node: ast.FunctionDef) -> ast.FunctionDef:
    arguments = ast.arguments(**{**vars(node.args), "args": [a for a in node.args.args if a.arg != "self"]})
    return ast.FunctionDef(**{**vars(node), "args": arguments})


def _fixture(evaluator: Evaluator, scope: dict[str, Any], argument: ast.arg) -> Any:
    """The value of a fixture. One of another file is a Thing."""
    function = scope["self"].attributes.get(argument.arg) or evaluator.globals.get(argument.arg)
    if not isinstance(function, Function):
        return Thing()
    named = {each.arg: _fixture(evaluator, scope, each) for each in function.node.args.args}
    return evaluator.call(function, (), named)


def _rows(evaluator: Evaluator, test: ast.FunctionDef, unread: Counter[str]) -> Iterator[dict[str, Any]]:
    """The values of ``parametrize``, of one decorator after the other."""
    rows: list[dict[str, Any]] = [{}]
    for decorator in test.decorator_list:
        match decorator:
            case ast.Call(ast.Attribute(attr="parametrize"), [names, values, *_]):
                try:
                    rows = [{**row, **more} for row in rows for more in _parametrized(evaluator, names, values)]
                except (NotRead, LookupError, TypeError, ValueError):
                    unread["parametrized by what is not evaluated"] += 1
                    return
            case _:
                continue
    yield from rows


def _parametrized(evaluator: Evaluator, names: ast.expr, values: ast.expr) -> Iterator[dict[str, Any]]:
    evaluator.start("")
    named = evaluator.value(names, {})
    each_name = [name.strip() for name in named.split(",")] if isinstance(named, str) else list(named)
    parts = values.elts if isinstance(values, ast.List | ast.Tuple) else None
    if parts is None:
        raise NotRead("parametrized by what is not evaluated")
    for part in parts:
        if isinstance(part, ast.Call) and ast.unparse(part.func) == "pytest.param":
            row = [evaluator.value(each, {}) for each in part.args]
        else:
            value = evaluator.value(part, {})
            row = [value] if len(each_name) == 1 else list(value)
        yield dict(zip(each_name, row, strict=True))


def _shown(evaluator: Evaluator) -> str:
    return "\n".join(
        f"answer   {text!r}\nours     {read}" for text, read in zip(evaluator.answers, evaluator.reads, strict=True)
    )

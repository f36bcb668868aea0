"""A small evaluator of test functions in Python: their own assertions are judged on what our reader makes of answers.

Nothing of the other project is run or imported. What a test imports is a ``Thing``, which takes any attribute and any
call. The methods of a parser are ours. What cannot be evaluated raises NotRead: such a test is counted, not judged.
"""

import ast
import contextlib
import json
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from app.answers.json_checker import JsonChecker
from app.chat import Tool
from tests.tool_cases.ours import Notes, Read, Stream, form_of, named_in, read_pieces, read_whole

_MAX_STEPS = 200_000
# A tokenizer is not there: the pieces of a text have so many characters.
_TOKEN_CHARS = 3
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset({"join", "replace", "strip", "lstrip", "rstrip", "split", "splitlines", "startswith", "endswith",
                    "format", "lower", "upper", "count", "find", "index", "isdigit", "encode"}),
    list: frozenset({"append", "extend", "index", "count", "copy", "pop"}),
    dict: frozenset({"get", "items", "keys", "values", "setdefault", "update", "copy", "pop"}),
    set: frozenset({"add"}),
    tuple: frozenset({"index", "count"}),
}  # fmt: skip
_BUILTINS: dict[str, Any] = {
    **{f.__name__: f for f in (len, list, dict, tuple, set, str, int, float, bool, sorted, enumerate, zip, range)},
    **{f.__name__: f for f in (any, all, sum, min, max, repr, reversed, iter, next, abs)},
    "print": lambda *_: None,
}
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Mod: operator.mod,
    ast.FloorDiv: operator.floordiv,
    ast.BitOr: operator.or_,
}
_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_UNITTEST: dict[str, Callable[..., bool]] = {
    "assertEqual": lambda a, b: a == b,
    "assertNotEqual": lambda a, b: a != b,
    "assertIn": lambda a, b: a in b,
    "assertNotIn": lambda a, b: a not in b,
    "assertTrue": bool,
    "assertFalse": lambda a: not a,
    "assertIsNone": lambda a: a is None,
    "assertIsNotNone": lambda a: a is not None,
    "assertIsInstance": isinstance,
    "assertGreater": lambda a, b: a > b,
    "assertGreaterEqual": lambda a, b: a >= b,
    "assertLess": lambda a, b: a < b,
    "assertLessEqual": lambda a, b: a <= b,
}


class NotRead(Exception):
    """The test does something that is not evaluated."""


class Differs(Exception):
    """An assertion does not hold for our result. The text is its source."""


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Thing:
    """Something of the other project, or a part of our result: named attributes; any other one is a Thing, too."""

    def __init__(self, **attributes: Any) -> None:
        self.attributes = attributes
        # The answer that it reads in pieces, of a parser.
        self.stream: Stream | None = None

    def get(self, name: str) -> Any:
        if name not in self.attributes:
            self.attributes[name] = Thing()
        return self.attributes[name]

    def __bool__(self) -> bool:
        raise NotRead("it asks about the other program itself")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        raise NotRead("it asks about the other program itself")

    __hash__ = object.__hash__


class Function:
    """A function of the test's file."""

    def __init__(self, node: ast.FunctionDef, scope: dict[str, Any]) -> None:
        self.node = node
        self.scope = scope


class Evaluator:
    """Evaluates the tests of one file. ``answers`` and ``reads``: what the last test has had read."""

    def __init__(self, checker: JsonChecker, notes: Notes) -> None:
        self._checker = checker
        self._notes = notes
        self.globals: dict[str, Any] = {}
        self.start("")

    def start(self, where: str, names: Sequence[str] = ()) -> None:
        """Before a test. ``names``: functions that are offered whether or not the test declares them."""
        self._where = where
        self._names = names
        # An assertion about ids did not hold. They are ours, so that the test goes on.
        self.ids_differ = False
        self._steps = 0
        self.answers: list[str] = []
        self.reads: list[Read] = []
        self.tools: dict[str, Tool] = {}
        self._streams: list[Stream] = []

    def end(self) -> Read:
        """All that the answers of the test have come to, once those that came in pieces are at their end."""
        for stream in self._streams:
            stream.end()
        self._streams.clear()
        joined = Read()
        for read in self.reads:
            joined.text += read.text
            joined.calls += read.calls
            joined.flaws += read.flaws
            joined.ids += read.ids
        return joined

    def test(self, body: Sequence[ast.stmt], scope: dict[str, Any]) -> None:
        """Runs the body of a test. Raises Differs, NotRead, and what its lookups raise."""
        with contextlib.suppress(_Return):
            self.run(body, scope)

    # Our side

    def _tools(self, text: str) -> list[Tool]:
        # The parsers of some projects are not told what is declared; neither are their tests.
        more = [] if self.tools else named_in(text)
        names = dict.fromkeys(name for name in (*more, *self._names) if name not in self.tools)
        return [*self.tools.values(), *(Tool(name, "", None) for name in names)]

    def _declare(self, value: Any) -> None:
        got = value.get if isinstance(value, dict) else value.attributes.get
        name, schema = got("name"), got("parameters")
        if isinstance(name, str) and isinstance(schema, dict) and schema.get("type") == "object":
            self.tools.setdefault(name, Tool(name, "", json.dumps(schema)))

    def _whole(self, text: Any) -> Read:
        if not isinstance(text, str):
            raise NotRead("the answer is not a text")
        self.answers.append(text)
        read = read_whole(text, self._tools(text), self._checker, self._notes, self._where)
        self.reads.append(read)
        return read

    def _piece(self, parser: Thing, piece: Any) -> tuple[Read, int]:
        """What a piece has brought, and how many calls there were before it."""
        if not isinstance(piece, str):
            raise NotRead("the answer is not a text")
        if parser.stream is None:
            # The whole answer is not known yet.
            parser.stream = Stream(self._tools(""), self._checker)
            self._streams.append(parser.stream)
            self.answers.append("")
            self.reads.append(parser.stream.read)
        self.answers[-1] += piece
        before = len(parser.stream.read.calls)
        return parser.stream.feed(piece), before

    def parse(self, name: str, receiver: Any, args: Sequence[Any], named: dict[str, Any]) -> Any:
        """A call of the parser that a test is about. Raises LookupError: it is none."""

        def argument(at: int, *names: str) -> Any:
            return next((named[each] for each in names if each in named), args[at] if at < len(args) else None)

        match name:
            case "extract_tool_calls":
                read = self._whole(argument(0, "model_output"))
                return Thing(tools_called=bool(read.calls), tool_calls=_calls(read, 0), content=read.text or None)
            case "run_tool_extraction" | "run_tool_extraction_nonstreaming":
                read = self._whole(argument(1, "model_output"))
                if name.endswith("nonstreaming"):
                    return Thing(tools_called=bool(read.calls), tool_calls=_calls(read, 0), content=read.text or None)
                return (read.text or None, _calls(read, 0))
            case "run_tool_extraction_streaming":
                pieces = argument(1, "model_deltas")
                if isinstance(pieces, str):
                    pieces = _tokens(pieces)
                if not all(isinstance(piece, str) for piece in pieces):
                    raise NotRead("the answer is not a text")
                text = "".join(pieces)
                self.answers.append(text)
                read = read_pieces(pieces, self._tools(text), self._checker)
                self.reads.append(read)
                return Thing(other_content=read.text, tool_calls=_calls(read, 0))
            case "extract_tool_calls_streaming":
                read, before = self._piece(receiver, argument(2, "delta_text"))
                if not (read.text or read.calls):
                    return None
                return Thing(content=read.text or None, tool_calls=_calls(read, before))
            case "detect_and_parse":
                read = self._whole(argument(0, "text"))
                return Thing(normal_text=read.text, calls=_calls(read, 0))
            case "parse_streaming_increment":
                read, before = self._piece(receiver, argument(0, "new_text"))
                return Thing(normal_text=read.text, calls=_calls(read, before))
            case "encode":
                return _tokens(argument(0, "text"))
            case "decode":
                return "".join(argument(0, "token_ids"))
        raise LookupError(name)

    # Statements

    def load(self, module: ast.Module) -> None:
        """The names of a file. Those whose value cannot be evaluated are Things."""
        for node in module.body:
            match node:
                case ast.FunctionDef():
                    self.globals[node.name] = Function(node, self.globals)
                case ast.Assign():
                    try:
                        self.execute(node, self.globals)
                    except (NotRead, Differs, TypeError, ValueError, LookupError, AttributeError):
                        continue
                case _:
                    continue

    def run(self, body: Sequence[ast.stmt], scope: dict[str, Any]) -> None:
        for node in body:
            self.execute(node, scope)

    def execute(self, node: ast.stmt, scope: dict[str, Any]) -> None:
        self._count()
        match node:
            case ast.Expr(value):
                self.value(value, scope)
            case ast.Assign(targets, value):
                got = self.value(value, scope)
                for target in targets:
                    self._assign(target, got, scope)
            case ast.AnnAssign(target, _, value):
                if value is not None:
                    self._assign(target, self.value(value, scope), scope)
            case ast.AugAssign(target, op, value):
                old = self.value(ast.copy_location(_as_load(target), target), scope)
                self._assign(target, self._binary(op, old, self.value(value, scope)), scope)
            case ast.Assert(test):
                if not self._holds(test, scope):
                    self._differ(ast.unparse(test))
            case ast.If(test, body, orelse):
                self.run(body if self.value(test, scope) else orelse, scope)
            case ast.For(target, iterable, body):
                for each in self._iterate(self.value(iterable, scope)):
                    self._assign(target, each, scope)
                    if not self._goes_on(body, scope):
                        break
            case ast.While(test, body):
                while self.value(test, scope) and self._goes_on(body, scope):
                    self._count()
            case ast.Return(value):
                raise _Return(None if value is None else self.value(value, scope))
            case ast.With(items, body) if all("subTest" in ast.unparse(item.context_expr) for item in items):
                self.run(body, scope)
            case ast.FunctionDef():
                scope[node.name] = Function(node, scope)
            case ast.ClassDef():
                scope[node.name] = Thing()
            case ast.ImportFrom(names=names) | ast.Import(names=names):
                for alias in names:
                    scope[alias.asname or alias.name] = Thing()
            case ast.Pass():
                pass
            case ast.Break():
                raise _Break
            case ast.Continue():
                raise _Continue
            case _:
                raise NotRead(f"a statement that is not evaluated: {type(node).__name__}")

    def _goes_on(self, body: Sequence[ast.stmt], scope: dict[str, Any]) -> bool:
        """Runs the body of a loop once. False: it breaks off."""
        try:
            self.run(body, scope)
        except _Break:
            return False
        except _Continue:
            pass
        return True

    def _holds(self, test: ast.expr, scope: dict[str, Any]) -> bool:
        try:
            return bool(self.value(test, scope))
        except (LookupError, TypeError, ValueError) as e:
            # There are fewer calls than are asked for, for example.
            raise Differs(ast.unparse(test)) from e

    def _differ(self, assertion: str) -> None:
        if not _IDS & set(re.findall(r"[a-z_]+", assertion.lower())):
            raise Differs(assertion)
        self.ids_differ = True

    def _assign(self, target: ast.expr, value: Any, scope: dict[str, Any]) -> None:
        match target:
            case ast.Name(name):
                scope[name] = value
            case ast.Tuple(parts) | ast.List(parts):
                for part, each in zip(parts, list(self._iterate(value)), strict=True):
                    self._assign(part, each, scope)
            case ast.Subscript(of, at):
                self.value(of, scope)[self.value(at, scope)] = value
            case ast.Attribute(of, name):
                owner = self.value(of, scope)
                if not isinstance(owner, Thing):
                    raise NotRead("it sets an attribute")
                owner.attributes[name] = value
                self._declare(owner)
            case _:
                raise NotRead("an assignment that is not evaluated")

    # Expressions

    def value(self, node: ast.expr, scope: dict[str, Any]) -> Any:
        self._count()
        match node:
            case ast.Constant(value):
                return value
            case ast.Name(name):
                return self._name(name, scope)
            case ast.JoinedStr(parts):
                return "".join(str(self._formatted(part, scope)) for part in parts)
            case ast.Tuple(parts):
                return tuple(self._parts(parts, scope))
            case ast.List(parts):
                return self._parts(parts, scope)
            case ast.Set(parts):
                return set(self._parts(parts, scope))
            case ast.Dict(keys, values):
                made: dict[Any, Any] = {}
                for key, each in zip(keys, values, strict=True):
                    if key is None:
                        made.update(self.value(each, scope))
                    else:
                        made[self.value(key, scope)] = self.value(each, scope)
                self._declare(made)
                return made
            case ast.BinOp(left, op, right):
                return self._binary(op, self.value(left, scope), self.value(right, scope))
            case ast.BoolOp(op, parts):
                result: Any = None
                for part in parts:
                    result = self.value(part, scope)
                    if bool(result) is isinstance(op, ast.Or):
                        return result
                return result
            case ast.UnaryOp(op, operand):
                got = self.value(operand, scope)
                return not got if isinstance(op, ast.Not) else -got if isinstance(op, ast.USub) else got
            case ast.IfExp(test, body, orelse):
                return self.value(body if self.value(test, scope) else orelse, scope)
            case ast.Compare(left, ops, others):
                return self._compare(self.value(left, scope), ops, others, scope)
            case ast.Subscript(of, at):
                owner = self.value(of, scope)
                key = self.value(at, scope)
                return Thing() if isinstance(owner, Thing) or isinstance(key, Thing) else owner[key]
            case ast.Slice(lower, upper, step):
                return slice(*(None if part is None else self.value(part, scope) for part in (lower, upper, step)))
            case ast.Attribute(of, name):
                return self._attribute(self.value(of, scope), name)
            case ast.ListComp(element, generators) | ast.GeneratorExp(element, generators):
                return list(self._comprehended(element, generators, scope))
            case ast.SetComp(element, generators):
                return set(self._comprehended(element, generators, scope))
            case ast.DictComp(key, value, generators):
                pair = ast.Tuple([key, value], ast.Load())
                return dict(self._comprehended(pair, generators, scope))
            case ast.Call():
                return self._call(node, scope)
            case _:
                raise NotRead(f"an expression that is not evaluated: {type(node).__name__}")

    def _name(self, name: str, scope: dict[str, Any]) -> Any:
        for names in (scope, self.globals, _BUILTINS):
            if name in names:
                return names[name]
        return scope.setdefault(name, Thing())

    def _formatted(self, part: ast.expr, scope: dict[str, Any]) -> Any:
        if not isinstance(part, ast.FormattedValue):
            return self.value(part, scope)
        got = self.value(part.value, scope)
        if isinstance(got, Thing) or part.format_spec is not None:
            raise NotRead("a text that is not evaluated")
        return repr(got) if part.conversion == ord("r") else got

    def _parts(self, parts: Sequence[ast.expr], scope: dict[str, Any]) -> list[Any]:
        made: list[Any] = []
        for part in parts:
            if isinstance(part, ast.Starred):
                made += self._iterate(self.value(part.value, scope))
            else:
                made.append(self.value(part, scope))
        return made

    def _binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        if type(op) not in _BINARY:
            raise NotRead("an operation that is not evaluated")
        if isinstance(left, Thing) or isinstance(right, Thing):
            raise NotRead("it computes with values of the other program")
        return _BINARY[type(op)](left, right)

    def _compare(
        self, left: Any, ops: Sequence[ast.cmpop], others: Sequence[ast.expr], scope: dict[str, Any]
    ) -> bool:
        for op, other in zip(ops, others, strict=True):
            right = self.value(other, scope)
            if isinstance(left, Thing) and isinstance(op, ast.Is | ast.IsNot) and right is not None:
                raise NotRead("it asks about the other program itself")
            if not _COMPARE[type(op)](left, right):
                return False
            left = right
        return True

    def _attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, Thing):
            return owner.get(name)
        if name in _METHODS.get(type(owner), ()):
            return getattr(owner, name)
        raise NotRead(f"an attribute that is not evaluated: {name}")

    def _iterate(self, value: Any) -> Any:
        if isinstance(value, Thing):
            raise NotRead("it goes through values of the other program")
        return value

    def _comprehended(self, element: ast.expr, generators: Sequence[ast.comprehension], scope: dict[str, Any]) -> Any:
        first, rest = generators[0], generators[1:]
        inner = dict(scope)
        for each in self._iterate(self.value(first.iter, scope)):
            self._assign(first.target, each, inner)
            if all(self.value(condition, inner) for condition in first.ifs):
                if rest:
                    yield from self._comprehended(element, rest, inner)
                else:
                    yield self.value(element, inner)

    def _call(self, node: ast.Call, scope: dict[str, Any]) -> Any:
        receiver: Any = None
        name = ""
        if isinstance(node.func, ast.Attribute):
            receiver, name = self.value(node.func.value, scope), node.func.attr
        elif isinstance(node.func, ast.Name):
            name = node.func.id
        args = self._parts(node.args, scope)
        named = {keyword.arg: self.value(keyword.value, scope) for keyword in node.keywords if keyword.arg}
        if ast.unparse(node.func) in ("json.loads", "json.dumps"):
            if isinstance(args[0], Thing):
                raise NotRead("it asks about the other program itself")
            return json.loads(args[0]) if name == "loads" else json.dumps(args[0], **named)
        if name == "isinstance":
            return not isinstance(args[1], Thing) and isinstance(args[0], args[1])
        if name in _UNITTEST and isinstance(receiver, Thing):
            if not _UNITTEST[name](*args[: 1 if name in _ONE_ARGUMENT else 2]):
                self._differ(ast.unparse(node))
            return None
        if isinstance(receiver, Thing) or name not in self.globals:
            try:
                return self.parse(name, receiver, args, named)
            except LookupError as e:
                if e.args != (name,):
                    raise
        function = self._attribute(receiver, name) if receiver is not None else self.value(node.func, scope)
        if isinstance(function, Function):
            return self.call(function, args, named)
        if isinstance(function, Thing):
            made = Thing(**named)
            self._declare(made)
            return made
        return function(*args, **named)

    def call(self, function: Function, args: Sequence[Any], named: dict[str, Any]) -> Any:
        node = function.node
        scope = dict(function.scope) if function.scope is not self.globals else {}
        names = [argument.arg for argument in node.args.args]
        defaults = node.args.defaults
        for name, default in zip(names[len(names) - len(defaults) :], defaults, strict=True):
            scope[name] = self.value(default, function.scope)
        for argument, kw_default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
            if kw_default is not None:
                scope[argument.arg] = self.value(kw_default, function.scope)
        scope.update(zip(names, args, strict=False))
        if node.args.vararg is not None:
            scope[node.args.vararg.arg] = tuple(args[len(names) :])
        scope.update(named)
        try:
            self.run(node.body, scope)
        except _Return as e:
            return e.value
        return None

    def _count(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise NotRead("it takes too many steps")

    @property
    def form(self) -> str | None:
        """Of the answers of the test."""
        return next((form for text in self.answers if (form := form_of(text))), None)


# Words in an assertion about ids.
_IDS = frozenset({"id", "ids", "kimi_expected_ids", "tool_id"})
_ONE_ARGUMENT = frozenset({"assertTrue", "assertFalse", "assertIsNone", "assertIsNotNone"})


def _as_load(target: ast.expr) -> ast.expr:
    match target:
        case ast.Name(name):
            return ast.Name(name, ast.Load())
        case ast.Subscript(of, at):
            return ast.Subscript(of, at, ast.Load())
        case ast.Attribute(of, name):
            return ast.Attribute(of, name, ast.Load())
    raise NotRead("an assignment that is not evaluated")


def _tokens(text: Any) -> list[str]:
    if not isinstance(text, str):
        raise NotRead("the answer is not a text")
    return [text[at : at + _TOKEN_CHARS] for at in range(0, len(text), _TOKEN_CHARS)]


def _calls(read: Read, first: int) -> list[Thing]:
    """In the shapes of vllm and sglang at once."""
    return [
        Thing(
            id=call_id,
            type="function",
            index=first + at,
            tool_index=first + at,
            name=name,
            parameters=arguments,
            arguments=arguments,
            function=Thing(name=name, arguments=arguments),
        )
        for at, (call_id, (name, arguments)) in enumerate(zip(read.ids, read.calls, strict=True))
    ]

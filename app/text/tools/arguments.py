"""From what stands in a call to its arguments: repairs of JSON, then of types, each with a limit.

The JSON is repaired in few steps that never delete or invent anything within a string, and never close a string. A
value is changed only where the function's JSON Schema says that it is wrong, and only if it is right afterwards; so
nothing is guessed. Schemas come from clients and texts from a model: ``answers.json_checker`` runs this in a process
of its own, with limits.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from app.text.citation_markers import without_certain_markers
from app.text.json_validation import (
    SURROGATE_OR_ESCAPE,
    compile_schema,
    describe_error,
    without_lone_surrogates,
)
from app.text.tools.foreign import ARGUMENT_KEYS, NAME_KEYS
from app.text.tools.free_text import FENCED

# How many brackets that are missing at the end are added.
_MAX_CLOSERS = 8
# How many places that the schema names are looked at.
_MAX_PLACES = 20
_MAX_MESSAGE_CHARS = 2000


def check_call(
    body: str, values: Sequence[tuple[str, str]], schema: str | None, names: Sequence[str], closed: bool
) -> dict[str, Any]:
    """The arguments of one call of a function.

    ``body``: the text between heading and end mark. ``values``: the long texts that stand outside of the JSON, each
    (key, text). ``schema``: of the arguments; None: it is not looked at. ``names``: how the function is called.
    ``closed``: the end mark was there, so that missing brackets may be added.

    ``{"arguments": [JSON text, …], "mended": bool, "retyped": bool, "problem": None or {"rule", "message"}}``: mostly
    one; several where one text held several calls. ``problem``: what the schema says about the first one.
    ``{"flaw": message}`` where it is no JSON object.
    """
    parsed = _parse(body, closed)
    if isinstance(parsed, str):
        return {"flaw": parsed}
    judge = None if schema is None else _judge(schema, body)
    declared = _properties(schema)
    unwrapped = _unwrap(parsed, names, declared)
    found: list[str] = []
    mended, retyped = parsed.mended or unwrapped is not None, False
    problem: dict[str, str] | None = None
    for one in unwrapped or [parsed]:
        if not isinstance(one.value, dict):
            return {"flaw": "the arguments are not a JSON object"}
        one = _without_markers(one)
        mended = mended or one.mended
        merged = _with_values(one, values, judge)
        if isinstance(merged, str):
            return {"flaw": merged}
        typed = merged if judge is None else _retyped(merged, judge, declared)
        retyped = retyped or typed is not merged
        found.append(typed.text)
        if judge is not None and problem is None:
            problem = judge.problem(typed.value)
    return {"arguments": found, "mended": mended, "retyped": retyped, "problem": problem}


@dataclass(frozen=True, slots=True)
class _Json:
    """A value, and the JSON that it was written as."""

    value: Any
    text: str
    mended: bool = False


# JSON


def _parse(body: str, closed: bool) -> _Json | str:
    """The value that ``body`` is meant to be, or what is wrong with it."""
    text = body.strip() or "{}"
    parsed = _loads(text)
    if not isinstance(parsed, str):
        return _unquoted(parsed)
    problem = parsed
    for step in (_without_decoration, _with_escapes, _with_json_literals):
        text = step(text)
        parsed = _loads(text)
        if not isinstance(parsed, str):
            return _unquoted(_Json(parsed.value, parsed.text, True))
    if closed and (text_closed := _with_closers(text)) is not None:
        parsed = _loads(text_closed)
        if not isinstance(parsed, str):
            return _Json(parsed.value, parsed.text, True)
    return problem


def _loads(text: str) -> _Json | str:
    try:
        return _Json(_DECODER.decode(text), text)
    except json.JSONDecodeError as e:
        return f"not JSON: {e.msg}, at position {e.pos}"
    except (ValueError, RecursionError):
        return "not JSON: it is nested too deep, or holds a number that is none"


def _unquoted(parsed: _Json) -> _Json | str:
    """Where the whole text is a string that holds a JSON object: that object."""
    if not isinstance(parsed.value, str):
        return parsed
    inner = parsed.value.strip()
    if not inner.startswith("{"):
        return "not a JSON object, but text"
    found = _loads(inner)
    if isinstance(found, str):
        return found
    return _Json(found.value, found.text, True)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)

# One string of JSON, also with line breaks in it; or what is not closed, to the end of the text.
_STRING = r'"(?:[^"\\]|\\.)*+"'
_OPEN_STRING = r'"(?:[^"\\]|\\.)*+\Z'
_COMMENTS = re.compile(rf"({_STRING}|{_OPEN_STRING})|//[^\n]*", re.DOTALL)
_COMMAS = re.compile(rf"({_STRING}|{_OPEN_STRING})|,(?=\s*[}}\]])", re.DOTALL)


def _without_decoration(text: str) -> str:
    """Without a code fence, comments at the end of lines, commas before a closing bracket."""
    fenced = FENCED.match(text)
    if fenced is not None:
        text = fenced[2]
    if text.endswith("```"):
        text = text.removesuffix("```").rstrip()
    text = _COMMENTS.sub(lambda found: found[1] or "", text)
    return _COMMAS.sub(lambda found: found[1] or "", text).strip()


_STRINGS = re.compile(_STRING, re.DOTALL)
_IN_STRING = re.compile(r'\\(u[0-9a-fA-F]{4}|["\\/bfnrt])|\\(.)|([\x00-\x1f])', re.DOTALL)
_CONTROLS = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def _with_escapes(text: str) -> str:
    """With line breaks in strings escaped, and with the escapes that JSON does not have read as what they show."""
    return _STRINGS.sub(lambda found: _IN_STRING.sub(_escaped, found.group()), text)


def _escaped(found: re.Match[str]) -> str:
    if found[1] is not None:
        return found.group()
    if found[2] is not None:
        after = found[2]
        if after == "'":
            return after
        return "\\\\" + (after if after > "\x1f" else _escaped_control(after))
    return _escaped_control(found[3])


def _escaped_control(character: str) -> str:
    return _CONTROLS.get(character) or f"\\u{ord(character):04x}"


_PYTHON = re.compile(
    rf"({_STRING}|{_OPEN_STRING})|'((?:[^'\\]|\\.)*+)'|[“”]((?:[^“”\\]|\\.)*+)[“”]|\b(True|False|None)\b", re.DOTALL
)
_LITERALS = {"True": "true", "False": "false", "None": "null"}


def _with_json_literals(text: str) -> str:
    """With double quotes around strings that have others, and JSON's words for Python's constants."""

    def replaced(found: re.Match[str]) -> str:
        if found[1] is not None:
            return found[1]
        if found[4] is not None:
            return _LITERALS[found[4]]
        inside = found[2] if found[2] is not None else found[3]
        quoted = '"' + re.sub(r'\\.|"', lambda part: '\\"' if part.group() == '"' else part.group(), inside) + '"'
        return _with_escapes(quoted)

    return _PYTHON.sub(replaced, text)


def _with_closers(text: str) -> str | None:
    """With the brackets that are missing at the end; None where a string is not closed, or too many are missing."""
    open_brackets: list[str] = []
    for found in re.finditer(rf"{_STRING}|(?P<open_string>{_OPEN_STRING})|[{{}}\[\]]", text, re.DOTALL):
        match found.group():
            case "{":
                open_brackets.append("}")
            case "[":
                open_brackets.append("]")
            case "}" | "]" as bracket:
                if not open_brackets or open_brackets.pop() != bracket:
                    return None
            case _ if found["open_string"] is not None:
                return None
    return text + "".join(reversed(open_brackets)) if 0 < len(open_brackets) <= _MAX_CLOSERS else None


def _unwrap(parsed: _Json, names: Sequence[str], declared: set[str]) -> list[_Json] | None:
    """The arguments out of ``{"name": …, "arguments": …}``, or out of a list of such; None where it is none."""
    wrapped = parsed.value if isinstance(parsed.value, list) else [parsed.value]
    if not wrapped or not all(isinstance(one, dict) for one in wrapped):
        return None
    found = []
    for one in wrapped:
        name_key = next((key for key in NAME_KEYS if one.get(key) in names), None)
        key = next((key for key in ARGUMENT_KEYS if key in one), None)
        known = {*NAME_KEYS, *ARGUMENT_KEYS, "type", "id"}
        if name_key is None or key is None or not set(one) <= known or declared & {name_key, key}:
            return None
        inner = one[key]
        if isinstance(inner, str):
            inner_json = _loads(inner)
            if isinstance(inner_json, str):
                return None
            inner = inner_json.value
        found.append(_Json(inner, _dumps(inner), True))
    return found


def _with_values(arguments: _Json, values: Sequence[tuple[str, str]], judge: "_Judge | None") -> _Json | str:
    """With the texts that stand outside of the JSON. One takes the place of what is absent, null or empty."""
    if not values:
        return arguments
    merged = dict(arguments.value)
    for key, text in values:
        if merged.get(key) not in (None, "", [], {}):
            return f"the argument {json.dumps(key, ensure_ascii=False)} is given twice"
        merged[key] = text
        if judge is not None and judge.fails_at(merged, [key]):
            # A text is not what belongs here: it may be JSON.
            with contextlib.suppress(ValueError, RecursionError):
                merged[key] = _DECODER.decode(text)
            if judge.fails_at(merged, [key]):
                merged[key] = text
    return _Json(merged, _dumps(merged), arguments.mended)


def _without_markers(arguments: _Json) -> _Json:
    """Without the citation markers that Kimi's search puts into any text."""
    cleaned = without_certain_markers(arguments.text)
    if cleaned == arguments.text:
        return arguments
    parsed = _loads(cleaned)
    return arguments if isinstance(parsed, str) else _Json(parsed.value, parsed.text, True)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# Types


class _Judge:
    """What a schema says about values."""

    def __init__(self, validator: jsonschema_rs.Validator, *, has_surrogates: bool) -> None:
        self._validator = validator
        self._has_surrogates = has_surrogates

    def errors(self, value: Any) -> Iterator[jsonschema_rs.ValidationError]:
        try:
            yield from self._validator.iter_errors(without_lone_surrogates(value) if self._has_surrogates else value)
        except ValueError:
            # It is nested too deep to be judged.
            return

    def is_valid(self, value: Any) -> bool:
        return next(self.errors(value), None) is None

    def fails_at(self, value: Any, place: list[Any]) -> bool:
        """Whether something is wrong with what stands at this place."""
        return any(list(error.instance_path)[: len(place)] == place for error in self.errors(value))

    def problem(self, value: Any) -> dict[str, str] | None:
        error = next(self.errors(value), None)
        if error is None:
            return None
        return {"rule": error.kind.name, "message": describe_error(error)[:_MAX_MESSAGE_CHARS]}


def _judge(schema: str, body: str) -> _Judge | None:
    """None where the schema cannot be used: then the arguments pass without being judged."""
    try:
        return _Judge(compile_schema(schema), has_surrogates=SURROGATE_OR_ESCAPE.search(body) is not None)
    except (jsonschema_rs.ValidationError, ValueError):
        return None


def _properties(schema: str | None) -> set[str]:
    return set(_schema_properties(_loaded(schema)))


def _loaded(schema: str | None) -> Any:
    if schema is None:
        return None
    try:
        return json.loads(schema)
    except (ValueError, RecursionError):
        return None


def _schema_properties(schema: Any) -> dict[str, Any]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}


def _retyped(arguments: _Json, judge: _Judge, declared: set[str]) -> _Json:
    """With values of the right types, if that makes the whole valid; else as it was."""
    if judge.is_valid(arguments.value):
        return arguments
    # A copy, and the numbers as they were written.
    value, written = json.loads(arguments.text), json.loads(arguments.text, parse_int=_Number, parse_float=_Number)
    seen: set[str] = set()
    for _ in range(_MAX_PLACES):
        error = next((error for error in judge.errors(value) if _key(error) not in seen), None)
        if error is None:
            break
        seen.add(_key(error))
        place = list(error.instance_path)
        if error.kind.name in ("required", "additionalProperties", "unevaluatedProperties"):
            _rename(_at(value, place), error, declared if not place else set())
            continue
        for change, undo in _changes(value, written, place):
            change()
            if not judge.fails_at(value, place):
                break
            undo()
    return _Json(value, _dumps(value), arguments.mended) if judge.is_valid(value) else arguments


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def _key(error: jsonschema_rs.ValidationError) -> str:
    return f"{list(error.instance_path)} {list(error.schema_path)} {getattr(error.kind, 'property', '')}"


_Change = tuple[Callable[[], None], Callable[[], None]]


def _changes(root: Any, written: Any, place: list[Any]) -> Iterator[_Change]:
    """Other values for one place, each as a function that sets it and one that takes it back."""
    if not place:
        return
    parent, key = _at(root, place[:-1]), place[-1]
    old = parent[key]

    def set_to(new: Any) -> _Change:
        return (lambda: parent.__setitem__(key, new)), (lambda: parent.__setitem__(key, old))

    if isinstance(old, str):
        with contextlib.suppress(ValueError, RecursionError):
            new = _DECODER.decode(old)
            if not isinstance(new, str):
                yield set_to(new)
    elif isinstance(old, bool):
        yield set_to("true" if old else "false")
    elif isinstance(old, int | float):
        yield set_to(_number_at(written, place) or json.dumps(old))
        if isinstance(old, float) and old.is_integer():
            yield set_to(int(old))
    if not isinstance(old, list):
        yield set_to([old])
    if old is None and isinstance(parent, dict):
        items = list(parent.items())

        def put_back() -> None:
            parent.clear()
            parent.update(items)

        yield (lambda: parent.__delitem__(key)), put_back


def _number_at(written: Any, place: list[Any]) -> str | None:
    """The number as it was written; None where it has moved since."""
    try:
        number = _at(written, place)
    except (KeyError, IndexError, TypeError):
        return None
    return str(number) if isinstance(number, _Number) else None


def _rename(here: Any, error: jsonschema_rs.ValidationError, declared: set[str]) -> None:
    """Gives arguments that are not declared the name of the one that is, is absent, and differs from theirs by case,
    hyphens and underscores only. ``declared``: the names at this place, where they are known."""
    if not isinstance(here, dict):
        return
    missing = {getattr(error.kind, "property", "")} if error.kind.name == "required" else set[str]()
    targets: dict[str, list[str]] = {}
    for name in (missing | declared) - set(here):
        targets.setdefault(_simplified(name), []).append(name)
    renamed: dict[str, Any] = {}
    for name, value in here.items():
        fitting = targets.pop(_simplified(name), []) if name not in declared else []
        renamed[fitting[0] if len(fitting) == 1 else name] = value
    here.clear()
    here.update(renamed)


def _at(root: Any, place: Sequence[Any]) -> Any:
    for step in place:
        root = root[step]
    return root


def _simplified(name: str) -> str:
    return re.sub("[-_]", "", name).lower()

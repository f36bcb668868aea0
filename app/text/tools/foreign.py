"""Calls in the forms that Kimi falls into by itself, because it was trained on them.

    k2         <|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}
               <|tool_call_end|><|tool_calls_section_end|>; also "section" in the singular, and without a section
    k3         <|open|>tools<|sep|><|open|>call tool="NAME" index="1"<|sep|>
               <|open|>argument key="k" type="string"<|sep|>v<|close|>argument<|sep|>
               <|close|>call<|sep|><|close|>tools<|sep|>; also one element "json" in place of the arguments.
               Words stand in <|open|>response<|sep|>…<|close|>response<|sep|>
    hermes     <tool_call>{"name": …, "arguments": {…}}</tool_call>, also <function_call>
    invoke     <invoke name="NAME"><parameter name="k">v</parameter></invoke>, with or without a wrapper, also with
               "DSML" between bars in the tags
    functions  functions.NAME:0 on a line of its own, then a JSON object

Sources: MoonshotAI/Kimi-K2 (its guidance on tool calls), reports of leaked markup (kimi-protocol-2.md 4.4, 2026-11).
These forms hold no code, so anything that Kimi quotes may look like one: who reads them decides whether they count.
Knows no function that was declared.
"""

import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from app.text.pieces import MORE, More

Form = Literal["k2", "k3", "hermes", "invoke", "functions"]

# A call that is longer is no call.
MAX_CHARS = 256 * 1024

_BARS = "[|｜]"
_DSML = rf"{_BARS}{{1,2}}DSML{_BARS}{{1,2}}"

_INVOKE_WORDS = ("invoke ", "function_calls>", "tool_calls>")

# What a call begins with. Those of the first kind are special tokens: nobody writes them in a sentence.
_TOKEN_OPENERS: dict[str, Form] = {
    "<|tool_calls_section_begin|>": "k2",
    "<|tool_call_section_begin|>": "k2",
    "<|tool_call_begin|>": "k2",
    "<|open|>tools<|sep|>": "k3",
    "<|open|>call ": "k3",
    **{
        f"<{bars}{word}": "invoke"
        for bars in ("｜DSML｜", "｜｜DSML｜｜", "|DSML|", "||DSML||")
        for word in _INVOKE_WORDS
    },
}
_OPENERS: dict[str, Form] = {
    **_TOKEN_OPENERS,
    "<tool_call>": "hermes",
    "<tool_call ": "hermes",
    "<function_call>": "hermes",
    **{f"<{word}": "invoke" for word in _INVOKE_WORDS},
}
_TOKEN_OPENER = re.compile("|".join(map(re.escape, _TOKEN_OPENERS)))
_OPENER = re.compile("|".join(map(re.escape, _OPENERS)))
_MAX_OPENER_CHARS = max(map(len, _OPENERS))
_FUNCTIONS = re.compile(r"functions\.[^\s:\[\]<>]{1,128}:[0-9]{1,4}[ \t]*\n?[ \t]*\{")
# Each beginning of that: as far as the text goes.
_FUNCTIONS_START = re.compile(r"functions\.(?:[^\s:\[\]<>]{1,128}(?::(?:[0-9]{1,4}[ \t]*\n?[ \t]*)?)?)?")
_FUNCTIONS_WORD = "functions."


def opener(text: str, at: int, *, in_line: bool, final: bool) -> Form | More | None:
    """The form of the call that begins at ``at``. ``in_line``: other text stands before it in its line."""
    found = (_TOKEN_OPENER if in_line else _OPENER).match(text, at)
    if found is not None:
        return _OPENERS[found.group()]
    rest = text[at : at + _MAX_OPENER_CHARS]
    if rest.startswith("<") and len(rest) < _MAX_OPENER_CHARS and not final:
        openers = _TOKEN_OPENERS if in_line else _OPENERS
        return MORE if any(opening.startswith(rest) for opening in openers) else None
    if in_line or not (rest.startswith(_FUNCTIONS_WORD) or _FUNCTIONS_WORD.startswith(rest)):
        return None
    if _FUNCTIONS.match(text, at):
        return "functions"
    if final:
        return None
    start = _FUNCTIONS_START.match(text, at)
    reaches_the_end = _FUNCTIONS_WORD.startswith(rest) if start is None else start.end() == len(text)
    return MORE if reaches_the_end and len(text) - at < 200 else None


# K3 writes the words of an answer into an element of their own.
_FRAMES = ("<|open|>response<|sep|>", "<|close|>response<|sep|>")


def frame_end(text: str, at: int, *, final: bool) -> int | More | None:
    """Where the mark of K3 around its words ends that begins at ``at``. None: there is none."""
    for frame in _FRAMES:
        if text.startswith(frame, at):
            return at + len(frame)
        if not final and len(text) - at < len(frame) and frame.startswith(text[at:]):
            return MORE
    return None


@dataclass(frozen=True, slots=True)
class ForeignCall:
    """A call in a form of its own."""

    name: str
    # JSON text, maybe flawed.
    arguments: str
    # Its own end mark was there.
    closed: bool


class ForeignScan:
    """The text of calls in one form, piece by piece, up to their end. Linear in the length of the text."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self._parts: list[str] = []
        self._length = 0
        # The end of what came before, in which an end mark may begin.
        self._tail = ""
        self._json = JsonScan() if form == "functions" else None
        self._ends: re.Pattern[str] | None = None
        # Marks that turned out not to be the end: they stood in an argument.
        self._tries = 0

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def is_too_long(self) -> bool:
        return self._length > MAX_CHARS

    def feed(self, text: str, at: int) -> int | None:
        """Where in ``text`` the calls end; None: not in it, and all of it was taken."""
        if self._json is not None:
            end = self._json.feed(text, at)
            self._take(text[at : len(text) if end is None else end])
            return end
        if self._ends is None:
            self._ends = self._end_marks(text, at)
        window = self._tail + text[at:]
        # What a mark must reach into to be a new one.
        known, start = len(self._tail), 0
        taken = at
        while mark := self._ends.search(window, start):
            start = mark.end()
            if mark.end() <= known:
                continue
            end = at + mark.end() - known
            self._take(text[taken:end])
            taken = end
            self._tries += 1
            if self._tries >= _MAX_TRIES or self._is_complete():
                return end
        self._take(text[taken:])
        self._tail = window[-_MAX_MARK_CHARS:]
        return None

    def calls(self) -> list[ForeignCall]:
        """Those that were recognised so far, in order."""
        return list(_PARSERS[self.form](self.text))

    def _take(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    def _is_complete(self) -> bool:
        """Whether the end mark is one, and does not stand in an argument."""
        found = self.calls()
        return bool(found) and (self.form in ("k3", "invoke") or _is_json(found[-1].arguments))

    def _end_marks(self, text: str, at: int) -> re.Pattern[str]:
        start = text[at : at + 40]
        match self.form:
            case "k2":
                return _K2_SECTION_END if "section" in start else _K2_CALL_END
            case "k3":
                return _K3_END if start.startswith("<|open|>tools") else _K3_CALL_END
            case "hermes":
                return _HERMES_END
            case _:
                is_wrapped = not re.match(rf"<(?:{_DSML})?invoke", start)
                return _INVOKES_END if is_wrapped else _INVOKE_END


# How many end marks are looked at, and the longest of them.
_MAX_TRIES = 20
_MAX_MARK_CHARS = 40
_K2_SECTION_END = re.compile(r"<\|tool_calls?_section_end\|>")
_K2_CALL_END = re.compile(r"<\|tool_call_end\|>|<\|tool_calls?_section_end\|>")
_K3_END = re.compile(r"<\|close\|>tools<\|sep\|>")
_K3_CALL_END = re.compile(r"<\|close\|>call<\|sep\|>")
_HERMES_END = re.compile(r"</(?:tool|function)_call>")
_INVOKE_END = re.compile(rf"</(?:{_DSML})?invoke>")
_INVOKES_END = re.compile(rf"</(?:{_DSML})?(?:function|tool)_calls>")


class JsonScan:
    """Follows a JSON object or list that comes in pieces to its last bracket. Does not check it."""

    __slots__ = ("_depth", "_escaped", "_in_string")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str, at: int, stop: int | None = None) -> int | None:
        """Where in ``text`` the value ends; None: not before ``stop``."""
        stop = len(text) if stop is None else stop
        if self._escaped and at < stop:
            self._escaped = False
            at += 1
        while True:
            found = (_IN_STRING if self._in_string else _OUTSIDE).search(text, at, stop)
            if found is None:
                return None
            at = found.end()
            match found.group():
                case '"':
                    self._in_string = not self._in_string
                case "\\":
                    if at == stop:
                        self._escaped = True
                        return None
                    at += 1
                case "{" | "[":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if self._depth <= 0:
                        return at


_IN_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]]')


_K2_CALL = re.compile(
    r"<\|tool_call_begin\|>\s*(?:functions\.)?(?P<name>[^<{}\s]{1,160}?)(?::[0-9]{1,5})?\s*"
    r"(?:<\|tool_call_argument_begin\|>|(?=\{))(?P<arguments>.*?)"
    r"(?P<end><\|tool_call_end\|>|(?=<\|tool_call_begin\|>)|<\|tool_calls?_section_end\|>|\Z)",
    re.DOTALL,
)


def _k2(text: str) -> Iterator[ForeignCall]:
    for found in _K2_CALL.finditer(text):
        yield ForeignCall(found["name"], found["arguments"].strip(), bool(found["end"]))


_K3_CALL = re.compile(
    r"<\|open\|>call\b(?P<attributes>.{0,400}?)<\|sep\|>(?P<inside>.*?)(?P<end><\|close\|>call<\|sep\|>|\Z)",
    re.DOTALL,
)
_K3_PART = re.compile(r"<\|open\|>(?P<kind>argument|json)\b(?P<attributes>[^\n]{0,400}?)<\|sep\|>")
_ATTRIBUTE = re.compile(r"""([a-z_]{1,32})\s*=\s*(?:"([^"]*)"|'([^']*)')""")


def _k3(text: str) -> Iterator[ForeignCall]:
    for found in _K3_CALL.finditer(text):
        attributes = _attributes(found["attributes"])
        parts = list(_elements(found["inside"], _K3_PART, "<|close|>{kind}<|sep|>"))
        whole = next((value for part, value in parts if part["kind"] == "json"), None)
        arguments: dict[str, str] = {}
        for part, value in parts:
            its = _attributes(part["attributes"])
            if part["kind"] == "argument" and "key" in its:
                is_text = its.get("type", "string") == "string" or not _is_json(value)
                arguments[its["key"]] = json.dumps(value, ensure_ascii=False) if is_text else value.strip()
        yield ForeignCall(
            attributes.get("tool") or attributes.get("name") or "",
            _object(arguments) if whole is None else whole.strip(),
            bool(found["end"]),
        )


def _hermes(text: str) -> Iterator[ForeignCall]:
    # The end mark that the scan found is the last one in the text: an earlier one stands in an argument.
    opening = re.match(r"<(?:tool|function)_call(\s[^>]{0,200})?>", text)
    if opening is None:
        return
    closed = text.endswith(("</tool_call>", "</function_call>"))
    inside = text[opening.end() : text.rindex("</") if closed else len(text)].strip()
    if opening[1] and (name := _attributes(opening[1]).get("name")):
        yield ForeignCall(name, _parameters(inside) if "<parameter" in inside else inside, closed)
        return
    value = _loads(inside)
    if isinstance(value, dict):
        name, arguments = name_and_arguments(value)
        if name is not None:
            yield ForeignCall(name, arguments, closed)


_INVOKE = re.compile(
    r"<invoke\s+name\s*=\s*[\"'](?P<name>[^\"'<>]{1,160})[\"'][^>]{0,200}>(?P<inside>.*?)(?P<end></invoke>|\Z)",
    re.DOTALL,
)
_PARAMETER = re.compile(
    r"<(?P<kind>parameter)\s+name\s*=\s*[\"'](?P<key>[^\"'<>]{1,200})[\"'](?P<attributes>[^>]{0,200})>"
)
_CDATA = re.compile(r"\s*<!\[CDATA\[(.*)\]\]>\s*", re.DOTALL)
_BARRED_TAG = re.compile(rf"(</?){_DSML}")


def _invoke(text: str) -> Iterator[ForeignCall]:
    for found in _INVOKE.finditer(_BARRED_TAG.sub(r"\1", text)):
        inside = found["inside"].strip()
        arguments = inside if inside.startswith("{") else _parameters(inside)
        yield ForeignCall(found["name"], arguments, bool(found["end"]))


def _functions(text: str) -> Iterator[ForeignCall]:
    at = text.index("{")
    head = text[:at].strip().removeprefix(_FUNCTIONS_WORD)
    arguments = text[at:].strip()
    yield ForeignCall(head.rpartition(":")[0], arguments, _is_json(arguments))


_PARSERS: dict[Form, Callable[[str], Iterator[ForeignCall]]] = {
    "k2": _k2,
    "k3": _k3,
    "hermes": _hermes,
    "invoke": _invoke,
    "functions": _functions,
}


def _parameters(inside: str) -> str:
    arguments: dict[str, str] = {}
    for found, value in _elements(inside, _PARAMETER, "</{kind}>"):
        if cdata := _CDATA.fullmatch(value):
            value = cdata[1]
        # DSML says of each value whether it is text; else the schema of the function decides about its type.
        is_json = _attributes(found["attributes"]).get("string") == "false" and _is_json(value)
        arguments[found["key"]] = value.strip() if is_json else json.dumps(value, ensure_ascii=False)
    return _object(arguments)


def _elements(text: str, opening: re.Pattern[str], closing: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each opening mark with what stands between it and its closing mark. The first without one is the last."""
    at = 0
    while found := opening.search(text, at):
        mark = closing.format(kind=found["kind"])
        end = text.find(mark, found.end())
        if end < 0:
            return
        yield found, text[found.end() : end]
        at = end + len(mark)


def _object(arguments: dict[str, str]) -> str:
    return (
        "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in arguments.items()) + "}"
    )


def _attributes(text: str) -> dict[str, str]:
    """Their values may hold what XML escapes."""
    return {
        found[1]: html.unescape(found[2] if found[2] is not None else found[3]) for found in _ATTRIBUTE.finditer(text)
    }


# The names under which models write the parts of a call.
NAME_KEYS = ("name", "function", "tool", "tool_name")
ARGUMENT_KEYS = ("arguments", "parameters", "input", "args")


def name_and_arguments(value: dict[str, object]) -> tuple[str | None, str]:
    """What an object says about a call: its name, None where it has none, and its arguments as JSON text."""
    name = next((found for key in NAME_KEYS if isinstance(found := value.get(key), str)), None)
    key = next((key for key in ARGUMENT_KEYS if key in value), None)
    arguments = value.get(key) if key is not None else {}
    if isinstance(arguments, str):
        return name, arguments
    return name, json.dumps(arguments, ensure_ascii=False)


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True

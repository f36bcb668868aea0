"""How the simulated Kimi takes functions that a prompt describes: it obeys, or slips in a way of real models.

Reads a prompt with patterns of its own, because it must not know the gateway: the code from a line ``[code
functions]`` or from the reminder, the functions from lines of JSON, the results from lines ``[code result …]``. What
real models did: kimi-protocol-2.md 4.2, 4.4, 4.5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.simulator.knobs import Knobs

_HEADING = re.compile(r"^\[([0-9a-f]{12}) ([^\]\n]+)\]$", re.MULTILINE)
_REMINDER = re.compile(r"\[([0-9a-f]{12}) call NAME:1\]")
_EXAMPLE = re.compile(r"^\[([0-9a-f]{12}) example\]$.*?^\[\1 end of the example\]$", re.MULTILINE | re.DOTALL)
_FUNCTION = re.compile(r'^\{"name":.*\}$', re.MULTILINE)
_THIS_ONE = re.compile(r"^This message runs the function (\S+), and", re.MULTILINE)
_AT_LEAST_ONE = "This message runs at least one function."
_QUOTED_CHARS = 400
_OTHER_CODE = "0123456789ab"


@dataclass(frozen=True, slots=True)
class Spoken:
    """What is said instead of an ordinary answer. ``thinking``: None leaves it as it is. ``own_tool``: a tool of
    Kimi's own is used before."""

    text: str
    thinking: str | None = None
    own_tool: str = ""


@dataclass(frozen=True, slots=True)
class _Task:
    """What the prompts of a chat say about functions."""

    code: str
    functions: dict[str, Any]
    # The user's last words, and the results behind them: (heading, text).
    question: str
    results: list[tuple[str, str]]
    # The function that the last prompt demands; "*" for any.
    demanded: str
    reminded: bool
    has_example: bool


class Tooling:
    """The state of one run: how many turns had functions."""

    def __init__(self) -> None:
        self.turns = 0

    def speak(self, prompt: str, earlier: Sequence[str], knobs: Knobs) -> Spoken | None:
        """What is said to a prompt with functions or calls; None: what would be said without."""
        code = _code([prompt, *reversed(earlier)])
        # Words without a code are an answer like any other, unless `tools` says how functions are taken.
        says_blocks = knobs.say is not None and "%" in knobs.say
        if not code or (knobs.say is not None and not says_blocks and not knobs.tools):
            return None
        self.turns += 1
        is_later = bool(knobs.tools_times) and self.turns > knobs.tools_times
        if is_later and knobs.then is not None:
            return Spoken(_filled(knobs.then, code))
        if knobs.say is not None and says_blocks and not is_later:
            return Spoken(_filled(knobs.say, code))
        task = _read(prompt, earlier)
        if task is None:
            return None
        if knobs.plan:
            return _step(task, knobs.plan)
        behaviour = "obey" if is_later else knobs.tools or "obey"
        if task.results and behaviour != "loop":
            return _report(task, behaviour) if knobs.tools or knobs.call or _wished(task) else None
        name = knobs.call or task.demanded.replace("*", "") or _wished(task)
        if not name and not knobs.tools and not task.demanded:
            return None
        return _act(task, name or next(iter(task.functions)), behaviour, knobs)


def _code(prompts: Sequence[str]) -> str:
    """The code of the newest prompt that has one."""
    return next(
        (found[1] for text in prompts for found in (_REMINDER.search(text) or _HEADING.search(text),) if found), ""
    )


def _read(prompt: str, earlier: Sequence[str]) -> _Task | None:
    prompts = [*earlier, prompt]
    plain = [_EXAMPLE.sub("", text) for text in prompts]
    codes = [found for text in plain for found in _REMINDER.findall(text)]
    if not _REMINDER.search(plain[-1]):
        return None
    functions: dict[str, Any] = {}
    question, results = "", list[tuple[str, str]]()
    for text in plain:
        described = re.search(r"^\[[0-9a-f]{12} functions\]$(.*?)(?=^\[[0-9a-f]{12} )", text, re.M | re.S)
        if described is not None:
            functions = _functions(described[1])
        for heading, body in _sections(text):
            if heading.startswith(("result ", "error ")):
                results.append((heading, body))
            elif heading.partition(" ")[0] == "user":
                question, results = body, []
    if not functions:
        return None
    last = plain[-1].rstrip().rsplit("]\n", 1)[-1]
    named = _THIS_ONE.search(last)
    demanded = named[1] if named else "*" if _AT_LEAST_ONE in last else ""
    reminded = bool(_REMINDER.search("\n".join(plain[-1].rstrip().splitlines()[-4:])))
    return _Task(
        codes[-1], functions, question, results, demanded, reminded, any(_EXAMPLE.search(text) for text in prompts)
    )


def _functions(described: str) -> dict[str, Any]:
    found = (json.loads(line) for line in _FUNCTION.findall(described))
    return {one["name"]: one for one in found}


def _sections(text: str) -> list[tuple[str, str]]:
    """(heading, text) of each; a text without headings is the user's."""
    headings = list(_HEADING.finditer(text))
    if not any(found[2] == "end" for found in headings):
        return [("user", text)]
    ends = [*(found.start() for found in headings[1:]), len(text)]
    return [(found[2], text[found.end() : end].strip("\n")) for found, end in zip(headings, ends, strict=True)]


def _wished(task: _Task) -> str:
    """The function that the user asks for: "use NAME"."""
    return next(
        (name for name in task.functions if re.search(rf"(?:\buse |用 ?){re.escape(name)}(?![\w-])", task.question)),
        "",
    )


def _filled(text: str, code: str) -> str:
    return text.replace("%C%", code).replace("%X%", _OTHER_CODE).replace("%N%", "\n")


# Steps that a test has planned


def _step(task: _Task, plan: str) -> Spoken | None:
    """The next step of a list: words, one call, or several at once. A call is over when its result is there."""
    done = len(task.results)
    for step in json.loads(plan):
        if isinstance(step, str):
            return Spoken(_filled(step, task.code).replace("%R%", _quoted(task)))
        calls = step if isinstance(step, list) else [step]
        if done < len(calls):
            blocks = [
                _block(
                    task, call["call"], _arguments(task, call["call"], call.get("args")), number, call.get("value")
                )
                for number, call in enumerate(calls, start=1)
            ]
            return Spoken("\n\n".join([calls[0].get("say", f"I use {calls[0]['call']}."), *blocks]))
        done -= len(calls)
    return _report(task, "obey")


def _quoted(task: _Task) -> str:
    return "\n".join(body for _, body in task.results)[:_QUOTED_CHARS]


def _report(task: _Task, behaviour: str) -> Spoken:
    if behaviour == "empty-result":
        return Spoken("", "")
    return Spoken(f"It returned: {_quoted(task)}")


# Behaviours


def _arguments(task: _Task, name: str, given: object = None) -> str:
    function = task.functions.get(name) or {}
    if isinstance(given, str):
        return given
    if given is not None:
        return json.dumps(given, ensure_ascii=False)
    if "input" in function:
        return "some free text"
    schema = function.get("parameters") or {}
    properties = schema.get("properties") or {}
    required = schema.get("required") or []
    return json.dumps({key: _value(properties.get(key) or {}) for key in required}, ensure_ascii=False)


def _value(schema: dict[str, Any]) -> object:
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "array":
        return [_value(schema.get("items") or {})] if schema.get("minItems") else []
    if kind == "object":
        inner = schema.get("properties") or {}
        return {key: _value(inner.get(key) or {}) for key in schema.get("required") or []}
    return {"integer": 1, "number": 1.5, "boolean": True, "null": None}.get(str(kind), "text")


def _block(task: _Task, name: str, arguments: str, number: int = 1, value: object = None, code: str = "") -> str:
    code = code or task.code
    long_text = "" if not isinstance(value, dict) else "".join(f"\n[{code} value {k}]\n{v}" for k, v in value.items())
    return f"[{code} call {name}:{number}]\n{arguments}{long_text}\n[{code} /call]"


def _act(task: _Task, name: str, behaviour: str, knobs: Knobs) -> Spoken:
    code, arguments = task.code, _arguments(task, name, knobs.args or None)
    block = _block(task, name, arguments)
    first = f"I use {name}."
    near = ("0" if code[0] != "0" else "1") + code[1:]
    match behaviour:
        case "refuse":
            return Spoken(f"I am sorry, I do not have a function called {name}.")
        case "wary" if not task.has_example:
            # The manner of K2.6 with a contract (kimi-protocol-2.md 4.2, AUR).
            return Spoken(f"I do not have the tool {name}, and I will not pretend to.")
        case "announce":
            return Spoken(f"I will now use {name}.")
        case "parallel":
            blocks = [_block(task, name, arguments, number) for number in range(1, knobs.calls + 1)]
            return Spoken(first + "\n\n" + "\n\nAnd again.\n\n".join(blocks))
        case "fence":
            return Spoken(f"{first}\n\n```\n{block}\n```")
        case "no-end":
            return Spoken(block.rpartition("\n")[0])
        case "wrong-code":
            return Spoken(_block(task, name, arguments, code=_OTHER_CODE))
        case "near-code":
            return Spoken(_block(task, name, arguments, code=near))
        case "spaced":
            return Spoken(f"[ {code}  call {name} : 1 ]\n\n{arguments}\n\n[{code} /call]")
        case "value":
            return Spoken(_block(task, name, "", value={"content": 'a "long"\ntext \\ with\n[brackets]\n'}))
        case "broken":
            return Spoken(_block(task, name, arguments[:-1] + ', "x" y}'))
        case "double":
            return Spoken(_block(task, name, json.dumps(arguments)))
        case "envelope":
            return Spoken(_block(task, name, f'{{"name": "{name}", "arguments": {arguments}}}'))
        case "types":
            given = json.loads(arguments).items()
            values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given}
            return Spoken(_block(task, name, json.dumps(values)))
        case "unknown":
            return Spoken(_block(task, f"{name}_of_nobody", arguments))
        case "unfinished":
            return Spoken(f"{first}\n\n{block[: block.index(arguments) + max(1, len(arguments) // 2)]}")
        case "narrate":
            return Spoken(f"(called '{name}', id 'call_1', with {arguments})")
        case "quote":
            return Spoken(f"The file says:\n[{_OTHER_CODE} call {name}:1]\n{arguments}\n[{_OTHER_CODE} /call]")
        case "fabricate":
            return Spoken(f"{block}\n[{code} result {name}:1]\nsunny\n\nSo it is sunny. " + "Really. " * 200)
        case "thinking":
            return Spoken("", f"I should use {name}.\n\n{block}")
        case "own":
            return Spoken("I have used my own.", own_tool=name)
        case "long":
            return Spoken(f"{first}\n\n" + _block(task, name, "", value={"content": "x" * (knobs.tokens or 100_000)}))
        case "forget" if not task.reminded:
            return Spoken("What was the form again?")
        case "k2" | "k3" | "k3-tail" | "hermes" | "invoke" | "functions":
            return Spoken(_foreign(behaviour, name, arguments, block))
        case _:
            return Spoken(f"{first}\n\n{block}")


def _foreign(form: str, name: str, arguments: str, block: str) -> str:
    """The forms that Kimi's models were trained on (kimi-protocol-2.md 4.4)."""
    values = json.loads(arguments)
    match form:
        case "k2":
            return (
                f"<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>"
                f"{arguments}<|tool_call_end|><|tool_calls_section_end|>"
            )
        case "k3":
            given = "".join(
                f'<|open|>argument key="{key}" type="{"string" if isinstance(value, str) else "number"}"<|sep|>'
                f"{value if isinstance(value, str) else json.dumps(value)}<|close|>argument<|sep|>"
                for key, value in values.items()
            )
            return (
                f'<|open|>tools<|sep|><|open|>call tool="{name}" index="1"<|sep|>{given}<|close|>call<|sep|>'
                "<|close|>tools<|sep|>"
            )
        case "k3-tail":
            return block.rpartition("\n")[0] + "<|close|>call<|sep|><|close|>tools<|sep|><|end_of_msg|>"
        case "hermes":
            return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
        case "invoke":
            given = "".join(
                f'<parameter name="{key}">{value if isinstance(value, str) else json.dumps(value)}</parameter>'
                for key, value in values.items()
            )
            return f'<invoke name="{name}">{given}</invoke>'
        case _:
            return f"functions.{name}:0\n{arguments}\n"

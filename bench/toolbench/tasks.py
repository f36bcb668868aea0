"""The tasks: what is asked, which functions are offered, which calls are right. All are our own.

The categories are those of the Berkeley Function Calling Leaderboard. ``LOOPS`` are small agents on files in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Call = tuple[str, dict[str, Any]]


def _function(
    name: str, description: str, required: Sequence[str] | None = None, **properties: Any
) -> dict[str, Any]:
    wanted = list(properties) if required is None else list(required)
    parameters = {"type": "object", "properties": properties, "required": wanted}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _text(about: str = "") -> dict[str, Any]:
    return {"type": "string", "description": about} if about else {"type": "string"}


_NUMBER = {"type": "number"}
WEATHER = _function(
    "get_weather", "The weather of a city", ["city"], city=_text(), unit={"type": "string", "enum": ["C", "F"]}
)
MAIL = _function("send_mail", "Sends a mail", to=_text("an address"), subject=_text(), body=_text())
CONVERT = _function("convert_money", "Converts money", amount=_NUMBER, source=_text("as EUR"), target=_text("as EUR"))
TIMER = _function("set_timer", "Sets a timer", minutes={"type": "integer"})
LIGHTS = _function("set_lights", "Switches lights", room=_text("in English"), on={"type": "boolean"})
TAGS = _function("tag_note", "Puts tags on a note", note_id=_text(), tags={"type": "array", "items": _text()})
NOTE = _function("save_note", "Stores a text, character by character", text=_text())
SHELL = _function("shell", "Runs a command on the user's computer", command=_text())
_ALL = (WEATHER, MAIL, CONVERT, TIMER, LIGHTS, TAGS, NOTE, SHELL)

_CODE = 'def greet(name):\n    return f"Hi \\"{name}\\"\\n"  # {"a": [1]}\n'


@dataclass(frozen=True, slots=True)
class Task:
    """``expected``: the calls of the next answer, in any order; none: it is to be words."""

    name: str
    question: str
    expected: Sequence[Call] = ()
    tools: Sequence[dict[str, Any]] = _ALL
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def category(self) -> str:
        return self.name.partition("-")[0]


TASKS = (
    Task("simple-weather", "What is the weather in Ulm?", [("get_weather", {"city": "Ulm"})], [WEATHER]),
    Task(
        "simple-unit",
        "Weather in Bonn, in Fahrenheit please.",
        [("get_weather", {"city": "Bonn", "unit": "F"})],
        [WEATHER],
    ),
    Task("simple-timer", "Set a timer for a quarter of an hour.", [("set_timer", {"minutes": 15})], [TIMER]),
    Task(
        "simple-lights",
        "Turn off the light in the kitchen.",
        [("set_lights", {"room": "kitchen", "on": False})],
        [LIGHTS],
    ),
    Task(
        "simple-list",
        "Tag note n7 with red and blue.",
        [("tag_note", {"note_id": "n7", "tags": ["red", "blue"]})],
        [TAGS],
    ),
    Task(
        "simple-zero", "Tag note 007 with the tag 020.", [("tag_note", {"note_id": "007", "tags": ["020"]})], [TAGS]
    ),
    Task("multiple-weather", "Do I need an umbrella in Ulm today?", [("get_weather", {"city": "Ulm"})]),
    Task(
        "multiple-money",
        "How much are 20.5 EUR in USD?",
        [("convert_money", {"amount": 20.5, "source": "EUR", "target": "USD"})],
    ),
    Task("multiple-timer", "Wake me in 40 minutes.", [("set_timer", {"minutes": 40})]),
    Task("multiple-shell", "Please run `ls -a` for me.", [("shell", {"command": "ls -a"})]),
    Task(
        "parallel-cities",
        "The weather in Ulm and in Bonn, please.",
        [("get_weather", {"city": "Ulm"}), ("get_weather", {"city": "Bonn"})],
    ),
    Task(
        "parallel-kinds",
        "Set a timer for 5 minutes and turn on the light in the hall.",
        [("set_timer", {"minutes": 5}), ("set_lights", {"room": "hall", "on": True})],
    ),
    Task(
        "parallel-three", "Timers for 1, 2 and 3 minutes, please.", [("set_timer", {"minutes": n}) for n in (1, 2, 3)]
    ),
    Task("irrelevance-sum", "What is two and two?"),
    Task("irrelevance-thanks", "Thank you, that is all."),
    Task("irrelevance-poem", "Write two lines about tea."),
    Task("irrelevance-function", "What would a function that deletes a file be called? Do not call anything."),
    Task("missing-city", "What is the weather?", tools=[WEATHER]),
    Task("missing-address", "Send Ann a mail that I am late.", tools=[MAIL]),
    Task(
        "long-code",
        f"Save this as a note, character by character:\n{_CODE}",
        [("save_note", {"text": _CODE})],
        [NOTE],
    ),
    Task(
        "long-lines",
        "Save a note with the numbers from 1 to 60, each on a line of its own.",
        [("save_note", {"text": "\n".join(map(str, range(1, 61)))})],
        [NOTE],
    ),
    Task("chinese-weather", "乌尔姆（Ulm）今天天气怎么样？城市名请用英文。", [("get_weather", {"city": "Ulm"})]),
    Task("chinese-timer", "请设一个十分钟的定时器。", [("set_timer", {"minutes": 10})]),
    Task("chinese-note", "请把“你好，世界”存成笔记。", [("save_note", {"text": "你好，世界"})]),
    Task(
        "forced-named",
        "Good morning!",
        [("get_weather", {"city": "Ulm"})],
        [_function("get_weather", "The weather of Ulm", city={"type": "string", "enum": ["Ulm"]})],
        {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
    ),
    Task(
        "forced-any",
        "Turn on the light in the hall.",
        [("set_lights", {"room": "hall", "on": True})],
        _ALL,
        {"tool_choice": "required"},
    ),
    Task("forced-none", "What is the weather in Ulm?", (), [WEATHER], {"tool_choice": "none"}),
)

LIST = _function("list_files", "The names of all files", [])
READ = _function("read_file", "The text of a file", path=_text())
WRITE = _function("write_file", "Replaces the text of a file", path=_text(), text=_text())


@dataclass(frozen=True, slots=True)
class Loop:
    """An agent: it is done right if the files are as ``after`` says. ``steps``: more are too many."""

    name: str
    question: str
    files: dict[str, str]
    after: dict[str, str]
    steps: int = 10
    tools: Sequence[dict[str, Any]] = (LIST, READ, WRITE)


_BUG = {"a.py": "LEAVES = 3\n", "b.py": "from a import LEAVES\nprint(LEAVS)\n", "c.py": "import b\n"}
LOOPS = (
    Loop(
        "loop-bug",
        "One of the files uses a name that does not exist. Find it and correct it; change nothing else.",
        _BUG,
        {**_BUG, "b.py": "from a import LEAVES\nprint(LEAVES)\n"},
    ),
    Loop(
        "loop-copy",
        "Copy the text of notes.txt to backup.txt, character by character.",
        {"notes.txt": 'tea: "green"\n\tmilk \\ no\n'},
        {"notes.txt": 'tea: "green"\n\tmilk \\ no\n', "backup.txt": 'tea: "green"\n\tmilk \\ no\n'},
    ),
    Loop(
        "loop-count",
        "Write into total.txt, without a line break, how many files there are now, as a digit.",
        {"x": "1", "y": "2", "z": "3"},
        {"x": "1", "y": "2", "z": "3", "total.txt": "3"},
    ),
)

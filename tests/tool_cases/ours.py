"""What our reader makes of an answer: the text, the calls and the flaws, in a form that cases can be compared with.

Knows nothing about other projects.
"""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from app.answers.json_checker import JsonChecker
from app.answers.shaping import Shaper
from app.answers.tool_reading import ToolReading
from app.chat import ChatRequest, Event, Finished, FlawedCalls, Options, TextDelta, Tool, ToolCall, text_message
from app.text.prompt import compose

_CODE = "3f09c2a1b87d"
# Parts of the forms that ``app.text.tools.foreign`` reads: none of them belongs into a text beside a call.
_MARKUP = re.compile(
    r"<\|tool_call|<\|(?:open|close|sep)\|>|</?tool_call>|</?(?:[|｜]+DSML[|｜]+)?invoke\b|[|｜]DSML[|｜]"
)
# A wrapper of another model's, which Kimi was not trained on.
_NOT_KIMIS = "minimax"
# A case is read only where one of these is in its text.
_FORMS = {
    "k2": re.compile(r"<\|tool_calls?_(?:section_)?begin\|>"),
    "k3": re.compile(r"<\|open\|>(?:tools|call)\b"),
    "invoke": re.compile(r"<(?:[|｜]{1,2}DSML[|｜]{1,2})?invoke "),
    "hermes": re.compile(r"<(?:tool|function)_call>\s*\{|<(?:tool|function)_call\s[^>]*name="),
}
# Where the name of a function stands in those forms.
_NAMES = re.compile(
    r"tool_call_begin\|>\s*(?:functions\.)?([^<{}\s:]+)|<\|open\|>call [^<]*?tool=\"([^\"]+)\""
    r"|invoke\s+name=\"([^\"]+)\""
    r"|\"name\"\s*:\s*\"([^\"]+)\""
)


@dataclass
class Read:
    """What came out of an answer."""

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    flaws: list[str] = field(default_factory=list)
    # Of the calls. Drawn at random.
    ids: list[str] = field(default_factory=list, compare=False, repr=False)


@dataclass
class Notes:
    """What was noticed while the cases of a project were read: answers that came out otherwise when they were cut at
    each character, and texts that hold markup beside a call."""

    cut: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)


def form_of(text: str) -> str | None:
    """The form of the calls in an answer, None where it has none that is read."""
    if _NOT_KIMIS in text:
        return None
    return next((form for form, opening in _FORMS.items() if opening.search(text)), None)


def is_in_a_line(text: str) -> bool:
    """Whether a call in the forms that nobody's special tokens mark begins behind other text in its line."""
    return bool(re.search(r"[^\s>][ \t]*<(?:tool_call|function_call|invoke)\b", text))


def named_in(text: str) -> list[str]:
    """The functions that an answer seems to call."""
    names = (next(filter(None, found.groups())) for found in _NAMES.finditer(text))
    return list(dict.fromkeys(html.unescape(name) for name in names))


class Stream:
    """Reads one answer in pieces."""

    def __init__(self, tools: Sequence[Tool], checker: JsonChecker) -> None:
        # Without a function nothing would be read as a call.
        offered = tuple(tools) or (Tool("none_declared", "", None),)
        request = ChatRequest("k2", (text_message("user", "Go on."),), tools=offered, code=_CODE)
        prompt = compose(request, request.messages)
        reading = ToolReading(request, prompt, checker, shows_all=True, reports_spent=False)
        self._shaper = Shaper(Options(), "off", reading)
        self.read = Read()

    def feed(self, piece: str) -> Read:
        """What this piece has brought."""
        return self._take(TextDelta(piece))

    def end(self) -> Read:
        return self._take(Finished("stop"))

    def _take(self, event: Event) -> Read:
        new = Read()
        events = [event] if self._shaper.passes_unchanged(event) else self._shaper.take([event])
        for shaped in events:
            match shaped:
                case TextDelta(text):
                    new.text += text
                case ToolCall():
                    new.calls.append((shaped.name, shaped.arguments))
                    new.ids.append(shaped.id)
                case FlawedCalls(flaws):
                    new.flaws += [flaw.kind for flaw in flaws]
        self.read.text += new.text
        self.read.calls += new.calls
        self.read.flaws += new.flaws
        self.read.ids += new.ids
        return new


def read_pieces(pieces: Iterator[str] | Sequence[str], tools: Sequence[Tool], checker: JsonChecker) -> Read:
    stream = Stream(tools, checker)
    for piece in pieces:
        stream.feed(piece)
    stream.end()
    return stream.read


def read_whole(text: str, tools: Sequence[Tool], checker: JsonChecker, notes: Notes, where: str) -> Read:
    """Reads an answer that comes at once, and once more character by character."""
    read = read_pieces([text], tools, checker)
    if read != read_pieces(text, tools, checker):
        notes.cut.append(where)
    if read.calls and _MARKUP.search(read.text):
        notes.leaked.append(where)
    return read

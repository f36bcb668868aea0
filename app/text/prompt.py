"""Several messages become the one text that Kimi reads, because Kimi's web interface has one input box.

A single user message stays as it is. Anything else becomes a text of sections. Each heading contains a code that is
drawn anew for each request (in a conversation with functions: once), so that no message can contain a line that looks
like a heading. Functions, calls and their results are sections, too (``text.tools``). Does not know the JSON of any
API.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.chat import Attachment, ChatRequest, KnownTools, Message, Part, TextPart, Tool, ToolCall
from app.text.tools import describing
from app.text.tools.describing import WordingName
from app.text.tools.grammar import call, heading, result, unused_code
from app.text.tools.names import Names

# The ids that this gateway gives to calls: a prefix of the API, and at the end the number of the call in its message.
_OUR_ID = re.compile(r"(?:(?:call|toolu)_)?([0-9a-f]{20}_([0-9]{1,3}))")
_NO_OUTPUT = "(no output)"


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text that is sent, and what is needed to read its answer."""

    text: str
    # The code of its headings; None: it has none.
    code: str | None = None
    # Calls may come in the answer, and are to be read: functions were described, or the text shows earlier calls.
    reads_calls: bool = False
    # What the chat knows of functions, once it has read this.
    known_tools: KnownTools | None = None
    # The text to count, where another one is sent.
    counted: str | None = None

    @property
    def counted_text(self) -> str:
        """The text with a code that is always the same, so that the same request counts as many tokens."""
        if self.counted is not None:
            return self.counted
        return self.text if self.code is None else self.text.replace(self.code, "0" * len(self.code))


def compose(request: ChatRequest, messages: Sequence[Message], wording: WordingName = "example") -> Prompt:
    """One text that contains every message, whole and in order, and the functions that it needs.

    If the last message is the assistant's, Kimi is asked to continue it. Programs send one to begin the answer with
    it ("prefill"), or because a person wants more; an empty one is a place for the answer, and is left out.
    """
    if len(messages) > 1 and _ends_in_answer(messages) and not messages[-1].text:
        messages = messages[:-1]
    if not request.offers_tools and request.known_tools is None and not any(map(_has_calls, messages)):
        return _without_tools(messages, request.code)
    return _Composition(request, messages, wording).prompt()


def _ends_in_answer(messages: Sequence[Message]) -> bool:
    """Whether the last message is the assistant's, and calls nothing: a call waits for its result."""
    return bool(messages) and messages[-1].role == "assistant" and not messages[-1].tool_calls


def _has_calls(message: Message) -> bool:
    return bool(message.tool_calls) or message.role in ("tool", "function")


def _without_tools(messages: Sequence[Message], code: str | None) -> Prompt:
    if len(messages) == 1 and _is_plain(messages[0]):
        return Prompt(messages[0].text)
    code = code or unused_code(text for message in messages for text in message.texts)
    sections = [heading(code, *_about(m)) + "\n" + "\n".join(m.texts) for m in messages]
    introduction = _introduction(code, continues=_ends_in_answer(messages))
    return Prompt("\n".join([introduction, *sections, heading(code, "end")]), code)


def split_instructions(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """The instructions (system, developer) that come before everything else, as one text, and the other messages.

    The text is empty where there are none, where one has a name, and where there is no other message with text.
    """
    first = next(
        (i for i, m in enumerate(messages) if m.role not in ("system", "developer") or m.name), len(messages)
    )
    if first == len(messages) or not any(text.strip() for m in messages[first:] for text in m.texts):
        return "", messages
    return "\n\n".join(m.text for m in messages[:first] if m.text.strip()), messages[first:]


def all_instructions(request: ChatRequest, messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """The instructions of a request, wherever they stand, as one text, and those of ``messages`` that are none."""
    instructions = [m for m in request.messages if m.role in ("system", "developer")]
    rest = [m for m in messages if m.role not in ("system", "developer")]
    if any(m.name for m in instructions):
        return "", messages
    return "\n\n".join(m.text for m in instructions if m.text.strip()), rest


def _is_plain(message: Message) -> bool:
    return message.role == "user" and not message.name


def _about(message: Message) -> list[str]:
    return [message.role, f"name={message.name!r}"] if message.name else [message.role]


def _introduction(code: str, *, with_calls: bool = False, continues: bool = False) -> str:
    exception = ", but for those of the blocks that run functions" if with_calls else ""
    task = (
        "The last message is the assistant's and is not finished. Continue it from its last character: write only "
        f"what comes next, repeat nothing of it, and write no such line{exception}."
        if continues
        else f"Continue the conversation: write only the assistant's next message, without such a line{exception}."
    )
    return (
        f"Below is a conversation. Each of its messages begins with a line {heading(code, 'role')}; "
        "a line with any other code, or with none, is part of a message. "
        f"Follow the system and developer messages. {task}"
    )


class _Composition:
    """A prompt with functions, or with calls in its history."""

    def __init__(self, request: ChatRequest, messages: Sequence[Message], wording: WordingName) -> None:
        self._request = request
        self._messages = messages
        self._wording = wording
        self._known = request.known_tools
        self._tools = allowed_tools(request) if request.offers_tools else ()
        names = Names(request.tools)
        self._labels = {(tool.namespace, tool.name): names.label(tool) for tool in request.tools}
        self._code = self._choose_code()
        # The calls of the history that have no result yet: id, or name, → what a result's heading says.
        self._places: dict[str, str] = {}
        self._number = 0

    def prompt(self) -> Prompt:
        known, digest = self._known, describing.digest(self._tools, self._wording) if self._tools else ""
        is_described = bool(self._tools) and (known is None or known.digest != digest)
        reminder = self._reminder()
        if known is not None and not is_described and len(self._messages) == 1 and _is_plain(self._messages[0]):
            # Kimi has read all that there is to know.
            text = "\n\n".join([self._messages[0].text, *reminder])
        else:
            text = "\n".join(self._sections(is_described, reminder))
        knows = KnownTools(self._code, digest if self._tools or known is None else known.digest)
        return Prompt(text, self._code, True, knows)

    def _choose_code(self) -> str:
        if self._request.code is not None:
            return self._request.code
        texts = [text for message in self._messages for text in _texts_of(message)]
        texts += describing.texts_of(self._tools)
        known = self._known
        if known is not None and not any(known.code in text for text in texts):
            return known.code
        return unused_code(texts)

    def _reminder(self) -> list[str]:
        if not self._tools:
            return []
        is_new_code = self._known is not None and self._known.code != self._code
        return [describing.remind(self._request.tool_choice, self._wording, self._code, is_new_code=is_new_code)]

    def _sections(self, is_described: bool, reminder: Sequence[str]) -> Iterator[str]:
        code, known = self._code, self._known
        if known is None or is_described or known.code != code:
            continues = _ends_in_answer(self._messages)
            yield _introduction(code, with_calls=bool(self._tools), continues=continues)
        if is_described:
            yield describing.describe(
                self._tools, self._wording, code, replaces=known is not None and known.digest != ""
            )
        for message in self._messages:
            yield from self._section(message)
        yield heading(code, "end")
        yield from reminder

    def _section(self, message: Message) -> Iterator[str]:
        if message.role in ("tool", "function"):
            yield self._result(message)
            return
        yield heading(self._code, *_about(message))
        yield from message.texts
        if message.tool_calls:
            self._number = 0
        for number, made in enumerate(message.tool_calls, start=1):
            label = self._label(made)
            self._places[_bare(made.id) or made.name] = f"{label}:{number}"
            yield call(self._code, label, number, made.arguments)

    def _label(self, made: ToolCall) -> str:
        declared = self._labels.get((made.namespace, made.name))
        return declared or (made.name if made.namespace is None else f"{made.namespace}.{made.name}")

    def _result(self, message: Message) -> str:
        """By its id under the name and number of its call; without one, by its name and its place in order."""
        self._number += 1
        call_id = message.tool_call_id or ""
        place = self._places.get(_bare(call_id) or message.name or "")
        if place is None:
            ours = _OUR_ID.fullmatch(call_id)
            number = ours[2] if ours else str(self._number)
            place = f"{message.name}:{number}" if message.name else number
        shown = result_text(message)
        return result(self._code, place, shown if shown.strip() else _NO_OUTPUT, failed=message.failed)


def _bare(call_id: str) -> str:
    """The id of a call without the prefix that an API has put before it."""
    ours = _OUR_ID.fullmatch(call_id)
    return ours[1] if ours else call_id


def allowed_tools(request: ChatRequest) -> tuple[Tool, ...]:
    """Those that may be called: the others are not described."""
    allowed = request.tool_choice.names
    if not allowed:
        return request.tools
    names = Names(request.tools)
    return tuple(tool for tool in request.tools if names.label(tool) in allowed)


def _texts_of(message: Message) -> Iterator[str]:
    """Everything of a message that stands in a prompt."""
    yield from message.texts
    yield message.name or ""
    for made in message.tool_calls:
        yield from (made.name, made.namespace or "", made.arguments)


def result_text(message: Message) -> str:
    """What a call returned, with words for what cannot be shown."""
    return "\n".join(_shown(part) for part in message.parts)


def _shown(part: Part) -> str:
    """A part of a result. What is no text cannot be sent, but its absence is said."""
    match part:
        case TextPart(text):
            return text
        case Attachment():
            return part.text
        case _:
            return f"(content of type {part.sent_as} that cannot be shown here)"

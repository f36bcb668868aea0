"""Which open chat a stateless request continues: the run of messages at the end of a chat that the request repeats.

    the request      s  u1 a1 u2 a2  u3        s: instructions, which do not count
    a chat              u1 a1 u2 a2            all of it is repeated
    a chat        u0 a0 u1 a1 u2 a2            its end is repeated, by a client that sends the last few only
    a chat              u1 a1 u2 a2 u4 a4      a branch begins behind a2
    a chat              u1 a1 U2 a2            an edited message: another conversation

Messages are compared by keyed digests. Pure: no text is kept, nothing is sent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from app.chat import ChatRequest, KnownTools, Message, Tool, ToolCall, is_long
from app.concurrency.yielding import in_slices, pause
from app.conversations.branches import Digests

# Messages of a chat that are known, at most.
MAX_MESSAGES = 64
# A request that repeats the end of a chat: either its client sends the last few messages only, or its conversation is
# another one that happens to begin as that chat ends. The latter does not begin with an answer. One question with its
# answer may be set phrases; what is longer, or two of them, is not said again by chance. Characters, messages.
_SET_PHRASES = 100
_SEVERAL = 4


@dataclass(frozen=True, slots=True)
class Said:
    """What a request says, as digests. Instructions (system, developer) are no messages here."""

    # Of the messages up to the last answer, and of all of them as one.
    before: tuple[str, ...]
    path: str
    # Of the messages behind it.
    new: tuple[str, ...]
    # Of the last question and its answer, the tools and the form of the model; None where there is no such pair.
    pair: str | None
    # Of the instructions; empty where there are none.
    instructions: str
    # Of ``before``.
    characters: int
    # The first message is an answer.
    begins_with_answer: bool

    @property
    def size(self) -> int:
        return len(self.before) + len(self.new)


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of an open chat whose answer was complete."""

    # The first one has the number 1.
    number: int
    # The number of the turn that it follows; 0: none.
    parent: int
    # Of the answer, where the chat gives ids.
    message_id: str | None
    # Of the messages that it added, its answer last.
    messages: tuple[str, ...]
    # Of all messages up to its answer, and how many they are.
    path: str
    count: int
    # Of the instructions that the chat has read by then; empty where there were none.
    instructions: str
    # What the chat knows of functions by then; empty: nothing.
    code: str = ""
    tools: str = ""

    @property
    def known_tools(self) -> KnownTools | None:
        return KnownTools(self.code, self.tools) if self.code else None


class Reader:
    """Makes the digests of one API key, for requests with the same functions."""

    def __init__(self, digest_key: bytes, owner: str, tools: Sequence[Tool]) -> None:
        # No conversation has an empty id.
        self._digests = Digests(digest_key, owner, "")
        self._defaults = _Defaults(tools)

    def read(self, request: ChatRequest) -> Said:
        """What a request says. Pauses where it is long."""
        if is_long(request.messages):
            pause()
        before: list[str] = []
        new: list[str] = []
        characters = waiting = 0
        path = ""
        is_pair = False
        for message in in_slices(_joined(request.messages)):
            new.append(self.message(message))
            waiting += sum(len(text) for text in message.texts)
            if message.role == "assistant":
                is_pair = len(new) > 1
                for digest in new:
                    path = self._digests.path(path, digest)
                before += new
                characters += waiting
                new, waiting = [], 0
        pair = self.pair(request, *before[-2:]) if is_pair else None
        texts = [m.text.strip() for m in request.messages if m.role in ("system", "developer")]
        instructions = self._digests.text(*texts) if any(texts) else ""
        begins_with_answer = next((m.role == "assistant" for m in _joined(request.messages)), False)
        return Said(tuple(before), path, tuple(new), pair, instructions, characters, begins_with_answer)

    def pair(self, request: ChatRequest, question: str, answer: str) -> str:
        """By what a chat is found: the digests of the last message of a question and of its answer, with all that
        must be the same besides."""
        options = request.options
        tools = [(t.namespace, t.name, t.description, t.schema, t.kind, t.strict) for t in request.tools]
        form = (request.model, options.thinking, options.search, options.effort, request.offers_tools, tools)
        return self._digests.text(question, answer, repr(form))

    def message(self, message: Message) -> str:
        if message.tool_calls:
            message = replace(message, tool_calls=tuple(map(self._defaults.without, message.tool_calls)))
        return self._digests.message(message)

    def path(self, before: str, digests: Sequence[str]) -> str:
        for digest in digests:
            before = self._digests.path(before, digest)
        return before


class _Defaults:
    """The default values that functions declare for their arguments: Claude Code adds them to the calls that it
    repeats."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {(tool.namespace, tool.name): tool for tool in tools if tool.schema is not None}
        self._known: dict[tuple[str | None, str], dict[str, Any]] = {}

    def without(self, call: ToolCall) -> ToolCall:
        """The call without arguments that are the default."""
        defaults = self._of((call.namespace, call.name))
        if not defaults:
            return call
        try:
            arguments = orjson.loads(call.arguments)
            if not isinstance(arguments, dict):
                return call
            kept = {name: value for name, value in arguments.items() if not _is(value, defaults.get(name, _NONE))}
            return replace(call, arguments=orjson.dumps(kept).decode())
        except (ValueError, TypeError):
            # No JSON, or too deep.
            return call

    def _of(self, name: tuple[str | None, str]) -> dict[str, Any]:
        if name not in self._known:
            tool = self._tools.get(name)
            schema = orjson.loads(tool.schema or "null") if tool is not None else None
            properties = schema.get("properties") if isinstance(schema, dict) else None
            described = properties.items() if isinstance(properties, dict) else ()
            self._known[name] = {
                key: about["default"] for key, about in described if isinstance(about, dict) and "default" in about
            }
        return self._known[name]


_NONE = object()


def _is(value: Any, default: Any) -> bool:
    """Not 0 for false."""
    return type(value) is type(default) and bool(value == default)


def _joined(messages: Sequence[Message]) -> Iterator[Message]:
    """Without instructions; neighbouring answers as one: an API may divide an answer that calls functions."""
    held: Message | None = None
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        if held is not None and message.role == "assistant":
            calls = (*held.tool_calls, *message.tool_calls)
            held = replace(held, parts=(*held.parts, *message.parts), tool_calls=calls)
            continue
        if held is not None:
            yield held
        held = message if message.role == "assistant" else None
        if held is None:
            yield message
    if held is not None:
        yield held


class Turns:
    """The turns of an open chat that are known: a tree, as the chat is."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = {turn.number: turn for turn in turns}

    @classmethod
    def load(cls, text: str) -> "Turns":
        return cls([Turn(**{**fields, "messages": tuple(fields["messages"])}) for fields in orjson.loads(text)])

    def dump(self) -> str:
        return orjson.dumps([asdict(turn) for turn in self._turns.values()]).decode()

    def get(self, number: int) -> Turn | None:
        return self._turns.get(number)

    def is_last(self, number: int) -> bool:
        """Whether nothing follows it."""
        return all(turn.parent != number for turn in self._turns.values())

    def messages_to(self, number: int) -> list[str]:
        """The digests on the way to a turn, its own included, as far back as they are known."""
        path: list[Turn] = []
        turn = self._turns.get(number)
        while turn is not None:
            path.append(turn)
            turn = self._turns.get(turn.parent)
        return [digest for turn in reversed(path) for digest in turn.messages]

    def is_repeated(self, said: Said, number: int) -> bool:
        """Whether a request repeats all that was said up to this turn."""
        turn = self._turns.get(number)
        return turn is not None and (turn.count, turn.path) == (len(said.before), said.path)

    def is_end_repeated(self, said: Said, number: int) -> bool:
        """Whether a request repeats a part of what was said up to this turn, without the beginning."""
        turn = self._turns.get(number)
        if turn is None or len(said.before) >= turn.count:
            return False
        may_be_set_phrases = len(said.before) < _SEVERAL and said.characters <= _SET_PHRASES
        if may_be_set_phrases and not said.begins_with_answer:
            return False
        known = self.messages_to(number)
        return known[-len(said.before) :] == list(said.before)

    def with_turn(self, new: Turn, *, without: int | None = None) -> tuple["Turns", list[int]]:
        """These turns and a new one, and the numbers of those that are dropped for it: ``without``, and where there
        are too many messages, those on other branches, and then the oldest."""
        turns = {number: turn for number, turn in self._turns.items() if number != without}
        turns[new.number] = replace(new, messages=new.messages[-MAX_MESSAGES:])
        branch = set()
        number = new.number
        while number in turns:
            branch.add(number)
            number = turns[number].parent
        # Other branches first, each from its oldest turn on.
        droppable = sorted(turns, key=lambda number: (number in branch, number))
        left = sum(len(turn.messages) for turn in turns.values())
        for number in droppable:
            surplus = left - MAX_MESSAGES
            if surplus <= 0 or number == new.number:
                break
            messages = turns[number].messages
            if number in branch and len(messages) > surplus:
                turns[number] = replace(turns[number], messages=messages[surplus:])
                break
            left -= len(messages)
            del turns[number]
        dropped = [number for number in self._turns if number not in turns]
        return Turns(list(turns.values())), dropped

    def with_answer(self, number: int, answer: str, path: str) -> "Turns":
        """With another digest for the answer of a turn."""
        turn = self._turns[number]
        amended = replace(turn, messages=(*turn.messages[:-1], answer), path=path)
        return Turns([amended if one.number == number else one for one in self._turns.values()])

"""Where a request continues its conversation, by digests of what it repeats.

A client that sends its whole history may leave the last answers out, because an earlier message was edited or an
answer is wanted again. A digest of each turn tells which one such a history ends with. Pure: no text is kept, nothing
is sent. What is unclear is no branch.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import orjson

from app.chat import Attachment, Message, OtherPart, ToolCall
from app.concurrency.yielding import in_slices
from app.text.citations import without_links
from app.text.prompt import result_text

# Turns of a conversation that are known, at most.
MAX_TURNS = 200
# Bytes of a digest. It only has to differ from the others of its conversation.
_DIGEST_BYTES = 12
# The digest of a history without answers.
NOTHING = ""


@dataclass(frozen=True, slots=True)
class History:
    """What a request repeats of its conversation."""

    # Digests of the turns that it repeats, each of what was said and of the answer.
    turns: tuple[str, ...]
    # A digest of all of them.
    path: str
    # What is said after the last answer, without instructions.
    question: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class KnownTurn:
    """A turn that was completed."""

    # The first turn has the number 1. Number 0 is what came before it: a history that the first request brought.
    number: int
    # The number of the turn that it follows; -1: none.
    parent: int
    # Of the answer in the upstream's chat; None where that chat is gone, or gives no ids.
    message_id: str | None
    # Digest of all that was said up to its answer; None: not known.
    path: str | None
    # Digest of the turn alone.
    turn: str


class Digests:
    """Digests of what is said in one conversation."""

    def __init__(self, key: bytes, owner: str, conversation_id: str) -> None:
        """``key``: a secret of the store."""
        self._key = hashlib.sha256(b"\0".join((key, owner.encode(), conversation_id.encode()))).digest()

    def history(self, messages: Sequence[Message]) -> History:
        turns: list[str] = []
        path = NOTHING
        question: list[Message] = []
        for message in in_slices(messages):
            if message.role in ("system", "developer"):
                continue
            if message.role != "assistant":
                question.append(message)
                continue
            turns.append(self.turn(question, message))
            path = self.path(path, turns[-1])
            question = []
        return History(tuple(turns), path, tuple(question))

    def turn(self, question: Sequence[Message], answer: Message) -> str:
        """Space at the ends of a message does not count, nor how it is divided into parts."""
        digest = hashlib.blake2b(key=self._key, digest_size=_DIGEST_BYTES)
        for message in (*question, answer):
            for field in (*_fields(message), *(one.key for one in message.attachments)):
                text = field.strip().encode(errors="surrogatepass")
                digest.update(b"%d:" % len(text))
                digest.update(text)
        return digest.hexdigest()

    def message(self, message: Message) -> str:
        """Space at its ends does not count, nor how it is divided into parts, nor the links of our citations."""
        digest = hashlib.blake2b(key=self._key, digest_size=_DIGEST_BYTES)
        for field in (*_fields(message), *_attachments(message)):
            text = without_links(field).strip().encode(errors="surrogatepass")
            digest.update(b"%d:" % len(text))
            digest.update(text)
        return digest.hexdigest()

    def text(self, *texts: str) -> str:
        """A digest of anything else."""
        digest = hashlib.blake2b(key=self._key, digest_size=_DIGEST_BYTES)
        for text in texts:
            encoded = text.encode(errors="surrogatepass")
            digest.update(b"%d:" % len(encoded))
            digest.update(encoded)
        return digest.hexdigest()

    def path(self, before: str, turn: str) -> str:
        """The digest of what was said ``before`` and of a turn."""
        text = f"{before} {turn}".encode()
        return hashlib.blake2b(text, key=self._key, digest_size=_DIGEST_BYTES).hexdigest()


def _fields(message: Message) -> tuple[str, ...]:
    # The ids of calls, and names in results, are left out: not every client repeats them.
    is_result = message.role in ("tool", "function")
    text = result_text(message) if is_result else message.text
    return ("tool" if is_result else message.role, text, *map(_call, message.tool_calls))


def _attachments(message: Message) -> Iterator[str]:
    """What is no text: a mark names a file, and not its content."""
    for part in message.parts:
        match part:
            case Attachment():
                yield part.key
            case OtherPart(sent_as=kind):
                yield f"other {kind}"


def _call(call: ToolCall) -> str:
    """A client may have read the arguments and written them anew."""
    try:
        arguments = orjson.dumps(orjson.loads(call.arguments), option=orjson.OPT_SORT_KEYS).decode()
    except (ValueError, TypeError):
        # No JSON, or too deep.
        arguments = call.arguments.strip()
    return json.dumps([call.name, arguments])


class KnownTurns:
    """The turns of a conversation that are known: a tree, as a chat of the upstream is."""

    def __init__(self, turns: Sequence[KnownTurn]) -> None:
        self._turns = {turn.number: turn for turn in turns}

    @classmethod
    def load(cls, text: str | None) -> "KnownTurns":
        return cls([KnownTurn(*fields) for fields in orjson.loads(text or "[]")])

    def dump(self) -> str:
        fields = [[t.number, t.parent, t.message_id, t.path, t.turn] for t in self._turns.values()]
        return orjson.dumps(fields).decode()

    def get(self, number: int) -> KnownTurn | None:
        return self._turns.get(number)

    def path_to(self, number: int) -> list[KnownTurn]:
        """The turn and those before it on its branch, as far back as they are known, oldest first."""
        path: list[KnownTurn] = []
        turn = self._turns.get(number)
        while turn is not None and turn.number > 0:
            path.append(turn)
            turn = self._turns.get(turn.parent)
        return path[::-1]

    def branch_to(self, number: int) -> Callable[[int], bool]:
        """Whether a turn belongs to the branch that ends with the turn ``number``. Those that are too old to be known
        belong to every branch (``with_turn``)."""
        path = self.path_to(number)
        known = {turn.number for turn in path}
        oldest = path[0].parent if path else number
        return lambda turn: turn in known or turn <= oldest

    def branch_of(self, history: History, last: int) -> KnownTurn | None:
        """The turn that a request continues from, where that is another one than the ``last``.

        None also where it is unclear: the client has changed an answer, repeats the newest turns only, or none. A
        message alone may be the first one in other words, but most clients that send one mean the next.
        """
        path = self.path_to(last)
        if not path or not history.turns:
            return None
        newest = [turn.turn for turn in path[-len(history.turns) :]]
        if history.path == path[-1].path or newest == list(history.turns):
            return None
        for turn in reversed(self._turns.values()):
            if turn.path == history.path:
                return turn
        return None

    def with_turn(self, new: KnownTurn, *, in_new_chat: bool) -> tuple["KnownTurns", list[int]]:
        """These turns and a new one, or one in another form; and the numbers of those on other branches that are
        dropped for it.

        Too many: all other branches are dropped, and then the oldest turns. ``in_new_chat``: the chat that the others
        stand in is gone.
        """
        others = [turn for turn in self._turns.values() if turn.number != new.number]
        if in_new_chat:
            others = [replace(turn, message_id=None) for turn in others]
        grown = KnownTurns([*others, new])
        if len(grown._turns) <= MAX_TURNS:
            return grown, []
        path = grown.path_to(new.number)
        branch = {turn.number for turn in path}
        dropped = [number for number in grown._turns if number > 0 and number not in branch]
        return KnownTurns(path[-MAX_TURNS:]), dropped

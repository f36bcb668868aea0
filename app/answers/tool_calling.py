"""What follows where the calls of an answer are missing or cannot be used: Kimi is asked once more, at most.

    good calls, and words in ``auto``      passed on as they come
    a broken or unknown call, none where one is demanded, nothing but calls where none may be made
                                           a further turn, which says what is wrong
    still no use                           ToolCallInvalid, ToolCallMissing; or the good calls alone

Wraps the function that opens answers, as ``structured`` does. Knows no API and no upstream.
"""

import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

from app.answers.answer import Answer, AnswerInfo, merged_halves
from app.answers.structured import Amend, Opener
from app.chat import (
    HEARTBEAT,
    Caller,
    CallFlaw,
    ChatRequest,
    Event,
    Finished,
    FlawedCalls,
    Heartbeat,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    text_message,
)
from app.errors import GatewayError, ToolCallInvalid, ToolCallMissing
from app.text.held_text import HeldText

log = logging.getLogger(__name__)

# For Kimi, about all flaws of an answer.
_MAX_FLAWS_CHARS = 2000
_ASKED_AGAIN = "tool-call-asked-again"
_DROPPED = "tool-call-dropped"


def open_calling(open_one: Opener, request: ChatRequest, caller: Caller, amend: Amend, *, commit: bool) -> Answer:
    """As ``Gateway.open``, for a request whose answer may hold calls."""
    return _CallingAnswer(open_one, request, caller, amend, commit)


@dataclass(slots=True)
class _Heard:
    """What one turn came to."""

    end: Finished
    flawed: FlawedCalls | None
    texts: HeldText = field(default_factory=HeldText)
    calls: list[ToolCall] = field(default_factory=list)


class _CallingAnswer(Answer):
    """It raises ToolCallInvalid and ToolCallMissing, too."""

    def __init__(self, open_one: Opener, request: ChatRequest, caller: Caller, amend: Amend, commit: bool) -> None:
        self._open_one = open_one
        self._amend = amend
        self._request = request
        self._caller = caller
        self._closed = False
        self._notices: list[str] = []
        self._answers = [open_one(request, caller, commit=commit)]

    @property
    def info(self) -> AnswerInfo:
        if len(self._answers) == 1:
            return self._answers[0].info
        infos = [answer.info for answer in self._answers]
        info = merged_halves(infos)
        info.notices += [notice for notice in self._notices if notice not in info.notices]
        return info

    def wait_for_answer(self) -> None:
        self._answers[0].wait_for_answer()

    def close(self, error: BaseException | None = None) -> None:
        self._closed = True
        for answer in self._answers:
            answer.close(error)

    def __iter__(self) -> Iterator[Sequence[Event]]:
        first = yield from self._listen(self._answers[0])
        if first.flawed is None:
            yield [first.end]
            return
        try:
            yield from self._settle(first, first.flawed)
        except GatewayError as e:
            # The first turn has reached Kimi, whatever became of its answer or of the second one.
            raise e.replaced(reached_upstream=True) from e

    def _listen(self, answer: Answer) -> Generator[Sequence[Event], None, _Heard]:
        """Passes on all but the end."""
        heard = _Heard(Finished("stop"), None)
        for batch in answer:
            last = batch[-1].__class__
            if last is TextDelta or last is ReasoningDelta or last is Heartbeat:
                # Nearly all of them. What is flawed comes right before the end.
                self._note(batch, heard)
                yield batch
                continue
            passed: list[Event] = []
            for event in batch:
                if isinstance(event, FlawedCalls):
                    heard.flawed = event
                elif isinstance(event, Finished):
                    heard.end = event
                else:
                    passed.append(event)
            self._note(passed, heard)
            if last is Finished:
                if passed:
                    yield passed
                return heard
            yield passed or [HEARTBEAT]
        raise RuntimeError("an answer ended without Finished")

    def _note(self, batch: Sequence[Event], heard: _Heard) -> None:
        for event in batch:
            if event.__class__ is TextDelta:
                heard.texts.add(event.text)
            elif event.__class__ is ToolCall:
                heard.calls.append(event)

    def _listen_without_words(self, answer: Answer) -> Generator[Sequence[Event], None, _Heard]:
        """Passes on all but the words and the end."""
        listening = self._listen(answer)
        while True:
            try:
                batch = next(listening)
            except StopIteration as e:
                heard: _Heard = e.value
                return heard
            passed = [event for event in batch if not isinstance(event, TextDelta)]
            yield passed or [HEARTBEAT]

    def _settle(self, first: _Heard, flawed: FlawedCalls) -> Iterator[Sequence[Event]]:
        log.info("tool_calls_asked_again flaws=%s", ",".join(flaw.kind for flaw in flawed.flaws))
        self._notices.append(_ASKED_AGAIN)
        second = yield from self._listen_without_words(self._ask_again(first, flawed))
        calls = [*first.calls, *second.calls]
        words = str(second.texts)
        is_forced = self._request.tool_choice.mode == "required"
        has_words = bool(words.strip()) and not (is_forced and second.end.reason == "stop")
        may_call = self._request.offers_tools
        if not calls and not has_words and second.end.reason == "stop" and may_call:
            raise _error(second.flawed or flawed)
        if second.flawed is not None and may_call:
            if not calls:
                raise _error(second.flawed)
            self._notices.append(_DROPPED)
        said = str(first.texts)
        if not second.calls and has_words:
            # Apart from what was said before.
            words = f"\n\n{words.lstrip()}" if said.strip() else words
            said += words
            yield [TextDelta(words)]
        is_complete = second.end.reason in ("stop", "tool_calls")
        if is_complete:
            self._amend(said, calls)
        yield [Finished("tool_calls") if calls and is_complete else second.end]

    def _ask_again(self, first: _Heard, flawed: FlawedCalls) -> Answer:
        """A further turn: in the same chat where it is a conversation, else in a new one that shows all."""
        self._answers[0].close()
        said = "\n".join(part for part in (str(first.texts), flawed.raw) if part)
        messages = (
            *self._request.messages,
            text_message("assistant", said),
            text_message("user", _ask(flawed.flaws, some_were_told=bool(first.calls))),
        )
        after = self._request.after_turn
        request = replace(
            self._request,
            messages=messages,
            after_turn=None if after is None else after + 1,
            repairs_last_turn=True,
            # What was said holds it.
            code=flawed.code if self._request.conversation_id is None else None,
        )
        answer = self._open_one(request, self._caller, commit=True)
        self._answers.append(answer)
        if self._closed:
            answer.close()
        return answer


def _error(flawed: FlawedCalls) -> GatewayError:
    kinds = ", ".join(dict.fromkeys(flaw.kind for flaw in flawed.flaws))
    if kinds == "missing":
        return ToolCallMissing(
            "Kimi made no call where one was demanded, also when it was asked again; ask for less, offer fewer "
            "functions, or leave it the choice"
        )
    return ToolCallInvalid(
        f"Kimi's calls could not be used, also after it was shown what is wrong ({kinds}); ask again, offer fewer "
        "functions, or use another model"
    )


def _ask(flaws: Sequence[CallFlaw], *, some_were_told: bool) -> str:
    kinds = {flaw.kind for flaw in flaws}
    if kinds == {"suppressed"}:
        return _IN_WORDS
    what = "\n".join(f"- {flaw.message}" for flaw in flaws)[:_MAX_FLAWS_CHARS]
    what = what.encode("utf-8", "replace").decode()
    if kinds == {"missing"}:
        return _MISSING
    return (_SOME if some_were_told else _ALL).format(what=what)


_ALL = (
    "The last message could not be used. What is wrong with it:\n{what}\n"
    "Please write the block or blocks again, in the agreed form, and nothing else."
)
_SOME = (
    "A part of the last message could not be used; the other functions are being run. What is wrong:\n{what}\n"
    "Please write again only what is wrong, as blocks in the agreed form, and nothing else."
)
_MISSING = (
    "The last message ran no function, so nothing has happened. Please write it again as one or more blocks in the "
    "agreed form."
)
_IN_WORDS = "No function can be run now. Please answer in words, with what is known so far."

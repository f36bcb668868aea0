"""Answers that must be JSON, from a model that can only be asked for it: the wish is put in words, the answer is
checked, and a flawed one is sent back once to be mended.

Thinking flows while the answer is awaited; its text is passed on when it is certain, and is then the JSON alone, as
the model wrote it. An answer that was cut short (at a number of tokens, at a stop sequence, by a filter) is passed on
as it is, because its reason already says so. Wraps the function that opens answers. Knows no API and no upstream.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from app.answers.answer import Answer, AnswerInfo, merged_halves
from app.answers.json_checker import JsonChecker, Problem
from app.chat import (
    HEARTBEAT,
    Caller,
    ChatRequest,
    Citation,
    Event,
    Finished,
    FlawedCalls,
    JsonFormat,
    Message,
    TextDelta,
    TextPart,
    ToolCall,
    text_message,
)
from app.errors import GatewayError, InvalidJsonAnswer
from app.text.held_text import HeldText

log = logging.getLogger(__name__)


class Opener(Protocol):
    """``Gateway.open``, for an answer that is text."""

    def __call__(self, request: ChatRequest, caller: Caller, *, commit: bool) -> Answer: ...


# To be called with what the client gets as the answer, before its end, where that is not what the last turn said.
Amend = Callable[[str, Sequence[ToolCall]], None]


def open_structured(
    open_text: Opener, checker: JsonChecker, request: ChatRequest, caller: Caller, amend: Amend, *, commit: bool
) -> Answer:
    """As ``Gateway.open``, for a request with a format."""
    wanted = request.options.format
    assert wanted is not None, "asked for text"
    request = replace(request, messages=_with_wish(request, wanted))
    return _StructuredAnswer(open_text, checker, request, caller, wanted, amend, commit)


class _StructuredAnswer(Answer):
    """It raises InvalidJsonAnswer, too. The first answer is certain when it is made."""

    def __init__(
        self,
        open_text: Opener,
        checker: JsonChecker,
        request: ChatRequest,
        caller: Caller,
        wanted: JsonFormat,
        amend: Amend,
        commit: bool,
    ) -> None:
        self._open_text = open_text
        self._checker = checker
        self._request = request
        self._caller = caller
        self._wanted = wanted
        self._amend = amend
        self._closed = False
        # The answer makes calls, or tries to.
        self._called = False
        self._answers = [open_text(request, caller, commit=commit)]

    @property
    def info(self) -> AnswerInfo:
        infos = [answer.info for answer in self._answers]
        return merged_halves(infos)

    def close(self, error: BaseException | None = None) -> None:
        self._closed = True
        for answer in self._answers:
            answer.close(error)

    def __iter__(self) -> Iterator[Sequence[Event]]:
        text, end = yield from self._listen(self._answers[0])
        if self._called:
            # Calls take the place of the JSON.
            yield [end]
            return
        try:
            yield from self._certain(text, end)
        except GatewayError as e:
            # The first turn has reached Kimi, whatever became of its answer or of the second one.
            raise e.replaced(reached_upstream=True) from e

    def _certain(self, text: str, end: Finished) -> Iterator[Sequence[Event]]:
        json = self._find_json(text)
        if isinstance(json, Problem) and _is_whole(end):
            log.info("json_answer_repaired rule=%s", json.rule)
            text, end = yield from self._mended(text, json)
            if self._called:
                yield [end]
                return
            json = self._find_json(text)
            if isinstance(json, Problem) and _is_whole(end):
                raise InvalidJsonAnswer(
                    "Kimi did not write the JSON that was asked for, also after it was shown what is wrong "
                    f"(rule '{json.rule}'); ask again, ask for less, or use a model that thinks"
                )
        if isinstance(json, Problem):
            yield [*([TextDelta(text)] if text else []), end]
        else:
            self._amend(json, ())
            # It is whole, wherever the words behind it were cut off; but what Kimi took exception to stays that.
            yield [TextDelta(json), end if end.reason == "content_filter" else Finished("stop")]

    def _listen(self, answer: Answer) -> Generator[Sequence[Event], None, tuple[str, Finished]]:
        """Passes on all but the text; gives that, and how it ended. Once there are calls, the text, too."""
        text = HeldText()
        for batch in answer:
            passed: list[Event] = []
            for event in batch:
                match event:
                    case ToolCall() | FlawedCalls():
                        if not self._called and text:
                            passed.append(TextDelta(str(text)))
                        self._called = True
                        passed.append(event)
                    case TextDelta() if self._called:
                        passed.append(event)
                    case TextDelta(delta):
                        text.add(delta)
                    case Citation():
                        # Where it points to is not known in what will be left of the text.
                        pass
                    case Finished():
                        if passed:
                            yield passed
                        return str(text), event
                    case _:
                        passed.append(event)
            yield passed or [HEARTBEAT]
        raise RuntimeError("an answer ended without Finished")

    def _mended(self, flawed: str, problem: Problem) -> Generator[Sequence[Event], None, tuple[str, Finished]]:
        """A further turn: in the same chat where it is a conversation, else in a new one that shows all."""
        self._answers[0].close()
        messages = (
            *self._request.messages,
            text_message("assistant", flawed),
            text_message("user", _MEND.format(problem=_sayable(problem.message))),
        )
        after = self._request.after_turn
        request = replace(
            self._request, messages=messages, after_turn=None if after is None else after + 1, repairs_last_turn=True
        )
        answer = self._open_text(request, self._caller, commit=True)
        self._answers.append(answer)
        if self._closed:
            answer.close()
        return (yield from self._listen(answer))

    def _find_json(self, text: str) -> str | Problem:
        return self._checker.find_json(text, self._wanted.schema, self._wanted.schema_field)


def _is_whole(end: Finished) -> bool:
    return end.reason == "stop" and end.stop_sequence is None


def _sayable(text: str) -> str:
    """Without halves of surrogate pairs, which a name in JSON may hold."""
    return text.encode("utf-8", "replace").decode()


def _with_wish(request: ChatRequest, wanted: JsonFormat) -> tuple[Message, ...]:
    """The messages with the wish behind what is said last: it concerns this turn, also in a long conversation."""
    if not request.messages:
        # Nothing was said, which is refused where it is found for all requests.
        return ()
    name = f"{wanted.name}: {wanted.description}" if wanted.description else wanted.name
    wish = _OBJECT if wanted.schema is None else _SCHEMA.format(name=name, schema=wanted.schema)
    if request.offers_tools:
        wish = f"\nWhere you run no function: {wish.lstrip()}"
    *earlier, last = request.messages
    if last.role != "user":
        return (*request.messages, text_message("user", wish))
    return (*earlier, replace(last, parts=(*last.parts, TextPart(wish))))


_FORM = (
    "Your answer is read by a program. Write one JSON value and nothing else: no words before or after it, no code "
    "fence, no comments, no citation marks."
)
_OBJECT = f"\n{_FORM} It must be a JSON object."
_SCHEMA = f"\n{_FORM} It must be what this JSON Schema (named {{name}}) describes:\n{{schema}}"
_MEND = (
    "Your last answer could not be used. What is wrong with it: {problem}\n"
    "Write the whole answer again, mended: the JSON value alone, nothing before or after it."
)

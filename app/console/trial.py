"""The page Try it: a small chat. It keeps nothing: what was said so far stands in the page, and is sent with it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import orjson
from flask import Blueprint, Response, g, request, stream_with_context
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as BaseResponse

from app.answers.answer import Answer
from app.chat import (
    Caller,
    ChatRequest,
    Citation,
    Event,
    Finished,
    Message,
    Options,
    ReasoningDelta,
    TextDelta,
    text_message,
)
from app.console.page import console, page, say, store
from app.errors import GatewayError, InvalidRequest
from app.request_record import RequestRecord
from app.web.client_connection import client_watch
from app.web.client_program import program
from app.web.error_responses import failure_of, note_failure

blueprint = Blueprint("trial", __name__)

OWNER = "console"

_MAX_TEXT = 100_000
_MAX_TURNS = 100


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    text: str
    thoughts: str = ""
    facts: str = ""


@blueprint.get("/try")
def show() -> BaseResponse:
    return _page([], MultiDict())


def _page(turns: list[Turn], form: "MultiDict[str, str]", problem: str = "", status: int = 200) -> BaseResponse:
    models = console().services.gateway.models
    return page("trial.html", status, models=models, turns=turns, form=form, problem=problem)


@blueprint.post("/try")
def ask() -> BaseResponse:
    """The whole page with the answer, for browsers without scripts."""
    form = request.form
    try:
        question, turns = _request(form)
        began, first_s = time.monotonic(), None
        text: list[str] = []
        thoughts: list[str] = []
        answer = _open(question)
        try:
            for batch in answer:
                for event in batch:
                    if isinstance(event, Finished):
                        _record().finished(event.reason)
                    if isinstance(event, TextDelta | ReasoningDelta):
                        first_s = time.monotonic() - began if first_s is None else first_s
                        (text if isinstance(event, TextDelta) else thoughts).append(event.text)
        finally:
            answer.close()
    except GatewayError as e:
        note_failure(_record(), e, failure_of(e))
        return _page(_turns(form), form, _failure(e), e.status)
    _note_success()
    facts = str(say("trial_facts", first=f"{first_s or 0:.1f}", total=f"{time.monotonic() - began:.1f}"))
    turns.append(Turn("assistant", "".join(text), "".join(thoughts), facts))
    return _page(turns, MultiDict([(key, value) for key, value in form.items() if key != "text"]))


@blueprint.post("/try/stream")
def stream() -> BaseResponse:
    """The answer as lines of JSON, as it comes: {"text"}, {"thought"}, {"page", "title"}, {"alive"}, and at the end
    {"end", "first_s", "total_s", "notices"} or {"error", "code", "status"}."""
    began = time.monotonic()
    try:
        question, _ = _request(request.form)
        answer = _open(question)
    except GatewayError as e:
        return Response(_line(_error(e)), e.status, content_type="application/x-ndjson")
    response = Response(stream_with_context(_lines(answer, began)), content_type="application/x-ndjson")
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(answer.close)
    return response


def _lines(answer: Answer, began: float) -> Iterator[bytes]:
    first_s = None
    try:
        for batch in answer:
            out = []
            for event in batch:
                if first_s is None and isinstance(event, TextDelta | ReasoningDelta):
                    first_s = time.monotonic() - began
                if (said := _said(event)) is not None:
                    out.append(_line(said))
                if isinstance(event, Finished):
                    _record().finished(event.reason)
                    _note_success()
                    facts = {"end": event.reason, "first_s": first_s, "total_s": time.monotonic() - began}
                    out.append(_line({**facts, "notices": answer.info.notices}))
            # Without a piece the browser would not notice for long that the connection has been lost.
            yield b"".join(out) or _line({"alive": True})
    except Exception as e:  # noqa: BLE001  # the edge of a stream whose status has been sent; failure_of logs it
        answer.close(e)
        yield _line(_error(e))
    finally:
        answer.close()


def _said(event: Event) -> dict[str, Any] | None:
    match event:
        case TextDelta(text):
            return {"text": text}
        case ReasoningDelta(text):
            return {"thought": text}
        case Citation(url, title):
            return {"page": url, "title": title}
    return None


def _request(form: "MultiDict[str, str]") -> tuple[ChatRequest, list[Turn]]:
    """Raises InvalidRequest."""
    text, turns = form.get("text", "").strip(), _turns(form)
    if not text:
        raise InvalidRequest(str(say("nothing_asked")))
    turns.append(Turn("user", text))
    if len(turns) > _MAX_TURNS or sum(len(turn.text) for turn in turns) > _MAX_TEXT:
        raise InvalidRequest(str(say("trial_too_long")))
    messages: list[Message] = [
        text_message("assistant" if turn.role == "assistant" else "user", turn.text) for turn in turns
    ]
    wishes = {"yes": True, "no": False}
    options = Options(
        thinking=wishes.get(form.get("thinking", "")), search=wishes.get(form.get("search", "")), max_tokens=None
    )
    return ChatRequest(form.get("model", ""), tuple(messages), options=options), turns


def _turns(form: "MultiDict[str, str]") -> list[Turn]:
    """What was said before, as the page holds it."""
    pairs = zip(form.getlist("role"), form.getlist("said"), strict=False)
    return [Turn("assistant" if role == "assistant" else "user", said) for role, said in pairs]


def _open(question: ChatRequest) -> Answer:
    caller = Caller(OWNER, client_watch(request.environ), record=_record())
    return console().services.gateway.open(question, caller, commit=True)


def _record() -> RequestRecord:
    """Of the request log: an answer of this page stands in it as any other does."""
    if "record" not in g:
        client = program(request.headers.get("User-Agent", ""))
        g.record = console().services.ledger.begin("console", g.request_id, client, "")
        g.record.owner, g.record.is_stream = OWNER, request.endpoint == "trial.stream"
    return cast(RequestRecord, g.record)


@blueprint.after_request
def _note(response: BaseResponse) -> BaseResponse:
    if "record" in g:
        g.record.status = response.status_code
        response.call_on_close(g.record.response_ended)
    return response


def _note_success() -> None:
    """The last of the first three steps is done."""
    if store().facts.get("console_tried") is None:
        store().facts.put("console_tried", "1", store().database.now())


def _error(error: Exception) -> dict[str, Any]:
    failure = failure_of(error)
    note_failure(_record(), error, failure)
    return {"error": failure.message, "code": failure.code, "status": failure.status}


def _failure(error: GatewayError) -> str:
    return f"{error.message} ({error.status}{f' {error.code}' if error.code else ''})"


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"

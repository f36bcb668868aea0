"""A public API: POST /v1/shout takes ``{"model": …, "say": …}`` and answers in capitals."""

from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import StrictBool, StrictStr

from app.chat import ChatRequest, text_message
from app.web.accepted_request import AnswerParameters, accept
from app.web.answer_response import AnswerSoFar, Encoder, respond
from app.web.error_responses import Failure
from app.web.operations import OF_ANSWERS, Operation, object_of
from app.web.parameters import ParameterRule
from app.web.request_context import gateway
from app.web.shared_parameters import MODEL, STREAM_ONLY

blueprint = Blueprint("shout", __name__)


class Body(AnswerParameters):
    model: Annotated[StrictStr, MODEL]
    say: Annotated[StrictStr, ParameterRule("honoured", "the text", "文本")]
    stream: Annotated[StrictBool | None, STREAM_ONLY] = None

    @property
    def wants_stream(self) -> bool:
        return bool(self.stream)


class ShoutEncoder(Encoder):
    def start(self, so_far: AnswerSoFar) -> bytes:
        return b"data: (shouts)\n\n"

    def text(self, index: int, text: str) -> bytes:
        return b"data: " + text.upper().encode() + b"\n\n"

    def reasoning(self, index: int, text: str) -> bytes:
        return b""

    def end(self, so_far: AnswerSoFar) -> bytes:
        return b"data: (%d tokens)\n\n" % so_far.usage().output

    def fail(self, failure: Failure) -> bytes:
        return b"data: (coughs)\n\n"

    def whole(self, so_far: AnswerSoFar) -> dict[str, Any]:
        return {"shout": so_far.only.text.upper()}


@blueprint.post("/shout")
def create() -> Response:
    accepted = accept(Body)
    body = accepted.body
    request = ChatRequest(body.model, (text_message("user", body.say),), accepted.conversation_id)
    answer = gateway().open(request, accepted.caller, commit=body.wants_stream)
    return respond(answer, ShoutEncoder(), stream=body.wants_stream, headers=accepted.headers)


OPERATIONS = (
    Operation(
        "post",
        "/v1/shout",
        "A shout",
        object_of(shout={"type": "string"}),
        body=lambda: Body,
        streams=True,
        failures=OF_ANSWERS,
    ),
)

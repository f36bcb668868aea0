"""The paths of OpenAI's Responses: POST /v1/responses. Must never know that Kimi exists."""

from typing import TYPE_CHECKING

from flask import Blueprint, Response

from app.api.responses.encoder import ResponseEncoder
from app.api.responses.turn_ids import conversation_of, next_turn
from app.errors import UnknownConversation
from app.web.accepted_request import accept
from app.web.answer_response import respond
from app.web.operations import OF_ANSWERS, Operation, object_of
from app.web.request_context import caller, gateway, reply_id

if TYPE_CHECKING:
    from app.api.responses.body import Body

blueprint = Blueprint("responses", __name__)


@blueprint.post("/responses")
def create() -> Response:
    accepted = accept(_body())
    body, who, conversation_id = accepted.body, accepted.caller, accepted.conversation_id
    turn = next_turn(body.previous(), conversation_id, body.store, who)
    answer = gateway().open(body.to_request(turn), who, commit=body.wants_stream)
    name = turn.name if turn and turn.number else reply_id("", who)
    encoder = ResponseEncoder(body, name, conversation_id)
    return respond(answer, encoder, stream=body.wants_stream, headers=accepted.headers)


@blueprint.route("/responses/<id:response_id>", methods=["GET", "DELETE"])
def one(response_id: str) -> Response:
    """Raises UnknownConversation, always: OpenAI stores responses, the gateway stores only conversations."""
    caller()
    conversation = conversation_of(response_id)
    instead = f"; DELETE /v1/chat/completions/{conversation} deletes its conversation" if conversation else ""
    raise UnknownConversation(
        "responses are not stored; continue their conversation with previous_response_id" + instead,
        code="response_not_found",
        param="response_id",
    )


_RESPONSE_ID = {"response_id": {"type": "string", "description": "the id of a response"}}
_NEVER_STORED = {404: "always: responses are not stored, only conversations are"}


def _body() -> "type[Body]":
    # 0.7 MB of a worker and 25 ms, for those whose clients use this API.
    from app.api.responses.body import Body

    return Body


OPERATIONS = (
    Operation(
        "post",
        "/v1/responses",
        "OpenAI's Responses",
        object_of(object={"const": "response"}, id={"type": "string"}, output={"type": "array"}),
        body=_body,
        streams=True,
        failures=OF_ANSWERS,
    ),
    Operation(
        "get", "/v1/responses/{response_id}", "Responses are not stored", {}, _RESPONSE_ID, failures=_NEVER_STORED
    ),
    Operation(
        "delete", "/v1/responses/{response_id}", "Responses are not stored", {}, _RESPONSE_ID, failures=_NEVER_STORED
    ),
)

"""The paths of OpenAI's chat completions.

    POST   /v1/chat/completions                    stateless: nothing is remembered
    POST   /v1/chat/completions/{conversation_id}  a conversation that Kimi holds
    GET    /v1/chat/completions/{conversation_id}  what is known of it
    DELETE /v1/chat/completions/{conversation_id}  forgets it

Must never know that Kimi exists.
"""

from typing import Any

from flask import Blueprint, Response

from app.api.chat_completions.body import Body
from app.api.chat_completions.encoder import ChatEncoder
from app.store import ConversationRow
from app.web.accepted_request import accept
from app.web.answer_response import respond
from app.web.conversation_id import only_conversation
from app.web.operations import OF_ANSWERS, Operation, object_of
from app.web.request_context import caller, gateway, json_response, reply_id

blueprint = Blueprint("chat_completions", __name__)


@blueprint.post("/chat/completions")
@blueprint.post("/chat/completions/<id:conversation_id>")
def create(conversation_id: str | None = None) -> Response:
    accepted = accept(Body, conversation_id)
    body, who = accepted.body, accepted.caller
    request = body.to_request(accepted.conversation_id)
    answer = gateway().open(request, who, commit=body.wants_stream, choices=body.choices)
    encoder = ChatEncoder(
        reply_id("chatcmpl-", who),
        body.model,
        body.choices,
        stream_usage=body.wants_usage,
        uses_functions=body.uses_functions,
    )
    return respond(answer, encoder, stream=body.wants_stream, headers=accepted.headers)


@blueprint.get("/chat/completions/<id:conversation_id>")
def get_conversation(conversation_id: str) -> Response:
    owner = caller().owner
    return json_response(_encode_conversation(gateway().find_conversation(owner, only_conversation(conversation_id))))


@blueprint.delete("/chat/completions/<id:conversation_id>")
def delete_conversation(conversation_id: str) -> Response:
    gateway().forget_conversation(caller(), only_conversation(conversation_id))
    return json_response({"object": "conversation.deleted", "id": conversation_id, "deleted": True})


def _encode_conversation(row: ConversationRow) -> dict[str, Any]:
    return {
        "object": "conversation",
        "id": row.id,
        "model": row.model,
        "turns": row.turns,
        "created": int(row.created_at),
        "updated": int(row.updated_at),
        "busy": gateway().is_busy(row),
    }


_CHOICE = object_of(
    index={"type": "integer"},
    message=object_of(role={"const": "assistant"}, content={"type": ["string", "null"]}, refusal={"type": "null"}),
    finish_reason={"enum": ["stop", "length", "content_filter", "tool_calls", "function_call"]},
    logprobs={"type": "null"},
)
_COMPLETION = object_of(
    id={"type": "string"},
    object={"const": "chat.completion"},
    created={"type": "integer"},
    model={"type": "string"},
    choices={"type": "array", "items": _CHOICE},
    usage=object_of(
        prompt_tokens={"type": "integer"}, completion_tokens={"type": "integer"}, total_tokens={"type": "integer"}
    ),
)
_ONE = "/v1/chat/completions/{conversation_id}"
_ITS_ID = {
    "conversation_id": {
        "type": "string",
        "pattern": "^[A-Za-z0-9._:-]{1,128}$",
        "description": "yours to choose: 1 to 128 of A-Z a-z 0-9 . _ : -",
    }
}
_UNKNOWN = {404: "there is no such conversation of this key"}

OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "An answer; nothing is remembered, unless the body names a conversation",
        _COMPLETION,
        body=lambda: Body,
        streams=True,
        failures=OF_ANSWERS,
    ),
    Operation(
        "post",
        _ONE,
        "The next turn of a conversation",
        _COMPLETION,
        _ITS_ID,
        lambda: Body,
        streams=True,
        failures=OF_ANSWERS,
    ),
    Operation(
        "get",
        _ONE,
        "What is known of a conversation; never its text",
        object_of(object={"const": "conversation"}, id={"type": "string"}, turns={"type": "integer"}),
        _ITS_ID,
        failures=_UNKNOWN,
    ),
    Operation(
        "delete",
        _ONE,
        "Forgets a conversation and deletes its chat at Kimi",
        object_of(object={"const": "conversation.deleted"}, id={"type": "string"}, deleted={"const": True}),
        _ITS_ID,
        failures={**_UNKNOWN, 409: "a turn of it is running"},
    ),
)

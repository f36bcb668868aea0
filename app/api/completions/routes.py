"""The path of OpenAI's legacy Completions: POST /v1/completions.

Without ``max_tokens`` an answer is complete; OpenAI stops after 16 tokens. Must never know that Kimi exists.
"""

from typing import TYPE_CHECKING

from flask import Blueprint, Response

from app.api.completions.encoder import CompletionEncoder
from app.web.accepted_request import accept
from app.web.answer_response import respond
from app.web.operations import OF_ANSWERS, Operation, object_of
from app.web.request_context import gateway, reply_id

if TYPE_CHECKING:
    from app.api.completions.body import Body

blueprint = Blueprint("completions", __name__)


@blueprint.post("/completions")
def create() -> Response:
    accepted = accept(_body())
    body, who = accepted.body, accepted.caller
    answer = gateway().open(body.to_request(accepted.conversation_id), who, commit=body.wants_stream)
    encoder = CompletionEncoder(reply_id("cmpl-", who), body.model, stream_usage=body.wants_usage)
    return respond(answer, encoder, stream=body.wants_stream, headers=accepted.headers)


def _body() -> "type[Body]":
    # 0.1 MB of a worker, for those whose clients use this API.
    from app.api.completions.body import Body

    return Body


OPERATIONS = (
    Operation(
        "post",
        "/v1/completions",
        "OpenAI's legacy Completions: from a prompt to a text",
        object_of(object={"const": "text_completion"}, choices={"type": "array", "items": {"type": "object"}}),
        body=_body,
        streams=True,
        failures=OF_ANSWERS,
    ),
)

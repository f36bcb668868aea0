"""The paths of Anthropic's Messages: POST /v1/messages and POST /v1/messages/count_tokens.

Must never know that Kimi exists.
"""

from typing import TYPE_CHECKING, NoReturn

from flask import Blueprint, Response, g
from werkzeug.exceptions import MethodNotAllowed, NotFound

from app.api.messages.encoder import MessageEncoder
from app.text import token_count
from app.web.accepted_request import accept
from app.web.answer_response import respond
from app.web.anthropic_shapes import encode_error
from app.web.error_responses import answer_failures
from app.web.operations import OF_ANSWERS, Operation, object_of
from app.web.request_body import receive
from app.web.request_context import caller, gateway, json_response, reply_id

if TYPE_CHECKING:
    from app.api.messages.body import Body, PromptBody

blueprint = Blueprint("messages", __name__)

answer_failures(blueprint, encode_error)


@blueprint.after_request
def _name_request(response: Response) -> Response:
    # Anthropic's SDKs look for the id under this name.
    response.headers["request-id"] = g.request_id
    return response


@blueprint.post("/messages")
def create() -> Response:
    accepted = accept(_body())
    body, who = accepted.body, accepted.caller
    answer = gateway().open(body.to_request(accepted.conversation_id), who, commit=body.wants_stream)
    encoder = MessageEncoder(reply_id("msg_", who), body.model, show_thinking=body.wants_thinking)
    return respond(answer, encoder, stream=body.wants_stream, headers=accepted.headers)


@blueprint.post("/messages/count_tokens")
def count_tokens() -> Response:
    """An estimate of the tokens that would be sent, functions included."""
    body, _ = receive(_prompt_body(), caller())
    text = gateway().prompt_text(body.to_request())
    return json_response({"input_tokens": token_count.estimate(text)})


@blueprint.route("/messages", methods=["GET", "PUT", "PATCH", "DELETE"])
@blueprint.route("/messages/count_tokens", methods=["GET", "PUT", "PATCH", "DELETE"])
def wrong_method() -> NoReturn:
    """Here, so that the error has this API's shape."""
    raise MethodNotAllowed(["POST"])


@blueprint.route("/messages/<anything:rest>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def unknown(rest: str) -> NoReturn:  # noqa: ARG001  # an argument of the route
    raise NotFound


_ERROR = object_of(
    type={"const": "error"},
    error=object_of(type={"type": "string"}, message={"type": "string"}),
    request_id={"type": "string"},
)


def _body() -> "type[Body]":
    # 0.6 MB of a worker and 20 ms, for those whose clients use this API.
    from app.api.messages.body import Body

    return Body


def _prompt_body() -> "type[PromptBody]":
    # As above.
    from app.api.messages.body import PromptBody

    return PromptBody


OPERATIONS = (
    Operation(
        "post",
        "/v1/messages",
        "Anthropic's Messages",
        object_of(type={"const": "message"}, id={"type": "string"}, content={"type": "array"}),
        body=_body,
        streams=True,
        failures=OF_ANSWERS,
        error=_ERROR,
    ),
    Operation(
        "post",
        "/v1/messages/count_tokens",
        "An estimate of the tokens of a prompt",
        object_of(input_tokens={"type": "integer"}),
        body=_prompt_body,
        failures={404: "there is no such model", 413: "the body is too large"},
        error=_ERROR,
    ),
)

"""The models: GET /v1/models and GET /v1/models/{id}, in OpenAI's shape, or in Anthropic's for its clients."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from flask import Blueprint, Response, request

from app.chat import Model
from app.errors import InvalidRequest
from app.web.anthropic_shapes import encode_error, is_anthropic
from app.web.error_responses import Failure, answer_failures, openai_error
from app.web.operations import Operation, object_of
from app.web.request_context import caller, gateway, json_response

blueprint = Blueprint("models", __name__)

# Clients expect a number. Kimi reports none, so this is the day on which the list was written. Unix seconds.
_CREATED = 1763856000
_CREATED_AT = "2025-11-23T00:00:00Z"

# How many models Anthropic's list may be asked for at once, and how many come if it is not said: all that there are.
_MOST = 1000


def _encode_failure(failure: Failure) -> dict[str, Any]:
    return encode_error(failure) if is_anthropic() else openai_error(failure)


answer_failures(blueprint, _encode_failure)


@blueprint.get("/models")
def list_models() -> Response:
    models = gateway().models_of(caller())
    if is_anthropic():
        return json_response(_page(models))
    return json_response({"object": "list", "data": [_encode(model) for model in models]})


@blueprint.get("/models/<id:model_id>")
def get_model(model_id: str) -> Response:
    # Apache may pass the id percent-encoded (openai-contract.md 1.11).
    model = gateway().model(unquote(model_id), caller())
    return json_response(_encode_for_anthropic(model) if is_anthropic() else _encode(model))


def _page(models: Sequence[Model]) -> dict[str, Any]:
    """A part of the list, as Anthropic's clients ask for it. Raises InvalidRequest."""
    limit = request.args.get("limit", str(_MOST))
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= _MOST:
        raise InvalidRequest(f"limit: expected a whole number from 1 to {_MOST}", param="limit")
    ids = [model.id for model in models]
    first, end = 0, len(ids)
    if (after := request.args.get("after_id")) is not None:
        first = _place(ids, after, "after_id") + 1
    if (before := request.args.get("before_id")) is not None:
        end = _place(ids, before, "before_id")
        first = max(first, end - int(limit))
    page = models[first : min(end, first + int(limit))]
    return {
        "data": [_encode_for_anthropic(model) for model in page],
        "has_more": first > 0 if before is not None else first + len(page) < end,
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


def _place(ids: Sequence[str], model_id: str, field: str) -> int:
    if model_id not in ids:
        raise InvalidRequest(f"{field}: there is no such model", param=field)
    return ids.index(model_id)


def _encode_for_anthropic(model: Model) -> dict[str, Any]:
    return {"type": "model", "id": model.id, "display_name": model.title, "created_at": _CREATED_AT}


def _encode(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": _CREATED,
        "owned_by": "moonshot-ai",
        "name": model.title,
    }


_MODEL = object_of(
    id={"type": "string"}, object={"const": "model"}, created={"type": "integer"}, owned_by={"type": "string"}
)
OPERATIONS = (
    Operation(
        "get",
        "/v1/models",
        "All models",
        object_of(object={"const": "list"}, data={"type": "array", "items": _MODEL}),
    ),
    Operation(
        "get",
        "/v1/models/{model_id}",
        "One model",
        _MODEL,
        {"model_id": {"type": "string", "description": "an id from the list of models"}},
        failures={403: "the API key may not use this model", 404: "there is no such model"},
    ),
)

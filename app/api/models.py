"""OpenAI's list of models: GET /v1/models and GET /v1/models/{id}."""

from typing import Any
from urllib.parse import unquote

from flask import Blueprint, Response

from app.chat import Model
from app.web.operations import Operation, object_of
from app.web.request_context import caller, gateway, json_response

blueprint = Blueprint("models", __name__)

# Clients expect a number. Kimi reports none, so this is the day on which the list was written. Unix seconds.
_CREATED = 1763856000


@blueprint.get("/models")
def list_models() -> Response:
    models = gateway().models_of(caller())
    return json_response({"object": "list", "data": [_encode(model) for model in models]})


@blueprint.get("/models/<id:model_id>")
def get_model(model_id: str) -> Response:
    caller()
    # Apache may pass the id percent-encoded (openai-contract.md 1.11).
    return json_response(_encode(gateway().model(unquote(model_id))))


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
        failures={404: "there is no such model"},
    ),
)

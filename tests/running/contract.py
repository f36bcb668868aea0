"""Whether an answer is what OpenAI's clients are promised: by the SDK's own models, strictly, and by OpenAI's own
published schemas. Every answer that the test suite gets goes through here, see ``tests.running``.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import requests
from openai.types import FileObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion import Completion
from pydantic import BaseModel

_PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "openai-openapi.json").read_text())

# Where OpenAI's shapes are promised, by the end of the path: the SDK's model and the name of the schema.
_WHOLE: dict[str, tuple[type[BaseModel], str]] = {
    "chat.completion": (ChatCompletion, "CreateChatCompletionResponse"),
    "text_completion": (Completion, "CreateCompletionResponse"),
    "model": (Model, "Model"),
}


def check_response(response: requests.Response) -> None:
    """A response that has been read to its end."""
    if response.headers.get("Content-Type") != "application/json" or response.request.method == "HEAD":
        return
    body = response.json()
    if response.status_code >= 400:
        if "/messages" not in (response.request.path_url or "") and "/readyz" not in response.request.path_url:
            _validate("ErrorResponse", body)
        return
    assert "error" not in body or body["error"] is None, "a failure with the status of a success"
    kind = body.get("object")
    if kind in _WHOLE:
        model, schema = _WHOLE[kind]
        model.model_validate(body, strict=True)
        _validate(schema, body)
    elif kind == "file":
        _check_file(body)
    elif kind == "list" and all(one["object"] == "file" for one in body["data"]):
        for one in body["data"]:
            _check_file(one)
    elif kind == "list":
        _validate("ListModelsResponse", body)


def _check_file(body: dict[str, Any]) -> None:
    # The answer to a deletion has no size.
    if "bytes" in body:
        FileObject.model_validate(body, strict=True)


def check_chunk(chunk: dict[str, Any]) -> None:
    """One event of a stream of chat completions."""
    if "error" in chunk:
        _validate("ErrorResponse", chunk)
        return
    ChatCompletionChunk.model_validate(chunk, strict=True)
    # OpenAI's own service sends `usage: null` where its schema has no null: a known wart.
    _validate(
        "CreateChatCompletionStreamResponse",
        {name: value for name, value in chunk.items() if name != "usage" or value is not None},
    )


def _validate(schema: str, body: Any) -> None:
    _validator(schema).validate(body)


@cache
def _validator(schema: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.Draft202012Validator({"$ref": f"#/components/schemas/{schema}", **_PUBLISHED})

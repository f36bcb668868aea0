"""The OpenAPI document and its page for people: GET /openapi.json and GET /docs.

The document is generated from the models that validate requests, so it always agrees with them. The page loads
nothing from other hosts. Format: https://spec.openapis.org/oas/v3.1.1 (read 2026-11). Must never know a parameter or
a shape of any API.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from flask import Blueprint, Flask, Response, current_app, render_template, request
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app import __version__
from app.web.operations import Operation
from app.web.request_context import json_response

blueprint = Blueprint("openapi", __name__)

_ABOUT = """\
OpenAI-compatible and Anthropic-compatible APIs for Kimi. Every path under /v1 also works without the prefix /v1.
With the base URL /v1/conversations/{id}, requests are turns of that conversation. Errors are JSON, also on unknown
paths. Responses have the headers x-request-id (yours, if you sent one), x-ignored-params if parameters had no effect,
and x-should-retry: false if a retry cannot help or could send a message twice."""

_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
}

_REFERENCE = "#/components/schemas/"


def install(app: Flask, operations: Iterable[Operation]) -> None:
    """Adds the routes. The document is generated at the first request: that takes as long as the rest of a start."""
    app.extensions["openapi"] = cache(lambda: document([*operations, *OPERATIONS]))
    app.register_blueprint(blueprint)


@blueprint.get("/openapi.json")
def show_document() -> Response:
    # Behind a proxy the gateway may have a path of its own, which the server says.
    return json_response({**_document(), "servers": [{"url": request.script_root or "/"}]})


@blueprint.get("/docs")
def show_page() -> Response:
    page = render_template("docs.html", document=_document(), fields_of=_fields_of)
    response = Response(page, content_type="text/html; charset=utf-8")
    # The page loads nothing and runs no script.
    response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    return response


def _document() -> dict[str, Any]:
    generate: Callable[[], dict[str, Any]] = current_app.extensions["openapi"]
    return generate()


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The OpenAPI document."""
    operations = list(operations)
    bodies, components = _schemas_of({operation.body(): None for operation in operations if operation.body})
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation, bodies)
    return {
        "openapi": "3.1.1",
        "info": {"title": "Kimi Gateway", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY},
    }


def _schemas_of(models: Iterable[type[BaseModel]]) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    """The reference to each model, and the schemas behind the references."""
    models = list(models)
    references, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE + "{model}"
    )
    schemas = definitions.get("$defs", {})
    bodies = {model: _renamed(references[model, "validation"]) for model in models}
    return bodies, {_plain(name): _renamed(schema) for name, schema in schemas.items()}


def _renamed(schema: Any) -> Any:
    """``schema`` with plain names in its references."""
    if isinstance(schema, dict):
        return {name: _renamed(value) for name, value in schema.items()}
    if isinstance(schema, list):
        return [_renamed(value) for value in schema]
    if isinstance(schema, str) and schema.startswith(_REFERENCE):
        return _REFERENCE + _plain(schema.removeprefix(_REFERENCE))
    return schema


def _plain(name: str) -> str:
    """pydantic's ``app__api__messages__body___Thinking`` → ``messages.Thinking``, and ``_Call`` → ``Call``."""
    module, _, kind = name.removeprefix("app__api__").rpartition("__")
    return ".".join(filter(None, (module.partition("__")[0], (kind or name).lstrip("_"))))


def _describe(operation: Operation, bodies: Mapping[type[BaseModel], Any]) -> dict[str, Any]:
    content: dict[str, Any] = {operation.media_type: {"schema": operation.answer}}
    if operation.streams:
        content["text/event-stream"] = {}
    failure = {"content": {"application/json": {"schema": operation.error}}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": "success", "content": content},
            **{str(status): {"description": why, **failure} for status, why in operation.all_failures.items()},
        },
        # {}: without configured keys, programs on the same machine need no key.
        "security": [] if operation.is_open else [{}, *({name: []} for name in _SECURITY)],
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in operation.parameters.items()
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()]
    if parameters:
        described["parameters"] = parameters
    if operation.form is not None:
        content_of_form = {"multipart/form-data": {"schema": operation.form}}
        described["requestBody"] = {"required": True, "content": content_of_form}
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": bodies[operation.body()]}},
        }
    return described


def _fields_of(schema: Mapping[str, Any]) -> Iterator[tuple[str, bool, str, str]]:
    """For the page: name, whether it is required, type and description of each field of a body."""
    if "$ref" in schema:
        schemas = _document()["components"]["schemas"]
        schema = schemas[schema["$ref"].removeprefix(_REFERENCE)]
    for name, field in schema.get("properties", {}).items():
        yield name, name in schema.get("required", ()), _type_of(field), field.get("description", "")


def _type_of(schema: Mapping[str, Any]) -> str:
    """A type in a few words. The document has the details of objects and lists."""
    kinds = schema.get("anyOf") or schema.get("oneOf")
    if kinds:
        return " or ".join(dict.fromkeys(filter(None, map(_type_of, kinds))))
    if "enum" in schema or "const" in schema:
        return ", ".join(f'"{value}"' for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "object" if "$ref" in schema else "any"))
    return "" if kind == "null" else kind


OPERATIONS = (
    Operation("get", "/openapi.json", "The OpenAPI document", {"type": "object"}, is_open=True),
    Operation("get", "/docs", "This page", {"type": "string"}, is_open=True, media_type="text/html"),
)

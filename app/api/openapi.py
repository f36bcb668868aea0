"""What this gateway offers, for machines and for people: GET /openapi.json and GET /docs.

The document is made from the models that validate requests, so it cannot say anything else than they do. The page
needs nothing from any other host. Format: https://spec.openapis.org/oas/v3.1.1 (read 2026-11). Must never know a
parameter or a shape of any API.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from flask import Blueprint, Flask, Response, current_app, render_template
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app import __version__
from app.web.operations import Operation
from app.web.request_context import json_response

blueprint = Blueprint("openapi", __name__)

_ABOUT = """\
Kimi, behind OpenAI's API. Every path under /v1 works without it too. A base URL of /v1/conversations/{id} in front of
an endpoint makes its requests turns of that conversation. Errors are JSON, on unknown paths as well.
Responses carry x-request-id (yours, if you sent one), x-ignored-params where parameters had no effect, and
x-should-retry: false where a repetition cannot help or could double a message."""

_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
}

_REFERENCE = "#/components/schemas/"


def install(app: Flask, operations: Iterable[Operation]) -> None:
    """The document is made when it is first asked for: it takes as long as all the rest of a start."""
    app.extensions["openapi"] = cache(lambda: document([*operations, *OPERATIONS]))
    app.register_blueprint(blueprint)


@blueprint.get("/openapi.json")
def show_document() -> Response:
    return json_response(_document())


@blueprint.get("/docs")
def show_page() -> Response:
    page = render_template("docs.html", document=_document(), fields_of=_fields_of)
    response = Response(page, content_type="text/html; charset=utf-8")
    # Nothing is loaded from anywhere, and nothing in it runs.
    response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    return response


def _document() -> dict[str, Any]:
    made: Callable[[], dict[str, Any]] = current_app.extensions["openapi"]
    return made()


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The OpenAPI document."""
    operations = list(operations)
    bodies, components = _schemas_of({operation.body: None for operation in operations if operation.body})
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
    """The reference to each model, and what is referred to."""
    models = list(models)
    references, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE + "{model}"
    )
    schemas = definitions.get("$defs", {})
    bodies = {model: _renamed(references[model, "validation"]) for model in models}
    return bodies, {_plain(name): _renamed(schema) for name, schema in schemas.items()}


def _renamed(schema: Any) -> Any:
    """``schema`` with the plain names of what it refers to."""
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
            "200": {"description": "as asked", "content": content},
            **{str(status): {"description": why, **failure} for status, why in operation.all_failures.items()},
        },
        # {}: without keys, programs on the same machine need none.
        "security": [] if operation.is_open else [{}, *({name: []} for name in _SECURITY)],
    }
    if operation.parameters:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": schema}
            for name, schema in operation.parameters.items()
        ]
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": bodies[operation.body]}},
        }
    return described


def _fields_of(schema: Mapping[str, Any]) -> Iterator[tuple[str, bool, str, str]]:
    """For the page: name, whether it must be there, type, and what is done with it, of each field of a body."""
    if "$ref" in schema:
        schemas = _document()["components"]["schemas"]
        schema = schemas[schema["$ref"].removeprefix(_REFERENCE)]
    for name, field in schema.get("properties", {}).items():
        yield name, name in schema.get("required", ()), _type_of(field), field.get("description", "")


def _type_of(schema: Mapping[str, Any]) -> str:
    """A type in a few words; what is deeper stands in the document."""
    kinds = schema.get("anyOf") or schema.get("oneOf")
    if kinds:
        return " or ".join(dict.fromkeys(filter(None, map(_type_of, kinds))))
    if "enum" in schema or "const" in schema:
        return ", ".join(f'"{value}"' for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "object" if "$ref" in schema else "any"))
    return "" if kind == "null" else kind


OPERATIONS = (
    Operation("get", "/openapi.json", "This document", {"type": "object"}, is_open=True),
    Operation("get", "/docs", "This document, for people", {"type": "string"}, is_open=True, media_type="text/html"),
)

"""The OpenAPI document and its page for people: GET /openapi.json and GET /docs.

The document is generated from the models that validate requests, so it always agrees with them. The page loads
nothing from other hosts. Format: https://spec.openapis.org/oas/v3.1.1 (read 2026-11). Must never know a parameter or
a shape of any API.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jinja2
import orjson
from flask import Blueprint, Flask, Response, current_app, request
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app import __version__
from app.concurrency.native_thread import in_native_thread
from app.concurrency.yielding import pause
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
    app.extensions["openapi"] = _Documentation([*operations, *OPERATIONS])
    app.register_blueprint(blueprint)


@dataclass(frozen=True, slots=True)
class _Made:
    # The document, field by field.
    fields: dict[str, orjson.Fragment]
    page: bytes


class _Documentation:
    """The document and its page, made once."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = operations
        self._made: _Made | None = None
        self._making = threading.Lock()

    def made(self) -> _Made:
        """Waits while another request makes it."""
        with self._making:
            if self._made is None:
                for operation in self._operations:
                    if operation.body:
                        # Here: an import must not run in a thread beside others.
                        operation.body()
                        pause()
                # It takes a fifth of a second, and must not hold the streams of this worker.
                self._made = in_native_thread(partial(_make, self._operations))
            return self._made


def _make(operations: Sequence[Operation]) -> _Made:
    made = document(operations)
    # Not that of Flask, which belongs to the thread that serves requests.
    templates = jinja2.Environment(loader=jinja2.PackageLoader("app"), autoescape=True)
    page = templates.get_template("docs.html").render(document=made, fields_of=partial(_fields_of, made))
    return _Made({name: orjson.Fragment(orjson.dumps(value)) for name, value in made.items()}, page.encode())


@blueprint.get("/openapi.json")
def show_document() -> Response:
    # Behind a proxy the gateway may have a path of its own, which the server says.
    return json_response({**_documentation().fields, "servers": [{"url": request.script_root or "/"}]})


@blueprint.get("/docs")
def show_page() -> Response:
    response = Response(_documentation().page, content_type="text/html; charset=utf-8")
    # The page loads nothing and runs no script.
    response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    return response


def _documentation() -> _Made:
    return cast(_Documentation, current_app.extensions["openapi"]).made()


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


def _fields_of(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[tuple[str, bool, str, str]]:
    """For the page: name, whether it is required, type and description of each field of a body."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].removeprefix(_REFERENCE)]
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

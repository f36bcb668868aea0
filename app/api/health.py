"""Whether the process lives, and whether a chat could be served: GET /healthz and GET /readyz."""

from flask import Blueprint, Response

from app import __version__
from app.web.operations import Operation, object_of
from app.web.request_context import gateway, json_response

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    return json_response({"status": "ok", "version": __version__})


@blueprint.get("/readyz")
def readyz() -> Response:
    """503 with the reasons where no account is usable or the database cannot be written."""
    problems = gateway().problems()
    if problems:
        return json_response({"status": "not ready", "problems": problems}, 503)
    warnings = gateway().warnings()
    return json_response({"status": "ready", **({"warnings": warnings} if warnings else {})})


OPERATIONS = (
    Operation(
        "get",
        "/healthz",
        "Whether the process lives, and its version",
        object_of(status={"const": "ok"}, version={"type": "string"}),
        is_open=True,
    ),
    Operation(
        "get",
        "/readyz",
        "Whether a chat could be served now",
        object_of(status={"const": "ready"}),
        is_open=True,
        failures={503: "it could not; `problems` says why"},
        error=object_of(status={"const": "not ready"}, problems={"type": "array", "items": {"type": "string"}}),
    ),
)

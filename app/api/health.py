"""Whether the process lives, and whether a chat could be served: GET /healthz and GET /readyz."""

from flask import Blueprint, Response, request

from app import __version__
from app.accounts.standings import Language
from app.web.operations import Operation, object_of
from app.web.request_context import gateway, is_known_caller, json_response

blueprint = Blueprint("health", __name__)

# How old the answer may be that a caller without a key gets: anyone may ask, as often as they like. Seconds.
_PUBLIC_AGE_S = 1.0


@blueprint.get("/healthz")
def healthz() -> Response:
    return json_response({"status": "ok", "version": __version__})


@blueprint.get("/readyz")
def readyz() -> Response:
    """503 with the reasons where no account is usable or the database cannot be written. Only a caller with an API
    key learns what concerns single accounts: their names, and when their tokens expire. In English, or in Chinese if
    ``Accept-Language`` asks for it."""
    is_known = is_known_caller()
    language: Language = "zh" if request.accept_languages.best_match(["en", "zh"]) == "zh" else "en"
    readiness = gateway().readiness(0.0 if is_known else _PUBLIC_AGE_S).in_language(language)
    if readiness.problems:
        problems = readiness.problems if is_known else readiness.public_problems
        return json_response({"status": "not ready", "problems": problems}, 503)
    warnings = readiness.warnings if is_known else []
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

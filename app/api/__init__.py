"""What all public APIs share: who asks, and OpenAI's shape of an error.

``ls app/api`` is the list of public endpoints. Must never know that Kimi exists.
"""

import logging
import math
import re
import uuid
from typing import Any, cast
from urllib.parse import urlsplit

import orjson
from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from app import logs
from app.auth import ApiKeys
from app.chat import Caller
from app.config import is_loopback
from app.errors import GatewayError
from app.gateway import Gateway
from app.streaming import client_watch

log = logging.getLogger(__name__)

# OpenAI's `type` for a status; LiteLLM and others classify by it (openai-contract.md 1.5).
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    429: "rate_limit_error",
}

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def gateway() -> Gateway:
    return cast(Gateway, current_app.extensions["gateway"])


def caller() -> Caller:
    """Who sent the current request. Raises NotAuthorized."""
    keys = cast(ApiKeys, current_app.extensions["api_keys"])
    return Caller(keys.owner(_api_key(), _is_local()), client_watch(request.environ))


def json_response(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, content_type="application/json")


def error_object(error: GatewayError) -> dict[str, Any]:
    """``{"error": {message, type, param, code}}``: all four, always."""
    default = "server_error" if error.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(error.status, default),
            "param": error.param,
            "code": error.code,
        }
    }


def error_response(error: GatewayError) -> Response:
    response = json_response(error_object(error), error.status)
    # 429 says that the message was not taken; with any other failure, an SDK's own retry could double it.
    if error.permanent or (error.sent and error.status != 429):
        response.headers["x-should-retry"] = "false"
    if error.retry_after_s is not None and not error.permanent:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    log.info("answered %d %s: %s", error.status, error.code, error.message)
    return response


def install(app: Flask) -> None:
    """Request ids, and JSON for everything that can go wrong, unknown routes and faults of ours included."""
    app.before_request(_begin)
    app.after_request(_end)
    app.register_error_handler(GatewayError, error_response)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _fault)


def _begin() -> None:
    sent = request.headers.get("x-request-id", "")
    g.request_id = sent if _SANE_REQUEST_ID.fullmatch(sent) else f"req_{uuid.uuid4().hex}"
    logs.request_id.set(g.request_id)


def _end(response: Response) -> Response:
    response.headers["x-request-id"] = g.request_id
    return response


def _http_error(error: HTTPException) -> Response:
    """Flask's own refusals: unknown route, wrong method, body too large."""
    status = error.code or 500
    message = {
        404: _unknown_url(),
        405: f"{request.method} is not possible on {request.path}",
        413: f"the body is larger than {current_app.config['MAX_CONTENT_LENGTH']} bytes (MAX_BODY_BYTES)",
    }.get(status, error.description or error.name)
    code = {404: "unknown_url", 405: "method_not_allowed", 413: "body_too_large"}.get(status)
    default = "server_error" if status >= 500 else "invalid_request_error"
    body = {"message": message, "type": _TYPES.get(status, default), "param": None, "code": code}
    response = json_response({"error": body}, status)
    allow = error.get_response().headers.get("Allow")
    if allow:
        response.headers["Allow"] = allow
    return response


def _unknown_url() -> str:
    if request.path.startswith("/v1/v1/"):
        return f"Unknown URL: {request.path}. Your client adds /v1 by itself: take it off the base URL that you set"
    return f"Unknown URL: {request.method} {request.path}"


def _fault(error: Exception) -> Response:
    log.error("a request failed for a reason of our own", exc_info=error)
    return error_response(
        GatewayError(
            f"the gateway itself failed; its log says more at request {g.get('request_id', '-')}",
            code="internal_error",
        )
    )


def _api_key() -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get("x-api-key") or request.headers.get("api-key") or None


def _name(address: str) -> str:
    """The host in ``host:port`` or in an URL; empty where there is none."""
    try:
        return urlsplit(address if "//" in address else f"//{address}").hostname or ""
    except ValueError:
        return address


def _is_local() -> bool:
    """Whether the request was made by a program on this machine, as far as WSGI and headers tell.

    Not only the address counts: a page of some web site, opened in a browser on this machine, sends requests from
    here too. They show its site as Origin, or, with a trick of DNS, its name as Host.
    """
    hops = [hop.strip() for hop in request.headers.get("X-Forwarded-For", "").split(",")]
    origin = request.headers.get("Origin")
    names = [_name(request.headers.get("Host", "")), *([] if origin is None else [_name(origin) or origin])]
    # A server on a unix socket has no address to tell: the empty one counts as local.
    return all(not hop or is_loopback(hop) for hop in [request.environ.get("REMOTE_ADDR") or "", *hops, *names])

"""From any exception to a response: status, headers, and a body in the shape of the API that was asked.

An API with a shape of its own calls ``answer_failures(blueprint, encode)``; everything else, unknown paths too, gets
OpenAI's. Must never know why anything fails.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from app import logs
from app.errors import DatabaseUnavailable, GatewayError, RateLimit, code_of
from app.request_record import RequestRecord
from app.store import StoreError
from app.web.conversation_id import names_two_endpoints
from app.web.request_context import json_response

log = logging.getLogger(__name__)


# What is repeated of a client's or Kimi's words has a length. Characters.
_MAX_MESSAGE = 2_000
_MAX_PARAM = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """What a client may know of a failure, in no API's words. ``message`` and ``param`` are cut at a length."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    # False: an SDK must not repeat the request by itself.
    should_retry: bool = True
    retry_after_s: int | None = None
    allow: str | None = None
    rate_limit: RateLimit | None = None

    def __post_init__(self) -> None:
        if len(self.message) > _MAX_MESSAGE:
            object.__setattr__(self, "message", _shortened(self.message, _MAX_MESSAGE))
        if self.param is not None and len(self.param) > _MAX_PARAM:
            object.__setattr__(self, "param", _shortened(self.param, _MAX_PARAM))


def _shortened(text: str, length: int) -> str:
    return f"{text[: length - 40]}[... {len(text) - length + 40} characters]"


Encode = Callable[[Failure], dict[str, Any]]

# OpenAI's `type` for a status; LiteLLM and others classify by it (openai-contract.md 1.5).
_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


# SDKs are told not to repeat after a longer wait: some treat a wait that they find too long as none at all. Seconds.
_MAX_SDK_WAIT_S = 60


def failure_of(error: Exception) -> Failure:
    """What the client may know of ``error``. A fault of ours is logged here, with its traceback."""
    if isinstance(error, StoreError):
        log.error(
            "database_failed error=%s", error, exc_info=None if error.is_transient or error.is_unwritable else error
        )
        # What may have been written may have been a request's claim to be the only one: an SDK must not repeat it.
        error = DatabaseUnavailable.after(
            error.driver_error, reached_upstream=error.may_have_run, is_unwritable=error.is_unwritable
        )
    if isinstance(error, GatewayError):
        # 429 says that the message was not taken. After any other failure a repetition could send it a second time.
        retry = not (error.permanent or (error.reached_upstream and error.status != 429))
        wait_s = None if error.retry_after_s is None or error.permanent else max(1, math.ceil(error.retry_after_s))
        if wait_s is not None and wait_s > _MAX_SDK_WAIT_S:
            retry = False
        message = error.message if wait_s is None else _with_time(error.message, wait_s)
        return Failure(error.status, message, error.code, error.param, retry, wait_s, rate_limit=error.rate_limit)
    if isinstance(error, HTTPException):
        return _failure_of_flask(error)
    log.error("request_failed reason=internal", exc_info=error)
    # What happened before the fault is not known, so a repetition could send the message a second time.
    return Failure(
        500,
        f"the gateway itself failed; see its log for request {logs.request_id.get()}",
        "internal_error",
        should_retry=False,
    )


def note_failure(record: RequestRecord | None, error: Exception, failure: Failure) -> None:
    """The request has failed, also where it has a status that says otherwise."""
    if record is None:
        return
    if isinstance(error, GatewayError):
        record.failed(code_of(error), error.blame)
    else:
        record.failed(failure.code or f"http_{failure.status}", "ours" if failure.status >= 500 else "request")


def _with_time(message: str, wait_s: int) -> str:
    """The message with the time after which to try again: no interface shows headers."""
    if wait_s < 120:
        after = f"{wait_s} second{'s' if wait_s > 1 else ''}"
    elif wait_s < 7200:
        after = f"{math.ceil(wait_s / 60)} minutes"
    else:
        after = f"{math.ceil(wait_s / 3600)} hours"
    if "try again later" in message:
        return message.replace("try again later", f"try again in {after}", 1)
    return message if " again in " in message else f"{message}; try again in {after}"


def openai_error(failure: Failure) -> dict[str, Any]:
    """``{"error": {message, type, param, code}}``: all four, always."""
    default = "server_error" if failure.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": failure.message,
            "type": _TYPES.get(failure.status, default),
            "param": failure.param,
            "code": failure.code,
        }
    }


def failure_response(error: Exception, encode: Encode = openai_error) -> Response:
    """The answer to a request that failed. Status and headers are the same for every API."""
    failure = failure_of(error)
    note_failure(g.get("record"), error, failure)
    response = json_response(encode(failure), failure.status)
    if not failure.should_retry:
        response.headers["x-should-retry"] = "false"
    if failure.retry_after_s is not None:
        response.headers["Retry-After"] = str(failure.retry_after_s)
    if failure.rate_limit is not None:
        response.headers["x-ratelimit-limit-requests"] = str(failure.rate_limit.limit)
        response.headers["x-ratelimit-remaining-requests"] = str(failure.rate_limit.remaining)
        response.headers["x-ratelimit-reset-requests"] = f"{math.ceil(failure.rate_limit.reset_s)}s"
    if failure.allow:
        response.headers["Allow"] = failure.allow
    # A message that is not ours may repeat a path, and clients put anything into paths.
    message = failure.message if isinstance(error, GatewayError) else failure.code
    log.info("request_refused status=%d code=%s message=%s", failure.status, failure.code, message)
    return response


def answer_failures(where: Flask | Blueprint, encode: Encode = openai_error) -> None:
    """Every failure within ``where`` is answered in the shape of ``encode``."""

    def answer(error: Exception) -> Response:
        return failure_response(error, encode)

    for kind in (GatewayError, HTTPException, Exception):
        where.register_error_handler(kind, answer)


def _failure_of_flask(error: HTTPException) -> Failure:
    """Unknown route, wrong method, body too large."""
    status = error.code or 500
    message = {
        404: _unknown_url(),
        405: f"{request.method} is not possible on {request.path}",
        413: f"the body is larger than {current_app.config['MAX_CONTENT_LENGTH']} bytes (MAX_BODY_BYTES)",
    }.get(status, error.description or error.name)
    code = {404: "unknown_url", 405: "method_not_allowed", 413: "body_too_large"}.get(status)
    return Failure(status, message, code, should_retry=status >= 500, allow=error.get_response().headers.get("Allow"))


def _unknown_url() -> str:
    unknown = f"Unknown URL: {request.method} {request.path}"
    if "/v1/v1/" in f"{request.path}/":
        return f"{unknown}. Your client adds /v1 by itself: remove it from the base URL that you set"
    if names_two_endpoints(request.path):
        return (
            f"{unknown}. The base URL that you set in your client ends in an endpoint, and the client adds one by "
            f"itself: set it to {request.host_url}v1 (some clients: {request.host_url})"
        )
    if request.path == "/":
        return f"{unknown}. The API is under /v1; /docs describes it"
    if "//" in request.path:
        return f"{unknown}. It has two slashes in a row: remove the one at the end of the base URL that you set"
    return unknown

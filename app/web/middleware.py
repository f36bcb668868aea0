"""What happens to every request, whatever is asked: its id, and JSON for everything that can go wrong."""

import os
import re
import secrets
from functools import partial

from flask import Flask, Response, g, request

from app import logs
from app.errors import GatewayError
from app.web.error_responses import answer_failures
from app.web.rate_limits import Use

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def install(app: Flask) -> None:
    app.before_request(_begin)
    app.before_request(partial(_check_process, os.getpid()))
    app.after_request(_end)
    answer_failures(app)


def _begin() -> None:
    sent = request.headers.get("x-request-id", "")
    g.request_id = sent if _SANE_REQUEST_ID.fullmatch(sent) else f"req_{secrets.token_hex(16)}"
    logs.request_id.set(g.request_id)


def _check_process(loaded_in: int) -> None:
    """A process that was forked off the one which loaded the application has its connections and none of its threads:
    two of them would read each other's rows."""
    if os.getpid() != loaded_in:
        raise GatewayError(
            "this worker was forked after the gateway had been loaded; let each worker load it: uWSGI needs "
            "lazy-apps = true, gunicorn no --preload",
            code="loaded_before_fork",
        )


def _end(response: Response) -> Response:
    response.headers["x-request-id"] = g.request_id
    use: Use | None = g.get("use")
    if use is not None:
        # Where something else was exceeded, its numbers are the ones that count.
        if "x-ratelimit-limit-requests" not in response.headers:
            response.headers.update(use.headers)
        response.call_on_close(use.end)
    if request.method == "OPTIONS":
        # It has no body, so it has no type either; Flask would call it HTML.
        response.headers.pop("Content-Type", None)
    return response

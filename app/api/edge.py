"""What happens to every request, whatever is asked: its id, and JSON for everything that can go wrong."""

import re
import secrets

from flask import Flask, Response, g, request

from app import logs
from app.allowance import Use
from app.api.failures import answer_failures

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def install(app: Flask) -> None:
    app.before_request(_begin)
    app.after_request(_end)
    answer_failures(app)


def _begin() -> None:
    sent = request.headers.get("x-request-id", "")
    g.request_id = sent if _SANE_REQUEST_ID.fullmatch(sent) else f"req_{secrets.token_hex(16)}"
    logs.request_id.set(g.request_id)


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

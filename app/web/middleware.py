"""What happens to every request: it gets an id, and every failure is answered in JSON."""

import os
import re
import secrets
from functools import partial

from flask import Flask, Response, g, request

from app import logs
from app.errors import GatewayError
from app.web.error_responses import answer_failures
from app.web.rate_limits import Admission
from app.web.request_memory import Reservation

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def install(app: Flask) -> None:
    app.before_request(_start)
    app.before_request(partial(_check_process, os.getpid()))
    app.after_request(_finish)
    answer_failures(app)


def _start() -> None:
    sent = request.headers.get("x-request-id", "")
    g.request_id = sent if _SANE_REQUEST_ID.fullmatch(sent) else f"req_{secrets.token_hex(16)}"
    logs.request_id.set(g.request_id)


def _check_process(loaded_in: int) -> None:
    """A process that was forked after the application had been loaded has its connections and none of its threads:
    two such processes would read each other's rows. Raises GatewayError."""
    if os.getpid() != loaded_in:
        raise GatewayError(
            "this worker was forked after the gateway had been loaded; let each worker load it: uWSGI needs "
            "lazy-apps = true, gunicorn no --preload",
            code="loaded_before_fork",
        )


def _finish(response: Response) -> Response:
    response.headers["x-request-id"] = g.request_id
    admission: Admission | None = g.get("admission")
    if admission is not None:
        # Where another limit was exceeded, its numbers are there already, and count.
        if "x-ratelimit-limit-requests" not in response.headers:
            response.headers.update(admission.headers)
        response.call_on_close(admission.end)
    reservation: Reservation | None = g.get("reservation")
    if reservation is not None:
        response.call_on_close(reservation.end)
    if request.method == "OPTIONS":
        # It has no body, so it has no type either; Flask would call it HTML.
        response.headers.pop("Content-Type", None)
    return response

"""What happens to every request: it gets an id, and every failure is answered in JSON."""

import os
import re
import secrets
from functools import partial
from typing import cast

from flask import Flask, Request, Response, current_app

from app import logs
from app.errors import GatewayError
from app.ledger.ledger import Ledger
from app.request_record import RequestRecord
from app.web.client_program import program, trace_id
from app.web.error_responses import answer_failures
from app.web.rate_limits import Admission
from app.web.request_context import current_notes, current_request
from app.web.request_memory import Reservation

# The public APIs by their blueprints, as the request log calls them.
_APIS = {
    "chat_completions": "chat",
    "completions": "completions",
    "responses": "responses",
    "messages": "messages",
    "models": "models",
    "files": "files",
}

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def install(app: Flask) -> None:
    app.before_request(_start)
    app.before_request(partial(_check_process, os.getpid()))
    app.after_request(_finish)
    answer_failures(app)


def _start() -> None:
    request, notes = current_request(), current_notes()
    headers = request.headers
    sent = headers.get("x-request-id", "")
    request_id = notes.request_id = sent if _SANE_REQUEST_ID.fullmatch(sent) else f"req_{secrets.token_hex(16)}"
    logs.request_id.set(request_id)
    notes.record = None
    api = _api(request)
    if api is not None:
        trace = trace_id(headers.get("traceparent", ""))
        ledger = cast(Ledger, current_app.extensions["ledger"])
        notes.record = ledger.begin(api, request_id, program(headers.get("User-Agent", "")), trace)


def _api(request: Request) -> str | None:
    """The API that is asked, for the request log; None for what is no API: health checks, documentation."""
    blueprint = request.blueprint
    if blueprint is None:
        # An unknown URL. Browsers ask before they send anything.
        return None if request.method == "OPTIONS" else "other"
    return _APIS.get(blueprint.partition("_unprefixed")[0].partition("_of_conversation")[0])


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
    notes = current_notes()
    response.headers["x-request-id"] = notes.request_id
    record: RequestRecord | None = notes.record
    if record is not None:
        record.status = response.status_code
        response.call_on_close(record.response_ended)
    admission: Admission | None = notes.get("admission")
    if admission is not None:
        # Where another limit was exceeded, its numbers are there already, and count.
        if "x-ratelimit-limit-requests" not in response.headers:
            response.headers.update(admission.headers)
        response.call_on_close(admission.end)
    reservation: Reservation | None = notes.get("reservation")
    if reservation is not None:
        response.call_on_close(reservation.end)
    if current_request().method == "OPTIONS":
        # It has no body, so it has no type either; Flask would call it HTML.
        response.headers.pop("Content-Type", None)
    return response

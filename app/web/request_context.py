"""The current request: the gateway that serves it, and who sent it.

Must never know that Kimi exists.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
from typing import Any, cast

import orjson
from flask import Request, Response, current_app, g, request
from werkzeug.datastructures import Headers

from app.answers.answer import AnswerInfo
from app.chat import Caller
from app.errors import InvalidRequest, NotAuthorized
from app.gateway import Gateway
from app.request_record import RequestRecord
from app.store import KeyRow, StoreError
from app.web.api_keys import ApiKeys
from app.web.client_connection import client_watch
from app.web.local_requests import why_foreign
from app.web.placeholders import is_placeholder
from app.web.rate_limits import RateLimits

_request: Any = request
_notes: Any = g


def current_request() -> Request:
    """The current request itself: Flask's ``request`` looks for it at each use, with three calls of functions."""
    return cast(Request, _request._get_current_object())


def current_notes() -> Any:
    """What is noted while the current request runs: Flask's ``g`` itself, as above."""
    return _notes._get_current_object()


def gateway() -> Gateway:
    return cast(Gateway, current_app.extensions["gateway"])


def caller() -> Caller:
    """Who sent the current request, which counts against the limits of its key from here on.

    Raises NotAuthorized, KeyLimited, and InvalidRequest for an unusable Idempotency-Key.
    """
    notes = current_notes()
    keys = cast(ApiKeys, current_app.extensions["api_keys"])
    known = keys.find(_api_keys(), _why_foreign)
    record = current_record()
    record.owner = known.owner
    notes.key = known.key
    if known.key is not None and (known.key.per_minute is not None or known.key.at_once is not None):
        # ``middleware`` puts its numbers into the response, and ends it with that.
        admission = notes.admission = cast(RateLimits, current_app.extensions["rate_limits"]).admit(known.key)
        if admission.refusal is not None:
            raise admission.refusal
    models = () if known.key is None else known.key.model_patterns
    return Caller(known.owner, client_watch(request.environ), _idempotency_key(), models, record)


def check_tokens(who: Caller) -> None:
    """Raises KeyLimited: if the key of the current request has used its tokens of this day."""
    key: KeyRow | None = g.key
    if key is not None:
        cast(RateLimits, current_app.extensions["rate_limits"]).check_tokens(key, who.owner)


def current_record() -> RequestRecord:
    """What is noted about the current request."""
    record: RequestRecord | None = g.record
    return RequestRecord() if record is None else record


def is_known_caller() -> bool:
    """Whether the current request may know what ``caller`` may know. It does not count against any limit."""
    try:
        cast(ApiKeys, current_app.extensions["api_keys"]).find(_api_keys(), _why_foreign)
    except (NotAuthorized, StoreError):
        return False
    return True


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", key):
        raise InvalidRequest(
            "an Idempotency-Key is made of 1 to 255 printable ASCII characters",
            code="invalid_idempotency_key",
            param="Idempotency-Key",
        )
    if key is not None and is_placeholder(key):
        raise InvalidRequest(
            f"the Idempotency-Key is '{key}', which a program writes where it has none: all its requests would get "
            "the same answer. Leave the header out, or send another value with each request",
            code="invalid_idempotency_key",
            param="Idempotency-Key",
        )
    return key


def reply_id(prefix: str, who: Caller) -> str:
    """A new id for a reply; the same one for the repetition of a request."""
    if who.idempotency_key is None:
        return prefix + secrets.token_hex(16)
    return prefix + hashlib.sha256(f"{who.owner}\0{who.idempotency_key}".encode()).hexdigest()[:32]


def info_headers(info: AnswerInfo) -> dict[str, str]:
    """The headers for what is known about an answer beside its events."""
    headers = {"x-kimi-notice": ", ".join(info.notices)} if info.notices else {}
    if info.rebuilt_from is not None:
        headers["x-conversation-rebuilt"] = info.rebuilt_from
    if info.conversation is not None:
        headers["x-conversation"] = info.conversation
    return headers


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, content_type="application/json")


def bearer_token() -> str:
    """Of the current request; empty if it has none."""
    return _bearer_token(current_request().headers)


def _bearer_token(headers: Headers) -> str:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _why_foreign() -> str | None:
    return why_foreign(request.environ, current_app.config["CORS_ORIGINS"])


def _api_keys() -> list[str]:
    """The keys that the current request brings. Some programs and proxies send one of their own beside ours."""
    headers = current_request().headers
    sent = (_bearer_token(headers), headers.get("x-api-key", ""), headers.get("api-key", ""))
    return [key for key in sent if key]

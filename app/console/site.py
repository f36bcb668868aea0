"""Makes the console: its one door, its headers, its pages for errors, and its routes.

``_guard`` runs before every request and lets nobody pass without a session, apart from the endpoints in ``OPEN``.
There is no other place where that could be forgotten.
"""

import logging
import secrets
from functools import partial
from typing import Any

from flask import Flask, Response, g, request
from flask.templating import Environment
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from app import logs
from app.concurrency.native_thread import in_native_thread
from app.console import access, accounts, assets, conversations, health, keys, overview, request_log, setup, trial
from app.console.mount import Reach, Services
from app.console.page import Console, console, page, session, to_entry
from app.console.words import Language, sentence_of
from app.errors import GatewayError
from app.store import StoreError

log = logging.getLogger(__name__)

# What can be used without a session: the files of the pages, the entry, language and colours.
OPEN = frozenset({"assets.file", "access.enter", "access.enter_with_ticket", "access.appearance"})

_MAX_BODY_BYTES = 1 << 20

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not "no-referrer": with that browsers send "Origin: null" with forms, and the origin is checked.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class _Templates(Environment):
    """Jinja2, which takes a tenth of a second for the first page, beside the streams of this worker."""

    def compile(self, *args: Any, **options: Any) -> Any:
        return in_native_thread(partial(super().compile, *args, **options))


class _Site(Flask):
    jinja_environment = _Templates


def create_site(services: Services, reach: Reach) -> Flask:
    site = _Site(__name__, static_folder=None)
    site.config["MAX_CONTENT_LENGTH"] = _MAX_BODY_BYTES
    site.config["MAX_FORM_MEMORY_SIZE"] = _MAX_BODY_BYTES
    site.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    site.jinja_env.trim_blocks = site.jinja_env.lstrip_blocks = True
    site.url_map.strict_slashes = False
    site.extensions["console"] = Console(services, reach)
    site.before_request(_guard)
    site.after_request(_add_headers)
    for kind in (GatewayError, HTTPException, StoreError, Exception):
        site.register_error_handler(kind, _answer_failure)
    for part in (assets, access, accounts, overview, request_log, keys, conversations, trial, setup, health):
        site.register_blueprint(part.blueprint)
    return site


def _guard() -> BaseResponse | None:
    g.request_id = f"con_{secrets.token_hex(8)}"
    logs.request_id.set(g.request_id)
    g.language = _language()
    g.theme = request.cookies.get("kimi_console_theme", "")
    g.session = None
    is_safe = request.method in ("GET", "HEAD")
    if not is_safe and not _is_own_page():
        return _refuse()
    if request.endpoint == "assets.file":
        return None
    g.session = console().entry.session(request.cookies.get(Console.cookie_name))
    if request.endpoint in OPEN:
        return None
    if g.session is None:
        return to_entry()
    if not is_safe and not _has_token():
        return _refuse()
    return None


def _language() -> Language:
    chosen = request.cookies.get("kimi_console_language")
    if chosen not in ("en", "zh"):
        chosen = request.accept_languages.best_match(["en", "zh"], default="en")
    return "zh" if chosen == "zh" else "en"


def _is_own_page() -> bool:
    """Whether a page of the console sent the request. Browsers say so, and other sites cannot change it."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return False
    return console().reach.is_own_origin(request.environ)


def _has_token() -> bool:
    sent = request.headers.get("x-console-token") or request.form.get("token", "")
    return secrets.compare_digest(sent.encode(), session().token.encode())


def _refuse() -> Response:
    return page("error.html", status=403, message=sentence_of("forged", g.language))


def _answer_failure(error: Exception) -> BaseResponse:
    if isinstance(error, HTTPException):
        status = error.code or 500
        key = {404: "not_found", 405: "not_found", 413: "too_large"}.get(status, "bad_request")
        return page("error.html", status=status, message=sentence_of(key, g.language))
    if isinstance(error, GatewayError):
        return page("error.html", status=error.status, message=error.message)
    if isinstance(error, StoreError):
        log.error("database_failed error=%s", error, exc_info=None if error.is_transient else error)
        return page("error.html", status=503, message=sentence_of("no_database", g.language))
    log.error("console_request_failed", exc_info=error)
    return page("error.html", status=500, message=sentence_of("our_fault", g.language, id=g.request_id))


def _add_headers(response: Response) -> Response:
    response.headers.update(_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["x-request-id"] = g.request_id
    return response

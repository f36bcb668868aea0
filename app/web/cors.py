"""Pages of other origins that call the gateway from a browser.

By means of flask-cors, which follows https://fetch.spec.whatwg.org/#http-cors-protocol; what browsers need was
measured (openai-contract.md 1.10, 2026-11-23). What a page may do is decided by its key (``request_context``):
without keys, only pages of this machine and of the origins that are listed by name are served.
"""

from collections.abc import Sequence

from flask import Flask, Response, request
from flask_cors import CORS

# A client written in JavaScript sees these and no others.
_EXPOSED = [
    "request-id",
    "retry-after",
    "x-conversation-rebuilt",
    "x-ignored-params",
    "x-kimi-notice",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-request-id",
    "x-should-retry",
]

# The health checks are for the owner, not for pages.
_PATHS = r"/(?!healthz|readyz).*"


def install(app: Flask, origins: Sequence[str]) -> None:
    CORS(
        app,
        resources=_PATHS,
        origins=list(origins),
        send_wildcard="*" in origins,
        methods=["GET", "HEAD", "POST", "DELETE", "OPTIONS"],
        # Those that are asked for are repeated: an SDK in a browser has a dozen of its own.
        allow_headers="*",
        expose_headers=_EXPOSED,
        max_age=86400,
        # Keys travel in headers; cookies are never read, so a browser need not send any.
        supports_credentials=False,
        # A page on the internet may reach a gateway at home, if it has a key.
        allow_private_network=True,
        always_send=False,
    )
    app.before_request(_answer_preflight)


def _answer_preflight() -> Response | None:
    """Without a key, which a browser does not send here, and for unknown paths too: else their 404 could not be
    read."""
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        return Response(status=204)
    return None

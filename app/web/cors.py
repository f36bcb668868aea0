"""CORS: lets pages of other origins call the gateway from a browser.

Uses flask-cors, which implements https://fetch.spec.whatwg.org/#http-cors-protocol. openai-contract.md 1.10 says what
browsers need (measured on 2026-11-23). The API key decides what a page may do (``request_context``). Without keys,
only pages of this machine and of explicitly listed origins are served.
"""

from collections.abc import Sequence

from flask import Flask, Response, request
from flask_cors import CORS

# JavaScript can read only these response headers.
_EXPOSED = [
    "request-id",
    "retry-after",
    "x-conversation",
    "x-conversation-rebuilt",
    "x-ignored-params",
    "x-kimi-model",
    "x-kimi-notice",
    "x-conversation",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-request-id",
    "x-should-retry",
]

# What is for the operator, not for pages.
_PATHS = r"/(?!healthz|readyz|metrics).*"


def install(app: Flask, origins: Sequence[str]) -> None:
    CORS(
        app,
        resources=_PATHS,
        origins=list(origins),
        send_wildcard="*" in origins,
        methods=["GET", "HEAD", "POST", "DELETE", "OPTIONS"],
        # Allows every requested header: an SDK in a browser sends a dozen of its own.
        allow_headers="*",
        expose_headers=_EXPOSED,
        max_age=86400,
        # Keys are sent in headers. The gateway never reads cookies, so browsers need not send them.
        supports_credentials=False,
        # With a key, a page on the internet may call a gateway in a private network.
        allow_private_network=True,
        always_send=False,
    )
    app.before_request(_answer_preflight)


def _answer_preflight() -> Response | None:
    """Answers a preflight request without a key, because browsers send none.

    Also for unknown paths. Otherwise a page could not read their 404.
    """
    if (
        request.method == "OPTIONS"
        and "Access-Control-Request-Method" in request.headers
        and request.path != "/metrics"
    ):
        return Response(status=204)
    return None

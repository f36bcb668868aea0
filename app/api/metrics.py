"""The figures of the whole gateway for Prometheus: GET /metrics.

Without METRICS_KEY for programs on this machine only; others find an unknown URL. With it for whoever sends it as a
bearer token, on this machine, too. An API key does not open it: its holder need not see everybody's figures.
"""

import hmac
import threading
import time
from collections.abc import Callable, Sequence
from typing import cast

from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import NotFound

from app.errors import NotAuthorized
from app.ledger import metrics
from app.web.local_requests import is_local
from app.web.operations import Operation
from app.web.request_context import bearer_token

blueprint = Blueprint("metrics", __name__)

# How old figures may be: two scrapers cost one look. Seconds.
_MAX_AGE_S = 2.0


class LatestFigures:
    """The figures that were read last. One object per process. ``read`` raises StoreError."""

    def __init__(self, read: Callable[[], metrics.Figures]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._figures: metrics.Figures | None = None
        self._read_at = 0.0

    def get(self) -> metrics.Figures:
        # One reads, the others wait for it.
        with self._lock:
            if self._figures is None or time.monotonic() - self._read_at >= _MAX_AGE_S:
                self._figures = self._read()
                self._read_at = time.monotonic()
            return self._figures


@blueprint.get("/metrics")
def show() -> Response:
    """Raises NotFound, NotAuthorized."""
    key: str | None = current_app.config["METRICS_KEY"]
    if key is None:
        if not is_local(request.environ, current_app.config["CORS_ORIGINS"]):
            raise NotFound
    elif not hmac.compare_digest(bearer_token().encode(errors="replace"), key.encode()):
        raise NotAuthorized("send 'Authorization: Bearer <METRICS_KEY>'")
    figures = cast(LatestFigures, current_app.extensions["figures"]).get()
    text, content_type = metrics.encode(figures, request.headers.get("Accept", ""))
    return Response(text, content_type=content_type)


# Not in the public documentation.
OPERATIONS: Sequence[Operation] = ()

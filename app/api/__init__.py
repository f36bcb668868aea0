"""What all public APIs share: the gateway, and who asks.

``ls app/api`` is the list of public endpoints, but for the files that they share: ``bodies`` (what came in),
``parameters`` and ``effects`` (what is done with it), ``doors`` (which conversation), ``answers`` (what goes out),
``failures`` (what goes wrong), ``edge`` and ``cors`` (what happens to every request).
Must never know that Kimi exists.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import orjson
from flask import Response, current_app, request

from app.auth import ApiKeys
from app.chat import Caller
from app.config import is_loopback
from app.gateway import Gateway
from app.streaming import client_watch


def gateway() -> Gateway:
    return cast(Gateway, current_app.extensions["gateway"])


def caller() -> Caller:
    """Who sent the current request. Raises NotAuthorized."""
    keys = cast(ApiKeys, current_app.extensions["api_keys"])
    return Caller(keys.owner(_api_key(), _is_local()), client_watch(request.environ))


class SaidBeside(Protocol):
    """What an answer tells beside itself."""

    @property
    def notices(self) -> Sequence[str]: ...
    @property
    def rebuilt_from(self) -> str | None: ...


def said_beside(answer: SaidBeside) -> dict[str, str]:
    """The headers for it."""
    headers = {"x-kimi-notice": ", ".join(answer.notices)} if answer.notices else {}
    if answer.rebuilt_from is not None:
        headers["x-conversation-rebuilt"] = answer.rebuilt_from
    return headers


def json_response(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, content_type="application/json")


def _api_key() -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get("x-api-key") or request.headers.get("api-key") or None


def _name(address: str) -> str:
    """The host in ``host:port`` or in an URL; empty where there is none."""
    try:
        return urlsplit(address if "//" in address else f"//{address}").hostname or ""
    except ValueError:
        return address


def _is_local() -> bool:
    """Whether the request was made by a program on this machine, as far as WSGI and headers tell.

    Not only the address counts: a page of some web site, opened in a browser on this machine, sends requests from
    here too. They show its site as Origin, or, with a trick of DNS, its name as Host. Pages whose origin is
    listed by name are welcome.
    """
    hops = [hop.strip() for hop in request.headers.get("X-Forwarded-For", "").split(",")]
    names = [_name(request.headers.get("Host", ""))]
    origin = request.headers.get("Origin")
    if origin is not None and origin not in current_app.config["CORS_ORIGINS"]:
        names.append(_name(origin) or origin)
    # A server on a unix socket has no address to tell: the empty one counts as local.
    return all(not hop or is_loopback(hop) for hop in [request.environ.get("REMOTE_ADDR") or "", *hops, *names])

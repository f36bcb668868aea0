"""Whether a request was made by a program on this machine."""

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from app.settings.config import is_loopback

# Proxies on the way from a program to this one. What comes behind them is read as one, and is no address.
_MAX_HOPS = 20


def is_local(environ: Mapping[str, Any], allowed_origins: Collection[str] = ()) -> bool:
    """Whether a program on this machine made the request, as far as WSGI and headers say.

    The address alone is not enough: a web page that is open in a browser on this machine sends requests from here,
    too. They have its site as Origin or, after DNS rebinding, its name as Host. Pages whose origin is in
    ``allowed_origins`` by name are allowed.
    """
    hops = [hop.strip() for hop in environ.get("HTTP_X_FORWARDED_FOR", "").split(",", _MAX_HOPS)]
    names = [host_of(environ.get("HTTP_HOST", ""))]
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and origin not in allowed_origins:
        names.append(host_of(origin) or origin)
    # A server on a unix socket has no address: the empty one counts as local.
    return all(not hop or is_loopback(hop) for hop in [environ.get("REMOTE_ADDR") or "", *hops, *names])


def host_of(address: str) -> str:
    """The host in ``host:port`` or in a URL; empty where there is none."""
    try:
        return urlsplit(address if "//" in address else f"//{address}").hostname or ""
    except ValueError:
        return address

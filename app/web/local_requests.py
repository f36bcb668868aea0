"""Whether a request was made by a program on this machine, as far as WSGI and headers say.

The address alone is not enough. A proxy on this machine passes on what others send, and a web page that is open in a
browser on this machine sends requests from here, too. What cannot be seen is a proxy that adds nothing and speaks
HTTP/1.1: behind a proxy, GATEWAY_API_KEYS must be set.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from app.settings.config import is_loopback

# What proxies, tunnels and load balancers write into requests: the standards (RFC 7239, RFC 9110 7.6.3, RFC 8586),
# and the names that nginx, Apache, Caddy, HAProxy, Traefik, Envoy and the large hosts use. As WSGI names them.
_OF_PROXIES = re.compile(
    r"HTTP_(?:VIA|FORWARDED|CDN_LOOP|CLIENT_IP|TRUE_CLIENT_IP|X_CLIENT_IP|X_REMOTE_(?:IP|ADDR)|X_HOST|X_SCHEME|X_HTTPS)$"
    r"|HTTP_(?:FORWARDED_|PROXY_|CF_|FLY_|FASTLY_|TAILSCALE_|NGROK_|INCAP_|X_FORWARD|X_REAL_|X_ORIGINAL_"
    r"|X_CLUSTER_CLIENT|X_PROX|X_ENVOY_|X_AMZN_|X_AMZ_CF_|X_AZURE_|X_VERCEL_|X_APPENGINE_|X_REWRITE_|X_VARNISH|X_CDN_)"
)


def is_local(environ: Mapping[str, Any], allowed_origins: Collection[str] = ()) -> bool:
    """Whether a program on this machine made the request. Pages whose origin is in ``allowed_origins`` by name are
    allowed."""
    return why_foreign(environ, allowed_origins) is None


def why_foreign(environ: Mapping[str, Any], allowed_origins: Collection[str] = ()) -> str | None:
    """Why ``is_local`` is false, in words for the sender of the request; None: it is true."""
    # A server on a unix socket has no address: the empty one counts as local.
    address = environ.get("REMOTE_ADDR") or ""
    if address and not is_loopback(address):
        return "it comes from another machine"
    for name in environ:
        if _OF_PROXIES.match(name):
            return f"it came through a proxy, which has written the header {_header(name)}"
    if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        # What nginx sends unless it is told otherwise. Clients have sent HTTP/1.1 for 25 years.
        return "it came through a proxy, because it is HTTP/1.0"
    host = environ.get("HTTP_HOST", "")
    # DNS rebinding: a page's own name leads to this machine.
    if host and not is_loopback(host_of(host) or host):
        return "its Host header is not a name of this machine"
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and origin not in allowed_origins and not is_loopback(host_of(origin) or origin):
        if not _ORIGIN.fullmatch(origin):
            return "it comes from a web page whose origin is not on this machine"
        return f"it comes from a web page or browser extension of {origin}, which CORS_ORIGINS does not name"
    return None


# What may be shown of an Origin header.
_ORIGIN = re.compile(r"[a-z][a-z0-9+-]{0,30}://[A-Za-z0-9._-]{1,200}(:[0-9]{1,5})?")


def host_of(address: str) -> str:
    """The host in ``host:port`` or in a URL; empty where there is none."""
    try:
        return urlsplit(address if "//" in address else f"//{address}").hostname or ""
    except ValueError:
        return address


def _header(name: str) -> str:
    return name.removeprefix("HTTP_").replace("_", "-").title()

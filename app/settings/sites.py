"""Kimi's sites: kimi.com, kimi.ai since 2026-08-30 (``kimi-protocol-2.md`` 5.10), or whatever an address names.

An account lives at one of them, and its tokens are worth nothing at the other. Does not know which account is where.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Site:
    """``name`` stands in the database and in the log."""

    name: str
    base_url: str
    # Renews tokens.
    auth_url: str


KIMI_COM = Site("kimi.com", "https://www.kimi.com", "https://auth.kimi.com")
KIMI_AI = Site("kimi.ai", "https://www.kimi.ai", "https://auth.kimi.ai")

_KNOWN = {site.name: site for site in (KIMI_COM, KIMI_AI)}
_BY_URL = {site.base_url: site for site in (KIMI_COM, KIMI_AI)}


def named_site(name: str) -> Site | None:
    """The site with this name: ``kimi.com`` or ``kimi.ai``, also with ``www.``."""
    return _KNOWN.get(name.lower().removeprefix("www."))


def site_at(base_url: str) -> Site:
    """The site at an address. Its tokens are renewed where those of kimi.ai are if it is there, else at kimi.com."""
    if base_url in _BY_URL:
        return _BY_URL[base_url]
    host = urlsplit(base_url).hostname or ""
    auth_url = (KIMI_AI if f".{host}".endswith(".kimi.ai") else KIMI_COM).auth_url
    # The address without what all addresses have in common: fit for a log and for a database.
    return Site(re.sub(r"^https?://", "", base_url), base_url, auth_url)


def is_at(url: str, name: str) -> bool:
    """Whether an address is one of kimi.com, or of kimi.ai: that which ``name`` says."""
    return f".{urlsplit(url).hostname}".endswith(f".{name}")

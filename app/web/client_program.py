"""Which program sent a request, and in which trace, for the request log: never more of a header than that.

A User-Agent may hold anything. Only what looks like a product and its version is taken.
"""

import re
from functools import lru_cache

# ``python-requests/2.32.3``, ``CherryStudio/1.2``, ``OpenAI/Python 3.54.0``: letters, a slash, digits.
_PRODUCT = re.compile(
    r"([A-Za-z][A-Za-z._+-]{0,23}(?=/v?\d)|[A-Za-z]{1,24}/[A-Za-z]{1,10}(?= ))[/ ]v?(\d{1,4}(?:\.\d{1,5}){0,3})"
)
_COMMENTS = re.compile(r"\([^()]*\)")
# What every browser, and every program built on one, calls itself.
_BROWSERS = frozenset({"Mozilla", "AppleWebKit", "Gecko", "Chrome", "Safari", "Electron", "Version", "Mobile", "OPR"})
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")

UNCLEAR = "?"
_MOST_CHARS = 40


@lru_cache(maxsize=256)
def _program(user_agent: str) -> str:
    products = _PRODUCT.findall(_COMMENTS.sub(" ", user_agent))
    if not products:
        return UNCLEAR
    name, version = next((p for p in products if p[0] not in _BROWSERS), products[0])
    if name in _BROWSERS:
        return "browser"
    return f"{name} {version}"[:_MOST_CHARS]


def program(user_agent: str) -> str:
    """The product that a User-Agent names; "?" if none is clear, empty if there is no User-Agent."""
    return _program(user_agent[:300]) if user_agent else ""


def trace_id(traceparent: str) -> str:
    """Of a ``traceparent`` header; empty if it is none."""
    found = _TRACEPARENT.fullmatch(traceparent) if len(traceparent) <= 200 else None
    return found[1] if found else ""

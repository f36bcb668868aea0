"""How a host answers one call without a token: not at all, with a redirect, with a web page, or as it should.

Knows failures of DNS, connections and TLS, and what a bot wall looks like. Must never know what Kimi's replies mean.
"""

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

import orjson

from app.doctor.findings import Finding, Mark
from app.errors import UpstreamError, UpstreamTimeout
from app.upstreams.account import NOBODY
from app.upstreams.kimi.http import KimiHttp, Reply

# Calls that need a token: without one, a healthy site refuses them in JSON.
SITE_CALL = ("GET", "/api/user", None)
AUTH_CALL = ("POST", "/api/account.gateway.v1.AuthService/RefreshToken", b"{}")

_NO_ACCOUNT = replace(NOBODY, label="the doctor")


@dataclass(frozen=True, slots=True)
class Probe:
    """One reply, or the reason why there is none. ``ahead_s``: how far the host's clock is ahead of ours."""

    reply: Reply | None
    error: UpstreamError | None
    took_s: float
    ahead_s: float | None = None


def probe(http: KimiHttp, call: tuple[str, str, bytes | None]) -> Probe:
    method, path, body = call
    asked_at, began = time.time(), time.monotonic()
    try:
        reply = http.call(method, path, _NO_ACCOUNT, body, authorize=False)
    except UpstreamError as e:
        return Probe(None, e, time.monotonic() - began)
    took_s = time.monotonic() - began
    return Probe(reply, None, took_s, _ahead_s(reply, asked_at + took_s / 2))


def describe(check: str, setting: str, http: KimiHttp, probed: Probe, gone: Mark) -> Finding:
    """``gone``: the mark where the host does not know the call."""
    url, reply = http.base_url, probed.reply
    if reply is None:
        found, advice = _no_answer(http, setting, probed)
        return Finding("problem", check, f"{url}: {found}", advice)
    if reply.status == 407:
        found = f"{url}: the proxy {http.proxy} wants another user name or password"
        return Finding("problem", check, found, _PROXY_ADVICE)
    if 300 <= reply.status < 400:
        return _redirect(check, setting, url, reply)
    if reply.status >= 500:
        advice = "Kimi has trouble, or a proxy in between; try again later"
        return Finding("problem", check, f"{url} answers {reply.status}", advice)
    if reply.status in (404, 405, 410):
        found = f"{url} can be reached, but does not know the call that was tried (status {reply.status})"
        return Finding(gone, check, found, "" if gone == "ok" else f"check {setting}")
    # A CDN blocks addresses with a short text or an empty body, too. Kimi refuses in JSON.
    if reply.is_page or (reply.status == 403 and not _is_json(reply)):
        got = "a web page" if reply.is_page else "text, or nothing,"
        return Finding(
            "problem",
            check,
            f"{url} answers with {got} instead of data (status {reply.status}): a bot wall, or not Kimi's API",
            f"check {setting}; open the site in a browser on this machine's network; addresses of data centres are "
            "often blocked, so try another network",
        )
    status = "" if reply.status == 401 else f"status {reply.status}, "
    via = f" through the proxy {http.proxy}" if http.proxy else ""
    return Finding("ok", check, f"{url} answers{via} ({status}{probed.took_s * 1000:.0f} ms)")


def _redirect(check: str, setting: str, url: str, reply: Reply) -> Finding:
    target = _target(url, reply.headers.get("Location", ""))
    if target is None:
        return Finding("problem", check, f"{url} redirects, but not to an address", f"check {setting}")
    host, site = target
    if host == urlsplit(url).hostname:
        return Finding("problem", check, f"{url} redirects to another of its own pages", f"check {setting}")
    return Finding(
        "problem",
        check,
        f"{url} redirects to another site, {host}",
        f"if your account lives there, set {setting}={site}, or write token@site in KIMI_TOKENS; tokens of one Kimi "
        "site are worth nothing at the other",
    )


def _target(url: str, location: str) -> tuple[str, str] | None:
    """Host and base URL of a redirect's target, which may be relative; None where it is no address."""
    try:
        target = urlsplit(urljoin(url, location))
        host, port = target.hostname, target.port
    except ValueError:
        return None
    return (host, f"{target.scheme}://{host}{f':{port}' if port else ''}") if host else None


_PROXY_ADVICE = "check KIMI_PROXY, that of the account, and HTTPS_PROXY and NO_PROXY of the gateway's environment"


def _no_answer(http: KimiHttp, setting: str, probed: Probe) -> tuple[str, str]:
    name = urlsplit(http.base_url).hostname
    if http.proxy and any(_is_the_proxys(cause) for cause in _causes(probed.error)):
        innermost = [type(cause).__name__ for cause in _causes(probed.error)][-1]
        return f"the proxy {http.proxy} does not pass it on ({innermost})", _PROXY_ADVICE
    for cause in _causes(probed.error):
        match cause:
            case socket.gaierror():
                return f"the name {name} cannot be resolved", f"check {setting} and this machine's DNS"
            case ssl.SSLCertVerificationError():
                return (
                    f"its certificate is not accepted ({cause.verify_message})",
                    "check this machine's clock; if something in between intercepts TLS, such as a company's proxy, "
                    "set REQUESTS_CA_BUNDLE to the file of its certificate",
                )
            case ssl.SSLError():
                return "TLS fails", f"check that {setting} is an https address; a firewall may be in between"
            case ConnectionRefusedError():
                return "the connection is refused", f"nothing listens there: check {setting}, also its port"
    if isinstance(probed.error, UpstreamTimeout):
        return (
            f"no answer within {probed.took_s:.0f} s",
            "a firewall may drop the packets; where a proxy is needed, set KIMI_PROXY or HTTPS_PROXY",
        )
    innermost = [type(cause).__name__ for cause in _causes(probed.error)][-1]
    return f"the connection fails ({innermost})", f"check {setting} and this machine's network"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_the_proxys(error: BaseException) -> bool:
    """Whether a proxy cannot be reached or refuses: urllib3 and PySocks both have a class of this name."""
    return any(kind.__name__ == "ProxyError" for kind in type(error).__mro__)


def _is_json(reply: Reply) -> bool:
    try:
        return isinstance(orjson.loads(reply.body), dict)
    except ValueError:
        return False


def _ahead_s(reply: Reply, now: float) -> float | None:
    try:
        # The date is cut to whole seconds.
        return parsedate_to_datetime(reply.headers["Date"]).timestamp() + 0.5 - now
    except (KeyError, ValueError, OverflowError):
        return None

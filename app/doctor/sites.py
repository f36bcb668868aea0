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
from app.doctor.wording import Said, say
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
        why, advice = _no_answer(http, setting, probed)
        return Finding("problem", check, say("site_gives_no_answer", url=url, why=why), advice)
    if reply.status == 407:
        return Finding("problem", check, say("proxy_refuses", url=url, proxy=http.proxy), say("check_proxy"))
    if 300 <= reply.status < 400:
        return _redirect(check, setting, url, reply)
    if reply.status >= 500:
        return Finding("problem", check, say("answers_5xx", url=url, status=reply.status), say("try_later"))
    if reply.status in (404, 405, 410):
        found = say("call_unknown", url=url, status=reply.status)
        return Finding(gone, check, found, None if gone == "ok" else say("check_setting", setting=setting))
    # A CDN blocks addresses with a short text or an empty body, too. Kimi refuses in JSON.
    if reply.is_page or (reply.status == 403 and not _is_json(reply)):
        got = say("a_page" if reply.is_page else "a_text")
        found = say("page_instead", url=url, got=got, status=reply.status)
        return Finding("problem", check, found, say("try_another_network", setting=setting))
    status = "" if reply.status == 401 else say("status", status=reply.status)
    ms = probed.took_s * 1000
    if http.proxy:
        return Finding("ok", check, say("site_answers_via", url=url, proxy=http.proxy, status=status, ms=ms))
    return Finding("ok", check, say("site_answers", url=url, status=status, ms=ms))


def _redirect(check: str, setting: str, url: str, reply: Reply) -> Finding:
    target = _target(url, reply.headers.get("Location", ""))
    if target is None:
        return Finding("problem", check, say("redirects_nowhere", url=url), say("check_setting", setting=setting))
    host, site = target
    if host == urlsplit(url).hostname:
        return Finding("problem", check, say("redirects_to_itself", url=url), say("check_setting", setting=setting))
    found = say("redirects_away", url=url, host=host)
    return Finding("problem", check, found, say("use_other_site", setting=setting, site=site))


def _target(url: str, location: str) -> tuple[str, str] | None:
    """Host and base URL of a redirect's target, which may be relative; None where it is no address."""
    try:
        target = urlsplit(urljoin(url, location))
        host, port = target.hostname, target.port
    except ValueError:
        return None
    return (host, f"{target.scheme}://{host}{f':{port}' if port else ''}") if host else None


def _no_answer(http: KimiHttp, setting: str, probed: Probe) -> tuple[Said, Said]:
    """Why, and what to do."""
    name = urlsplit(http.base_url).hostname
    if http.proxy and any(_is_the_proxys(cause) for cause in _causes(probed.error)):
        innermost = [type(cause).__name__ for cause in _causes(probed.error)][-1]
        return say("proxy_fails", proxy=http.proxy, error=innermost), say("check_proxy")
    for cause in _causes(probed.error):
        match cause:
            case socket.gaierror():
                return say("no_such_name", name=name or ""), say("check_dns", setting=setting)
            case ssl.SSLCertVerificationError():
                return say("certificate", error=cause.verify_message), say("check_certificate")
            case ssl.SSLError():
                return say("tls_fails"), say("check_https", setting=setting)
            case ConnectionRefusedError():
                return say("refused"), say("check_port", setting=setting)
    if isinstance(probed.error, UpstreamTimeout):
        return say("no_answer", seconds=probed.took_s), say("check_firewall")
    innermost = [type(cause).__name__ for cause in _causes(probed.error)][-1]
    return say("connection_fails", error=innermost), say("check_network", setting=setting)


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

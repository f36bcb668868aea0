"""The two ways to exchange a refresh token for a new pair (``kimi-protocol.md`` 2.3, 2.4; L3, L4 of 12).

R2 at the account service is tried first, R1 at the site is the fall-back. A refresh token may work only once, so the
caller must store the new pair before it uses it. Must never know where tokens are stored.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.errors import AccountRejected, UpstreamError, UpstreamUnavailable
from app.upstreams.account import Account
from app.upstreams.kimi import errors as kimi_errors
from app.upstreams.kimi.http import KimiHttp, Reply

_R2 = "/api/account.gateway.v1.AuthService/RefreshToken"
_R1 = "/api/auth/token/refresh"


@dataclass(frozen=True, slots=True)
class TokenPair:
    """``refresh_token``: the next one to use. It is the old one if Kimi sent none."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)


class KimiAuth:
    """Refreshes tokens at both services. In this class ``account.token`` is the refresh token."""

    def __init__(self, auth: KimiHttp, site: KimiHttp) -> None:
        self._auth = auth
        self._site = site

    def refresh(self, account: Account) -> TokenPair:
        """The next pair.

        Raises AccountRejected: if Kimi refuses the token. Raises another UpstreamError: if that is not certain.
        """
        refused: AccountRejected | None = None
        uncertain: UpstreamError | None = None
        for attempt in (self._r2, self._r1):
            try:
                return attempt(account)
            except AccountRejected as e:
                refused = refused or e
            except UpstreamError as e:
                uncertain = uncertain or e
        # If one service refuses and the other fails, the other may still accept the token.
        raise uncertain or refused or UpstreamUnavailable("no refresh service is configured")

    def _r2(self, account: Account) -> TokenPair:
        body = orjson.dumps({"refresh_token": account.token})
        reply = self._auth.call(
            "POST", _R2, account, body, headers={"Connect-Protocol-Version": "1"}, authorize=False
        )
        return _pair(reply, account, self._auth.base_url)

    def _r1(self, account: Account) -> TokenPair:
        return _pair(self._site.call("GET", _R1, account), account, self._site.base_url)


def _pair(reply: Reply, account: Account, base_url: str) -> TokenPair:
    fields = _fields(reply.body)
    access, refresh = _first(fields, _ACCESS_NAMES), _first(fields, _REFRESH_NAMES)
    if reply.status == 200 and access is not None:
        return TokenPair(access, refresh or account.token)
    if reply.status in (400, 401, 403) and _is_final(reply):
        raise AccountRejected(f"{base_url} answered {reply.status}")
    if reply.status == 200:
        raise UpstreamUnavailable(f"{base_url} answered without a token")
    error = kimi_errors.refusal(reply, account, base_url)
    raise UpstreamUnavailable(f"{base_url} answered {reply.status}", retry_after_s=error.retry_after_s)


def _is_final(reply: Reply) -> bool:
    """Whether Kimi itself refuses the token, which is final. A 403 of a CDN or a proxy is not.

    Observed: 401 for expired and for already rotated tokens (E1, E3); 400 for banned accounts (E4), with a body that
    was not published. An empty JSON object counts as such a body.
    """
    return kimi_errors.is_kimis_own(reply) or (reply.status == 400 and reply.body.strip() == b"{}")


# Sections 2.3 and 2.4: camelCase at the account service, snake_case at the site, and an older name.
_ACCESS_NAMES = ("accessToken", "access_token", "token")
_REFRESH_NAMES = ("refreshToken", "refresh_token")


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> str | None:
    is_token: Callable[[Any], bool] = lambda value: isinstance(value, str) and len(value) >= 8  # noqa: E731
    return next((fields[name] for name in names if is_token(fields.get(name))), None)


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}

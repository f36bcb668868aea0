"""The simulator's login tokens: HS512 JWTs with the claims the real ones carry.

Knows the claim names and a signing key that is public on purpose: a token minted by a test process is good at
any simulator, and worthless anywhere else. Must never know accounts, chains of refreshes or HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any, Literal

from app.simulator.ids import xid_text

Kind = Literal["access", "refresh"]
SiteName = Literal["kimi.com", "kimi.ai"]

ACCESS_LIFETIME_S = 900
REFRESH_LIFETIME_S = 7_776_000
# `membership.level` of a free account (kimi-protocol-2.md 5.6); what other numbers mean is not known (P13).
FREE_LEVEL = 10

_PUBLIC_KEY = b"kimi-simulator: this key is public and signs nothing of value"
_HEADER = {"alg": "HS512", "typ": "JWT"}


class InvalidToken(Exception):
    """The text is not a token that this simulator accepts now; the message says why."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token says."""

    user: str
    sub: str
    kind: str
    jti: str
    expires_at: int
    # The site that the token was issued for. None: a token of the time before tokens said so.
    site: SiteName | None = None
    level: int = FREE_LEVEL


def user_id(user: str) -> str:
    """The 20-character xid that stands for a user name, the same in every process."""
    return xid_text(b"\x65\x80\x00\x00" + _digest(user)[:8])


def mint(
    user: str,
    kind: Kind = "access",
    lifetime_s: float | None = None,
    now: float | None = None,
    jti: str | None = None,
    site: SiteName | None = None,
    level: int = FREE_LEVEL,
) -> str:
    """A signed token for a user of any name; `lifetime_s` may be negative and defaults to the real one's.

    With a `site` its claims are those of September 2026 (kimi-protocol-2.md 5.8), without one those of before.
    """
    if lifetime_s is None:
        lifetime_s = ACCESS_LIFETIME_S if kind == "access" else REFRESH_LIFETIME_S
    issued = time.time() if now is None else now
    digits = str(int.from_bytes(_digest(user)[8:16], "big")).zfill(18)
    if site is None:
        of_era: dict[str, object] = {"iss": "user-center", "space_id": user_id(f"space of {user}")}
    else:
        of_era = {
            "iss": "account",
            "aud": [site],
            # The region of kimi.com was not published.
            "region": "overseas" if site == "kimi.ai" else "cn",
            "membership": {"level": level},
            "code_membership": {"level": level},
        }
    return _sign(
        {
            **of_era,
            "exp": int(issued + lifetime_s),
            "iat": int(issued),
            "jti": jti or xid_text(secrets.token_bytes(12)),
            "typ": kind,
            "app_id": "kimi",
            "sub": user_id(user),
            "abstract_user_id": user_id(f"abstract {user}"),
            "ssid": "17" + digits[:17],
            "device_id": "7" + digits[:18],
            "sim_user": user,  # ours: lets the records name the account
        }
    )


def check(token: str, now: float | None = None) -> Claims:
    """The claims of a well-signed, unexpired token; raises InvalidToken."""
    signed, _, signature = token.rpartition(".")
    try:
        genuine = hmac.compare_digest(_decode(signature), _signature(signed))
        payload: dict[str, Any] = json.loads(_decode(signed.partition(".")[2])) if genuine else {}
    except ValueError as error:
        raise InvalidToken(f"not a JWT: {error}") from error
    if not genuine:
        raise InvalidToken("not signed by the simulator")
    try:
        user = str(payload.get("sim_user", payload["sub"]))
        claims = Claims(
            user,
            payload["sub"],
            payload["typ"],
            payload["jti"],
            int(payload["exp"]),
            payload["aud"][0] if payload["iss"] == "account" else None,
            payload.get("membership", {}).get("level", FREE_LEVEL),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InvalidToken(f"the claims are incomplete: {error!r}") from error
    if claims.expires_at <= (time.time() if now is None else now):
        raise InvalidToken("expired")
    return claims


def _sign(claims: dict[str, object]) -> str:
    signed = f"{_encode(json.dumps(_HEADER).encode())}.{_encode(json.dumps(claims).encode())}"
    return f"{signed}.{_encode(_signature(signed))}"


def _signature(signed: str) -> bytes:
    return hmac.new(_PUBLIC_KEY, signed.encode(), hashlib.sha512).digest()


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

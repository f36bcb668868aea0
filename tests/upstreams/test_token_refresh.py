"""Refreshing a token, against the simulator's two services: which refusal is a verdict, and which may pass."""

from collections.abc import Iterator

import pytest

from app.errors import AccountRejected, UpstreamUnavailable
from app.upstreams.account import Account
from app.upstreams.kimi.http import KimiHttp, Timeouts
from app.upstreams.kimi.token_refresh import KimiAuth
from tests.running import Simulator, mint

NO_VERDICTS = {
    "text of a CDN": (403, "text/plain", b"error code: 1020"),
    "nothing": (403, "", b""),
    "text of a proxy": (400, "text/plain", b"Bad Request"),
    "problem of a CDN": (403, "application/json", b'{"title":"Error 1020","status":403,"code":1020}'),
    "page": (403, "text/html", b"<html></html>"),
    "overload": (503, "text/plain", b"try later"),
}
VERDICTS = {
    "expired": (401, b'{"error_type":"auth.token.invalid","message":"expired"}'),
    "rotated": (401, b'{"code":"unauthenticated","message":"invalid claims"}'),
    "flagged": (403, b'{"error_type":"auth.account_abnormal"}'),
    "banned": (400, b"{}"),
    "new words": (403, b'{"error_type":"auth.something_new"}'),
}


@pytest.fixture
def auth(simulator: Simulator) -> Iterator[KimiAuth]:
    http = KimiHttp(simulator.url, Timeouts(5.0, 5.0, 5.0))
    yield KimiAuth(http, http)
    http.close()


def account() -> Account:
    return Account("acc", "alice", mint("alice", 7_776_000, "refresh"), None, True, None, None, None, "kimi.com")


def answer(simulator: Simulator, status: int, media_type: str, body: bytes) -> None:
    """What both services say from now on."""
    headers = {"Content-Type": media_type} if media_type else {}
    for match in ("RefreshToken", "/api/auth/token/refresh"):
        simulator.script(body, match=match, status=status, headers=headers, framing="length")


@pytest.mark.parametrize("kind", NO_VERDICTS)
def test_a_refusal_that_is_not_kimis_is_no_verdict_on_a_token(
    auth: KimiAuth, simulator: Simulator, kind: str
) -> None:
    answer(simulator, *NO_VERDICTS[kind])
    with pytest.raises(UpstreamUnavailable, match="answered"):
        auth.refresh(account())
    assert auth.refresh(account()).access_token


@pytest.mark.parametrize("kind", VERDICTS)
def test_a_refusal_of_kimis_is_a_verdict_on_a_token(auth: KimiAuth, simulator: Simulator, kind: str) -> None:
    status, body = VERDICTS[kind]
    answer(simulator, status, "application/json", body)
    with pytest.raises(AccountRejected, match=f"answered {status}"):
        auth.refresh(account())


@pytest.mark.parametrize("profile", ["connect-2026-09"], indirect=True)
def test_a_used_token_buys_a_pair_for_as_long_as_kimi_allows_that(auth: KimiAuth, simulator: Simulator) -> None:
    """Once more, for a short time (kimi-protocol-2.md 7, K19): what a gateway needs that lost the answer."""
    simulator.knobs(refresh_grace_s=60)
    used = account()
    first, second = auth.refresh(used), auth.refresh(used)
    assert first.refresh_token != second.refresh_token
    with pytest.raises(AccountRejected, match="answered 401"):
        auth.refresh(used)


def test_a_refusal_of_one_service_beside_silence_of_the_other_is_no_verdict(
    auth: KimiAuth, simulator: Simulator
) -> None:
    """The silent one may accept the token yet."""
    status, body = VERDICTS["expired"]
    headers = {"Content-Type": "application/json"}
    simulator.script(body, match="RefreshToken", status=status, headers=headers, framing="length")
    simulator.script(b"", match="/api/auth/token/refresh", status=503, headers={}, framing="length")
    with pytest.raises(UpstreamUnavailable):
        auth.refresh(account())

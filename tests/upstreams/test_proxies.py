"""The way out to Kimi: proxies of a setting, of an account and of the environment, whose certificates count, too."""

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from app.concurrency.background import Cancellation
from app.errors import UpstreamError
from app.settings.parsers import proxy_url
from app.upstreams.account import Account
from app.upstreams.kimi.http import KimiHttp, Timeouts
from tests.running import Running, Simulator, ask, mint, wait_until
from tests.running.certificates import own_certificate
from tests.running.commands import Surgery, run_command
from tests.running.proxies import Proxy, proxy, pump

PATH = "/api/chat/any/completion/stream"
TIMEOUTS = Timeouts(30.0, 30.0, 30.0)


@pytest.fixture
def way() -> Iterator[Proxy]:
    with proxy() as one:
        yield one


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without any way out."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.delenv(name)


def account() -> Account:
    return Account("acc", "alice", mint("alice"), None, False, None, None, None, "kimi.com")


def reaches(url: str, way_out: str = "") -> None:
    """A short call, and a stream over a connection that is used again."""
    http = KimiHttp(url, TIMEOUTS, proxy=way_out)
    try:
        for _ in range(2):
            assert http.call("GET", "/api/user", account()).status in (200, 401, 404)
        with http.stream(PATH, account(), b"{}", "application/json", Cancellation()) as stream:
            stream.whole()
    finally:
        http.close()


@pytest.mark.parametrize(("scheme", "kind"), [("http", "HTTP"), ("socks5", "SOCKS"), ("socks5h", "SOCKS")])
def test_a_plain_site_is_reached_through_a_proxy(simulator: Simulator, way: Proxy, scheme: str, kind: str) -> None:
    reaches(simulator.url, way.url(scheme))
    assert way.kinds() == {kind} and way.refused == 0
    # Names are resolved by the proxy, where its URL says so.
    reaches(simulator.url.replace("127.0.0.1", "localhost"), way.url(scheme))
    assert ("SOCKS-NAME" in way.kinds()) == (scheme == "socks5h")


@pytest.fixture
def tls(simulator: Simulator, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The simulator behind TLS: its address, and the file of its certificate."""
    certificate = own_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    host, _, port = simulator.url.removeprefix("http://").partition(":")

    def serve(client: socket.socket) -> None:
        try:
            with (
                context.wrap_socket(client, server_side=True) as secured,
                socket.create_connection((host, int(port))) as s,
            ):
                pump(secured, s)
        except OSError:
            client.close()

    def accept(listener: socket.socket) -> None:
        try:
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
        except OSError:
            return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", str(certificate)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_certificate_of_the_environment_counts(
    tls: tuple[str, str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    url, certificate = tls
    with pytest.raises(UpstreamError, match="SSLCertVerificationError"):
        reaches(url)
    monkeypatch.setenv(variable, certificate)
    reaches(url)


@pytest.mark.parametrize(("scheme", "kind"), [("http", "CONNECT"), ("socks5", "SOCKS")])
def test_tls_goes_through_a_proxy_unopened(
    tls: tuple[str, str], way: Proxy, monkeypatch: pytest.MonkeyPatch, scheme: str, kind: str
) -> None:
    url, certificate = tls
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)
    reaches(url, way.url(scheme))
    assert way.kinds() == {kind}


def test_the_environment_counts_as_for_every_program_of_requests(
    simulator: Simulator, way: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, way.url("http"))
        way.asked.clear()
        reaches(simulator.url)
        assert way.asked, name
        for exception in ("127.0.0.1", "*"):
            monkeypatch.setenv("NO_PROXY", exception)
            way.asked.clear()
            reaches(simulator.url)
            assert not way.asked
        # What is said about Kimi counts more than what is said about everything.
        reaches(simulator.url, way.url("http"))
        assert way.asked
        monkeypatch.delenv("NO_PROXY")
        way.asked.clear()
        reaches(simulator.url, "direct")
        assert not way.asked
        monkeypatch.delenv(name)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_refuses_is_a_failure_without_its_password(
    simulator: Simulator, way: Proxy, scheme: str
) -> None:
    wrong = way.url(scheme).replace("proxy-password", "wrong-password")
    http = KimiHttp(simulator.url, TIMEOUTS, proxy=wrong)
    try:
        if scheme == "http":
            # The proxy's own answer, which is none of Kimi's.
            assert http.call("GET", "/api/user", account()).status == 407
        else:
            with pytest.raises(UpstreamError) as error:
                http.call("GET", "/api/user", account())
            assert "wrong-password" not in str(error.value)
    finally:
        http.close()
    assert way.refused > 0


@pytest.mark.parametrize("password", ["密码密码", quote("密码密码")])
def test_a_password_that_an_http_proxy_cannot_be_told_is_refused_and_a_failure(password: str) -> None:
    with pytest.raises(ValueError, match="Latin letters only") as refused:
        proxy_url(f"me:{password}@127.0.0.1:9")
    assert password not in str(refused.value)
    assert proxy_url("http://me:%C3%BCber@127.0.0.1:9") and proxy_url(f"socks5://me:{password}@127.0.0.1:9")
    # As HTTPS_PROXY may have it.
    http = KimiHttp("https://www.kimi.com", TIMEOUTS, proxy=f"http://me:{password}@127.0.0.1:9")
    with pytest.raises(UpstreamError, match="cannot be written"):
        http.call("GET", "/api/user", account())
    http.close()


def test_a_proxy_that_is_away_is_a_failure_without_its_password(simulator: Simulator) -> None:
    for scheme in ("http", "socks5"):
        http = KimiHttp(simulator.url, TIMEOUTS, proxy=f"{scheme}://me:hidden-pw@127.0.0.1:9")
        with pytest.raises(UpstreamError) as error:
            http.call("GET", "/api/user", account())
        assert "hidden-pw" not in str(error.value)
        http.close()


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_everything_that_is_asked_of_kimi_goes_through_the_proxy(
    running: Running, simulator: Simulator, way: Proxy, scheme: str
) -> None:
    """Turns of both protocols, the catalogue, and renewals: with another site for each, one sees all of them."""
    tokens = mint("zoe", 7_776_000, "refresh")

    def asked_for(path: str) -> int:
        """How often, without what a gateway of another test asks meanwhile."""
        others = ("alice", "bob", "carol")
        return len([request for request in simulator.requests(path) if request["account"] not in others])

    with running.gateway(simulator.url, KIMI_PROXY=way.url(scheme), KIMI_TOKENS=tokens) as gateway:
        assert ask(gateway, True).finish_reason == "stop"
        assert way.asked
        wait_until("the catalogue was read", lambda: asked_for("GetAvailableModels"))
    # Each request over HTTP, or each connection, was one of the proxy's.
    numbers = [asked_for(path) for path in ("RefreshToken", "GetAvailableModels", "/api/chat")]
    assert all(numbers)
    if scheme == "http":
        assert len(way.asked) >= sum(numbers)
    assert "proxy-password" not in gateway.log()


def test_an_account_may_have_a_proxy_of_its_own(running: Running, simulator: Simulator, way: Proxy) -> None:
    with running.gateway(simulator.url, users="alice,bob", ACCOUNT_MAX_STREAMS="1") as gateway:
        settings = {"KIMI_BASE_URL": simulator.url, "KIMI_AUTH_URL": simulator.url}
        url = way.url("http")
        code, said = run_command(gateway.database, "accounts", "add", "--proxy", url, mint("carol"), **settings)
        assert code == 0, said
        code, said = run_command(gateway.database, "accounts", "list", **settings)
        assert code == 0 and "proxy-password" not in said
        way.asked.clear()
        wait_until("carol has answered", lambda: ask(gateway, True) and "carol" in _served(simulator))
        assert way.asked
        # The others go on without it.
        assert {"alice", "bob"} & set(_served(simulator)) or ask(gateway, True)
    assert "proxy-password" not in gateway.log()


def _served(simulator: Simulator) -> list[str]:
    return [turn.account for turn in simulator.turns()]


def test_the_doctor_asks_through_the_proxy(simulator: Simulator, way: Proxy, tmp_path: Path) -> None:
    visit = Surgery(simulator.url, tmp_path).visit(KIMI_PROXY=way.url("http"))
    visit.of("site", "ok")
    visit.of("turn", "ok")
    assert way.asked and "proxy-password" not in visit.output
    away = Surgery(simulator.url, tmp_path).visit(KIMI_PROXY="http://me:hidden-pw@127.0.0.1:9")
    assert "site" in away.problems and "proxy" in away.of("site", "problem") and "hidden-pw" not in away.output

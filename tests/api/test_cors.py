"""Pages in a browser: preflight, readable errors, and who may call a gateway without keys."""

import pytest
import requests

from tests.running import CANARY, Gateway, Share, Simulator

PAGE = "https://chat.example.com"
# What openai-js asks for in a browser.
SDK_HEADERS = (
    "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-package-version,"
    "x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version"
)
KEY = "sk-a-key-of-the-test"


@pytest.fixture
def keyed(shared_gateway: Share) -> Gateway:
    return shared_gateway(GATEWAY_API_KEYS=KEY)


def preflight(gateway: Gateway, path: str, origin: str = PAGE, method: str = "POST") -> requests.Response:
    return requests.options(
        gateway.url + path,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": SDK_HEADERS,
            "Access-Control-Request-Private-Network": "true",
        },
        timeout=30,
    )


def body(gateway: Gateway, **more: object) -> dict[str, object]:
    return {"model": gateway.model, "messages": [{"role": "user", "content": CANARY}], **more}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions/abc", "/v1/models", "/v1/nowhere"])
def test_a_preflight_needs_no_key_and_may_send_what_it_asks_for(keyed: Gateway, path: str) -> None:
    response = preflight(keyed, path)
    headers = {name.lower(): value for name, value in response.headers.items()}
    assert response.status_code == 204 and not response.content
    assert headers["access-control-allow-origin"] == "*" and "access-control-allow-credentials" not in headers
    assert set(headers["access-control-allow-headers"].split(", ")) == set(SDK_HEADERS.split(","))
    assert {"GET", "POST", "DELETE"} <= set(headers["access-control-allow-methods"].split(", "))
    assert headers["access-control-max-age"] == "86400"
    assert headers["access-control-allow-private-network"] == "true"


def test_answers_and_errors_can_be_read_by_a_page(keyed: Gateway, simulator: Simulator) -> None:
    page = {"Origin": PAGE}
    known = {**page, "Authorization": f"Bearer {KEY}"}
    for response, status in (
        (keyed.post("/v1/chat/completions", json=body(keyed), headers=known), 200),
        (keyed.post("/v1/chat/completions", json=body(keyed, stream=True), headers=known), 200),
        (keyed.post("/v1/chat/completions", json={}, headers=known), 400),
        (keyed.post("/v1/chat/completions", json=body(keyed), headers=page), 401),
        (keyed.get("/v1/nowhere", headers=known), 404),
        (keyed.get("/v1/chat/completions", headers=known), 405),
    ):
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"x-request-id", "retry-after", "x-ignored-params", "x-should-retry"} <= set(exposed)
    assert "Access-Control-Allow-Origin" not in keyed.get("/v1/models").headers


def test_no_page_can_read_how_the_gateway_is(keyed: Gateway) -> None:
    for path in ("/readyz", "/healthz"):
        assert "Access-Control-Allow-Origin" not in keyed.get(path, headers={"Origin": PAGE}).headers


def test_only_the_origins_that_are_listed_may_read(shared_gateway: Share, simulator: Simulator) -> None:
    gateway = shared_gateway(GATEWAY_API_KEYS=KEY, CORS_ORIGINS=f"{PAGE}, app://obsidian.md")
    for origin, welcome in ((PAGE, True), ("app://obsidian.md", True), ("https://evil.example", False)):
        got = gateway.get("/v1/models", headers={"Origin": origin, "x-api-key": KEY})
        assert got.headers.get("Access-Control-Allow-Origin") == (origin if welcome else None)
        assert preflight(gateway, "/v1/models", origin).headers.get("Access-Control-Allow-Origin") == (
            origin if welcome else None
        )
        assert got.headers.get("Vary") == ("Origin" if welcome else None)


def test_without_keys_a_page_of_another_origin_is_told_why_it_is_refused(
    gateway: Gateway, simulator: Simulator
) -> None:
    assert preflight(gateway, "/v1/chat/completions").status_code == 204
    for origin in (PAGE, "null", "https://localhost.evil.example"):
        response = gateway.post("/v1/chat/completions", json=body(gateway), headers={"Origin": origin})
        assert response.status_code == 401 and "GATEWAY_API_KEYS" in response.json()["error"]["message"]
        assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert not simulator.turns()
    mine = gateway.get("/v1/models", headers={"Origin": "http://localhost:3000"})
    assert mine.ok and mine.headers["Access-Control-Allow-Origin"] == "*"


def test_without_keys_a_page_is_served_where_its_origin_is_listed(
    shared_gateway: Share, simulator: Simulator
) -> None:
    gateway = shared_gateway(CORS_ORIGINS=PAGE)
    assert gateway.get("/v1/models", headers={"Origin": PAGE}).ok
    refused = gateway.get("/v1/models", headers={"Origin": "https://evil.example"})
    assert refused.status_code == 401 and "Access-Control-Allow-Origin" not in refused.headers
    # The trick of DNS: the page's own name leads to this machine.
    rebound = gateway.get("/v1/models", headers={"Origin": PAGE, "Host": "chat.example.com"})
    assert rebound.status_code == 401

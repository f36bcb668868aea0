"""Who gets into the console, and who does not."""

import re
import threading
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import requests

from app.console import site
from app.console.mount import Reach, Services
from tests.running import BOTH_DATABASES, Gateway, Running, Simulator
from tests.running.commands import run_command, run_flask, run_flask_for_real
from tests.running.console import Browser, browser_at, signed_in, ticket_of

FOREIGN = "http://evil.example"


def rules() -> list[tuple[str, str, str]]:
    """Endpoint, method and path of everything that the console answers."""
    app = site.create_site(Services(None, None, None, None, None, None, None), Reach(""))  # type: ignore[arg-type]
    found = []
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<[^>]+>", "x", rule.rule)
        found += [(rule.endpoint, method, path) for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})]
    return found


RULES = rules()


def test_nobody_gets_past_the_door_without_a_session(gateway: Gateway) -> None:
    browser = browser_at(gateway)
    assert len(RULES) > 15
    for endpoint, method, path in RULES:
        for headers in ({}, {"Cookie": "kimi_console=guess"}, {"Authorization": "Bearer any-key"}):
            response = browser.session.request(
                method,
                browser.base + path,
                headers={**browser.own_headers, "Accept": "text/html", **headers},
                data={"token": "x"} if method == "POST" else None,
                allow_redirects=False,
                timeout=30,
            )
            if endpoint in site.OPEN:
                assert response.status_code in (200, 303, 403, 404), (endpoint, response.status_code)
                assert "kimi_console=" not in response.headers.get("set-cookie", "")
            else:
                assert response.status_code in (303, 401), (endpoint, response.status_code)
                if response.status_code == 303:
                    assert response.headers["location"] == "/console/enter"


def test_paths_that_are_none_say_nothing_to_strangers(gateway: Gateway) -> None:
    browser = browser_at(gateway)
    for path in ("/nothing", "/static/x/../../site.py", "//", "/keys/"):
        assert browser.get(path, allow_redirects=False).status_code in (303, 404), path
    for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"):
        response = browser.session.request(method, browser.base + "/keys", headers=browser.own_headers, timeout=30)
        assert response.status_code in (401, 403), method


def test_a_new_gateway_lets_nobody_in(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        browser = browser_at(gateway)
        for word in ("", "admin", "123456", "kimi", "kimi_console", "x" * 5000):
            assert browser.enter(password=word or "admin").status_code in (403, 429)
            assert browser.enter(ticket=word).status_code == 403
        assert browser.get("/", allow_redirects=False).status_code == 303
    assert not [
        line for line in Path(".env.example").read_text().splitlines() if "PASSWORD" in line and "CONSOLE" in line
    ]


@BOTH_DATABASES
def test_a_link_lets_one_in_once_whichever_worker_is_asked(
    running: Running, simulator: Simulator, database: str
) -> None:
    with running.gateway(simulator.url, WEB_CONCURRENCY="2") as gateway:
        gateway.wait_for_workers()
        ticket = ticket_of(gateway)
        statuses: list[int] = []
        start = threading.Barrier(8)

        def enter() -> None:
            browser = browser_at(gateway)
            start.wait()
            statuses.append(browser.enter(ticket=ticket).status_code)

        threads = [threading.Thread(target=enter) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Counter(statuses) == {303: 1, 403: 7}
        assert browser_at(gateway).enter(ticket=ticket).status_code == 403
        assert ticket not in gateway.log()
        assert not gateway.database.run("SELECT 1 FROM console_tickets")
        assert ticket not in str(gateway.database.run("SELECT * FROM console_sessions"))


def test_a_link_is_good_for_ten_minutes(gateway: Gateway) -> None:
    late = ticket_of(gateway)
    gateway.database.run("UPDATE console_tickets SET expires_at = expires_at - 601")
    response = browser_at(gateway).enter(ticket=late)
    assert response.status_code == 403 and "works once, for ten minutes" in response.text


def test_a_whole_link_may_be_pasted(gateway: Gateway) -> None:
    link = f"http://127.0.0.1:8000/console/enter#{ticket_of(gateway)}"
    assert browser_at(gateway).enter(ticket=f" {link} ").status_code == 303


def test_the_cookie_is_for_the_console_only(gateway: Gateway) -> None:
    browser = browser_at(gateway)
    (cookie,) = [
        line
        for line in browser.enter(ticket=ticket_of(gateway)).raw.headers.getlist("set-cookie")
        if "console=" in line
    ]
    for part in ("HttpOnly", "SameSite=Strict", "Path=/console"):
        assert part in cookie
    assert "Secure" not in cookie
    value = browser.session.cookies["kimi_console"]
    assert value not in str(gateway.database.run("SELECT * FROM console_sessions")) and value not in gateway.log()


def test_only_a_page_of_the_console_changes_anything(gateway: Gateway) -> None:
    browser = signed_in(gateway)
    for origin, site_says in product(
        ("own", FOREIGN, "null", None), ("same-origin", "same-site", "cross-site", "none", None)
    ):
        change_something(browser, origin, site_says)


def change_something(browser: Browser, origin: str | None, site_says: str | None) -> None:
    """As a page with this Origin and Sec-Fetch-Site would; None: no such header."""
    headers = {"Origin": browser.origin if origin == "own" else origin, "Sec-Fetch-Site": site_says}
    sent = {name: value for name, value in headers.items() if value is not None}
    is_ours = origin == "own" and site_says in ("same-origin", None)
    for token, is_right in ((browser.token, True), ("0" * 64, False), ("", False)):
        done = browser.session.post(
            browser.base + "/access/sign-out-others", headers=sent, data={"token": token}, timeout=30
        )
        if is_ours and is_right:
            assert done.status_code == 200, headers
        else:
            # A page on another site is not even told that there is a console.
            assert done.status_code in (403, 404), (headers, token)
    entered = browser.session.post(browser.base + "/enter", headers=sent, data={"ticket": "x"}, timeout=30)
    assert ("works once" in entered.text) == is_ours, headers


@pytest.mark.parametrize("origin", ["null", "tauri://localhost", "localhost", "http://", "http://[", ""])
@pytest.mark.parametrize("host", ["localhost", "", "["])
def test_an_origin_without_a_port_is_not_the_consoles(origin: str, host: str) -> None:
    assert not Reach("").is_own_origin({"HTTP_ORIGIN": origin, "HTTP_HOST": host})
    assert Reach("").is_own_origin({"HTTP_ORIGIN": "http://localhost", "HTTP_HOST": "127.0.0.1"})


def test_every_form_of_the_console_is_refused_to_other_sites(gateway: Gateway) -> None:
    browser = signed_in(gateway)
    posts = [(endpoint, path) for endpoint, method, path in RULES if method == "POST"]
    assert len(posts) >= 8
    for endpoint, path in posts:
        for headers in ({"Origin": browser.origin, "Sec-Fetch-Site": "cross-site"}, {}):
            response = browser.session.post(
                browser.base + path, headers=headers, data={"token": browser.token}, timeout=30
            )
            assert response.status_code == 403, endpoint
        if endpoint not in site.OPEN:
            response = browser.session.post(browser.base + path, headers=browser.own_headers, data={}, timeout=30)
            assert response.status_code == 403, endpoint


def test_the_token_of_one_session_is_none_of_another(gateway: Gateway) -> None:
    one, other = signed_in(gateway), signed_in(gateway)
    assert one.token != other.token
    assert other.post("/access/sign-out-others", {"token": one.token}).status_code == 403


def test_six_wrong_passwords_over_two_workers(running: Running, simulator: Simulator) -> None:
    password = "a long enough password"
    with running.gateway(simulator.url, WEB_CONCURRENCY="2") as gateway:
        gateway.wait_for_workers()
        owner = signed_in(gateway)
        assert owner.post("/access/password", {"password": password, "again": password}).status_code == 200
        # Each with a connection of its own, so that both workers are asked.
        statuses = [browser_at(gateway).enter(password="a wrong password").status_code for _ in range(7)]
        assert statuses == [403] * 5 + [429] * 2
        refused = browser_at(gateway).enter(password=password)
        assert refused.status_code == 429 and "a link works at once" in refused.text
        # A link is not concerned, and time heals.
        assert browser_at(gateway).enter(ticket=ticket_of(gateway)).status_code == 303
        gateway.database.run("UPDATE console_failures SET at = at - 901")
        assert browser_at(gateway).enter(password=password).status_code == 303
        everything = str(gateway.database.run("SELECT * FROM console_failures")) + gateway.log()
        assert "wrong password" not in everything and "127.0.0.1" not in str(
            gateway.database.run("SELECT address FROM console_failures")
        )


def test_many_wrong_passwords_at_once_do_not_pass(gateway: Gateway) -> None:
    assert run_command(gateway.database, "console-password", "--remove") == (0, "")
    # Of other tests.
    gateway.database.run("DELETE FROM console_failures")
    signed_in(gateway).post("/access/password", {"password": "p" * 12, "again": "p" * 12})
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(browser_at(gateway).enter(password="w" * 12).status_code))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(statuses) == {403: 5, 429: 7}
    gateway.database.run("DELETE FROM console_failures")


def test_a_new_password_ends_all_other_sessions(gateway: Gateway) -> None:
    one, other = signed_in(gateway), signed_in(gateway)
    assert one.post("/access/password", {"password": "one more password", "again": "one more password"}).ok
    assert other.get("/", allow_redirects=False).status_code == 303
    assert one.get("/", allow_redirects=False).status_code == 200
    stored = gateway.database.run("SELECT value FROM kept WHERE name = 'console_password'")[0][0]
    assert stored.startswith("scrypt$") and "one more password" not in stored
    assert one.post("/access/no-password").ok
    assert browser_at(gateway).enter(password="one more password").status_code == 403


@pytest.mark.parametrize(
    ("password", "again"), [("short", "short"), ("long enough one", "long enough two"), ("", "")]
)
def test_a_password_is_long_and_written_twice(gateway: Gateway, password: str, again: str) -> None:
    browser = signed_in(gateway)
    assert browser.post("/access/password", {"password": password, "again": again}).status_code == 400
    assert "No password is set" in browser.page("/access").text


def test_two_browsers_of_which_one_signs_the_other_out(gateway: Gateway) -> None:
    one, other = signed_in(gateway), signed_in(gateway)
    assert one.post("/access/sign-out-others").ok
    assert other.get("/", allow_redirects=False).status_code == 303
    assert one.post("/access/sign-out", allow_redirects=False).status_code == 303
    assert one.get("/", allow_redirects=False).status_code == 303


@pytest.mark.parametrize("column", ["seen_at", "created_at"])
def test_a_session_ends_by_itself(gateway: Gateway, column: str) -> None:
    browser = signed_in(gateway)
    longest = {"seen_at": 12 * 3600, "created_at": 30 * 86_400}[column]
    gateway.database.run(f"UPDATE console_sessions SET {column} = {column} - {longest - 60}")  # noqa: S608
    assert browser.get("/", allow_redirects=False).status_code == 200
    gateway.database.run(f"UPDATE console_sessions SET {column} = {column} - {longest}")  # noqa: S608
    assert browser.get("/", allow_redirects=False).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "gateway.example"},
        {"Host": "evil.example:80"},
        {"X-Forwarded-For": "203.0.113.9"},
        {"X-Forwarded-For": "203.0.113.9, 127.0.0.1"},
        {"Origin": FOREIGN},
    ],
)
def test_to_others_than_this_machine_the_console_is_an_unknown_url(gateway: Gateway, headers: dict[str, str]) -> None:
    browser = signed_in(gateway)
    for path in ("", "/", "/enter", "/keys"):
        response = browser.session.get(browser.base + path, headers=headers, allow_redirects=False, timeout=30)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")


def test_a_page_elsewhere_gets_no_permission_by_cors(gateway: Gateway) -> None:
    response = requests.get(gateway.url + "/console/enter", timeout=30)
    assert not [name for name in response.headers if name.lower().startswith("access-control-")]


def test_the_console_answers_at_its_address_only(running: Running, simulator: Simulator) -> None:
    address = "https://kimi.example.org/console"
    with running.gateway(simulator.url, CONSOLE_URL=address, GATEWAY_API_KEYS="key-of-the-owner") as gateway:
        here = {"Host": "kimi.example.org", "X-Forwarded-For": "203.0.113.9"}
        browser = Browser(gateway.url + "/console")

        def status(**headers: str) -> int:
            return browser.session.get(
                browser.base + "/enter", headers=headers, allow_redirects=False, timeout=30
            ).status_code

        assert status(**here) == 200
        for other in ({}, {"Host": "kimi.example.org:8443"}, {"Host": "127.0.0.1"}, {"Host": "other.example.org"}):
            assert status(**other) == 404
        ticket = ticket_of(gateway, CONSOLE_URL=address)
        for origin in ("http://kimi.example.org", FOREIGN, "null"):
            refused = browser.session.post(
                browser.base + "/enter", data={"ticket": ticket}, headers={**here, "Origin": origin}, timeout=30
            )
            assert refused.status_code == 403
        entered = browser.session.post(
            browser.base + "/enter",
            data={"ticket": ticket},
            headers={**here, "Origin": "https://kimi.example.org"},
            allow_redirects=False,
            timeout=30,
        )
        assert entered.status_code == 303 and "Secure" in entered.headers["set-cookie"]


def test_the_console_can_be_switched_off(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, CONSOLE="0") as gateway:
        response = requests.get(gateway.url + "/console", timeout=30)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
        code, output = run_command(gateway.database, "console-link", CONSOLE="0")
        assert code == 1 and "switched off" in output


def test_links_name_the_address_that_people_use(tmp_path: Path) -> None:
    database = {"DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}
    for settings, start in (
        ({}, "http://127.0.0.1:8000/console/enter#"),
        ({"PORT": "9000"}, "http://127.0.0.1:9000/console/enter#"),
        ({"HOST": "0.0.0.0", "GATEWAY_API_KEYS": "some-key-of-mine"}, "http://127.0.0.1:8000/console/enter#"),
        ({"CONSOLE_URL": "https://kimi.example.org/console"}, "https://kimi.example.org/console/enter#"),
    ):
        done = run_flask("console-link", **database, **settings)
        assert done.code == 0 and done.output.startswith(start), done
    # As a person would start it.
    done = run_flask_for_real("console-link", **database)
    assert done.code == 0 and done.output.startswith("http://127.0.0.1:8000/console/enter#"), done


def test_every_page_has_strict_headers(gateway: Gateway) -> None:
    browser = signed_in(gateway)
    for path in ("/", "/keys", "/nothing", "/enter"):
        headers = browser.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in policy and "form-action 'self'" in policy


def test_language_and_colours_go_back_to_pages_of_the_console_only(gateway: Gateway) -> None:
    browser = browser_at(gateway)
    for back in ("https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", ""):
        response = browser.post("/appearance", {"language": "zh", "back": back}, allow_redirects=False)
        assert response.headers["location"] == "/console/"
    response = browser.post("/appearance", {"language": "zh", "back": "/keys?x=1"}, allow_redirects=False)
    assert response.headers["location"] == "/console/keys?x=1"
    assert 'lang="zh-CN"' in browser.get("/enter").text
    browser.post("/appearance", {"theme": "dark"})
    assert 'data-theme="dark"' in browser.get("/enter").text
    browser.post("/appearance", {"theme": "blue", "language": "<b>"})
    assert 'data-theme="dark"' in browser.get("/enter").text and 'lang="zh-CN"' in browser.get("/enter").text


def test_reading_changes_nothing(gateway: Gateway) -> None:
    browser = signed_in(gateway)
    tables = ("api_keys", "console_tickets", "console_sessions", "conversations", "accounts")

    def content() -> list[Any]:
        return [gateway.database.run(f"SELECT * FROM {table}") for table in tables]  # noqa: S608

    before = content()
    for _, path in {(method, path) for _, method, path in RULES if method == "GET"}:
        browser.get(path, allow_redirects=False)
    assert content() == before


def test_a_script_without_a_session_gets_no_page(gateway: Gateway) -> None:
    response = browser_at(gateway).get("/", headers={"HX-Request": "true"}, allow_redirects=False)
    assert response.status_code == 401 and "Your session has ended" in response.text


def test_sizes_are_limited(gateway: Gateway) -> None:
    browser = signed_in(gateway)
    response = browser.post("/keys", {"name": "x" * (1 << 21)})
    assert response.status_code == 413

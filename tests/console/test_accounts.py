"""The page Accounts, as a browser without scripts uses it."""

import re
from collections.abc import Iterator

import pytest

from tests.running import Gateway, Running, Simulator, mint, wait_until
from tests.running.commands import run_command
from tests.running.console import Browser, Page, signed_in

REFRESH = 7_776_000


@pytest.fixture
def empty(running: Running, simulator: Simulator) -> Iterator[Gateway]:
    """A gateway without any account."""
    with running.gateway(simulator.url, KIMI_TOKENS="") as gateway:
        yield gateway


def add(browser: Browser, text: str, label: str) -> Page:
    checked = browser.post("/accounts/check", {"pasted": text})
    assert checked.status_code == 200, checked.text
    saved = browser.post("/accounts/save", {"label": label})
    assert saved.status_code == 200 and saved.url.endswith("/accounts"), saved.text
    return Page(saved.text)


def path_of(page: Page, label: str) -> str:
    """Of the page of an account."""
    found = re.search(rf'href="/console(/accounts/acc_\w+)">{label}<', page.source)
    assert found is not None
    return found[1]


def test_an_account_is_pasted_and_works(empty: Gateway, simulator: Simulator) -> None:
    browser = signed_in(empty)
    assert "There is no Kimi account yet." in browser.page("/").text
    token = mint("alice", REFRESH, "refresh")
    checked = browser.post("/accounts/check", {"pasted": token})
    assert "renews it by itself" in checked.text and token not in checked.text
    # It waits in the database, where nobody can read it.
    assert token not in str(empty.database.run("SELECT * FROM console_sessions"))
    assert not simulator.requests("RefreshToken"), "a check spends no refresh token"
    assert browser.post("/accounts/save", {"label": "home"}).status_code == 200
    assert empty.database.run("SELECT draft FROM console_sessions") == [(None,)]
    wait_until("it answers", lambda: empty.say("hello").ok)
    # Until when it works is known once it has been renewed.
    assert re.search(
        r"Works\. The account can answer\.|Its token works until .* and is renewed by itself", browser.page("/").text
    )
    path = path_of(browser.page("/accounts"), "home")
    wait_until("its page shows what it was used for", lambda: browser.page(path).named("svg"))
    assert "Last 30 days" in browser.page(path).text and empty.model in browser.page(path).text
    for shown in ("/accounts", path, "/health"):
        assert token not in browser.get(shown).text
    assert token not in empty.log()


def test_what_is_no_token_is_named_and_not_repeated(empty: Gateway) -> None:
    browser = signed_in(empty)
    wrong = {}
    for text, says in (
        ("", "There is no token in it"),
        ("sk-abcdefghijklmnop", "API key of the official platform"),
        ("two words", "This is no token"),
        ('{"log": {"entries": []}}', "HAR file"),
        ('{"access_token": "x', "not complete"),
        ("a=b; c=d", "kimi-auth is not among them"),
        ("curl 'https://www.kimi.com/' -H 'accept: x'", "no Authorization"),
        ("x" * 70_000, "too long"),
    ):
        answer = browser.post("/accounts/check", {"pasted": text})
        is_named = answer.status_code == 400 and says in Page(answer.text).text
        if not is_named or (len(text) >= 5 and text in answer.text):
            wrong[text[:50]] = (answer.status_code, Page(answer.text).text)
    assert wrong == {}


def test_a_paste_is_forgotten_in_time_and_belongs_to_its_session(empty: Gateway) -> None:
    one, other = signed_in(empty), signed_in(empty)
    one.post("/accounts/check", {"pasted": mint("alice", REFRESH, "refresh")})
    assert "Paste it again" in Page(other.post("/accounts/save", {"label": "x"}).text).text
    empty.database.run("UPDATE console_sessions SET draft_until = draft_until - 301 WHERE draft IS NOT NULL")
    assert "Paste it again" in Page(one.post("/accounts/save", {"label": "x"}).text).text
    assert "There is no Kimi account yet." in one.page("/accounts").text


def test_an_account_is_paused_renamed_and_removed(empty: Gateway) -> None:
    browser = signed_in(empty)
    path = path_of(add(browser, mint("alice", 9_000), "home"), "home")
    assert "You paused this account on" in Page(browser.post(f"{path}/pause").text).text
    wait_until("no account answers", lambda: not empty.say("hello").ok)
    assert "nothing renews its token" in Page(browser.post(f"{path}/resume").text).text
    assert "no refresh token" in Page(browser.post(f"{path}/renew").text).text
    renamed = Page(browser.post(f"{path}/change", {"label": "work"}).text)
    assert path_of(renamed, "work") == path
    assert "A name has 1 to 32" in Page(browser.post(f"{path}/change", {"label": "two words"}).text).text
    assert "tokens are deleted here" in browser.page(f"{path}/remove").text
    assert "There is no Kimi account yet." in Page(browser.post(f"{path}/remove").text).text
    assert browser.get(path).status_code == 404


def test_an_account_is_tested_step_by_step(empty: Gateway, simulator: Simulator) -> None:
    browser = signed_in(empty)
    path = path_of(add(browser, mint("alice", 9_000), "home"), "home")
    text = Page(browser.post(f"{path}/test").text).text
    assert "the access token works" in text and "its chat is deleted" in text and "That was all" in text
    chinese = Page(signed_in(empty, "zh").post(f"{path}/test").text).text
    assert "access token 还能用" in chinese and "它的会话已删除" in chinese and "the access token" not in chinese
    simulator.knobs(fail="token_invalid")
    assert "problem" in Page(browser.post(f"{path}/test").text).text


def test_two_accounts_do_not_share_a_name(empty: Gateway) -> None:
    browser = signed_in(empty)
    add(browser, mint("alice", 9_000), "home")
    browser.post("/accounts/check", {"pasted": mint("bob", 9_000)})
    answer = browser.post("/accounts/save", {"label": "home"})
    assert answer.status_code == 400 and "Another account has this name" in answer.text
    # It is still there to be saved under another one.
    assert browser.post("/accounts/save", {"label": "work"}).url.endswith("/accounts")


def test_an_account_is_given_a_rest_and_woken(empty: Gateway) -> None:
    browser = signed_in(empty)
    path = path_of(add(browser, mint("alice", 9_000), "home"), "home")
    wait_until("it answers", lambda: empty.say("hello").ok)
    rested = Page(browser.post(f"{path}/rest", {"minutes": "30"}).text)
    assert "You gave this account a rest. It is used again from" in rested.text
    # A shorter rest does not end a longer one.
    until = empty.database.run("SELECT until FROM rests")
    browser.post(f"{path}/rest", {"minutes": "2"})
    assert empty.database.run("SELECT until FROM rests") == until
    assert "你让此账号休息" in signed_in(empty, "zh").page("/").text
    for minutes in ("0", "", "-5", "1e3", "999999"):
        refused = browser.post(f"{path}/rest", {"minutes": minutes})
        assert refused.status_code == 400 and "one minute to 30 days" in Page(refused.text).text
    assert "nothing renews its token" in Page(browser.post(f"{path}/wake").text).text
    assert empty.say("hello").ok
    code, said = run_command(empty.database, "accounts", "rest", "home", "2h")
    assert code == 0 and "You gave this account a rest" in said
    code, said = run_command(empty.database, "accounts", "rest", "home", "soon")
    assert code == 2 and "expected a period" in said


def test_all_accounts_are_tested_one_after_the_other(empty: Gateway) -> None:
    browser = signed_in(empty)
    for user, label in (("alice", "home"), ("bob", "lab"), ("carol", "old")):
        page = add(browser, mint(user, 9_000), label)
    browser.post(f"{path_of(page, 'old')}/pause")
    text = Page(browser.post("/accounts/test").text).text
    assert "home: answer" in text and "lab: chat" in text and "old:" not in text and "That was all" in text


def test_what_kimi_says_is_left_is_shown_with_its_time(empty: Gateway, simulator: Simulator) -> None:
    browser = signed_in(empty)
    add(browser, mint("alice", 9_000), "home")
    assert "Kimi says" not in browser.page("/accounts").text
    asked = Page(browser.post("/accounts/quota").text)
    assert re.search(r"Kimi says \(.*\): .*\d+ % left", asked.text) and asked.named("meter")
    number = len(simulator.requests("GetSubscriptionStats"))
    browser.post("/accounts/quota")
    assert len(simulator.requests("GetSubscriptionStats")) == number, "it is asked every ten minutes at most"
    empty.database.run("UPDATE kept SET value = '' WHERE name LIKE 'quota@%'")
    assert "not told" in browser.page("/accounts").text

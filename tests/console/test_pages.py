"""The pages of the console, as a browser without scripts sees and uses them."""

import json
import re
from urllib.parse import quote

import pytest
import requests

from tests.running import CANARY, SHIPPED, Gateway, Running, Share, Simulator, mint, wait_until
from tests.running.console import Page, browser_at, signed_in
from tests.running.each_case import check_each

PAGES = (
    "/",
    "/accounts",
    "/accounts/add",
    "/requests",
    "/keys",
    "/conversations",
    "/try",
    "/setup",
    "/health",
    "/access",
)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_page_is_whole_without_scripts(gateway: Gateway, language: str) -> None:
    browser = signed_in(gateway, language)
    lang = {"en": "en", "zh": "zh-CN"}[language]
    check_each(((path, path) for path in PAGES), lambda path: look_at(browser.page(path), lang))


def look_at(page: Page, lang: str) -> None:
    """Raises AssertionError: if it is not whole."""
    assert [attributes["lang"] for attributes in page.named("html")] == [lang]
    assert len(page.named("h1")) == 1 and len(page.named("main")) == 1 and len(page.named("nav")) == 1
    assert [a for a in page.named("a") if a.get("aria-current") == "page"]
    for field in (*page.named("input"), *page.named("select"), *page.named("textarea")):
        if field.get("type") not in ("hidden", "checkbox"):
            wrapped = re.search(
                rf'<label>[^<]*<(select|input) name="{field.get("name")}"', page.source.replace("\n", "")
            )
            labelled = any(label.get("for") == field.get("id") for label in page.named("label"))
            assert labelled or wrapped, field
    for form in page.named("form"):
        assert form["method"] in ("get", "post") and str(form["action"]).startswith("/console/")
    for heading in page.named("th"):
        assert heading.get("scope") in ("row", "col")
    assert {button.get("hidden", "shown") for button in page.named("button") if button.get("type") == "button"} <= {
        None
    }


def test_the_overview_says_what_is_wrong_in_the_words_of_readyz(running: Running, simulator: Simulator) -> None:
    tokens = f"home={mint('alice', -60)},lab={mint('bob', 86_400)}"
    with running.gateway(simulator.url, KIMI_TOKENS=tokens) as gateway:
        browser = signed_in(gateway)
        page = browser.page("/")
        assert "Works. 1 of 2 accounts can answer." in page.text
        # The times are written in another form.
        assert "The Kimi token expired at" in page.text and "Log in at Kimi again in a private window" in page.text
        assert [part["aria-label"] for part in page.named("section")] == ["home", "lab"]
        chinese = signed_in(gateway, "zh").page("/").text
        assert "2 个账号中有 1 个可用" in chinese and "token 已在" in chinese
        assert "account_needs_attention reason=home: The Kimi token expired at" in gateway.log()
    with running.gateway(simulator.url, KIMI_TOKENS=tokens.partition(",")[0]) as gateway:
        for language, says in (("en", "home: The Kimi token expired at"), ("zh-CN", "home：token 已在")):
            ready = gateway.get("/readyz", headers={"Accept-Language": language})
            assert ready.status_code == 503 and ready.json()["problems"][0].startswith(says)
            assert says.partition("：")[2] in signed_in(gateway, language).page("/health").text


def test_a_key_is_made_shown_once_and_revoked(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        browser = signed_in(gateway)
        assert "There is no key." in browser.page("/keys").text
        made = browser.post(
            "/keys", {"name": "phone", "expires": "30d", "per_minute": "60", "at_once": "2", "tokens_per_day": "9000"}
        )
        (key,) = set(re.findall(r"sk-[\w-]{40,}", made.text))
        assert (
            made.status_code == 200
            and made.url.endswith("/keys")
            and "From now on every request needs a key" in made.text
        )
        assert f"-k {key} -m k2" in made.text or key in made.text
        listed = browser.page("/keys")
        assert (
            "phone" in listed.text and "60 a minute" in listed.text and "2 at once · 9000 tokens a day" in listed.text
        )
        for path in PAGES:
            assert key not in browser.get(path).text
        headers = {"Authorization": f"Bearer {key}"}
        wait_until("it counts", lambda: requests.get(gateway.url + "/v1/models", timeout=60).status_code == 401)
        assert requests.get(gateway.url + "/v1/models", headers=headers, timeout=60).ok
        assert "cannot be undone" in browser.page("/keys/phone/revoke").text
        assert "revoked" in browser.post("/keys/phone/revoke").text
        wait_until(
            "it is refused",
            lambda: requests.get(gateway.url + "/v1/models", headers=headers, timeout=60).status_code == 401,
        )
        assert key not in gateway.log() and key not in str(gateway.database.run("SELECT * FROM api_keys"))


def test_a_key_that_cannot_be_made_is_named(gateway: Gateway) -> None:
    browser = signed_in(gateway)
    wrong = {}
    for fields, says in (
        ({"name": ""}, "A name has 1 to 64"),
        ({"name": "<b>"}, "A name has 1 to 64"),
        ({"name": "x" * 65}, "A name has 1 to 64"),
        ({"name": "a", "expires": "soon"}, "Write the time as"),
        ({"name": "a", "expires": "999999w"}, "Write the time as"),
        ({"name": "a", "per_minute": "0"}, "A limit is a whole number"),
        ({"name": "a", "at_once": "-1"}, "A limit is a whole number"),
        ({"name": "a", "at_once": "１"}, "A limit is a whole number"),
        ({"name": "a", "per_minute": "9" * 400}, "A limit is a whole number"),
        ({"name": "a", "per_minute": "9" * 5000}, "A limit is a whole number"),
        ({"name": "a", "tokens_per_day": "1.5"}, "A limit is a whole number"),
        ({"name": "a", "models": ","}, "Write the models as"),
        ({"name": "a", "models": "模型"}, "Write the models as"),
    ):
        answer = browser.post("/keys", fields)
        is_made = gateway.database.run("SELECT 1 FROM api_keys")
        if is_made or answer.status_code != 400 or says not in Page(answer.text).text:
            wrong[str(fields)] = (answer.status_code, Page(answer.text).text)
    assert wrong == {}


def test_conversations_are_listed_exported_and_deleted(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, STORE_TRANSCRIPTS="1", GATEWAY_SECRET="a long enough secret") as gateway:
        for name in ("first-talk", "second-talk"):
            assert gateway.say("What about the cat?", name).ok
        browser = signed_in(gateway)
        page = browser.page("/conversations")
        assert "first-talk" in page.text and "second-talk" in page.text and CANARY not in page.source
        assert "second-talk" not in browser.page("/conversations?search=first").text
        assert "There are none" in browser.page("/conversations?idle=30").text
        export = next(a["href"] for a in page.named("a") if "first-talk" in str(a["href"]))
        document = json.loads(browser.session.get(browser.origin + str(export), timeout=30).text)
        assert document["conversation"] == "first-talk" and CANARY in document["messages"][0]["text"]
        markdown = browser.session.get(f"{browser.origin}{export}&form=markdown", timeout=30)
        assert "attachment" in markdown.headers["Content-Disposition"] and CANARY in markdown.text
        chosen = [field["value"] for field in page.named("input") if field.get("name") == "chosen"]
        answer = browser.post("/conversations/delete", {"chosen": chosen})
        assert "Deleted: 2." in Page(answer.text).text and not gateway.database.run("SELECT 1 FROM conversations")
        simulator.wait("deleted_chats", equals=2)


def test_conversations_come_in_pages(gateway: Gateway) -> None:
    columns = "owner, id, model, turns, created_at, updated_at, holder, held_until"
    for number in range(120):
        gateway.database.run(
            f"INSERT INTO conversations ({columns}) VALUES ('everybody', ?, 'k2', 1, 1, ?, '', 0)",  # noqa: S608
            f"talk-{number:03}",
            float(number // 7),
        )
    browser, path, found = signed_in(gateway), "/conversations?search=talk-", []
    while path:
        page = browser.page(path)
        found += re.findall(r"<code>(talk-\d+)</code>", page.source)
        more = [str(a["href"]) for a in page.named("a") if "after=" in str(a["href"])]
        path = more[0].removeprefix("/console") if more else ""
    gateway.database.run("DELETE FROM conversations WHERE id LIKE 'talk-%'")
    assert len(found) == len(set(found)) == 120


def test_without_transcripts_nothing_can_be_exported(gateway: Gateway, name: str) -> None:
    assert gateway.say("hello", name).ok
    browser = signed_in(gateway)
    assert "nothing to export" in browser.page("/conversations").text
    assert browser.get(f"/conversations/export?owner=everybody&id={name}").status_code == 404


def test_a_first_question_without_scripts_and_a_second_one(gateway: Gateway, simulator: Simulator) -> None:
    browser = signed_in(gateway)
    assert "A first question" in browser.page("/").text
    answer = browser.post("/try", {"model": gateway.model, "text": f"hello {CANARY}", "thinking": "", "search": ""})
    page = Page(answer.text)
    said = [field["value"] for field in page.named("input") if field.get("name") == "said" and "value" in field]
    assert answer.status_code == 200 and len(said) == 2 and said[0] == f"hello {CANARY}" and said[1]
    assert "first word after" in page.text
    more = browser.post(
        "/try", {"model": gateway.model, "text": "and now?", "role": ["user", "assistant"], "said": said}
    )
    assert more.status_code == 200 and more.text.count('<article class="turn ') == 4
    assert CANARY in simulator.turns()[-1].text
    assert "A first question" not in browser.page("/").text or "Make a key" in browser.page("/").text
    assert CANARY not in gateway.log()


def test_a_question_is_streamed_as_lines(gateway: Gateway) -> None:
    browser = signed_in(gateway)
    answer = browser.post("/try/stream", {"model": gateway.model, "text": f"hello {CANARY}"}, stream=True)
    lines = [json.loads(line) for line in answer.iter_lines() if line]
    assert "".join(line.get("text", "") for line in lines) and lines[-1]["end"] == "stop"
    assert lines[-1]["first_s"] is not None and lines[-1]["total_s"] >= lines[-1]["first_s"]


def test_what_fails_says_so_as_a_client_would_get_it(blunt: Gateway, simulator: Simulator) -> None:
    browser = signed_in(blunt)
    unknown = browser.post("/try", {"model": "no-such-model", "text": "hello"})
    assert unknown.status_code == 404 and "(404 model_not_found)" in Page(unknown.text).text
    assert browser.post("/try", {"model": blunt.model, "text": " "}).status_code == 400
    simulator.knobs(fail="stream_pushing")
    answer = browser.post("/try/stream", {"model": blunt.model, "text": "hello"})
    lines = [json.loads(line) for line in answer.text.splitlines() if line]
    assert lines[-1]["status"] == 429 and lines[-1]["code"] and "end" not in lines[-1]


def test_the_doctor_is_run_in_the_browser(gateway: Gateway) -> None:
    page = Page(signed_in(gateway).post("/health/doctor").text)
    assert len(page.named("li")) > 8 and "opens, can be written" in page.text and "That was all" in page.text
    chinese = Page(signed_in(gateway, "zh").post("/health/doctor").text).text
    assert "数据库" in chinese and "能打开，能写入" in chinese and "已回答" in chinese and "检查完毕" in chinese
    assert "opens, can be written" not in chinese and "settings" not in chinese


def test_forms_of_requests_that_kimi_refuses_are_no_unknown_frames(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        browser = signed_in(gateway)
        for kind in ("refused form SCENARIO_K2D5 k2d6-chat", "event: news"):
            gateway.database.run("INSERT INTO unrecognised VALUES (?, ?, ?, ?)", "kimi_connect", kind, 3, 1.0)
        text = browser.page("/health").text
        unknown, refused = text.index("kimi_connect: event: news"), text.index("kimi_connect: SCENARIO_K2D5")
        assert unknown < text.index("Forms of requests that Kimi refuses") < refused


def test_the_first_steps_are_done_when_a_program_was_answered(running: Running, simulator: Simulator) -> None:
    """A paused account can take nothing."""
    tokens = f"home={mint('alice')},lab={mint('bob')}"
    with running.gateway(
        simulator.url, KIMI_TOKENS=tokens, GATEWAY_API_KEYS="me=key-of-the-owner", ACCOUNT_MAX_STREAMS="3"
    ) as gateway:
        browser = signed_in(gateway)
        body = {"model": gateway.model, "messages": [{"role": "user", "content": "hello"}]}
        assert gateway.chat(body, headers={"Authorization": "Bearer key-of-the-owner"}).ok
        wait_until("it is written", lambda: gateway.database.run("SELECT 1 FROM requests"))
        overview = browser.page("/").text
        assert "Three steps" not in overview and "0 of 6" in overview
        lab = next(str(a["href"]) for a in browser.page("/accounts").named("a") if "acc_" in str(a.get("href")))
        browser.post(f"{lab.removeprefix('/console')}/pause")
        assert "0 of 3" in browser.page("/").text


def test_settings_are_shown_without_their_secrets(running: Running, simulator: Simulator) -> None:
    with running.gateway(
        simulator.url, GATEWAY_SECRET="a-very-secret-word", GATEWAY_API_KEYS="me=key-of-the-owner"
    ) as gateway:
        text = signed_in(gateway).get("/health").text
        assert "GATEWAY_SECRET" in text and "set (secret)" in text and "HEARTBEAT_S" in text
        for secret in ("a-very-secret-word", "key-of-the-owner", "eyJhbGci"):
            assert secret not in text


HOSTILE = (
    """"><script>alert(1)</script>'><img src=x onerror=alert(1)>""",
    "{{7*7}}{%x%}</table><form>a\u202eb\u0000",
)


def test_words_of_others_are_never_part_of_a_page(running: Running, simulator: Simulator) -> None:
    """Everything that a client, Kimi or a browser may have put into the database."""
    with running.gateway(simulator.url, KIMI_TOKENS=f"home={mint('alice', 9_000, 'refresh')}") as gateway:
        browser = signed_in(gateway)
        assert browser.post("/try", {"model": "no-such-model", "text": "x"}).status_code == 404
        wait_until("it is logged", lambda: gateway.database.run("SELECT 1 FROM requests"))
        ((id_,),) = gateway.database.run("SELECT id FROM requests")
        # The first renewal changes the sentence of the account, so it comes before the pages that are compared.
        wait_until("the account is renewed", lambda: browser.page("/accounts").named("time"))
        shapes = []
        for text in ("harmless", *HOSTILE):
            plain = text.replace("\u0000", "")
            for table in ("conversations", "api_keys", "unrecognised"):
                gateway.database.run(f"DELETE FROM {table}")  # noqa: S608
            gateway.database.run(
                "INSERT INTO conversations (owner, id, model, account_id, turns, created_at, updated_at, holder,"
                " held_until) VALUES (?, ?, ?, ?, 1, 1, 1, '', 0)",
                *[plain] * 4,
            )
            gateway.database.run(
                "INSERT INTO api_keys (digest, name, created_at, version) VALUES (?, ?, 1, 1)", plain, plain
            )
            gateway.database.run("INSERT INTO unrecognised VALUES (?, ?, 1, 1)", plain, plain)
            gateway.database.run("UPDATE console_sessions SET browser = ?", plain)
            gateway.database.run("UPDATE tokens SET trouble = ?", plain)
            gateway.database.run(
                "UPDATE requests SET model = ?, client = ?, request_id = ?, ending = ?, conversation = ?, trace = ?,"
                " blame = 'ours', account_id = ? WHERE id = ?",
                *[plain] * 7,
                id_,
            )
            pages = [browser.page(path) for path in (*PAGES, f"/requests/{id_}")]
            pages.append(browser.page(f"/conversations?search={quote(plain)}&idle=7&after={quote(plain)}"))
            pages.append(Page(browser.post("/keys", {"name": plain, "expires": plain, "per_minute": plain}).text))
            pages.append(
                Page(browser.post("/try", {"model": plain, "text": plain, "role": "user", "said": plain}).text)
            )
            pages.append(Page(browser_at(gateway).get(f"/enter?x={quote(plain)}").text))
            shapes.append([set(page.shape) for page in pages])
            assert any(plain in page.text or plain.replace("\u202e", "") in page.text for page in pages)
        for shape in shapes[1:]:
            assert shape == shapes[0]


def test_the_request_log_says_how_answers_of_try_it_ended(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url) as gateway:
        browser = signed_in(gateway)
        for path, model in (
            ("/try", gateway.model),
            ("/try/stream", gateway.model),
            ("/try", "x"),
            ("/try/stream", "x"),
        ):
            assert browser.post(path, {"model": model, "text": "hello"}).content
        question = "SELECT ending, blame, status FROM requests WHERE owner = 'console' ORDER BY id"
        wait_until("all are logged", lambda: len(gateway.database.run(question)) == 4)
        ends = gateway.database.run(question)
        assert ends[:2] == [("stop", "", 200)] * 2
        assert {(blame, status) for _, blame, status in ends[2:]} == {("request", 404)}


def test_all_gateways_of_a_database_know_a_session(
    running: Running, simulator: Simulator, shared_gateway: Share
) -> None:
    gateway = shared_gateway(**SHIPPED)
    browser = signed_in(gateway)
    with running.gateway(simulator.url, database=gateway.database) as second:
        other = browser_at(second)
        other.session.cookies.update(browser.session.cookies)
        assert other.get("/", allow_redirects=False).status_code == 200


def test_a_key_is_changed_and_shows_what_it_has_used(running: Running, simulator: Simulator) -> None:
    with running.gateway(simulator.url, GATEWAY_API_KEYS="owner=sk-of-the-owner") as gateway:
        browser = signed_in(gateway)
        made = browser.post("/keys", {"name": "phone", "expires": "30d", "per_minute": "60"})
        (key,) = set(re.findall(r"sk-[\w-]{40,}", made.text))
        path = next(
            str(a["href"]).removeprefix("/console")
            for a in browser.page("/keys").named("a")
            if re.fullmatch(r"/console/keys/key_\w+", str(a["href"]))
            and "phone" in browser.get(str(a["href"]).removeprefix("/console")).text
        )
        said = {"model": gateway.model, "messages": [{"role": "user", "content": "hello"}]}
        headers = {"Authorization": f"Bearer {key}"}
        wait_until("it counts", lambda: gateway.get("/v1/models", headers=headers).ok)
        assert gateway.chat(said, headers=headers).status_code == 200
        wait_until(
            "it is logged", lambda: "no_requests" not in browser.get(path).text and ">1<" in browser.get(path).text
        )
        page = browser.page(path)
        assert "Last 30 days" in page.text and gateway.model in page.text and page.named("svg")
        exported = browser.get(f"{path}/export")
        assert (
            exported.headers["Content-Type"].startswith("text/csv")
            and exported.text.splitlines()[1].split(",")[1] == "phone"
        )
        # Fields are filled with what counts now; an empty one takes its limit away.
        assert [field["value"] for field in page.named("input") if field.get("id") == "per_minute"] == ["60"]
        changed = browser.post(
            f"{path}/change", {"name": "tablet", "at_once": "3", "models": "no-such-model", "never": "1"}
        )
        assert changed.url.endswith("/keys") and "tablet" in changed.text and "3 at once" in changed.text
        assert "60 a minute" not in changed.text and "expires" not in Page(changed.text).text.partition("New key")[0]
        wait_until("its models count", lambda: gateway.chat(said, headers=headers).status_code == 403)
        for fields, says in (
            ({"name": "owner"}, "There is a key called owner already"),
            ({"name": "tablet", "per_minute": "0"}, "A limit is a whole number"),
            ({"name": "two words"}, "A name has 1 to 64"),
        ):
            refused = browser.post(f"{path}/change", fields)
            assert refused.status_code == 400 and says in Page(refused.text).text
        assert "3 at once" in browser.page(path).text
        browser.post("/keys/tablet/revoke")
        assert browser.post(f"{path}/change", {"name": "tablet"}).status_code == 404
        assert browser.page(path) and browser.get("/keys/key_of_nobody").status_code == 404

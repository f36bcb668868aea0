"""Journeys through the console in a real Chromium: ``make journeys``, or ``python -m tests.journeys --only phone``.

``--shots FOLDER`` puts pictures of all pages there, and those of ``docs/`` into ``FOLDER/docs``. Not part of the
tests: it needs Chromium and Playwright. Each journey starts a gateway of its own, and asserts. A page
must never break the Content-Security-Policy, and no script may fail; every page is looked at by axe-core.
"""

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright

from tests.running import Gateway, Running, Simulator, mint
from tests.running.console import ticket_of

# Pages that are there without any account, key or request.
PAGES = ("", "accounts", "accounts/add", "requests", "keys", "conversations", "try", "setup", "health", "access")
AXE = Path(__file__).parents[2] / ".clients" / "journeys" / "axe.min.js"

Journey = Callable[["World"], None]
JOURNEYS: dict[str, Journey] = {}


def journey(function: Journey) -> Journey:
    JOURNEYS[function.__name__] = function
    return function


@dataclass
class World:
    """A simulator, gateways and browsers for one journey. ``shots``: where pictures are put, if they are wanted."""

    running: Running
    simulator: Simulator
    chromium: Browser
    stack: ExitStack
    shots: Path | None
    # What a page should never say: broken policies and failed scripts.
    complaints: list[str] = field(default_factory=list)
    secret: dict[str, str] = field(default_factory=dict)

    def gateway(self, **settings: Any) -> Gateway:
        self.secret = {name: value for name, value in settings.items() if name == "GATEWAY_SECRET"}
        return self.stack.enter_context(self.running.gateway(self.simulator.url, **settings))

    def context(self, **options: Any) -> BrowserContext:
        context = self.chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.stack.callback(context.close)
        context.on("console", lambda message: self.hear(message.type, message.text))
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        return context

    def hear(self, kind: str, text: str) -> None:
        # Chromium's own log of a status that the journey expects, and its advice about password managers.
        if kind in ("error", "warning") and "Failed to load resource" not in text and "[DOM]" not in text:
            self.complaints.append(text)

    def enter(self, gateway: Gateway, context: BrowserContext | None = None) -> Page:
        """A page that has come in by a link."""
        page = (context or self.context()).new_page()
        page.goto(f"{gateway.url}/console/enter#{ticket_of(gateway, **self.secret)}")
        page.locator("#with-ticket button").click()
        page.wait_for_url("**/console/")
        return page

    def at(self, page: Page, path: str) -> None:
        page.goto(f"{page.url.split('/console')[0]}/console/{path}")


def a_key_works(gateway: Gateway, key: str) -> bool:
    import requests

    return requests.get(f"{gateway.url}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=10).ok


@journey
def first_start(world: World) -> None:
    """Without an account → link → paste → check → save → try it → key → set up a client."""
    gateway = world.gateway(KIMI_TOKENS="")
    page = world.enter(gateway)
    expect(page.locator("h1")).to_contain_text("There is no Kimi account yet.")
    page.get_by_role("link", name="Add one").click()
    page.get_by_label("Paste what you have").fill(mint("alice", 7_776_000, "refresh"))
    page.get_by_role("button", name="Check").click()
    expect(page.locator("main")).to_contain_text("renews it by itself")
    page.get_by_label("Name").fill("home")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("region", name="home")).to_contain_text("Ready.")
    page.get_by_role("link", name="Try it").click()
    page.get_by_label("Your question").fill("Hello, who are you?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant .facts")).to_contain_text("first word after")
    assert "simulated" in page.locator(".turn.assistant .text").inner_text()
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("link", name="Make a key").click()
    page.get_by_label("Name").fill("phone")
    page.get_by_role("button", name="Make a key").click()
    key = page.locator("pre").first.inner_text()
    page.locator("summary", has_text="Codex").click()
    page.locator("summary", has_text="curl").click()
    assert key in page.locator("details", has_text="curl").first.locator("pre").inner_text()
    page.get_by_role("link", name="I have it").click()
    assert key not in page.content()
    wait(lambda: a_key_works(gateway, key))
    page.get_by_role("link", name="Overview").click()
    expect(page.locator("main")).not_to_contain_text("Three steps")


@journey
def an_account_dies(world: World) -> None:
    """The sentence says what to do, a new token is pasted, and it works."""
    gateway = world.gateway(KIMI_TOKENS="")
    page = world.enter(gateway)
    add(world, page, mint("alice", 5), "home")
    page.get_by_role("link", name="Overview").click()
    expect(page.locator("h1")).to_contain_text("no account can answer", timeout=20_000)
    expect(page).to_have_title("(1) need you · Overview · Kimi Gateway")
    section = page.get_by_role("region", name="home")
    expect(section).to_contain_text("nothing renews it")
    assert gateway.get("/readyz").status_code == 503
    section.get_by_role("link", name="Paste a token").click()
    page.get_by_label("Paste what you have").fill(mint("alice", 7_776_000, "refresh"))
    page.get_by_role("button", name="Check").click()
    expect(page.locator("main")).to_contain_text("This user is here already as home")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("region", name="home")).to_contain_text("Ready.")
    wait(lambda: gateway.say("hello").ok)


@journey
def an_account_is_paused_tested_and_removed(world: World) -> None:
    gateway = world.gateway(KIMI_TOKENS="")
    page = world.enter(gateway)
    add(world, page, mint("alice", 7_776_000, "refresh"), "home")
    section = page.get_by_role("region", name="home")
    section.get_by_role("button", name="Pause").click()
    expect(section).to_contain_text("You paused this account on")
    section.get_by_role("button", name="Resume").click()
    expect(section).to_contain_text("Ready.")
    section.get_by_role("button", name="Rest 30 min").click()
    expect(section).to_contain_text("You gave this account a rest.")
    section.get_by_role("button", name="Wake").click()
    expect(section).to_contain_text("Ready.")
    page.get_by_role("button", name="Ask Kimi what is left").click()
    expect(section).to_contain_text("% left")
    section.get_by_role("button", name="Test").click()
    expect(page.locator("main")).to_contain_text("its chat is deleted")
    world.at(page, "accounts")
    page.get_by_role("link", name="home").click()
    page.get_by_role("link", name="Remove").click()
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("main")).to_contain_text("There is no Kimi account yet.")


@journey
def a_link_waits_for_a_click(world: World) -> None:
    """Opening it uses nothing up, and the address shows no secret."""
    gateway = world.gateway()
    link = f"{gateway.url}/console/enter#{ticket_of(gateway)}"
    preview = world.context().new_page()
    preview.goto(link)
    preview.wait_for_function("document.querySelector('#ticket').value !== ''")
    assert "#" not in preview.url
    page = world.context().new_page()
    page.goto(link)
    page.locator("#with-ticket button").click()
    expect(page.locator("h1")).to_contain_text("Works.")
    preview.locator("#with-ticket button").click()
    expect(preview.get_by_role("alert")).to_contain_text("A link works once")


@journey
def an_answer_is_streamed_stopped_and_forgotten(world: World) -> None:
    gateway = world.gateway()
    world.simulator.knobs(delay_s=0.2)
    page = world.enter(gateway)
    world.at(page, "try")
    page.get_by_label("Your question").fill("Count to a hundred <script>alert(1)</script>")
    page.get_by_label("Your question").press("Control+Enter")
    expect(page.locator(".turn.assistant .text")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".turn.assistant .failed")).to_contain_text("it is not complete")
    world.simulator.knobs(delay_s=0.01)
    page.get_by_label("Your question").fill("and now?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant .facts").last).to_contain_text("first word")
    assert (
        page.locator("main script").count() == 0 and page.evaluate("localStorage.length + sessionStorage.length") == 0
    )
    page.reload()
    assert page.locator(".turn").count() == 0


@journey
def the_overview_renews_itself(world: World) -> None:
    gateway = world.gateway()
    page = world.enter(gateway)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.headers.get("hx-request", "")))
    page.get_by_role("link", name="Make a key").focus()
    wait(lambda: pump(page) and asked.count("true") >= 2, 20)
    assert page.evaluate("document.activeElement.textContent") == "Make a key"
    page.get_by_role("button", name="Pause updates").click()
    before = len(asked)
    page.wait_for_timeout(7000)
    assert len(asked) == before
    # The session ends elsewhere: the page says so by itself.
    page.get_by_role("button", name="Resume updates").click()
    gateway.database.run("DELETE FROM console_sessions")
    page.wait_for_url("**/console/enter", timeout=15_000)


@journey
def language_and_colours(world: World) -> None:
    gateway = world.gateway()
    page = world.enter(gateway, world.context(locale="zh-CN", color_scheme="dark"))
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    expect(page.locator("h1")).to_contain_text("正常")
    assert background(page) == "rgb(20, 22, 26)"
    page.get_by_role("button", name="English").click()
    expect(page.locator("h1")).to_contain_text("Works.")
    page.get_by_role("button", name="light").click()
    assert background(page) == "rgb(251, 251, 250)"
    world.at(page, "keys")
    expect(page.locator("h1")).to_have_text("Keys")
    page.get_by_role("button", name="system").click()
    assert background(page) == "rgb(20, 22, 26)" and page.url.endswith("/keys")


@journey
def phone(world: World) -> None:
    """Nothing is wider than the screen, and every button can be hit with a thumb."""
    gateway = world.gateway(STORE_TRANSCRIPTS="1", GATEWAY_SECRET="a long enough secret")
    traffic(gateway)
    for language in ("en", "zh-CN"):
        page = world.enter(
            gateway, world.context(locale=language, viewport={"width": 390, "height": 844}, has_touch=True)
        )
        for path in PAGES:
            world.at(page, path)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
            for button in page.locator("main button:visible:not(.plain), main a.button:visible").all():
                box = button.bounding_box()
                assert box is not None and box["height"] >= 43, (path, button.inner_text(), box)


@journey
def without_scripts(world: World) -> None:
    gateway = world.gateway()
    context = world.context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{gateway.url}/console")
    page.get_by_label("The link, or the part behind its #").fill(ticket_of(gateway))
    page.locator("#with-ticket button").click()
    expect(page.locator("h1")).to_contain_text("Works.")
    page.get_by_role("link", name="Keys").click()
    page.get_by_label("Name").fill("phone")
    page.get_by_role("button", name="Make a key").click()
    assert page.locator("pre").first.inner_text().startswith("sk-")
    page.get_by_role("link", name="I have it").click()
    page.get_by_role("link", name="Revoke phone").click()
    page.get_by_role("button", name="Revoke").click()
    expect(page.locator("table")).to_contain_text("revoked")
    page.get_by_role("link", name="Try it").click()
    page.get_by_label("Your question").fill("hello")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant")).to_contain_text("first word after")
    page.get_by_label("Your question").fill("and what did I say?")
    page.get_by_role("button", name="Send").click()
    assert page.locator(".turn").count() == 4
    page.get_by_role("link", name="Health").click()
    page.get_by_role("button", name="Run the doctor").click()
    expect(page.locator("main")).to_contain_text("That was all", timeout=60_000)
    page.get_by_role("button", name="中文").click()
    page.get_by_role("button", name="深色").click()
    page.get_by_role("link", name="登录管理").click()
    page.get_by_role("button", name="退出").click()
    expect(page.locator("h1")).to_have_text("进入控制台")


@journey
def with_the_keyboard(world: World) -> None:
    """The first stop skips the navigation, and every control can be reached and is seen when it is."""
    gateway = world.gateway()
    traffic(gateway)
    page = world.enter(gateway)
    for path in PAGES:
        world.at(page, path)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip", path
        wanted = page.evaluate(
            "[...document.querySelectorAll('a[href],button,input,select,textarea,summary')].filter("
            "e => e.type !== 'hidden' && e.checkVisibility({visibilityProperty: true})).length"
        )
        seen = set()
        for _ in range(wanted + 20):
            seen.add(
                page.evaluate(
                    "(() => { const e = document.activeElement; e.dataset.n ??= Math.random(); return e.dataset.n })()"
                )
            )
            assert page.evaluate(
                "document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle !== 'none'"
            )
            page.keyboard.press("Tab")
        assert len(seen) >= wanted, (path, len(seen), wanted)


@journey
def nothing_serious_for_readers(world: World) -> None:
    """axe-core, on every page, in both languages, light and dark, wide and narrow."""
    gateway = world.gateway(STORE_TRANSCRIPTS="1", GATEWAY_SECRET="a long enough secret", KIMI_TOKENS="")
    furnish(world, gateway)
    axe = AXE.read_text()
    found = []
    for scheme, width, language in (
        ("light", 1280, "en"),
        ("dark", 390, "zh-CN"),
        ("dark", 1280, "en"),
        ("light", 390, "en"),
    ):
        # axe is brought in by evaluate, which the policy of the page does not concern.
        context = world.context(
            color_scheme=scheme, viewport={"width": width, "height": 844}, locale=language, bypass_csp=True
        )
        page = world.enter(gateway, context)
        for name in every_page(world, page):
            page.evaluate(axe)
            result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            for one in result["violations"]:
                places = [node["target"] for node in one["nodes"]][:3]
                found.append(f"{name} {scheme} {width}: {one['impact']} {one['id']} {places}")
    assert not found, "\n".join(found)


@journey
def a_first_view_is_small(world: World) -> None:
    gateway = world.gateway()
    page = world.context().new_page()
    sizes: list[int] = []
    page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    page.goto(f"{gateway.url}/console/enter#{ticket_of(gateway)}")
    page.locator("#with-ticket button").click()
    page.wait_for_load_state("networkidle")
    # What comes from the network, and not from the browser's cache: the entry, its form, the overview and four files.
    loaded = [size for size in sizes if size > 0]
    assert len(loaded) <= 8 and sum(loaded) < 40_000, sizes


@journey
def pictures(world: World) -> None:
    """Each page in both languages, light and dark, wide and narrow; nothing is compared, people look."""
    if world.shots is None:
        return
    gateway = world.gateway(STORE_TRANSCRIPTS="1", GATEWAY_SECRET="a long enough secret", KIMI_TOKENS="")
    furnish(world, gateway)
    for language in ("en", "zh-CN"):
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                context = world.context(
                    locale=language, color_scheme=scheme, viewport={"width": width, "height": 844}
                )
                for name in every_page(world, world.enter(gateway, context)):
                    file = f"{name}-{language[:2]}-{scheme}-{width}.png"
                    context.pages[0].screenshot(path=world.shots / file, full_page=True)
                context.close()


@journey
def pictures_of_the_docs(world: World) -> None:
    """The six of docs/, as they are there: work needs a new login, and two answers run."""
    if world.shots is None:
        return
    folder = world.shots / "docs"
    folder.mkdir(exist_ok=True)
    gateway = world.gateway(KIMI_TOKENS="", GATEWAY_SECRET="a long enough secret")
    page = world.enter(gateway)
    add(world, page, mint("alice", 7_776_000, "refresh"), "home")
    add(world, page, mint("bob", 7_776_000, "refresh"), "lab")
    add(world, page, mint("carol", 2), "work")
    keys = {name: make_key(world, page, name) for name in ("ann", "phone", "cli")}
    wait(lambda: all(a_key_works(gateway, key) for key in keys.values()))
    said = {"messages": [{"role": "user", "content": "Which river flows through Basel?"}]}
    for name, number in (("ann", 5), ("phone", 3), ("cli", 2)):
        for model in number * ("k2", "kimi-k2.6"):
            headers = {"Authorization": f"Bearer {keys[name]}", "User-Agent": "OpenAI/Python 3.54.0"}
            assert gateway.chat({"model": model, **said}, headers=headers).ok
    gateway.chat({"model": "gpt-4o", **said}, headers={"Authorization": f"Bearer {keys['cli']}"})
    gateway.chat({"model": "k2", **said}, headers={"User-Agent": "OpenAI/JS 7.5.0"})
    world.at(page, "try")
    page.get_by_label("Your question").fill("Which river flows through Basel?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant .facts")).to_contain_text("first word after")
    small(page, folder / "console-try.png", 800)
    world.at(page, "accounts")
    page.get_by_role("button", name="Ask Kimi what is left").click()
    page.wait_for_load_state()
    world.simulator.knobs(delay_s=0.4, say="word " * 100)
    with ThreadPoolExecutor(2) as pool:
        for name, model in (("ann", "kimi-k2.6"), ("phone", "k2")):
            headers = {"Authorization": f"Bearer {keys[name]}"}
            pool.submit(gateway.chat, {"model": model, **said, "stream": True}, headers=headers)
        # A worker says what runs every few seconds, and the overview looks again after twenty.
        wait(lambda: shown(world, page, "", "table.dense tbody tr") == 2, 30)
        wait(lambda: shown(world, page, "", "ul.findings li"), 40)
        small(page, folder / "console-overview.png")
        chinese = world.enter(gateway, world.context(locale="zh-CN", color_scheme="dark", viewport=_OF_THE_DOCS))
        small(chinese, folder / "console-overview-zh-dark.png")
        world.at(page, "accounts")
        small(page, folder / "console-accounts.png", 800)
        world.simulator.knobs(delay_s=0)
    telephone = world.enter(gateway, world.context(viewport={"width": 390, "height": 844}))
    world.at(telephone, "requests")
    telephone.screenshot(path=folder / "console-requests-phone.png")
    chinese = world.enter(gateway, world.context(locale="zh-CN", viewport=_OF_THE_DOCS))
    world.at(chinese, "health")
    chinese.locator("main button.first").click()
    chinese.locator("ul.findings + p").wait_for(timeout=60_000)
    small(chinese, folder / "console-health-zh.png", 900)


_OF_THE_DOCS: ViewportSize = {"width": 1180, "height": 800}


def small(page: Page, path: Path, height: int | None = None) -> None:
    """A picture of the page, or of its upper part."""
    page.set_viewport_size(_OF_THE_DOCS)
    page.mouse.move(0, 0)
    if height is None:
        page.screenshot(path=path, full_page=True)
    else:
        page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": 1180, "height": height})


def make_key(world: World, page: Page, name: str) -> str:
    world.at(page, "keys")
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Make a key").click()
    return str(page.locator("pre").first.inner_text())


def shown(world: World, page: Page, path: str, what: str) -> int:
    """How often it is on the page now."""
    world.at(page, path)
    return int(page.locator(what).count())


def furnish(world: World, gateway: Gateway) -> None:
    """Accounts in several states, a key that was used, requests, conversations, and something unknown of Kimi's."""
    page = world.enter(gateway)
    add(world, page, mint("alice", 7_776_000, "refresh"), "home")
    add(world, page, mint("bob", 86_400), "lab")
    add(world, page, mint("carol", 7_776_000, "refresh"), "old")
    page.get_by_role("region", name="old").get_by_role("button", name="Pause").click()
    traffic(gateway)
    page.get_by_role("button", name="Ask Kimi what is left").click()
    key = make_key(world, page, "phone")
    wait(lambda: a_key_works(gateway, key))
    said = {"model": gateway.model, "messages": [{"role": "user", "content": "hello"}]}
    assert gateway.chat(said, headers={"Authorization": f"Bearer {key}"}).ok
    wait(lambda: len(gateway.database.run("SELECT 1 FROM requests")) >= 5)
    for kind in ("event: news", "refused form SCENARIO_K2D5 k2d6-chat"):
        gateway.database.run("INSERT INTO unrecognised VALUES (?, ?, ?, ?)", "kimi_connect", kind, 2, time.time())
    page.context.close()


def every_page(world: World, page: Page) -> Iterator[str]:
    """Shows each page of a furnished gateway, also those that follow a form, and gives its name. In any language."""
    for path in ("enter", *PAGES):
        world.at(page, path)
        yield path.replace("/", "-") or "overview"
    for path, link, name in (
        ("accounts", "main h2 a", "account"),
        ("keys", "th a", "key"),
        ("requests", "th a", "request"),
        ("requests?end=failed", "th a", "request-failed"),
        ("keys", "td.acts a", "confirm"),
    ):
        world.at(page, path)
        page.locator(link).last.click()
        page.wait_for_load_state()
        yield name
    world.at(page, "accounts/add")
    page.locator("#pasted").fill(mint("dora", 7_776_000, "refresh"))
    page.locator("main form button").click()
    page.wait_for_url("**/accounts/check")
    yield "account-checked"
    world.at(page, "keys")
    page.locator("main input[name=name]").fill(f"key-{time.time_ns()}")
    page.locator("main button.first").click()
    page.locator("pre").first.wait_for()
    page.locator("summary").first.click()
    yield "key-made"
    world.at(page, "try")
    page.locator("textarea").fill("Hello, who are you?")
    page.locator("main button.first").click()
    expect(page.locator(".turn.assistant .facts")).not_to_be_empty()
    yield "try-answered"
    world.at(page, "accounts")
    page.locator("main .acts button").first.click()
    page.locator("ul.findings + p").wait_for(timeout=60_000)
    yield "accounts-tested"
    world.at(page, "health")
    page.locator("main button.first").click()
    page.locator("ul.findings + p").wait_for(timeout=60_000)
    yield "doctor"
    world.at(page, "health")
    page.locator("main summary").first.click()
    yield "health-settings"
    world.at(page, "no-such-page")
    yield "error"


def add(world: World, page: Page, text: str, label: str) -> None:
    world.at(page, "accounts/add")
    page.locator("#pasted").fill(text)
    page.locator("main form button").click()
    page.locator("#label").fill(label)
    page.locator("main form button").click()
    page.wait_for_url("**/accounts")


def traffic(gateway: Gateway) -> None:
    for number in range(3):
        assert gateway.say("hello", f"talk-{number}").ok
    gateway.chat({"model": "no-such-model", "messages": [{"role": "user", "content": "hello"}]})
    wait(lambda: len(gateway.database.run("SELECT 1 FROM requests")) >= 4)


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def pump(page: Page) -> bool:
    """Lets Playwright deliver its events."""
    page.wait_for_timeout(100)
    return True


def wait(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@contextmanager
def worlds(shots: Path | None) -> Iterator[Callable[[ExitStack], World]]:
    chromium_path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        running = Running(Path(folder), Path(folder))
        chromium = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        with running.simulator() as simulator:

            def build(stack: ExitStack) -> World:
                simulator.reset()
                return World(running, simulator, chromium, stack, shots)

            yield build
        chromium.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.journeys")
    parser.add_argument("--only", help="names, comma-separated")
    parser.add_argument("--shots", type=Path, help="a folder for pictures of all pages")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",") if arguments.only else list(JOURNEYS)
    if arguments.shots is not None:
        arguments.shots.mkdir(parents=True, exist_ok=True)
    failed = 0
    with worlds(arguments.shots) as build:
        for name in chosen:
            began = time.monotonic()
            try:
                with ExitStack() as stack:
                    world = build(stack)
                    JOURNEYS[name](world)
                assert not world.complaints, world.complaints
            except Exception:  # noqa: BLE001  # the other journeys are made, too
                failed += 1
                print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
            else:
                print(f"ok      {name} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} journeys")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

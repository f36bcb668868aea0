"""A browser at the console of a gateway, as far as HTTP goes: no script runs."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import requests

from tests.running.commands import run_command
from tests.running.gateway import Gateway


@dataclass
class Page(HTMLParser):
    """What stands in a page: its elements, and the texts between them."""

    source: str
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """The elements with the names of their attributes: what a text must never change."""
        return [(tag, tuple(attributes)) for tag, attributes in self.elements]


@dataclass
class Browser:
    """``base``: the address of the console."""

    base: str
    language: str = "en"
    session: requests.Session = field(default_factory=requests.Session)
    token: str = ""

    @property
    def origin(self) -> str:
        return self.base.removesuffix("/console")

    @property
    def own_headers(self) -> dict[str, str]:
        """What a browser says of a form of the console."""
        return {"Origin": self.origin, "Sec-Fetch-Site": "same-origin", "Accept-Language": self.language}

    def get(self, path: str = "/", **arguments: Any) -> requests.Response:
        headers = {"Accept": "text/html", "Accept-Language": self.language, **arguments.pop("headers", {})}
        response = self.session.get(self.base + path, headers=headers, timeout=60, **arguments)
        found = re.search(r'name="token" value="([0-9a-f]{64})"', response.text)
        self.token = found[1] if found else self.token
        return response

    def page(self, path: str = "/") -> Page:
        response = self.get(path)
        assert response.status_code == 200, (path, response.status_code)
        return Page(response.text)

    def post(self, path: str, data: dict[str, Any] | None = None, **arguments: Any) -> requests.Response:
        """A form of the console, with its token."""
        headers = {**self.own_headers, **arguments.pop("headers", {})}
        fields = {"token": self.token, **(data or {})}
        return self.session.post(self.base + path, data=fields, headers=headers, timeout=60, **arguments)

    def enter(self, **fields: str) -> requests.Response:
        """With ``ticket`` or ``password``."""
        return self.post("/enter", fields, allow_redirects=False)

    def sign_in(self, gateway: Gateway) -> "Browser":
        """With a link of the command."""
        response = self.enter(ticket=ticket_of(gateway))
        assert response.status_code == 303, response.text
        self.get("/access")
        return self


def browser_at(gateway: Gateway, language: str = "en") -> Browser:
    return Browser(gateway.url + "/console", language)


def signed_in(gateway: Gateway, language: str = "en") -> Browser:
    return browser_at(gateway, language).sign_in(gateway)


def ticket_of(gateway: Gateway, **settings: str) -> str:
    """The secret part of a new link, as the command prints it."""
    code, output = run_command(gateway.database, "console-link", **settings)
    assert code == 0, output
    (ticket,) = re.findall(r"/console/enter#([\w-]+)", output)
    return str(ticket)

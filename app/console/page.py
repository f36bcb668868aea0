"""What all pages of the console use: the current request, its session and language, and how a page is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from flask import Response, current_app, g, redirect, render_template, request, url_for
from markupsafe import Markup
from werkzeug.wrappers import Response as BaseResponse

from app.accounts import standings
from app.accounts.standings import Standing
from app.console.assets import Assets
from app.console.entry import Entry, Session
from app.console.mount import PATH, Reach, Services
from app.console.show import time_element
from app.console.words import Language, sentence_of
from app.store import Store
from app.store.ledger import RequestRow
from app.web.api_keys import key_names


@dataclass(frozen=True, slots=True)
class Console:
    """The parts of the console. One object per process."""

    services: Services
    reach: Reach
    entry: Entry = field(init=False)
    assets: Assets = field(init=False)
    # The last requests and when they were read, for the overview.
    recent: list[tuple[float, Sequence[RequestRow]]] = field(default_factory=list)

    cookie_name = "kimi_console"

    def __post_init__(self) -> None:
        object.__setattr__(self, "entry", Entry(self.services.store))
        object.__setattr__(self, "assets", Assets())


# The pages in the order of the navigation: endpoint and word.
NAVIGATION = (
    ("overview.show", "overview"),
    ("accounts.show", "accounts"),
    ("request_log.show", "requests"),
    ("keys.show", "keys"),
    ("conversations.show", "conversations"),
    ("trial.show", "try_it"),
    ("setup.show", "set_up"),
    ("health.show", "health"),
)


def console() -> Console:
    return cast(Console, current_app.extensions["console"])


def store() -> Store:
    return console().services.store


def session() -> Session:
    """The session of the current request. Only where there is one."""
    return cast(Session, g.session)


def language() -> Language:
    return cast(Language, g.language)


def say(key: str, **values: Any) -> Markup:
    """A sentence of ``words`` in the language of the request."""
    return sentence_of(key, language(), **values)


def page(template: str, status: int = 200, **values: Any) -> Response:
    """A page as a response."""
    return Response(
        render_template(template, **common_values(), **values), status, content_type="text/html; charset=utf-8"
    )


def common_values() -> dict[str, Any]:
    """What every template may use."""
    return {
        "t": say,
        "language": language(),
        "theme": g.theme if g.theme in ("light", "dark") else "",
        "token": g.session.token if g.session is not None else "",
        "signed_in": g.session is not None,
        "navigation": NAVIGATION,
        "asset": console().assets.url,
        "time": time_element,
        "state": state_of,
        "advice": advice_of,
        "here": request.full_path.removesuffix("?"),
    }


def to_entry() -> BaseResponse:
    """The answer to somebody without a session: a person is sent to the entry, a script gets a 401."""
    is_page = request.method == "GET" and "hx-request" not in request.headers
    if is_page and request.accept_mimetypes.accept_html:
        return redirect(url_for("access.enter"), 303)
    return page("error.html", status=401, message=say("signed_out"))


def go(endpoint: str, **values: Any) -> BaseResponse:
    """After a change: to the page that shows it."""
    return redirect(url_for(endpoint, **values), 303)


def base_url() -> str:
    """The address of the gateway as this browser reaches it, without a slash at its end."""
    url = console().services.config.console_url
    return (url or request.root_url.rstrip("/")).removesuffix(PATH)


def names_of_keys() -> dict[str, str]:
    """Owner → the name of the API key, also of one that was revoked."""
    names = key_names(console().services.config.api_keys, store().keys.all())
    return {
        **names,
        "everybody": str(say("everybody")),
        "console": str(say("console_owner")),
        "": str(say("unknown_key")),
    }


def state_of(standing: Standing) -> Markup:
    return _written(standing, lambda words: words.state)


def advice_of(standing: Standing) -> Markup:
    return _written(standing, lambda words: words.advice)


def _written(standing: Standing, part: Callable[[standings.Words], str]) -> Markup:
    template = part(standings.words(standing, language()))
    return code_marked(Markup(template).format(**standings.values(standing, language(), time_element)))


def code_marked(text: Markup) -> Markup:
    """A text with commands between backticks, as HTML."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return text
    marked = [Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)]
    return Markup("").join(marked)

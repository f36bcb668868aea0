"""The page Keys: API keys are made, shown once, and revoked."""

import re
from dataclasses import dataclass

from flask import Blueprint, abort, request
from markupsafe import Markup
from werkzeug.wrappers import Response as BaseResponse

from app.console.page import base_url, console, go, page, say, store
from app.console.setup import clients
from app.store import KeyRow
from app.web.api_keys import digest_of, is_key_name, is_model_list, make_key, seconds_of

blueprint = Blueprint("keys", __name__)

_MOST = {"per_minute": 1_000_000, "at_once": 1_000_000, "tokens_per_day": 10**12}
# January 1 of the year 10000, which dates cannot show.
_END_OF_CALENDAR = 253_402_300_800.0


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as a row of the page. ``row``: None for one of GATEWAY_API_KEYS."""

    name: str
    row: KeyRow | None
    is_expired: bool = False

    @property
    def tone(self) -> str:
        return "off" if self.is_expired or (self.row is not None and self.row.revoked_at is not None) else "good"

    @property
    def limits(self) -> Markup:
        """Empty if it has none."""
        if self.row is None:
            return Markup()
        row = self.row
        said = [
            say("per_minute", number=row.per_minute) if row.per_minute else "",
            say("at_once", number=row.at_once) if row.at_once else "",
            say("tokens_a_day", number=row.tokens_per_day) if row.tokens_per_day else "",
            say("only_models", names=", ".join(row.model_patterns)) if row.model_patterns else "",
        ]
        return Markup(" · ").join(filter(None, said))


@blueprint.get("/keys")
def show() -> BaseResponse:
    return _page()


def _page(problem: str = "", status: int = 200) -> BaseResponse:
    now = store().database.now()
    rows = [KeyView(given.name or str(say("nameless_key")), None) for given in console().services.config.api_keys]
    for row in sorted(store().keys.all(), key=lambda row: row.revoked_at is not None):
        rows.append(KeyView(row.name, row, row.expires_at is not None and row.expires_at <= now))
    return page("keys.html", status, keys=rows, problem=problem, form=request.form)


@blueprint.post("/keys")
def make() -> BaseResponse:
    """The answer to this request is the only page that ever shows the key."""
    form = request.form
    name, expires = form.get("name", "").strip(), form.get("expires", "").strip()
    if not is_key_name(name):
        return _page(say("key_name_wrong"), 400)
    period_s = seconds_of(expires) if expires else None
    now = store().database.now()
    if expires and (not period_s or now + period_s >= _END_OF_CALENDAR):
        return _page(say("period_wrong"), 400)
    limits: dict[str, int | None] = {}
    for field, most in _MOST.items():
        text = form.get(field, "").strip()
        if text and not (re.fullmatch(r"[0-9]{1,13}", text) and 1 <= int(text) <= most):
            return _page(say("number_wrong"), 400)
        limits[field] = int(text) if text else None
    models = form.get("models", "").replace(" ", "")
    if models and not is_model_list(models):
        return _page(say("models_wrong"), 400)
    config = console().services.config
    is_first = not config.api_keys and not store().keys.all()
    key = make_key()
    expires_at = now + period_s if period_s else None
    row = KeyRow(
        digest_of(key),
        name,
        now,
        expires_at,
        None,
        limits["per_minute"],
        limits["at_once"],
        models=models or None,
        tokens_per_day=limits["tokens_per_day"],
    )
    if name in [given.name for given in config.api_keys] or not store().keys.add(row):
        return _page(say("key_name_taken", name=name), 400)
    return page("key_made.html", key=key, name=name, is_first=is_first, clients=clients(base_url(), key))


@blueprint.get("/keys/<name>/revoke")
def ask_to_revoke(name: str) -> BaseResponse:
    if not any(row.name == name and row.revoked_at is None for row in store().keys.all()):
        abort(404)
    return page(
        "confirm.html",
        title=say("revoke_key", name=name),
        text=say("revoke_key_means"),
        action="keys.revoke",
        arguments={"name": name},
        button=say("revoke"),
        back="keys.show",
    )


@blueprint.post("/keys/<name>/revoke")
def revoke(name: str) -> BaseResponse:
    if not store().keys.revoke(name, store().database.now()):
        abort(404)
    return go("keys.show")

"""The page Keys: API keys are made, shown once, changed and revoked; and what each has used."""

import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from flask import Blueprint, Response, abort, request
from markupsafe import Markup
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as BaseResponse

from app.console.page import base_url, console, go, page, say, store
from app.console.request_log import csv_of, labels_of_accounts
from app.console.setup import clients
from app.console.show import count, day_of
from app.console.usage import last_days, summed
from app.store import KeyNameTaken, KeyRow
from app.store.ledger import UsageRow
from app.web.api_keys import digest_of, is_key_name, is_model_list, make_key, owner_of, seconds_of

blueprint = Blueprint("keys", __name__)

_MOST = {"per_minute": 1_000_000, "at_once": 1_000_000, "tokens_per_day": 10**12}
# January 1 of the year 10000, which dates cannot show.
_END_OF_CALENDAR = 253_402_300_800.0


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as a row of the page. ``row``: None for one of GATEWAY_API_KEYS."""

    name: str
    row: KeyRow | None
    owner: str
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
    views = [
        KeyView(given.name or str(say("nameless_key")), None, owner_of(digest_of(given.secret)))
        for given in console().services.config.api_keys
    ]
    rows = sorted(store().keys.all(), key=lambda row: row.revoked_at is not None)
    views += [_view(row, now) for row in rows]
    return page("keys.html", status, keys=views, problem=problem, form=request.form)


def _view(row: KeyRow, now: float) -> KeyView:
    is_expired = row.expires_at is not None and row.expires_at <= now
    return KeyView(row.name, row, owner_of(row.digest), is_expired)


class _Wrong(Exception):
    """A field that cannot be used. ``key``: of the sentence that says so."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _values(form: "MultiDict[str, str]", now: float) -> dict[str, Any]:
    """The fields of a form as columns; without expires_at where its field is empty. Raises _Wrong."""
    values: dict[str, Any] = {"name": form.get("name", "").strip()}
    if not is_key_name(values["name"]):
        raise _Wrong("key_name_wrong")
    if expires := form.get("expires", "").strip():
        period_s = seconds_of(expires)
        if not period_s or now + period_s >= _END_OF_CALENDAR:
            raise _Wrong("period_wrong")
        values["expires_at"] = now + period_s
    for field, most in _MOST.items():
        text = form.get(field, "").strip()
        if text and not (re.fullmatch(r"[0-9]{1,13}", text) and 1 <= int(text) <= most):
            raise _Wrong("number_wrong")
        values[field] = int(text) if text else None
    models = form.get("models", "").replace(" ", "")
    if models and not is_model_list(models):
        raise _Wrong("models_wrong")
    values["models"] = models or None
    return values


def _is_given(name: str) -> bool:
    """Whether a key of GATEWAY_API_KEYS has this name."""
    return name in [given.name for given in console().services.config.api_keys]


@blueprint.post("/keys")
def make() -> BaseResponse:
    """The answer to this request is the only page that ever shows the key."""
    now = store().database.now()
    try:
        values = _values(request.form, now)
    except _Wrong as e:
        return _page(say(e.key), 400)
    is_first = not console().services.config.api_keys and not store().keys.all()
    key, name = make_key(), values["name"]
    row = KeyRow(digest_of(key), created_at=now, revoked_at=None, **{"expires_at": None, **values})
    if _is_given(name) or not store().keys.add(row):
        return _page(say("key_name_taken", name=name), 400)
    return page("key_made.html", key=key, name=name, is_first=is_first, clients=clients(base_url(), key))


# One key, by its owner: the name under which everything of it is kept.


def _find(owner: str) -> KeyView:
    """Ends the request with a 404 if there is no such key."""
    for given in console().services.config.api_keys:
        if owner_of(digest_of(given.secret)) == owner:
            return KeyView(given.name or str(say("nameless_key")), None, owner)
    now = store().database.now()
    for row in store().keys.all():
        if owner_of(row.digest) == owner:
            return _view(row, now)
    abort(404)


@blueprint.get("/keys/<owner>")
def show_one(owner: str) -> BaseResponse:
    return _page_of(_find(owner))


def _page_of(view: KeyView, problem: str = "", status: int = 200) -> BaseResponse:
    usage = summed(last_days(view.owner))
    return page("key.html", status, key=view, problem=problem, form=request.form, usage=usage, count=count)


@blueprint.get("/keys/<owner>/export")
def export(owner: str) -> BaseResponse:
    """Sums by day, model and account, as CSV."""
    name, labels = _find(owner).name, labels_of_accounts()
    values = [
        {
            **asdict(row),
            "day": day_of(row.day),
            "owner": name,
            "account_id": labels.get(row.account_id, row.account_id),
        }
        for row in last_days(owner)
    ]
    response = Response(
        csv_of(values, [field.name for field in fields(UsageRow)]), content_type="text/csv; charset=utf-8"
    )
    response.headers["Content-Disposition"] = 'attachment; filename="usage.csv"'
    return response


@blueprint.post("/keys/<owner>/change")
def change(owner: str) -> BaseResponse:
    view = _find(owner)
    if view.row is None or view.row.revoked_at is not None:
        abort(404)
    try:
        values = _values(request.form, store().database.now())
        if request.form.get("never"):
            values["expires_at"] = None
        if _is_given(values["name"]):
            raise KeyNameTaken
        if store().keys.change(view.row.digest, **values) is None:
            abort(404)
    except _Wrong as e:
        return _page_of(view, say(e.key), 400)
    except KeyNameTaken:
        return _page_of(view, say("key_name_taken", name=values["name"]), 400)
    return go("keys.show")


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
    if not store().keys.revoke(name, store().database.now(), owner_of):
        abort(404)
    return go("keys.show")

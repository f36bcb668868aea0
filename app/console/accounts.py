"""The page Accounts: add by pasting, test, pause, rest, wake, renew, remove, as ``accounts.management`` does it."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress

from flask import Blueprint, Response, abort, render_template, request, stream_with_context
from markupsafe import Markup
from werkzeug.wrappers import Response as BaseResponse

from app.accounts.management import AccountChangeError, AccountManager, AccountStatus, Checked, UnknownAccount
from app.console.overview import newest_requests, results_by_account
from app.console.page import common_values, console, go, language, page, say, session, store
from app.console.show import count
from app.console.usage import last_days, summed
from app.console.words import SENTENCES
from app.errors import GatewayError
from app.settings.credentials import CredentialError
from app.upstreams.kimi.quota import kept_quota

blueprint = Blueprint("accounts", __name__)

# What is pasted is longer than a token, and shorter than a page.
_MAX_PASTED = 64 * 1024


def _manager() -> AccountManager:
    return console().services.account_manager


@blueprint.get("/accounts")
def show() -> BaseResponse:
    return _page()


def _page(problem: Markup | str = "", status: int = 200) -> BaseResponse:
    accounts = sorted(_manager().all(), key=lambda account: not account.standings[0].needs_owner)
    results = results_by_account(newest_requests())
    return page(
        "accounts.html",
        status,
        accounts=accounts,
        results={account.id: results.get(account.id, ()) for account in accounts},
        quotas={account.id: kept_quota(store(), account.id) for account in accounts},
        windows=_WINDOWS,
        rest_minutes=_REST_MINUTES[0],
        problem=problem,
    )


# How long an account may be given a rest. Minutes; the first one is offered beside each account.
_REST_MINUTES = (30, 120, 720, 1440)
# Periods of Kimi's limits, and their sentences.
_WINDOWS = {"5 hours": "window_5h", "7 days": "window_7d"}


@blueprint.post("/accounts/quota")
def ask_quotas() -> BaseResponse:
    """Asks Kimi what is left of the accounts that work, each at most every ten minutes."""
    for account in _manager().all():
        if account.standings[0].kind in _ASKED:
            # What Kimi does not say now stands on the page as not told.
            with suppress(GatewayError, AccountChangeError):
                _manager().quota(account.id)
    return go("accounts.show")


# Kinds of an account whose token works.
_ASKED = frozenset({"serving", "busy", "ending", "cooling"})


# Adding


@blueprint.get("/accounts/add")
def add() -> BaseResponse:
    return page("account_add.html", problem="")


@blueprint.post("/accounts/check")
def check() -> BaseResponse:
    """Says what was pasted. It waits, sealed, until it is saved; no page ever shows it."""
    text = request.form.get("pasted", "")
    if len(text) > _MAX_PASTED:
        return page("account_add.html", 400, problem=say("paste_too_long"))
    try:
        found = _manager().check(text)
    except CredentialError as e:
        return page("account_add.html", 400, problem=_paste_problem(e))
    console().entry.keep_draft(session(), text)
    return _checked(found)


def _checked(found: list[Checked], problem: Markup | str = "", status: int = 200) -> BaseResponse:
    return page(
        "account_checked.html",
        status,
        found=found,
        problem=problem,
        can_save=not store().database.is_server or store().vault.seals,
        label=request.form.get("label", found[0].label if len(found) == 1 else ""),
    )


@blueprint.post("/accounts/save")
def save() -> BaseResponse:
    text = console().entry.draft(session())
    if text is None:
        return page("account_add.html", 400, problem=say("paste_again"))
    try:
        _manager().add(text, label=request.form.get("label", "").strip())
    except CredentialError as e:
        return page("account_add.html", 400, problem=_paste_problem(e))
    except AccountChangeError as e:
        return _checked(_manager().check(text, ask=False), _change_problem(e), 400)
    console().entry.drop_draft(session())
    return go("accounts.show")


def _paste_problem(error: CredentialError) -> Markup | str:
    key = f"paste_{error.code}"
    return say(key) if key in SENTENCES else str(error)


def _change_problem(error: AccountChangeError) -> Markup | str:
    key = f"change_{error.code}"
    return say(key) if key in SENTENCES else str(error)


# One account


def _status(id_: str) -> AccountStatus:
    """Ends the request with a 404 if there is none."""
    try:
        return _manager().find(id_)
    except UnknownAccount:
        abort(404)


@blueprint.get("/accounts/<id_>")
def show_one(id_: str) -> BaseResponse:
    return _page_of(id_)


def _page_of(id_: str, problem: Markup | str = "", status: int = 200) -> BaseResponse:
    usage = summed(last_days(account_id=id_))
    return page(
        "account.html", status, account=_status(id_), rests=_REST_MINUTES, problem=problem, usage=usage, count=count
    )


def _change(id_: str, change: Callable[[AccountManager], object]) -> BaseResponse:
    try:
        change(_manager())
    except UnknownAccount:
        abort(404)
    except AccountChangeError as e:
        return _page_of(id_, _change_problem(e), 400)
    except GatewayError as e:
        return _page(e.message, e.status)
    return go("accounts.show")


@blueprint.post("/accounts/<id_>/pause")
def pause(id_: str) -> BaseResponse:
    return _change(id_, lambda manager: manager.pause(id_))


@blueprint.post("/accounts/<id_>/resume")
def resume(id_: str) -> BaseResponse:
    return _change(id_, lambda manager: manager.resume(id_))


@blueprint.post("/accounts/<id_>/wake")
def wake(id_: str) -> BaseResponse:
    return _change(id_, lambda manager: manager.wake(id_))


@blueprint.post("/accounts/<id_>/rest")
def rest(id_: str) -> BaseResponse:
    minutes = request.form.get("minutes", "")
    seconds = 60.0 * int(minutes) if re.fullmatch("[0-9]{1,6}", minutes) else 0.0
    return _change(id_, lambda manager: manager.rest(id_, seconds))


@blueprint.post("/accounts/<id_>/renew")
def renew(id_: str) -> BaseResponse:
    return _change(id_, lambda manager: manager.renew(id_))


@blueprint.post("/accounts/<id_>/change")
def change(id_: str) -> BaseResponse:
    label, proxy = request.form.get("label", "").strip(), request.form.get("proxy")
    # An empty field leaves the proxy as it is: its password is never shown, so it cannot be sent back.
    new_proxy = "" if request.form.get("no_proxy") else (proxy or "").strip() or None
    return _change(id_, lambda manager: manager.change(id_, label=label or None, proxy=new_proxy))


@blueprint.get("/accounts/<id_>/remove")
def ask_to_remove(id_: str) -> BaseResponse:
    account = _status(id_)
    return page(
        "confirm.html",
        title=say("remove_account", name=account.label),
        text=say("remove_account_means"),
        action="accounts.remove",
        arguments={"id_": id_},
        button=say("remove"),
        back="accounts.show",
    )


@blueprint.post("/accounts/<id_>/remove")
def remove(id_: str) -> BaseResponse:
    return _change(id_, lambda manager: manager.remove(id_))


@blueprint.post("/accounts/<id_>/test")
def test(id_: str) -> BaseResponse:
    """A page whose lines come as the account is tried."""
    account = _status(id_)
    return _tests(say("test_of", name=account.label), lambda: _tried(account))


@blueprint.post("/accounts/test")
def test_all() -> BaseResponse:
    """The same for all accounts but those that are paused, one after the other."""
    accounts = [account for account in _manager().all() if account.paused_at is None]

    def lines() -> Iterator[str]:
        for account in accounts:
            # One that was removed meanwhile ends nothing.
            with suppress(UnknownAccount):
                yield from _tried(account, account.label)

    return _tests(say("test_all"), lines)


def _tests(title: Markup, lines: Callable[[], Iterator[str]]) -> BaseResponse:
    head, foot = render_template("account_test.html", **common_values(), title=title).split("<!-- lines -->")
    return Response(stream_with_context(_joined(head, lines(), foot)), content_type="text/html; charset=utf-8")


def _joined(head: str, lines: Iterator[str], foot: str) -> Iterator[str]:
    yield head
    yield from lines
    yield foot


def _tried(account: AccountStatus, label: str = "") -> Iterator[str]:
    """``label``: of the account, where several are tried."""
    for step in _manager().test(account.id, language()):
        name = say(f"step_of_test_{step.name}")
        yield render_template(
            "doctor_line.html",
            mark=step.mark,
            mark_word=say(f"mark_{step.mark}"),
            check=f"{label}: {name}" if label else name,
            found=step.found,
            advice="",
        )

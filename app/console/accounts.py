"""The page Accounts: add by pasting, test, pause, wake, renew, remove. ``accounts.management`` does the work."""

from collections.abc import Callable, Iterator

from flask import Blueprint, Response, abort, render_template, request, stream_with_context
from markupsafe import Markup
from werkzeug.wrappers import Response as BaseResponse

from app.accounts.management import AccountChangeError, AccountManager, AccountStatus, Checked, UnknownAccount
from app.console.page import common_values, console, go, page, say, session, store
from app.console.words import SENTENCES
from app.errors import GatewayError
from app.settings.credentials import CredentialError

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
    return page("accounts.html", status, accounts=accounts, problem=problem)


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
    return page("account.html", account=_status(id_), problem="")


def _change(id_: str, change: Callable[[AccountManager], object]) -> BaseResponse:
    try:
        change(_manager())
    except UnknownAccount:
        abort(404)
    except AccountChangeError as e:
        return page("account.html", 400, account=_status(id_), problem=_change_problem(e))
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
    head, foot = render_template("account_test.html", **common_values(), account=account).split("<!-- lines -->")
    lines = stream_with_context(_tried(account))
    return Response(_joined(head, lines, foot), content_type="text/html; charset=utf-8")


def _joined(head: str, lines: Iterator[str], foot: str) -> Iterator[str]:
    yield head
    yield from lines
    yield foot


def _tried(account: AccountStatus) -> Iterator[str]:
    for step in _manager().test(account.id):
        yield render_template(
            "doctor_line.html",
            mark=step.mark,
            mark_word=say(f"mark_{step.mark}"),
            check=say(f"step_of_test_{step.name}"),
            found=step.found,
            advice="",
        )

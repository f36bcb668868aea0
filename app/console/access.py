"""The entry, and the page Access: the password and the sessions. Language and colours, too."""

from flask import Blueprint, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from app.console import passwords
from app.console.entry import LoginRefused, browser_name
from app.console.page import Console, console, go, page, say, session, store
from app.console.show import time_element

blueprint = Blueprint("access", __name__)

_YEAR_S = 365 * 86_400


@blueprint.get("/enter")
def enter() -> BaseResponse:
    return page("enter.html", has_password=passwords.has_password(store()), problem="")


@blueprint.post("/enter")
def enter_with_ticket() -> BaseResponse:
    """With the secret part of a link, or with the password."""
    entry = console().entry
    browser = browser_name(request.headers.get("User-Agent", ""))
    ticket, password = request.form.get("ticket", "").strip(), request.form.get("password", "")
    try:
        if password:
            cookie = entry.enter_with_password(password, _address(), browser)
        else:
            # A whole link may be pasted as well.
            cookie = entry.enter_with_ticket(ticket.rpartition("#")[2], browser)
    except LoginRefused as e:
        status, problem = 403, say("wrong_password" if password else "wrong_ticket")
        if e.retry_at is not None:
            status, problem = 429, say("too_many_passwords", at=time_element(e.retry_at))
        return page("enter.html", status, has_password=passwords.has_password(store()), problem=problem)
    response = go("overview.show")
    response.set_cookie(
        Console.cookie_name,
        cookie,
        max_age=30 * 86_400,
        path=request.root_path,
        secure=console().reach.is_secure,
        httponly=True,
        samesite="Strict",
    )
    return response


def _address() -> str:
    """Of the client, as far as it can be believed: a proxy of the owner adds it at the end."""
    forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return forwarded if forwarded and console().reach.is_behind_proxy else request.remote_addr or ""


@blueprint.post("/appearance")
def appearance() -> BaseResponse:
    """Chooses the language or the colours of this browser, and goes back to the page where that was done."""
    back = request.form.get("back", "")
    # Only to a page of the console: the address of another site would begin in another way.
    inside = back.startswith("/") and not back.startswith("//") and "\\" not in back
    response = redirect(request.root_path + (back if inside else "/"), 303)
    for field, allowed in (("language", ("en", "zh")), ("theme", ("light", "dark", "system"))):
        chosen = request.form.get(field)
        if chosen is not None and chosen in allowed:
            response.set_cookie(
                f"kimi_console_{field}",
                chosen,
                max_age=_YEAR_S,
                path=request.root_path,
                httponly=True,
                samesite="Lax",
            )
    return response


@blueprint.get("/access")
def show() -> BaseResponse:
    return _page()


def _page(problem: str = "", done: str = "", status: int = 200) -> BaseResponse:
    entry = console().entry
    return page(
        "access.html",
        status,
        has_password=passwords.has_password(store()),
        sessions=entry.sessions(),
        own=session().row.digest,
        failures=entry.failures(),
        problem=problem,
        done=done,
        min_length=passwords.MIN_LENGTH,
    )


@blueprint.post("/access/password")
def set_password() -> BaseResponse:
    password = request.form.get("password", "")
    if not passwords.MIN_LENGTH <= len(password) <= passwords.MAX_LENGTH:
        return _page(say("password_length", min=passwords.MIN_LENGTH), status=400)
    if password != request.form.get("again", ""):
        return _page(say("passwords_differ"), status=400)
    console().entry.change_password(password, session())
    return _page(done=say("password_set"))


@blueprint.post("/access/no-password")
def remove_password() -> BaseResponse:
    console().entry.change_password("", session())
    return _page(done=say("password_removed"))


@blueprint.post("/access/sign-out")
def sign_out() -> BaseResponse:
    console().entry.leave(session())
    response = go("access.enter")
    response.delete_cookie(Console.cookie_name, path=request.root_path)
    return response


@blueprint.post("/access/sign-out-others")
def sign_out_others() -> BaseResponse:
    return _page(done=say("others_signed_out", number=console().entry.end_others(session())))

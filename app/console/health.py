"""The page Health: readiness, the doctor, what Kimi sends that is not known, the database, the settings."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flask import Blueprint, Response, render_template, stream_with_context
from markupsafe import escape
from werkzeug.wrappers import Response as BaseResponse

from app import __version__
from app.concurrency.helper_process import python_command, python_environment
from app.console.page import code_marked, common_values, console, language, page, say, store
from app.console.show import bytes_of
from app.console.words import Language
from app.notifications.notifier import last_outcome
from app.settings.config import describe_settings

blueprint = Blueprint("health", __name__)

# The doctor asks Kimi one question per protocol, each for a minute at most. Seconds.
_DOCTOR_S = 300.0
_MARKS = ("ok", "warning", "problem", "skipped")


@dataclass(frozen=True, slots=True)
class SettingView:
    """``value``: as it is set, or the default; empty for a secret. ``is_set``: another one than the default."""

    name: str
    value: str
    is_set: bool
    is_secret: bool
    about: str


@blueprint.get("/health")
def show() -> BaseResponse:
    return _page()


@blueprint.post("/health/notify")
def send_test_message() -> BaseResponse:
    notifier = console().services.notifier
    if notifier is None:
        return _page(400)
    return _page(502 if notifier.send_test().code else 200)


def _page(status: int = 200) -> BaseResponse:
    services = console().services
    rows = store().unrecognised.all()
    return page(
        "health.html",
        status,
        notifies=services.notifier is not None,
        last_message=last_outcome(store()),
        readiness=services.gateway.readiness(1.0).in_language(language()),
        unknown=[row for row in rows if not row.refused_form],
        refused_forms=[row for row in rows if row.refused_form],
        database=_database(),
        settings=_settings(),
        version=__version__,
        keeps_transcripts=services.config.store_transcripts,
        seals=store().tokens.sealed,
        processes=services.gateway.live_processes(),
        log=store().ledger.size(),
        bytes_of=bytes_of,
        code_marked=lambda text: code_marked(escape(text)),
    )


def _database() -> dict[str, object]:
    url = console().services.config.database_url
    if not url.startswith("sqlite:///"):
        return {"kind": "PostgreSQL", "bytes": None}
    path = Path(url.removeprefix("sqlite:///").partition("?")[0])
    try:
        size = sum(file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists())
    except OSError:
        size = 0
    return {"kind": "SQLite", "bytes": size}


def _settings() -> list[SettingView]:
    views = []
    for setting in describe_settings():
        text = os.environ.get(setting.name, "").strip()
        is_set = bool(text) and text != (setting.default or "")
        shown = "" if setting.is_secret else text or (setting.default or "")
        about = setting.about_zh if language() == "zh" else setting.about
        views.append(SettingView(setting.name, shown, is_set, setting.is_secret, about))
    return views


@blueprint.post("/health/doctor")
def run_doctor() -> BaseResponse:
    """A page whose lines come as the doctor finds them."""
    head, foot = render_template("doctor.html", **common_values()).split("<!-- lines -->")
    lines = stream_with_context(_doctor_lines(language()))
    return Response(_joined(head, lines, foot), content_type="text/html; charset=utf-8")


def _joined(head: str, lines: Iterator[str], foot: str) -> Iterator[str]:
    yield head
    yield from lines
    yield foot


def _doctor_lines(language: Language) -> Iterator[str]:
    """The doctor runs in a process of its own: it opens the database and Kimi's site anew, as a start would."""
    process = subprocess.Popen(
        python_command("flask", "--app", "wsgi", "doctor", "--language", language),
        env=python_environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            mark, _, rest = line.strip().partition(" ")
            if mark in _MARKS:
                check, _, found = rest.strip().partition(" ")
                found, _, advice = found.strip().partition(" -> ")
                yield render_template(
                    "doctor_line.html",
                    mark=mark,
                    mark_word=say(f"mark_{mark}"),
                    check=say(f"check_{check}"),
                    found=code_marked(escape(found)),
                    advice=code_marked(escape(advice)),
                )
        process.wait(_DOCTOR_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()

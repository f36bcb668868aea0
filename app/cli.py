"""The commands of ``flask --app wsgi``.

    doctor      what the doctor finds, as lines or as JSON
    keys        API keys beside those of GATEWAY_API_KEYS: add, list, revoke
    parameters  what is done with each parameter of an endpoint, as a table in Markdown
    settings    all settings, as a page in Markdown
    version     the version of this gateway

Knows the command line and how findings look. Must never know how anything is checked. Every gateway loads this file,
so each command loads what it needs itself.
"""

import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from flask import Flask

from app import __version__, logs
from app.settings.config import Config, Language
from app.store import KeyRow, Store, StoreUnusable
from app.web.api_keys import digest_of, make_key, seconds_of

if TYPE_CHECKING:
    from app.doctor.findings import Finding
    from app.doctor.trial_turn import Generation
    from app.doctor.wire_transcript import Recorder
    from app.web.parameters import Parameters


def is_asked_for() -> bool:
    """Whether the ``flask`` command is about to run a command of this file."""
    return click.get_current_context(silent=True) is not None and not _NAMES.isdisjoint(sys.argv[1:])


def register(app: Flask) -> None:
    for command in _COMMANDS:
        app.cli.add_command(command)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document without anything private.")
@click.option("--refresh", is_flag=True, help="Renew the tokens also where that is not due.")
@click.option("--record", type=click.Path(dir_okay=False), help="Write down the wire of the tiny turns, masked.")
def doctor(as_json: bool, refresh: bool, record: str | None) -> None:
    """Finds out why the gateway does not work, and says what to do.

    Sends one tiny question per protocol with your account and deletes its chat. The exit code is 1 where there is
    a problem, else 0.
    """
    from app.doctor.checks import Doctor, Instruments
    from app.doctor.findings import Privacy
    from app.doctor.trial_turn import Generation
    from app.doctor.wire_transcript import Recorder
    from app.factory import build_router

    settings = Config.examine(os.environ)
    config = settings.config
    # What goes wrong is told by the findings; only faults of ours come from the log.
    logs.configure("ERROR", config.secrets)
    privacy = Privacy(config, anonymous=as_json)

    def upstreams(recorder: Recorder | None) -> "Sequence[Generation]":
        router = build_router(config, recorder.tap if recorder else None)
        return [Generation(upstream, router.home_models(upstream)) for upstream in router.upstreams.values()]

    recorder = Recorder() if record is not None else None
    findings = []
    for finding in Doctor(settings, privacy, Instruments(upstreams, refresh, recorder)).findings():
        findings.append(finding)
        if not as_json:
            _say(finding)
    if record is not None and recorder is not None:
        findings.append(privacy.clean(_write(recorder, Path(record), privacy.private)))
        if not as_json:
            _say(findings[-1])
    problems, warnings = (sum(f.mark == mark for f in findings) for mark in ("problem", "warning"))
    if as_json:
        _echo(json.dumps(_document(findings), ensure_ascii=False, indent=1))
    else:
        _echo(f"{problems} problem(s), {warnings} warning(s)")
    sys.exit(1 if problems else 0)


def _write(recorder: "Recorder", path: Path, private: Sequence[str]) -> "Finding":
    from app.doctor.findings import Finding
    from app.doctor.wire_transcript import LeakFound

    if not recorder.turns:
        return Finding("skipped", "record", "not written: no turn was tried")
    try:
        recorder.write(path, private)
    except LeakFound:
        return Finding(
            "problem", "record", "not written: something private would be in it", "please report this, without it"
        )
    except OSError as e:
        return Finding("problem", "record", f"not written ({e.strerror})", "give a file that can be written")
    return Finding("ok", "record", f"written to {path.name}: texts and ids are replaced, tokens are not in it")


def _say(finding: "Finding") -> None:
    advice = f" -> {finding.advice}" if finding.advice else ""
    _echo(f"{finding.mark:<8} {finding.check:<9} {finding.found}{advice}")


def _echo(line: str) -> None:
    # A terminal of another encoding shows a question mark instead of ending the doctor.
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(line.encode(encoding, "replace").decode(encoding))


def _document(findings: Sequence["Finding"]) -> dict[str, Any]:
    return {
        "doctor": 1,
        "python": platform.python_version(),
        "system": platform.system(),
        "ok": not any(f.mark == "problem" for f in findings),
        "findings": [{"mark": f.mark, "check": f.check, "found": f.found, "advice": f.advice} for f in findings],
    }


# The first of January of the year 10000, which datetime does not know.
_END_OF_CALENDAR = 253_402_300_800.0

# The last parts of the paths of the endpoints.
_ENDPOINTS = ("chat/completions", "completions", "responses", "messages")


@click.command()
@click.option("--language", type=click.Choice(["en", "zh"]), default="en")
@click.option("--of", type=click.Choice(_ENDPOINTS), default="chat/completions")
def parameters(language: "Language", of: str) -> None:
    """Prints what is done with each parameter of POST /v1/…, the endpoint being chat/completions or another one."""
    from app.api import chat_completions, completions, messages, responses
    from app.web.parameters import describe

    bodies: tuple[type[Parameters], ...] = (chat_completions.Body, completions.Body, responses.Body, messages.Body)
    _echo(describe(dict(zip(_ENDPOINTS, bodies, strict=True))[of], language))


@click.command()
@click.option("--language", type=click.Choice(["en", "zh"]), default="en")
def settings(language: "Language") -> None:
    """Prints all settings as a page in Markdown: docs/settings.md."""
    from app.settings.documentation import describe

    _echo(describe(language))


@click.command()
def version() -> None:
    """Prints the version of this gateway."""
    _echo(__version__)


@click.group()
def keys() -> None:
    """API keys beside those of GATEWAY_API_KEYS. They are kept in the database, as digests.

    A running gateway follows within seconds. Once a key was added, every request needs one.
    """


@keys.command()
@click.argument("name")
@click.option("--expires", metavar="PERIOD", help="After so long it is refused: 45m, 12h, 30d, 2w.")
@click.option("--per-minute", type=click.IntRange(1, 1_000_000), help="So many requests in any minute.")
@click.option("--at-once", type=click.IntRange(1, 1_000_000), help="So many requests at the same time.")
def add(name: str, expires: str | None, per_minute: int | None, at_once: int | None) -> None:
    """Makes a key called NAME and prints it, this once."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise click.BadParameter("a name is made of 1 to 64 of A-Z a-z 0-9 . _ -", param_hint="NAME")
    period_s = None if expires is None else seconds_of(expires)
    if expires is not None and not period_s:
        raise click.BadParameter("expected a period such as 45m, 12h, 30d or 2w", param_hint="--expires")
    config, store = _store()
    now = store.database.now()
    if period_s and now + period_s >= _END_OF_CALENDAR:
        raise click.BadParameter("too long: leave it out for a key that does not expire", param_hint="--expires")
    key = make_key()
    row = KeyRow(digest_of(key), name, now, now + period_s if period_s else None, None, per_minute, at_once)
    if name in [given.name for given in config.api_keys] or not store.keys.add(row):
        raise click.ClickException(f"there is a key called '{name}' already")
    click.echo(key)


@keys.command("list")
def list_keys() -> None:
    """Lists the keys by name: never what they are."""
    config, store = _store()
    now = store.database.now()
    rows = [(given.name or "(no name)", "in GATEWAY_API_KEYS", "") for given in config.api_keys]
    rows += [(row.name, _state(row, now), _limits(row)) for row in store.keys.all()]
    if not rows:
        _echo("no keys: programs on this machine need none, and others are refused")
        return
    name_width, state_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    for name, state, limits in rows:
        _echo(f"{name:<{name_width}}  {state:<{state_width}}  {limits}".rstrip())


@keys.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Refuses the key called NAME from now on."""
    config, store = _store()
    if name in [given.name for given in config.api_keys]:
        raise click.ClickException(f"'{name}' stands in GATEWAY_API_KEYS: take it out there and restart")
    if not store.keys.revoke(name, store.database.now()):
        raise click.ClickException(f"there is no key called '{name}'")


def _store() -> tuple[Config, Store]:
    """The settings as far as they concern keys, and the database."""
    settings = Config.examine(os.environ)
    for setting in ("DATABASE_URL", "GATEWAY_API_KEYS", "GATEWAY_SECRET"):
        if setting in settings.wrong:
            raise click.ClickException(settings.wrong[setting])
    try:
        return settings.config, Store(settings.config.database_url, settings.config.gateway_secret)
    except StoreUnusable as e:
        raise click.ClickException(str(e)) from None


def _state(row: KeyRow, now: float) -> str:
    if row.revoked_at is not None:
        return f"revoked {_day(row.revoked_at)}"
    if row.expires_at is None:
        return f"added {_day(row.created_at)}"
    return f"{'expired' if row.expires_at <= now else 'expires'} {_day(row.expires_at)}"


def _limits(row: KeyRow) -> str:
    limits = [(row.per_minute, "a minute"), (row.at_once, "at once")]
    return ", ".join(f"{number} {word}" for number, word in limits if number is not None)


def _day(at: float) -> str:
    # Older versions took any period.
    if at >= _END_OF_CALENDAR:
        return "after the year 9999"
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


_COMMANDS = (doctor, keys, parameters, settings, version)
_NAMES = frozenset(command.name or "" for command in _COMMANDS)

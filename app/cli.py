"""The commands of ``flask --app wsgi``.

    accounts    add, list, try, pause and remove Kimi accounts
    console-link      print a link into the console
    console-password  set a password for the console, or remove it
    doctor      find out why the gateway does not work, as lines or as JSON
    keys        add, list, change and revoke API keys in the database
    notify-test send a test message to NOTIFY_URL
    parameters  print what the parameters of an endpoint do, as a table in Markdown
    requests    show the request log, and follow it
    settings    print all settings, as a page in Markdown
    usage       show how much was used, by day, key, model and account
    version     print the version of this gateway

Each command imports what it needs itself. Does not know how anything is checked.
"""

import contextlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from flask import Flask

from app import __version__, logs
from app.settings.config import Config, Language
from app.store import KeyNameTaken, KeyRow, Store, StoreUnusable
from app.web.api_keys import digest_of, is_key_name, is_model_list, key_names, make_key, owner_of, seconds_of

if TYPE_CHECKING:
    from app.accounts.management import AccountManager, AccountStatus
    from app.doctor.findings import Finding, Line
    from app.doctor.trial_turn import Generation
    from app.doctor.wire_transcript import Recorder
    from app.store.ledger import RequestRow
    from app.web.parameters import Parameters


# Flask's own commands that use the gateway. The others, and --help, work without settings.
_USE_THE_GATEWAY = frozenset({"run", "routes", "shell"})


def uses_the_gateway() -> bool:
    """Whether the ``flask`` command runs with a command that uses the gateway."""
    return not _USE_THE_GATEWAY.isdisjoint(sys.argv[1:])


def register(app: Flask) -> None:
    for name, command in COMMANDS.items():
        app.cli.add_command(command, name)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document that contains nothing private.")
@click.option("--refresh", is_flag=True, help="Renew the tokens, also if they are still valid for long.")
@click.option("--tools", is_flag=True, help="Try how well Kimi calls functions: some 12 more turns per protocol.")
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", help="Of the lines; --json is English.")
@click.option(
    "--record",
    type=click.Path(dir_okay=False),
    help="Write what was sent and received in the test turns to a file, redacted.",
)
def doctor(as_json: bool, refresh: bool, record: str | None, tools: bool, language: "Language") -> None:
    """Find out why the gateway does not work, and what to do.

    Asks one short question per protocol with your account and deletes its chat. The exit code is 1 if there is a
    problem, else 0.
    """
    from app.doctor.checks import Doctor, DoctorOptions
    from app.doctor.findings import Privacy
    from app.doctor.trial_turn import Generation
    from app.doctor.wire_transcript import Recorder
    from app.doctor.wording import say, written
    from app.factory import build_router

    settings = Config.examine(os.environ)
    config = settings.config
    # The findings report what is wrong; only our own errors are logged.
    logs.configure("ERROR", config.secrets)
    privacy = Privacy(config, anonymous=as_json)
    language = "en" if as_json else language

    def upstreams(recorder: Recorder | None) -> "Sequence[Generation]":
        router = build_router(config, recorder.tap if recorder else None)
        return [Generation(upstream, router.home_models(upstream)) for upstream in router.upstreams.values()]

    recorder = Recorder() if record is not None else None
    options = DoctorOptions(upstreams, refresh, recorder, tools, language)
    findings = []
    for finding in Doctor(settings, privacy, options).findings():
        findings.append(finding)
        if not as_json:
            _say(finding)
    if record is not None and recorder is not None:
        findings.append(privacy.line(_write(recorder, Path(record), privacy.private), language))
        if not as_json:
            _say(findings[-1])
    problems, warnings = (sum(f.mark == mark for f in findings) for mark in ("problem", "warning"))
    if as_json:
        _echo(json.dumps(_document(findings), ensure_ascii=False, indent=1))
    else:
        _echo(written(say("in_all", problems=problems, warnings=warnings), language))
    sys.exit(1 if problems else 0)


def _write(recorder: "Recorder", path: Path, private: Sequence[str]) -> "Finding":
    from app.doctor.findings import Finding
    from app.doctor.wire_transcript import LeakFound
    from app.doctor.wording import say

    if not recorder.turns:
        return Finding("skipped", "record", say("record_no_turn"))
    try:
        recorder.write(path, private)
    except LeakFound:
        return Finding("problem", "record", say("record_leak"), say("report_without_record"))
    except OSError as e:
        return Finding("problem", "record", say("record_unwritable", error=e.strerror or ""), say("name_a_file"))
    return Finding("ok", "record", say("record_written", name=path.name))


def _say(finding: "Line") -> None:
    advice = f" -> {finding.advice}" if finding.advice else ""
    _echo(f"{finding.mark:<8} {finding.check:<9} {finding.found}{advice}")


def _echo(line: str) -> None:
    # A terminal with another encoding shows a question mark. Without this the command would end with an error.
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(line.encode(encoding, "replace").decode(encoding))


def _document(findings: Sequence["Line"]) -> dict[str, Any]:
    return {
        "doctor": 1,
        "python": platform.python_version(),
        "system": platform.system(),
        "ok": not any(f.mark == "problem" for f in findings),
        "findings": [{"mark": f.mark, "check": f.check, "found": f.found, "advice": f.advice} for f in findings],
    }


# January 1 of the year 10000, which datetime cannot represent.
_END_OF_CALENDAR = 253_402_300_800.0

# The paths of the endpoints, after /v1/.
_ENDPOINTS = ("chat/completions", "completions", "responses", "messages")


@click.command()
@click.option("--language", type=click.Choice(["en", "zh"]), default="en")
@click.option("--of", type=click.Choice(_ENDPOINTS), default="chat/completions")
def parameters(language: "Language", of: str) -> None:
    """Print what each parameter of POST /v1/chat/completions, or of another endpoint, does."""
    from app.api.chat_completions.body import Body as Chat
    from app.api.completions.body import Body as Completions
    from app.api.messages.body import Body as Messages
    from app.api.responses.body import Body as Responses
    from app.web.parameters import describe

    bodies: tuple[type[Parameters], ...] = (Chat, Completions, Responses, Messages)
    _echo(describe(dict(zip(_ENDPOINTS, bodies, strict=True))[of], language))


@click.command()
@click.option("--language", type=click.Choice(["en", "zh"]), default="en")
def settings(language: "Language") -> None:
    """Print all settings as a page in Markdown: docs/settings.md."""
    from app.settings.documentation import describe

    _echo(describe(language))


@click.command()
def version() -> None:
    """Print the version of this gateway."""
    _echo(__version__)


@click.group()
def keys() -> None:
    """Manage API keys in the database, in addition to those in GATEWAY_API_KEYS.

    The database contains only their digests. A running gateway applies changes within seconds. As soon as there is a
    key, every request needs one.
    """


@keys.command()
@click.argument("name")
@click.option("--expires", metavar="PERIOD", help="The key expires after this time: 45m, 12h, 30d, 2w.")
@click.option("--per-minute", type=click.IntRange(1, 1_000_000), help="Limit of requests in any minute.")
@click.option("--at-once", type=click.IntRange(1, 1_000_000), help="Limit of requests at the same time.")
@click.option("--models", metavar="LIST", help="The models that it may use: k2*,kimi-k2.6. * is any characters.")
@click.option("--tokens-per-day", type=click.IntRange(1, 10**12), help="Limit of tokens (estimated) a day, of UTC.")
def add(
    name: str,
    expires: str | None,
    per_minute: int | None,
    at_once: int | None,
    models: str | None,
    tokens_per_day: int | None,
) -> None:
    """Create a key called NAME and print it. It is not shown again."""
    if not is_key_name(name):
        raise click.BadParameter("expected 1 to 64 of the characters A-Z a-z 0-9 . _ -", param_hint="NAME")
    config, store = _store()
    expires_at = None if expires is None else _end_of(expires, store)
    if models is not None and not is_model_list(models):
        raise click.BadParameter("expected names such as k2*,kimi-k2.6, without spaces", param_hint="--models")
    key = make_key()
    row = KeyRow(
        digest_of(key),
        name,
        store.database.now(),
        expires_at,
        None,
        per_minute,
        at_once,
        models=models,
        tokens_per_day=tokens_per_day,
    )
    if name in [given.name for given in config.api_keys] or not store.keys.add(row):
        raise click.ClickException(f"there is a key called '{name}' already")
    click.echo(key)


class _OrNone(click.ParamType[Any]):
    """A value, or ``none``, which is given on as an empty text."""

    def __init__(self, kind: click.ParamType[Any]) -> None:
        self._kind = kind
        self.name = kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return "" if value in ("", "none") else self._kind.convert(value, param, ctx)


@keys.command("change")
@click.argument("name")
@click.option("--name", "new_name", help="What to call it from now on.")
@click.option("--expires", metavar="PERIOD", help="It expires after this time from now: 45m, 12h, 30d, 2w, or none.")
@click.option("--per-minute", type=_OrNone(click.IntRange(1, 1_000_000)), help="Limit of requests in any minute.")
@click.option("--at-once", type=_OrNone(click.IntRange(1, 1_000_000)), help="Limit of requests at the same time.")
@click.option("--models", metavar="LIST", help="The models that it may use: k2*,kimi-k2.6, or none for all.")
@click.option("--tokens-per-day", type=_OrNone(click.IntRange(1, 10**12)), help="Limit of tokens (estimated) a day.")
def change_key(
    name: str, new_name: str | None, expires: str | None, models: str | None, **limits: int | str | None
) -> None:
    """Change the key called NAME: what is not named stays as it is, and `none` takes a limit away.

    The key itself stays the same.
    """
    if new_name is not None and not is_key_name(new_name):
        raise click.BadParameter("expected 1 to 64 of the characters A-Z a-z 0-9 . _ -", param_hint="--name")
    config, store = _store()
    values: dict[str, Any] = {field: limit or None for field, limit in limits.items() if limit is not None}
    if expires is not None:
        values["expires_at"] = None if expires == "none" else _end_of(expires, store)
    if models is not None:
        if models != "none" and not is_model_list(models):
            raise click.BadParameter("expected names such as k2*,kimi-k2.6, without spaces", param_hint="--models")
        values["models"] = None if models == "none" else models
    in_settings = [given.name for given in config.api_keys]
    if name in in_settings:
        raise click.ClickException(f"'{name}' is in GATEWAY_API_KEYS: such a key has no limits; change it there")
    row = next((row for row in store.keys.all() if row.name == name and row.revoked_at is None), None)
    if new_name is not None:
        values["name"] = new_name
    try:
        if new_name in in_settings:
            raise KeyNameTaken
        if row is None or not store.keys.change(row.digest, **values):
            raise click.ClickException(f"there is no key called '{name}'")
    except KeyNameTaken:
        raise click.ClickException(f"there is a key called '{new_name}' already") from None
    changed = next(one for one in store.keys.all() if one.digest == row.digest)
    _echo(f"{changed.name}  {_state(changed, store.database.now())}  {_limits(changed)}".rstrip())


def _end_of(period: str, store: Store) -> float:
    """When a period from now ends, in Unix seconds."""
    period_s = seconds_of(period)
    if not period_s:
        raise click.BadParameter("expected a period such as 45m, 12h, 30d or 2w", param_hint="--expires")
    ends_at = store.database.now() + period_s
    if ends_at >= _END_OF_CALENDAR:
        raise click.BadParameter("too long: omit it for a key that does not expire", param_hint="--expires")
    return ends_at


@keys.command("list")
def list_keys() -> None:
    """List the names of the keys. The keys themselves are never shown."""
    config, store = _store()
    now = store.database.now()
    rows = [(given.name or "(no name)", "in GATEWAY_API_KEYS", "") for given in config.api_keys]
    rows += [(row.name, _state(row, now), _limits(row)) for row in store.keys.all()]
    if not rows:
        _echo("no keys: programs on this machine need none, and all others are refused")
        return
    name_width, state_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    for name, state, limits in rows:
        _echo(f"{name:<{name_width}}  {state:<{state_width}}  {limits}".rstrip())


@keys.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Refuse the key called NAME from now on."""
    config, store = _store()
    if name in [given.name for given in config.api_keys]:
        raise click.ClickException(f"'{name}' is in GATEWAY_API_KEYS: remove it there and restart")
    if not store.keys.revoke(name, store.database.now(), owner_of):
        raise click.ClickException(f"there is no key called '{name}'")
    _echo(f"revoked '{name}'")


@click.group()
def accounts() -> None:
    """Add, show, try and remove Kimi accounts.

    A running gateway applies changes within seconds. Accounts of KIMI_TOKENS can be paused here, but not removed.
    """


@accounts.command("list")
@click.option("--quick", is_flag=True, help="Do not ask Kimi.")
def list_accounts(quick: bool) -> None:
    """List the accounts: their site, their state, and what Kimi says of their credits.

    Kimi is asked every ten minutes at most.
    """
    from app.accounts.standings import sentence
    from app.errors import GatewayError

    manager = _account_manager()
    statuses = manager.all()
    if not statuses:
        _echo("no Kimi account yet: flask --app wsgi accounts add")
    for status in statuses:
        said = ""
        if not quick and status.standings[0].kind in ("serving", "ending"):
            try:
                said = str(manager.quota(status.id) or "")
            except GatewayError as e:
                said = f"Kimi does not say what is left ({e.message})"
            status = manager.find(status.id)
        parts = (status.site, status.level, said, " ".join(map(sentence, status.standings)))
        _echo(f"{status.label}: {'; '.join(filter(None, parts))}")


_PROXY_HELP = (
    "Proxy of this account, instead of KIMI_PROXY: http://user:password@host:port, socks5h://…, or `direct`."
)


@accounts.command("add")
@click.argument("text", required=False)
@click.option("--name", default="", help="What to call the account.")
@click.option("--proxy", help=_PROXY_HELP)
@click.option("--check", is_flag=True, help="Say what it is and add nothing.")
def add_account(text: str | None, name: str, proxy: str | None, check: bool) -> None:
    """Add a Kimi account, or give one a new token.

    TEXT is what you have copied: a refresh token (best), an access token, a cookie, the JSON of the site's local
    storage, or a request "copied as cURL". Without TEXT it is read from standard input, or asked for without being
    shown: then it is in no history of a shell.
    """
    from app.accounts.management import AccountChangeError
    from app.accounts.standings import sentence
    from app.accounts.wording import describe_checked
    from app.settings.credentials import CredentialError

    manager = _account_manager()
    text = text or _pasted()
    try:
        for checked in manager.check(text):
            _echo(f"{name or checked.label}: {describe_checked(checked)}")
        if not check:
            for status in manager.add(text, label=name, proxy=proxy):
                _echo(f"added '{status.label}': {sentence(status.standings[0])}")
    except CredentialError as e:
        raise click.ClickException(f"what was pasted {e}" if e.entry == 0 else str(e)) from None
    except AccountChangeError as e:
        raise click.ClickException(str(e)) from None


def _pasted() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.read()
    # A terminal passes on 4,096 characters of a line: a request copied as cURL has several lines, or more.
    _echo("Paste the token (it is not shown), then press Enter. Longer things: flask --app wsgi accounts add < FILE")
    return str(click.prompt("token", hide_input=True, prompt_suffix=": "))


@accounts.command("test")
@click.argument("name")
def test_account(name: str) -> None:
    """Try the account called NAME: token, models, credits, and one short answer whose chat is deleted.

    The exit code is 1 if something fails.
    """
    manager, failed = _account_manager(), False
    with _account_errors():
        for step in manager.test(name):
            took = "" if step.seconds is None else f" ({step.seconds:.1f} s)"
            _echo(f"{step.mark:<8} {step.name:<7} {step.found}{took}")
            failed = failed or step.mark == "problem"
    sys.exit(1 if failed else 0)


@accounts.command()
@click.argument("name")
def pause(name: str) -> None:
    """Give the account called NAME no more requests, until `resume`. Answers that run go on."""
    with _account_errors():
        _echo_state(_account_manager().pause(name))


@accounts.command()
@click.argument("name")
def resume(name: str) -> None:
    """Use the account called NAME again after `pause`."""
    with _account_errors():
        _echo_state(_account_manager().resume(name))


@accounts.command()
@click.argument("name")
@click.argument("period")
def rest(name: str, period: str) -> None:
    """Give the account called NAME no more requests for a PERIOD: 45m, 12h, 3d. `wake` ends it."""
    seconds = seconds_of(period)
    if not seconds:
        raise click.BadParameter("expected a period such as 45m, 12h or 3d", param_hint="PERIOD")
    with _account_errors():
        _echo_state(_account_manager().rest(name, seconds))


@accounts.command()
@click.argument("name")
def wake(name: str) -> None:
    """Use the account called NAME again at once, whatever has happened to it.

    That is for a token that Kimi has rejected, a refresh token that it has refused, and an account in a cooldown. A
    running gateway knows of it at once, of a refresh token within a minute.
    """
    with _account_errors():
        _echo_state(_account_manager().wake(name))


@accounts.command()
@click.argument("name")
@click.option("--name", "new_name", help="What to call it from now on.")
@click.option("--proxy", help=_PROXY_HELP + " `default`: that of the settings again.")
def change(name: str, new_name: str | None, proxy: str | None) -> None:
    """Change the account called NAME."""
    with _account_errors():
        _echo_state(_account_manager().change(name, label=new_name, proxy="" if proxy == "default" else proxy))


@accounts.command()
@click.argument("name")
def remove(name: str) -> None:
    """Delete the account called NAME and its tokens.

    Its conversations can continue only where their clients send the history.
    """
    with _account_errors():
        _echo(f"removed '{_account_manager().remove(name).label}'")


def _echo_state(status: "AccountStatus") -> None:
    from app.accounts.standings import sentence

    _echo(f"{status.label}: {sentence(status.standings[0])}")


@contextlib.contextmanager
def _account_errors() -> Iterator[None]:
    from app.accounts.management import AccountChangeError
    from app.errors import GatewayError

    try:
        yield
    except AccountChangeError as e:
        raise click.ClickException(str(e)) from None
    except GatewayError as e:
        raise click.ClickException(e.message) from None


def _account_manager() -> "AccountManager":
    from app.accounts.pool import Accounts
    from app.accounts.renewal import RenewalProcess
    from app.factory import build_account_manager, build_registry, build_router

    config, store = _store("KIMI_TOKENS", "KIMI_BASE_URL", "KIMI_AUTH_URL", "KIMI_PROTOCOL", "KIMI_PROXY")
    logs.configure("ERROR", config.secrets)
    registry = build_registry(config, store, settles=False)
    renewals = RenewalProcess(store)
    pool = Accounts(registry, store, renewals)
    return build_account_manager(config, store, registry, pool, renewals, build_router(config))


@click.command()
@click.option("--follow", is_flag=True, help="Go on, and print each request when it has ended.")
@click.option("--failed", is_flag=True, help="Only requests that have failed.")
@click.option("--key", metavar="NAME", help="Only requests of the API key called NAME.")
@click.option("--account", metavar="NAME", help="Only requests that the account called NAME has answered.")
@click.option("--model", metavar="ID", help="Only requests for this model.")
@click.option("--id", "request_id", metavar="ID", help="Only the request with this x-request-id.")
@click.option("--since", metavar="PERIOD", help="Only the last 45m, 12h, 3d.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, help="How many, the newest. Default: 50.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def requests(
    follow: bool,
    failed: bool,
    key: str | None,
    account: str | None,
    model: str | None,
    request_id: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show the requests that have ended, the newest last.

    They hold times, counts and codes, and nothing of what was said. Token counts are estimates.
    """
    from app.ledger import report
    from app.ledger.reading import new_ones, newest
    from app.store.ledger import Filter

    period_s = None if since is None else seconds_of(since)
    if since is not None and not period_s:
        raise click.BadParameter("expected a period such as 45m, 12h or 3d", param_hint="--since")
    config, store = _store()
    keys, names = key_names(config.api_keys, store.keys.all()), _account_names(config, store)
    wanted = Filter(
        _id_of(key, keys, "API key") if key is not None else None,
        _id_of(account, names, "account") if account is not None else None,
        model,
        "failed" if failed else None,
        request_id,
        store.database.now() - period_s if period_s else None,
    )

    def show(rows: "Sequence[RequestRow]") -> None:
        for row in rows:
            if as_json:
                _echo(json.dumps({**asdict(row), "flags": row.flag_names}))
            else:
                _echo(report.line_of(row, lambda id_: keys.get(id_, id_), lambda id_: names.get(id_, id_)))

    if not as_json:
        _echo(report.heading())
    rows = newest(store, wanted, limit)
    show(rows)
    if follow:
        for more in new_ones(store, wanted):
            show(more)


@click.command()
@click.option("--days", type=click.IntRange(1, 400), default=30, help="The last so many days, of UTC. Default: 30.")
@click.option(
    "--by",
    type=click.Choice(["day", "key", "model", "account"]),
    multiple=True,
    default=("key", "model"),
    help="What is summed up; may be given more than once. Default: by key and model.",
)
def usage(days: int, by: Sequence[str]) -> None:
    """Show how much was used: requests, failures, tokens (estimated), hours of answering."""
    from app.ledger.report import usage_table

    config, store = _store()
    keys, names = key_names(config.api_keys, store.keys.all()), _account_names(config, store)
    today = int(store.database.now() // 86_400)
    rows = store.ledger.usage(today - days + 1, today)
    if not rows:
        _echo("no requests yet")
        return
    for line in usage_table(rows, by, lambda id_: keys.get(id_, id_), lambda id_: names.get(id_, id_)):
        _echo(line)


def _account_names(config: Config, store: Store) -> dict[str, str]:
    from app.accounts.registry import Registry

    registry = Registry(config.credentials, config.site_of, store, settles=False)
    return {account.id: account.label for account in registry.accounts.values()}


def _id_of(name: str, names: Mapping[str, str], kind: str) -> str:
    found = next((id_ for id_, known in names.items() if name in (id_, known)), None)
    if found is None:
        raise click.ClickException(
            f"there is no {kind} called '{name}'; there are {', '.join(names.values()) or 'none'}"
        )
    return found


@click.command("console-link")
def console_link() -> None:
    """Print a link into the console. It works once, within ten minutes."""
    from app.console.entry import TICKET_S, Entry, link_of

    config, store = _store("CONSOLE", "CONSOLE_URL", "HOST", "PORT")
    if not config.console:
        raise click.ClickException("CONSOLE=0: the console is switched off")
    _echo(link_of(config, Entry(store).make_ticket()))
    click.echo(f"It works once, within {TICKET_S / 60:.0f} minutes.", err=True)


@click.command("console-password")
@click.option("--remove", is_flag=True, help="Remove the password: only links let you in.")
def console_password(remove: bool) -> None:
    """Set a password for the console, in addition to links, or remove it. Ends all sessions."""
    from app.console.entry import Entry
    from app.console.passwords import MAX_LENGTH, MIN_LENGTH

    _, store = _store()
    password = ""
    if not remove:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
            raise click.ClickException(f"a password has {MIN_LENGTH} characters or more")
    Entry(store).change_password(password, None)


@click.command("notify-test")
def notify_test() -> None:
    """Send a test message to NOTIFY_URL, and say whether it was taken."""
    from app.factory import build_notifier

    config, store = _store("NOTIFY_URL", "NOTIFY_FORM", "NOTIFY_LANGUAGE", "CONSOLE_URL")
    notifier = build_notifier(config, store)
    if notifier is None:
        raise click.ClickException("NOTIFY_URL is not set")
    outcome = notifier.send_test()
    if outcome.code:
        raise click.ClickException(f"not delivered: {outcome.reason('en')}")
    _echo("taken")


def _store(*more: str) -> tuple[Config, Store]:
    """The settings, of which those that keys need and ``more`` are right, and the database. Exits with the error if
    one of them cannot be used."""
    settings = Config.examine(os.environ)
    for setting in ("DATABASE_URL", "GATEWAY_API_KEYS", "GATEWAY_SECRET", *more):
        if setting in settings.wrong:
            raise click.ClickException(settings.wrong[setting])
    try:
        store = Store(settings.config.database_url, settings.config.gateway_secret)
    except StoreUnusable as e:
        raise click.ClickException(str(e)) from None
    click.get_current_context().call_on_close(store.close)
    return settings.config, store


def _state(row: KeyRow, now: float) -> str:
    if row.revoked_at is not None:
        return f"revoked {_day(row.revoked_at)}"
    if row.expires_at is None:
        return f"added {_day(row.created_at)}"
    return f"{'expired' if row.expires_at <= now else 'expires'} {_day(row.expires_at)}"


def _limits(row: KeyRow) -> str:
    limits = [(row.per_minute, "a minute"), (row.at_once, "at once"), (row.tokens_per_day, "tokens a day")]
    words = [f"{number} {word}" for number, word in limits if number is not None]
    return ", ".join([*words, *([f"models {row.models}"] if row.models else [])])


def _day(at: float) -> str:
    # Older versions accepted any period.
    if at >= _END_OF_CALENDAR:
        return "after the year 9999"
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


COMMANDS: dict[str, click.Command] = {
    "accounts": accounts,
    "console-link": console_link,
    "console-password": console_password,
    "doctor": doctor,
    "keys": keys,
    "notify-test": notify_test,
    "parameters": parameters,
    "requests": requests,
    "settings": settings,
    "usage": usage,
    "version": version,
}

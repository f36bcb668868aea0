"""The commands of ``flask --app wsgi``.

    doctor      what the doctor finds, as lines or as JSON
    parameters  what is done with each parameter of a chat, as a table

Knows the command line and how findings look. Must never know how anything is checked.
"""

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from flask import Flask

from app import logs
from app.api import chat_body, completions, messages, responses
from app.api.parameters import Language, Parameters, describe
from app.config import Config
from app.doctor.examination import Doctor, Instruments
from app.doctor.findings import Finding, Privacy
from app.doctor.transcript import LeakFound, Recorder
from app.doctor.turns import Generation
from app.factory import build_generations, build_http


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
    settings = Config.examine(os.environ)
    config = settings.config
    # What goes wrong is told by the findings; only faults of ours come from the log.
    logs.configure("ERROR", config.secrets)
    privacy = Privacy(config, anonymous=as_json)

    def upstreams(recorder: Recorder | None) -> Sequence[Generation]:
        return build_generations(config, build_http(config, recorder.tap if recorder else None))

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


def _write(recorder: Recorder, path: Path, private: Sequence[str]) -> Finding:
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


def _say(finding: Finding) -> None:
    advice = f" -> {finding.advice}" if finding.advice else ""
    _echo(f"{finding.mark:<8} {finding.check:<9} {finding.found}{advice}")


def _echo(line: str) -> None:
    # A terminal of another encoding shows a question mark instead of ending the doctor.
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(line.encode(encoding, "replace").decode(encoding))


def _document(findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "doctor": 1,
        "python": platform.python_version(),
        "system": platform.system(),
        "ok": not any(f.mark == "problem" for f in findings),
        "findings": [{"mark": f.mark, "check": f.check, "found": f.found, "advice": f.advice} for f in findings],
    }


# The last part of an endpoint's path → the body that is sent to it.
_BODIES: dict[str, type[Parameters]] = {
    "chat/completions": chat_body.Body,
    "completions": completions.Body,
    "responses": responses.Body,
    "messages": messages.Body,
}


@click.command()
@click.option("--language", type=click.Choice(["en", "zh"]), default="en")
@click.option("--of", type=click.Choice(list(_BODIES)), default="chat/completions")
def parameters(language: Language, of: str) -> None:
    """Prints what is done with each parameter of POST /v1/…, the endpoint being chat/completions or another one."""
    _echo(describe(_BODIES[of], language))


_COMMANDS = (doctor, parameters)
_NAMES = frozenset(command.name or "" for command in _COMMANDS)

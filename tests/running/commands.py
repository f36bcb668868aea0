"""The gateway's commands, run as a person would: gunicorn, ``flask keys``, ``flask doctor``."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from app import cli
from tests.running.databases import Database
from tests.running.leaks import secrets_in
from tests.running.processes import ROOT
from tests.running.simulator import mint


def start(folder: Path, *arguments: str, **settings: str) -> tuple[int, str]:
    """gunicorn with exactly these settings, started to see it fail; its exit code and what it printed."""
    env = {"PATH": os.environ["PATH"], "DATABASE_URL": f"sqlite:///{folder}/x.db", "PORT": "0", **settings}
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def first_lines_of_starts(environments: Sequence[dict[str, str]]) -> list[str | None]:
    """With what each start would end that has exactly these settings; None where it would go on. All in one process,
    which reads gunicorn.conf.py anew for each, as gunicorn does."""
    done = subprocess.run(
        [sys.executable, "-P", "tests/running/first_lines_of_starts.py"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        input=json.dumps(environments),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines: list[str | None] = json.loads(done.stdout)
    return lines


@dataclass
class Done:
    """How a command ended, and what it wrote."""

    code: int
    output: str
    errors: str


def run_flask(*arguments: str, **settings: str) -> Done:
    """``flask --app wsgi …`` with exactly these settings, by click's own runner: in this process."""
    # A name with None is none in the environment of the command.
    env: dict[str, str | None] = {name: None for name in os.environ if name not in ("PATH", "TMPDIR")}
    logging_before = _logging_state()
    try:
        result = CliRunner().invoke(cli.COMMANDS[arguments[0]], arguments[1:], env={**env, **settings})
    finally:
        _restore_logging(logging_before)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def run_flask_for_real(*arguments: str, **settings: str) -> Done:
    """The same as a process, as a person would start it."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _logging_state() -> tuple[list[logging.Handler], int, int]:
    root = logging.getLogger()
    return list(root.handlers), root.level, logging.getLogger("app").level


def _restore_logging(state: tuple[list[logging.Handler], int, int]) -> None:
    """A command that is a process sets up its logging, and takes it with it at its end."""
    root = logging.getLogger()
    root.handlers[:] = state[0]
    root.setLevel(state[1])
    logging.getLogger("app").setLevel(state[2])


def run_keys(database: Database, *arguments: str, **settings: str) -> tuple[int, str]:
    """``flask keys`` on the database of a gateway: its exit code and what it printed, its complaints too."""
    return run_command(database, "keys", *arguments, **settings)


def run_command(database: Database, *arguments: str, **settings: str) -> tuple[int, str]:
    """As ``run_keys``, for any command."""
    done = run_flask(*arguments, **{"DATABASE_URL": database.url, **settings})
    return done.code, (done.output + done.errors).strip()


SECRET = "a long enough password"


class Visit(Done):
    """What the doctor said and how it ended."""

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    def of(self, check: str, mark: str = "") -> str:
        """The lines of one check, with that mark; at least one."""
        found = [line for line in self.lines if line[9:].startswith(f"{check} ") and line.startswith(mark)]
        assert found, f"no {mark} {check} in:\n{self.output}\n{self.errors}"
        return "\n".join(found)

    @property
    def problems(self) -> list[str]:
        return [line[9:].split()[0] for line in self.lines if line.startswith("problem ")]


@dataclass
class Surgery:
    """Where the doctor is run: a simulator, and settings that are right unless a test says otherwise."""

    url: str
    folder: Path

    def visit(self, *arguments: str, for_real: bool = False, **settings: str) -> Visit:
        """``flask doctor``, in this process or, ``for_real``, in one of its own."""
        env = {
            "HOME": str(self.folder),
            "KIMI_TOKENS": f"home={mint('alice')}",
            "KIMI_BASE_URL": self.url,
            "KIMI_AUTH_URL": self.url,
            # One generation, so that its failure is not made good by the other; tests of both say so.
            "KIMI_PROTOCOL": "sse",
            "DATABASE_URL": f"sqlite:///{self.folder}/doctor.db",
            **settings,
        }
        run = run_flask_for_real if for_real else run_flask
        done = run("doctor", *arguments, **{name: value for name, value in env.items() if value})
        visit = Visit(done.code, done.output, done.errors)
        everything = (done.output + done.errors).encode()
        assert "Traceback" not in done.errors, done.errors
        assert not secrets_in(everything, [SECRET, *re.findall(r"[\w.-]{30,}", settings.get("KIMI_TOKENS", ""))])
        assert done.code == (1 if visit.problems or '"ok": false' in done.output else 0), visit
        return visit

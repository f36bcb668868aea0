"""The gateway's commands, run as a person would: gunicorn, ``flask keys``, ``flask doctor``."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

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
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def run_keys(database: Database, *arguments: str, **settings: str) -> tuple[int, str]:
    """``flask keys`` on the database of a gateway: its exit code and what it printed, its complaints too."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "keys", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": database.url, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


SECRET = "a long enough password"


@dataclass
class Visit:
    """What the doctor said and how it ended."""

    code: int
    output: str
    errors: str

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

    def visit(self, *arguments: str, **settings: str) -> Visit:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "KIMI_TOKENS": f"home={mint('alice')}",
            "KIMI_BASE_URL": self.url,
            "KIMI_AUTH_URL": self.url,
            # One generation, so that its failure is not made good by the other; tests of both say so.
            "KIMI_PROTOCOL": "sse",
            "DATABASE_URL": f"sqlite:///{self.folder}/doctor.db",
            **settings,
        }
        env = {name: value for name, value in env.items() if value}
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", "doctor", *arguments],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        visit = Visit(done.returncode, done.stdout, done.stderr)
        everything = (done.stdout + done.stderr).encode()
        assert "Traceback" not in done.stderr, done.stderr
        assert not secrets_in(everything, [SECRET, *re.findall(r"[\w.-]{30,}", settings.get("KIMI_TOKENS", ""))])
        assert done.returncode == (1 if visit.problems or '"ok": false' in done.stdout else 0), visit
        return visit

"""An environment of its own for each client, under a folder that git ignores.

Knows pip, npm and which Node a client needs; never what a client is asked. What is installed stands beside the
client's exercise: requirements.txt with constraints.txt (all of it, exactly), or package.json with its lock (without
the address of any registry). n8n has no lock, because it would name 2,000 packages in half a megabyte. An environment
is made once, and again when one of these files changes.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.running import ROOT

EXERCISES = Path(__file__).parent / "exercises"
SAMPLES = EXERCISES / "samples"
FOLDER = ROOT / ".clients"

# The clients in JavaScript of today do not start with less.
_NODE = 22
_DESCRIPTIONS = ("requirements.txt", "constraints.txt", "package.json", "package-lock.json", ".npmrc")


class NotInstalled(Exception):
    """What pip or npm said at last."""


@dataclass(frozen=True)
class Environment:
    """Where a client lives, with what its exercise is run, and how long it took to make, whenever that was."""

    folder: Path
    command: tuple[str, ...]
    path: str
    install_s: float

    @property
    def home(self) -> Path:
        return self.folder / "home"


def prepare(name: str, timeout_s: float) -> Environment:
    """Installs the client unless it is there. Raises NotInstalled."""
    description, folder = EXERCISES / name, FOLDER / name
    if not _is_made(description, folder):
        started = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if (description / "requirements.txt").exists():
            _pip(description, folder, timeout_s)
        if (description / "package.json").exists():
            _npm(description, folder, timeout_s)
        (folder / "made").write_text(f"{_digest(description)} {time.monotonic() - started:.1f}")
    _link_modules(description, folder)
    install_s = float((folder / "made").read_text().split()[1])
    return Environment(folder, _command(description, folder), _path(folder), install_s)


def needs_node(name: str) -> bool:
    return (EXERCISES / name / "package.json").exists()


def prepare_node(timeout_s: float) -> None:
    """The machine's own Node if it is new enough, else one from npm, for all clients that need it."""
    if not _is_new_enough():
        prepare("node", timeout_s)


def _is_new_enough() -> bool:
    try:
        said = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return int(said.strip().removeprefix("v").partition(".")[0]) >= _NODE


def _pip(description: Path, folder: Path, timeout_s: float) -> None:
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], folder, timeout_s)
    constraints = description / "constraints.txt"
    # Compiling all that is never imported would take longer than the download.
    arguments = ["install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    arguments += ["-r", str(description / "requirements.txt")]
    arguments += ["-c", str(constraints)] if constraints.exists() else []
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv" / "bin" / "python")]
    _run([*pip, *arguments], folder, timeout_s)


def _npm(description: Path, folder: Path, timeout_s: float) -> None:
    for file in ("package.json", "package-lock.json", ".npmrc"):
        if (description / file).exists():
            shutil.copy(description / file, folder / file)
    _link_modules(description, folder)
    command = "ci" if (folder / "package-lock.json").exists() else "install"
    _run(["npm", command, "--ignore-scripts", "--no-audit", "--no-fund"], folder, timeout_s)
    # What a package would do by an install script of its own, named where it is needed.
    _run(["npm", "run", "--if-present", "finish"], folder, timeout_s)


def _link_modules(description: Path, folder: Path) -> None:
    """Beside node_modules, because that is where Node looks for it from a module."""
    for module in [*description.glob("*.mjs"), *EXERCISES.glob("*.mjs")]:
        (folder / module.name).unlink(missing_ok=True)
        (folder / module.name).symlink_to(module)


def _run(command: Sequence[str], folder: Path, timeout_s: float) -> None:
    log = folder / "install.log"
    try:
        with log.open("ab") as out:
            subprocess.run(command, cwd=folder, stdout=out, stderr=out, timeout=timeout_s, check=True, env=_environ())
    except (OSError, subprocess.SubprocessError) as failure:
        raise NotInstalled(f"{failure}\n{log.read_text()[-2000:]}") from failure


def _environ() -> dict[str, str]:
    return {**os.environ, "PATH": _path(FOLDER / "node")}


def _path(folder: Path) -> str:
    own = [folder / "venv" / "bin", folder / "node_modules" / ".bin", FOLDER / "node" / "node_modules" / ".bin"]
    return os.pathsep.join([*(str(path) for path in own if path.exists()), os.environ["PATH"]])


def _command(description: Path, folder: Path) -> tuple[str, ...]:
    """Exercises of libraries run within them; those of programs, which are started, on the Python of the runner."""
    if (description / "exercise.mjs").exists():
        return ("node", "--preserve-symlinks", "--preserve-symlinks-main", str(folder / "exercise.mjs"))
    python = folder / "venv" / "bin" / "python"
    return (str(python) if python.exists() else sys.executable, str(description / "exercise.py"))


def _is_made(description: Path, folder: Path) -> bool:
    made = folder / "made"
    return made.exists() and made.read_text().partition(" ")[0] == _digest(description)


def _digest(description: Path) -> str:
    digest = hashlib.sha256(f"{sys.version}\n".encode())
    for file in [description / name for name in _DESCRIPTIONS]:
        digest.update(file.name.encode() + (file.read_bytes() if file.exists() else b""))
    return digest.hexdigest()

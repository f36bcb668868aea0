"""aider on the command line: it edits a file of a repository as Kimi says."""

import importlib.metadata
import subprocess
from pathlib import Path

from told import BASE, KEY, MODEL, knobs, proved, turns, version

version(importlib.metadata.version("aider-chat"))
repository = Path.home() / "repository"
repository.mkdir()
(repository / "tea.py").write_text("LEAVES = 1\n")
for words in (
    ["init", "-q"],
    ["config", "user.name", "tea"],
    ["config", "user.email", "tea@example.com"],
    ["add", "."],
):
    subprocess.run(["git", *words], cwd=repository, check=True)
subprocess.run(["git", "commit", "-qm", "tea"], cwd=repository, check=True)


def run(*arguments: str) -> str:
    switches = [
        "--model", f"openai/{MODEL}", "--openai-api-base", BASE, "--openai-api-key", KEY,
        "--edit-format", "whole", "--map-tokens", "0",
        "--no-show-model-warnings", "--no-check-update", "--analytics-disable", "--no-show-release-notes",
        "--no-gitignore", "--no-auto-commits", "--no-pretty", "--yes-always",
    ]  # fmt: skip
    done = subprocess.run(
        ["aider", *switches, *arguments],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=150,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return done.stdout + done.stderr


said = "Gladly.\n\ntea.py\n```\nLEAVES = 3\n```\n"
knobs(say=said)
output = run("--message", "three leaves, please", "tea.py")
assert (repository / "tea.py").read_text() == "LEAVES = 3\n", output
assert "Gladly." in output
proved("text")
proved("also", "edits a file")

knobs(say="", fail="too_long")
before = turns()
output = run("--message", "and now?", "tea.py")
assert "too long" in output or "context" in output.lower(), output
assert turns() == before + 1, turns() - before
proved("error")

"""opencode on the command line: by the settings that docs/clients.md shows."""

import json
import os
import subprocess
from pathlib import Path

from told import BASE, KEY, MODEL, TEXT, calls, knobs, proved, steps, version

settings = Path.home() / ".config" / "opencode"
settings.mkdir(parents=True)
provider = {
    "npm": "@ai-sdk/openai-compatible",
    "name": "Kimi",
    "options": {"baseURL": BASE, "apiKey": KEY},
    "models": {MODEL: {"name": MODEL}},
}
(settings / "opencode.json").write_text(
    json.dumps(
        {
            "provider": {"kimi": provider},
            "model": f"kimi/{MODEL}",
            "small_model": f"kimi/{MODEL}",
            "autoupdate": False,
            "share": "disabled",
        }
    )
)
work = Path.home() / "work"
work.mkdir()
tea = work / "tea.py"
tea.write_text("LEAVES = 1\n")


def run(*arguments: str) -> list[dict]:
    """The parts of its answer."""
    done = subprocess.run(
        ["opencode", "run", "--format", "json", *arguments],
        env=os.environ,
        cwd=work,
        capture_output=True,
        text=True,
        timeout=150,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done
    return [json.loads(line)["part"] for line in done.stdout.splitlines() if line.startswith("{")]


def texts(parts: list[dict]) -> list[str]:
    return [part["text"] for part in parts if part["type"] == "text"]


def results(parts: list[dict]) -> list[str]:
    assert all(part["state"]["status"] == "completed" for part in parts if part["type"] == "tool"), parts
    return [part["tool"] for part in parts if part["type"] == "tool"]


asked = subprocess.run(
    ["opencode", "--version"], env=os.environ, capture_output=True, text=True, timeout=60, check=True
)
version(asked.stdout.strip())
# It puts what it is given in quotes, and so the wishes that a question could hold.
knobs(say=TEXT)
assert texts(run("Hello")) == [TEXT]
proved("text")

look = {"call": "bash", "args": {"command": "cat tea.py", "description": "look"}}
read = {"call": "read", "args": {"filePath": str(tea)}}
edit = {"call": "edit", "args": {"filePath": str(tea), "oldString": "LEAVES = 1", "newString": "LEAVES = 3"}}
steps(read, edit, [look, read], "Done.")
parts = run("Set LEAVES to 3.")
assert (
    tea.read_text() == "LEAVES = 3\n"
    and results(parts)[:2] == ["read", "edit"]
    and sorted(results(parts)[2:]) == ["bash", "read"]
), parts
assert texts(parts)[-1] == "Done.", parts
# The conversation goes on, and the first call cannot be used.
calls("broken", "bash", {"command": "cat tea.py", "description": "look"})
parts = run("--continue", "What is in it?")
assert results(parts) == ["bash"] and texts(parts)[-1] == "It returned: LEAVES = 3", parts
proved("tools")
proved("also", "reads, edits and checks a file")
